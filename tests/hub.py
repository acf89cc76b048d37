"""A stand-in for the Hugging Face hub: python -m tests.hub DIRECTORY [--host H] [--port N] [--token T].

It serves DIRECTORY/org/name as repositories with one commit each, over real HTTP: the list of files, `resolve` with the
hub's headers, and its storage on a second port, to which `resolve` redirects with a signature, as the hub does for
weights. It counts what it sends to whom, and makes the faults that it is told to make, also over HTTP:

    POST /_faults {"kind": "reset", "file": "*.safetensors", "times": 2}
    GET /_sent
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import socket
import struct
import threading
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

CHUNK = 64 << 10
HASHED_BYTES = 256 << 20
"""Larger files have no SHA-256 here: sparse files of the true size."""

STATUSES = {"gated": 403, "denied": 401, "missing": 404, "busy": 429, "broken": 500, "away": 503, "expired": 403}


@dataclass
class Fault:
    """What goes wrong with the answers about matching files, so many times.

    kind: a key of STATUSES; or, for data: reset (RST in the middle), cut (the connection ends in the middle), short (a
    shorter range), shifted (another range than asked for), wrong (other bytes), whole (status 200 and the whole file),
    stall (nothing more comes), oversize (another total size), slow (`bytes_s` in each stream).
    at: "api", "resolve" or "storage".
    """

    kind: str
    file: str = "*"
    times: int = 1 << 30
    at: str = "storage"
    retry_after_s: int | str | None = None
    after_bytes: int | None = None  # of the answer; default: half of it
    bytes_s: float = 1e6


@dataclass
class Repository:
    """A model's directory as one commit."""

    path: Path

    @cached_property
    def files(self) -> dict[str, Path]:
        return {str(p.relative_to(self.path)): p for p in sorted(self.path.rglob("*")) if p.is_file()}

    @cached_property
    def sha256s(self) -> dict[str, str]:
        return {name: _sha256(path) for name, path in self.files.items() if self.is_large(name)}

    @cached_property
    def commit(self) -> str:
        listing = [(name, path.stat().st_size, self.sha256s.get(name)) for name, path in self.files.items()]
        return hashlib.sha1(json.dumps(listing).encode()).hexdigest()

    def is_large(self, name: str) -> bool:
        """Whether a file is kept in the hub's storage, not in git."""
        return name.endswith((".safetensors", ".bin", ".gguf", ".model")) or name == "tokenizer.json"

    def siblings(self) -> list[dict[str, Any]]:
        found = []
        for name, path in self.files.items():
            size = path.stat().st_size
            entry: dict[str, Any] = {"rfilename": name, "size": size, "blobId": _git_id(path)}
            if self.sha256s.get(name):
                entry["lfs"] = {"size": size, "sha256": self.sha256s[name], "pointerSize": 134}
            found.append(entry)
        return found


@dataclass
class Hub:
    """The servers, until `close`. `sent` has the bytes of files by (client's address, file), `asked` their requests."""

    directory: Path
    host: str = "127.0.0.1"
    port: int = 0
    token: str = ""
    faults: list[Fault] = field(default_factory=list)
    sent: Counter[tuple[str, str]] = field(default_factory=Counter)
    asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    offences: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        self.signature = 0
        self._repositories: dict[Path, Repository] = {}
        self._servers = [
            _Server((self.host, port), _Handler, self, part)
            for port, part in ((self.port, "hub"), (self.port and self.port + 1, "storage"))
        ]
        self.endpoint, self.storage = (f"http://{self.host}:{server.server_port}" for server in self._servers)
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.stopped.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def refresh(self) -> None:
        """Look at the repositories' files again, which are new commits if they have changed."""
        self._repositories.clear()

    def repository(self, repo_id: str) -> Repository | None:
        path = self.directory / repo_id
        if ".." in repo_id or repo_id.count("/") != 1 or not path.is_dir():
            return None
        with self.lock:
            return self._repositories.setdefault(path, Repository(path))

    def fault(self, file: str, at: str) -> Fault | None:
        """Return the next fault for a file, which is then counted."""
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.at == at and fnmatch.fnmatch(file, fault.file):
                    fault.times -= 1
                    return fault
        return None

    def total_sent(self, pattern: str = "*") -> int:
        """Return the bytes sent of matching files, to all clients."""
        return sum(n for (_, file), n in self.sent.items() if fnmatch.fnmatch(file, pattern))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[_Handler], hub: Hub, part: str) -> None:
        self.hub, self.part = hub, part
        super().__init__(address, handler)

    def handle_error(self, *_: Any) -> None:
        """Clients that are killed are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: Any) -> None:
        """Be quiet."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        entries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.hub.faults[:] = [Fault(**e) for e in (entries if isinstance(entries, list) else [entries])]
        self._json({"faults": len(self.server.hub.faults)})

    def _answer(self) -> None:
        hub, url = self.server.hub, urlsplit(self.path)
        parts = unquote(url.path).strip("/").split("/")
        if self.server.part == "storage":
            self._storage(parts, parse_qs(url.query))
        elif parts == ["_sent"]:
            self._json({f"{client} {file}": n for (client, file), n in sorted(hub.sent.items())})
        elif parts[:2] == ["api", "models"]:
            self._api("/".join(parts[2:4]), parts[4:])
        elif len(parts) >= 5 and parts[2] == "resolve":
            self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._status(404)

    def _repository(self, repo_id: str, revision: str) -> Repository | None:
        """Return a repository if it, the revision and the token are right; else answer."""
        hub = self.server.hub
        repository = hub.repository(repo_id)
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            self._status(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif repository is None:
            self._status(404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif revision not in ("main", repository.commit):
            self._status(404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        else:
            return repository
        return None

    def _api(self, repo_id: str, rest: list[str]) -> None:
        if self._failed(self.server.hub.fault(repo_id, "api")):
            return
        revision = rest[1] if rest[:1] == ["revision"] else "main"
        if repository := self._repository(repo_id, revision):
            info = {"id": repo_id, "modelId": repo_id, "sha": repository.commit, "private": False, "tags": []}
            self._json({**info, "downloads": 0, "likes": 0, "siblings": repository.siblings()})

    def _resolve(self, repo_id: str, revision: str, name: str) -> None:
        hub = self.server.hub
        if self._failed(hub.fault(name, "resolve")):
            return
        repository = self._repository(repo_id, revision)
        if repository is None:
            return
        path = repository.files.get(name)
        if path is None:
            self._status(404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
            return
        headers = {"X-Repo-Commit": repository.commit}
        if not repository.is_large(name):
            self._data(path, name, headers | {"ETag": f'"{_git_id(path)}"'}, None)
            return
        etag = repository.sha256s.get(name) or _git_id(path)
        headers |= {"ETag": f'"{etag}"', "X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(path.stat().st_size)}
        location = f"{hub.storage}/{repo_id}/{name}?Signature={hub.signature}"
        self._status(302, headers | {"Location": location})

    def _storage(self, parts: list[str], query: dict[str, list[str]]) -> None:
        hub, name = self.server.hub, "/".join(parts[2:])
        if self.headers.get("Authorization"):
            hub.offences.append("a token was sent to the storage")
        fault = hub.fault(name, "storage")
        if query.get("Signature") != [str(hub.signature)]:
            self._status(403)
        elif not self._failed(fault):
            repository = hub.repository("/".join(parts[:2]))
            assert repository is not None
            self._data(repository.files[name], name, {}, fault)

    def _failed(self, fault: Fault | None) -> bool:
        if fault is None or fault.kind not in STATUSES:
            return False
        headers = {"Retry-After": str(fault.retry_after_s)} if fault.retry_after_s is not None else {}
        if fault.kind == "gated":
            headers |= {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted"}
        if fault.kind == "expired":
            self.server.hub.signature += 1
        self._status(STATUSES[fault.kind], headers)
        return True

    def _status(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": "0"}.items():
            self.send_header(key, value)
        self.end_headers()

    def _json(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _data(self, path: Path, name: str, headers: dict[str, str], fault: Fault | None) -> None:
        kind, size = fault.kind if fault else "", path.stat().st_size
        span, status = _span(self.headers.get("Range"), size), 206
        if kind == "whole" or span == range(size):
            span, status = range(size), 200
        if kind == "short":
            span = range(span.start, span.start + max(1, len(span) // 2))
        shift = 1 if kind == "shifted" else 0
        self.send_response(status)
        total = size + 1 if kind == "oversize" else size
        if status == 206:
            headers |= {"Content-Range": f"bytes {span.start + shift}-{span.stop - 1 + shift}/{total}"}
        for key, value in {**headers, "Content-Length": str(len(span)), "Accept-Ranges": "bytes"}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self._send(path, name, span, fault)

    def _send(self, path: Path, name: str, span: range, fault: Fault | None) -> None:
        hub, client = self.server.hub, self.client_address[0]
        kind = fault.kind if fault else ""
        stop = span.stop
        if fault and kind in ("reset", "cut", "stall"):
            stop = span.start + (len(span) // 2 if fault.after_bytes is None else fault.after_bytes)
        with hub.lock:
            hub.asked[client, name] += 1
        with path.open("rb") as file:
            file.seek(span.start)
            for start in range(span.start, stop, CHUNK):
                data = file.read(min(CHUNK, stop - start))
                with hub.lock:  # before it is sent, so that whoever has it finds it counted
                    hub.sent[client, name] += len(data)
                self.wfile.write(bytes(byte ^ 1 for byte in data) if kind == "wrong" else data)
                if fault and kind == "slow":
                    hub.stopped.wait(len(data) / fault.bytes_s)
        if kind == "stall":
            hub.stopped.wait(60)
        if kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if stop < span.stop:
            self.close_connection = True
            self.wfile.flush()


def _span(text: str | None, size: int) -> range:
    if not text:
        return range(size)
    start, _, last = text.removeprefix("bytes=").partition("-")
    return range(int(start), min(int(last) + 1 if last else size, size))


def _sha256(path: Path) -> str:
    if path.stat().st_size > HASHED_BYTES:
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git_id(path: Path) -> str:
    """Return the id of a small file in git, and for a large one something as good."""
    if path.stat().st_size > (1 << 20):
        return hashlib.sha1(str(path).encode()).hexdigest()
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--token", default="")
    arguments = parser.parse_args()
    with Hub(arguments.directory, arguments.host, arguments.port, arguments.token) as hub:
        print(f"HF_ENDPOINT={hub.endpoint}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
