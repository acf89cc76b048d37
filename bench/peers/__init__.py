"""The same measurement with other runtimes, for ratios in one run."""
