"""A node for tests, as a process: python -m tests.cluster.node HOME NAME HOST, and the options below.

Prints "up", then what happens to other nodes, a line each.
"""

import argparse
import asyncio
from datetime import timedelta
from pathlib import Path

from cluster.daemon import admission
from cluster.daemon.daemon import Daemon, Settings
from cluster.daemon.quiet import QuietRule
from cluster.errors import ClusterError
from cluster.home import Home
from cluster.trust import authority
from tests.faults import way_out
from tests.patience import PATIENCE_S

admission.LOOK_S = PATIENCE_S  # ends with the first that is looked for


async def run(arguments: argparse.Namespace) -> None:
    home, peers = Home(Path(arguments.home)), tuple(arguments.peer)
    admitted = await admission.admit(home, arguments.join, peers, insecure=False, new=arguments.new)
    rule = QuietRule(*[arguments.quiet] * 3) if arguments.quiet else None
    settings = Settings(name=arguments.name, host=arguments.host, port=0, peers=peers, rebalance=rule)
    await Daemon(
        home,
        settings,
        admitted,
        on_up=lambda _: print("up", flush=True),
        on_change=lambda change: print(change.happening, change.name, change.reason, flush=True),
    ).run()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("home", "name", "host"):
        parser.add_argument(name)
    parser.add_argument("--join")
    parser.add_argument("--peer", action="append", default=[])
    parser.add_argument("--new", action="store_true")
    parser.add_argument("--lifetime", type=float)
    parser.add_argument("--quiet", type=float, default=0.0, help="seconds of its rule of quiet moments; 0: no rule")
    way_out.use()
    arguments = parser.parse_args()
    if arguments.lifetime is not None:
        authority.LIFETIME = timedelta(seconds=arguments.lifetime)
    try:
        asyncio.run(run(arguments))
    except ClusterError as error:
        raise SystemExit(str(error)) from error
