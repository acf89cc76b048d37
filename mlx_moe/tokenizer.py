"""The public name of `mlx_moe.text.tokenizer`, for programs that use the engine."""

from mlx_moe.text.tokenizer import Tokenizer as Tokenizer
