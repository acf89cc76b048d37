"""Daemon: the process that runs on each node from `up` to `down`. It does not import MLX: workers compute."""
