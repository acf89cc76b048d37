"""RecurrentCache: the LayerCache of a layer that folds all positions into one state, with some of its earlier states.

It keeps the newest state, marks (states before and after calls of several positions, such as a chat's prompts), and
what the newest single positions were folded from: a state between two kept ones is folded again by the same kernels, so
to the bit. Knows nothing about kinds of layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx

from mlx_moe.errors import FrameError
from mlx_moe.layers.cache_costs import INPUTS_KEPT, STATES_KEPT

Arrays = tuple[mx.array, ...]

STRIDE = 8
"""Most single positions between two states among the newest: a rewind folds fewer than so many again."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """The state after the first `position` positions."""

    position: int
    state: Arrays
    is_mark: bool


class RecurrentCache:
    """The states of one sequence's layer. Bytes do not grow with positions: see `cache_costs.recurrent`.

    `fold` returns the state after one more position, from a state and the position's inputs.
    """

    def __init__(self, empty: Arrays, fold: Callable[[Arrays, Arrays], Arrays]) -> None:
        self._fold = fold
        self._kept = [_Kept(0, empty, is_mark=True)]  # by position; the first always stays
        self._inputs: dict[int, Arrays] = {}  # of calls of one position, by its position

    @property
    def length(self) -> int:
        """See LayerCache."""
        return self._kept[-1].position

    @property
    def state(self) -> Arrays:
        """The newest state."""
        return self._kept[-1].state

    def append(self, n_new: int, inputs: Arrays, state: Arrays) -> None:
        """Keep the state after `n_new` more positions, which were folded from `inputs` in one call."""
        start, is_single = self.length, n_new == 1
        if not is_single:
            self._kept[-1] = replace(self._kept[-1], is_mark=True)
        elif self._is_between(start):
            del self._kept[-1]
        if is_single:
            self._inputs[start] = inputs
        self._kept.append(_Kept(start + n_new, state, is_mark=not is_single))
        self._forget(self.length - INPUTS_KEPT)

    def rewind(self, position: int) -> int:
        """See LayerCache."""
        if position > self.length:
            raise FrameError(f"a frame starts at position {position} but only {self.length} positions are kept")
        while self.length > position:
            del self._kept[-1]
        reached, state = self.length, self.state
        while reached < position and reached in self._inputs:
            state = self._fold(state, self._inputs[reached])
            reached += 1
        if reached > self.length:
            self._kept.append(_Kept(reached, state, is_mark=False))
        self._inputs = {p: inputs for p, inputs in self._inputs.items() if p < reached}
        return reached

    def fork(self, positions: int) -> RecurrentCache:
        """See LayerCache."""
        fork = RecurrentCache(self._kept[0].state, self._fold)
        fork._kept, fork._inputs = list(self._kept), dict(self._inputs)
        fork.rewind(positions)
        return fork

    @property
    def nbytes(self) -> int:
        """See LayerCache."""
        return sum(array.nbytes for array in self.arrays)

    @property
    def arrays(self) -> Sequence[mx.array]:
        """See LayerCache."""
        states = (kept.state for kept in self._kept[1:])
        return [array for arrays in (*states, *self._inputs.values()) for array in arrays]

    def _is_between(self, position: int) -> bool:
        """Whether the newest state, at `position`, can be folded again from the one before it, in few steps."""
        if self._kept[-1].is_mark:
            return False
        before = self._kept[-2].position
        return position - before < STRIDE and all(p in self._inputs for p in range(before, position))

    def _forget(self, oldest: int) -> None:
        """Drop inputs of positions before `oldest`, the states between them, and marks that are too many.

        The last two states always stay: from the last but one, the newest call can be undone.
        """
        self._inputs = {p: inputs for p, inputs in self._inputs.items() if p >= oldest}
        *older, before, newest = self._kept
        older = [kept for kept in older if kept.is_mark or kept.position >= oldest]
        self._kept = [*older, before, newest]
        while len(self._kept) > STATES_KEPT + 1:
            del self._kept[self._least_useful()]

    def _least_useful(self) -> int:
        """Return the index of the mark whose loss lengthens a rewind the least, for how far back it is."""
        at = [kept.position for kept in self._kept]

        def worth(i: int) -> float:
            return (at[i + 1] - at[i - 1]) / (self.length - at[i])

        return min((i for i in range(1, len(at) - 2) if self._kept[i].is_mark), key=worth)
