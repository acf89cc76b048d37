"""Read bytes: what a load read from the disk is what it did not read elsewhere."""

from collections.abc import Sequence

from cluster.worker.read_bytes import ReadBytes

FILE = "model.safetensors"


class Zeros:
    """A source of zeros."""

    name = "huggingface.co"

    def present(self, file: str, span: range) -> list[range]:  # noqa: ARG002
        return [span]

    def read_into(self, file: str, ranges: Sequence[range], memory: memoryview) -> None:
        pass

    def close(self) -> None:
        pass


def test_a_load_reads_some_bytes_elsewhere_and_the_others_from_the_disk() -> None:
    read = ReadBytes()
    for _ in range(2):
        (hub,) = read.counting([Zeros()])
        read.progress(hub.name, 100)
        hub.read_into(FILE, [range(30)], memoryview(bytearray(30)))
        read.loaded()
    assert (read.disk, read.peers, read.hub) == (2 * 70, 0, 2 * 30)


def test_what_was_kept_on_the_disk_before_it_is_loaded_counts_twice() -> None:
    read = ReadBytes()
    (hub,) = read.counting([Zeros()])
    read.progress(hub.name, 30)
    hub.read_into(FILE, [range(30)], memoryview(bytearray(30)))
    read.progress("", 100)
    read.loaded()
    assert (read.disk, read.hub) == (100, 30)


def test_a_load_that_reuses_everything_reads_nothing() -> None:
    read = ReadBytes()
    read.progress("", 100)
    read.loaded()
    read.loaded()
    assert read.disk == 100
