from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WorkerCommand(_message.Message):
    __slots__ = ("load", "connect", "stop", "reconfigure", "attach")
    LOAD_FIELD_NUMBER: _ClassVar[int]
    CONNECT_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    RECONFIGURE_FIELD_NUMBER: _ClassVar[int]
    ATTACH_FIELD_NUMBER: _ClassVar[int]
    load: LoadShard
    connect: ConnectWorkers
    stop: StopWorker
    reconfigure: LoadShard
    attach: AttachWorker
    def __init__(self, load: _Optional[_Union[LoadShard, _Mapping]] = ..., connect: _Optional[_Union[ConnectWorkers, _Mapping]] = ..., stop: _Optional[_Union[StopWorker, _Mapping]] = ..., reconfigure: _Optional[_Union[LoadShard, _Mapping]] = ..., attach: _Optional[_Union[AttachWorker, _Mapping]] = ...) -> None: ...

class AttachWorker(_message.Message):
    __slots__ = ("epoch",)
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    def __init__(self, epoch: _Optional[int] = ...) -> None: ...

class LoadShard(_message.Message):
    __slots__ = ("model", "epoch", "placement", "draft", "directory", "stamp", "peers", "keep", "is_outline", "conversion", "cause", "memory_bytes", "asked")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    DRAFT_FIELD_NUMBER: _ClassVar[int]
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    STAMP_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    IS_OUTLINE_FIELD_NUMBER: _ClassVar[int]
    CONVERSION_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    ASKED_FIELD_NUMBER: _ClassVar[int]
    model: str
    epoch: int
    placement: str
    draft: str
    directory: str
    stamp: str
    peers: _containers.RepeatedCompositeFieldContainer[WeightPeer]
    keep: bool
    is_outline: bool
    conversion: str
    cause: str
    memory_bytes: int
    asked: bytes
    def __init__(self, model: _Optional[str] = ..., epoch: _Optional[int] = ..., placement: _Optional[str] = ..., draft: _Optional[str] = ..., directory: _Optional[str] = ..., stamp: _Optional[str] = ..., peers: _Optional[_Iterable[_Union[WeightPeer, _Mapping]]] = ..., keep: bool = ..., is_outline: bool = ..., conversion: _Optional[str] = ..., cause: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., asked: _Optional[bytes] = ...) -> None: ...

class WeightPeer(_message.Message):
    __slots__ = ("node_id", "name", "target")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    name: str
    target: str
    def __init__(self, node_id: _Optional[str] = ..., name: _Optional[str] = ..., target: _Optional[str] = ...) -> None: ...

class StopWorker(_message.Message):
    __slots__ = ("reason", "now", "is_unloaded")
    REASON_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    IS_UNLOADED_FIELD_NUMBER: _ClassVar[int]
    reason: str
    now: bool
    is_unloaded: bool
    def __init__(self, reason: _Optional[str] = ..., now: bool = ..., is_unloaded: bool = ...) -> None: ...

class ConnectWorkers(_message.Message):
    __slots__ = ("workers",)
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    workers: _containers.RepeatedCompositeFieldContainer[WorkerAddress]
    def __init__(self, workers: _Optional[_Iterable[_Union[WorkerAddress, _Mapping]]] = ...) -> None: ...

class WorkerAddress(_message.Message):
    __slots__ = ("node_id", "port", "target", "name")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    port: int
    target: str
    name: str
    def __init__(self, node_id: _Optional[str] = ..., port: _Optional[int] = ..., target: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class WorkerEvent(_message.Message):
    __slots__ = ("progress", "loaded", "connected", "stats", "failure", "disconnected")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    LOADED_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    DISCONNECTED_FIELD_NUMBER: _ClassVar[int]
    progress: LoadProgress
    loaded: ShardLoaded
    connected: WorkersConnected
    stats: WorkerStats
    failure: WorkerFailure
    disconnected: WorkerDisconnected
    def __init__(self, progress: _Optional[_Union[LoadProgress, _Mapping]] = ..., loaded: _Optional[_Union[ShardLoaded, _Mapping]] = ..., connected: _Optional[_Union[WorkersConnected, _Mapping]] = ..., stats: _Optional[_Union[WorkerStats, _Mapping]] = ..., failure: _Optional[_Union[WorkerFailure, _Mapping]] = ..., disconnected: _Optional[_Union[WorkerDisconnected, _Mapping]] = ...) -> None: ...

class LoadProgress(_message.Message):
    __slots__ = ("done_bytes", "total_bytes", "source")
    DONE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    done_bytes: int
    total_bytes: int
    source: str
    def __init__(self, done_bytes: _Optional[int] = ..., total_bytes: _Optional[int] = ..., source: _Optional[str] = ...) -> None: ...

class ShardLoaded(_message.Message):
    __slots__ = ("port", "weights_bytes", "experts", "epoch", "spare_bytes")
    PORT_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_BYTES_FIELD_NUMBER: _ClassVar[int]
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SPARE_BYTES_FIELD_NUMBER: _ClassVar[int]
    port: int
    weights_bytes: int
    experts: int
    epoch: int
    spare_bytes: int
    def __init__(self, port: _Optional[int] = ..., weights_bytes: _Optional[int] = ..., experts: _Optional[int] = ..., epoch: _Optional[int] = ..., spare_bytes: _Optional[int] = ...) -> None: ...

class WorkersConnected(_message.Message):
    __slots__ = ("epoch",)
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    def __init__(self, epoch: _Optional[int] = ...) -> None: ...

class WorkerDisconnected(_message.Message):
    __slots__ = ("epoch", "cause")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    cause: WorkerFailure
    def __init__(self, epoch: _Optional[int] = ..., cause: _Optional[_Union[WorkerFailure, _Mapping]] = ...) -> None: ...

class WorkerStats(_message.Message):
    __slots__ = ("frames", "positions", "kv_bytes", "kv_positions", "peak_memory_bytes", "active_requests", "drafts_compared", "drafts_accepted", "memory", "compute_s", "held_s", "sent_bytes", "expert_bytes", "idle_s", "away_s", "recoveries", "waited_s", "replayed_positions", "kv_budget_positions", "decode_batches", "disk_bytes", "peer_bytes", "hub_bytes", "expert_load")
    class DecodeBatchesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    KV_BYTES_FIELD_NUMBER: _ClassVar[int]
    KV_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    PEAK_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    DRAFTS_COMPARED_FIELD_NUMBER: _ClassVar[int]
    DRAFTS_ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_S_FIELD_NUMBER: _ClassVar[int]
    HELD_S_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    EXPERT_BYTES_FIELD_NUMBER: _ClassVar[int]
    IDLE_S_FIELD_NUMBER: _ClassVar[int]
    AWAY_S_FIELD_NUMBER: _ClassVar[int]
    RECOVERIES_FIELD_NUMBER: _ClassVar[int]
    WAITED_S_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    KV_BUDGET_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    DECODE_BATCHES_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    PEER_BYTES_FIELD_NUMBER: _ClassVar[int]
    HUB_BYTES_FIELD_NUMBER: _ClassVar[int]
    EXPERT_LOAD_FIELD_NUMBER: _ClassVar[int]
    frames: int
    positions: int
    kv_bytes: int
    kv_positions: int
    peak_memory_bytes: int
    active_requests: int
    drafts_compared: int
    drafts_accepted: int
    memory: MemoryUse
    compute_s: float
    held_s: float
    sent_bytes: int
    expert_bytes: int
    idle_s: float
    away_s: float
    recoveries: int
    waited_s: float
    replayed_positions: int
    kv_budget_positions: int
    decode_batches: _containers.ScalarMap[int, int]
    disk_bytes: int
    peer_bytes: int
    hub_bytes: int
    expert_load: _containers.RepeatedCompositeFieldContainer[LayerLoad]
    def __init__(self, frames: _Optional[int] = ..., positions: _Optional[int] = ..., kv_bytes: _Optional[int] = ..., kv_positions: _Optional[int] = ..., peak_memory_bytes: _Optional[int] = ..., active_requests: _Optional[int] = ..., drafts_compared: _Optional[int] = ..., drafts_accepted: _Optional[int] = ..., memory: _Optional[_Union[MemoryUse, _Mapping]] = ..., compute_s: _Optional[float] = ..., held_s: _Optional[float] = ..., sent_bytes: _Optional[int] = ..., expert_bytes: _Optional[int] = ..., idle_s: _Optional[float] = ..., away_s: _Optional[float] = ..., recoveries: _Optional[int] = ..., waited_s: _Optional[float] = ..., replayed_positions: _Optional[int] = ..., kv_budget_positions: _Optional[int] = ..., decode_batches: _Optional[_Mapping[int, int]] = ..., disk_bytes: _Optional[int] = ..., peer_bytes: _Optional[int] = ..., hub_bytes: _Optional[int] = ..., expert_load: _Optional[_Iterable[_Union[LayerLoad, _Mapping]]] = ...) -> None: ...

class LayerLoad(_message.Message):
    __slots__ = ("layer", "load")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    layer: int
    load: bytes
    def __init__(self, layer: _Optional[int] = ..., load: _Optional[bytes] = ...) -> None: ...

class MemoryUse(_message.Message):
    __slots__ = ("node", "used_bytes", "budget_bytes", "planned_bytes")
    NODE_FIELD_NUMBER: _ClassVar[int]
    USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    BUDGET_BYTES_FIELD_NUMBER: _ClassVar[int]
    PLANNED_BYTES_FIELD_NUMBER: _ClassVar[int]
    node: str
    used_bytes: int
    budget_bytes: int
    planned_bytes: int
    def __init__(self, node: _Optional[str] = ..., used_bytes: _Optional[int] = ..., budget_bytes: _Optional[int] = ..., planned_bytes: _Optional[int] = ...) -> None: ...

class WorkerFailure(_message.Message):
    __slots__ = ("code", "message", "node_id")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    node_id: str
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., node_id: _Optional[str] = ...) -> None: ...

class MemoryNoted(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CancelRequest(_message.Message):
    __slots__ = ("sequence_id", "serial")
    SEQUENCE_ID_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    sequence_id: bytes
    serial: int
    def __init__(self, sequence_id: _Optional[bytes] = ..., serial: _Optional[int] = ...) -> None: ...

class CancelReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Timelines(_message.Message):
    __slots__ = ("stages",)
    STAGES_FIELD_NUMBER: _ClassVar[int]
    stages: _containers.RepeatedCompositeFieldContainer[StageTimeline]
    def __init__(self, stages: _Optional[_Iterable[_Union[StageTimeline, _Mapping]]] = ...) -> None: ...

class StageTimeline(_message.Message):
    __slots__ = ("node", "spans")
    NODE_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    node: str
    spans: _containers.RepeatedCompositeFieldContainer[Span]
    def __init__(self, node: _Optional[str] = ..., spans: _Optional[_Iterable[_Union[Span, _Mapping]]] = ...) -> None: ...

class Span(_message.Message):
    __slots__ = ("kind", "sequence_id", "serial", "position", "rows", "arrived_s", "began_s", "ended_s")
    KIND_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_ID_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ARRIVED_S_FIELD_NUMBER: _ClassVar[int]
    BEGAN_S_FIELD_NUMBER: _ClassVar[int]
    ENDED_S_FIELD_NUMBER: _ClassVar[int]
    kind: str
    sequence_id: bytes
    serial: int
    position: int
    rows: int
    arrived_s: float
    began_s: float
    ended_s: float
    def __init__(self, kind: _Optional[str] = ..., sequence_id: _Optional[bytes] = ..., serial: _Optional[int] = ..., position: _Optional[int] = ..., rows: _Optional[int] = ..., arrived_s: _Optional[float] = ..., began_s: _Optional[float] = ..., ended_s: _Optional[float] = ...) -> None: ...
