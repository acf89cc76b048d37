"""The blocks that decoder layers are made of. Shapes leave out the batch axis: a frame is one request's positions."""
