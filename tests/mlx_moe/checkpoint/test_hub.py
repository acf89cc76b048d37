"""The hub, by a stand-in with real HTTP: every fault ends in the right bytes or in one clear error."""

import hashlib
import json
import logging
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mlx_moe.checkpoint import hub, hub_cache, hub_download, hub_source, outline, tensor_file
from mlx_moe.checkpoint.checkpoint import Checkpoint, Piece
from mlx_moe.checkpoint.hub_retry import Patience
from mlx_moe.checkpoint.hub_source import HubSource
from mlx_moe.checkpoint.origin import Origin, OriginFile
from mlx_moe.checkpoint.pull import pull
from mlx_moe.checkpoint.share import Keeping, Share
from mlx_moe.checkpoint.source import SourceError
from mlx_moe.checkpoint.weight_files import INDEX_NAME
from mlx_moe.errors import CheckpointError, UnsupportedModelError
from tests import patience
from tests.hub import Fault, Hub

REPO = "org/name"
ONE, TWO = FILES = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
HASTE = Patience(tries=3, first_wait_s=0.001, longest_wait_s=0.002)
TOKEN = "hf_secretsecretsecret"


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a repository with two weight files of 800 KB, four tensors each, and what else a repository has."""
    directory = tmp_path_factory.mktemp("hub")
    repository = directory / REPO
    repository.mkdir(parents=True)
    numbers = np.random.default_rng(0)
    for file, names in zip(FILES, ("abcd", "efgh"), strict=True):
        save_file({name: numbers.integers(0, 255, 200_000, np.uint8) for name in names}, repository / file)
    weight_map = {name: file for file, names in zip(FILES, ("abcd", "efgh"), strict=True) for name in names}
    (repository / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (repository / "config.json").write_text('{"model_type": "qwen3_moe"}')
    (repository / "tokenizer.json").write_text("{}" + " " * 1000)
    (repository / "README.md").write_text("no part of the outline")
    (repository / "modeling.py").write_text("raise SystemExit")
    (repository / "pytorch_model.bin").write_bytes(b"pickle")
    (repository / "original").mkdir()
    save_file({"a": np.zeros(3)}, repository / "original" / "model.safetensors")
    return directory


@pytest.fixture
def server(repositories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("HF_HUB_OFFLINE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with Hub(repositories) as started:
        monkeypatch.setenv("HF_ENDPOINT", started.endpoint)
        yield started
        assert started.offences == []


@pytest.fixture
def source(server: Hub) -> Iterator[HubSource]:
    opened = HubSource(hub.resolve(REPO), patience=HASTE)
    assert opened.name in server.endpoint
    yield opened
    opened.close()


def content(server: Hub, file: str) -> bytes:
    return (server.directory / REPO / file).read_bytes()


def data_of(path: Path) -> range:
    return range(8 + int.from_bytes(path.read_bytes()[:8], "little"), path.stat().st_size)


def everything(directory: Path) -> dict[str, list[range]]:
    return {file: [data_of(directory / REPO / file)] for file in FILES}


def test_a_revision_is_a_commit_with_files_and_digests(server: Hub) -> None:
    origin = hub.resolve(REPO)
    assert origin.commit == hub.resolve(REPO, origin.commit).commit == server.repository(REPO).commit  # type: ignore[union-attr]
    assert set(origin.files) == {*FILES, "config.json", "tokenizer.json", "model.safetensors.index.json"}
    expected = hashlib.sha256(content(server, ONE)).hexdigest()
    assert origin.files[ONE] == OriginFile(len(content(server, ONE)), expected)
    assert origin.identity


def test_the_outline_is_small_files_and_headers_and_opens_as_a_checkpoint(
    server: Hub, source: HubSource, tmp_path: Path
) -> None:
    directory = tmp_path / "share"
    hub.fetch_outline(hub.resolve(REPO), directory, source)
    headers = {f"{file}.header" for file in FILES}
    small = {"config.json", "tokenizer.json", "model.safetensors.index.json"}
    assert {path.name for path in directory.iterdir()} == {*headers, *small, "origin.json"}
    for file in FILES:
        start = data_of(server.directory / REPO / file).start
        assert (directory / f"{file}.header").read_bytes() == content(server, file)[:start]
    asked = dict(server.asked)
    hub.fetch_outline(hub.resolve(REPO), directory, source)
    assert dict(server.asked) == asked
    with Checkpoint.open(directory, sources=[source]) as checkpoint:
        memory = bytearray(300)
        checkpoint.read_into([Piece("g", 5, 100), Piece("a", 0, 100), Piece("g", 700, 100)], memory)
    g, a = (tensor_file.read(server.directory / REPO / f).tensors[n] for f, n in ((TWO, "g"), (ONE, "a")))
    two, one = content(server, TWO), content(server, ONE)
    expected = two[g.offset + 5 :][:100] + one[a.offset :][:100] + two[g.offset + 700 :][:100]
    assert memory == expected


def test_a_header_longer_than_the_first_request_is_fetched_whole(
    server: Hub, source: HubSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "FIRST_BYTES", 40)
    hub.fetch_outline(hub.resolve(REPO), tmp_path, source)
    for file in FILES:
        assert (
            tensor_file.read(tmp_path / file).tensors.keys()
            == tensor_file.read(server.directory / REPO / file).tensors.keys()
        )


def test_files_smaller_than_the_first_request_are_whole_at_once(
    server: Hub, source: HubSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "FIRST_BYTES", 1 << 20)
    hub.fetch_outline(hub.resolve(REPO), tmp_path, source)
    assert {file: (tmp_path / file).read_bytes() for file in FILES} == {file: content(server, file) for file in FILES}
    assert not list(tmp_path.glob("*.header"))


def test_a_directory_of_another_commit_is_refused(source: HubSource, tmp_path: Path) -> None:
    Origin("org/other", "d" * 40, {"config.json": OriginFile(2)}).store(tmp_path)
    with pytest.raises(CheckpointError, match=r"has files of org/other d+, not of org/name .*: use another directory"):
        hub.fetch_outline(hub.resolve(REPO), tmp_path, source)


def test_another_commit_with_the_same_weights_renews_the_small_files(
    server: Hub, source: HubSource, tmp_path: Path
) -> None:
    directory = tmp_path / "share"
    share = share_of(source, directory)
    pull(share, source, {ONE: everything(server.directory)[ONE]})
    share.close()
    sent = server.total_sent("*.safetensors")
    server.directory = Path(shutil.copytree(server.directory, tmp_path / "hub"))
    (server.directory / REPO / "config.json").write_text('{"model_type": "qwen3_moe", "edited": 1}')
    origin = hub.resolve(REPO)
    newer = HubSource(origin, patience=HASTE)
    hub.fetch_outline(origin, directory, newer)
    newer.close()
    assert Origin.of(directory) == origin
    assert (directory / "config.json").read_text() == '{"model_type": "qwen3_moe", "edited": 1}'
    assert (directory / ONE).read_bytes() == content(server, ONE)
    assert server.total_sent("*.safetensors") == sent


def test_several_threads_may_fetch_one_outline(server: Hub, source: HubSource, tmp_path: Path) -> None:
    origin = hub.resolve(REPO)
    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(hub.fetch_outline, origin, tmp_path, source) for _ in range(8)]:
            done.result()
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"{file}.header" for file in FILES),
        *(name for name in origin.files if name not in FILES),
        "origin.json",
    }
    assert server.total_sent("config.json")


@pytest.mark.parametrize(
    "name", ["../x.json", "a/config.json", ".netrc", "config.py", "x.bin", "tokenizer.pickle", "a b.json"]
)
def test_other_names_are_no_part_of_an_outline(tmp_path: Path, name: str) -> None:
    assert not outline.is_small(name)
    assert not outline.is_weights(name)
    with pytest.raises(CheckpointError):
        outline.store_small(tmp_path, name, b"{}")
    with pytest.raises(CheckpointError):
        outline.store_header(tmp_path, name, b"\2\0\0\0\0\0\0\0{}", 10)
    assert not list(tmp_path.iterdir())


def test_a_damaged_header_is_refused_before_it_is_stored(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="of which its header claims"):
        tensor_file.header_bytes(ONE, b"\xff" * 8, 100)
    with pytest.raises(CheckpointError, match="is not JSON"):
        outline.store_header(tmp_path, ONE, b"\2\0\0\0\0\0\0\0{x", 10)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "fault",
    [
        Fault("reset", times=2),
        Fault("reset", times=2, after_bytes=0),
        Fault("cut", times=5),
        Fault("short", times=4),
        Fault("shifted", times=2),
        Fault("whole", times=2),
        Fault("busy", times=2, retry_after_s=0),
        Fault("busy", times=2, at="resolve", retry_after_s=0),
        Fault("broken", times=2),
        Fault("away", times=2, at="resolve"),
        Fault("expired", times=2),
        Fault("slow", times=1, bytes_s=1e8),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.at}-{fault.after_bytes}",
)
def test_a_momentary_fault_is_repeated_from_where_it_stopped(server: Hub, fault: Fault) -> None:
    server.faults.append(fault)
    span, received = range(1000, 600_000), list[int]()
    source = HubSource(hub.resolve(REPO), received.append, HASTE)
    assert source.read(ONE, span) == content(server, ONE)[span.start : span.stop]
    source.close()
    assert fault.times == 0
    assert sum(received) == len(span)
    if fault.kind not in ("reset", "shifted", "whole"):  # of these, the answer is on its way when it is lost
        assert server.total_sent() <= len(span)


def test_a_stream_that_stands_still_is_given_up(
    server: Hub, source: HubSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_source.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    server.faults.append(Fault("stall", times=1))
    assert source.read(ONE, range(500_000)) == content(server, ONE)[:500_000]
    assert server.total_sent() == 500_000


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("reset", after_bytes=0), r"does not deliver model-00001.* \(3 tries\); try again later"),
        (Fault("broken"), r"it answers 500 \(3 tries\)"),
        (Fault("shifted"), r"it answers with the range 'bytes 1-1000/\d+' \(3 tries\)"),
        (Fault("whole"), r"instead of a range \(3 tries\)"),
        (Fault("busy", retry_after_s=3600), "it answers 429; try again in 3600 s"),
        (Fault("busy", retry_after_s="Wed, 21 Oct 2015 07:28:00 GMT"), r"it answers 429 \(3 tries\)"),
        (Fault("oversize"), "on 127.0.0.1:.*, but .* in commit .*: pull the model again"),
        (Fault("expired"), r"its storage answers 403 \(3 tries\)"),
        (Fault("gated", at="resolve"), r"accept its licence on https://.*/org/name, then log in .*`hf auth login`"),
        (Fault("denied", at="resolve"), "org/name .*`hf auth login`, or set HF_TOKEN"),
        (Fault("missing", at="resolve"), "try again later|pull the model again"),
    ],
    ids=lambda value: value.kind + value.at if isinstance(value, Fault) else "",
)  # fmt: skip
def test_a_lasting_fault_is_one_clear_error(server: Hub, source: HubSource, fault: Fault, message: str) -> None:
    server.faults.append(fault)
    with pytest.raises(SourceError, match=message) as caught:
        source.read(ONE, range(1000))
    assert TOKEN not in str(caught.value)
    assert "Signature" not in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("gated", at="api"), "is gated: accept its licence"),
        (Fault("broken", at="api"), r"does not list the files of org/name: it answers 500 \(3 tries\)"),
        (Fault("busy", at="api", retry_after_s=400), "it answers 429; try again in 400 s"),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else "",
)
def test_a_listing_that_fails_is_one_clear_error(server: Hub, fault: Fault, message: str) -> None:
    server.faults.append(fault)
    with pytest.raises(SourceError, match=message):
        hub.resolve(REPO, patience=HASTE)


def test_a_listing_is_asked_for_again(server: Hub) -> None:
    server.faults.append(Fault("away", at="api", times=2))
    assert hub.resolve(REPO, patience=HASTE).files


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("org/none", "main", r"has no org/none, or it is private: check the name, or log in .*`hf auth login`"),
        (REPO, "v9", "has no such revision"),
        ("a/b/c", "main", "is not the name of a repository"),
    ],
)
@pytest.mark.usefixtures("server")
def test_what_is_not_there_is_one_clear_error(name: str, revision: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        hub.resolve(name, revision, HASTE)


def test_a_private_repository_needs_the_token(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.token = TOKEN
    source = HubSource(hub.resolve(REPO), patience=HASTE)
    assert source.read(ONE, range(10)) == content(server, ONE)[:10]
    source.close()
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(SourceError, match="check the name, or log in on this machine with `hf auth login`") as caught:
        hub.resolve(REPO, patience=HASTE)
    assert "hf_other" not in str(caught.value)


def test_offline_nothing_is_asked(server: Hub, source: HubSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for ask in (lambda: hub.resolve(REPO), lambda: source.read(ONE, range(5))):
        with pytest.raises(SourceError, match="HF_HUB_OFFLINE is set"):
            ask()
    assert not server.total_sent(ONE)


@pytest.mark.usefixtures("server")
def test_a_hub_that_is_not_there_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match=r"no connection .*check the network, and HF_ENDPOINT"):
        hub.resolve(REPO, patience=HASTE)


def test_a_repository_without_safetensors_is_refused(server: Hub, tmp_path: Path) -> None:
    server.directory = tmp_path
    (tmp_path / REPO).mkdir(parents=True)
    (tmp_path / REPO / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(UnsupportedModelError, match=r"no safetensors files, only \.gguf: give another"):
        hub.resolve(REPO)


def test_near_ranges_come_in_one_request_and_far_ones_in_several(server: Hub, source: HubSource) -> None:
    ranges = [range(500_000, 500_100), range(1000, 101_000), range(102_000, 202_000)]
    memory = bytearray(200_100)
    source.read_into(ONE, ranges, memoryview(memory))
    assert memory == b"".join(content(server, ONE)[span.start : span.stop] for span in ranges)
    assert server.asked["127.0.0.1", ONE] == 2
    assert server.total_sent() == 201_000 + 100


def test_a_long_range_comes_in_several_requests(
    server: Hub, source: HubSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_source, "REQUEST_BYTES", 70_000)
    assert source.read(ONE, range(700_000)) == content(server, ONE)[:700_000]
    assert server.asked["127.0.0.1", ONE] == 10
    assert source.present(ONE, range(700_000, 10_000_000)) == [range(700_000, len(content(server, ONE)))]
    assert source.present("other.safetensors", range(10)) == []


def test_closing_ends_a_wait(server: Hub) -> None:
    server.faults.append(Fault("busy", retry_after_s=200))
    source = HubSource(hub.resolve(REPO))
    errors: list[Exception] = []

    def read() -> None:
        try:
            source.read(ONE, range(10))
        except SourceError as error:
            errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    patience.until(lambda: server.faults[0].times < 1 << 30)
    source.close()
    thread.join()
    assert "stopped" in str(errors)


def test_no_token_and_no_signature_is_logged(server: Hub, source: HubSource, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server.faults.append(Fault("reset", times=1))
    source.read(ONE, range(1000))
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("mlx_moe")]
    assert not [text for text in ours if "Signature" in text]
    assert TOKEN not in caplog.text


def share_of(source: HubSource, directory: Path) -> Share:
    hub.fetch_outline(hub.resolve(REPO), directory, source)
    return Share(directory)


def test_a_share_is_fetched_with_little_more_than_its_bytes(server: Hub, source: HubSource, tmp_path: Path) -> None:
    share = share_of(source, tmp_path)
    outline_bytes = server.total_sent("*.safetensors")
    infos = [tensor_file.read(tmp_path / ONE).tensors[name] for name in ("b", "d")]
    wanted = {ONE: [range(info.offset, info.offset + info.nbytes) for info in infos]}
    stored: list[int] = []
    pull(share, source, wanted, stored.append)
    needed = sum(info.nbytes for info in infos)
    assert sum(stored) == needed
    assert server.total_sent("*.safetensors") - outline_bytes <= 1.1 * needed
    pull(share, source, wanted, stored.append)
    assert sum(stored) == needed
    share.close()
    with Checkpoint.open(tmp_path) as checkpoint:
        memory = bytearray(needed)
        checkpoint.read_into([Piece(info.name, 0, info.nbytes) for info in infos], memory)
    assert memory == b"".join(content(server, ONE)[i.offset : i.offset + i.nbytes] for i in infos)


def test_loading_keeps_what_it_reads(server: Hub, source: HubSource, tmp_path: Path) -> None:
    share = share_of(source, tmp_path)
    with Checkpoint.open(tmp_path, sources=[share, Keeping(share, source)]) as checkpoint:
        memory = bytearray(200_000)
        checkpoint.read_into([Piece("c", 0, 200_000)], memory)
    sent = server.total_sent()
    with Checkpoint.open(tmp_path) as checkpoint:
        again = bytearray(200_000)
        checkpoint.read_into([Piece("c", 0, 200_000)], again)
    assert again == memory
    assert server.total_sent() == sent


def test_wrong_bytes_are_deleted_and_the_next_pull_is_right(server: Hub, source: HubSource, tmp_path: Path) -> None:
    share = share_of(source, tmp_path)
    server.faults.append(Fault("wrong", file=ONE, times=1))
    with pytest.raises(CheckpointError, match=r"the data have the SHA-256 .* repeat the command"):
        pull(share, source, everything(server.directory))
    share.close()
    assert not (tmp_path / ONE).exists()
    share = Share(tmp_path)
    pull(share, source, everything(server.directory))
    share.close()
    assert {file: (tmp_path / file).read_bytes() for file in FILES} == {file: content(server, file) for file in FILES}


def test_slow_streams_are_recorded_while_none_writes(
    server: Hub, source: HubSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_moe.checkpoint.pull.SYNC_S", 0.01)
    share, span = share_of(source, tmp_path), everything(server.directory)
    server.faults.append(Fault("stall", file=TWO, after_bytes=0))
    partly = {ONE: [span[ONE][0][:1000]], TWO: [span[TWO][0][:1000]]}
    errors: list[Exception] = []

    def run() -> None:
        try:
            pull(share, source, partly)
        except SourceError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    patience.until(lambda: Share(tmp_path).present(ONE, span[ONE][0]))
    source.close()
    server.stopped.set()
    thread.join()
    share.close()
    assert Share(tmp_path).present(ONE, span[ONE][0]) == [span[ONE][0][:1000]]


def test_what_was_stored_before_an_error_is_kept(
    server: Hub, source: HubSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_moe.checkpoint.pull.CHUNK_BYTES", 100_000)
    share = share_of(source, tmp_path)
    before = server.total_sent("*.safetensors")
    server.faults.append(Fault("broken", file=TWO))
    with pytest.raises(SourceError, match="it answers 500"):
        pull(share, source, everything(server.directory), streams=1)
    share.close()
    server.faults.clear()
    share = Share(tmp_path)
    assert share.nbytes_present == len(content(server, ONE))
    pull(share, source, everything(server.directory))
    share.close()
    needed = sum(len(span) for spans in everything(server.directory).values() for span in spans)
    assert server.total_sent("*.safetensors") - before == needed


PULL = """
import sys
from pathlib import Path
from mlx_moe.checkpoint import hub, pull, share, tensor_file
from mlx_moe.checkpoint.hub_source import HubSource
share.SYNC_BYTES, pull.CHUNK_BYTES = 16 << 10, 8 << 10
origin, directory = hub.resolve("org/name"), Path(sys.argv[1])
source = HubSource(origin)
hub.fetch_outline(origin, directory, source)
target = share.Share(directory)
files = {name: tensor_file.read(directory / name) for name in origin.files if name.endswith(".safetensors")}
spans = {name: [range(t.offset, t.offset + t.nbytes) for t in file.tensors.values()] for name, file in files.items()}
pull.pull(target, source, spans, streams=2)
target.close()
"""


def test_a_pull_that_is_killed_several_times_goes_on(server: Hub, tmp_path: Path) -> None:
    server.faults.append(Fault("slow", bytes_s=1e6))
    chance, total, directory = random.Random(7), sum(len(content(server, file)) for file in FILES), tmp_path / "share"

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", PULL, str(directory)])

    for part_of_all in (0.25, 0.5, 0.75):
        process, limit = start(), total * part_of_all + chance.randrange(50_000)
        patience.until(lambda limit=limit: server.total_sent("*.safetensors") > limit)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        share = Share(directory)
        for file in FILES:
            for span in share.present(file, range(len(content(server, file)))):
                memory = bytearray(len(span))
                share.read_into(file, [span], memoryview(memory))
                assert memory == content(server, file)[span.start : span.stop]
        share.close()
    server.faults.clear()
    assert start().wait(patience.PATIENCE_S) == 0
    assert {file: (directory / file).read_bytes() for file in FILES} == {file: content(server, file) for file in FILES}
    assert server.total_sent("*.safetensors") - 2 * hub.FIRST_BYTES <= 1.1 * total


def test_a_download_is_a_snapshot_of_the_cache(server: Hub) -> None:
    seen: list[tuple[int, int]] = []
    origin = hub.resolve(REPO)
    snapshot = hub_download.download(origin, "main", lambda *progress: seen.append(progress))
    assert hub_cache.find(REPO) == snapshot
    assert {file: (snapshot / file).read_bytes() for file in FILES} == {file: content(server, file) for file in FILES}
    assert seen[0][0] == 0
    assert max(seen) == (seen[0][1], seen[0][1])
    assert {path.name for path in snapshot.iterdir()} == {*origin.files, "origin.json"}
    assert not list(hub_cache.staging(REPO, origin.commit).parent.iterdir())
    sent = server.total_sent()
    assert hub_download.download(origin) == snapshot
    assert server.total_sent() == sent


def test_a_download_in_part_is_no_snapshot_and_goes_on(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_moe.checkpoint.hub_source.Patience", lambda: HASTE)
    origin = hub.resolve(REPO)
    server.faults.append(Fault("gated", file=TWO, at="resolve"))
    with pytest.raises(SourceError, match="gated"):
        hub_download.download(origin, "main")
    assert hub_cache.snapshots(REPO) == []
    server.faults.clear()
    assert hub_cache.find(REPO, hub_download.download(origin, "main").name)


def test_files_that_another_program_has_downloaded_are_not_fetched_again(server: Hub) -> None:
    origin = hub.resolve(REPO)
    folder = hub_cache.snapshot(REPO, origin.commit)
    blob = folder.parents[1] / "blobs" / origin.files[ONE].sha256
    for path in (folder, blob.parent):
        path.mkdir(parents=True)
    blob.write_bytes(content(server, ONE))
    (folder / ONE).symlink_to(Path("..", "..", "blobs", blob.name))
    snapshot = hub_download.download(origin)
    assert (snapshot / ONE).read_bytes() == content(server, ONE)
    assert server.total_sent(ONE) == 0
    assert server.total_sent(TWO) > 0


def test_copies_of_the_models_tensors_are_not_downloaded(server: Hub, tmp_path: Path) -> None:
    shutil.copytree(server.directory / REPO, tmp_path / REPO)
    shutil.copy(tmp_path / REPO / ONE, tmp_path / REPO / "consolidated.safetensors")
    save_file({"mtp": np.zeros(3)}, tmp_path / REPO / "mtp.safetensors")
    server.directory = tmp_path
    snapshot = hub_download.download(hub.resolve(REPO))
    assert {path.name for path in snapshot.glob("*.safetensors*")} == {*FILES, "mtp.safetensors", INDEX_NAME}
    assert server.total_sent("consolidated*") <= hub.FIRST_BYTES


def test_huggingface_hub_takes_the_snapshot_for_its_own(server: Hub) -> None:
    snapshot = hub_download.download(hub.resolve(REPO), "main")
    sent = server.total_sent("*.safetensors")
    code = "import sys, huggingface_hub; print(huggingface_hub.hf_hub_download('org/name', sys.argv[1]))"
    found = subprocess.run([sys.executable, "-c", code, ONE], capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()).resolve() == (snapshot / ONE).resolve()
    assert server.total_sent("*.safetensors") == sent
