"""Settings of `/set`, parsed from text."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, fields
from typing import Any

from cli.options import AnswerOptions
from mlx_moe.errors import InvalidRequestError
from mlx_moe.sampling_params import SamplingParams

_DEFAULT = ("default", "none")
_WHOLE = ("top_k", "seed")
_FLAGS = {"on": True, "yes": True, "true": True, "off": False, "no": False, "false": False}


def sampling_names() -> list[str]:
    """Return the fields of SamplingParams that /set can change."""
    return [field.name for field in fields(SamplingParams) if field.name != "logit_bias"]


def request_names() -> list[str]:
    """Return the names of a request's settings."""
    return ["max_tokens", "stop", "loops"]


@dataclass(frozen=True, slots=True)
class Setting:
    """A name and a value, as text."""

    name: str
    value: str

    @classmethod
    def parse(cls, argument: str) -> Setting:
        """Read "temperature 0.5", "temperature=0.5" or ollama's "parameter temperature 0.5"."""
        argument = argument.strip().removeprefix("parameter ").lstrip()
        name, _, value = argument.replace("=", " ", 1).partition(" ")
        return cls(name.strip().lower().replace("-", "_"), value.strip())


def changed(options: AnswerOptions, setting: Setting) -> AnswerOptions:
    """Return options with one setting changed; "default" restores the default.

    Raises:
        InvalidRequestError: no such setting, or an invalid value.
    """
    sampling, request = dict(options.sampling), dict(options.request)
    name, value = setting.name, setting.value
    if name in sampling_names():
        _assign(sampling, name, value, lambda: _number(name, value))
    elif name == "max_tokens":
        _assign(request, name, value, lambda: _integer(name, value))
    elif name == "stop":
        _assign(request, name, value, lambda: _words(value))
    elif name == "loops":
        _assign(request, "detect_loops", value, lambda: not flag(name, value))
    else:
        known = ", ".join((*sampling_names(), *request_names()))
        raise InvalidRequestError(f"there is no setting {name!r}; settings are: {known}")
    new = AnswerOptions(sampling, request)
    new.check()
    return new


_UNLIMITED = {"max_tokens": "no limit", "stop": "none", "seed": "a new one for each answer"}
_OFF = {"top_k": 0, "top_p": 1, "min_p": 0, "repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0}


def value_text(name: str, options: AnswerOptions, defaults: SamplingParams) -> str:
    """Return a setting's value as text, defaults marked."""
    if name == "loops":
        return "allowed" if options.request.get("detect_loops") is False else "end an answer (default)"
    values = options.request if name in request_names() else options.sampling
    if name in values:
        return _shown(name, values[name])
    default = getattr(defaults, name) if name in sampling_names() else None
    return f"{_shown(name, default)} (default)"


def _shown(name: str, value: Any) -> str:
    if value is None or value == ():
        return _UNLIMITED[name]
    if isinstance(value, tuple):
        return ", ".join(json.dumps(text, ensure_ascii=False) for text in value)
    return "off" if value == _OFF.get(name) else str(value)


def flag(name: str, value: str) -> bool:
    """Read "on" or "off". Raises InvalidRequestError for other text."""
    if value.lower() not in _FLAGS:
        raise InvalidRequestError(f"{name} must be on or off, got {value!r}")
    return _FLAGS[value.lower()]


def _assign(values: dict[str, Any], name: str, text: str, parse: Any) -> None:
    if text.lower() in _DEFAULT:
        values.pop(name, None)
    else:
        values[name] = parse()


def _number(name: str, value: str) -> float | int:
    if name in _WHOLE:
        return _integer(name, value)
    try:
        return float(value)
    except ValueError:
        raise InvalidRequestError(f"{name} must be a number or default, got {value!r}") from None


def _integer(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise InvalidRequestError(f"{name} must be a whole number or default, got {value!r}") from None


def _words(value: str) -> tuple[str, ...]:
    r"""Split at spaces outside quotes; \n is a line break, other backslashes are literal."""
    lexer = shlex.shlex(value, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.escape, lexer.commenters = True, "", ""
    try:
        return tuple(word.replace("\\n", "\n") for word in lexer)
    except ValueError as error:
        raise InvalidRequestError(f"stop takes texts in quotes: {error}") from None
