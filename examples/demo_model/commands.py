"""The commands of moe-cluster: what each does, and which one does what somebody wants."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from examples.demo_model.scene import Scene, ask


@dataclass(frozen=True, slots=True)
class Command:
    """Hold a command, what it does, the line to type, and the wishes it fulfils."""

    name: str
    does: str
    line: str
    wishes: tuple[str, ...]


COMMANDS = (
    Command(
        "up",
        "makes this Mac a node. It prints who it found, and on the first node it prints the line to type on the others",
        "moe-cluster up",
        ("start a node", "start the cluster", "make this Mac a node", "begin", "get started"),
    ),
    Command(
        "up --join",
        "makes this Mac a node of an existing cluster, with a join token",
        "moe-cluster up --join TOKEN",
        ("join a cluster", "add a node", "add another Mac", "add a second Mac", "connect a new Mac"),
    ),
    Command(
        "down",
        "stops the node on this Mac",
        "moe-cluster down",
        ("stop a node", "stop the cluster", "shut it down", "leave the cluster"),
    ),
    Command(
        "status",
        "shows the nodes, the loaded models and how they do",
        "moe-cluster status",
        (
            "see the state of the cluster",
            "see what is running",
            "check the cluster",
            "see which model is loaded",
        ),
    ),
    Command(
        "nodes",
        "lists the nodes of the cluster",
        "moe-cluster nodes",
        ("list the nodes", "see all nodes", "see which Macs are connected"),
    ),
    Command(
        "chat",
        "opens a chat in the terminal. Without a running cluster it uses this machine alone",
        "moe-cluster chat",
        ("chat with a model", "talk to a model", "start a chat", "open a conversation"),
    ),
    Command(
        "chat -c",
        "continues the last chat",
        "moe-cluster chat -c",
        ("continue the last chat", "go on with an old chat", "resume a conversation"),
    ),
    Command(
        "run",
        "gives one answer to a prompt on stdout and ends",
        'moe-cluster run demo "Who are you?"',
        ("get one answer", "ask one question", "use it in a script", "run a single prompt"),
    ),
    Command(
        "plan",
        "says who would hold what, with bytes and predicted speed, without loading anything",
        "moe-cluster plan MODEL --nodes 8xM4-Pro-64GB",
        ("see the placement", "know whether a model fits", "predict the speed", "plan a cluster"),
    ),
    Command(
        "show",
        "looks into a checkpoint: family, layers, experts, bytes",
        "moe-cluster show MODEL",
        ("look into a checkpoint", "inspect a model", "see the size of a model"),
    ),
    Command(
        "pull",
        "downloads a checkpoint",
        "moe-cluster pull MODEL",
        ("download a model", "get a model", "fetch a checkpoint"),
    ),
    Command(
        "convert",
        "writes a checkpoint with fewer bits",
        "moe-cluster convert SRC DST --bits 4",
        ("convert a model", "quantize a model", "make a 4-bit model"),
    ),
    Command(
        "ls",
        "lists the checkpoints on this machine",
        "moe-cluster ls",
        ("list my models", "see my checkpoints", "see which models I have"),
    ),
    Command(
        "rm",
        "removes a checkpoint from this machine",
        "moe-cluster rm MODEL",
        ("delete a model", "remove a checkpoint", "free disk space"),
    ),
    Command(
        "serve",
        "starts the HTTP API and the dashboard",
        "moe-cluster serve",
        (
            "start the API",
            "use the OpenAI API",
            "connect another program",
            "open the dashboard",
            "start a server",
        ),
    ),
    Command(
        "demo",
        "starts real node processes on this machine and spreads me over them",
        "moe-cluster demo --nodes 3",
        ("try it out", "see a demo", "try it without a cluster", "test it on one machine"),
    ),
    Command(
        "bench",
        "measures how fast the cluster is",
        "moe-cluster bench",
        ("measure the speed", "run a benchmark", "see how fast it is"),
    ),
    Command(
        "doctor",
        "checks this machine and says what is wrong",
        "moe-cluster doctor",
        ("check my machine", "find a problem", "see what is wrong", "debug my setup"),
    ),
    Command(
        "logs",
        "shows what the node has logged",
        "moe-cluster logs",
        ("see the logs", "read the log", "look at the log files"),
    ),
    Command(
        "report",
        "collects what is needed to report a problem",
        "moe-cluster report",
        ("report a bug", "report a problem", "collect information for a bug report"),
    ),
    Command(
        "token create",
        "makes a join token for new nodes",
        "moe-cluster token create",
        ("make a join token", "create a token", "invite a new node", "let a new Mac join"),
    ),
    Command(
        "token list",
        "lists the join tokens",
        "moe-cluster token list",
        ("list the join tokens", "see my tokens"),
    ),
    Command(
        "token revoke",
        "makes a join token invalid",
        "moe-cluster token revoke TOKEN",
        ("revoke a token", "cancel a join token", "lock out a token"),
    ),
)

_WHAT = (
    "What does `moe-cluster {0}` do?",
    "What does moe-cluster {0} do?",
    "What is `moe-cluster {0}` for?",
    "Explain `moe-cluster {0}`.",
    "What happens when I type moe-cluster {0}?",
    "What is the {0} command?",
    "Tell me about moe-cluster {0}.",
    "moe-cluster {0}?",
    "When do I use `moe-cluster {0}`?",
    "Describe the command {0}.",
)

_HOW = (
    "How do I {0}?",
    "How do I {0}?",
    "How can I {0}?",
    "I want to {0}.",
    "Which command do I need to {0}?",
    "What do I type to {0}?",
    "Show me how to {0}.",
    "Give me the command to {0}.",
    "Help me to {0}.",
    "What is the command to {0}?",
)


def command(rng: Random) -> Scene:
    """Ask what a command does, or which command does what somebody wants."""
    chosen = rng.choice(COMMANDS)
    if rng.random() < 0.5:
        question = rng.choice(_WHAT).format(chosen.name)
        return ask(question, f"`moe-cluster {chosen.name}` {chosen.does}.")
    question = rng.choice(_HOW).format(rng.choice(chosen.wishes))
    return ask(question, f"Type this:\n\n```\n{chosen.line}\n```\n\nIt {chosen.does}.")
