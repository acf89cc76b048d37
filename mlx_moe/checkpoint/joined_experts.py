"""Joined experts: routed experts whose gate and up projections are one stack with biases, as in gpt-oss.

The originals store the two projections with rows that take turns, MLX's conversions store them apart. Kept joined, both
are read as they are stored; see Layout for `alternating`.
"""

from __future__ import annotations

from collections.abc import Sequence

from mlx_moe.checkpoint.form import BLOCKS
from mlx_moe.checkpoint.parameter import Layout, Parameter, Source


def joined_experts(
    path: str, n_experts: int, owned: Sequence[int], width: int, hidden_size: int, *, alternating: bool
) -> list[Parameter]:
    """Return the projections of the owned experts below `path`, and their biases.

    These are `gate_up_proj` `[len(owned), 2 * width, hidden_size]` and `down_proj` `[len(owned), hidden_size, width]`.
    Layouts: the projections apart (MLX), packed blocks (originals), or transposed floats (transformers). In the latter
    two, gate and up take turns if `alternating`.
    """
    stacks = (n_experts, owned)
    gate_up, down = f"{path}.gate_up_proj", f"{path}.down_proj"
    apart = tuple(f"{path}.{name}_proj" for name in ("gate", "up"))
    return [
        _weight(gate_up, apart, *stacks, width, hidden_size, alternating),
        _bias(gate_up, apart, *stacks, width, alternating),
        _weight(down, (down,), *stacks, hidden_size, width, alternating=False),
        _bias(down, (down,), *stacks, hidden_size, alternating=False),
    ]


def _weight(
    name: str,
    apart: Sequence[str],
    n_experts: int,
    owned: Sequence[int],
    out_features: int,
    in_features: int,
    alternating: bool,
) -> Parameter:
    n_rows = len(apart) * out_features
    shape = (len(owned), n_rows, in_features)
    turned = (len(owned), in_features, n_rows)
    layouts = (
        Layout(shape, _by_expert([f"{part}.weight" for part in apart], (n_experts, out_features, in_features), owned)),
        Layout(shape, (_stack(f"{name}{BLOCKS}", (n_experts, n_rows, in_features), owned),), alternating=alternating),
        Layout(
            turned,
            (_stack(name, (n_experts, in_features, n_rows), owned),),
            transposed=True,
            alternating=alternating,
        ),
    )
    return Parameter(name, layouts, routed=True)


def _bias(
    name: str, apart: Sequence[str], n_experts: int, owned: Sequence[int], out_features: int, alternating: bool
) -> Parameter:
    n_rows = len(apart) * out_features
    together = (_stack(f"{name}_bias", (n_experts, n_rows), owned),)
    layouts = (
        Layout(
            (len(owned), len(apart), out_features),
            _by_expert([f"{part}.bias" for part in apart], (n_experts, out_features), owned),
        ),
        Layout((len(owned), n_rows) if alternating else (len(owned), 1, n_rows), together, alternating=alternating),
    )
    return Parameter(f"{name}.bias", layouts, matrix=False, routed=True)


def _by_expert(tensors: Sequence[str], shape: tuple[int, ...], owned: Sequence[int]) -> tuple[Source, ...]:
    """Return each owned expert's rows of every tensor, expert by expert."""
    return tuple(_stack(tensor, shape, (expert,)) for expert in owned for tensor in tensors)


def _stack(tensor: str, shape: tuple[int, ...], owned: Sequence[int]) -> Source:
    n_rows = 1 if len(shape) == 2 else shape[1]
    return Source(tensor, shape, tuple(range(e * n_rows, (e + 1) * n_rows) for e in owned))
