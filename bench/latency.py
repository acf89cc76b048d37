"""How long a prompt delays another answer's tokens, emulated: python -m bench.latency [NODES] [MODEL] [PROMPT_TOKENS].

One answer is written alone, then beside the prompt of another one, for each rule by which prompts are cut.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from dataclasses import replace
from itertools import pairwise

from cluster.client import RemoteModel
from cluster.emulation.asked import Asked, prepare
from cluster.emulation.cluster import emulated_cluster
from cluster.emulation.measure import without_drafts
from cluster.placement.prediction import longest_delay_s
from mlx_moe.decoding.chunking import ChunkRule
from mlx_moe.decoding.request import Request

TOKENS = 400
CHUNKS = (32, 128, 512)


async def main(nodes: str, model: str, prompt_tokens: int) -> None:
    """Print a row for each length of chunks."""
    asked = Asked(nodes, model, "10gbe", "none", (1,), (prompt_tokens,), TOKENS)
    scenario, placement, prompt = prepare(asked)
    scenario = without_drafts(scenario)
    print(f"emulated: {model} on {nodes}; a prompt of {prompt_tokens} tokens beside an answer")
    print(f"{'chunk':>5} {'token alone':>12} {'longest beside':>15} {'predicted delay':>16} {'prompt read in':>15}")
    for chunk in CHUNKS:
        placed = replace(placement, chunks=ChunkRule.fixed(chunk))
        async with emulated_cluster(placed, lambda ids: scenario.on(ids).to_name()) as running:
            alone_s, beside_s, prompt_s = await asyncio.to_thread(gaps, running, prompt, prompt_tokens)
        predicted_s = longest_delay_s(placed, scenario.costs(), scenario.nodes, scenario.links(), chunk)
        print(f"{chunk:5} {alone_s:10.3f} s {beside_s:13.3f} s {predicted_s:14.3f} s {prompt_s:13.2f} s", flush=True)


def gaps(model: RemoteModel, prompt: list[int], prompt_tokens: int) -> tuple[float, float, float]:
    """Return the median seconds between tokens alone, the longest beside a prompt, and the prompt's seconds."""
    began_s, ended_s = [0.0], [0.0]

    def read_prompt() -> None:
        other = model.new_conversation()
        began_s[0] = time.monotonic()
        list(other.answer(Request.exactly((1 + i % 97 for i in range(prompt_tokens)), 1)))
        ended_s[0] = time.monotonic()
        other.close()

    reading = threading.Thread(target=read_prompt)
    times = []
    conversation = model.new_conversation()
    for number, _ in enumerate(conversation.answer(Request.exactly(prompt, TOKENS))):
        times.append(time.monotonic())
        if number == 20:
            reading.start()
        if ended_s[0]:
            break
    reading.join()
    conversation.close()
    between = [(a, b - a) for a, b in pairwise(times)]
    alone = sorted(gap for at, gap in between if at < began_s[0])
    return alone[len(alone) // 2], max(gap for at, gap in between if at >= began_s[0]), ended_s[0] - began_s[0]


if __name__ == "__main__":
    nodes, model, prompt_tokens, *_ = [*sys.argv[1:], *("8xM4-Pro-64GB", "deepseek-v3", "4096")[len(sys.argv) - 1 :]]
    asyncio.run(main(nodes, model, int(prompt_tokens)))
