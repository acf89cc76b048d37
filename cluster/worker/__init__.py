"""Worker: the process on a node that holds a shard of one model. One thread does all its work, see DESIGN.md."""
