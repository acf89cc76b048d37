"""Model list: the models on the disks of nodes, as values and as messages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cluster.home import Home
from cluster.uses import Uses
from cluster.wire import node_pb2 as pb
from mlx_moe.checkpoint.inventory import Place, StoredModel, stored_models


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model on a node's disk. `used_at` is when the node last loaded it, in seconds since 1970; None: never."""

    node: str
    model: StoredModel
    used_at: float | None


def of_this_machine(home: Home, node: str) -> list[ListedModel]:
    """Return the models on this machine's disk, for a node with this name."""
    uses = Uses(home.uses)
    return [ListedModel(node, model, uses.last(model.path)) for model in stored_models(home.models)]


def to_message(listed: Iterable[ListedModel]) -> pb.ModelList:
    """Return models as a message that `from_message` reads."""
    return pb.ModelList(models=[_message(one) for one in listed])


def from_message(message: pb.ModelList) -> list[ListedModel]:
    """Return the models of a message, without those in places that only another version knows."""
    return [_listed(one) for one in message.models if one.place in list(Place)]


def _message(listed: ListedModel) -> pb.ListedModel:
    model = listed.model
    layers = model.layers or range(0)
    return pb.ListedModel(
        node=listed.node,
        name=model.name,
        revision=model.revision,
        place=model.place,
        path=str(model.path),
        model_type=model.model_type,
        form=model.form,
        weights_bytes=model.weights_bytes,
        total_bytes=model.total_bytes,
        disk_bytes=model.disk_bytes,
        n_files=model.n_files,
        n_missing=model.n_missing,
        first_layer=layers.start,
        end_layer=layers.stop,
        damage=model.damage,
        used_at=listed.used_at or 0.0,
    )


def _listed(message: pb.ListedModel) -> ListedModel:
    model = StoredModel(
        name=message.name,
        revision=message.revision,
        place=Place(message.place),
        path=Path(message.path),
        model_type=message.model_type,
        form=message.form,
        weights_bytes=message.weights_bytes,
        total_bytes=message.total_bytes,
        disk_bytes=message.disk_bytes,
        n_files=message.n_files,
        n_missing=message.n_missing,
        layers=range(message.first_layer, message.end_layer) or None,
        damage=message.damage,
    )
    return ListedModel(message.node, model, message.used_at or None)
