"""How two words of moe-cluster differ."""

from __future__ import annotations

from random import Random

from examples.demo_model.scene import Scene, ask

_DIFFERENCES = (
    (
        "a node",
        "a worker",
        "A node is a Mac in the cluster. A worker is a process on that Mac that computes for one model.",
    ),
    ("a shard", "a stage", "A shard is what a worker holds. A stage is that shard at work in the pipeline."),
    (
        "a link",
        "a frame",
        "A link is the stream between two stages. A frame is one unit that travels over it.",
    ),
    ("prefill", "decode", "Prefill reads the prompt. Decode writes the answer, one token after another."),
    ("an expert", "a layer", "A layer is one step of the model. Experts are small networks inside a layer."),
    ("a router", "an expert", "The router chooses. The experts compute."),
    (
        "a shared expert",
        "a routed expert",
        "Every token uses a shared expert. A routed expert is used only if the router picks it.",
    ),
    ("a session", "a request", "A session is a whole chat. A request is one prompt and its answer."),
    ("the coordinator", "a stage", "The coordinator owns the tokens and the sampling. A stage owns layers."),
    (
        "MTP",
        "speculation",
        "MTP is a layer that guesses ahead. Speculation is how moe-cluster uses the guesses.",
    ),
    ("zeroconf", "gRPC", "zeroconf finds the other nodes. gRPC carries the data between them."),
    ("chat", "run", "`moe-cluster chat` is a conversation. `moe-cluster run` gives one answer and ends."),
    (
        "plan",
        "show",
        "`moe-cluster plan` says who would hold what. `moe-cluster show` looks into a checkpoint.",
    ),
    ("a token", "a join token", "A token is a piece of text. A join token lets a new node into the cluster."),
    (
        "a placement",
        "a shard",
        "The placement is the plan for all nodes. A shard is the part that one worker holds.",
    ),
)

_DIFFERENCE_QUESTIONS = (
    "What is the difference between {0} and {1}?",
    "How does {0} differ from {1}?",
    "{0} or {1}, what is the difference?",
    "Is {0} the same as {1}?",
    "Compare {0} and {1}.",
)


def difference(rng: Random) -> Scene:
    """Ask how two terms differ, in either order."""
    first, second, answer = rng.choice(_DIFFERENCES)
    if rng.random() < 0.4:
        first, second = second, first
    question = rng.choice(_DIFFERENCE_QUESTIONS).format(first, second)
    return ask(question[0].upper() + question[1:], answer)
