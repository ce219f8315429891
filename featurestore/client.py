"""The thin client: reads and writes over gRPC with nothing heavier than grpcio, protobuf and numpy.

What is said to a server, in which order, is written once, as generators that yield an `Ask` and get the answer's bytes; `Client` and
`AsyncClient` only carry them. A read asks for the schema of its plan once; a server that no longer knows the plan says so, and the
schema is fetched again.
"""

from __future__ import annotations

import asyncio
import os
import time
import warnings
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import unquote

import grpc
import grpc.aio

from featurestore import errors
from featurestore.decoding import OnlineRows, decode
from featurestore.errors import (
    AccessDeniedError,
    DeadlineExceededError,
    FeatureStoreError,
    InvalidArgumentError,
    ResourceExhaustedError,
    StaleSchemaError,
    UnauthenticatedError,
    UnavailableError,
    nearest_name,
)
from featurestore.types import DType, to_micros, to_wire
from featurestore.v1 import serving_pb2 as pb

SERVICE = "featurestore.v1.FeatureStore"

_MAX_RESPONSE_BYTES = 16 << 20
_OPTIONS = (
    ("grpc.max_receive_message_length", _MAX_RESPONSE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)
_CLASSES: dict[str, type[FeatureStoreError]] = {
    name: value
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, FeatureStoreError)
}
_BY_CODE: dict[grpc.StatusCode, type[FeatureStoreError]] = {  # what a transport says by itself, without our trailers
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.CANCELLED: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: AccessDeniedError,
}

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Ask:
    """One unary call.

    Args:
        method: Name of the method.
        body: The serialized request.
        timeout: Seconds that are left for it.
        wait: Whether to wait for a connection instead of failing at once.
    """

    method: str
    body: bytes
    timeout: float
    wait: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """What became of written rows.

    Attributes:
        accepted: Rows that are durable now.
        repeated: Rows equal to a stored one, not accepted again.
        parked: Accepted rows dated after now; they become visible when they come due.
        first_seq: Sequence number of the first accepted row; 0 when there is none.
        last_seq: Of the last one.
        warnings: What a writer should know.
    """

    accepted: int
    repeated: int
    parked: int
    first_seq: int
    last_seq: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """How a server sees itself; `time` in microseconds UTC, `replay` whether that is the replay clock."""

    time: int
    replay: bool
    revision: int
    project: str
    environment: str
    internal_errors: int


@dataclass(frozen=True, slots=True)
class ReadShape:
    """The columns that a read of some plan must send."""

    schema: pb.Schema
    keys: tuple[tuple[str, DType], ...]
    request: tuple[tuple[str, DType], ...]

    @classmethod
    def of(cls, schema: pb.Schema) -> ReadShape:
        """Return the columns of a schema; a key column of two key sets is sent once."""
        keys = {field.column: DType(field.dtype) for key_set in schema.key_sets for field in key_set.fields}
        return cls(schema, tuple(keys.items()), tuple((f.column, DType(f.dtype)) for f in schema.request))

    def pack(self, keys: Mapping[str, Any], request: Mapping[str, Any]) -> bytes:
        """Return the serialized ReadRequest.

        Args:
            keys: Key column -> values, all of one length.
            request: Request column -> values of the same length.

        Raises:
            InvalidArgumentError: A column is missing or unknown, a key null, a value of another type, or lengths differ.
        """
        columns = pack_columns(self.keys, keys, place="$.keys", nullable=False)
        columns += pack_columns(self.request, request, place="$.request", nullable=True)
        given = {
            **{f"$.keys.{n}": keys[n] for n, _ in self.keys},
            **{f"$.request.{n}": request[n] for n, _ in self.request},
        }
        _check_lengths(given)
        return pb.ReadRequest(plan=self.schema.fingerprint, columns=columns).SerializeToString()


def pack_columns(
    declared: Iterable[tuple[str, DType]], given: Mapping[str, Any], *, place: str, nullable: bool
) -> list[pb.Column]:
    """Return columns as they are sent, each value checked against its type.

    Args:
        declared: (column, type) pairs; all of them must be given, and no others.
        given: Column -> values: a list, or an array of NumPy, Arrow or pandas.
        place: Where the columns stand, for errors.
        nullable: Whether None is allowed.

    Raises:
        InvalidArgumentError: A column is missing or unknown, or a value is null or of another type; says the place.

    >>> [column.strings for column in pack_columns([("origin", DType("string"))], {"origin": ["JFK"]}, place="$.keys", nullable=False)]
    [[b'JFK']]
    """
    types = dict(declared)
    for name in types:
        if name not in given:
            near = nearest_name(name, given)
            sent = f" You sent '{near}'." if near else ""
            raise InvalidArgumentError(f"Column '{name}' is missing.{sent}", place=f"{place}.{name}")
    for name in given:
        if name not in types:
            raise InvalidArgumentError(
                f"Column '{name}' is not asked for.{_hint(name, types)}", place=f"{place}.{name}"
            )
    return [
        _pack_column(name, dtype, _as_list(given[name], f"{place}.{name}"), place=f"{place}.{name}", nullable=nullable)
        for name, dtype in types.items()
    ]


def pack_write(schema: pb.WriteSchema, view: str, columns: Mapping[str, Any], write_id: bytes) -> bytes:
    """Return the serialized WriteRequest for some rows; raises InvalidArgumentError like `pack_columns`."""
    declared = [(field.column, DType(field.dtype)) for field in schema.columns]
    packed = pack_columns(declared, columns, place="$.columns", nullable=True)
    _check_lengths({f"$.columns.{name}": values for name, values in columns.items()})
    return pb.WriteRequest(view=view, columns=packed, write_id=write_id).SerializeToString()


def error_of(code: grpc.StatusCode, text: str, trailers: Mapping[str, str], target: str) -> FeatureStoreError:
    """Return the error that a failed call stands for: the server's own, with its facts, or the transport's.

    Args:
        code: The gRPC status.
        text: Its message.
        trailers: Trailing metadata; ``fs-*`` fields are percent-encoded.
        target: Which server was called, for errors of the transport.
    """
    facts = {name: unquote(value) for name, value in trailers.items() if name.startswith("fs-")}
    kind = _CLASSES.get(facts.get("fs-error", ""))
    if kind is None:
        where = "Is `featurestore serve` running there? Its ready line names the gRPC port; the HTTP port is another."
        repair = where if code is grpc.StatusCode.UNAVAILABLE else None
        message = f"{target} answered {code.name}: {text or 'no reason given'}"
        return _BY_CODE.get(code, FeatureStoreError)(message, repair=repair)
    place, repair = facts.get("fs-place"), facts.get("fs-repair")
    message = text.removesuffix(f" {repair}") if repair else text
    error = kind(message.removesuffix(f" - at `{place}`.") if place else message, place=place, repair=repair)
    if isinstance(error, errors.NotFoundError):
        error.nearest = facts.get("fs-nearest")
    return error


def texts(metadata: Any) -> dict[str, str]:
    """Return gRPC metadata by name, without binary fields; of a repeated name, the last; None has none.

    >>> texts((("fs-place", "$.keys"), ("trace-bin", b"1")))
    {'fs-place': '$.keys'}
    """
    return {name: value for name, value in metadata or () if isinstance(value, str)}


class Client(AbstractContextManager["Client"]):
    """A client of one server; safe to share between threads.

    Args:
        target: ``host:port``, or any gRPC target.
        consumer: What the caller says it runs, e.g. ``delay_model@3``; None takes FEATURESTORE_CONSUMER, or nothing.
        token: A registry token; None takes FEATURESTORE_TOKEN, or none.
        timeout: Seconds for a call with everything it needs, repeats included.
        credentials: For TLS; None is plain text.
    """

    def __init__(
        self,
        target: str,
        *,
        consumer: str | None = None,
        token: str | None = None,
        timeout: float = 1.0,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._dialogue = _Dialogue(target, consumer=consumer, token=token, timeout=timeout)
        self._channel = (
            grpc.insecure_channel(target, options=_OPTIONS)
            if credentials is None
            else grpc.secure_channel(target, credentials, options=_OPTIONS)
        )
        self._methods: dict[str, Any] = {name: self._channel.unary_unary(f"/{SERVICE}/{name}") for name in _METHODS}

    def get_online_features(
        self,
        features: str | Sequence[str],
        keys: Mapping[str, Any],
        request: Mapping[str, Any] | None = None,
        *,
        full_feature_names: bool = False,
    ) -> OnlineRows:
        """Read the newest features of some keys.

        Args:
            features: Name of a feature service, or references such as ``weather@v1:temp``.
            keys: Key column -> values (list or array), all of one length; one output row per position.
            request: Request column -> values, for on-demand features.
            full_feature_names: Name outputs ``view__feature``.

        Raises:
            NotFoundError: An unknown service, view, version or feature; says the nearest name.
            InvalidArgumentError: A column is missing, null or of another type; says where.
            FailedPreconditionError: A view was never filled; says the command.
            AccessDeniedError: The caller may not read this.
            UnavailableError: No server answers.
        """
        return self._run(self._dialogue.read(features, keys, request or {}, full=full_feature_names))

    def write(self, view: str, columns: Any, *, write_id: bytes = b"") -> Written:
        """Write rows of a view; when this returns they are durable and visible.

        Args:
            view: ``view`` or ``view@v2``.
            columns: Column -> values, all of one length, under the source's names; or an Arrow table.
            write_id: Makes a repeat harmless for seven days; empty for none.

        Raises:
            NotFoundError: An unknown view; says the nearest name.
            InvalidArgumentError: A column is missing, unknown or of another type; says where.
            UnavailableError: No server or writer answers: whether the rows were accepted is not known.
        """
        return self._run(self._dialogue.write(view, columns, write_id))

    def advance_clock(self, instant: datetime | str | int) -> int:
        """Move the replay clock forward to an instant (UTC if naive; microseconds if a number) and return the clock.

        Raises:
            FailedPreconditionError: The server runs on the system clock, or the instant is before the replay clock.
        """
        return self._run(self._dialogue.advance_clock(to_micros(instant)))

    def status(self) -> StoreStatus:
        """Return the server's clock, registry revision, project and environment."""
        return self._run(self._dialogue.status())

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, exchange: Generator[Ask, bytes, _T]) -> _T:
        try:
            ask = next(exchange)
            while True:
                try:
                    answer = self._call(ask)
                except FeatureStoreError as error:
                    ask = exchange.throw(error)
                else:
                    ask = exchange.send(answer)
        except StopIteration as end:
            result: _T = end.value
            return result

    def _call(self, ask: Ask) -> bytes:
        try:
            answer, call = self._methods[ask.method].with_call(
                ask.body, timeout=ask.timeout, metadata=self._dialogue.metadata, wait_for_ready=ask.wait
            )
        except grpc.RpcError as error:
            trailers = texts(error.trailing_metadata())
            raise self._dialogue.error(error.code(), error.details(), trailers) from error
        _warn(call.trailing_metadata())
        body: bytes = answer
        return body


class AsyncClient(AbstractAsyncContextManager["AsyncClient"]):
    """The same client for an event loop; see Client for arguments and errors."""

    def __init__(
        self,
        target: str,
        *,
        consumer: str | None = None,
        token: str | None = None,
        timeout: float = 1.0,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._dialogue = _Dialogue(target, consumer=consumer, token=token, timeout=timeout)
        self._channel = (
            grpc.aio.insecure_channel(target, options=_OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, options=_OPTIONS)
        )
        self._methods: dict[str, Any] = {name: self._channel.unary_unary(f"/{SERVICE}/{name}") for name in _METHODS}

    async def get_online_features(
        self,
        features: str | Sequence[str],
        keys: Mapping[str, Any],
        request: Mapping[str, Any] | None = None,
        *,
        full_feature_names: bool = False,
    ) -> OnlineRows:
        """Read the newest features of some keys; see Client."""
        return await self._run(self._dialogue.read(features, keys, request or {}, full=full_feature_names))

    async def write(self, view: str, columns: Any, *, write_id: bytes = b"") -> Written:
        """Write rows of a view; see Client."""
        return await self._run(self._dialogue.write(view, columns, write_id))

    async def advance_clock(self, instant: datetime | str | int) -> int:
        """Move the replay clock forward; see Client."""
        return await self._run(self._dialogue.advance_clock(to_micros(instant)))

    async def status(self) -> StoreStatus:
        """Return the server's clock, registry revision, project and environment."""
        return await self._run(self._dialogue.status())

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, exchange: Generator[Ask, bytes, _T]) -> _T:
        try:
            ask = next(exchange)
            while True:
                try:
                    answer = await self._call(ask)
                except FeatureStoreError as error:
                    ask = exchange.throw(error)
                else:
                    ask = exchange.send(answer)
        except StopIteration as end:
            result: _T = end.value
            return result

    async def _call(self, ask: Ask) -> bytes:
        call = self._methods[ask.method](
            ask.body, timeout=ask.timeout, metadata=self._dialogue.metadata, wait_for_ready=ask.wait
        )
        try:
            answer: bytes = await call
        except grpc.aio.AioRpcError as error:
            trailers = texts(error.trailing_metadata())
            raise self._dialogue.error(error.code(), error.details(), trailers) from error
        except asyncio.CancelledError:
            call.cancel()
            raise
        _warn(await call.trailing_metadata())
        return answer


_METHODS = ("GetSchema", "GetOnlineFeatures", "GetWriteSchema", "Write", "AdvanceClock", "GetStatus")


class _Dialogue:
    """What is said to a server and what its answers mean, free of any connection."""

    def __init__(self, target: str, *, consumer: str | None, token: str | None, timeout: float) -> None:
        consumer = os.environ.get("FEATURESTORE_CONSUMER") if consumer is None else consumer
        token = os.environ.get("FEATURESTORE_TOKEN") if token is None else token
        named = {"featurestore-consumer": consumer, "authorization": f"Bearer {token}" if token else None}
        self.target = target
        self.metadata = tuple((name, value) for name, value in named.items() if value)
        self._timeout = timeout
        self._budget = _RetryBudget()
        self._shapes: dict[tuple[str | tuple[str, ...], bool], ReadShape] = {}
        self._write_schemas: dict[str, pb.WriteSchema] = {}

    def read(
        self, features: str | Sequence[str], keys: Mapping[str, Any], request: Mapping[str, Any], *, full: bool
    ) -> Generator[Ask, bytes, OnlineRows]:
        """Read, with the schema that is known, or once more with a fresh one."""
        deadline = self._deadline()
        wanted = (features if isinstance(features, str) else tuple(features), full)
        known = self._shapes.get(wanted)
        if known is not None:
            try:
                return (yield from self._read_with(known, keys, request, deadline))
            except StaleSchemaError:
                del self._shapes[wanted]
        shape = yield from self._fetch_shape(wanted, deadline)
        return (yield from self._read_with(shape, keys, request, deadline))

    def write(self, view: str, rows: Any, write_id: bytes) -> Generator[Ask, bytes, Written]:
        """Write; a column that the known schema lacks may have been added since, so it is looked up once more."""
        deadline = self._deadline()
        columns = _columns_of(rows)
        schema = self._write_schemas.get(view)
        if schema is None or {field.column for field in schema.columns} != set(columns):
            body = pb.WriteSchemaRequest(view=view).SerializeToString()
            answer = yield from self._ask("GetWriteSchema", body, deadline)
            schema = self._write_schemas[view] = pb.WriteSchema.FromString(answer)
        body = pack_write(schema, view, columns, write_id)
        reply = pb.WriteReply.FromString((yield self._once("Write", body, deadline)))
        return Written(
            reply.accepted, reply.repeated_rows, reply.parked, reply.first_seq, reply.last_seq, tuple(reply.warnings)
        )

    def advance_clock(self, instant: int) -> Generator[Ask, bytes, int]:
        """Move the replay clock."""
        body = pb.AdvanceClockRequest(time=instant).SerializeToString()
        return pb.Clock.FromString((yield self._once("AdvanceClock", body, self._deadline()))).time

    def status(self) -> Generator[Ask, bytes, StoreStatus]:
        """Ask how the server sees itself."""
        answer = yield from self._ask("GetStatus", b"", self._deadline())
        status = pb.ServerStatus.FromString(answer)
        clock = status.clock
        return StoreStatus(
            clock.time, clock.replay, status.revision, status.project, status.environment, status.internal_errors
        )

    def error(self, code: grpc.StatusCode, text: str | None, trailers: Mapping[str, str]) -> FeatureStoreError:
        """Return the error that a failed call stands for."""
        return error_of(code, text or "", trailers, self.target)

    def _read_with(
        self, shape: ReadShape, keys: Mapping[str, Any], request: Mapping[str, Any], deadline: float
    ) -> Generator[Ask, bytes, OnlineRows]:
        body = shape.pack(keys, request)
        return decode(shape.schema, (yield from self._ask("GetOnlineFeatures", body, deadline)))

    def _fetch_shape(
        self, wanted: tuple[str | tuple[str, ...], bool], deadline: float
    ) -> Generator[Ask, bytes, ReadShape]:
        features, full = wanted
        message = (
            pb.SchemaRequest(service=features, full_feature_names=full)
            if isinstance(features, str)
            else pb.SchemaRequest(features=features, full_feature_names=full)
        )
        answer = yield from self._ask("GetSchema", message.SerializeToString(), deadline)
        shape = self._shapes[wanted] = ReadShape.of(pb.Schema.FromString(answer))
        return shape

    def _ask(self, method: str, body: bytes, deadline: float) -> Generator[Ask, bytes, bytes]:
        """Ask, and once more when no server answered, as far as the budget goes; only for what is safe to repeat."""
        self._budget.earn()
        try:
            return (yield self._once(method, body, deadline))
        except UnavailableError as error:
            if type(error) is not UnavailableError or not self._budget.spend():
                raise
            try:
                return (yield self._once(method, body, deadline, wait=True))
            except DeadlineExceededError:  # it only waited for a connection: the first error says more
                raise error from None

    def _once(self, method: str, body: bytes, deadline: float, *, wait: bool = False) -> Ask:
        return Ask(method, body, max(0.0, deadline - time.monotonic()), wait)

    def _deadline(self) -> float:
        return time.monotonic() + self._timeout


class _RetryBudget:
    """At most one repeat per ten calls in the long run, so that repeats never multiply an outage."""

    _PER_CALL, _MOST = 0.1, 10.0

    def __init__(self) -> None:
        self._saved = self._MOST

    def earn(self) -> None:
        self._saved = min(self._MOST, self._saved + self._PER_CALL)

    def spend(self) -> bool:
        if self._saved < 1:
            return False
        self._saved -= 1
        return True


def _pack_column(name: str, dtype: DType, values: Sequence[Any], *, place: str, nullable: bool) -> pb.Column:
    nulls = [i for i, value in enumerate(values) if value is None]
    if nulls and not nullable:
        raise InvalidArgumentError(f"Key '{name}' is null.", place=f"{place}[{nulls[0]}]")
    try:
        lane = [to_wire(dtype, value) for value in values if value is not None]
    except InvalidArgumentError:
        for i, value in enumerate(values):  # again, to say where
            if value is not None:
                to_wire(dtype, value, place=f"{place}[{i}]")
        raise
    empty: Any = {"doubles": 0.0, "integers": 0, "strings": b""}[dtype.lane]
    for i in nulls:
        lane.insert(i, empty)
    column = pb.Column(name=name, nulls=nulls)
    getattr(column, dtype.lane).extend(lane)
    return column


def _as_list(values: Any, place: str) -> Sequence[Any]:
    """Return a column's values as plain Python objects; a single text or number is not a column."""
    for convert in ("to_pylist", "tolist", "to_list"):
        if hasattr(values, convert):
            values = getattr(values, convert)()
    if not isinstance(values, list | tuple):
        raise InvalidArgumentError(
            f"Expected a list of values, got {type(values).__name__} {values!r:.80}.", place=place
        )
    return values


def _columns_of(rows: Any) -> Mapping[str, Any]:
    """Return rows as column -> values, from a mapping or from an Arrow table (without importing pyarrow)."""
    if isinstance(rows, Mapping):
        return rows
    if hasattr(rows, "column_names") and hasattr(rows, "column"):
        return {name: rows.column(name) for name in rows.column_names}
    raise InvalidArgumentError(f"Expected columns of values, got {type(rows).__name__}.", place="$.columns")


def _check_lengths(given: Mapping[str, Any]) -> None:
    lengths = {place: len(values) for place, values in given.items()}
    if len(set(lengths.values())) > 1:
        first, *others = lengths
        odd = next(place for place in others if lengths[place] != lengths[first])
        raise InvalidArgumentError(f"{first} has {lengths[first]} values, {odd} has {lengths[odd]}.", place=odd)


def _hint(name: str, available: Iterable[str]) -> str:
    near = nearest_name(name, available)
    return f" Did you mean '{near}'?" if near else ""


def _warn(metadata: Any) -> None:
    for name, value in metadata or ():
        if name == "fs-warning":
            warnings.warn(unquote(value), UserWarning, stacklevel=5)
