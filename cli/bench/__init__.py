"""Bench: what this machine, the cluster and emulated Macs do."""
