"""Report: nothing that identifies a person, a machine or a secret gets into the archive, whatever a home has."""

from __future__ import annotations

import json
import socket
import stat
import tarfile
from pathlib import Path

import pytest

from cluster import report
from cluster.errors import ClusterError
from cluster.gateway.keys import Keys
from cluster.home import Home
from cluster.node.options import NodeOptions
from cluster.trust import Authority, NodeKey, TokenStore
from mlx_moe.errors import InvalidRequestError

USER = "jane.doe"
CHAT = "how do I tell my boss that I quit"
NAMES = ('Jane\'s "big" Studio', "mini-2")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Return the home of a node whose logs have all that logs may have, and more."""
    person = tmp_path / USER
    monkeypatch.setenv("HOME", str(person))
    monkeypatch.setenv("LOGNAME", USER)
    home = Home(person / "moe")
    home.create()
    authority = Authority.create(home.authority)
    key = NodeKey.open(home.identity)
    key.adopt(authority.certify(key.private_key.public_key()), authority.certificate)
    token = TokenStore(home.tokens, authority.key_hash).create().text
    api_key = Keys(home.api_keys).create("laptop")
    (home.sessions / "one.json").write_text(CHAT)
    home.chat_history.write_text(CHAT)
    NodeOptions(name=NAMES[0], peers=("192.168.7.9:7420",)).write(home.options)
    private = (home.identity / "node.key").read_text()
    (home.logs / "daemon.log").write_text(
        f"2026-11-26 10:00:00,000 cluster INFO event=lost node={NAMES[0]} at=192.168.7.9 and [fd12::9]:7420\n"
        f"2026-11-26 10:00:01,000 cluster ERROR {person}/models/x by {USER} on {socket.gethostname()}: {token}\n"
        f"2026-11-26 10:00:01,000 cluster ERROR {json.dumps(NAMES[0])} sent {api_key}\n"
        f"2026-11-26 10:00:02,000 cluster ERROR key {private}\n"
        "2026-11-26 10:00:03,000 cli.news INFO event=lost node=Old Mac of Bob reason=silence\n"
        "2026-11-26 10:00:04,000 cluster INFO enrolled node=0123456789abcdef\n"
    )
    (home.logs / "up.log").write_text(f"error: {home.path}/identity cannot be read by {USER}, MINI-2.local knows\n")
    (person / "secrets").write_text(f"{token}\n{api_key}\n{private}")
    return home


def packed(home: Home, path: Path) -> dict[str, str]:
    own = report.own_texts(home)
    hidden = report.redaction(home, {*NAMES, *report.names_in(own.values())})
    texts = own | {
        "status.json": {"nodes": list(NAMES), "at": "192.168.7.9"},
        f"logs/{NAMES[0]}": "x",
    }
    report.write(path, report.redacted(texts, hidden))
    with tarfile.open(path) as archive:
        return {entry.name: archive.extractfile(entry).read().decode() for entry in archive}  # type: ignore[union-attr]


def test_planted_names_addresses_and_secrets_are_not_in_the_archive(home: Home, tmp_path: Path) -> None:
    files = packed(home, tmp_path / "r.tar.gz")
    everything = "\n".join([*files, *files.values()])
    token, api_key, *private = (home.path.parent / "secrets").read_text().splitlines()
    for planted in (token, token[-32:], api_key, *private[1:-1], CHAT, USER, socket.gethostname(), str(home.path)):
        assert planted.lower() not in everything.lower()
    for planted in ("Jane", "mini-2", "192.168.7", "fd12", "Bob"):
        assert planted.lower() not in everything.lower()


def test_what_helps_is_in_the_archive_and_equal_things_stay_equal(home: Home, tmp_path: Path) -> None:
    files = packed(home, tmp_path / "r.tar.gz")
    log = files["r/logs/this-node.log"]
    assert "event=lost node=host-" in log
    assert "~/models/x by USER" in log
    assert "node=0123456789abcdef" in log
    status, options = json.loads(files["r/status.json"]), json.loads(files["r/config/options.json"])
    assert f"node={status['nodes'][0]} at={status['at']} and" in log
    assert options["name"] == status["nodes"][0]
    assert options["peers"] == [f"{status['at']}:7420"]
    assert "$MOE_CLUSTER_HOME/identity cannot be read by USER" in files["r/logs/up.log"]


def test_only_its_owner_can_read_it_and_no_file_is_replaced(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "r.tar.gz"
    packed(home, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    with pytest.raises(InvalidRequestError, match="exists: give another name with -o"):
        packed(home, path)
    assert path.read_bytes() == before
    with pytest.raises(ClusterError, match="cannot be written"):
        packed(home, tmp_path / "nowhere" / "r.tar.gz")
