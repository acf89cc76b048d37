"""What people ask when they use moe-cluster, and when something fails."""

from __future__ import annotations

from random import Random

from examples.demo_model.scene import Scene, ask

_TROUBLE = (
    (
        (
            "The node does not find the others.",
            "My nodes do not see each other.",
            "No other node is found.",
            "The Macs do not find each other.",
            "What if discovery does not work?",
        ),
        "Multicast may be blocked. Name another node yourself:\n\n```\nmoe-cluster up --peer HOST:PORT\n```",
    ),
    (
        (
            "The model does not fit.",
            "There is not enough memory.",
            "It runs out of memory.",
            "I am out of memory.",
            "What if the model is too large?",
        ),
        "Add a node, or use a smaller context. `moe-cluster plan` shows what would fit.",
    ),
    (
        (
            "What happens if a node dies?",
            "What if a node fails?",
            "What if I unplug a Mac?",
            "A node went away.",
            "Does the answer stop when a node is lost?",
        ),
        (
            "The answer goes on. The cluster plans over the rest, loads what was lost, replays the known "
            "tokens and "
            "continues."
        ),
    ),
    (
        (
            "Is it safe?",
            "Who can join my cluster?",
            "Can a stranger join?",
            "Is the connection encrypted?",
            "How is the cluster protected?",
        ),
        "A node needs a join token, and every link uses mutual TLS. `--insecure` must be typed by hand.",
    ),
    (
        ("It is slow.", "Why is it slow?", "How can I make it faster?", "The answers come slowly."),
        ("Use a fast link between the Macs, such as Thunderbolt or wired Ethernet, and run `moe-cluster bench`."),
    ),
    (
        ("What hardware do I need?", "Which Macs do I need?", "What machines does it run on?"),
        "Some Macs with Apple silicon. The reference is eight Mac minis with M4 Pro and 64 GB each.",
    ),
    (
        (
            "Do I need a cluster?",
            "Can I use one Mac?",
            "Does it work on a single machine?",
            "Can it run on one computer?",
        ),
        "No cluster is needed. A small model runs on one machine alone, with `moe-cluster chat --local`.",
    ),
    (
        ("Which models can it run?", "What models are supported?", "Which models work?"),
        (
            "Mixture-of-Experts models such as DeepSeek-V3, Qwen3-MoE, Mixtral and OLMoE, from a directory "
            "or "
            "a "
            "Hugging Face repo id."
        ),
    ),
    (
        (
            "How does it work?",
            "How does moe-cluster work?",
            "Explain how the cluster works.",
            "How does a token travel?",
        ),
        (
            "The coordinator embeds a token, and its hidden state goes from stage to stage. Each stage "
            "runs "
            "its layers. "
            "Then the coordinator picks the next token."
        ),
    ),
    (
        (
            "Are the answers the same on every cluster?",
            "Does the number of nodes change the answer?",
            "Is the answer the same with more nodes?",
        ),
        "Yes. Any placement gives the tokens that one machine gives alone, with the same seed.",
    ),
    (
        ("What can I type in the chat?", "Which chat commands are there?", "What are the slash commands?"),
        (
            "Some useful ones:\n\n- `/help` shows all of them\n- `/new` starts a new chat\n- `/retry` "
            "writes "
            "the answer "
            "again\n- `/set` changes settings\n- `/exit` leaves"
        ),
    ),
    (
        ("How do I leave the chat?", "How do I quit?", "How do I exit?", "How to get out of here?"),
        "Type `/exit` or press Ctrl-D.",
    ),
    (
        ("How do I stop an answer?", "How can I interrupt you?", "How do I stop you?"),
        "Press Ctrl-C once. The answer stops and what was written is kept.",
    ),
    (
        ("How do I start a new chat?", "How do I clear the chat?", "How do I forget this conversation?"),
        "Type `/new` in the chat.",
    ),
    (
        (
            "How do I change the temperature?",
            "How do I make the answers less random?",
            "How do I set the temperature?",
        ),
        "Type `/set temperature 0.5` in the chat, or use `--temperature` with `moe-cluster run`.",
    ),
    (
        ("How many nodes can there be?", "How many Macs can I use?", "What is the maximum number of nodes?"),
        "Any number that makes sense: one, three, eight. Each node takes a part of the layers.",
    ),
    (
        (
            "How do I set up three Macs?",
            "Show me how to set up a cluster.",
            "How do I build a cluster?",
            "Give me the steps to set up a cluster.",
        ),
        (
            "1. On the first Mac, type `moe-cluster up`.\n2. It prints a line with a join token. Type it "
            "on "
            "the other "
            "Macs.\n3. Load a model and chat:\n\n```\nmoe-cluster chat MODEL\n```"
        ),
    ),
    (
        (
            "What are the commands?",
            "List the commands.",
            "Which commands are there?",
            "Show me the commands.",
            "What commands does moe-cluster have?",
        ),
        (
            "The most useful ones:\n\n- `moe-cluster up` makes a node\n- `moe-cluster chat` opens a "
            "chat\n- "
            "`moe-cluster "
            "run` gives one answer\n- `moe-cluster plan` shows who would hold what\n- `moe-cluster status` "
            "shows the cluster"
        ),
    ),
    (
        ("What is a good first command?", "Where do I start?", "What should I try first?"),
        "Try the demo first:\n\n```\nmoe-cluster demo\n```",
    ),
    (
        ("How do I get JSON?", "Can I get machine-readable output?", "Is there a JSON output?"),
        "Add `--json` to a command that shows something, such as `moe-cluster status --json`.",
    ),
    (
        (
            "How does the cluster find nodes?",
            "How do nodes find each other?",
            "How do the Macs find each other?",
        ),
        "Nodes find each other with zeroconf on the local network, or by `--peer HOST:PORT`.",
    ),
    (
        ("How do nodes talk?", "How do the Macs talk to each other?", "How does data get from node to node?"),
        "They talk over gRPC. Hidden states travel in frames over links between the workers.",
    ),
    (
        ("Does my text leave my network?", "Is my chat private?", "Do you send my data anywhere?"),
        "No. Your text stays on your own machines.",
    ),
    (
        ("Does it use the GPU?", "Is the GPU used?", "Where does it compute?"),
        "Yes. MLX computes on the GPU of each Mac through Metal.",
    ),
    (
        ("How fast is it?", "How many tokens per second?", "What speed can I expect?"),
        ("It depends on the model and the Macs. `moe-cluster plan` predicts it and `moe-cluster bench` measures it."),
    ),
    (
        ("What is the license?", "Which license do you have?", "May I use you freely?"),
        "Apache-2.0. You may use, change and share me.",
    ),
)


def trouble(rng: Random) -> Scene:
    """Ask a practical question about the program."""
    questions, answer = rng.choice(_TROUBLE)
    return ask(rng.choice(questions), answer)
