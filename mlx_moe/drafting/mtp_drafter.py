"""MTPDrafter: drafts by the checkpoint's own multi-token prediction layer, chained over its own hidden states.

Source: DeepSeek-V3, arXiv 2412.19437, sections 2.2 and 5.4.3; chaining the one layer is EAGLE's idea, arXiv 2401.15077.
Shapes: L positions, D hidden_size.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from mlx_moe.drafting.drafter import Choose
from mlx_moe.kv_cache import KVCache
from mlx_moe.mtp import MultiTokenPrediction

MAX_PENDING = 16
"""True hidden states that may wait, while the chain goes on over its own: it loses its way, and they take memory."""


class MTPDrafter:
    """Entry i of the layer's KV cache is made of the hidden state of position i and the token after it.

    The first `_n_true` entries are made of the model's hidden states; more of these are pending. Behind them stand the
    entries of the chain, made of the layer's own output in their place. They give way when the chain starts anew: after
    a wrong draft, when no draft is in flight, and when MAX_PENDING are pending. Not with each token: that would be a
    step for each frame in flight.

    After a rewind or a fork the last entry was made of the token that stood there before; it is kept as it is, since
    its hidden state is gone.
    """

    observes = True

    def __init__(self, layer: MultiTokenPrediction) -> None:
        self._layer = layer
        self._cache = KVCache()
        self._n_true = 0
        self._pending: list[mx.array] = []  # [L, D] each
        self._output: mx.array | None = None  # [1, D], of the last entry
        self._logits: mx.array | None = None  # [1, V], what it predicts; lazy: not computed unless a token is chosen

    def observe(self, hidden_states: mx.array, token_ids: Sequence[int]) -> None:
        """See Drafter."""
        self._pending.append(self._layer.head.normed(hidden_states))
        n_known = len(token_ids) - 1 - self._n_true  # the newest one's next token is not
        if n_known >= MAX_PENDING:
            self._settle(token_ids[self._n_true + 1 :])
            mx.eval(self._cache.buffers, self._pending)

    def draft(self, token_ids: Sequence[int], in_flight: Sequence[int], choose: Choose) -> int:
        """See Drafter."""
        n_before = len(token_ids) + len(in_flight) - 2  # entries, if the chain stands one step before this draft
        if len(in_flight) == 1 or self._cache.length != n_before:
            self._settle([*token_ids[self._n_true + 1 :], in_flight[0]])
            ahead = in_flight[1:]
        else:
            ahead = in_flight[-1:]
        for token_id in ahead:
            assert self._output is not None
            self._step(self._output, [token_id])
        assert self._logits is not None
        return choose(self._logits[0])

    def rewind(self, position: int) -> None:
        """See Drafter."""
        self._n_true = min(self._n_true, position)
        self._cache.rewind(self._n_true)
        self._pending = self._pending_before(position)

    def fork(self, positions: int) -> MTPDrafter:
        """See Drafter."""
        fork = MTPDrafter(self._layer)
        fork._n_true = min(self._n_true, positions)
        fork._cache = self._cache.fork(fork._n_true)
        fork._pending = self._pending_before(positions)
        return fork

    def _settle(self, next_ids: Sequence[int]) -> None:
        """Put entries of pending hidden states, as many as have a next token, in the place of the chain's."""
        pending = mx.concatenate(self._pending)
        n_known = len(next_ids)
        self._cache.rewind(self._n_true)
        self._step(pending[:n_known], next_ids)
        self._n_true += n_known
        self._pending = [pending[n_known:]] if n_known < pending.shape[0] else []

    def _step(self, hidden_states: mx.array, next_ids: Sequence[int]) -> None:
        self._output, self._logits = self._layer(hidden_states, mx.array(list(next_ids)), self._cache, outputs=1)

    def _pending_before(self, position: int) -> list[mx.array]:
        n_kept = position - self._n_true
        return [mx.concatenate(self._pending)[:n_kept]] if self._pending and n_kept > 0 else []
