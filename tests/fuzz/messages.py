"""Targets that are messages: of other nodes, of clients, of workers, and of those who are nobody yet."""

from __future__ import annotations

import asyncio
import functools
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Protobuf
from zeroconf.asyncio import AsyncServiceInfo

import mlx_moe
from cluster.client import model as client_model
from cluster.client import status_message
from cluster.daemon import deploying, outline_message
from cluster.daemon.authority_message import removals_from
from cluster.daemon.greeter import Channels, Greeter
from cluster.daemon.state import NodeState
from cluster.errors import ClusterError
from cluster.membership import discovery, greeting
from cluster.membership.hardware import Hardware
from cluster.membership.membership import Greeted
from cluster.membership.node_info import NodeInfo
from cluster.membership.node_message import to_message
from cluster.model_list import from_message as listed_models
from cluster.request_message import from_request_message, from_token_message, to_request_message, to_sampling_message
from cluster.timeline import Timeline
from cluster.trust import Authority, Insecure, JoinToken, NodeKey
from cluster.trust.identity import proven_key
from cluster.weights import weights_service
from cluster.wire import coordinator_pb2, node_pb2, worker_pb2
from cluster.worker import coordinator_service, pipe
from cluster.worker.arrays import to_frame
from cluster.worker.arrays import to_message as frame_message
from cluster.worker.computing import Computing
from cluster.worker.messages import HEADER_BYTES, Dtype, Kind, LinkError, Message, decode_batch
from cluster.worker.recording import Recording
from cluster.worker.remote_experts import answer_pairs, pairs_message
from cluster.worker.ring import RingPipeline, RingStage
from cluster.worker.role import Role
from mlx_moe import families
from mlx_moe.checkpoint import library
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.decoding.request import Request
from mlx_moe.errors import InvalidRequestError
from mlx_moe.layers.expert_dispatch import Pairs
from mlx_moe.layers.steps import finish
from mlx_moe.pipeline.frame import Frame, FrameKind
from mlx_moe.pipeline.holding import load_experts
from mlx_moe.pipeline.shard import ExpertShard
from mlx_moe.pipeline.shard_spec import ShardSpec
from mlx_moe.pipeline.stage import Stage
from mlx_moe.sampling_params import SamplingParams
from tests.fuzz.files import HARDWARE, plan
from tests.fuzz.fuzzing import Target
from tests.fuzz.mutation import INTEGERS, of_bytes, of_json, of_message

NAMES = (
    "frame", "returned", "experts", "greeting", "answer_request", "chat", "status", "load_status", "token",
    "description", "model_list", "worker_command", "worker_event", "pipe", "outline", "read_weights", "timeline",
    "join_token", "certificate_request", "certificates", "announcement",
)  # fmt: skip

EPOCH = 3
SEQUENCE = "ab" * 16
OWNED = (1, 3, 5)
LAYER = 2

P = TypeVar("P", bound=Protobuf)


def targets(directory: Path) -> Iterator[Target]:
    """Yield the targets; an outline is written to a directory."""
    yield from _of_links()
    yield from _of_nodes(directory)
    yield from _of_clients()
    yield from _of_workers()
    yield from _of_strangers(directory)


def _of_links() -> Iterator[Target]:
    frames = [_frame(FrameKind.PREFILL, 40), _frame(FrameKind.DECODE, 1), _frame(FrameKind.DRAFT, 1)]
    others = [
        Message(Kind.FORK, SEQUENCE, EPOCH, position=8, payload=bytes(16)),
        Message(Kind.RELEASE, SEQUENCE, EPOCH),
        Message(Kind.FAILURE, SEQUENCE, EPOCH, 5, position=3, payload=b"cannot_rewind no"),
        Message(Kind.TIMELINES, SEQUENCE, EPOCH, payload=worker_pb2.Timelines().SerializeToString()),
    ]
    seeds = [message.encode() for message in (*frames, *others)]
    yield Target("frame", seeds, _of_ring_message, _pass_on, slowness=2)
    yield Target("returned", seeds, _of_ring_message, _come_back, slowness=2)
    pairs = Pairs(np.array([0, 2, 2], np.int32), np.array(OWNED, np.int32), by_expert=False)
    rows = mx.random.normal((4, _experts().config.hidden_size), dtype=_experts().dtype, key=mx.random.key(1))
    question = pairs_message(LAYER, rows, pairs, serial=7)
    yield Target("experts", [question.encode()], _of_ring_message, _answer_pairs, slowness=2)


@functools.cache
def _loop() -> asyncio.Runner:
    return asyncio.Runner()


@functools.cache
def _stage() -> Stage:
    """Return a stage of the demo."""
    model = mlx_moe.load("demo")
    shard = model.stage.shard
    return Stage(replace(shard, spec=ShardSpec(range(2, 4)), layers=shard.layers[2:4]), "mac-2")


@functools.cache
def _experts() -> ExpertShard:
    with Checkpoint.open(library.locate("demo")) as checkpoint:
        spec = ShardSpec(range(LAYER, LAYER + 1), {LAYER: OWNED})
        return load_experts(checkpoint, families.config_of(checkpoint), spec).shard


def _frame(kind: FrameKind, rows: int) -> Message:
    shard = _stage().shard
    hidden = mx.random.normal((rows, shard.config.hidden_size), dtype=shard.dtype, key=mx.random.key(rows))
    return frame_message(Frame(SEQUENCE, 0, hidden, kind, 1), EPOCH)


def _pass_on(data: bytes) -> None:
    stage = RingStage(Computing(_stage()), EPOCH, "mac-1")
    for message in decode_batch(data):
        _loop().run(stage.pass_on([message]))
        _stage().release(message.sequence_id)


def _come_back(data: bytes) -> None:
    async def ignore(*_: Message) -> None:
        pass

    computing = Computing(_stage())
    ring = RingPipeline(
        computing, Recording("mac-1"), lambda _: None, 2, EPOCH, ignore, lambda _: None, work=2.0, last="mac-2"
    )
    sent = to_frame(_frame(FrameKind.PREFILL, 40), "mac-1")
    _loop().run(ring.send(sent))
    _stage().release(SEQUENCE)
    ring.come_back(Message.decode(data))


def _answer_pairs(data: bytes) -> None:
    finish(answer_pairs(_experts(), Message.decode(data), "mac-2"))


def _of_ring_message(data: bytes, chance: random.Random) -> bytes:
    """Return a message with other fields and right checksums, or with other bytes, whose checksums may be right."""
    try:
        message = Message.decode(data)
    except LinkError:
        return of_bytes(data, chance)
    if chance.random() < 0.4:
        damaged = bytearray(of_bytes(data, chance))
        if len(damaged) >= HEADER_BYTES and chance.random() < 0.8:
            header = HEADER_BYTES - 8
            checksums = zlib.crc32(damaged[:header]), zlib.crc32(damaged[HEADER_BYTES:])
            damaged[header:HEADER_BYTES] = struct.pack(">II", *checksums)
        return bytes(damaged)
    changes: dict[str, Any] = {}
    for name in chance.sample(("kind", "dtype", "flags", "epoch", "serial", "position", "rows", "width", "outputs"), 2):
        match name:
            case "kind":
                changes[name] = chance.choice(list(Kind))
            case "dtype":
                changes[name] = chance.choice(list(Dtype))
            case "flags":
                changes[name] = chance.randrange(256)
            case _:
                changes[name] = chance.choice((EPOCH, 1, 2, 40, *INTEGERS)) & (
                    2**64 - 1 if name == "serial" else 2**32 - 1
                )
    payload = bytes(message.payload)
    if chance.random() < 0.3:
        payload = of_bytes(payload, chance)
    return replace(message, **changes, payload=payload).encode()


def _of_nodes(directory: Path) -> Iterator[Target]:
    info = to_message(_info("b" * 16))
    term = node_pb2.Term(epoch=EPOCH, owner="b" * 16, electorate=["a" * 16, "b" * 16])
    said = node_pb2.Greeting(
        info=info,
        ballot=node_pb2.Ballot(decided=term, granted=term),
        removed=[node_pb2.Removal(node_id="d" * 16, name="mac-9", at_s=5, signature=bytes(64))],
        known=[node_pb2.Acquaintance(node_id="c" * 16, addresses=["10.0.0.3:7420"])],
        holding=node_pb2.Holding(model="demo", epoch=EPOCH, end_layer=6, stats=worker_pb2.WorkerStats(frames=1)),
        serving=node_pb2.Serving(model="demo", epoch=EPOCH, coordinator="b" * 16, port=1234, node_ids=["b" * 16]),
        links=[node_pb2.MeasuredLink(node_id="a" * 16, latency_s=0.001, bytes_per_s=1e8)],
    )
    yield Target("greeting", [said.SerializeToString()], of_message(node_pb2.Greeting), _hear)
    stream = b"".join(
        _delimited(node_pb2.OutlinePart(name=name, data=data))
        for name, data in (
            ("content.json", b'{"model": "demo", "content_hash": "f", "digests": {}}'),
            ("config.json", b"{}"),
            ("model.safetensors.header", bytes(8)),
        )
    )
    yield Target("outline", [stream], _of_outline, lambda data: _receive_outline(data, directory / "outline"))
    asked = node_pb2.ReadWeights(content_hash="f" * 32, file="model.safetensors", starts=[0, 100], sizes=[10, 5])
    mutate = of_message(node_pb2.ReadWeights)
    yield Target(
        "read_weights", [asked.SerializeToString()], mutate, lambda data: list(weights_service._asked(data)[1])
    )


def _asked(data: bytes) -> None:
    _, ranges = weights_service._asked(data)
    assert all(ranges)


def _info(node_id: str) -> NodeInfo:
    return NodeInfo(node_id, "mac", ("10.0.0.2:7420",), "0.1.0", 5, 10**9, Hardware.from_json(HARDWARE))


def _hear(data: bytes) -> None:
    """Do all that a node does with a greeting, and what it tells its own command line and its events afterwards."""
    heard = greeting.parsed(_parsed(node_pb2.Greeting, data), "10.0.0.9:7420")
    state = NodeState(_info("a" * 16), lambda _: None)
    if heard.info.node_id == state.own.node_id:
        raise ClusterError("a stranger with this node's id has no certificate")
    state.apply(Greeted(heard.info, "10.0.0.9:7420"))
    greeter = Greeter(state, Channels(Insecure("a" * 16)))
    removals_from(heard.removed)
    greeter.hear(heard)
    greeter.greeting("10.0.0.2:7420")
    _, serving = state.serving
    status_message.serving_status(serving)
    state.holding_of(heard.info.node_id)
    state.links_of(heard.info.node_id)
    state.ballot_of(heard.info.node_id)


def _delimited(message: Protobuf) -> bytes:
    data = message.SerializeToString()
    return struct.pack(">I", len(data)) + data


def _undelimited(kind: type[P], data: bytes) -> Iterator[P]:
    while len(data) >= 4:
        (size,) = struct.unpack(">I", data[:4])
        yield _parsed(kind, data[4 : 4 + size])
        data = data[4 + size :]


def _of_outline(data: bytes, chance: random.Random) -> bytes:
    try:
        parts = list(_undelimited(node_pb2.OutlinePart, data))
    except InvalidRequestError:
        return of_bytes(data, chance)
    mutate = of_message(node_pb2.OutlinePart)
    at = chance.randrange(len(parts) or 1)
    return b"".join(
        struct.pack(">I", len(encoded)) + encoded
        for n, part in enumerate(parts)
        for encoded in [mutate(part.SerializeToString(), chance) if n == at else part.SerializeToString()]
    )


def _receive_outline(data: bytes, directory: Path) -> None:
    async def stream() -> Any:
        for part in _undelimited(node_pb2.OutlinePart, data):
            yield part

    _loop().run(outline_message.receive(stream(), directory, "f"))


def _of_clients() -> Iterator[Target]:
    sampling = SamplingParams(temperature=0.7, top_p=0.9, seed=5, logit_bias={3: 1.0})
    request = to_request_message(Request((1, 2, 3), sampling, max_tokens=4, stop=("x",)), bytes(16), bytes(16))
    kind = coordinator_pb2.AnswerRequest
    yield Target("answer_request", [request.SerializeToString()], of_message(kind), _take_request)
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    turns: list[dict[str, Any]] = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "r"},
        {"role": "tool", "tool_call_id": "a", "name": "f", "content": "1"},
    ]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    seeds = [json.dumps(value).encode() for value in ([turns, {}], [turns[:2], {"tools": tools, "enable": True}])]
    yield Target("chat", seeds, of_json, _format_chat, slowness=4)
    node = node_pb2.NodeStatus(info=to_message(_info("a" * 16)), shown_name="mac", state="present", latency_s=0.001)
    node.holding.CopyFrom(node_pb2.Holding(model="demo", epoch=EPOCH, end_layer=6))
    serving = node_pb2.Serving(model="demo", epoch=EPOCH, state=node_pb2.Serving.READY, coordinator="a" * 16, port=99)
    status = node_pb2.ClusterStatus(cluster_id="a" * 16, own_node_id="a" * 16, nodes=[node], serving=serving)
    yield _message("status", status, status_message.cluster_status)
    load = node_pb2.LoadStatus(serving=serving, placement=json.dumps(plan()))
    yield _message("load_status", load, status_message.load_status)
    token = coordinator_pb2.AnswerToken(id=5, text="a", logprob=-1.0, position=3, finish_reason="stop")
    yield _message("token", token, from_token_message)
    description = coordinator_pb2.ModelDescription(
        model="demo", sampling=to_sampling_message(sampling), context_tokens=512, dialect="plain", thought_open="<a>"
    )
    yield _message("description", description, client_model._description)
    model = node_pb2.ListedModel(node="mac", name="demo", place="cache", model_type="x", form="4 bit", end_layer=6)
    yield _message("model_list", node_pb2.ModelList(models=[model]), listed_models)


def _take_request(data: bytes) -> None:
    request = _parsed(coordinator_pb2.AnswerRequest, data)
    coordinator_service._request_id(request)
    from_request_message(request)


def _format_chat(data: bytes) -> None:
    """Do what FormatChat does with its two fields, which are JSON."""
    pair = coordinator_service._json(data.decode(errors="replace"), list)
    messages, variables = pair if len(pair) == 2 else (pair, {})
    messages = coordinator_service._json(json.dumps(messages), list)
    variables = coordinator_service._json(json.dumps(variables), dict)
    if taken := variables.keys() & coordinator_service._NO_VARIABLES:
        raise InvalidRequestError(f"a variable of a chat template cannot be called {min(taken)!r}")
    _tokenizer().format_chat(messages, add_generation_prompt=True, **variables)


@functools.cache
def _tokenizer() -> Any:
    return mlx_moe.load("demo").tokenizer


def _of_workers() -> Iterator[Target]:
    load = worker_pb2.LoadShard(model="demo", epoch=EPOCH, placement=json.dumps(plan()), draft="none")
    yield _message("worker_command", worker_pb2.WorkerCommand(load=load), _take_command)
    failure = worker_pb2.WorkerFailure(code="node_lost", message="gone", node_id="a" * 16)
    events = [
        worker_pb2.WorkerEvent(failure=failure),
        worker_pb2.WorkerEvent(disconnected=worker_pb2.WorkerDisconnected(epoch=EPOCH, cause=failure)),
        worker_pb2.WorkerEvent(progress=worker_pb2.LoadProgress(done_bytes=1, total_bytes=2)),
        worker_pb2.WorkerEvent(loaded=worker_pb2.ShardLoaded(port=5, epoch=EPOCH)),
    ]
    yield _message("worker_event", events[0], lambda event: deploying._told(event, "a" * 16, "mac"), *events[1:])
    yield Target("pipe", [pipe.framed(event) for event in events], of_bytes, _read_pipe)
    span = worker_pb2.Span(kind="decode", sequence_id=bytes(16), serial=1, rows=1, arrived_s=1, began_s=2, ended_s=3)
    stages = [worker_pb2.StageTimeline(node=node, spans=[span]) for node in ("a", "b")]
    yield _message("timeline", worker_pb2.Timelines(stages=stages), lambda m: Timeline.read(m.stages).to_chrome())


def _take_command(command: worker_pb2.WorkerCommand) -> None:
    role = Role.read(command.load.placement, "b" * 16)
    role.shard_spec()
    role.loads_mtp(command.load.draft)


def _read_pipe(data: bytes) -> None:
    async def read() -> None:
        stream = asyncio.StreamReader()
        stream.feed_data(data)
        stream.feed_eof()
        while await pipe.read(stream, worker_pb2.WorkerEvent()) is not None:
            pass

    _loop().run(read())


def _of_strangers(directory: Path) -> Iterator[Target]:
    token = JoinToken("a" * 64, "b" * 32).text.encode()
    yield Target("join_token", [token], of_bytes, lambda data: JoinToken.parse(data.decode(errors="replace")))
    authority = Authority.create(directory / "authority")
    key = NodeKey.open(directory / "identity")
    yield Target("certificate_request", [key.certificate_request()], _of_pem, proven_key)
    certificates = authority.certify(key.private_key.public_key()) + authority.certificate
    yield Target("certificates", [certificates], _of_pem, key.with_certificates)
    text = b"".join(
        bytes([len(pair)]) + pair
        for pair in (b"id=" + b"a" * 16, b"name=mac", b"cluster=" + b"b" * 16, b"version=0.1.0", b"enrol=1")
    )
    yield Target("announcement", [text], of_bytes, _announcement)


def _of_pem(data: bytes, chance: random.Random) -> bytes:
    """Return a PEM text whose DER is damaged, or the text."""
    import base64

    lines = data.splitlines()
    if chance.random() < 0.3 or len(lines) < 3:
        return of_bytes(data, chance)
    end = next((n for n, line in enumerate(lines) if line.startswith(b"-----END")), len(lines) - 1)
    try:
        der = base64.b64decode(b"".join(lines[1:end]))
    except ValueError:
        return of_bytes(data, chance)
    return b"\n".join((lines[0], base64.encodebytes(of_bytes(der, chance)), *lines[end:]))


def _announcement(data: bytes) -> None:
    info = AsyncServiceInfo(
        discovery.SERVICE,
        f"x.{discovery.SERVICE}",
        port=7420,
        properties=data,
        parsed_addresses=["10.0.0.1", "fe80::1"],
    )
    discovery._announcement(info)


def _message(name: str, seed: P, read: Callable[[P], object], *more: P) -> Target:
    """Return the target of a protobuf message, which gRPC has parsed before."""
    kind = type(seed)
    seeds = [message.SerializeToString() for message in (seed, *more)]
    return Target(name, seeds, of_message(kind), lambda data: read(_parsed(kind, data)))


def _parsed(kind: type[P], data: bytes) -> P:
    """Return a message as gRPC parses it: what is none is refused before."""
    try:
        return kind.FromString(data)
    except DecodeError as exc:
        raise InvalidRequestError("not a message") from exc
