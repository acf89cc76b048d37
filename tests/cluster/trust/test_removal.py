"""Removals: signed by the authority, never taken back, merged in any order."""

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import TrustError
from cluster.trust import Removal, RemovedNodes
from cluster.trust.removal import MAX_REMOVALS, MAX_UNKNOWN
from tests.cluster.trust.first_node import FirstNode

A, B = "a" * 16, "b" * 16


def removed_nodes(first_node: FirstNode, path: Path) -> RemovedNodes:
    return RemovedNodes(path, first_node.authority.certificate)


def test_a_removal_is_known_to_every_process_of_the_home_and_after_a_restart(
    first_node: FirstNode, tmp_path: Path
) -> None:
    daemon = removed_nodes(first_node, tmp_path / "removed.json")
    worker = removed_nodes(first_node, tmp_path / "removed.json")
    assert A not in worker
    removal = first_node.authority.remove(A, "mac-2")
    assert daemon.add([removal]) == (removal,)
    assert daemon.add([removal]) == ()
    assert worker.get(A) == removal
    assert B not in worker
    assert "node mac-2 was removed from the cluster on 20" in removal.words
    assert "moe-cluster leave" in removal.words


def test_what_another_key_has_signed_or_somebody_has_changed_removes_nobody(
    first_node: FirstNode, tmp_path: Path
) -> None:
    nodes = removed_nodes(first_node, tmp_path / "removed.json")
    good = first_node.authority.remove(A, "mac-2")
    foreign = FirstNode(tmp_path / "foreign").authority.remove(A, "mac-2")
    changed = [replace(good, node_id=B), replace(good, name="mac-3"), replace(good, at_s=good.at_s + 1)]
    assert nodes.add([foreign, *changed, replace(good, signature=b""), replace(good, signature=b"noise")]) == ()
    assert not (tmp_path / "removed.json").exists()


def test_no_more_is_checked_or_stored_than_a_cluster_can_have(first_node: FirstNode, tmp_path: Path) -> None:
    nodes = removed_nodes(first_node, tmp_path / "removed.json")
    signed = [first_node.authority.remove(f"{n:016x}", f"mac-{n}") for n in range(MAX_REMOVALS + 1)]
    assert len(nodes.add(signed)) == MAX_UNKNOWN
    for _ in range(MAX_REMOVALS):
        nodes.add(signed)
    assert len(nodes.all()) == MAX_REMOVALS


@pytest.mark.parametrize("content", ["{", "[{}]", '[{"node_id": 1}]', "[" * 100_000])
def test_a_damaged_list_is_one_error_with_the_cure(first_node: FirstNode, tmp_path: Path, content: str) -> None:
    path = tmp_path / "removed.json"
    path.touch(mode=0o600)
    path.write_text(content)
    with pytest.raises(TrustError, match=r"removed\.json cannot be read .* delete it"):
        removed_nodes(first_node, path).get(A)


def test_what_the_authority_signs_for_another_purpose_is_no_removal() -> None:
    assert not Removal.signed_bytes(A, "x", 1).startswith(b"\x30")  # as every certificate does
    assert Removal.signed_bytes(A, "1\0x", 2) != Removal.signed_bytes(A, "x", 21)
