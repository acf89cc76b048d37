"""Decoding: requests, sequences, sampling, drafts, and the coordinator that drives the stages."""
