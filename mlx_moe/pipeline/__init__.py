"""Pipeline: frames of hidden states, links, and the stages that run a shard's layers."""
