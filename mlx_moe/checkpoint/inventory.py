"""Inventory: the models on this machine's disk, each whole, in part or damaged. Imports no MLX.

It reads the headers less strictly than `tensor_file`, in a tenth of the time: a file is damaged if its header is not
JSON, or does not describe as many bytes as the file has. Loading a model finds the rest.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from mlx_moe.checkpoint import hub_cache, json_file, library, other_formats, tensor_file
from mlx_moe.checkpoint.regular_file import open_regular
from mlx_moe.checkpoint.share import Share
from mlx_moe.checkpoint.tensor_file import HEADER_SUFFIX, LENGTH_BYTES, TensorFile
from mlx_moe.checkpoint.weight_files import INDEX_NAME, WeightFiles
from mlx_moe.errors import CheckpointError

_LAYER = re.compile(r"\blayers\.(\d+)\.")
_OF_HIDDEN_STATES = re.compile(r"\.(?:gate_proj|up_proj|gate_up_proj|w1|w3|q_proj|q_a_proj)\.weight(?:_packed)?$")
"""Matrices whose rows have `hidden_size` inputs."""

_BLOCK_FORMATS = {(4, 32): "mxfp4", (4, 16): "nvfp4", (8, 32): "mxfp8"}
"""Formats with one byte for a scale, by bits and group size."""

_WORD_BITS = 32
_BLOCK_BYTES = 512
"""Unit of `st_blocks`."""


class Place(StrEnum):
    """Where a model is: in the Hugging Face cache, begun there by `pull`, in a user's folder, or kept by a node."""

    CACHE = "cache"
    DOWNLOAD = "download"
    FOLDER = "folder"
    SHARE = "share"


class State(StrEnum):
    """Whether a model can be loaded from this disk alone."""

    WHOLE = "whole"
    PART = "part"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model on this disk.

    `name` is what `library.locate` finds it by; `revision` is a commit, "" in a folder. `form` says how most weights
    are stored: "4 bit", "mxfp4", "fp8", "bf16". `weights_bytes` are here, of `total_bytes` (0: unknown), in
    `n_files - n_missing` of `n_files` files; `disk_bytes` are those with all other files. `layers` are the layers that
    are here completely, None if they are not consecutive or the model is whole. `damage` says what is wrong, and the
    cure.
    """

    name: str
    revision: str
    place: Place
    path: Path
    model_type: str = ""
    form: str = ""
    weights_bytes: int = 0
    total_bytes: int = 0
    disk_bytes: int = 0
    n_files: int = 0
    n_missing: int = 0
    layers: range | None = None
    damage: str = ""

    @property
    def state(self) -> State:
        """Whether it can be loaded from this disk alone."""
        if self.damage:
            return State.DAMAGED
        return State.PART if self.n_missing or self.weights_bytes < self.total_bytes else State.WHOLE


def stored_models(shares: Path) -> list[StoredModel]:
    """Return the models in the cache, in the folders of `library.FOLDERS_VARIABLE`, and those kept below `shares`."""
    return [_describe(*found) for found in (*_in_cache(), *_downloads(), *_in_folders(), *_in_shares(shares))]


def _in_cache() -> Iterator[tuple[str, str, Place, Path]]:
    for path in sorted(hub_cache.directory().glob("models--*/snapshots/*"), key=lambda path: str(path).lower()):
        if path.is_dir() and (repo_id := hub_cache.repo_of(path)) and _is_model(path):
            yield repo_id, path.name, Place.CACHE, path


def _downloads() -> Iterator[tuple[str, str, Place, Path]]:
    for repo_id, path in hub_cache.stagings():
        yield repo_id, path.name, Place.DOWNLOAD, path


def _in_folders() -> Iterator[tuple[str, str, Place, Path]]:
    for name, path in library.in_folders():
        yield name, "", Place.FOLDER, path


def _in_shares(shares: Path) -> Iterator[tuple[str, str, Place, Path]]:
    for path in sorted(shares.glob("[!.]*/[!.]*")):
        if path.is_dir() and _is_model(path):
            yield path.parent.name.replace("--", "/", 1), path.name, Place.SHARE, path


def _is_model(path: Path) -> bool:
    return any((path / name).exists() for name in ("config.json", INDEX_NAME)) or any(path.glob("*.safetensors*"))


def _describe(name: str, revision: str, place: Place, path: Path) -> StoredModel:
    found: dict[str, Any] = {}
    try:
        found["disk_bytes"] = sum(_disk_bytes(entry) for entry in path.iterdir())
        config = json_file.read(path / "config.json")
        found["model_type"] = str(config.get("model_type", ""))
        has_parts = any(path.glob(f"*{HEADER_SUFFIX}"))
        found |= _share(path, config) if has_parts else _whole_files(path, config)
    except CheckpointError as error:
        found["damage"] = str(error)
    except OSError as error:
        found["damage"] = f"{path} cannot be read: {error.strerror}"
    return StoredModel(name, revision, place, path, **found)


def _whole_files(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a directory has that has no file in part."""
    files = WeightFiles.of(path)
    if not files.own and not files.missing:
        what = other_formats.beside(path) or f"there are no safetensors files: {hub_cache.cure(path)}"
        raise CheckpointError(f"{path}: {what}")
    tensors: dict[str, _Tensor] = {}
    for file in files.own:
        tensors |= _tensors(file)
    weights_bytes = sum(file.stat().st_size for file in files.own)
    return {
        "form": _form(tensors, config),
        "weights_bytes": weights_bytes,
        "total_bytes": 0 if files.missing else weights_bytes,
        "n_files": len(files.own) + len(files.missing),
        "n_missing": len(files.missing),
    }


def _share(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a directory has that has files in part."""
    files = WeightFiles.of(path)
    headers = [tensor_file.read(file) for file in (*files.own, *files.others)]
    tensors = {t.name: _Tensor(t.dtype, t.shape, t.nbytes) for header in headers for t in header.tensors.values()}
    with closing(Share(path, headers)) as share:
        return {
            "form": _form(tensors, config),
            "weights_bytes": share.nbytes_present,
            "total_bytes": share.nbytes,
            "n_files": len(headers) + len(files.missing),
            "n_missing": len(files.missing),
            "layers": _layers(share, headers),
        }


def _layers(share: Share, headers: Sequence[TensorFile]) -> range | None:
    """Return the layers of which all tensors are here, None if they are none or not consecutive."""
    seen, lacking = set(), set()
    for header in headers:
        for tensor in header.tensors.values():
            if match := _LAYER.search(tensor.name):
                seen.add(int(match[1]))
                span = range(tensor.offset, tensor.offset + tensor.nbytes)
                if sum(map(len, share.present(header.path.name, span))) < len(span):
                    lacking.add(int(match[1]))
    layers = sorted(seen - lacking)
    return range(layers[0], layers[-1] + 1) if layers and layers[-1] - layers[0] + 1 == len(layers) else None


class _Tensor(NamedTuple):
    dtype: str
    shape: Sequence[int]
    nbytes: int


def _tensors(path: Path) -> dict[str, _Tensor]:
    """Return the tensors of a whole file. Raises CheckpointError if its header and its size do not match."""
    with open_regular(path) as file:
        size = path.stat().st_size
        data_start = tensor_file.header_bytes(path, file.read(LENGTH_BYTES), size)
        header = file.read(data_start - LENGTH_BYTES)
    try:
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        tensors = {name: _tensor(entry) for name, entry in entries.items()}
        end = data_start + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as exc:
        raise CheckpointError(f"{path}: its header is damaged: {hub_cache.cure(path.parent)}") from exc
    if end != size:
        raise CheckpointError(f"{path} has {size} bytes, its tensors end at {end}: {hub_cache.cure(path.parent)}")
    return tensors


def _tensor(entry: Mapping[str, Any]) -> _Tensor:
    start, end = entry["data_offsets"]
    return _Tensor(entry["dtype"], entry["shape"], end - start)


def _form(tensors: Mapping[str, _Tensor], config: Mapping[str, Any]) -> str:
    """Return how most bytes are stored; the bits of packed words follow from the number of inputs of a row."""
    counts: Counter[str] = Counter()
    for tensor in tensors.values():
        counts[tensor.dtype] += tensor.nbytes
    dtype = max(counts, key=lambda kind: counts[kind], default="")
    packed = {name: t for name, t in tensors.items() if t.dtype == dtype}
    if dtype == "U8" and any(name.endswith("_blocks") for name in packed):
        return "mxfp4"
    if dtype == "I32" and any(name.endswith(".qweight") for name in packed):
        return "GPTQ or AWQ"
    if dtype in ("U32", "I32"):
        return _packed_form(tensors, packed, config.get("hidden_size"))
    return "fp8" if dtype.startswith("F8") else dtype.lower()


def _packed_form(tensors: Mapping[str, _Tensor], packed: Mapping[str, _Tensor], hidden_size: object) -> str:
    rows = [name for name in packed if _OF_HIDDEN_STATES.search(name)]
    if not rows or not isinstance(hidden_size, int) or hidden_size < 1:
        return "quantized"
    name = max(rows, key=lambda name: packed[name].nbytes)
    bits = packed[name].shape[-1] * _WORD_BITS // hidden_size
    if packed[name].dtype == "I32":
        return f"int{bits}"
    scales = tensors.get(f"{name.removesuffix('.weight')}.scales")
    if scales and scales.dtype == "U8":
        return _BLOCK_FORMATS.get((bits, hidden_size // scales.shape[-1]), "quantized")
    return f"{bits} bit"


def _disk_bytes(entry: Path) -> int:
    """Return the bytes of a file on its disk, without the holes of a sparse one; 0 for other entries."""
    return entry.stat().st_blocks * _BLOCK_BYTES if entry.is_file() else 0
