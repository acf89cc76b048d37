"""Node options: what `up` was given in a home comes again, and what is given again takes its place."""

from pathlib import Path

import pytest

from cluster.errors import ClusterError
from cluster.node.options import NodeOptions
from mlx_moe.errors import InvalidRequestError

OPTIONS = NodeOptions("my mac", "10.0.0.1", 0, 48 * 10**9, ("10.0.0.2:7420", "[fd00::1]:7420"))


@pytest.mark.parametrize("options", [OPTIONS, NodeOptions(), NodeOptions(peers=()), NodeOptions(host="")])
def test_options_are_remembered_as_they_were(tmp_path: Path, options: NodeOptions) -> None:
    options.write(tmp_path / "options.json")
    assert NodeOptions.read(tmp_path / "options.json") == options


def test_a_home_without_any_remembers_none(tmp_path: Path) -> None:
    assert NodeOptions.read(tmp_path / "options.json") == NodeOptions()


def test_what_is_given_again_takes_the_place_of_what_was_given_before() -> None:
    assert NodeOptions(port=7430, peers=("mac-2:1",)).over(OPTIONS) == NodeOptions(
        "my mac", "10.0.0.1", 7430, 48 * 10**9, ("mac-2:1",)
    )


def test_they_are_shown_as_they_are_typed() -> None:
    expected = ["--name", "my mac", "--host", "10.0.0.1", "--port", "0", "--memory", "48GB"]
    assert OPTIONS.words() == [*expected, "--peer", "10.0.0.2:7420", "--peer", "[fd00::1]:7420"]
    amounts = [NodeOptions(memory_bytes=n).words()[1] for n in (3 << 29, 1 << 30, 5 * 10**6, 7)]
    assert amounts == ["1536MiB", "1GiB", "5MB", "7B"]


@pytest.mark.parametrize(
    "content",
    ["", "[]", "null", "{}", "[" * 100_000, '{"peers": 1}', '{"peers": ["nowhere"]}', '{"port": "x", "peers": null}'],
)
def test_a_damaged_file_is_an_error_with_the_cure(tmp_path: Path, content: str) -> None:
    path = tmp_path / "options.json"
    path.write_text(content)
    with pytest.raises(ClusterError, match=r"options\.json.*delete the file"):
        NodeOptions.read(path)


def test_a_peer_that_is_no_address_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="HOST:PORT"):
        NodeOptions(peers=("nowhere",))
