"""Content: identifies a model by digests of its configuration and of samples of its parameters.

Two copies have the same content if they compute the same: equal fields of ModelConfig, and equal dtype, shape and bytes
of every parameter that the engine reads. Names and number of files, the layout of the experts (stacked, a tensor each,
or fused), other tensors, and the spelling of config.json do not matter. The same numbers with other bytes, transposed
or quantized, are another content. Imports no MLX.

Samples of a parameter's bytes are read at positions that depend only on its size and number of experts. So another
training run, quantization or merge is detected in every parameter that it changed. Not detected are changed bytes
between the samples, such as a few edited rows of a large matrix.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from mlx_moe import families
from mlx_moe.checkpoint.checkpoint import Checkpoint, Piece
from mlx_moe.checkpoint.form import StoredArray
from mlx_moe.checkpoint.parameter import Parameter
from mlx_moe.checkpoint.stored_parameter import StoredParameter, find
from mlx_moe.config import ModelConfig
from mlx_moe.manifest import Entry, Manifest, Run, digest_of, field_names

WHOLE_BYTES = 64 << 10
"""Arrays up to this size are read completely: vectors, small scales."""

SAMPLE_BYTES = 4096
BYTES_A_SAMPLE = 16 << 20
"""Larger arrays are sampled at both ends, in the middle, in every expert's matrix, and in every 16 MiB."""

Stored = Mapping[str, Sequence[StoredParameter]]
"""Parameters by the part of the model that they belong to, such as "layer 3"."""

DIGEST_DIGITS = 16

AT_ONCE = 4
"""Threads that read; more make no warm read faster, and one waits for each sample of a cold one."""
BATCH = 16


@dataclass(frozen=True, slots=True)
class _Found:
    """An array of a parameter that a checkpoint stores, and the part of the model that it belongs to."""

    part: str
    stored: StoredParameter
    array: StoredArray

    @property
    def n_experts(self) -> int:
        """How many matrices of experts it stacks; 1 for other arrays."""
        return self.stored.origin.layout.shape[0] if self.stored.parameter.routed else 1

    @property
    def outline(self) -> str:
        """What its headers say."""
        layout = self.stored.origin.layout
        turned, alternating = " transposed" * layout.transposed, " alternating" * layout.alternating
        return f"{self.array.dtype}{list(self.array.shape)}{turned}{alternating}"


def read_content(checkpoint: Checkpoint, config: ModelConfig, stored: Stored | None = None) -> Manifest:
    """Read the content of a checkpoint whose data are on this machine; of others only the `outline_hash` is known.

    `stored` has all parameters, if they have been found already.

    Raises:
        CheckpointError: a parameter is missing, or its bytes cannot be read.
        UnsupportedModelError: a parameter is stored in a form that is not supported.
    """
    found = list(_arrays(find_all(checkpoint, config) if stored is None else stored))
    digests = _digests(checkpoint, found)
    entries = tuple(
        Entry(f.stored.parameter.name, f.part, f.array.dtype, f.array.shape, digest, _runs(checkpoint, f.array))
        for f, digest in zip(found, digests, strict=True)
    )
    return Manifest(_fields(config), entries)


def read_tensors(checkpoint: Checkpoint, config: ModelConfig, parameter: str) -> list[tuple[str, str]]:
    """Read what the stored tensors of one parameter are, by their names: dtype, shape and digest.

    A stack of experts has one for each expert, whatever its layout, with the shape of the stack. Two copies have them
    in the same order. An unknown parameter has none. Raises as `read_content`.
    """
    found = _arrays(find_all(checkpoint, config, parameter))
    return [pair for f in found for pair in _expert_digests(checkpoint, f)]


def find_all(checkpoint: Checkpoint, config: ModelConfig, name: str | None = None) -> Stored:
    """Find all parameters, or the one with a name, in the model's order. Raises as `read_content`."""
    parts = _parameters(checkpoint, config)
    return {part: find(checkpoint, [p for p in found if name in (None, p.name)]) for part, found in parts}


def outline_hash(checkpoint: Checkpoint, config: ModelConfig) -> str:
    """Return a hash of the configuration and of every parameter's dtypes and shape, which reads only headers.

    Copies with the same content have the same outline, and so have all fine-tunes of a model in the same form: it can
    exclude a copy whose data are elsewhere, never identify it. Raises as `read_content`.
    """
    arrays = [f"{f.stored.parameter.name} {f.outline}" for f in _arrays(find_all(checkpoint, config))]
    return digest_of([config_hash(config), *sorted(arrays)], size=16)


def config_hash(config: ModelConfig) -> str:
    """Return a hash of the configuration, which needs no tensors: only they tell whether an lm_head is tied."""
    config = replace(config, tie_word_embeddings=False)
    return digest_of([f"{name} {value}" for name, value in sorted(field_names(_fields(config)).items())], size=16)


def samples(nbytes: int, n_experts: int) -> list[range]:
    """Return the samples of an array of `n_experts` matrices, as ranges of its bytes.

    They are evenly spread from its first byte to its last. Each is within one expert's matrix, unless all is read.
    """
    n_samples = n_experts * math.ceil(max(3, nbytes / BYTES_A_SAMPLE) / n_experts)
    if nbytes <= max(WHOLE_BYTES, n_samples * SAMPLE_BYTES):
        return [range(nbytes)]
    last = nbytes - SAMPLE_BYTES
    starts = (i * last // (n_samples - 1) for i in range(n_samples))
    return [range(start, start + SAMPLE_BYTES) for start in starts]


def _fields(config: ModelConfig) -> dict[str, str]:
    """Return the configuration's fields as JSON texts."""
    fields = dataclasses.asdict(config)
    return {name: json.dumps(value, sort_keys=True, default=sorted) for name, value in fields.items()}


def _parameters(checkpoint: Checkpoint, config: ModelConfig) -> Iterator[tuple[str, list[Parameter]]]:
    """Yield the parameters of each part of the model."""
    experts = range(config.moe.n_routed_experts)
    yield "embedding, final norm and lm_head", families.head_parameters(config)
    for index in range(config.num_hidden_layers):
        yield f"layer {index}", families.layer(config, index).parameters(experts)
    if families.has_mtp(checkpoint, config):
        yield "multi-token prediction", families.mtp_parameters(config)


def _arrays(stored: Stored) -> Iterator[_Found]:
    for part, parameters in stored.items():
        yield from (_Found(part, parameter, array) for parameter in parameters for array in parameter.arrays)


def _digests(checkpoint: Checkpoint, found: Sequence[_Found]) -> list[str]:
    """Return the digests of arrays, which are read in the order of the files by AT_ONCE threads."""

    def place(index: int) -> tuple[str, int]:
        info = checkpoint.info(found[index].array.pieces[0].name)
        return str(info.path), info.offset

    def read(indices: Sequence[int]) -> list[tuple[int, str]]:
        return [(index, _digest(checkpoint, found[index], range(found[index].array.nbytes))) for index in indices]

    order = sorted(range(len(found)), key=place)
    batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        digests = dict(pair for pairs in threads.map(read, batches) for pair in pairs)
    return [digests[index] for index in range(len(found))]


def _expert_digests(checkpoint: Checkpoint, found: _Found) -> Iterator[tuple[str, str]]:
    """Yield the stored tensor's name, and the outline and digest, of each expert's matrix; of other arrays one."""
    matrix_bytes = found.array.nbytes // found.n_experts
    for start in range(0, found.array.nbytes, matrix_bytes):
        (first,) = _pieces(found.array, [range(start, start + 1)])
        digest = _digest(checkpoint, found, range(start, start + matrix_bytes))
        yield first.name, f"{found.outline} {digest}"


def _digest(checkpoint: Checkpoint, found: _Found, span: range) -> str:
    """Return the digest of the samples within a span of an array's bytes."""
    taken = samples(found.array.nbytes, found.n_experts)
    within = (range(max(sample.start, span.start), min(sample.stop, span.stop)) for sample in taken)
    pieces = list(_pieces(found.array, within))
    data = bytearray(sum(piece.nbytes for piece in pieces))
    checkpoint.read_into(pieces, data)
    digest = hashlib.sha256(found.outline.encode())  # with the processor's instructions, twice as fast as blake2b
    digest.update(data)
    return digest.hexdigest()[:DIGEST_DIGITS]


def _pieces(array: StoredArray, spans: Iterable[range]) -> Iterator[Piece]:
    """Yield the pieces of tensors in which spans of an array's bytes are stored; spans are in order, or empty."""
    stored = iter(array.pieces)
    piece, begin = next(stored), 0
    for span in spans:
        start = span.start
        while start < span.stop:
            while start >= begin + piece.nbytes:
                begin += piece.nbytes
                piece = next(stored)
            stop = min(span.stop, begin + piece.nbytes)
            yield Piece(piece.name, piece.start_byte + start - begin, stop - start)
            start = stop


def _runs(checkpoint: Checkpoint, array: StoredArray) -> tuple[Run, ...]:
    return tuple(
        Run(path.name, span.start, len(span)) for path, spans in checkpoint.ranges(array.pieces) for span in spans
    )
