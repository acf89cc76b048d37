"""The console's entry point; `python -m cli` is `moe-cluster`."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

INTERRUPTED = 130
"""Equal to ExitCode.INTERRUPTED, which is not imported yet."""


def main() -> None:
    """Run the command line. Ctrl-C prints one line, also during the imports."""
    _fill_closed_streams()
    try:
        from cli.app import main as run

        run()
    except (KeyboardInterrupt, SystemExit) as end:
        if _comes_of_ctrl_c(end):
            print("interrupted", file=sys.stderr)
        elif end.args != (INTERRUPTED,):
            raise
        _leave()


def _fill_closed_streams() -> None:
    """Open the null device for closed standard streams: else the next opened file would take their place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  (it stays open)


def _comes_of_ctrl_c(end: BaseException | None) -> bool:
    seen = set[int]()
    while end is not None and not isinstance(end, KeyboardInterrupt) and id(end) not in seen:
        seen.add(id(end))
        end = end.__cause__ or end.__context__
    return isinstance(end, KeyboardInterrupt)


def _leave() -> None:
    """Exit with the code directly: after Ctrl-C during an import CPython may end by the signal instead."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
