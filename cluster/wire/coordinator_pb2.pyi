from cluster.wire import worker_pb2 as _worker_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ModelDescription(_message.Message):
    __slots__ = ("model", "sampling", "context_tokens", "kv_bytes_per_token", "has_chat_template", "kv_positions", "vocab_size", "text_failure", "notes", "thought_open", "thought_close", "dialect", "thoughts_apart")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KV_BYTES_PER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    HAS_CHAT_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    KV_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FAILURE_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    THOUGHT_OPEN_FIELD_NUMBER: _ClassVar[int]
    THOUGHT_CLOSE_FIELD_NUMBER: _ClassVar[int]
    DIALECT_FIELD_NUMBER: _ClassVar[int]
    THOUGHTS_APART_FIELD_NUMBER: _ClassVar[int]
    model: str
    sampling: Sampling
    context_tokens: int
    kv_bytes_per_token: int
    has_chat_template: bool
    kv_positions: int
    vocab_size: int
    text_failure: str
    notes: _containers.RepeatedScalarFieldContainer[str]
    thought_open: str
    thought_close: str
    dialect: str
    thoughts_apart: bool
    def __init__(self, model: _Optional[str] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., context_tokens: _Optional[int] = ..., kv_bytes_per_token: _Optional[int] = ..., has_chat_template: bool = ..., kv_positions: _Optional[int] = ..., vocab_size: _Optional[int] = ..., text_failure: _Optional[str] = ..., notes: _Optional[_Iterable[str]] = ..., thought_open: _Optional[str] = ..., thought_close: _Optional[str] = ..., dialect: _Optional[str] = ..., thoughts_apart: bool = ...) -> None: ...

class FormatChatRequest(_message.Message):
    __slots__ = ("messages", "variables")
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    VARIABLES_FIELD_NUMBER: _ClassVar[int]
    messages: str
    variables: str
    def __init__(self, messages: _Optional[str] = ..., variables: _Optional[str] = ...) -> None: ...

class EncodeRequest(_message.Message):
    __slots__ = ("text", "add_special_tokens")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ADD_SPECIAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    text: str
    add_special_tokens: bool
    def __init__(self, text: _Optional[str] = ..., add_special_tokens: bool = ...) -> None: ...

class DecodeRequest(_message.Message):
    __slots__ = ("token_ids", "skip_special_tokens")
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    SKIP_SPECIAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    skip_special_tokens: bool
    def __init__(self, token_ids: _Optional[_Iterable[int]] = ..., skip_special_tokens: bool = ...) -> None: ...

class TokenIds(_message.Message):
    __slots__ = ("token_ids",)
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, token_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class Text(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class ConversationId(_message.Message):
    __slots__ = ("conversation_id",)
    CONVERSATION_ID_FIELD_NUMBER: _ClassVar[int]
    conversation_id: bytes
    def __init__(self, conversation_id: _Optional[bytes] = ...) -> None: ...

class ConversationClosed(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ConversationHeld(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TimelineRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias", "seed")
    class LogitBiasEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: float
        def __init__(self, key: _Optional[int] = ..., value: _Optional[float] = ...) -> None: ...
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: _containers.ScalarMap[int, float]
    seed: int
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., min_p: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., presence_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., logit_bias: _Optional[_Mapping[int, float]] = ..., seed: _Optional[int] = ...) -> None: ...

class AnswerRequest(_message.Message):
    __slots__ = ("conversation_id", "input_ids", "sampling", "max_tokens", "stop", "ignore_eos", "detect_loops", "request_id", "grammar", "answer_ids", "frames", "borrows_any", "top_logprobs", "prompt_logprobs")
    CONVERSATION_ID_FIELD_NUMBER: _ClassVar[int]
    INPUT_IDS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    IGNORE_EOS_FIELD_NUMBER: _ClassVar[int]
    DETECT_LOOPS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    GRAMMAR_FIELD_NUMBER: _ClassVar[int]
    ANSWER_IDS_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    BORROWS_ANY_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    conversation_id: bytes
    input_ids: _containers.RepeatedScalarFieldContainer[int]
    sampling: Sampling
    max_tokens: int
    stop: _containers.RepeatedScalarFieldContainer[str]
    ignore_eos: bool
    detect_loops: bool
    request_id: bytes
    grammar: Grammar
    answer_ids: _containers.RepeatedScalarFieldContainer[int]
    frames: PromptFrames
    borrows_any: bool
    top_logprobs: int
    prompt_logprobs: bool
    def __init__(self, conversation_id: _Optional[bytes] = ..., input_ids: _Optional[_Iterable[int]] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., max_tokens: _Optional[int] = ..., stop: _Optional[_Iterable[str]] = ..., ignore_eos: bool = ..., detect_loops: bool = ..., request_id: _Optional[bytes] = ..., grammar: _Optional[_Union[Grammar, _Mapping]] = ..., answer_ids: _Optional[_Iterable[int]] = ..., frames: _Optional[_Union[PromptFrames, _Mapping]] = ..., borrows_any: bool = ..., top_logprobs: _Optional[int] = ..., prompt_logprobs: bool = ...) -> None: ...

class Grammar(_message.Message):
    __slots__ = ("schema", "tools", "parallel")
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    PARALLEL_FIELD_NUMBER: _ClassVar[int]
    schema: str
    tools: _containers.RepeatedCompositeFieldContainer[GrammarTool]
    parallel: bool
    def __init__(self, schema: _Optional[str] = ..., tools: _Optional[_Iterable[_Union[GrammarTool, _Mapping]]] = ..., parallel: bool = ...) -> None: ...

class GrammarTool(_message.Message):
    __slots__ = ("name", "schema")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    name: str
    schema: str
    def __init__(self, name: _Optional[str] = ..., schema: _Optional[str] = ...) -> None: ...

class AnswerEvent(_message.Message):
    __slots__ = ("begun", "prefill", "token", "waiting", "frames", "prompt")
    BEGUN_FIELD_NUMBER: _ClassVar[int]
    PREFILL_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    begun: AnswerBegun
    prefill: PrefillProgress
    token: AnswerToken
    waiting: AnswerWaiting
    frames: PromptFrames
    prompt: PromptTokens
    def __init__(self, begun: _Optional[_Union[AnswerBegun, _Mapping]] = ..., prefill: _Optional[_Union[PrefillProgress, _Mapping]] = ..., token: _Optional[_Union[AnswerToken, _Mapping]] = ..., waiting: _Optional[_Union[AnswerWaiting, _Mapping]] = ..., frames: _Optional[_Union[PromptFrames, _Mapping]] = ..., prompt: _Optional[_Union[PromptTokens, _Mapping]] = ...) -> None: ...

class AnswerWaiting(_message.Message):
    __slots__ = ("cause", "done", "total")
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    cause: str
    done: int
    total: int
    def __init__(self, cause: _Optional[str] = ..., done: _Optional[int] = ..., total: _Optional[int] = ...) -> None: ...

class PromptFrames(_message.Message):
    __slots__ = ("lengths", "counts", "cut_lengths", "chunk_length", "rest_length")
    class CutLengthsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    CUT_LENGTHS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_LENGTH_FIELD_NUMBER: _ClassVar[int]
    REST_LENGTH_FIELD_NUMBER: _ClassVar[int]
    lengths: _containers.RepeatedScalarFieldContainer[int]
    counts: _containers.RepeatedScalarFieldContainer[int]
    cut_lengths: _containers.ScalarMap[int, int]
    chunk_length: int
    rest_length: int
    def __init__(self, lengths: _Optional[_Iterable[int]] = ..., counts: _Optional[_Iterable[int]] = ..., cut_lengths: _Optional[_Mapping[int, int]] = ..., chunk_length: _Optional[int] = ..., rest_length: _Optional[int] = ...) -> None: ...

class PromptTokens(_message.Message):
    __slots__ = ("tokens",)
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedCompositeFieldContainer[AnswerToken]
    def __init__(self, tokens: _Optional[_Iterable[_Union[AnswerToken, _Mapping]]] = ...) -> None: ...

class AnswerBegun(_message.Message):
    __slots__ = ("seed", "request_id")
    SEED_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    seed: int
    request_id: bytes
    def __init__(self, seed: _Optional[int] = ..., request_id: _Optional[bytes] = ...) -> None: ...

class PrefillProgress(_message.Message):
    __slots__ = ("done", "total")
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    done: int
    total: int
    def __init__(self, done: _Optional[int] = ..., total: _Optional[int] = ...) -> None: ...

class AnswerToken(_message.Message):
    __slots__ = ("id", "text", "logprob", "position", "stats", "finish_reason", "piece", "top")
    ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    id: int
    text: str
    logprob: float
    position: int
    stats: AnswerStats
    finish_reason: str
    piece: bytes
    top: _containers.RepeatedCompositeFieldContainer[TokenLogprob]
    def __init__(self, id: _Optional[int] = ..., text: _Optional[str] = ..., logprob: _Optional[float] = ..., position: _Optional[int] = ..., stats: _Optional[_Union[AnswerStats, _Mapping]] = ..., finish_reason: _Optional[str] = ..., piece: _Optional[bytes] = ..., top: _Optional[_Iterable[_Union[TokenLogprob, _Mapping]]] = ...) -> None: ...

class TokenLogprob(_message.Message):
    __slots__ = ("id", "piece", "logprob")
    ID_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    id: int
    piece: bytes
    logprob: float
    def __init__(self, id: _Optional[int] = ..., piece: _Optional[bytes] = ..., logprob: _Optional[float] = ...) -> None: ...

class AnswerStats(_message.Message):
    __slots__ = ("prompt_tokens", "cached_tokens", "generated_tokens", "ttft_s", "prefill_s", "decode_s", "total_s", "drafted", "accepted", "compared_by_depth", "accepted_by_depth", "chunk_length", "waited_s", "waited_for")
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    GENERATED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TTFT_S_FIELD_NUMBER: _ClassVar[int]
    PREFILL_S_FIELD_NUMBER: _ClassVar[int]
    DECODE_S_FIELD_NUMBER: _ClassVar[int]
    TOTAL_S_FIELD_NUMBER: _ClassVar[int]
    DRAFTED_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    COMPARED_BY_DEPTH_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_BY_DEPTH_FIELD_NUMBER: _ClassVar[int]
    CHUNK_LENGTH_FIELD_NUMBER: _ClassVar[int]
    WAITED_S_FIELD_NUMBER: _ClassVar[int]
    WAITED_FOR_FIELD_NUMBER: _ClassVar[int]
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    ttft_s: float
    prefill_s: float
    decode_s: float
    total_s: float
    drafted: int
    accepted: int
    compared_by_depth: _containers.RepeatedScalarFieldContainer[int]
    accepted_by_depth: _containers.RepeatedScalarFieldContainer[int]
    chunk_length: int
    waited_s: float
    waited_for: str
    def __init__(self, prompt_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., generated_tokens: _Optional[int] = ..., ttft_s: _Optional[float] = ..., prefill_s: _Optional[float] = ..., decode_s: _Optional[float] = ..., total_s: _Optional[float] = ..., drafted: _Optional[int] = ..., accepted: _Optional[int] = ..., compared_by_depth: _Optional[_Iterable[int]] = ..., accepted_by_depth: _Optional[_Iterable[int]] = ..., chunk_length: _Optional[int] = ..., waited_s: _Optional[float] = ..., waited_for: _Optional[str] = ...) -> None: ...
