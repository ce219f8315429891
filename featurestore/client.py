"""The thin client: reads and writes over gRPC with nothing heavier than grpcio, protobuf and numpy.

What is said to a server, in which order, is written once, as generators that yield an `Ask` and get the answer's bytes; `Client` and
`AsyncClient` only carry them. A read asks for the schema of its plan once; a server that no longer knows the plan says so, and the
schema is fetched again.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
import warnings
from collections.abc import AsyncIterator, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import unquote

import grpc
import grpc.aio

from featurestore import errors
from featurestore.decoding import Decoder, OnlineRows
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
from featurestore.remote_training import AsyncRemoteTrainingSet, RemoteTrainingSet, training_requests
from featurestore.types import DType, to_micros, to_wire
from featurestore.v1 import serving_pb2 as pb

SERVICE = "featurestore.v1.FeatureStore"

_MAX_RESPONSE_BYTES = 16 << 20
_STALE_SCHEMAS = 3  # that one read puts up with while the registry changes
_OPTIONS = (
    ("grpc.max_receive_message_length", _MAX_RESPONSE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # A connection that meets a process on its way out is tried again soon; the default, a second, is as long as a call may take.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
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
        pause: Seconds to wait before it is made; the server asked for that.
    """

    method: str
    body: bytes
    timeout: float
    wait: bool = False
    pause: float = 0.0


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
    """The columns that a read of some plan must send, and what reads its answers."""

    schema: pb.Schema
    keys: tuple[tuple[str, DType], ...]
    request: tuple[tuple[str, DType], ...]
    decoder: Decoder

    @classmethod
    def of(cls, schema: pb.Schema) -> ReadShape:
        """Return the columns of a schema; a key column of two key sets is sent once."""
        keys = {field.column: DType(field.dtype) for key_set in schema.key_sets for field in key_set.fields}
        request = tuple((field.column, DType(field.dtype)) for field in schema.request)
        return cls(schema, tuple(keys.items()), request, Decoder(schema))

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

    def pack_parts(self, keys: Mapping[str, Any], request: Mapping[str, Any], rows: int) -> Iterator[bytes]:
        """Return a request for each so many rows; arguments and errors as for `pack`."""
        count = max(map(len, keys.values()), default=0)
        for start in range(0, count, rows):
            part = slice(start, start + rows)
            yield self.pack(
                {name: values[part] for name, values in keys.items()},
                {name: values[part] for name, values in request.items()},
            )


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
    if isinstance(error, ResourceExhaustedError) and "fs-retry-after-ms" in facts:
        error.retry_after = int(facts["fs-retry-after-ms"]) / 1000
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
        self._channel: grpc.Channel = _channel(grpc, target, credentials)
        self._methods: dict[str, Any] = {name: self._channel.unary_unary(f"/{SERVICE}/{name}") for name in _METHODS}
        self._credentials = credentials
        self._stream_channel: grpc.Channel | None = None

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

    def stream_online_features(
        self,
        features: str | Sequence[str],
        keys: Mapping[str, Any],
        request: Mapping[str, Any] | None = None,
        *,
        full_feature_names: bool = False,
        rows: int = 1000,
    ) -> Iterator[OnlineRows]:
        """Read the newest features of any number of keys, in one stream.

        Args:
            features: As for `get_online_features`, likewise below.
            keys: Key column -> values.
            request: Request column -> values.
            full_feature_names: Name outputs ``view__feature``.
            rows: Keys an answer, at most 1,000.

        Yields:
            The answers, in the order of the keys; each is read at one instant.
        """
        shape = self._run(self._dialogue.shape(features, full=full_feature_names), self._streams())
        for answer in self._stream("StreamOnlineFeatures", shape.pack_parts(keys, request or {}, rows)):
            yield shape.decoder.decode(answer)

    def stream_write(self, view: str, parts: Iterable[Any]) -> Iterator[Written]:
        """Write rows as they come; parts are taken no faster than the store accepts them.

        Args:
            view: ``view`` or ``view@v2``.
            parts: Rows, each part as for `write`.

        Yields:
            One answer for each part, in order; its rows are durable and visible then.

        Raises:
            InvalidArgumentError: A part was refused; those before it that were answered stay accepted.
        """
        schema = self._run(self._dialogue.write_schema(view))
        bodies = (pack_write(schema, view, _columns_of(rows), b"") for rows in parts)
        yield from map(_written, self._stream("StreamWrite", bodies))

    def get_historical_features(
        self,
        spine: Any,
        features: str | Sequence[str],
        *,
        timestamp: str = "event_timestamp",
        knowledge: str = "as_known",
        position: int = 0,
        full_feature_names: bool = False,
        timeout: float | None = None,
    ) -> RemoteTrainingSet:
        """Join features onto a spine as they were known at each of its rows' times; the server does the work.

        Args:
            spine: Keys and times: column -> list, anything with ``__arrow_c_stream__`` (an Arrow or Polars table, a reader of
                batches), or the bytes of an Arrow IPC stream, whole or in parts; for the last, pyarrow is not needed.
            features: Name of a feature service, or references.
            timestamp: The spine's time column; naive times are UTC.
            knowledge: ``as_known``, ``latest``, or ``as_served``: what the online store had accepted at `position`.
            position: For ``as_served``: the position a response carried.
            full_feature_names: Name outputs ``view__feature``.
            timeout: Seconds for all of it; None waits as long as it takes.

        Returns:
            The training set as it arrives. Errors of the request are raised when it is read.
        """
        bodies = training_requests(
            features,
            spine,
            timestamp=timestamp,
            knowledge=knowledge,
            position=position,
            full_feature_names=full_feature_names,
        )
        return RemoteTrainingSet(
            map(pb.TrainingPart.FromString, self._stream("GetHistoricalFeatures", bodies, timeout))
        )

    def write(self, view: str, columns: Any, *, write_id: bytes = b"") -> Written:
        """Write rows of a view; when this returns they are durable and visible.

        Args:
            view: ``view`` or ``view@v2``.
            columns: Column -> values, all of one length, under the source's names; or an Arrow table.
            write_id: Makes a repeat harmless for seven days, so the client repeats what nobody answered; empty for none.

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
        """Close the connections."""
        self._channel.close()
        if self._stream_channel is not None:
            self._stream_channel.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _streams(self) -> grpc.Channel:
        """Return the connection for streams: the server says once whether it has another port for them."""
        target = self._dialogue.stream_target
        if target is None:
            target = self._run(self._dialogue.find_streams())
        if target == self._dialogue.target:
            return self._channel
        if self._stream_channel is None:
            self._stream_channel = _channel(grpc, target, self._credentials)
        return self._stream_channel

    def _stream(self, method: str, bodies: Iterator[bytes], timeout: float | None = None) -> Iterator[bytes]:
        stub: Any = self._streams().stream_stream(f"/{SERVICE}/{method}")
        call = stub(bodies, timeout=timeout, metadata=self._dialogue.metadata)
        try:
            yield from call
        except grpc.RpcError as error:
            raise self._dialogue.error(error.code(), error.details(), texts(error.trailing_metadata())) from error
        finally:
            call.cancel()  # if the caller stopped reading; a call that has ended takes no notice
        _warn(call.trailing_metadata())

    def _run(self, exchange: Generator[Ask, bytes, _T], channel: grpc.Channel | None = None) -> _T:
        """Carry an exchange, over the connection for calls unless another is given: a plan is known to the worker that was asked."""
        try:
            ask = next(exchange)
            while True:
                try:
                    answer = self._call(ask, channel)
                except FeatureStoreError as error:
                    ask = exchange.throw(error)
                else:
                    ask = exchange.send(answer)
        except StopIteration as end:
            result: _T = end.value
            return result

    def _call(self, ask: Ask, channel: grpc.Channel | None) -> bytes:
        time.sleep(ask.pause)
        stub: Any = channel.unary_unary(f"/{SERVICE}/{ask.method}") if channel else self._methods[ask.method]
        try:
            answer, call = stub.with_call(
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
        self._channel: grpc.aio.Channel = _channel(grpc.aio, target, credentials)
        self._methods: dict[str, Any] = {name: self._channel.unary_unary(f"/{SERVICE}/{name}") for name in _METHODS}
        self._credentials = credentials
        self._stream_channel: grpc.aio.Channel | None = None
        self._make_blocking = partial(
            Client, target, consumer=consumer, token=token, timeout=timeout, credentials=credentials
        )
        self._blocking: Client | None = None

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

    async def stream_online_features(
        self,
        features: str | Sequence[str],
        keys: Mapping[str, Any],
        request: Mapping[str, Any] | None = None,
        *,
        full_feature_names: bool = False,
        rows: int = 1000,
    ) -> AsyncIterator[OnlineRows]:
        """Read the newest features of any number of keys, in one stream; see Client."""
        shape = await self._run(self._dialogue.shape(features, full=full_feature_names), await self._streams())
        async for answer in self._stream("StreamOnlineFeatures", shape.pack_parts(keys, request or {}, rows)):
            yield shape.decoder.decode(answer)

    async def stream_write(self, view: str, parts: Iterable[Any]) -> AsyncIterator[Written]:
        """Write rows as they come; see Client."""
        schema = await self._run(self._dialogue.write_schema(view))
        bodies = (pack_write(schema, view, _columns_of(rows), b"") for rows in parts)
        async for answer in self._stream("StreamWrite", bodies):
            yield _written(answer)

    def get_historical_features(
        self,
        spine: Any,
        features: str | Sequence[str],
        *,
        timestamp: str = "event_timestamp",
        knowledge: str = "as_known",
        position: int = 0,
        full_feature_names: bool = False,
        timeout: float | None = None,
    ) -> AsyncRemoteTrainingSet:
        """Join features onto a spine; see Client. Nothing is asked before the set is read."""
        if self._blocking is None:
            self._blocking = self._make_blocking()
        return AsyncRemoteTrainingSet(
            self._blocking.get_historical_features(
                spine,
                features,
                timestamp=timestamp,
                knowledge=knowledge,
                position=position,
                full_feature_names=full_feature_names,
                timeout=timeout,
            )
        )

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
        """Close the connections."""
        await self._channel.close()
        if self._stream_channel is not None:
            await self._stream_channel.close()
        if self._blocking is not None:
            self._blocking.close()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _streams(self) -> grpc.aio.Channel:
        """Return the connection for streams; see Client."""
        target = self._dialogue.stream_target
        if target is None:
            target = await self._run(self._dialogue.find_streams())
        if target == self._dialogue.target:
            return self._channel
        if self._stream_channel is None:
            self._stream_channel = _channel(grpc.aio, target, self._credentials)
        return self._stream_channel

    async def _stream(self, method: str, bodies: Iterator[bytes]) -> AsyncIterator[bytes]:
        stub: Any = (await self._streams()).stream_stream(f"/{SERVICE}/{method}")
        call = stub(_one_by_one(bodies), metadata=self._dialogue.metadata)
        try:
            async for answer in call:
                yield answer
        except grpc.aio.AioRpcError as error:
            raise self._dialogue.error(error.code(), error.details(), texts(error.trailing_metadata())) from error
        finally:
            call.cancel()
        _warn(await call.trailing_metadata())

    async def _run(self, exchange: Generator[Ask, bytes, _T], channel: grpc.aio.Channel | None = None) -> _T:
        try:
            ask = next(exchange)
            while True:
                try:
                    answer = await self._call(ask, channel)
                except FeatureStoreError as error:
                    ask = exchange.throw(error)
                else:
                    ask = exchange.send(answer)
        except StopIteration as end:
            result: _T = end.value
            return result

    async def _call(self, ask: Ask, channel: grpc.aio.Channel | None) -> bytes:
        await asyncio.sleep(ask.pause)
        stub: Any = channel.unary_unary(f"/{SERVICE}/{ask.method}") if channel else self._methods[ask.method]
        call = stub(ask.body, timeout=ask.timeout, metadata=self._dialogue.metadata, wait_for_ready=ask.wait)
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
        self.stream_target: str | None = None
        self.metadata = tuple((name, value) for name, value in named.items() if value)
        self._timeout = timeout
        self._budget = _RetryBudget()
        self._shapes: dict[tuple[str | tuple[str, ...], bool], ReadShape] = {}
        self._write_schemas: dict[str, pb.WriteSchema] = {}

    def read(
        self, features: str | Sequence[str], keys: Mapping[str, Any], request: Mapping[str, Any], *, full: bool
    ) -> Generator[Ask, bytes, OnlineRows]:
        """Read, with the schema that is known; the registry may change before the read and again before the next one."""
        deadline = self._deadline()
        wanted = (features if isinstance(features, str) else tuple(features), full)
        for _ in range(_STALE_SCHEMAS):
            shape = self._shapes.get(wanted) or (yield from self._fetch_shape(wanted, deadline))
            try:
                return (yield from self._read_with(shape, keys, request, deadline))
            except StaleSchemaError:
                self._shapes.pop(wanted, None)
        shape = yield from self._fetch_shape(wanted, deadline)
        return (yield from self._read_with(shape, keys, request, deadline))

    def write(self, view: str, rows: Any, write_id: bytes) -> Generator[Ask, bytes, Written]:
        """Write; a column that the known schema lacks may have been added since, so it is looked up once more."""
        deadline = self._deadline()
        columns = _columns_of(rows)
        schema = self._write_schemas.get(view)
        if schema is None or {field.column for field in schema.columns} != set(columns):
            schema = yield from self._fetch_write_schema(view, deadline)
        body = pack_write(schema, view, columns, write_id)
        if write_id:  # it is safe to repeat
            return _written((yield from self._ask("Write", body, deadline)))
        return _written((yield self._once("Write", body, deadline)))

    def shape(self, features: str | Sequence[str], *, full: bool) -> Generator[Ask, bytes, ReadShape]:
        """Fetch the schema of a read anew."""
        wanted = (features if isinstance(features, str) else tuple(features), full)
        return (yield from self._fetch_shape(wanted, self._deadline()))

    def write_schema(self, view: str) -> Generator[Ask, bytes, pb.WriteSchema]:
        """Fetch the columns of a view's rows anew."""
        return (yield from self._fetch_write_schema(view, self._deadline()))

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

    def find_streams(self) -> Generator[Ask, bytes, str]:
        """Ask which port streams are served on, and return their target."""
        port = pb.ServerStatus.FromString((yield from self._ask("GetStatus", b"", self._deadline()))).stream_port
        host = self.target.rpartition(":")[0]
        self.stream_target = f"{host}:{port}" if port else self.target
        return self.stream_target

    def error(self, code: grpc.StatusCode, text: str | None, trailers: Mapping[str, str]) -> FeatureStoreError:
        """Return the error that a failed call stands for."""
        return error_of(code, text or "", trailers, self.target)

    def _read_with(
        self, shape: ReadShape, keys: Mapping[str, Any], request: Mapping[str, Any], deadline: float
    ) -> Generator[Ask, bytes, OnlineRows]:
        body = shape.pack(keys, request)
        return shape.decoder.decode((yield from self._ask("GetOnlineFeatures", body, deadline)))

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

    def _fetch_write_schema(self, view: str, deadline: float) -> Generator[Ask, bytes, pb.WriteSchema]:
        body = pb.WriteSchemaRequest(view=view).SerializeToString()
        answer = yield from self._ask("GetWriteSchema", body, deadline)
        schema = self._write_schemas[view] = pb.WriteSchema.FromString(answer)
        return schema

    def _ask(self, method: str, body: bytes, deadline: float) -> Generator[Ask, bytes, bytes]:
        """Ask, and once more when no server answered, or a busy one said when to come again, as far as the budget goes.

        Only for what is safe to repeat.
        """
        self._budget.earn()
        try:
            return (yield self._once(method, body, deadline))
        except UnavailableError as error:
            pause = _pause_after(error)
            if pause is None or time.monotonic() + pause >= deadline or not self._budget.spend():
                raise
            try:
                return (yield self._once(method, body, deadline - pause, wait=True, pause=pause))
            except DeadlineExceededError:  # it only waited for a connection: the first error says more
                raise error from None

    def _once(self, method: str, body: bytes, deadline: float, *, wait: bool = False, pause: float = 0.0) -> Ask:
        return Ask(method, body, max(0.0, deadline - time.monotonic()), wait, pause)

    def _deadline(self) -> float:
        return time.monotonic() + self._timeout


def _pause_after(error: UnavailableError) -> float | None:
    """Return the seconds to wait before a call is repeated, or None when that would not help.

    The server's word is stretched by chance up to twice, so that those it sent away do not come back together.
    """
    if isinstance(error, ResourceExhaustedError) and error.retry_after is not None:
        return error.retry_after * random.uniform(1, 2)  # noqa: S311  # nothing secret
    return 0.0 if type(error) is UnavailableError else None


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
    if getattr(values, "ndim", 1) == 2 and hasattr(values, "tobytes"):  # a NumPy matrix: each row is a vector or a list
        return list(values)
    for convert in ("to_pylist", "tolist", "to_list"):
        if hasattr(values, convert):
            values = getattr(values, convert)()
    if not isinstance(values, list | tuple):
        raise InvalidArgumentError(
            f"Expected a list of values, got {type(values).__name__} {values!r:.80}.", place=place
        )
    return values


def _written(answer: bytes) -> Written:
    reply = pb.WriteReply.FromString(answer)
    return Written(
        reply.accepted, reply.repeated_rows, reply.parked, reply.first_seq, reply.last_seq, tuple(reply.warnings)
    )


async def _one_by_one(bodies: Iterator[bytes]) -> AsyncIterator[bytes]:
    for body in bodies:
        yield body


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


def _channel(library: Any, target: str, credentials: grpc.ChannelCredentials | None) -> Any:
    """Return a channel of grpc or grpc.aio."""
    if credentials is None:
        return library.insecure_channel(target, options=_OPTIONS)
    return library.secure_channel(target, credentials, options=_OPTIONS)


def _hint(name: str, available: Iterable[str]) -> str:
    near = nearest_name(name, available)
    return f" Did you mean '{near}'?" if near else ""


def _warn(metadata: Any) -> None:
    for name, value in metadata or ():
        if name == "fs-warning":
            warnings.warn(unquote(value), UserWarning, stacklevel=5)
