"""The status bar: one line with the nodes, the speed and the use of the context."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.units import duration_text, rate_text, tokens_text

if TYPE_CHECKING:
    from mlx_moe.decoding.request import GenerationStats


def bar_text(label: str, stats: GenerationStats | None, context_used: int, context_tokens: int) -> str:
    """Return "3/3 nodes · 23.1 tok/s · TTFT 0.2 s · ctx 310/2k"; speeds only after the first answer."""
    parts = [label]
    if stats is not None and stats.generated_tokens > 0:
        if stats.generated_tokens > 1:
            parts.append(rate_text(stats.decode_tps))
        parts.append(f"TTFT {duration_text(stats.ttft_s)}")
    parts.append(f"ctx {tokens_text(context_used)}/{tokens_text(context_tokens)}")
    return " · ".join(parts)


def stats_text(stats: GenerationStats) -> str:
    """Return an answer's counts and times, for /set verbose."""
    return (
        f"{stats.generated_tokens:,} tokens, {rate_text(stats.decode_tps)} · "
        f"prompt {stats.prompt_tokens:,} tokens, {stats.cached_tokens:,} from the cache, "
        f"{rate_text(stats.prefill_tps)} · TTFT {duration_text(stats.ttft_s)} · "
        f"total {duration_text(stats.total_s)}"
    )
