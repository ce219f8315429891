from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FOUND: _ClassVar[State]
    NOT_FOUND: _ClassVar[State]
    EXPIRED: _ClassVar[State]
FOUND: State
NOT_FOUND: State
EXPIRED: State

class SchemaRequest(_message.Message):
    __slots__ = ("service", "features", "full_feature_names")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    FULL_FEATURE_NAMES_FIELD_NUMBER: _ClassVar[int]
    service: str
    features: _containers.RepeatedScalarFieldContainer[str]
    full_feature_names: bool
    def __init__(self, service: _Optional[str] = ..., features: _Optional[_Iterable[str]] = ..., full_feature_names: _Optional[bool] = ...) -> None: ...

class KeySet(_message.Message):
    __slots__ = ("entity", "fields")
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    entity: str
    fields: _containers.RepeatedCompositeFieldContainer[KeyField]
    def __init__(self, entity: _Optional[str] = ..., fields: _Optional[_Iterable[_Union[KeyField, _Mapping]]] = ...) -> None: ...

class KeyField(_message.Message):
    __slots__ = ("column", "dtype")
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    column: str
    dtype: str
    def __init__(self, column: _Optional[str] = ..., dtype: _Optional[str] = ...) -> None: ...

class ViewSchema(_message.Message):
    __slots__ = ("ref", "key_set", "ttl", "doubles", "integers", "strings")
    REF_FIELD_NUMBER: _ClassVar[int]
    KEY_SET_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    DOUBLES_FIELD_NUMBER: _ClassVar[int]
    INTEGERS_FIELD_NUMBER: _ClassVar[int]
    STRINGS_FIELD_NUMBER: _ClassVar[int]
    ref: str
    key_set: int
    ttl: int
    doubles: int
    integers: int
    strings: int
    def __init__(self, ref: _Optional[str] = ..., key_set: _Optional[int] = ..., ttl: _Optional[int] = ..., doubles: _Optional[int] = ..., integers: _Optional[int] = ..., strings: _Optional[int] = ...) -> None: ...

class FeatureSchema(_message.Message):
    __slots__ = ("name", "ref", "dtype", "view", "lane", "index", "bit")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REF_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    BIT_FIELD_NUMBER: _ClassVar[int]
    name: str
    ref: str
    dtype: str
    view: int
    lane: str
    index: int
    bit: int
    def __init__(self, name: _Optional[str] = ..., ref: _Optional[str] = ..., dtype: _Optional[str] = ..., view: _Optional[int] = ..., lane: _Optional[str] = ..., index: _Optional[int] = ..., bit: _Optional[int] = ...) -> None: ...

class Schema(_message.Message):
    __slots__ = ("fingerprint", "key_sets", "views", "features", "request", "revision", "stream_port")
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    KEY_SETS_FIELD_NUMBER: _ClassVar[int]
    VIEWS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    STREAM_PORT_FIELD_NUMBER: _ClassVar[int]
    fingerprint: bytes
    key_sets: _containers.RepeatedCompositeFieldContainer[KeySet]
    views: _containers.RepeatedCompositeFieldContainer[ViewSchema]
    features: _containers.RepeatedCompositeFieldContainer[FeatureSchema]
    request: _containers.RepeatedCompositeFieldContainer[KeyField]
    revision: int
    stream_port: int
    def __init__(self, fingerprint: _Optional[bytes] = ..., key_sets: _Optional[_Iterable[_Union[KeySet, _Mapping]]] = ..., views: _Optional[_Iterable[_Union[ViewSchema, _Mapping]]] = ..., features: _Optional[_Iterable[_Union[FeatureSchema, _Mapping]]] = ..., request: _Optional[_Iterable[_Union[KeyField, _Mapping]]] = ..., revision: _Optional[int] = ..., stream_port: _Optional[int] = ...) -> None: ...

class Column(_message.Message):
    __slots__ = ("name", "integers", "doubles", "strings", "nulls")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INTEGERS_FIELD_NUMBER: _ClassVar[int]
    DOUBLES_FIELD_NUMBER: _ClassVar[int]
    STRINGS_FIELD_NUMBER: _ClassVar[int]
    NULLS_FIELD_NUMBER: _ClassVar[int]
    name: str
    integers: _containers.RepeatedScalarFieldContainer[int]
    doubles: _containers.RepeatedScalarFieldContainer[float]
    strings: _containers.RepeatedScalarFieldContainer[bytes]
    nulls: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., integers: _Optional[_Iterable[int]] = ..., doubles: _Optional[_Iterable[float]] = ..., strings: _Optional[_Iterable[bytes]] = ..., nulls: _Optional[_Iterable[int]] = ...) -> None: ...

class ReadRequest(_message.Message):
    __slots__ = ("plan", "columns")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    plan: bytes
    columns: _containers.RepeatedCompositeFieldContainer[Column]
    def __init__(self, plan: _Optional[bytes] = ..., columns: _Optional[_Iterable[_Union[Column, _Mapping]]] = ...) -> None: ...

class Row(_message.Message):
    __slots__ = ("event_time", "state", "nulls", "doubles", "integers", "strings")
    EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    NULLS_FIELD_NUMBER: _ClassVar[int]
    DOUBLES_FIELD_NUMBER: _ClassVar[int]
    INTEGERS_FIELD_NUMBER: _ClassVar[int]
    STRINGS_FIELD_NUMBER: _ClassVar[int]
    event_time: int
    state: int
    nulls: _containers.RepeatedScalarFieldContainer[int]
    doubles: _containers.RepeatedScalarFieldContainer[float]
    integers: _containers.RepeatedScalarFieldContainer[int]
    strings: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, event_time: _Optional[int] = ..., state: _Optional[int] = ..., nulls: _Optional[_Iterable[int]] = ..., doubles: _Optional[_Iterable[float]] = ..., integers: _Optional[_Iterable[int]] = ..., strings: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ViewRows(_message.Message):
    __slots__ = ("rows",)
    ROWS_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[Row]
    def __init__(self, rows: _Optional[_Iterable[_Union[Row, _Mapping]]] = ...) -> None: ...

class ReadResponse(_message.Message):
    __slots__ = ("views", "time", "position", "moved")
    VIEWS_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    MOVED_FIELD_NUMBER: _ClassVar[int]
    views: _containers.RepeatedCompositeFieldContainer[ViewRows]
    time: int
    position: int
    moved: _containers.RepeatedCompositeFieldContainer[MovedKeys]
    def __init__(self, views: _Optional[_Iterable[_Union[ViewRows, _Mapping]]] = ..., time: _Optional[int] = ..., position: _Optional[int] = ..., moved: _Optional[_Iterable[_Union[MovedKeys, _Mapping]]] = ...) -> None: ...

class MovedKeys(_message.Message):
    __slots__ = ("view", "ref", "keys")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    REF_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    view: int
    ref: str
    keys: bytes
    def __init__(self, view: _Optional[int] = ..., ref: _Optional[str] = ..., keys: _Optional[bytes] = ...) -> None: ...

class WriteSchemaRequest(_message.Message):
    __slots__ = ("view",)
    VIEW_FIELD_NUMBER: _ClassVar[int]
    view: str
    def __init__(self, view: _Optional[str] = ...) -> None: ...

class WriteSchema(_message.Message):
    __slots__ = ("view", "columns")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    view: str
    columns: _containers.RepeatedCompositeFieldContainer[KeyField]
    def __init__(self, view: _Optional[str] = ..., columns: _Optional[_Iterable[_Union[KeyField, _Mapping]]] = ...) -> None: ...

class WriteRequest(_message.Message):
    __slots__ = ("view", "columns", "write_id")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    WRITE_ID_FIELD_NUMBER: _ClassVar[int]
    view: str
    columns: _containers.RepeatedCompositeFieldContainer[Column]
    write_id: bytes
    def __init__(self, view: _Optional[str] = ..., columns: _Optional[_Iterable[_Union[Column, _Mapping]]] = ..., write_id: _Optional[bytes] = ...) -> None: ...

class WriteReply(_message.Message):
    __slots__ = ("accepted", "repeated_rows", "parked", "first_seq", "last_seq", "warnings")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REPEATED_ROWS_FIELD_NUMBER: _ClassVar[int]
    PARKED_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQ_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQ_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    accepted: int
    repeated_rows: int
    parked: int
    first_seq: int
    last_seq: int
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, accepted: _Optional[int] = ..., repeated_rows: _Optional[int] = ..., parked: _Optional[int] = ..., first_seq: _Optional[int] = ..., last_seq: _Optional[int] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class TrainingAsk(_message.Message):
    __slots__ = ("service", "features", "full_feature_names", "timestamp", "knowledge", "position", "revision")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    FULL_FEATURE_NAMES_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    KNOWLEDGE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    service: str
    features: _containers.RepeatedScalarFieldContainer[str]
    full_feature_names: bool
    timestamp: str
    knowledge: str
    position: int
    revision: int
    def __init__(self, service: _Optional[str] = ..., features: _Optional[_Iterable[str]] = ..., full_feature_names: _Optional[bool] = ..., timestamp: _Optional[str] = ..., knowledge: _Optional[str] = ..., position: _Optional[int] = ..., revision: _Optional[int] = ...) -> None: ...

class TrainingRequest(_message.Message):
    __slots__ = ("ask", "spine")
    ASK_FIELD_NUMBER: _ClassVar[int]
    SPINE_FIELD_NUMBER: _ClassVar[int]
    ask: TrainingAsk
    spine: bytes
    def __init__(self, ask: _Optional[_Union[TrainingAsk, _Mapping]] = ..., spine: _Optional[bytes] = ...) -> None: ...

class TrainingPart(_message.Message):
    __slots__ = ("rows", "count", "report")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    rows: bytes
    count: int
    report: str
    def __init__(self, rows: _Optional[bytes] = ..., count: _Optional[int] = ..., report: _Optional[str] = ...) -> None: ...

class AdvanceClockRequest(_message.Message):
    __slots__ = ("time",)
    TIME_FIELD_NUMBER: _ClassVar[int]
    time: int
    def __init__(self, time: _Optional[int] = ...) -> None: ...

class Clock(_message.Message):
    __slots__ = ("time", "replay")
    TIME_FIELD_NUMBER: _ClassVar[int]
    REPLAY_FIELD_NUMBER: _ClassVar[int]
    time: int
    replay: bool
    def __init__(self, time: _Optional[int] = ..., replay: _Optional[bool] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ServerStatus(_message.Message):
    __slots__ = ("clock", "revision", "project", "environment", "internal_errors", "stream_port")
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    INTERNAL_ERRORS_FIELD_NUMBER: _ClassVar[int]
    STREAM_PORT_FIELD_NUMBER: _ClassVar[int]
    clock: Clock
    revision: int
    project: str
    environment: str
    internal_errors: int
    stream_port: int
    def __init__(self, clock: _Optional[_Union[Clock, _Mapping]] = ..., revision: _Optional[int] = ..., project: _Optional[str] = ..., environment: _Optional[str] = ..., internal_errors: _Optional[int] = ..., stream_port: _Optional[int] = ...) -> None: ...
