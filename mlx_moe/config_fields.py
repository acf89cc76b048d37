"""ConfigFields: typed reading of config.json. Knows nothing about models: families read the keys that they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlx_moe.errors import CheckpointError, UnsupportedModelError

MAX_NUMBER = 1e30
"""Limit of numbers: larger ones would overflow float32 in later computations."""

MAX_DIMENSION = 1 << 24
"""Limit of sizes: no published model has a vocabulary or width near it, so larger values mean a damaged file."""

MAX_OF_KEY = {
    "num_hidden_layers": 1 << 10,
    **dict.fromkeys(("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts"), 1 << 13),
}
"""Limits of numbers of things that are listed one by one: a node would be busy with a damaged file for minutes."""


class ConfigFields:
    """Typed reading of config.json. Every error names the key, the value, and what is expected."""

    def __init__(self, values: Mapping[str, Any], source: str) -> None:
        self._values = values
        self._source = source

    def has(self, key: str) -> bool:
        """Whether `key` exists and is not null."""
        return self._values.get(key) is not None

    def dimension(self, *keys: str, default: int | None = None, minimum: int = 1) -> int:
        """Return an integer of at least `minimum` under the first existing one of `keys`; 128.0 means 128.

        It is at most MAX_DIMENSION, or MAX_OF_KEY.
        """
        key, value = self._find(keys, default)
        number, maximum = _integer(value), MAX_OF_KEY.get(key, MAX_DIMENSION)
        if number is None or not minimum <= number <= maximum:
            raise self._wrong(key, value, f"an integer from {minimum} to {maximum}")
        return number

    def optional(self, *keys: str, default: int | None = None) -> int | None:
        """Return an integer in [1, MAX_DIMENSION], or None for null, 0 or -1; `default` if no key exists."""
        key = next((key for key in keys if key in self._values), None)
        if key is None:
            return default
        return None if self._values[key] in (None, 0, -1) else self.dimension(key)

    def number(self, *keys: str, default: float | None = None, above: float | None = None) -> float:
        """Return a finite number, which must be greater than `above` if that is given."""
        key, value = self._find(keys, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_NUMBER:
            raise self._wrong(key, value, "a finite number")
        if above is not None and value <= above:
            raise self._wrong(key, value, f"a number above {above:g}")
        return float(value)

    def flag(self, key: str, default: bool, *, also_true: int = 1) -> bool:
        """Return a boolean; 0 and 1 are accepted, and another number that some files have in place of true."""
        key, value = self._find((key,), default)
        if not isinstance(value, bool) and _integer(value) not in (0, 1, also_true):
            raise self._wrong(key, value, "true or false")
        return bool(value)

    def word(self, key: str, default: str) -> str:
        """Return a string."""
        key, value = self._find((key,), default)
        if not isinstance(value, str):
            raise self._wrong(key, value, "a string")
        return value

    def is_word(self, key: str) -> bool:
        """Whether there is a string under `key` that is not empty."""
        return isinstance(self._values.get(key), str) and bool(self._values[key])

    def dimensions(self, key: str) -> tuple[int, ...]:
        """Return a list of integers in [0, MAX_DIMENSION]; empty if missing or null."""
        values = self._values.get(key) or []
        numbers = [_integer(value) for value in values] if isinstance(values, list) else [None]
        if any(number is None or not 0 <= number <= MAX_DIMENSION for number in numbers):
            raise self._wrong(key, values, "a list of layer indices")
        return tuple(number for number in numbers if number is not None)

    def numbers(self, key: str, count: int, above: float) -> tuple[float, ...]:
        """Return a list of `count` finite numbers greater than `above`."""
        _, values = self._find((key,), None)
        one = [ConfigFields({key: value}, self._source) for value in values] if isinstance(values, list) else []
        if len(one) != count:
            raise self._wrong(key, values, f"a list of {count} numbers")
        return tuple(number.number(key, above=above) for number in one)

    def words(self, key: str) -> tuple[str, ...]:
        """Return a list of strings; empty if missing or null."""
        values = self._values.get(key) or []
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise self._wrong(key, values, "a list of strings")
        return tuple(values)

    def choice(self, key: str, known: Sequence[str], default: str) -> str:
        """Return a string that is one of the `known`."""
        value = self.word(key, default)
        if value not in known:
            raise self._wrong(key, value, " or ".join(known))
        return value

    def choices(self, key: str, known: Sequence[str], default: Sequence[str]) -> tuple[str, ...]:
        """Return a list of as many strings as `default` has, each one of the `known`."""
        _, values = self._find((key,), list(default))
        if not isinstance(values, list) or len(values) != len(default) or not all(value in known for value in values):
            raise self._wrong(key, values, f"a list of {len(default)} of {', '.join(known)}")
        return tuple(values)

    def section(self, key: str) -> ConfigFields | None:
        """Return the object under `key`; None if missing or null."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self._wrong(key, value, "an object")
        return ConfigFields(value, f"{self._source}: {key}")

    def within(self, key: str, *beside: str) -> ConfigFields:
        """Return the values of the object under `key`, then those beside it; all of these values if it is missing.

        The values of the keys `beside` it come first.
        """
        section = self.section(key)
        if section is None:
            return self
        first = {name: self._values[name] for name in beside if self.has(name)}
        return ConfigFields({**self._values, **dict(section.items()), **first}, section._source)

    def items(self) -> list[tuple[str, Any]]:
        """Return all pairs, unchecked."""
        return list(self._values.items())

    def unsupported(self, what: str) -> UnsupportedModelError:
        """Return the error for a valid file with an unsupported setting."""
        return UnsupportedModelError(f"{self._source}: {what}")

    def _find(self, keys: tuple[str, ...], default: Any) -> tuple[str, Any]:
        for key in keys:
            if self.has(key):
                return key, self._values[key]
        if default is None:
            raise CheckpointError(f"{self._source}: {' or '.join(keys)} is missing")
        return keys[0], default

    def _wrong(self, key: str, value: object, wanted: str) -> CheckpointError:
        found = repr(value)
        return CheckpointError(f"{self._source}: {key} must be {wanted}, got {found[:80]}")


def _integer(value: object) -> int | None:
    """Return an integer written as 128 or 128.0; None for any other value."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_NUMBER:
        return None
    return int(value) if value == int(value) else None
