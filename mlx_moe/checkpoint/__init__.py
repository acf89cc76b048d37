"""Checkpoints: files, headers and identity, parameters as byte ranges, and loading them."""
