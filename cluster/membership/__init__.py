"""Membership: which nodes are in the cluster: discovery, greetings, addresses, and the hardware of each."""
