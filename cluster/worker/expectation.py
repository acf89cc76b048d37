"""Expectation: what numbers another node must return. They are checked as strictly as those of a request.

Knows nothing about sequences and layers.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.worker.arrays import CHECKED, is_finite
from cluster.worker.messages import Dtype, Kind, Message
from mlx_moe.errors import FrameError, NumericsError


@dataclass(frozen=True, slots=True)
class Expectation:
    """`rows` x `width` numbers; of a frame, those of the positions from `position` on. `finite`: no NaN or Inf."""

    rows: int
    width: int
    dtype: Dtype
    position: int | None = None
    finite: bool = True

    @classmethod
    def after(cls, sent: Message) -> Expectation:
        """Return what the last stage must return for a frame that the first one has sent on.

        A decode frame may return NaN: the coordinator sends it again, checked, so that the stage names the layer.
        """
        rows = sent.outputs or sent.rows
        finite = sent.kind is Kind.PREFILL or bool(sent.flags & CHECKED)
        return cls(rows, sent.width, sent.dtype, sent.position + sent.rows - rows, finite)

    def require(self, returned: Message, sender: str, node_id: str | None = None) -> None:
        """Check a message whose payload has as many bytes as its header says.

        Raises:
            FrameError: `sender` returned something else.
            NumericsError: it has NaN or Inf.
        """
        position = None if self.position is None else returned.position
        got = Expectation(returned.rows, returned.width, returned.dtype, position, self.finite)
        if got != self:
            raise FrameError(f"{sender} returned {got}; wanted were {self}", node_id=node_id)
        if self.finite and not is_finite(returned.payload, returned.dtype):
            raise NumericsError(f"{sender} returned {self}, but they are not finite", node_id=node_id)

    def __str__(self) -> str:
        """Describe the numbers."""
        where = "" if self.position is None else f" from position {self.position}"
        return f"{self.rows} x {self.width} numbers in {self.dtype.name.lower()}{where}"
