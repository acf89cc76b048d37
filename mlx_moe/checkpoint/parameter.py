"""Parameter: one array of the model as the engine holds it, and the layouts in which a checkpoint may store its rows.

Checkpoints store a parameter in different layouts: all experts stacked in one tensor (mlx-community), one tensor per
expert (originals on the hub), or fused with another parameter (transformers 5). A layout lists the stored rows that
form the parameter, so that loading reads a list of byte ranges. Knows nothing about files or quantization.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Source:
    """Ranges of rows of one stored tensor, in order.

    `tensor` is the tensor's full name, `shape` its logical (unquantized) shape. Rows count over all axes but the last.
    """

    tensor: str
    shape: tuple[int, ...]
    rows: tuple[range, ...]


@dataclass(frozen=True, slots=True)
class Sign:
    """A stored tensor that has one of several shapes, depending on how a checkpoint stores others too."""

    tensor: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """Sources whose concatenation has `shape`; if `transposed`, its last two axes must be swapped for the parameter.

    `offset` is added to the stored numbers. A checkpoint without the `sign`, if there is one, has another layout.
    If `alternating`, the outputs of two joined projections take turns; otherwise all of the first one's come first.
    """

    shape: tuple[int, ...]
    sources: tuple[Source, ...]
    transposed: bool = False
    offset: float = 0.0
    sign: Sign | None = None
    alternating: bool = False

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def runs(self) -> list[tuple[Source, range]]:
        """Its ranges of rows, each with its source."""
        return [(source, rows) for source in self.sources for rows in source.rows]

    @property
    def matrices(self) -> list[Layout]:
        """The matrices over its first axis, if each has runs of rows of its own; otherwise none."""
        runs = [replace(source, rows=(rows,)) for source, rows in self.runs]
        n_runs, rest = divmod(len(runs), self.shape[0])
        if rest:
            return []
        shape = (1, *self.shape[1:])
        return [
            replace(self, shape=shape, sources=tuple(runs[start : start + n_runs]))
            for start in range(0, len(runs), n_runs)
        ]

    def cut(self, n_rows: int) -> Iterator[Layout]:
        """Yield its rows in order as matrices of `n_rows` rows, the last one of fewer."""
        sources: list[Source] = []
        room = n_rows
        for source, rows in self.runs:
            start = rows.start
            while start < rows.stop:
                end = min(start + room, rows.stop)
                sources.append(replace(source, rows=(range(start, end),)))
                room -= end - start
                start = end
                if not room:
                    yield replace(self, shape=(n_rows, self.shape[-1]), sources=tuple(sources))
                    sources, room = [], n_rows
        if sources:
            yield replace(self, shape=(n_rows - room, self.shape[-1]), sources=tuple(sources))


@dataclass(frozen=True, slots=True)
class Parameter:
    """One array of the model with its canonical `name`; the first layout that a checkpoint has is used.

    A `matrix` may be stored quantized along its last axis. `float32` parameters stay float32 on every backend. `routed`
    ones are stacks of routed experts.
    """

    name: str
    layouts: tuple[Layout, ...]
    matrix: bool = True
    float32: bool = False
    routed: bool = False


FUSED = ("experts.gate_up_proj", "experts.down_proj")
"""How transformers fuses experts in memory."""


def linear(
    path: str, out_features: int, in_features: int, *, float32: bool = False, also: Sequence[str] = ()
) -> Parameter:
    """Return the weight of a linear map or an embedding, `[out_features, in_features]`.

    `also` are other paths at which checkpoints have it.
    """
    shape = (out_features, in_features)
    return Parameter(path, tuple(whole(f"{p}.weight", shape) for p in (path, *also)), float32=float32)


def vector(name: str, size: int, *, float32: bool = False, also: Sequence[str] = ()) -> Parameter:
    """Return a norm's weight or a bias, `[size]`, stored under its full name, or under one of `also`."""
    return Parameter(name, tuple(whole(n, (size,)) for n in (name, *also)), matrix=False, float32=float32)


def as_row(parameter: Parameter) -> Parameter:
    """Return a vector that is stored as a matrix of one row, and kept so."""

    def layout(old: Layout) -> Layout:
        return replace(old, shape=(1, *old.shape), sources=tuple(replace(s, shape=(1, *s.shape)) for s in old.sources))

    return replace(parameter, layouts=tuple(map(layout, parameter.layouts)))


def with_offset(parameter: Parameter, offset: float, sign: Sign) -> Parameter:
    """Return a parameter that is stored without an `offset`, or with it where a checkpoint has the `sign`.

    It stays float32: the sum has more digits than the stored numbers.
    """
    added = (replace(layout, sign=sign) for layout in parameter.layouts)
    missing = (replace(layout, offset=offset) for layout in parameter.layouts)
    return replace(parameter, layouts=(*added, *missing), float32=True)


def renamed(parameter: Parameter, rename: Callable[[str], str]) -> Parameter:
    """Return a parameter whose stored tensors have other names."""

    def layout(old: Layout) -> Layout:
        sources = tuple(replace(source, tensor=rename(source.tensor)) for source in old.sources)
        sign = None if old.sign is None else replace(old.sign, tensor=rename(old.sign.tensor))
        return replace(old, sources=sources, sign=sign)

    return replace(parameter, layouts=tuple(map(layout, parameter.layouts)))


def halves(path: str, fused: str, names: tuple[str, str], out_features: int, in_features: int) -> list[Parameter]:
    """Return two linear maps below `path`, each `[out_features, in_features]`.

    Stored separately under their `names`, or one after the other in `fused`.
    """
    shape, stored = (out_features, in_features), (2 * out_features, in_features)
    parameters = []
    for name, start in zip(names, (0, out_features), strict=True):
        half = Source(f"{path}.{fused}.weight", stored, (range(start, start + out_features),))
        parameters.append(Parameter(f"{path}.{name}", (whole(f"{path}.{name}.weight", shape), Layout(shape, (half,)))))
    return parameters


def whole(tensor: str, shape: tuple[int, ...]) -> Layout:
    """Return the layout of a parameter that is stored as one whole tensor."""
    n_rows = 1
    for size in shape[:-1]:
        n_rows *= size
    return Layout(shape, (Source(tensor, shape, (range(n_rows),)),))


def experts(
    paths: Sequence[str],
    projection: str,
    name: str,
    n_experts: int,
    owned: Sequence[int],
    out_features: int,
    in_features: int,
    stacked: str = "switch_mlp",
    stacks: Sequence[tuple[str, str]] = (FUSED,),
) -> Parameter:
    """Return a projection of the owned experts, stacked: `[len(owned), out_features, in_features]`.

    Layouts, below the first of `paths` or another: stacked below `stacked`, as MLX calls it; one tensor per expert
    (called `name`); fused in `stacks`, one of gates and ups, the gate's rows first, and one of downs.
    """
    shape = (len(owned), out_features, in_features)
    layouts = [
        Layout(shape, sources)
        for path in paths
        for sources in _expert_sources(
            path, projection, name, n_experts, owned, out_features, in_features, stacked, stacks
        )
    ]
    return Parameter(f"{paths[0]}.experts.{projection}", tuple(layouts), routed=True)


def _expert_sources(
    path: str,
    projection: str,
    name: str,
    n_experts: int,
    owned: Sequence[int],
    out_features: int,
    in_features: int,
    stacked: str,
    stacks: Sequence[tuple[str, str]],
) -> Iterator[tuple[Source, ...]]:
    """Yield the sources of each layout below `path`."""
    stack = Source(
        f"{path}.{stacked}.{projection}.weight",
        (n_experts, out_features, in_features),
        tuple(range(e * out_features, (e + 1) * out_features) for e in owned),
    )
    yield (stack,)
    yield tuple(
        Source(
            f"{path}.experts.{e}.{name}.weight",
            (out_features, in_features),
            (range(out_features),),
        )
        for e in owned
    )
    is_down, parts = (True, 1) if projection == "down_proj" else (False, 2)
    first = out_features if projection == "up_proj" else 0
    starts = [e * parts * out_features + first for e in owned]
    rows = tuple(range(start, start + out_features) for start in starts)
    for stack_names in stacks:
        yield (Source(f"{path}.{stack_names[is_down]}", (n_experts, parts * out_features, in_features), rows),)


def latent_projections(path: str, heads: int, nope: int, value: int, rank: int) -> tuple[Parameter, Parameter]:
    """Return MLA's projections per head from latents to keys `[H, nope, rank]` and to values `[H, value, rank]`.

    Stored together as `kv_b_proj` (originals, older MLX conversions), or separately as `embed_q` (transposed) and
    `unembed_out` (newer MLX conversions).
    """
    stored = (heads * (nope + value), rank)
    starts = range(0, stored[0], nope + value)
    keys = Source(f"{path}.kv_b_proj.weight", stored, tuple(range(s, s + nope) for s in starts))
    values = Source(f"{path}.kv_b_proj.weight", stored, tuple(range(s + nope, s + nope + value) for s in starts))
    embed_q = whole(f"{path}.embed_q.weight", (heads, rank, nope))
    return (
        Parameter(
            f"{path}.key_up_proj",
            (
                Layout(embed_q.shape, embed_q.sources, transposed=True),
                Layout((heads, nope, rank), (keys,)),
            ),
        ),
        Parameter(
            f"{path}.value_up_proj",
            (
                whole(f"{path}.unembed_out.weight", (heads, value, rank)),
                Layout((heads, value, rank), (values,)),
            ),
        ),
    )
