"""Role: what each node of a placement holds, and whom it speaks to."""

import json

import pytest

from cluster.cost_reader import read_costs
from cluster.errors import PlacementError
from cluster.placement import ExpertPeer, Placement, StagePlacement
from cluster.worker.role import Role
from mlx_moe import families
from mlx_moe.checkpoint import json_file, library
from mlx_moe.errors import InvalidRequestError

PLACEMENT = Placement(
    "demo",
    "",
    (
        StagePlacement("a", range(2)),
        StagePlacement(
            "b", range(2, 5), {2: (0, 2), 3: (0, 1)}, (ExpertPeer("c", {2: (1, 3)}), ExpertPeer("d", {3: (2, 3)}))
        ),
        StagePlacement("e", range(5, 6)),
    ),
    512,
    1,
    1024,
    {},
)


@pytest.mark.parametrize(
    ("node", "index", "leads", "coordinates", "before", "after"),
    [("a", 0, True, True, "e", "b"), ("b", 1, True, False, "a", "e"), ("e", 2, True, False, "b", "a")],
)
def test_leaders_form_a_ring(node: str, index: int, leads: bool, coordinates: bool, before: str, after: str) -> None:
    role = Role.read(json.dumps(PLACEMENT.to_json()), node)
    assert (role.index, role.leads, role.coordinates) == (index, leads, coordinates)
    assert (role.previous_node, role.next_node) == (before, after)


def test_a_leader_holds_all_experts_but_those_that_peers_own() -> None:
    spec = Role.of(PLACEMENT, "b").shard_spec()
    assert (spec.layers, spec.owned_experts) == (range(2, 5), {2: (0, 2), 3: (0, 1)})


def test_a_peer_holds_its_experts_and_none_of_the_other_layers() -> None:
    role = Role.of(PLACEMENT, "c")
    assert (role.leads, role.coordinates) == (False, False)
    spec = role.shard_spec()
    assert (spec.layers, dict(spec.owned_experts)) == (range(2, 5), {2: (1, 3), 3: (), 4: ()})


def test_owners_are_numbered_from_the_leader_in_the_layers_that_are_split() -> None:
    path = library.locate("demo") / "config.json"
    config = families.read_config(json_file.read(path), str(path))
    owners = Role.of(PLACEMENT, "b").owners(config)
    assert owners == {2: {0: (0, 2), 1: (1, 3)}, 3: {0: (0, 1), 1: (2, 3)}}


def test_a_node_without_a_part_and_what_is_no_placement_are_refused() -> None:
    with pytest.raises(PlacementError, match="this node has no part"):
        Role.of(PLACEMENT, "z")
    for text in ("{", "[]", "{}", '{"stages": []}', "[" * 100_000):
        with pytest.raises(InvalidRequestError):
            Role.read(text, "a")


def test_the_placement_above_is_of_the_demo() -> None:
    assert len(read_costs("demo", float_bytes=4).layers) == PLACEMENT.stages[-1].layers.stop
