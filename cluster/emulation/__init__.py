"""Emulation: a cluster of machines that are not there. Real workers, links, frames, scheduler and speculation, around
shards that wait as long as the speed model says a Mac would compute. Its figures are always called emulated.
"""
