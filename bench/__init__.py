"""Benchmarks: programs that measure and print, never part of the tests. They need the extra `dev`."""

import sys
from importlib.util import find_spec

if missing := [name for name in ("mlx_lm", "safetensors", "matplotlib") if find_spec(name) is None]:
    raise SystemExit(f"bench needs {', '.join(missing)}, of the extra dev: {sys.executable} -m pip install -e '.[dev]'")
