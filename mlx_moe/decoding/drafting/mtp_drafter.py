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
"""True hidden states that may wait while the chain goes on over its own: it loses its way."""


class MTPDrafter:
    """The entry of position i in the layer's KV cache is made of the hidden state of i and the token after it.

    The model's hidden states wait in a backlog until the first stage idles, or a draft is asked for. Where neither
    happens for long, the oldest are given up. Then the cache begins anew behind the gap: rotary positions are relative,
    so an entry may stand anywhere, and what the layer attends to is only shorter.

    The cache's first `_n_true` entries, of positions from `_start` on, are made of the model's hidden states. Behind
    them stand those of the chain, made of the layer's own output in their place. They give way when the chain starts
    anew: after a wrong draft, when no draft is in flight, and when the backlog has MAX_BEHIND. Not with each token:
    that would be a step for each frame in flight.

    After a rewind or a fork the last entry was made of the token that stood there before; it is kept as it is, since
    its hidden state is gone.
    """

    def __init__(self, layer: MultiTokenPrediction) -> None:
        self._layer = layer
        self._start = 0
        self._n_true = 0
        self._cache = layer.new_cache()
        self._backlog = Backlog()
        self._output: mx.array | None = None  # [1, D], of the last entry
        self._logits: mx.array | None = None  # [1, V], what it predicts; lazy: not computed unless a token is chosen

    @property
    def observer(self) -> MTPDrafter:
        """See Drafter."""
        return self

    def observe(self, hidden_states: mx.array, token_ids: Sequence[int]) -> None:  # noqa: ARG002
        """See Observer."""
        self._backlog.add(hidden_states)

    def catch_up(self, token_ids: Sequence[int]) -> list[mx.array]:
        """See Drafter."""
        next_ids = token_ids[self._backlog.start + 1 :]  # the newest one's is not known
        if not next_ids:
            return []
        self._settle(next_ids)
        mx.async_eval(self._cache.arrays)
        return list(self._cache.arrays)

    def draft(self, token_ids: Sequence[int], in_flight: Sequence[int], choose: Choose) -> int:
        """See Drafter."""
        n_before = len(token_ids) + len(in_flight) - 2  # positions, if the chain stands one step before this draft
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
        """Put entries of the backlog, as many as have a next token, in the place of the chain's."""
        continues = self._backlog.start == self._start + self._n_true
        if not continues or self._cache.rewind(self._n_true) < self._n_true:
            self._start, self._n_true, self._cache = self._backlog.start, 0, self._layer.new_cache()
        self._step(self._layer.head.normed(self._backlog.take(len(next_ids))), next_ids)
        self._n_true += len(next_ids)

    def _step(self, hidden_states: mx.array, next_ids: Sequence[int]) -> None:
        self._output, self._logits = self._layer(hidden_states, mx.array(list(next_ids)), self._cache, outputs=1)
