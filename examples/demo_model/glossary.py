"""What the words of moe-cluster mean: each term, one answer, and a second one for who wants more."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from examples.demo_model.scene import Scene, Turn


@dataclass(frozen=True, slots=True)
class Term:
    """Hold a term's names, its explanation, and what follows on "tell me more"."""

    names: tuple[str, ...]
    answer: str
    more: str


TERMS = (
    Term(
        ("moe-cluster", "this program", "this software", "this tool"),
        "moe-cluster runs large Mixture-of-Experts language models on several Macs. Each Mac holds some of "
        "the "
        "layers and experts, and together they answer as one.",
        "It uses MLX to compute, zeroconf to find the other Macs, and gRPC to send hidden states between them.",
    ),
    Term(
        ("a node", "the word node", "node"),
        "A node is a Mac that runs the moe-cluster daemon.",
        "A node starts one worker process for each loaded model, and it keeps the list of the other nodes.",
    ),
    Term(
        ("a worker", "the worker process", "worker"),
        "A worker is the process on a node that computes for one model. It holds the weights and the KV cache.",
        "If a worker dies, the node daemon lives on, so memory comes back and the model can be loaded again.",
    ),
    Term(
        ("the coordinator", "a coordinator", "coordinator"),
        "The coordinator owns the tokens. It embeds them, samples the next one, and drafts the ones after that.",
        "It sends hidden states to the first stage and gets them back from the last stage.",
    ),
    Term(
        ("a shard", "shard"),
        "A shard is what one worker holds: a range of layers and the experts it owns.",
        "Loading a shard reads only the bytes it owns from the safetensors files.",
    ),
    Term(
        ("a stage", "a pipeline stage", "stage"),
        "A stage is a running shard in the pipeline. Hidden states pass from stage to stage.",
        "A stage serves its queue in order, and it keeps how many positions its KV cache holds.",
    ),
    Term(
        ("the placement", "a placement", "placement"),
        "The placement says who holds what: which node has which layers and experts.",
        "It is planned from memory, bandwidth and the links. You can see it with `moe-cluster plan`.",
    ),
    Term(
        ("a link", "link"),
        "A link is an ordered stream from one stage to the next. Frames travel over it.",
        "Between Macs it is a long-lived gRPC stream. On one machine it stays inside the process.",
    ),
    Term(
        ("a frame", "frame"),
        "A frame is one unit on a link: the hidden states of some positions, with a checksum.",
        "A frame names its request, its first position, its shape and its dtype, so that nothing is guessed.",
    ),
    Term(
        ("a session", "session"),
        "A session is one chat. Its KV cache is kept, so a new turn computes only what is new.",
        "A session is saved as it goes, and `moe-cluster chat -c` continues the last one.",
    ),
    Term(
        ("a request", "request"),
        "A request is one prompt that waits for its answer. It has its own sampling settings.",
        "Several requests may be in flight at once, and each one gives the tokens it would give alone.",
    ),
    Term(
        ("an expert", "an expert in a model", "experts", "expert"),
        "An expert is a small feed-forward network inside a layer. Each token uses only a few of them.",
        "That is why a model can be very large and still read few weights for each token.",
    ),
    Term(
        ("a shared expert", "the shared expert", "shared experts"),
        "A shared expert is an expert that every token uses, beside the experts that the router chooses.",
        "I have one shared expert in each Mixture-of-Experts layer.",
    ),
    Term(
        ("the router", "a router", "routing", "router"),
        "The router scores the experts for each token and picks the best few.",
        "My router uses sigmoid scores. It first picks two of four groups, then four experts inside them.",
    ),
    Term(
        ("a Mixture of Experts", "mixture of experts", "MoE", "a MoE model", "an MoE model"),
        "A Mixture of Experts is a model whose layers hold many experts. A router picks a few of them for each token.",
        "So only a small part of the weights is read for each token, while all of them can hold knowledge.",
    ),
    Term(
        ("the KV cache", "a KV cache", "KV cache", "kv caching"),
        "The KV cache keeps what attention needs of the earlier tokens, so that they are not computed again.",
        "With MLA the cache keeps one small latent vector for each token and layer.",
    ),
    Term(
        ("MLA", "multi-head latent attention", "latent attention"),
        "MLA is multi-head latent attention. It stores a small latent vector instead of full keys and values.",
        "That makes the KV cache much smaller, so long chats fit into memory.",
    ),
    Term(
        ("attention", "self-attention"),
        "Attention lets each token look at the tokens before it and take what it needs from them.",
        "I have six attention heads in each layer.",
    ),
    Term(
        ("MTP", "multi-token prediction", "the MTP layer", "an MTP layer"),
        "MTP is multi-token prediction. An extra layer guesses the token after the next one.",
        "moe-cluster uses the guess as a draft. A right guess saves time, and a wrong one costs nothing in quality.",
    ),
    Term(
        ("speculation", "speculative decoding", "drafting", "pipelined speculation"),
        "Speculation drafts the next tokens before they are known, so that no stage sits idle. "
        "Wrong drafts are dropped.",
        "The answer is the same, token for token, as without speculation.",
    ),
    Term(
        ("a draft", "a draft token", "draft"),
        "A draft is a guessed token that is sent into the pipeline early. If it is right, time is saved.",
        "Drafts come from the MTP layer, or from words that were already in the text.",
    ),
    Term(
        ("zeroconf", "mDNS", "discovery"),
        "zeroconf lets the nodes find each other on the local network without any setup.",
        "If multicast is blocked, you can name another node with `--peer HOST:PORT`.",
    ),
    Term(
        ("gRPC", "grpc"),
        "gRPC is how the nodes talk. Hidden states stream between workers over gRPC.",
        "Every link is protected by mutual TLS unless you type `--insecure`.",
    ),
    Term(
        ("unified memory", "the unified memory of a Mac"),
        "Unified memory is memory that the CPU and the GPU of a Mac share. Weights are loaded there once.",
        "That is why a Mac mini with 64 GB can hold large shards of a model.",
    ),
    Term(
        ("MLX", "the MLX library", "mlx"),
        "MLX is a library for machine learning on Apple silicon. moe-cluster computes with it.",
        "It runs on the GPU of a Mac through Metal, and on the CPU elsewhere.",
    ),
    Term(
        ("Metal",),
        "Metal is the interface to the GPU of a Mac. MLX uses it to compute.",
        "Without Metal, MLX can use the CPU, which is slower.",
    ),
    Term(
        ("a token", "tokens", "token"),
        "A token is a piece of text: a word, a part of a word, or a sign. I read and write tokens.",
        "My tokenizer was made from the same text that I was trained on.",
    ),
    Term(
        ("a tokenizer", "the tokenizer", "tokenizer"),
        "A tokenizer cuts text into tokens and puts tokens back together as text.",
        "Mine is a byte-level BPE tokenizer, so it can read any text.",
    ),
    Term(
        ("a chat template", "the chat template"),
        "A chat template turns the turns of a chat into one text that the model can read.",
        "Mine marks the system, the user and the assistant with special tokens.",
    ),
    Term(
        ("a hidden state", "hidden states", "the hidden states"),
        "A hidden state is the vector that stands for a token between two layers.",
        "Hidden states are what the nodes send each other, never the full logits.",
    ),
    Term(
        ("an embedding", "the embedding", "embeddings"),
        "An embedding is the vector a token starts with, before the first layer.",
        "The coordinator embeds the tokens and sends the vectors to the first stage.",
    ),
    Term(
        ("logits", "the logits"),
        "Logits are the scores of all tokens for the next place in the text. Sampling picks one of them.",
        "Only the coordinator computes logits.",
    ),
    Term(
        ("the lm_head", "lm_head", "the output head"),
        "The lm_head turns the last hidden state into logits, one score for each token.",
        "It lives on the coordinator, so logits never cross the network.",
    ),
    Term(
        ("sampling", "the sampler", "a sampler"),
        "Sampling picks the next token from the logits. It can be greedy or a little random.",
        "The random number depends on the seed and the position only, so answers can be repeated.",
    ),
    Term(
        ("temperature", "the temperature setting"),
        "Temperature sets how random the answers are. Zero means greedy: always the most likely token.",
        "You can set it with `--temperature` or with `/set` in a chat.",
    ),
    Term(
        ("greedy decoding", "greedy"),
        "Greedy decoding always takes the most likely token, so the answer is always the same.",
        "Set the temperature to 0 to get it.",
    ),
    Term(
        ("top-p", "top p", "nucleus sampling"),
        "top-p keeps only the most likely tokens whose chances add up to p.",
        "A lower value gives safer answers.",
    ),
    Term(
        ("a seed", "the seed"),
        "A seed makes random choices repeatable. The same seed and prompt give the same answer.",
        "You can set it with `--seed`.",
    ),
    Term(
        ("prefill",),
        "Prefill is the first part of an answer: the model reads the whole prompt and fills the KV cache.",
        "Prefill goes in chunks, so that all stages work at the same time.",
    ),
    Term(
        ("decode", "decoding"),
        "Decode is the second part of an answer: the model writes one token after another.",
        "Its speed is given in tokens per second.",
    ),
    Term(
        ("quantization", "quantisation", "4-bit quantization", "quantized weights"),
        "Quantization stores weights with few bits, so that a model needs less memory.",
        "My own weights are stored with 8 bits. Large models often use 4 bits.",
    ),
    Term(
        ("a layer", "layers", "the layers"),
        "A layer is one step of the model: attention, then a feed-forward part. Layers run one after another.",
        "I have six layers, and one more that predicts ahead.",
    ),
    Term(
        ("a checkpoint", "the checkpoint"),
        "A checkpoint is the directory with the weights, the config and the tokenizer of a model.",
        "You can look into one with `moe-cluster show MODEL`.",
    ),
    Term(
        ("safetensors", "a safetensors file"),
        "safetensors is the file format of the weights. It has a header and then plain bytes.",
        "Each node reads only the byte ranges that its shard owns.",
    ),
    Term(
        ("a pipeline", "the pipeline", "pipeline parallelism"),
        "The pipeline is the row of stages. Hidden states go in at the first stage and come out of the last one.",
        "With several frames in flight, all stages work at the same time.",
    ),
    Term(
        ("a join token", "the join token"),
        "A join token lets a new node into the cluster. Nobody gets in without one.",
        "You can make one with `moe-cluster token create`.",
    ),
    Term(
        ("mutual TLS", "TLS", "mTLS"),
        "Mutual TLS means that both ends of a link show a certificate, so no stranger can listen or join.",
        "It is on by default. Only `--insecure` turns it off.",
    ),
    Term(
        ("a model", "a language model", "language models"),
        "A language model guesses the next token of a text, again and again, until the answer is done.",
        "I am a very small one. Large ones have many billion parameters.",
    ),
    Term(
        ("a parameter", "parameters", "weights", "the weights"),
        "Parameters, or weights, are the numbers a model has learned.",
        "I have less than six million of them. DeepSeek-V3 has 671 billion.",
    ),
    Term(
        ("DeepSeek-V3", "deepseek v3", "DeepSeek"),
        "DeepSeek-V3 is a large Mixture-of-Experts model with 671 billion parameters, 37 billion of them "
        "active. "
        "I have the same architecture in miniature.",
        "At 4 bits it needs about 378 GB, so it fits on eight Macs with 64 GB, but on none of them alone.",
    ),
    Term(
        ("the context", "context length", "the context window"),
        "The context is all the text a model can see at once: the chat so far and the answer.",
        "Mine is 2048 tokens. When it is full, start a new chat.",
    ),
    Term(
        ("perplexity",),
        "Perplexity says how surprised a model is by a text. Lower is better.",
        "It is measured on text that the model was not trained on.",
    ),
    Term(
        ("bandwidth", "memory bandwidth"),
        "Bandwidth is how many bytes can be read or sent in a second. It limits how fast a model writes.",
        "For each token the active weights must be read once from memory.",
    ),
    Term(
        ("time to first token", "TTFT"),
        "Time to first token is how long you wait until the answer begins.",
        "It is mostly prefill: a longer prompt takes longer.",
    ),
    Term(
        ("a daemon", "the daemon", "the node daemon"),
        "The daemon is the process on each node that finds the others and starts the workers.",
        "It owns the network and the trust, and it computes nothing itself.",
    ),
    Term(
        ("the HTTP API", "the API", "the gateway"),
        "The HTTP API lets other programs use the cluster. It speaks the OpenAI and Anthropic shapes.",
        "Start it with `moe-cluster serve`.",
    ),
    Term(
        ("a position", "positions"),
        "A position is the place of a token in the text. A frame says at which position it starts.",
        "If a frame starts earlier than the cache ends, the cache is rewound to that position.",
    ),
    Term(
        ("expert parallelism", "experts on several nodes"),
        "Experts of one layer may live on several nodes. The leader sends each peer only what its experts need.",
        "It is used where memory demands it, because each exchange costs time on the network.",
    ),
)

_QUESTIONS = (
    "What is {0}?",
    "What is {0}?",
    "What does {0} mean?",
    "Explain {0}.",
    "Tell me about {0}.",
    "Can you explain {0}?",
    "Please explain {0}.",
    "Define {0}.",
    "What do you mean by {0}?",
    "I want to know what {0} is.",
    "What is {0} in moe-cluster?",
    "Explain {0} to me in simple words.",
    "Do you know what {0} is?",
    "I do not understand {0}.",
    "What exactly is {0}?",
    "How would you describe {0}?",
    "{0}?",
    "What about {0}?",
)

_MORE = (
    "Tell me more.",
    "More?",
    "Go on.",
    "Can you say more?",
    "And what else?",
    "Tell me more about it.",
    "more",
)


def explanation(rng: Random) -> Scene:
    """Ask for a term, and sometimes for more."""
    term = rng.choice(TERMS)
    name = rng.choice(term.names[:1] * 2 + term.names)
    question = rng.choice(_QUESTIONS).format(name)
    question = question[0].upper() + question[1:]
    turns = [Turn(question, term.answer)]
    if rng.random() < 0.25:
        turns.append(Turn(rng.choice(_MORE), term.more))
    return Scene(question, tuple(turns), together=True)
