"""Parts: one class per role of a worker. Each opens its links, then serves them.

One thread builds and starts all computation; a second one only waits for it, while the event loop handles control. A
frame is not passed to another thread, which costs 100 us more per hop (see DESIGN.md): a decode step is computed in
the event loop, and messages meanwhile wait in gRPC's own threads, which also answer keepalive pings.
"""

from __future__ import annotations

import asyncio
import uuid
from contextlib import suppress
from typing import Protocol

import grpc
import numpy as np
from google.protobuf.message import DecodeError

from cluster.trust.credentials import Credentials
from cluster.wire import coordinator_pb2_grpc, worker_pb2_grpc
from cluster.wire import worker_pb2 as pb
from cluster.worker.answering import Answering
from cluster.worker.computing import Computing, Waiter
from cluster.worker.connections import Connections
from cluster.worker.coordinator_service import CoordinatorService
from cluster.worker.data_service import CancelService, ExpertsService, FramesService, MemoryService
from cluster.worker.frame_stream import FrameStream
from cluster.worker.inbox import Inbox
from cluster.worker.loading import Loaded, LoadedExperts, LoadedStage
from cluster.worker.memory_guard import MemoryUse
from cluster.worker.message_sizes import longest_received
from cluster.worker.messages import NO_SEQUENCE, Kind, Message
from cluster.worker.pipeline import Pipeline
from cluster.worker.recording import Recording
from cluster.worker.remote_experts import RemoteExperts, answer_pairs
from cluster.worker.ring import RingPipeline, RingStage, timelines_of
from cluster.worker.role import Role
from cluster.worker.watch import STUCK_S, WITH_PEERS_S, Watch
from mlx_moe import families, memory
from mlx_moe.decoding.constraint import Constraints
from mlx_moe.decoding.coordinator import Coordinator
from mlx_moe.errors import MoeClusterError
from mlx_moe.layers.expert_load import Counts
from mlx_moe.model import Model
from mlx_moe.pipeline.frame import Retain, Returned
from mlx_moe.pipeline.link import RunningStage
from mlx_moe.pipeline.shard import ExpertShard
from mlx_moe.pipeline.stage import Past


class Part(Protocol):
    """One node's part in a placement. `watch` knows what it computes."""

    watch: Watch

    def serve(self, server: grpc.aio.Server) -> None:
        """Add the services for other workers and clients."""

    async def connect(self) -> None:
        """Open the links to other workers. Raises NodeLostError."""

    async def run(self) -> None:
        """Run the part's own loop until cancelled."""

    def stats(self) -> pb.WorkerStats:
        """Return counts and bytes."""

    @property
    def room_bytes(self) -> int:
        """What its KV caches take when they are full."""

    async def note_memory(self, use: MemoryUse) -> None:
        """Do what is to be done about this node's memory."""

    def interrupt(self, cause: MoeClusterError) -> CoordinatorService | None:
        """Stop because of `cause`; return the service for clients, whose answers wait, if this part has it."""

    @property
    def past(self) -> Past | None:
        """What its stage leaves to the next one, after it was interrupted."""


class ExpertsPart:
    """Experts of a stage that another node leads."""

    def __init__(self, shard: ExpertShard, name: str, coordinator: str, connections: Connections) -> None:
        self._shard = shard
        self._name = name
        self._service = ExpertsService(self._answer)
        self._waiter = Waiter()
        self.watch = self._waiter.watch
        self._questions = 0
        self._coordinator = coordinator
        self._connections = connections
        self._is_short = False

    def serve(self, server: grpc.aio.Server) -> None:
        """See Part."""
        server.add_generic_rpc_handlers((self._service,))

    async def connect(self) -> None:
        """See Part. Its leader opens the link."""

    async def run(self) -> None:
        """See Part. It only answers its leader's requests."""
        await asyncio.Event().wait()

    def stats(self) -> pb.WorkerStats:
        """See Part."""
        return pb.WorkerStats(frames=self._questions, peak_memory_bytes=memory.peak_memory_bytes())

    @property
    def room_bytes(self) -> int:
        """See Part. It has no caches."""
        return 0

    async def note_memory(self, use: MemoryUse) -> None:
        """See Part. The coordinator hears that it is short, and once that it is not any more."""
        if use.is_short or self._is_short:
            await self._connections.tell_memory(self._coordinator, use)
        self._is_short = use.is_short

    def interrupt(self, cause: MoeClusterError) -> None:  # noqa: ARG002
        """See Part."""
        self._service.close()
        self._waiter.close()

    @property
    def past(self) -> None:
        """See Part. It has no stage."""

    async def _answer(self, question: Message) -> Message:
        self._questions += 1
        steps = answer_pairs(self._shard, question, self._name)
        return await self._waiter.finish(steps, "a step of an expert request", question.outputs)


class StagePart:
    """A stage after the first."""

    def __init__(
        self, loaded: LoadedStage, role: Role, name: str, epoch: int, connections: Connections, past: Past | None
    ) -> None:
        self._role = role
        self._connections = connections
        self._experts = loaded.remote_experts
        self._stage = loaded.stage(name, past)
        self._computing = _computing(self._stage, role)
        self.watch = self._computing.watch
        self._ring = RingStage(self._computing, epoch, connections.name(role.previous_node))
        self._epoch = epoch
        self._room_bytes = room_bytes(loaded, role)
        self._is_short = False
        in_flight = len(role.placement.stages) + 2  # a frame in each stage, and those on their way
        self._inbox = Inbox(in_flight * longest_received(role, loaded))
        self._service = FramesService(epoch, self._take)
        self._next: FrameStream | None = None

    def serve(self, server: grpc.aio.Server) -> None:
        """See Part."""
        server.add_generic_rpc_handlers((self._service,))
        worker_pb2_grpc.add_StageServicer_to_server(CancelService(self._ring.cancel), server)

    async def connect(self) -> None:
        """See Part."""
        self._experts.connect([await self._connections.experts_of(peer.node_id) for peer in self._role.stage.peers])
        self._next = await self._connections.frames_to(self._role.next_node)

    async def run(self) -> None:
        """See Part."""
        assert self._next is not None  # it is connected
        await self._ring.run(self._inbox, self._next.send)

    def stats(self) -> pb.WorkerStats:
        """See Part."""
        recording = self._ring.recording
        stats = _stats(self._stage, self._experts, self._next)
        stats.compute_s, stats.held_s = recording.frames_s, recording.held_s
        return stats

    @property
    def room_bytes(self) -> int:
        """See Part."""
        return self._room_bytes

    async def note_memory(self, use: MemoryUse) -> None:
        """See Part. The coordinator hears that it is short, and once that it is not any more."""
        assert self._next is not None  # it is connected
        if use.is_short or self._is_short:
            payload = use.to_message().SerializeToString()
            await self._next.send(Message(Kind.MEMORY, NO_SEQUENCE, self._epoch, payload=payload))
        self._is_short = use.is_short

    def interrupt(self, cause: MoeClusterError) -> None:  # noqa: ARG002
        """See Part."""
        self._service.close()
        self._computing.close()

    @property
    def past(self) -> Past | None:
        """See Part."""
        return self._stage.past

    async def _take(self, messages: list[Message]) -> None:
        self._inbox.put(messages)
        await self._inbox.room()


class CoordinatorPart:
    """The first stage and the coordinator, with the service for clients.

    `interrupted` is the service of the part that it continues, whose answers it resumes.
    """

    def __init__(
        self,
        loaded: LoadedStage,
        role: Role,
        name: str,
        epoch: int,
        credentials: Credentials,
        connections: Connections,
        interrupted: CoordinatorService | None,
        past: Past | None,
    ) -> None:
        self._role = role
        self._connections = connections
        self._experts = loaded.remote_experts
        self._stage = loaded.stage(name, past)
        self._room_bytes = room_bytes(loaded, role)
        self._timelines: dict[str, asyncio.Future[Message]] = {}
        self._next: FrameStream | None = None
        self._service = FramesService(epoch, self._come_back)
        n_stages = len(role.placement.stages)
        self._computing = computing = _computing(self._stage, role)
        self.watch = computing.watch
        recording = Recording(name)
        layers = [len(stage.layers) for stage in role.placement.stages]
        self._ring = RingPipeline(
            computing,
            recording,
            self._receive,
            n_stages,
            epoch,
            self._send,
            connections.cancel,
            work=sum(layers) / max(1, layers[0]),
            last=connections.name(role.previous_node),
        )
        pipeline = self._ring if n_stages > 1 else Pipeline(computing, recording, self._receive)
        self._pipeline = pipeline
        ends, tokenizer = loaded.ends, loaded.tokenizer
        assert ends is not None  # both are loaded for this role
        assert tokenizer is not None
        cache_costs = families.cache_costs(loaded.config, loaded.float_bytes)
        vocab_size = loaded.config.vocab_size
        constraints = Constraints(tokenizer, vocab_size) if interrupted is None else interrupted.constraints
        coordinator = Coordinator(
            ends,
            vocab_size,
            n_stages=n_stages,
            frames_in_flight=pipeline.frames_in_flight,
            kv_positions=role.placement.kv_positions,
            fixed_positions=cache_costs.fixed_positions,
            new_drafter=loaded.new_drafter,
            chunks=role.placement.chunks,
            constraints=constraints,
        )
        self._acceptance = coordinator.acceptance
        self._kv_positions = coordinator.scheduler.budget.positions
        model = Model(
            role.placement.model,
            loaded.config,
            tokenizer,
            loaded.defaults,
            context_tokens=max(loaded.config.context.tokens, role.placement.context_tokens),
            kv_bytes_per_position=cache_costs.full_bytes_per_position,
            kv_positions=self._kv_positions,
            constraints=constraints,
        )
        if interrupted is None:
            self._clients = CoordinatorService(
                model, Answering(coordinator, pipeline), self._all_timelines, credentials.peer_id
            )
        else:
            self._clients = interrupted
            interrupted.answering.resume(coordinator, pipeline)
            interrupted.resume(model, self._all_timelines)

    def serve(self, server: grpc.aio.Server) -> None:
        """See Part."""
        server.add_generic_rpc_handlers((self._service,))
        coordinator_pb2_grpc.add_CoordinatorServicer_to_server(self._clients, server)
        noting = MemoryService(self._clients.answering.note_memory)
        worker_pb2_grpc.add_StageServicer_to_server(noting, server)

    async def connect(self) -> None:
        """See Part."""
        self._experts.connect([await self._connections.experts_of(peer.node_id) for peer in self._role.stage.peers])
        for stage in self._role.placement.stages[1:]:
            self._connections.reach(stage.node_id)
        if len(self._role.placement.stages) > 1:
            self._next = await self._connections.frames_to(self._role.next_node)

    async def run(self) -> None:
        """See Part."""
        answering = self._clients.answering
        await self._pipeline.send(Retain(answering.sequence_ids))
        await answering.run()

    def stats(self) -> pb.WorkerStats:
        """See Part."""
        answering, recording = self._clients.answering, self._ring.recording
        stats = _stats(self._stage, self._experts, self._next)
        stats.compute_s, stats.away_s = recording.turns_s, recording.away_s
        stats.active_requests = answering.active
        stats.drafts_compared, stats.drafts_accepted = self._acceptance.compared, self._acceptance.accepted
        stats.kv_budget_positions = self._kv_positions
        stats.idle_s, stats.waited_s = answering.counts.idle_s, answering.counts.waited_s
        stats.recoveries = answering.counts.recoveries
        stats.replayed_positions = answering.counts.replayed_positions
        return stats

    @property
    def room_bytes(self) -> int:
        """See Part."""
        return self._room_bytes

    async def note_memory(self, use: MemoryUse) -> None:
        """See Part."""
        self._clients.answering.note_memory(use)

    def interrupt(self, cause: MoeClusterError) -> CoordinatorService:
        """See Part."""
        self._clients.answering.interrupt(cause)
        self._service.close()
        self._computing.close()
        return self._clients

    @property
    def past(self) -> Past | None:
        """See Part."""
        return self._stage.past

    async def _send(self, *messages: Message) -> None:
        assert self._next is not None  # a single stage sends nothing
        await self._next.send(*messages)

    def _receive(self, returned: Returned) -> None:
        self._clients.answering.receive(returned)

    async def _all_timelines(self) -> pb.Timelines:
        """Return the spans of all stages since the last call, this one's first."""
        timelines = pb.Timelines(stages=[self._ring.recording.take()])
        if self._next is None:
            return timelines
        asked_id = uuid.uuid4().hex
        told = self._timelines[asked_id] = asyncio.get_running_loop().create_future()
        await self._ring.ask_timelines(asked_id)
        timelines.MergeFrom(timelines_of(await told))
        return timelines

    async def _come_back(self, messages: list[Message]) -> None:
        """Process what came around the ring; answers whose steps came back together have their next turn together."""
        for message in messages:
            if message.kind is Kind.TIMELINES and (told := self._timelines.pop(message.sequence_id, None)):
                if not told.cancelled():  # the caller may have disconnected
                    told.set_result(message)
            elif message.kind is Kind.MEMORY:
                with suppress(DecodeError):
                    use = pb.MemoryUse.FromString(bytes(message.payload))
                    self._clients.answering.note_memory(MemoryUse.from_message(use))
            else:
                self._ring.come_back(message)


def part_of(
    loaded: Loaded,
    role: Role,
    name: str,
    epoch: int,
    credentials: Credentials,
    connections: Connections,
    interrupted: CoordinatorService | None,
    past: Past | None,
) -> Part:
    """Return the part of a role; if it coordinates, it resumes the answers of an `interrupted` service.

    Its stage continues with the `past` of an earlier one.
    """
    if isinstance(loaded, LoadedExperts):
        return ExpertsPart(loaded.holding.shard, name, role.placement.coordinator, connections)
    if role.coordinates:
        return CoordinatorPart(loaded, role, name, epoch, credentials, connections, interrupted, past)
    return StagePart(loaded, role, name, epoch, connections, past)


def room_bytes(loaded: LoadedStage, role: Role) -> int:
    """Return what a stage's share of the KV caches takes when all positions are in use."""
    costs = families.cache_costs(loaded.config, loaded.float_bytes)
    share = len(role.stage.layers) / loaded.config.num_hidden_layers
    return int(share * (costs.fixed_bytes + role.placement.kv_positions * costs.full_bytes_per_position))


def _computing(stage: RunningStage, role: Role) -> Computing:
    return Computing(stage, WITH_PEERS_S if role.stage.peers else STUCK_S)


def _stats(stage: RunningStage, experts: RemoteExperts, after: FrameStream | None) -> pb.WorkerStats:
    return pb.WorkerStats(
        frames=stage.counts.frames,
        positions=stage.counts.positions,
        kv_bytes=stage.kv_bytes,
        kv_positions=stage.kv_positions,
        peak_memory_bytes=memory.peak_memory_bytes(),
        sent_bytes=0 if after is None else after.sent_bytes,
        expert_bytes=experts.nbytes,
        decode_batches=stage.counts.decode_batches,
        expert_load=[_layer_load(layer, counts) for layer, counts in stage.expert_load().items()],
    )


def _layer_load(layer: int, counts: Counts) -> pb.LayerLoad:
    return pb.LayerLoad(layer=layer, load=np.minimum(255, counts * 16 / counts.mean()).astype(np.uint8).tobytes())
