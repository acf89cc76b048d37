"""Report: one archive of texts that say how a node is, without what identifies a person, a machine or a secret.

What goes in is named here, file by file: whatever else lies in a home, such as chats, keys and tokens, stays there.
"""

from __future__ import annotations

import getpass
import io
import json
import os
import re
import socket
import tarfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cluster import log_files
from cluster.errors import ClusterError
from cluster.home import VARIABLE, Home
from cluster.membership.node_info import is_node_id
from cluster.redaction import Redaction
from mlx_moe.errors import InvalidRequestError

_NODE = re.compile(r"\bnode=(.{1,63}?)(?= \w+=|$)", re.MULTILINE)
"""A node in a line of a log, by its name or id."""

TAIL_BYTES = 64 << 10
"""Of the files with errors of starts."""


def redaction(home: Home, names: Iterable[str]) -> Redaction:
    """Return what hides this machine and nodes with these names."""
    host = socket.gethostname()
    hosts = {host, host.partition(".")[0], *names} - {"localhost", ""}
    hosts |= {json.dumps(name)[1:-1] for name in hosts}  # as JSON in a log has it
    paths = {str(home.path): f"${VARIABLE}", str(home.path.resolve()): f"${VARIABLE}", str(Path.home()): "~"}
    return Redaction(paths, _user(), hosts, addresses=True)


def names_in(texts: Iterable[object]) -> set[str]:
    """Return the names of nodes in logs, such as of those that are long gone."""
    found = {name for text in texts if isinstance(text, str) for name in _NODE.findall(text)}
    return {name for name in found if not is_node_id(name)}


def own_texts(home: Home) -> dict[str, Any]:
    """Return the texts and JSON values of a home that belong into a report, by name."""
    lines, _ = log_files.last(home.logs, log_files.MAX_LINES)
    texts: dict[str, Any] = {"logs/this-node.log": "".join(f"{line}\n" for line in lines)}
    for name in log_files.STARTS:
        with suppress(OSError):
            texts[f"logs/{name}"] = (home.logs / name).read_text(errors="replace")[-TAIL_BYTES:]
    for path in (home.options, home.hardware):
        with suppress(OSError, ValueError, RecursionError):
            texts[f"config/{path.name}"] = json.loads(path.read_text())
    return {name: text for name, text in texts.items() if text}


def redacted(texts: Mapping[str, Any], hidden: Redaction) -> dict[str, bytes]:
    """Return the files of a report: texts as they are, other values as JSON; all redacted, their names too."""
    return {hidden.text(name): _text(value, hidden).encode(errors="replace") for name, value in texts.items()}


def _text(value: Any, hidden: Redaction) -> str:
    if isinstance(value, str):
        return hidden.text(value)
    return json.dumps(_value(value, hidden), indent=1, ensure_ascii=False) + "\n"


def _value(value: Any, hidden: Redaction) -> Any:
    """Return a JSON value with its strings redacted, before quotes and escapes can hide anything in them."""
    if isinstance(value, str):
        return hidden.text(value)
    if isinstance(value, Mapping):
        return {hidden.text(str(key)): _value(each, hidden) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_value(each, hidden) for each in value]
    return value


def write(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a .tar.gz that only its owner can read.

    Raises:
        InvalidRequestError: the file exists.
        ClusterError: it cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as exc:
        raise InvalidRequestError(f"{path} exists: give another name with -o") from exc
    except OSError as exc:
        raise ClusterError(f"{path} cannot be written: {exc.strerror}") from exc
    try:
        with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            for name, data in files.items():
                entry = tarfile.TarInfo(f"{path.name.removesuffix('.tar.gz')}/{name}")
                entry.size, entry.mtime = len(data), int(time.time())
                archive.addfile(entry, io.BytesIO(data))
    except BaseException as exc:
        path.unlink(missing_ok=True)
        if isinstance(exc, OSError):
            raise ClusterError(f"{path} cannot be written: {exc.strerror}") from exc
        raise


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without this user
        return Path.home().name
