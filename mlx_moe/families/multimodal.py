"""Multimodal: the text part of models that read images too. The weights of their other parts are not read.

Its values are below `text_config` in config.json, and its tensors have other names.
"""

from __future__ import annotations

from dataclasses import replace

from mlx_moe.checkpoint.parameter import Parameter, renamed
from mlx_moe.config_fields import ConfigFields


def text_fields(fields: ConfigFields) -> ConfigFields:
    """Return the values of the text part; of a text model that was saved alone, all values.

    Whether the embedding is tied is a value of the whole model, as in transformers.
    """
    return fields.within("text_config", "tie_word_embeddings")


def stored(parameter: Parameter) -> Parameter:
    """Return how checkpoints store a parameter of the text part.

    MLX's conversions (and Kimi's originals) have `language_model` before all names, Qwen's originals after `model`, and
    a text model that was saved alone does not have it.
    """
    names = (_first, _second)
    others = [layout for name in names for layout in renamed(parameter, name).layouts]
    return replace(parameter, layouts=(*others, *parameter.layouts))


def _first(tensor: str) -> str:
    return f"language_model.{tensor}"


def _second(tensor: str) -> str:
    return f"model.language_model.{tensor.removeprefix('model.')}" if tensor.startswith("model.") else tensor
