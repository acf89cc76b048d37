"""Emulation: a cluster of emulated machines. Workers, links, frames, scheduler and speculation are real; shards only
wait for the time that the speed model predicts for a Mac. Its figures are always labelled emulated.
"""
