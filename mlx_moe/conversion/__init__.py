"""Conversion: writes a checkpoint quantized, in mlx-community's layout, one layer in memory at a time."""
