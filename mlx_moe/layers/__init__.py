"""Layers: the blocks of decoder layers. Arrays have no batch axis: a frame holds positions of one sequence."""
