"""Checkpoints: model files, their headers and identity, parameters as byte ranges, and loading."""
