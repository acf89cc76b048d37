"""python -m tests.faults [PYTEST OPTIONS]: put in all faults, and write tests/faults/README.md."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    directory = Path(__file__).parent
    modules = [str(directory / name) for name in ("test_suite.py", "test_short_of_memory.py", "test_soak.py")]
    sys.exit(pytest.main([*modules, "--all-faults", "--write-faults", "-q", "--durations=0", *sys.argv[1:]]))
