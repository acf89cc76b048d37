"""Mutation: damages valid inputs, as bytes, as JSON and as protobuf messages. Pure."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

Mutate: TypeAlias = Callable[[bytes, random.Random], bytes]

MAX_BYTES = 1 << 20

INTEGERS = (0, 1, -1, 2, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, 10**400)
TEXTS = (
    "", " ", "\0", "../../x", "/etc/passwd", "é" * 40, "\ud800", "\u202e", "a" * 70_000, "NaN", "default", "{{ x }}",
    "127.0.0.1:1", "[::1]:99999", "0" * 16, "f" * 32, "1e400", "-0", "\r\n\r\n", "<|im_end|>", "model.safetensors",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, *INTEGERS, 0.5, -0.0, 1e308, float("nan"), float("inf"), *TEXTS,
    [], {}, [[]], [None], {"": None}, [0] * 1000, {"type": "x"}, [{}], [1, 2, 3],
)  # fmt: skip


def of_bytes(data: bytes, chance: random.Random) -> bytes:
    """Return bytes after one to four small damages."""
    damaged = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        _damage(damaged, chance)
    return bytes(damaged[:MAX_BYTES])


def _damage(data: bytearray, chance: random.Random) -> None:
    at = chance.randint(0, len(data))
    length = min(len(data) - at, chance.choice((1, 2, 4, 8, 64, 1000)))
    match chance.randrange(7):
        case 0 if at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        case 1:
            del data[at : at + length]
        case 2:
            data[at:at] = data[at : at + length] * chance.choice((1, 2, 50))
        case 3:
            data[at:at] = chance.randbytes(length + 1)
        case 4:
            size = chance.choice((1, 2, 4, 8))
            number = chance.choice(INTEGERS) & (256**size - 1)
            data[at : at + size] = number.to_bytes(size, chance.choice(("big", "little")))
        case 5:
            del data[at:]
        case _:
            data[at:at] = chance.choice(TEXTS)[:1000].encode(errors="surrogatepass")


def of_json(data: bytes, chance: random.Random) -> bytes:
    """Return JSON with one to three changed values, sometimes damaged as bytes too."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return of_bytes(data, chance)
    for _ in range(chance.randint(1, 3)):
        value = _changed(value, chance)
    text = json.dumps(value)
    if chance.random() < 0.05:
        text = _with_key_twice(text)
    if chance.random() < 0.03:
        text = _nested(text, chance)
    encoded = text.encode(errors="surrogatepass")
    return of_bytes(encoded, chance) if chance.random() < 0.1 else encoded[:MAX_BYTES]


def of_lines(mutate: Mutate) -> Mutate:
    """Return a mutation of one line of several; lines may also go, come twice, or change their places."""

    def mutated(data: bytes, chance: random.Random) -> bytes:
        lines = data.split(b"\n")
        at = chance.randrange(len(lines))
        match chance.randrange(4):
            case 0:
                del lines[at]
            case 1:
                lines.insert(chance.randrange(len(lines)), lines[at])
            case _:
                lines[at] = mutate(lines[at], chance)
        return b"\n".join(lines)[:MAX_BYTES]

    return mutated


def of_message(kind: type[Message]) -> Mutate:
    """Return a mutation of the fields of a protobuf message, sometimes of its bytes."""

    def mutated(data: bytes, chance: random.Random) -> bytes:
        message = kind()
        try:
            message.ParseFromString(data)
        except DecodeError:
            return of_bytes(data, chance)
        for _ in range(chance.randint(1, 3)):
            _change(message, chance)
        encoded = message.SerializeToString()
        encoded = of_bytes(encoded, chance) if chance.random() < 0.2 else encoded
        return encoded if len(encoded) <= MAX_BYTES else data

    return mutated


def _changed(value: Any, chance: random.Random) -> Any:
    """Return a JSON value in which something is replaced, removed, added or doubled."""
    places = list(_places(value))
    if not places or chance.random() < 0.02:
        return chance.choice(VALUES)
    holder, key = chance.choice(places)
    match chance.randrange(6):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[chance.choice(TEXTS)] = holder.pop(key)
        case 2 if isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        case 3:
            other, other_key = chance.choice(places)
            if other is not holder and other_key in (other if isinstance(other, dict) else range(len(other))):
                holder[key] = copy.deepcopy(other[other_key])
        case 4 if isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
            holder[key] = holder[key] * chance.choice((-1, 0, 2, 10**6)) + chance.choice((0, 1, -1))
        case _:
            holder[key] = copy.deepcopy(chance.choice(VALUES))
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield where each value is, at most some thousands."""
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        keys: Any = holder if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in list(keys)[:300]:
            yield holder, key
            waiting.append(holder[key])


def _with_key_twice(text: str) -> str:
    return text.replace("{", '{"model_type": 1, ', 1).replace("}", ', "model_type": 2}', 1)


def _nested(text: str, chance: random.Random) -> str:
    depth = chance.choice((70, 1000, 100_000))
    opening, closing = chance.choice((("[", "]"), ('{"a":', "}")))
    return opening * depth + text[:1000] + closing * chance.choice((0, depth))


def _change(message: Message, chance: random.Random) -> None:
    field = chance.choice(message.DESCRIPTOR.fields)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return
    if field.message_type is not None:
        _change_submessage(message, field, chance)
        return
    if chance.random() < 0.15:
        message.ClearField(field.name)
        return
    value = _scalar(field, chance)
    if field.is_repeated:
        listed = getattr(message, field.name)
        listed.extend([value] * chance.choice((1, 2, 300)))
        if len(listed) > 1 and chance.random() < 0.5:
            del listed[0]
    else:
        setattr(message, field.name, value)


def _change_submessage(message: Message, field: FieldDescriptor, chance: random.Random) -> None:
    if not field.is_repeated:
        _change(getattr(message, field.name), chance)
        return
    listed = getattr(message, field.name)
    if not listed or chance.random() < 0.3:
        listed.add()
    if chance.random() < 0.1:
        listed.extend([copy.deepcopy(listed[0]) for _ in range(300)])
    _change(chance.choice(listed), chance)


def _scalar(field: FieldDescriptor, chance: random.Random) -> Any:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        text = chance.choice(TEXTS)
        as_bytes = text.encode(errors="replace")
        return as_bytes if field.type == FieldDescriptor.TYPE_BYTES else as_bytes.decode()
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return chance.random() < 0.5
    if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return chance.choice((0.0, -0.0, 1e-300, 1e300, -1.0, float("nan"), float("inf"), float("-inf")))
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return chance.choice((0, 1, 2, 3, 77, 2**31 - 1))
    bits, signed = (64 if "64" in _NAMES[kind] else 32), not _NAMES[kind].startswith("UINT")
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return min(max(chance.choice(INTEGERS), low), high)


_NAMES = {
    FieldDescriptor.CPPTYPE_INT32: "INT32",
    FieldDescriptor.CPPTYPE_INT64: "INT64",
    FieldDescriptor.CPPTYPE_UINT32: "UINT32",
    FieldDescriptor.CPPTYPE_UINT64: "UINT64",
}
