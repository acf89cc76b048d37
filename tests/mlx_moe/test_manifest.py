"""Manifest: what it says about two models, and what arrives when a node passes it on."""

import json
from dataclasses import replace

import pytest

from mlx_moe.errors import CheckpointError
from mlx_moe.manifest import Entry, Manifest, Run, differences

FILES = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
MANIFEST = Manifest(
    {"vocab_size": "8", "rope": '{"theta": 1.0}'},
    (
        Entry("model.norm.weight", "ends", "BF16", (4,), "01", (Run(FILES[1], 80, 8),)),
        Entry("experts.up_proj", "layer 0", "U32", (2, 4, 1), "02", (Run(FILES[0], 8, 16), Run(FILES[1], 64, 16))),
        Entry("experts.up_proj", "layer 0", "BF16", (2, 4, 1), "03", (Run(FILES[0], 24, 16),)),
    ),
)


def changed(index: int, **values: object) -> Manifest:
    entries = [*MANIFEST.entries]
    entries[index] = replace(entries[index], **values)  # type: ignore[arg-type]
    return Manifest(MANIFEST.config, tuple(entries))


def test_a_manifest_arrives_as_it_was_sent() -> None:
    assert Manifest.from_json(MANIFEST.to_json(), "mac-2's manifest") == MANIFEST


def test_differences_are_named_by_field_and_parameter_and_counted_once() -> None:
    other = changed(2, digest="ff")
    assert differences(MANIFEST.digests, other.digests) == ["experts.up_proj"]
    assert other.hash != MANIFEST.hash
    field = Manifest({**MANIFEST.config, "vocab_size": "9"}, MANIFEST.entries[1:])
    assert differences(MANIFEST.digests, field.digests) == ["vocab_size of config.json", "model.norm.weight"]


def test_files_and_order_do_not_change_the_hash() -> None:
    moved = changed(0, runs=(Run("model.safetensors", 1000, 8),))
    assert moved.hash == MANIFEST.hash
    first, *experts = MANIFEST.entries
    assert Manifest(dict(sorted(MANIFEST.config.items())), (*experts, first)).hash == MANIFEST.hash


DOCUMENT = json.loads(MANIFEST.to_json())
DAMAGED = {
    "no JSON": b"{",
    "no entries": json.dumps({**DOCUMENT, "entries": None}).encode(),
    "a field that is no text": json.dumps({**DOCUMENT, "config": {"vocab_size": 8}}).encode(),
    "an unknown file": json.dumps({**DOCUMENT, "files": [FILES[0]]}).encode(),
    "a negative offset": MANIFEST.to_json().replace(b"[0,80,8]", b"[0,-80,8]"),
    "a negative file": MANIFEST.to_json().replace(b"[0,80,8]", b"[-1,80,8]"),
    "a run of two numbers": MANIFEST.to_json().replace(b"[0,80,8]", b"[0,80]"),
    "no digest": MANIFEST.to_json().replace(b'"digest":"02"', b'"digest":null'),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_manifest_is_refused_with_its_source(damage: str) -> None:
    assert DAMAGED[damage] != MANIFEST.to_json()
    with pytest.raises(CheckpointError, match="mac-2's manifest is not"):
        Manifest.from_json(DAMAGED[damage], "mac-2's manifest")
