"""Weights: bytes of weight files that travel between nodes."""
