"""Faults put into running clusters, and what becomes of them: see README.md, which `python -m tests.faults` writes."""
