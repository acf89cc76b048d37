"""Worker: the process on a node that holds a shard of one model. One thread computes, see DESIGN.md."""
