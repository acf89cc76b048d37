"""The gateway's process: python -m cluster.gateway, started by a node's daemon with its options as JSON."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path

from cluster import log_files
from cluster.client.gateway_options import GatewayOptions
from cluster.gateway.server import serve
from cluster.home import Home


def main(home: str, options: str) -> None:
    """Serve until standard input closes, which it does with the daemon, or until SIGTERM."""
    log_file = log_files.LogFile(Home(Path(home)).logs / log_files.GATEWAY, takes_stderr=True)
    logging.basicConfig(level=logging.INFO, handlers=[log_file])
    asyncio.run(serve(Home(Path(home)), GatewayOptions(**json.loads(options))))


if __name__ == "__main__":
    main(*sys.argv[1:])
