"""Node: what the command line runs to make this machine a node: options, running, join tokens, leaving."""
