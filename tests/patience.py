"""Patience: how long tests wait for what is to come. It only catches hangs: no result may depend on it.

Enough for a machine that is ten times slower than a new one and busy besides; pytest's own timeout of a test, in
pyproject.toml, is the only longer one.
"""

import time
from collections.abc import Callable

PATIENCE_S = 120.0


def until(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"not so after {PATIENCE_S:g} s"
        time.sleep(0.02)
