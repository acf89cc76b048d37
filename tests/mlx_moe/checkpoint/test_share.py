"""Shares: whatever kills a writer, the bytes that a share reports are right, and a file in part has no file's name."""

import errno
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from safetensors.numpy import load_file, save_file

from mlx_moe.checkpoint import durable_file, partial_file, share, tensor_file
from mlx_moe.checkpoint.checkpoint import Checkpoint, Piece
from mlx_moe.checkpoint.origin import Origin, OriginFile
from mlx_moe.checkpoint.share import Keeping, Share
from mlx_moe.checkpoint.source import SourceError, WeightSource
from mlx_moe.errors import CheckpointError

ONE, TWO = FILES = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def whole_files(directory: Path, seed: int = 0, size: int = 64) -> dict[str, bytes]:
    """Write two weight files of random tensors; return their bytes."""
    directory.mkdir(parents=True)
    numbers = np.random.default_rng(seed)
    (directory / "config.json").write_text("{}")
    for file, names in zip(FILES, (("a", "b"), ("c", "d")), strict=True):
        save_file({name: numbers.integers(0, 255, size, np.uint8) for name in names}, directory / file)
    return {file: (directory / file).read_bytes() for file in FILES}


def data_of(content: bytes) -> range:
    return range(8 + int.from_bytes(content[:8], "little"), len(content))


def outline(directory: Path, files: dict[str, bytes], *, digests: bool = False) -> Path:
    """Write the headers of weight files, as if nothing else of them were here."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    for file, content in files.items():
        tensor_file.header_path(directory / file).write_bytes(content[: data_of(content).start])
    if digests:
        entries = {file: OriginFile(len(c), hashlib.sha256(c).hexdigest()) for file, c in files.items()}
        Origin("org/name", "c" * 40, entries).store(directory)
    return directory


def store(target: Share, files: dict[str, bytes], file: str, span: range | None = None) -> None:
    span = data_of(files[file]) if span is None else span
    target.write(file, span.start, memoryview(files[file])[span.start : span.stop])


def read(source: WeightSource, file: str, span: range) -> bytes:
    memory = bytearray(len(span))
    source.read_into(file, [span], memoryview(memory))
    return bytes(memory)


def kill(writer: Share) -> None:
    """Let go of a share as a process does that is killed: without a record of what was not synced."""
    writer._disk.close()
    for part in writer._parts.values():
        part.close()
    if writer._lock_file >= 0:
        os.close(writer._lock_file)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    return whole_files(tmp_path / "whole")


@pytest.fixture
def directory(tmp_path: Path, files: dict[str, bytes]) -> Path:
    return outline(tmp_path / "share", files)


def test_what_was_written_is_read_by_the_next_process(directory: Path, files: dict[str, bytes]) -> None:
    start = data_of(files[ONE]).start
    span = range(start + 5, start + 40)
    writer = Share(directory)
    store(writer, files, ONE, span)
    assert read(writer, ONE, span) == files[ONE][span.start : span.stop]
    writer.close()
    reader = Share(directory)
    assert reader.present(ONE, data_of(files[ONE])) == [span]
    assert reader.missing(ONE, range(start, start + 50)) == [range(start, start + 5), range(start + 40, start + 50)]
    assert read(reader, ONE, span) == files[ONE][span.start : span.stop]
    assert reader.nbytes_present == 35
    assert reader.nbytes == sum(len(data_of(content)) for content in files.values())
    with pytest.raises(SourceError, match="not on this disk"):
        read(reader, ONE, range(start, start + 6))
    reader.close()


def test_a_file_in_part_has_no_weight_files_name(directory: Path, files: dict[str, bytes]) -> None:
    writer = Share(directory)
    store(writer, files, ONE, data_of(files[ONE])[:-1])
    writer.close()
    assert not list(directory.glob("*.safetensors"))
    part = directory / f"{ONE}{partial_file.PART_SUFFIX}"
    renamed = directory / "model.safetensors"
    shutil.copy(part, renamed)
    with pytest.raises(CheckpointError, match="truncated"):
        tensor_file.read(renamed)


@pytest.mark.parametrize("digests", [False, True])
def test_a_complete_file_gets_its_name_and_other_programs_read_it(
    tmp_path: Path, files: dict[str, bytes], digests: bool
) -> None:
    directory = outline(tmp_path / "share", files, digests=digests)
    writer = Share(directory)
    store(writer, files, ONE)
    assert (directory / ONE).read_bytes() == files[ONE]
    assert read(writer, ONE, data_of(files[ONE])) == files[ONE][data_of(files[ONE]).start :]
    store(writer, files, TWO)
    store(writer, files, TWO)
    writer.close()
    kept = {"config.json", ".share.lock", *FILES} | ({"origin.json"} if digests else set())
    assert {path.name for path in directory.iterdir()} == kept
    assert load_file(directory / TWO).keys() == {"c", "d"}
    reader = Share(directory)
    assert reader.nbytes_present == reader.nbytes == sum(map(len, files.values()))
    assert read(reader, TWO, range(len(files[TWO]))) == files[TWO]
    assert reader.missing(TWO, range(len(files[TWO]))) == []
    reader.close()


def test_wrong_bytes_in_a_complete_file_are_deleted(tmp_path: Path, files: dict[str, bytes]) -> None:
    directory = outline(tmp_path / "share", files, digests=True)
    span = data_of(files[ONE])
    writer = Share(directory)
    with pytest.raises(CheckpointError, match=r"have the SHA-256 .* repeat the command"):
        writer.write(ONE, span.start, memoryview(bytes(len(span))))
    assert writer.missing(ONE, span) == [span]
    assert {path.name for path in directory.glob(f"{ONE}*")} == {tensor_file.header_path(directory / ONE).name}
    store(writer, files, ONE)
    writer.close()
    assert (directory / ONE).read_bytes() == files[ONE]


def test_a_checkpoint_reads_parts_then_other_sources(directory: Path, files: dict[str, bytes]) -> None:
    writer = Share(directory)
    store(writer, files, ONE)
    info = tensor_file.read(directory / TWO).tensors["c"]
    store(writer, files, TWO, range(info.offset, info.offset + info.nbytes))
    writer.close()
    with Checkpoint.open(directory) as checkpoint:
        memory = bytearray(3 * info.nbytes)
        checkpoint.read_into([Piece(name, 0, info.nbytes) for name in ("a", "b", "c")], memory)
        assert memory[: 2 * info.nbytes] == files[ONE][data_of(files[ONE]).start :]
        assert memory[2 * info.nbytes :] == files[TWO][info.offset : info.offset + info.nbytes]
        with pytest.raises(SourceError, match="no source has it"):
            checkpoint.read_into([Piece("d", 0, info.nbytes)], memory[: info.nbytes])


def test_what_is_read_through_it_is_kept(tmp_path: Path, directory: Path, files: dict[str, bytes]) -> None:
    here, there = Share(directory), Share(tmp_path / "whole")
    with Checkpoint.open(directory, sources=[here, Keeping(here, there)]) as checkpoint:
        memory = bytearray(64)
        checkpoint.read_into([Piece("b", 0, 64)], memory)
    assert bytes(memory) in files[ONE]
    reader = Share(directory)
    assert reader.nbytes_present == 64
    reader.close()


def test_a_second_writer_is_refused_and_reads(directory: Path, files: dict[str, bytes]) -> None:
    writer, other = Share(directory), Share(directory)
    store(writer, files, ONE, data_of(files[ONE])[:10])
    with pytest.raises(CheckpointError, match=f"is being written by process {os.getpid()}: wait"):
        store(other, files, ONE, data_of(files[ONE])[10:])
    writer.close()
    store(other, files, ONE, data_of(files[ONE])[10:])
    assert (directory / ONE).read_bytes() == files[ONE]
    other.close()


def test_a_reader_goes_on_while_a_writer_completes_the_file(directory: Path, files: dict[str, bytes]) -> None:
    span = data_of(files[ONE])
    writer = Share(directory)
    store(writer, files, ONE, span[:10])
    writer.sync()
    readers = [Share(directory), Share(directory)]
    assert read(readers[0], ONE, span[:10]) == files[ONE][span.start : span.start + 10]
    store(writer, files, ONE)
    for reader in readers:
        assert read(reader, ONE, span[:10]) == files[ONE][span.start : span.start + 10]
        reader.close()
    writer.close()


def test_a_reader_refuses_a_part_that_was_begun_anew(tmp_path: Path, files: dict[str, bytes]) -> None:
    directory = outline(tmp_path / "share", files, digests=True)
    span = data_of(files[ONE])
    writer = Share(directory)
    store(writer, files, ONE, span[:10])
    writer.sync()
    reader = Share(directory)
    with pytest.raises(CheckpointError, match="SHA-256"):
        writer.write(ONE, span.start + 10, memoryview(bytes(len(span) - 10)))
    store(writer, files, ONE, span[5:20])
    with pytest.raises(SourceError, match="was replaced"):
        read(reader, ONE, span[:10])
    reader.close()
    writer.close()


def test_threads_write_the_same_and_different_ranges(tmp_path: Path) -> None:
    files = whole_files(tmp_path / "whole", size=20_000)
    directory = outline(tmp_path / "share", files, digests=True)
    writer = Share(directory)
    parts = [(file, data_of(files[file])[i : i + 700]) for file in FILES for i in range(0, 40_000, 350)]
    errors: list[BaseException] = []

    def write(seed: int) -> None:
        for file, span in random.Random(seed).sample(parts, len(parts)):
            try:
                store(writer, files, file, span)
            except CheckpointError as error:
                errors.append(error)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    assert not errors
    assert {file: (directory / file).read_bytes() for file in FILES} == files


def test_data_are_recorded_by_size_and_by_age(
    directory: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    span = data_of(files[ONE])
    monkeypatch.setattr(share, "SYNC_BYTES", 20)
    writer = Share(directory)
    store(writer, files, ONE, span[:10])
    assert Share(directory).missing(ONE, span) == [span]
    store(writer, files, ONE, span[10:20])
    assert Share(directory).missing(ONE, span) == [span[20:]]
    monkeypatch.setattr(share, "SYNC_S", 0.0)
    store(writer, files, ONE, span[20:25])
    assert Share(directory).missing(ONE, span) == [span[25:]]
    writer.close()


@pytest.mark.parametrize("keep", [0, 1, 20, -1])
def test_a_torn_record_counts_for_nothing(directory: Path, files: dict[str, bytes], keep: int) -> None:
    writer = Share(directory)
    store(writer, files, ONE, data_of(files[ONE])[:10])
    writer.close()
    record = partial_file.record_path(directory / ONE)
    record.write_bytes(record.read_bytes()[:keep])
    assert Share(directory).present(ONE, data_of(files[ONE])) == []


def test_a_record_counts_only_for_its_own_part_header_and_digest(tmp_path: Path, files: dict[str, bytes]) -> None:
    shares = {}
    for name, content in {"one": files, "other": whole_files(tmp_path / "tuned", seed=1)}.items():
        shares[name] = outline(tmp_path / name, content, digests=True)
        writer = Share(shares[name])
        store(writer, content, ONE, data_of(content[ONE])[:10])
        writer.close()
    span = data_of(files[ONE])
    for foreign in (
        [f"{ONE}.part"],
        [f"{ONE}.ranges"],
        ["origin.json"],
        [f"{ONE}.part", f"{ONE}.ranges"],  # the headers of two fine-tunes are equal, their digests are not
    ):
        directory = Path(shutil.copytree(shares["one"], tmp_path / "mixed"))
        for name in foreign:
            shutil.copy(shares["other"] / name, directory / name)
        assert Share(directory).present(ONE, span) == []
        shutil.rmtree(directory)
    copied = Path(shutil.copytree(shares["one"], tmp_path / "copied"))
    assert Share(copied).present(ONE, span) == [span[:10]]


def test_a_truncated_part_counts_for_nothing(directory: Path, files: dict[str, bytes]) -> None:
    writer = Share(directory)
    store(writer, files, ONE, data_of(files[ONE])[:10])
    writer.close()
    part = directory / f"{ONE}{partial_file.PART_SUFFIX}"
    os.truncate(part, part.stat().st_size - 1)
    writer = Share(directory)
    assert writer.present(ONE, data_of(files[ONE])) == []
    store(writer, files, ONE)
    writer.close()
    assert (directory / ONE).read_bytes() == files[ONE]


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_kill_while_a_file_is_being_completed_is_made_good(
    directory: Path, files: dict[str, bytes], writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    writer, done = Share(directory), [0]
    write = partial_file._write

    def dies(descriptor: int, memory: memoryview, offset: int) -> None:
        if offset in (0, partial_file._BEGINNING_BYTES) and memory[:1] != partial_file._MARK[:1]:
            if done[0] == writes:
                raise KilledError
            done[0] += 1
        write(descriptor, memory, offset)

    def replaces(temporary: Path, path: Path) -> None:
        if path == directory / ONE:
            raise KilledError
        os.rename(temporary, path)

    with monkeypatch.context() as patched:
        patched.setattr(partial_file, "_write", dies)
        patched.setattr(os, "replace", replaces)
        with pytest.raises(KilledError):
            store(writer, files, ONE)
    kill(writer)
    assert not (directory / ONE).exists()
    after = Share(directory)
    assert after.missing(ONE, data_of(files[ONE])) == []
    after.begin()
    assert (directory / ONE).read_bytes() == files[ONE]
    after.close()


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a disk of 256 KiB: a real one where this user may mount one, else writes that fail after as many bytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and sys.platform == "linux" and os.geteuid() == 0
    if mounted and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk]).returncode == 0:
        yield disk
        subprocess.run(["umount", disk], check=True)
        return
    pwrite, room = os.pwrite, [256 << 10]

    def limited(descriptor: int, data: memoryview, offset: int) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = pwrite(descriptor, data[: room[0]], offset)
        room[0] -= written
        return written

    monkeypatch.setattr(os, "pwrite", limited)
    yield disk
    monkeypatch.undo()


def test_a_full_disk_is_one_clear_error_and_what_is_synced_is_kept(
    tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = whole_files(tmp_path / "whole", size=200_000)
    directory = outline(small_disk / "share", files)
    span, step = data_of(files[ONE]), 32 << 10
    monkeypatch.setattr(share, "SYNC_BYTES", step)
    writer = Share(directory)

    def fill() -> None:
        for start in range(0, len(span), step):
            store(writer, files, ONE, span[start : start + step])

    with pytest.raises(CheckpointError, match=r"full: [\d,]+ more bytes are needed, [\d,]+ are free; .*moe-cluster rm"):
        fill()
    kill(writer)
    reader = Share(directory)
    assert reader.nbytes_present >= 3 * step
    for part in reader.present(ONE, span):
        assert read(reader, ONE, part) == files[ONE][part.start : part.stop]
    with pytest.raises(CheckpointError, match="bytes are needed, but the disk has"):
        reader.require_room(1 << 60)
    reader.close()


def test_after_a_failed_sync_only_what_was_recorded_counts(
    directory: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    span = data_of(files[ONE])
    writer = Share(directory)
    store(writer, files, ONE, span[:10])
    writer.sync()
    store(writer, files, ONE, span[10:20])

    def fails(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(durable_file, "sync", fails)
        with pytest.raises(CheckpointError, match="Input/output error"):
            writer.sync()
    assert writer.present(ONE, span) == [span[:10]]
    with pytest.raises(CheckpointError, match="Input/output error"):
        store(writer, files, ONE, span[20:30])
    kill(writer)
    assert Share(directory).present(ONE, span) == [span[:10]]


def test_unknown_files_and_ranges_are_refused(directory: Path, files: dict[str, bytes]) -> None:
    writer = Share(directory)
    with pytest.raises(CheckpointError, match=r"no header of other\.safetensors"):
        writer.write("other.safetensors", 0, memoryview(b"x"))
    for span in (range(0, 9), range(len(files[ONE]) - 1, len(files[ONE]) + 1)):
        with pytest.raises(ValueError, match="outside the data"):
            writer.write(ONE, span.start, memoryview(bytes(len(span))))
    writer.close()


class Kills(RuleBasedStateMachine):
    """Writers that are killed, or lose power, at any time; what counts afterwards is always right."""

    @initialize(digests=st.booleans())
    def start(self, digests: bool) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.files = whole_files(self.root / "whole", size=30)
        self.directory = outline(self.root / "share", self.files, digests=digests)
        self.on_disk: dict[Path, bytes] = {}
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(durable_file, "sync", self.remember)
        self.writer = Share(self.directory)

    def remember(self, descriptor: int) -> None:
        """Keep the content of a part file, as a disk does that was told to."""
        for part in self.directory.glob("*.part"):
            if os.path.sameopenfile(descriptor, handle := os.open(part, os.O_RDONLY)):
                self.on_disk[part] = part.read_bytes()
            os.close(handle)

    @rule(file=st.sampled_from(FILES), start=st.integers(0, 59), length=st.integers(1, 60))
    def write(self, file: str, start: int, length: int) -> None:
        store(self.writer, self.files, file, data_of(self.files[file])[start : start + length])

    @rule()
    def sync(self) -> None:
        self.writer.sync() if self.writer._lock_file >= 0 else None

    @rule()
    def close(self) -> None:
        self.writer.close()
        self.writer = Share(self.directory)

    @rule(loses_power=st.booleans())
    def kill(self, loses_power: bool) -> None:
        kill(self.writer)
        for part in self.directory.glob("*.part") if loses_power else ():
            with part.open("r+b") as file:
                size = part.stat().st_size
                file.write(self.on_disk.get(part, bytes(size)))
        self.writer = Share(self.directory)

    @rule(file=st.sampled_from(FILES), length=st.integers(0, 200))
    def tear_record(self, file: str, length: int) -> None:
        kill(self.writer)
        record = partial_file.record_path(self.directory / file)
        if record.exists():
            os.truncate(record, min(length, record.stat().st_size))
        self.writer = Share(self.directory)

    @rule()
    def swap_records(self) -> None:
        kill(self.writer)
        one, other = (partial_file.record_path(self.directory / file) for file in FILES)
        if one.exists() and other.exists():
            texts = one.read_bytes(), other.read_bytes()
            other.write_bytes(texts[0])
            one.write_bytes(texts[1])
        self.writer = Share(self.directory)

    @invariant()
    def what_counts_is_right(self) -> None:
        if not hasattr(self, "writer"):
            return
        for reader in (self.writer, Share(self.directory)):
            for file, content in self.files.items():
                for part in reader.present(file, data_of(content)):
                    assert read(reader, file, part) == content[part.start : part.stop]
                if (self.directory / file).exists():
                    assert (self.directory / file).read_bytes() == content
            if reader is not self.writer:
                reader.close()

    def teardown(self) -> None:
        if hasattr(self, "writer"):
            for file in FILES:
                store(self.writer, self.files, file)
            self.writer.close()
            assert {file: (self.directory / file).read_bytes() for file in FILES} == self.files
            assert not [*self.directory.glob("*.part"), *self.directory.glob("*.ranges")]
            self.patch.undo()
            shutil.rmtree(self.root)


TestKills = Kills.TestCase
TestKills.settings = settings(max_examples=40, stateful_step_count=20)


def test_the_identity_is_that_of_the_weight_files() -> None:
    weights = {ONE: OriginFile(1, "a" * 64), TWO: OriginFile(2, "b" * 64)}
    origin = Origin("org/name", "c" * 40, weights | {"config.json": OriginFile(3)})
    assert origin.identity == Origin("other/name", "d" * 40, weights).identity != ""
    assert origin.identity != Origin("org/name", "c" * 40, weights | {TWO: OriginFile(2, "c" * 64)}).identity
    untold = weights | {TWO: OriginFile(2)}
    assert Origin("org/name", "c" * 40, untold).identity == Origin("org/name", "c" * 40, {}).identity
    assert Origin("org/name", "c" * 40, untold).identity != Origin("org/name", "d" * 40, untold).identity
    assert Origin().identity == ""


@pytest.mark.parametrize(
    "text", ["{}", '{"repo_id": "a", "commit": 1, "files": {}}', '{"repo_id": "a", "commit": "b", "files": {"c": 1}}']
)
def test_a_damaged_origin_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "origin.json").write_text(text)
    with pytest.raises(CheckpointError, match="damaged: delete"):
        Origin.of(tmp_path)


def test_an_origin_is_read_as_it_was_stored(tmp_path: Path) -> None:
    assert Origin.of(tmp_path) == Origin()
    origin = Origin("org/name", "c" * 40, {ONE: OriginFile(5, "a" * 64), "config.json": OriginFile(2)})
    origin.store(tmp_path)
    assert Origin.of(tmp_path) == origin
    assert json.loads((tmp_path / "origin.json").read_text()).keys() == {"repo_id", "commit", "files"}
