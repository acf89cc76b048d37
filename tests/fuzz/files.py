"""Targets that are files: of a model, of this machine's user, and the hub's answers, of which files are made."""

from __future__ import annotations

import base64
import functools
import json
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save
from tokenizers import Tokenizer as TokenizersTokenizer
from tokenizers import decoders, models, pre_tokenizers

from cli import up
from cli.chat import export, transcript
from cluster.daemon.outline_message import Record
from cluster.membership.hardware import Hardware
from cluster.node.options import NodeOptions
from cluster.placement import ExpertPeer, Placement, StagePlacement, validate
from cluster.uses import Uses
from cluster.worker.role import Role
from mlx_moe import families, published_configs
from mlx_moe.checkpoint import conversion_record, json_file, library, tensor_file
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.inventory import stored_models
from mlx_moe.checkpoint.origin import Origin
from mlx_moe.checkpoint.share import Share
from mlx_moe.checkpoint.stored_parameter import find
from mlx_moe.errors import InvalidRequestError
from mlx_moe.layers.rope import Rope
from mlx_moe.summary import model_parameters
from mlx_moe.text import rank_file
from mlx_moe.text.chat_template import ChatTemplate
from mlx_moe.text.generation_defaults import GenerationDefaults
from mlx_moe.text.tokenizer import Tokenizer
from tests.fuzz.fuzzing import Target
from tests.fuzz.mutation import TEXTS, of_bytes, of_json, of_lines

NAMES = (
    "safetensors", "config", "index", "tokenizer", "tokenizer_config", "generation_config", "template", "rank_file",
    "origin", "content_record", "conversion_record", "ranges", "models", "plan", "transcript", "export", "hardware",
    "options", "uses",
)  # fmt: skip

TENSORS = {"a": np.zeros((2, 3), np.float32), "b.scales": np.zeros(4, np.uint8), "c": np.zeros((0, 2), np.float16)}

MANY_EXPERTS = 1000
"""Listing the parameters of more takes seconds, which is as it should be."""

TEMPLATE = """{{- bos_token }}{%- for message in messages %}{%- if message['role'] == 'user' %}
{{- '<u>' + message.content | trim }}{%- elif loop.last %}{{ raise_exception('no') }}{%- else %}
{%- set ns = namespace(x=1) %}{{- message.content.split('</think>')[-1] | tojson }}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<a>' + strftime_now('%Y') }}{%- endif %}"""

TRANSCRIPT = b"""{"chat": "a", "model": "demo", "at": "2026-01-01T00:00:00"}
{"name": "n"}
{"system": "s"}
{"role": "user", "text": "hello", "at": "x"}
{"role": "assistant", "text": "<think>a</think>b", "dialect": "plain", "thinking": ["<think>", "</think>"]}
{"keep": 1}
{"role": "user", "text": "again", "finish_reason": "stop"}
{"model": "other"}
"""


def targets(directory: Path) -> Iterator[Target]:
    """Yield the targets; files are written to a directory."""
    yield Target("safetensors", [save(TENSORS), _header({})], _of_header, _file(directory, tensor_file.read))
    yield Target("config", _configs(), of_json, _config)
    yield from _of_model(_tiny_model(directory / "model"))
    yield Target("template", [TEMPLATE.encode()], _of_template, _template, slowness=5)
    ranks = b"".join(base64.b64encode(bytes([n])) + b" %d\n" % n for n in range(256)) + b"aGU= 256\n"
    yield Target("rank_file", [ranks], of_lines(of_bytes), _file(directory, rank_file.read), slowness=2)
    yield from _records(directory)
    yield Target("plan", [json.dumps(plan()).encode()], of_json, _file(directory, _plan))
    yield Target("transcript", [TRANSCRIPT], of_lines(of_json), _file(directory, transcript.read_transcript))
    exported = {"model": "demo", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    reads = _file(directory, transcript._read_export)
    assert export.read_json(json.dumps(exported))
    yield Target("export", [json.dumps(exported).encode()], of_json, reads)
    yield Target("hardware", [json.dumps(HARDWARE).encode()], of_json, _json(Hardware.from_json))
    options = NodeOptions("mac-1", "0.0.0.0", 7420, 10**9, ("10.0.0.1:7420",))
    path = directory / "options.json"
    options.write(path)
    yield Target("options", [path.read_bytes()], of_json, _file(directory, NodeOptions.read))
    yield Target("uses", [b'{"/a/b": 1.5, "/c": 2}'], of_json, _file(directory, lambda path: Uses(path).read()))


HARDWARE = {
    "chip": "Apple M4",
    "backend": "metal",
    "dtype": "bfloat16",
    "memory_bytes": 2**36,
    "budget_bytes": 2**35,
    "bandwidth_gbps": 120.5,
    "matmul_tflops": 4.5,
    "platform": "macOS-15.5-arm64",
    "mlx_version": "0.32.4",
    "measured_at": 1.7e9,
}


def plan() -> dict[str, Any]:
    """Return a plan of the demo with an expert peer, in JSON."""
    experts = tuple(range(16))
    stages = (
        StagePlacement("a" * 16, range(2), {}, ()),
        StagePlacement(
            "b" * 16,
            range(2, 6),
            {2: experts[:8], 3: experts[:8]},
            (ExpertPeer("c" * 16, {2: experts[8:], 3: experts[8:]}),),
        ),
    )
    return Placement("demo", "f" * 32, stages, 512, 1, 4096, {"a" * 16: 10}).to_json()


def _plan(path: Path) -> None:
    placement = up._read_plan(str(path))
    validate(placement, _demo_config())
    Role.read(json.dumps(placement.to_json()), "b" * 16).shard_spec()


@functools.cache
def _demo_config() -> Any:
    directory = library.locate("demo")
    return families.read_config(json_file.read(directory / "config.json"))


def _configs() -> list[bytes]:
    published = [value for name, value in vars(published_configs).items() if name.isupper() and isinstance(value, dict)]
    return [json.dumps(_smaller(value)).encode() for value in published]


def _smaller(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config with fewer layers and experts, which are listed one by one."""
    smaller = {key: _smaller(value) if isinstance(value, dict) else value for key, value in config.items()}
    few = {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "num_hidden_layers": 6}
    few |= dict.fromkeys(("n_routed_experts", "num_experts", "num_local_experts"), 8)
    return smaller | {key: value for key, value in few.items() if isinstance(smaller.get(key), int)}


def _config(data: bytes) -> None:
    """Do all that a node does with a config before it looks at tensors."""
    config = families.read_config(json_file.parse(data, "config.json"))
    families.cache_costs(config, 4)
    Rope(config.rope)
    if config.num_hidden_layers * config.moe.n_routed_experts <= MANY_EXPERTS:
        model_parameters(config)


def _tiny_model(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "qwen3_moe",
        "vocab_size": 300,
        "hidden_size": 64,
        "intermediate_size": 64,
        "moe_intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "max_position_embeddings": 64,
        "eos_token_id": [3],
    }
    tensors = {
        p.layouts[0].sources[0].tensor: np.zeros(p.layouts[0].shape, np.float32)
        for p in model_parameters(families.read_config(config))
    }
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "model.safetensors").write_bytes(save(tensors))
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(tensors, "model.safetensors")}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    words = ["<s>", "</s>", "<think>", "</think>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "he"]
    tokenizer = TokenizersTokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[("h", "e")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(words[:2])
    (directory / "tokenizer.json").write_text(tokenizer.to_str())
    stated = {
        "bos_token": "<s>",
        "eos_token": {"content": "</s>", "lstrip": False, "special": True},
        "added_tokens_decoder": {"0": {"content": "<s>", "special": True}, "1": {"content": "</s>", "special": True}},
        "additional_special_tokens": ["<think>"],
        "chat_template": [{"name": "default", "template": TEMPLATE}],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(stated))
    defaults = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "do_sample": True, "eos_token_id": [1, 3]}
    (directory / "generation_config.json").write_text(json.dumps(defaults))
    return directory


def _of_model(directory: Path) -> Iterator[Target]:
    """Yield targets that are files of one model, each read with the sound others."""

    def file(name: str, read: Callable[[Path], object]) -> tuple[list[bytes], Callable[[bytes], object]]:
        path = directory / name
        sound = path.read_bytes()

        def parse(data: bytes) -> None:
            path.write_bytes(data)
            try:
                read(directory)
            finally:
                path.write_bytes(sound)

        return [sound], parse

    seeds, parse = file("model.safetensors.index.json", _open)
    yield Target("index", seeds, of_json, parse)
    seeds, parse = file("tokenizer.json", _use_tokenizer)
    yield Target("tokenizer", seeds, of_json, parse, slowness=2)
    seeds, parse = file("tokenizer_config.json", _use_tokenizer)
    yield Target("tokenizer_config", seeds, of_json, parse, slowness=2)
    seeds, parse = file("generation_config.json", GenerationDefaults.read)
    yield Target("generation_config", seeds, of_json, parse)


def _open(directory: Path) -> None:
    with Checkpoint.open(directory) as checkpoint:
        find(checkpoint, model_parameters(families.config_of(checkpoint)))


def _use_tokenizer(directory: Path) -> None:
    tokenizer = Tokenizer.load(directory)
    ids = tokenizer.encode("hello <s> é")
    tokenizer.decode(ids)
    one = tokenizer.detokenizer()
    for token_id in (*ids, 0, 10**6):
        one.add(token_id)
    one.finish()
    tokenizer.decode([0, 5, 10**6], skip_special_tokens=False)


def _template(data: bytes) -> None:
    text = data.decode(errors="replace")
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    ChatTemplate(text, {"bos_token": "<s>"}).render(turns)


def _of_template(data: bytes, chance: random.Random) -> bytes:
    """Return a template with something of a template put in, or damaged as bytes."""
    pieces = (
        "{% for a in range(9) %}", "{% endfor %}", "{{ messages * 99999 }}", "{{ 'a' * 10 ** 9 }}",
        "{{ ''.__class__ }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{% include 'x' %}", "{{ namespace }}", "{{ 1 // 0 }}", "{%",
        "{{ range(10 ** 12) | list }}", "{{ (9 ** 9 ** 9) }}", "{{ cycler.__init__.__globals__ }}", "{{ lipsum(n=1) }}",
        "{{ raise_exception(1) }}", "{{ 'x' | center(10 ** 9) }}", "{% raw %}", "{{ messages[0].content.x.y }}", "{{ x",
    )  # fmt: skip
    if chance.random() < 0.4:
        return of_bytes(data, chance)
    at = chance.randint(0, len(data))
    return data[:at] + chance.choice((*pieces, *TEXTS[:10])).encode(errors="replace") + data[at:]


def _records(directory: Path) -> Iterator[Target]:
    record = directory / "record"
    record.mkdir(exist_ok=True)

    def stored(name: str, sound: object, read: Callable[[Path], object]) -> tuple[list[bytes], Callable[[bytes], None]]:
        def parse(data: bytes) -> None:
            (record / name).write_bytes(data)
            try:
                read(record)
            finally:
                (record / name).unlink()

        return [json.dumps(sound).encode()], parse

    files = {"model.safetensors": {"size": 10, "sha256": "a" * 64}, "config.json": {"size": 2, "sha256": ""}}
    seeds, parse = stored("origin.json", {"repo_id": "a/b", "commit": "c" * 40, "files": files}, _origin)
    yield Target("origin", seeds, of_json, parse)
    sound: dict[str, Any] = {"model": "demo", "content_hash": "f" * 32, "digests": {"a": "b"}}
    seeds, parse = stored("content.json", sound, Record.of)
    yield Target("content_record", seeds, of_json, parse)
    quantization = {"group_size": 64, "bits": 4, "mode": "affine"}
    sound = {
        "source": "a/b",
        "source_stamp": "s",
        "recipe": {"experts": quantization, "others": None},
        "keep_mtp": True,
        "written": {"a": {"file": "x.safetensors", "dtype": "F32", "shape": [2, 3], "digest": "0"}},
    }
    seeds, parse = stored(conversion_record.NAME, sound, _refuse_unfinished)
    yield Target("conversion_record", seeds, of_json, parse)
    part = _part(directory / "part")
    seeds, parse = (
        [part.read_bytes()],
        _replaced(part, lambda: Share(part.parent).present("model.safetensors", range(99))),
    )
    yield Target("ranges", seeds, of_json, parse)
    config = _tiny_model(directory / "models" / "org" / "name") / "config.json"
    yield Target(
        "models", [config.read_bytes()], of_json, _replaced(config, lambda: stored_models(directory / "models"))
    )


def _origin(directory: Path) -> None:
    assert isinstance(Origin.of(directory).identity, str)


def _refuse_unfinished(directory: Path) -> None:
    if conversion_record.ConversionRecord.read(directory) is not None:
        conversion_record.refuse_unfinished(directory)


def _part(directory: Path) -> Path:
    """Make a directory with a weight file in part; return the record of its ranges."""
    directory.mkdir(exist_ok=True)
    data = save(TENSORS)
    (header_bytes,) = struct.unpack("<Q", data[:8])
    tensor_file.header_path(directory / "model.safetensors").write_bytes(data[: 8 + header_bytes])
    share = Share(directory)
    share.write("model.safetensors", 8 + header_bytes, memoryview(data)[8 + header_bytes : 8 + header_bytes + 8])
    share.sync()
    share.close()
    (record,) = directory.glob("*.ranges")
    return record


def _replaced(path: Path, read: Callable[[], object]) -> Callable[[bytes], None]:
    sound = path.read_bytes()

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        try:
            read()
        finally:
            path.write_bytes(sound)

    return parse


def _file(directory: Path, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    path = directory / "input.json"

    def parse(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return parse


def _json(read: Callable[[object], object]) -> Callable[[bytes], object]:
    """Return a parser of values that were JSON; what is not JSON is refused before, as by `json_file`."""

    def parse(data: bytes) -> object:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as exc:
            raise InvalidRequestError("not JSON") from exc
        return read(value)

    return parse


def _header(header: dict[str, Any]) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


def _of_header(data: bytes, chance: random.Random) -> bytes:
    """Return a file whose header is damaged as JSON, its length right, or damaged as bytes."""
    if len(data) < 8 or chance.random() < 0.3:
        return of_bytes(data, chance)
    size = min(int.from_bytes(data[:8], "little"), len(data) - 8)
    text = of_json(data[8 : 8 + size], chance)
    return struct.pack("<Q", len(text)) + text + data[8 + size :]
