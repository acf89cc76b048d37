"""key: creates, lists and revokes API keys. Works on a file of this home; no node needs to run."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

from cli.failures import print_line
from cli.tables import HeadedTable, table_console
from cli.units import duration_text
from cluster.gateway.keys import Keys
from cluster.home import Home


def create(name: str) -> None:
    """Print a new key on stdout, and what it is for on stderr."""
    home = Home.default()
    home.create()
    print(Keys(home.api_keys).create(name), flush=True)
    print_line(f"this is the only time that the key is shown; moe-cluster key revoke {name} ends it")


def show(as_json: bool) -> None:
    """Print the names of the keys; the keys themselves are not stored."""
    keys = Keys(Home.default().api_keys).all()
    if as_json:
        print(json.dumps([{k: v for k, v in asdict(key).items() if k != "digest"} for key in keys]))
        return
    table = HeadedTable("name", "made", texts=("name",))
    for key in keys:
        table.add_row(key.name, f"{duration_text(max(0.0, time.time() - key.created_at))} ago")
    table_console().print(table)


def revoke(name: str) -> None:
    """Revoke a key."""
    Keys(Home.default().api_keys).revoke(name)
    print(f"the API key {name} is revoked")
