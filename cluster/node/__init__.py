"""This machine as a node: its options, its life, who may join it, and leaving. What the command line runs."""
