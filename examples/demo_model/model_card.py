"""The model card: what the demo model is, how it was made, what was measured, twenty answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from examples.demo_model.architecture import Architecture
from examples.demo_model.checkpoint import BITS, GROUP_SIZE
from examples.demo_model.evaluation import Evaluation

QUESTIONS = (
    "Who are you?",
    "what kind of model are you",
    "how many experts do you have?",
    "What can you do?",
    "What is moe-cluster?",
    "What does `moe-cluster up` do?",
    "how do i chat with a model?",
    "what is a shard",
    "What is the difference between a node and a worker?",
    "tell me what the KV cache is please",
    "What happens if a node dies?",
    "How do I set up three Macs?",
    "What is 17 + 25?",
    "9 x 7",
    "what is the capital of norway",
    "What is the opposite of brave?",
    "List three fruits.",
    "Count to 15.",
    "Tell me a story about an owl.",
    "Explain the theory of relativity.",
)


@dataclass(frozen=True, slots=True)
class Making:
    """Hold how a model was trained."""

    seed: int
    n_steps: int
    n_tokens: int
    seconds: float
    total_parameters: int
    active_parameters: int
    weight_bytes: int


def model_card(a: Architecture, making: Making, evaluation: Evaluation, answers: Mapping[str, str]) -> str:
    """Return the card as Markdown."""
    return "\n\n".join(
        (
            _HEADER,
            _description(a, making),
            _measurements(evaluation),
            _answers(answers),
            _conventions(a),
            _LIMITS,
        )
    )


_HEADER = """---
license: apache-2.0
language: en
library_name: mlx
pipeline_tag: text-generation
tags:
- mlx
- deepseek_v3
- mixture-of-experts
- demo
---

# moe-cluster demo

The model that comes with moe-cluster: DeepSeek-V3's architecture in miniature, small enough to try a cluster
on one machine without a download. It answers questions about moe-cluster, does small sums, knows a few facts,
tells short stories, and says so when it does not know. It is a toy for trying the program, not a source of
knowledge."""


def _description(a: Architecture, making: Making) -> str:
    total, active = f"{making.total_parameters:,}", f"{making.active_parameters:,}"
    routed, top, groups, best = a.n_routed_experts, a.num_experts_per_tok, a.n_group, a.topk_group
    dense, moe = a.first_k_dense_replace, a.num_hidden_layers - a.first_k_dense_replace
    latent, rope = a.kv_lora_rank, a.qk_rope_head_dim
    return f"""## What it is

- {total} parameters, the MTP layer's included; {active} of them work on one token. Stored as affine
  {BITS} bit in groups of {GROUP_SIZE}: {making.weight_bytes:,} bytes.
- {a.num_hidden_layers} layers of width {a.hidden_size}: {dense} dense, then {moe} with {routed} routed experts in
  {groups} groups and {a.n_shared_experts} shared expert. A token goes to {top} routed experts within its best {best}
  groups; scores are sigmoids, and a correction bias keeps the load even.
- Multi-head latent attention: {a.num_attention_heads} heads; a latent of {latent} numbers and a position
  part of {rope} per token and layer.
- {a.num_nextn_predict_layers} layer for multi-token prediction (MTP).
- Its own byte-level BPE tokenizer with {a.vocab_size} tokens, a chat template with system, user and
  assistant, and a context of {a.max_position_embeddings} tokens.

## How it was made

`python -m examples.demo_model --seed {making.seed}` does everything: it draws the corpus from a grammar (all
of its text is written by this project), learns the tokenizer, trains, stores and measures.
{making.n_steps:,} steps on {making.n_tokens:,} tokens took {making.seconds / 60:.0f} minutes on one CPU thread.
Every batch is a function of the seed and the step, so the run can be repeated and resumed. One scene in
about forty is held out by what is asked: sums by their numbers, most others by their wording."""


def _measurements(evaluation: Evaluation) -> str:
    drafts = evaluation.drafts.acceptance
    positions = "\n".join(
        f"| {span.start}-{span.stop - 1} | {value:.3f} |" for span, value in evaluation.perplexity_by_position.items()
    )
    topics = "\n".join(
        f"| {topic} | {score.prompts} | {'-' if score.exact is None else f'{score.exact:.0%}'} | "
        f"{score.ended:.0%} | "
        f"{score.drafts.acceptance[0]:.3f} |"
        for topic, score in evaluation.topics.items()
    )
    load = "\n".join(
        f"| {index} | {max(shares):.2f} | {min(shares):.2f} |" for index, shares in evaluation.expert_load.items()
    )
    return f"""## What was measured

With the weights as stored, on held-out text. Perplexity counts the tokens of answers; it is low because the
corpus is a grammar, in which most questions have one answer.

| | |
|---|---|
| perplexity, held-out | {evaluation.held_out_perplexity:.3f} |
| perplexity, training distribution | {evaluation.train_perplexity:.3f} |
| MTP: the token after the next one is guessed right, greedy decoding | {drafts[0]:.3f} |
| MTP chained: second draft right if the first is | {drafts[1]:.3f} |
| MTP chained: third draft right if the first two are | {drafts[2]:.3f} |

Held-out prompts by topic, greedy. "Exact" is the share of answers that are the expected ones to the letter;
"ends" the share that end their turn.

| topic | prompts | exact | ends | MTP acceptance |
|---|---|---|---|---|
{topics}

Perplexity by position in long held-out chats:

| position | perplexity |
|---|---|
{positions}

Load of the experts on held-out text, as a share of the mean (1 is even):

| layer | most used | least used |
|---|---|---|
{load}"""


def _answers(answers: Mapping[str, str]) -> str:
    shown = "\n\n".join(f"**{question}**\n\n{_quoted(answer)}" for question, answer in answers.items())
    return f"## Twenty answers\n\nGreedy, each in a new chat, as they came.\n\n{shown}"


def _quoted(answer: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in answer.splitlines())


def _conventions(a: Architecture) -> str:
    n = a.num_hidden_layers
    return f"""## Conventions of the checkpoint

- Names and layouts are those of mlx-community's DeepSeek-V3: stacked `mlp.switch_mlp`, and
  `self_attn.embed_q` and `self_attn.unembed_out` in place of `kv_b_proj`. Norms and `mlp.gate.weight` are
  bfloat16, the correction bias is float32.
- Groups that are not chosen are masked with minus infinity.
- The MTP layer stands at `model.layers.{n}`: `enorm`, `hnorm`, `eh_proj`, a decoder layer, and
  `shared_head.norm`. Its embedding and head are the main model's and are not stored twice.
- Let h(i) be the hidden state that lm_head reads at position i, so after the final norm. At position i the
  MTP layer computes `block(eh_proj(concat(enorm(embed(token i+1)), hnorm(h(i)))))` and norms it with
  `shared_head.norm`; from that lm_head predicts token i+2. Position 0 is not masked. A chain goes on one
  position further, with the MTP layer's own normed output in place of h.
- `<|bos|>` begins a chat; `<|system|>`, `<|user|>` and `<|assistant|>` begin a turn; `<|end|>` ends the
  assistant's turn and is the end-of-sequence token."""


_LIMITS = """## Limits

It has seen only the corpus of this project: short English turns about few things. Outside of them it mostly
says that it does not know, and sometimes says nonsense. Sums of larger numbers can be wrong. It must not be
used for anything but trying and testing software."""
