"""Context: the number of positions that a request may use, by default and at most, and what would allow more."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from mlx_moe.errors import InvalidRequestError
from mlx_moe.rope_config import RopeConfig


@dataclass(frozen=True, slots=True)
class Context:
    """Prompt and answer of one request may use `tokens` positions by default, and up to `longest` on request.

    These follow from the rope settings, because `max_position_embeddings` of a stretched model is often the length
    before stretching. A sliding `window` of all layers limits both: within it, every position sees all before it.
    """

    tokens: int
    longest: int
    max_position_embeddings: int
    rope: RopeConfig
    window: int | None

    @classmethod
    def of(cls, max_position_embeddings: int, rope: RopeConfig, window: int | None = None) -> Context:
        """Return the context that a model's settings allow.

        If linear stretching does not state the original length, max_position_embeddings may be the length before or
        after stretching: the shorter one is the default. In Llama 3.1 to 3.3 it is the one after.
        """
        if rope.rope_type == "longrope":
            max_position_embeddings = min(max_position_embeddings, rope.original_max_position_embeddings)
        stretched = max_position_embeddings
        if rope.rope_type in ("linear", "yarn", "llama3"):
            original = rope.original_max_position_embeddings or max_position_embeddings
            stretched = max(stretched, int(rope.factor * original))
        is_sure = rope.original_max_position_embeddings > 0 and rope.rope_type != "llama3"
        tokens = stretched if is_sure else max_position_embeddings
        if window is not None:
            tokens, stretched = min(tokens, window), min(stretched, window)
        return cls(tokens, stretched, max_position_embeddings, rope, window)

    def require(self, wanted: int) -> int:
        """Return `wanted`. Raises InvalidRequestError if the rotary embedding does not allow it."""
        if wanted > self.longest:
            raise InvalidRequestError(
                f"a context of {wanted:,} tokens was asked for; the model has at most {self.longest:,}: ask for at "
                f"most that, or {self.more(wanted)}"
            )
        return wanted

    def more(self, wanted: int) -> str:
        """Return an instruction that allows a context of `wanted` tokens, for messages."""
        if wanted <= self.longest:
            return f"give --context {wanted} (up to {self.longest})"
        if self.window is not None and wanted > self.window:
            return f"take another model: its layers see no more than a sliding window of {self.window:,} tokens"
        return f'for {wanted:,} put "rope_scaling": {json.dumps(self._yarn(wanted))} into its config.json'

    def _yarn(self, wanted: int) -> dict[str, object]:
        """Return the rope parameters that stretch the model to `wanted` tokens."""
        rope = self.rope
        original = rope.original_max_position_embeddings or self.max_position_embeddings
        return {
            "rope_type": "yarn",
            "rope_theta": rope.rope_theta,
            "factor": float(math.ceil(wanted / original)),
            "original_max_position_embeddings": original,
        }
