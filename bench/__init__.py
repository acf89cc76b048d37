"""Benchmarks: programs that measure and print, see README.md. They need the extra `dev`; no test runs them."""

import sys
from importlib.util import find_spec

if missing := [name for name in ("mlx_lm", "safetensors", "matplotlib") if find_spec(name) is None]:
    raise SystemExit(f"bench needs {', '.join(missing)}, of the extra dev: {sys.executable} -m pip install -e '.[dev]'")
