"""Layers: the blocks of decoder layers. Arrays have no batch axis: a frame holds the positions of one request."""
