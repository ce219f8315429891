from featurestore.v1 import serving_pb2 as _serving_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class WriteTableRequest(_message.Message):
    __slots__ = ("view", "rows", "write_id", "released")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    WRITE_ID_FIELD_NUMBER: _ClassVar[int]
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    view: str
    rows: bytes
    write_id: bytes
    released: str
    def __init__(self, view: _Optional[str] = ..., rows: _Optional[bytes] = ..., write_id: _Optional[bytes] = ..., released: _Optional[str] = ...) -> None: ...

class ReserveRequest(_message.Message):
    __slots__ = ("count",)
    COUNT_FIELD_NUMBER: _ClassVar[int]
    count: int
    def __init__(self, count: _Optional[int] = ...) -> None: ...

class Reserved(_message.Message):
    __slots__ = ("first_seq",)
    FIRST_SEQ_FIELD_NUMBER: _ClassVar[int]
    first_seq: int
    def __init__(self, first_seq: _Optional[int] = ...) -> None: ...

class FoldRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Folded(_message.Message):
    __slots__ = ("rows",)
    ROWS_FIELD_NUMBER: _ClassVar[int]
    rows: int
    def __init__(self, rows: _Optional[int] = ...) -> None: ...

class MaterializeRequest(_message.Message):
    __slots__ = ("view", "full")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    FULL_FIELD_NUMBER: _ClassVar[int]
    view: str
    full: bool
    def __init__(self, view: _Optional[str] = ..., full: _Optional[bool] = ...) -> None: ...

class Materialized(_message.Message):
    __slots__ = ("report",)
    REPORT_FIELD_NUMBER: _ClassVar[int]
    report: str
    def __init__(self, report: _Optional[str] = ...) -> None: ...

class EraseRequest(_message.Message):
    __slots__ = ("entity", "keys", "principal", "reason", "now")
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    entity: str
    keys: bytes
    principal: str
    reason: str
    now: int
    def __init__(self, entity: _Optional[str] = ..., keys: _Optional[bytes] = ..., principal: _Optional[str] = ..., reason: _Optional[str] = ..., now: _Optional[int] = ...) -> None: ...

class Erased(_message.Message):
    __slots__ = ("receipt",)
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    receipt: bytes
    def __init__(self, receipt: _Optional[bytes] = ...) -> None: ...

class CollectUsageRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UsageCollected(_message.Message):
    __slots__ = ("segments",)
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    segments: int
    def __init__(self, segments: _Optional[int] = ...) -> None: ...
