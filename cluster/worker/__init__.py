"""Worker: the process on a node that holds a shard of one model. One thread does all of it, see DESIGN.md."""
