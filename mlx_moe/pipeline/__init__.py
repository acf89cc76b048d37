"""Hidden states: frames, links, and the stages that run a shard's layers."""
