"""MTPDrafter: drafts by the checkpoint's own multi-token prediction layer, chained over its own hidden states.

Source: DeepSeek-V3, arXiv 2412.19437, sections 2.2 and 5.4.3; chaining the one layer is EAGLE's idea, arXiv 2401.15077.
Shapes: L positions, D hidden_size.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from mlx_moe.decoding.drafting.backlog import Backlog
from mlx_moe.decoding.drafting.drafter import Choose
from mlx_moe.pipeline.mtp import MultiTokenPrediction

MAX_BEHIND = 16
"""Most positions behind before the chain restarts from the model's hidden states; a longer chain loses accuracy."""


class MTPDrafter:
    """Drafts by running the layer over a KV cache of one entry per position.

    An entry is made of a position's hidden state and the next token. The cache's first `_n_true` entries, of positions
    from `_start` on, are true: made of the model's hidden states. Chained entries, made of the layer's own outputs,
    follow; true ones replace them after a wrong draft, when no draft is in flight, and when MAX_BEHIND are pending.

    The model's hidden states wait in a backlog until the first stage is idle or a draft is requested. If it drops the
    oldest, the cache restarts after the gap: rotary positions are relative, so only the layer's context is shorter.
    After a rewind or a fork the last entry keeps the former next token, because its hidden state is gone.
    """

    def __init__(self, layer: MultiTokenPrediction) -> None:
        self._layer = layer
        self._start = 0
        self._n_true = 0
        self._cache = layer.new_cache()
        self._backlog = Backlog()
        self._output: mx.array | None = None  # [1, D], of the last entry
        self._logits: mx.array | None = None  # [1, V], its prediction; lazy: computed only if a token is chosen

    @property
    def observer(self) -> MTPDrafter:
        """See Drafter."""
        return self

    def observe(self, hidden_states: mx.array, token_ids: Sequence[int]) -> None:  # noqa: ARG002
        """See Observer."""
        self._backlog.add(hidden_states)

    def catch_up(self, token_ids: Sequence[int]) -> list[mx.array]:
        """See Observer."""
        next_ids = token_ids[self._backlog.start + 1 :]  # the newest position's next token is unknown
        if not next_ids:
            return []
        self._settle(next_ids)
        mx.async_eval(self._cache.arrays)
        return list(self._cache.arrays)

    def draft(self, token_ids: Sequence[int], in_flight: Sequence[int], choose: Choose) -> int:
        """See Drafter."""
        n_before = len(token_ids) + len(in_flight) - 2  # the cache's end if the chain is one step before this draft
        is_chained = len(in_flight) > 1 and self._start + self._cache.length == n_before
        if is_chained and len(self._backlog) < MAX_BEHIND:
            ahead = in_flight[-1:]
        else:
            self._settle([*token_ids[self._backlog.start + 1 :], in_flight[0]])
            ahead = in_flight[1:]
        for token_id in ahead:
            assert self._output is not None
            self._step(self._output, [token_id])
        assert self._logits is not None
        return choose(self._logits[0])

    def rewind(self, position: int) -> None:
        """See Drafter."""
        self._n_true = self._cache.rewind(max(0, min(self._n_true, position - self._start)))
        self._backlog = self._backlog.before(position)

    def fork(self, positions: int) -> MTPDrafter:
        """See Drafter."""
        fork = MTPDrafter(self._layer)
        fork._start = self._start
        fork._cache = self._cache.fork(max(0, min(self._n_true, positions - self._start)))
        fork._n_true = fork._cache.length
        fork._backlog = self._backlog.before(positions)
        return fork

    def _settle(self, next_ids: Sequence[int]) -> None:
        """Replace chained entries by true ones for the backlog's positions that have a next token."""
        continues = self._backlog.start == self._start + self._n_true
        if not continues or self._cache.rewind(self._n_true) < self._n_true:
            self._start, self._n_true, self._cache = self._backlog.start, 0, self._layer.new_cache()
        self._step(self._layer.head.normed(self._backlog.take(len(next_ids))), next_ids)
        self._n_true += len(next_ids)

    def _step(self, hidden_states: mx.array, next_ids: Sequence[int]) -> None:
        self._output, self._logits = self._layer(hidden_states, mx.array(list(next_ids)), self._cache, outputs=1)
