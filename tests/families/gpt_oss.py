"""gpt-oss."""

KNOWN_BY = "gpt-oss-20b, 120b"

YARN = {
    "rope_type": "yarn",
    "rope_theta": 150_000.0,
    "factor": 8.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 64,
}
"""The original context is shorter than prompt and answer together."""

CONFIG = {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_local_experts": 16,
    "num_experts_per_tok": 4,
    "sliding_window": 24,
    "max_position_embeddings": 512,
    "rope_parameters": YARN,
}
"""The window is shorter than a prompt."""

VARIANTS = {
    "with truncated yarn": {"rope_parameters": YARN | {"truncate": True}},
    "with plain rope": {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}},
    "with windows where others have none": {
        "layer_types": ["full_attention", "full_attention", "sliding_attention", "sliding_attention"],
        "sliding_window": 1,
    },
    "without attention biases": {"attention_bias": False},
    "with a tight clamp": {"swiglu_limit": 0.5, "swiglu_alpha": 1.0},
}

MLX_LM = False  # only OpenAI's own MXFP4
