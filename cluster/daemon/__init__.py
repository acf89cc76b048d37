"""The node daemon: one process on each node, from `up` to `down`. It imports no MLX: workers compute."""
