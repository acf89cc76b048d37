"""The same measurements with other runtimes, for ratios within one run."""
