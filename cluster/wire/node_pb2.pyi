from cluster.wire import worker_pb2 as _worker_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NodeInfo(_message.Message):
    __slots__ = ("node_id", "name", "addresses", "version", "incarnation", "offered_bytes", "hardware", "revision")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    OFFERED_BYTES_FIELD_NUMBER: _ClassVar[int]
    HARDWARE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    name: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    version: str
    incarnation: int
    offered_bytes: int
    hardware: Hardware
    revision: int
    def __init__(self, node_id: _Optional[str] = ..., name: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ..., version: _Optional[str] = ..., incarnation: _Optional[int] = ..., offered_bytes: _Optional[int] = ..., hardware: _Optional[_Union[Hardware, _Mapping]] = ..., revision: _Optional[int] = ...) -> None: ...

class Hardware(_message.Message):
    __slots__ = ("chip", "backend", "dtype", "memory_bytes", "budget_bytes", "bandwidth_gbps", "matmul_tflops", "platform", "mlx_version", "measured_at")
    CHIP_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    BUDGET_BYTES_FIELD_NUMBER: _ClassVar[int]
    BANDWIDTH_GBPS_FIELD_NUMBER: _ClassVar[int]
    MATMUL_TFLOPS_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    MLX_VERSION_FIELD_NUMBER: _ClassVar[int]
    MEASURED_AT_FIELD_NUMBER: _ClassVar[int]
    chip: str
    backend: str
    dtype: str
    memory_bytes: int
    budget_bytes: int
    bandwidth_gbps: float
    matmul_tflops: float
    platform: str
    mlx_version: str
    measured_at: float
    def __init__(self, chip: _Optional[str] = ..., backend: _Optional[str] = ..., dtype: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., budget_bytes: _Optional[int] = ..., bandwidth_gbps: _Optional[float] = ..., matmul_tflops: _Optional[float] = ..., platform: _Optional[str] = ..., mlx_version: _Optional[str] = ..., measured_at: _Optional[float] = ...) -> None: ...

class Greeting(_message.Message):
    __slots__ = ("info", "refusal", "known", "holding", "serving", "links", "free_disk_bytes", "ballot", "is_placing", "removed", "keeps_authority")
    INFO_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    HOLDING_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    FREE_DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    IS_PLACING_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    KEEPS_AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    info: NodeInfo
    refusal: str
    known: _containers.RepeatedCompositeFieldContainer[Acquaintance]
    holding: Holding
    serving: Serving
    links: _containers.RepeatedCompositeFieldContainer[MeasuredLink]
    free_disk_bytes: int
    ballot: Ballot
    is_placing: bool
    removed: _containers.RepeatedCompositeFieldContainer[Removal]
    keeps_authority: bool
    def __init__(self, info: _Optional[_Union[NodeInfo, _Mapping]] = ..., refusal: _Optional[str] = ..., known: _Optional[_Iterable[_Union[Acquaintance, _Mapping]]] = ..., holding: _Optional[_Union[Holding, _Mapping]] = ..., serving: _Optional[_Union[Serving, _Mapping]] = ..., links: _Optional[_Iterable[_Union[MeasuredLink, _Mapping]]] = ..., free_disk_bytes: _Optional[int] = ..., ballot: _Optional[_Union[Ballot, _Mapping]] = ..., is_placing: bool = ..., removed: _Optional[_Iterable[_Union[Removal, _Mapping]]] = ..., keeps_authority: bool = ...) -> None: ...

class Term(_message.Message):
    __slots__ = ("epoch", "owner", "electorate")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    ELECTORATE_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    owner: str
    electorate: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, epoch: _Optional[int] = ..., owner: _Optional[str] = ..., electorate: _Optional[_Iterable[str]] = ...) -> None: ...

class Ballot(_message.Message):
    __slots__ = ("decided", "later", "resigned", "granted")
    DECIDED_FIELD_NUMBER: _ClassVar[int]
    LATER_FIELD_NUMBER: _ClassVar[int]
    RESIGNED_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    decided: Term
    later: _containers.RepeatedCompositeFieldContainer[Term]
    resigned: int
    granted: Term
    def __init__(self, decided: _Optional[_Union[Term, _Mapping]] = ..., later: _Optional[_Iterable[_Union[Term, _Mapping]]] = ..., resigned: _Optional[int] = ..., granted: _Optional[_Union[Term, _Mapping]] = ...) -> None: ...

class GrantRequest(_message.Message):
    __slots__ = ("term",)
    TERM_FIELD_NUMBER: _ClassVar[int]
    term: Term
    def __init__(self, term: _Optional[_Union[Term, _Mapping]] = ...) -> None: ...

class GrantReply(_message.Message):
    __slots__ = ("refusal", "before")
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    refusal: str
    before: Ballot
    def __init__(self, refusal: _Optional[str] = ..., before: _Optional[_Union[Ballot, _Mapping]] = ...) -> None: ...

class Removal(_message.Message):
    __slots__ = ("node_id", "name", "at_s", "signature")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    AT_S_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    name: str
    at_s: int
    signature: bytes
    def __init__(self, node_id: _Optional[str] = ..., name: _Optional[str] = ..., at_s: _Optional[int] = ..., signature: _Optional[bytes] = ...) -> None: ...

class AuthorityCopy(_message.Message):
    __slots__ = ("authority", "tokens", "keepers")
    AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    KEEPERS_FIELD_NUMBER: _ClassVar[int]
    authority: bytes
    tokens: _containers.RepeatedCompositeFieldContainer[IssuedToken]
    keepers: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, authority: _Optional[bytes] = ..., tokens: _Optional[_Iterable[_Union[IssuedToken, _Mapping]]] = ..., keepers: _Optional[_Iterable[str]] = ...) -> None: ...

class IssuedToken(_message.Message):
    __slots__ = ("secret_hash", "expires_at_s", "max_uses", "used_by", "revoked", "guest", "made_at_s")
    SECRET_HASH_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_S_FIELD_NUMBER: _ClassVar[int]
    MAX_USES_FIELD_NUMBER: _ClassVar[int]
    USED_BY_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    GUEST_FIELD_NUMBER: _ClassVar[int]
    MADE_AT_S_FIELD_NUMBER: _ClassVar[int]
    secret_hash: str
    expires_at_s: float
    max_uses: int
    used_by: _containers.RepeatedScalarFieldContainer[str]
    revoked: bool
    guest: bool
    made_at_s: float
    def __init__(self, secret_hash: _Optional[str] = ..., expires_at_s: _Optional[float] = ..., max_uses: _Optional[int] = ..., used_by: _Optional[_Iterable[str]] = ..., revoked: bool = ..., guest: bool = ..., made_at_s: _Optional[float] = ...) -> None: ...

class RemoveNodeRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class RemoveNodeReply(_message.Message):
    __slots__ = ("name", "kept_authority")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KEPT_AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    name: str
    kept_authority: bool
    def __init__(self, name: _Optional[str] = ..., kept_authority: bool = ...) -> None: ...

class MeasuredLink(_message.Message):
    __slots__ = ("node_id", "latency_s", "bytes_per_s")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    LATENCY_S_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    latency_s: float
    bytes_per_s: float
    def __init__(self, node_id: _Optional[str] = ..., latency_s: _Optional[float] = ..., bytes_per_s: _Optional[float] = ...) -> None: ...

class Acquaintance(_message.Message):
    __slots__ = ("node_id", "addresses")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, node_id: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ...) -> None: ...

class Holding(_message.Message):
    __slots__ = ("model", "epoch", "stage", "first_layer", "end_layer", "experts", "leads", "coordinates", "weights_bytes", "stats", "progress", "spare_first_layer", "spare_end_layer", "spare_bytes")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    FIRST_LAYER_FIELD_NUMBER: _ClassVar[int]
    END_LAYER_FIELD_NUMBER: _ClassVar[int]
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    LEADS_FIELD_NUMBER: _ClassVar[int]
    COORDINATES_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_BYTES_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    SPARE_FIRST_LAYER_FIELD_NUMBER: _ClassVar[int]
    SPARE_END_LAYER_FIELD_NUMBER: _ClassVar[int]
    SPARE_BYTES_FIELD_NUMBER: _ClassVar[int]
    model: str
    epoch: int
    stage: int
    first_layer: int
    end_layer: int
    experts: int
    leads: bool
    coordinates: bool
    weights_bytes: int
    stats: _worker_pb2.WorkerStats
    progress: _worker_pb2.LoadProgress
    spare_first_layer: int
    spare_end_layer: int
    spare_bytes: int
    def __init__(self, model: _Optional[str] = ..., epoch: _Optional[int] = ..., stage: _Optional[int] = ..., first_layer: _Optional[int] = ..., end_layer: _Optional[int] = ..., experts: _Optional[int] = ..., leads: bool = ..., coordinates: bool = ..., weights_bytes: _Optional[int] = ..., stats: _Optional[_Union[_worker_pb2.WorkerStats, _Mapping]] = ..., progress: _Optional[_Union[_worker_pb2.LoadProgress, _Mapping]] = ..., spare_first_layer: _Optional[int] = ..., spare_end_layer: _Optional[int] = ..., spare_bytes: _Optional[int] = ...) -> None: ...

class Serving(_message.Message):
    __slots__ = ("model", "epoch", "state", "coordinator", "port", "failure", "node_ids", "draft", "load_s", "context_tokens", "chunk_length", "bits", "mode", "standby", "latency_s")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        LOADING: _ClassVar[Serving.State]
        READY: _ClassVar[Serving.State]
        FAILED: _ClassVar[Serving.State]
    LOADING: Serving.State
    READY: Serving.State
    FAILED: Serving.State
    MODEL_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    NODE_IDS_FIELD_NUMBER: _ClassVar[int]
    DRAFT_FIELD_NUMBER: _ClassVar[int]
    LOAD_S_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_LENGTH_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    STANDBY_FIELD_NUMBER: _ClassVar[int]
    LATENCY_S_FIELD_NUMBER: _ClassVar[int]
    model: str
    epoch: int
    state: Serving.State
    coordinator: str
    port: int
    failure: str
    node_ids: _containers.RepeatedScalarFieldContainer[str]
    draft: str
    load_s: float
    context_tokens: int
    chunk_length: int
    bits: int
    mode: str
    standby: bool
    latency_s: float
    def __init__(self, model: _Optional[str] = ..., epoch: _Optional[int] = ..., state: _Optional[_Union[Serving.State, str]] = ..., coordinator: _Optional[str] = ..., port: _Optional[int] = ..., failure: _Optional[str] = ..., node_ids: _Optional[_Iterable[str]] = ..., draft: _Optional[str] = ..., load_s: _Optional[float] = ..., context_tokens: _Optional[int] = ..., chunk_length: _Optional[int] = ..., bits: _Optional[int] = ..., mode: _Optional[str] = ..., standby: bool = ..., latency_s: _Optional[float] = ...) -> None: ...

class DeployRequest(_message.Message):
    __slots__ = ("placement", "epoch", "draft", "context_tokens", "holders", "keep", "asked")
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    DRAFT_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    ASKED_FIELD_NUMBER: _ClassVar[int]
    placement: str
    epoch: int
    draft: str
    context_tokens: int
    holders: _containers.RepeatedScalarFieldContainer[str]
    keep: bool
    asked: LoadRequest
    def __init__(self, placement: _Optional[str] = ..., epoch: _Optional[int] = ..., draft: _Optional[str] = ..., context_tokens: _Optional[int] = ..., holders: _Optional[_Iterable[str]] = ..., keep: bool = ..., asked: _Optional[_Union[LoadRequest, _Mapping]] = ...) -> None: ...

class DeployReply(_message.Message):
    __slots__ = ("epoch",)
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    def __init__(self, epoch: _Optional[int] = ...) -> None: ...

class RebalanceRequest(_message.Message):
    __slots__ = ("dry_run",)
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    dry_run: bool
    def __init__(self, dry_run: bool = ...) -> None: ...

class RebalanceReply(_message.Message):
    __slots__ = ("former", "placement", "former_tokens_per_s", "tokens_per_s", "read_bytes", "epoch")
    class ReadBytesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    FORMER_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    FORMER_TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    READ_BYTES_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    former: str
    placement: str
    former_tokens_per_s: float
    tokens_per_s: float
    read_bytes: _containers.ScalarMap[str, int]
    epoch: int
    def __init__(self, former: _Optional[str] = ..., placement: _Optional[str] = ..., former_tokens_per_s: _Optional[float] = ..., tokens_per_s: _Optional[float] = ..., read_bytes: _Optional[_Mapping[str, int]] = ..., epoch: _Optional[int] = ...) -> None: ...

class FollowRequest(_message.Message):
    __slots__ = ("epoch",)
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    def __init__(self, epoch: _Optional[int] = ...) -> None: ...

class Farewell(_message.Message):
    __slots__ = ("ballot", "for_good")
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    FOR_GOOD_FIELD_NUMBER: _ClassVar[int]
    ballot: Ballot
    for_good: bool
    def __init__(self, ballot: _Optional[_Union[Ballot, _Mapping]] = ..., for_good: bool = ...) -> None: ...

class FarewellHeard(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WantedModel(_message.Message):
    __slots__ = ("model", "home_path", "content_hash", "config_hash")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    HOME_PATH_FIELD_NUMBER: _ClassVar[int]
    CONTENT_HASH_FIELD_NUMBER: _ClassVar[int]
    CONFIG_HASH_FIELD_NUMBER: _ClassVar[int]
    model: str
    home_path: str
    content_hash: str
    config_hash: str
    def __init__(self, model: _Optional[str] = ..., home_path: _Optional[str] = ..., content_hash: _Optional[str] = ..., config_hash: _Optional[str] = ...) -> None: ...

class ModelCopy(_message.Message):
    __slots__ = ("content_hash", "path", "is_outline")
    CONTENT_HASH_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    IS_OUTLINE_FIELD_NUMBER: _ClassVar[int]
    content_hash: str
    path: str
    is_outline: bool
    def __init__(self, content_hash: _Optional[str] = ..., path: _Optional[str] = ..., is_outline: bool = ...) -> None: ...

class OutlineRequest(_message.Message):
    __slots__ = ("content_hash",)
    CONTENT_HASH_FIELD_NUMBER: _ClassVar[int]
    content_hash: str
    def __init__(self, content_hash: _Optional[str] = ...) -> None: ...

class OutlinePart(_message.Message):
    __slots__ = ("name", "data")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    data: bytes
    def __init__(self, name: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class AdoptRequest(_message.Message):
    __slots__ = ("model", "content_hash", "holders", "placement", "draft", "keep")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CONTENT_HASH_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    DRAFT_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    model: str
    content_hash: str
    holders: _containers.RepeatedScalarFieldContainer[str]
    placement: str
    draft: str
    keep: bool
    def __init__(self, model: _Optional[str] = ..., content_hash: _Optional[str] = ..., holders: _Optional[_Iterable[str]] = ..., placement: _Optional[str] = ..., draft: _Optional[str] = ..., keep: bool = ...) -> None: ...

class AdoptReply(_message.Message):
    __slots__ = ("missing_bytes", "free_bytes", "stored_bytes")
    MISSING_BYTES_FIELD_NUMBER: _ClassVar[int]
    FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    missing_bytes: int
    free_bytes: int
    stored_bytes: int
    def __init__(self, missing_bytes: _Optional[int] = ..., free_bytes: _Optional[int] = ..., stored_bytes: _Optional[int] = ...) -> None: ...

class ReadWeights(_message.Message):
    __slots__ = ("content_hash", "file", "starts", "sizes")
    CONTENT_HASH_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    STARTS_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    content_hash: str
    file: str
    starts: _containers.RepeatedScalarFieldContainer[int]
    sizes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, content_hash: _Optional[str] = ..., file: _Optional[str] = ..., starts: _Optional[_Iterable[int]] = ..., sizes: _Optional[_Iterable[int]] = ...) -> None: ...

class ModelPart(_message.Message):
    __slots__ = ("content_hash", "parameter")
    CONTENT_HASH_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_FIELD_NUMBER: _ClassVar[int]
    content_hash: str
    parameter: str
    def __init__(self, content_hash: _Optional[str] = ..., parameter: _Optional[str] = ...) -> None: ...

class Digests(_message.Message):
    __slots__ = ("digests",)
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    digests: _containers.RepeatedCompositeFieldContainer[Digest]
    def __init__(self, digests: _Optional[_Iterable[_Union[Digest, _Mapping]]] = ...) -> None: ...

class Digest(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ClusterStatus(_message.Message):
    __slots__ = ("cluster_id", "insecure", "own_node_id", "nodes", "serving", "coordinator_address", "refused", "api_url", "removed")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    INSECURE_FIELD_NUMBER: _ClassVar[int]
    OWN_NODE_ID_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    API_URL_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    insecure: bool
    own_node_id: str
    nodes: _containers.RepeatedCompositeFieldContainer[NodeStatus]
    serving: Serving
    coordinator_address: str
    refused: _containers.RepeatedScalarFieldContainer[str]
    api_url: str
    removed: _containers.RepeatedCompositeFieldContainer[Removal]
    def __init__(self, cluster_id: _Optional[str] = ..., insecure: bool = ..., own_node_id: _Optional[str] = ..., nodes: _Optional[_Iterable[_Union[NodeStatus, _Mapping]]] = ..., serving: _Optional[_Union[Serving, _Mapping]] = ..., coordinator_address: _Optional[str] = ..., refused: _Optional[_Iterable[str]] = ..., api_url: _Optional[str] = ..., removed: _Optional[_Iterable[_Union[Removal, _Mapping]]] = ...) -> None: ...

class NodeStatus(_message.Message):
    __slots__ = ("info", "shown_name", "state", "latency_s", "bytes_per_s", "holding", "links", "free_disk_bytes", "keeps_authority", "silent_s")
    INFO_FIELD_NUMBER: _ClassVar[int]
    SHOWN_NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    LATENCY_S_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    HOLDING_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    FREE_DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    KEEPS_AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    SILENT_S_FIELD_NUMBER: _ClassVar[int]
    info: NodeInfo
    shown_name: str
    state: str
    latency_s: float
    bytes_per_s: float
    holding: Holding
    links: _containers.RepeatedCompositeFieldContainer[MeasuredLink]
    free_disk_bytes: int
    keeps_authority: bool
    silent_s: float
    def __init__(self, info: _Optional[_Union[NodeInfo, _Mapping]] = ..., shown_name: _Optional[str] = ..., state: _Optional[str] = ..., latency_s: _Optional[float] = ..., bytes_per_s: _Optional[float] = ..., holding: _Optional[_Union[Holding, _Mapping]] = ..., links: _Optional[_Iterable[_Union[MeasuredLink, _Mapping]]] = ..., free_disk_bytes: _Optional[int] = ..., keeps_authority: bool = ..., silent_s: _Optional[float] = ...) -> None: ...

class LoadRequest(_message.Message):
    __slots__ = ("model", "placement", "context_tokens", "concurrency", "draft", "replace", "chunk_length", "download", "keep", "bits", "mode", "standby", "asked_by", "latency_s")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    DRAFT_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_LENGTH_FIELD_NUMBER: _ClassVar[int]
    DOWNLOAD_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    STANDBY_FIELD_NUMBER: _ClassVar[int]
    ASKED_BY_FIELD_NUMBER: _ClassVar[int]
    LATENCY_S_FIELD_NUMBER: _ClassVar[int]
    model: str
    placement: str
    context_tokens: int
    concurrency: int
    draft: str
    replace: bool
    chunk_length: int
    download: bool
    keep: bool
    bits: int
    mode: str
    standby: bool
    asked_by: str
    latency_s: float
    def __init__(self, model: _Optional[str] = ..., placement: _Optional[str] = ..., context_tokens: _Optional[int] = ..., concurrency: _Optional[int] = ..., draft: _Optional[str] = ..., replace: bool = ..., chunk_length: _Optional[int] = ..., download: bool = ..., keep: bool = ..., bits: _Optional[int] = ..., mode: _Optional[str] = ..., standby: bool = ..., asked_by: _Optional[str] = ..., latency_s: _Optional[float] = ...) -> None: ...

class LoadStatus(_message.Message):
    __slots__ = ("serving", "nodes", "placement")
    SERVING_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    serving: Serving
    nodes: _containers.RepeatedCompositeFieldContainer[NodeProgress]
    placement: str
    def __init__(self, serving: _Optional[_Union[Serving, _Mapping]] = ..., nodes: _Optional[_Iterable[_Union[NodeProgress, _Mapping]]] = ..., placement: _Optional[str] = ...) -> None: ...

class NodeProgress(_message.Message):
    __slots__ = ("name", "done_bytes", "total_bytes", "source", "free_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DONE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    done_bytes: int
    total_bytes: int
    source: str
    free_bytes: int
    def __init__(self, name: _Optional[str] = ..., done_bytes: _Optional[int] = ..., total_bytes: _Optional[int] = ..., source: _Optional[str] = ..., free_bytes: _Optional[int] = ...) -> None: ...

class PullRequest(_message.Message):
    __slots__ = ("load", "nodes", "dry_run")
    LOAD_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    load: LoadRequest
    nodes: _containers.RepeatedScalarFieldContainer[str]
    dry_run: bool
    def __init__(self, load: _Optional[_Union[LoadRequest, _Mapping]] = ..., nodes: _Optional[_Iterable[str]] = ..., dry_run: bool = ...) -> None: ...

class PullStatus(_message.Message):
    __slots__ = ("model", "nodes")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    model: str
    nodes: _containers.RepeatedCompositeFieldContainer[NodeProgress]
    def __init__(self, model: _Optional[str] = ..., nodes: _Optional[_Iterable[_Union[NodeProgress, _Mapping]]] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ModelList(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ListedModel]
    def __init__(self, models: _Optional[_Iterable[_Union[ListedModel, _Mapping]]] = ...) -> None: ...

class ListedModel(_message.Message):
    __slots__ = ("node", "name", "revision", "place", "path", "model_type", "form", "weights_bytes", "total_bytes", "disk_bytes", "n_files", "n_missing", "first_layer", "end_layer", "damage", "used_at")
    NODE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    MODEL_TYPE_FIELD_NUMBER: _ClassVar[int]
    FORM_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    N_FILES_FIELD_NUMBER: _ClassVar[int]
    N_MISSING_FIELD_NUMBER: _ClassVar[int]
    FIRST_LAYER_FIELD_NUMBER: _ClassVar[int]
    END_LAYER_FIELD_NUMBER: _ClassVar[int]
    DAMAGE_FIELD_NUMBER: _ClassVar[int]
    USED_AT_FIELD_NUMBER: _ClassVar[int]
    node: str
    name: str
    revision: str
    place: str
    path: str
    model_type: str
    form: str
    weights_bytes: int
    total_bytes: int
    disk_bytes: int
    n_files: int
    n_missing: int
    first_layer: int
    end_layer: int
    damage: str
    used_at: float
    def __init__(self, node: _Optional[str] = ..., name: _Optional[str] = ..., revision: _Optional[str] = ..., place: _Optional[str] = ..., path: _Optional[str] = ..., model_type: _Optional[str] = ..., form: _Optional[str] = ..., weights_bytes: _Optional[int] = ..., total_bytes: _Optional[int] = ..., disk_bytes: _Optional[int] = ..., n_files: _Optional[int] = ..., n_missing: _Optional[int] = ..., first_layer: _Optional[int] = ..., end_layer: _Optional[int] = ..., damage: _Optional[str] = ..., used_at: _Optional[float] = ...) -> None: ...

class UnloadRequest(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class UnloadReply(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class ServeRequest(_message.Message):
    __slots__ = ("host", "port", "allowed_hosts", "origins", "certificate", "key", "exact")
    HOST_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_HOSTS_FIELD_NUMBER: _ClassVar[int]
    ORIGINS_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    host: str
    port: int
    allowed_hosts: _containers.RepeatedScalarFieldContainer[str]
    origins: _containers.RepeatedScalarFieldContainer[str]
    certificate: str
    key: str
    exact: bool
    def __init__(self, host: _Optional[str] = ..., port: _Optional[int] = ..., allowed_hosts: _Optional[_Iterable[str]] = ..., origins: _Optional[_Iterable[str]] = ..., certificate: _Optional[str] = ..., key: _Optional[str] = ..., exact: bool = ...) -> None: ...

class ServeReply(_message.Message):
    __slots__ = ("url",)
    URL_FIELD_NUMBER: _ClassVar[int]
    url: str
    def __init__(self, url: _Optional[str] = ...) -> None: ...

class StopServingRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StopServingReply(_message.Message):
    __slots__ = ("url",)
    URL_FIELD_NUMBER: _ClassVar[int]
    url: str
    def __init__(self, url: _Optional[str] = ...) -> None: ...

class StopRequest(_message.Message):
    __slots__ = ("for_good",)
    FOR_GOOD_FIELD_NUMBER: _ClassVar[int]
    for_good: bool
    def __init__(self, for_good: bool = ...) -> None: ...

class StopReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AboutRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AboutNode(_message.Message):
    __slots__ = ("node_id", "clock_s", "versions", "ahead_s", "ahead_error_s")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    CLOCK_S_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    AHEAD_S_FIELD_NUMBER: _ClassVar[int]
    AHEAD_ERROR_S_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    clock_s: float
    versions: _containers.ScalarMap[str, str]
    ahead_s: float
    ahead_error_s: float
    def __init__(self, node_id: _Optional[str] = ..., clock_s: _Optional[float] = ..., versions: _Optional[_Mapping[str, str]] = ..., ahead_s: _Optional[float] = ..., ahead_error_s: _Optional[float] = ...) -> None: ...

class AboutNodesReply(_message.Message):
    __slots__ = ("nodes",)
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[AboutNode]
    def __init__(self, nodes: _Optional[_Iterable[_Union[AboutNode, _Mapping]]] = ...) -> None: ...

class ReadLogRequest(_message.Message):
    __slots__ = ("lines", "cursor")
    LINES_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    lines: int
    cursor: str
    def __init__(self, lines: _Optional[int] = ..., cursor: _Optional[str] = ...) -> None: ...

class ReadNodeLogRequest(_message.Message):
    __slots__ = ("node", "read")
    NODE_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    node: str
    read: ReadLogRequest
    def __init__(self, node: _Optional[str] = ..., read: _Optional[_Union[ReadLogRequest, _Mapping]] = ...) -> None: ...

class LogLines(_message.Message):
    __slots__ = ("lines", "cursor")
    LINES_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    lines: _containers.RepeatedScalarFieldContainer[str]
    cursor: str
    def __init__(self, lines: _Optional[_Iterable[str]] = ..., cursor: _Optional[str] = ...) -> None: ...
