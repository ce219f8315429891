"""The same methods as JSON over HTTP: a JSON body becomes the message that the handler takes, and its answer becomes JSON.

Numbers keep their exact values; instants are ISO 8601 in UTC, binary is base64, decimals are text, and a double that JSON has no number
for is ``"NaN"``, ``"Infinity"`` or ``"-Infinity"``.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import math
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar
from urllib.parse import unquote

import msgspec
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from starlette.exceptions import HTTPException

from featurestore.client import ReadShape, pack_write
from featurestore.decoding import OnlineRows, decode
from featurestore.errors import FeatureStoreError, InvalidArgumentError, ResourceExhaustedError, nearest_name
from featurestore.serving.access import ROUTES, SERVICE
from featurestore.serving.admission import Admission
from featurestore.serving.call import Call, Handler, Reply
from featurestore.serving.json_bodies import (
    Answer,
    Body,
    ClockAnswer,
    ClockBody,
    Column,
    Columns,
    ErrorAnswer,
    ErrorFacts,
    KeySet,
    Output,
    ReadBody,
    RowsAnswer,
    SchemaAnswer,
    SchemaBody,
    StatusAnswer,
    Value,
    WriteAnswer,
    WriteBody,
    WriteSchemaAnswer,
    WriteSchemaBody,
)
from featurestore.serving.openapi import JSON, PROMETHEUS, document, page
from featurestore.serving.settings import MAX_REQUEST_BYTES, ServeSettings, is_loopback
from featurestore.serving.status import HTTP_OF, Guard, error_reply
from featurestore.types import DType, instant, to_micros
from featurestore.v1 import serving_pb2 as pb

_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)
_MOST_WAITING = 4  # questions of lineage
_ROUTING = {404: "NOT_FOUND", 405: "UNIMPLEMENTED"}
# The page of the routes: whatever it were made to say, it loads nothing and runs nothing.
_CLOSED = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
    "x-content-type-options": "nosniff",
}

_BodyType = TypeVar("_BodyType", bound=Body)


class JsonHandlers:
    """Handlers whose bodies are JSON, on top of those whose bodies are messages.

    Args:
        methods: The handlers of the service by method path.
        guard: Turns what goes wrong into replies.
    """

    def __init__(self, methods: Mapping[str, Handler], guard: Guard) -> None:
        self._methods = methods
        self._guard = guard

    def methods(self) -> Mapping[str, Handler]:
        """Return the handlers by route."""
        handlers: Mapping[str, Callable[[Call, bytes], Any]] = {
            "GetSchema": self.get_schema,
            "GetOnlineFeatures": self.get_online_features,
            "GetWriteSchema": self.get_write_schema,
            "Write": self.write,
            "AdvanceClock": self.advance_clock,
            "GetStatus": self.get_status,
        }
        return {route: self._guard.wrap(handlers[rpc]) for route, rpc in ROUTES.items()}

    async def get_schema(self, call: Call, body: bytes) -> Reply:
        """Return the shape of an answer."""
        reply = await self._ask("GetSchema", call, _schema_request(_parse(SchemaBody, body)))
        return reply if reply.code != "OK" else _json(_schema(pb.Schema.FromString(reply.body)))

    async def get_online_features(self, call: Call, body: bytes) -> Reply:
        """Return features as columns."""
        asked = _parse(ReadBody, body)
        reply = await self._ask("GetSchema", call, _schema_request(asked))
        if reply.code != "OK":
            return reply
        shape = ReadShape.of(pb.Schema.FromString(reply.body))
        keys = _from_json(dict(shape.keys), asked.keys, "$.keys")
        packed = shape.pack(keys, _from_json(dict(shape.request), asked.request, "$.request"))
        reply = await self._ask("GetOnlineFeatures", call, packed)
        return reply if reply.code != "OK" else _json(_rows(decode(shape.schema, reply.body)), reply.trailers)

    async def get_write_schema(self, call: Call, body: bytes) -> Reply:
        """Return the columns that rows of a view have."""
        view = _parse(WriteSchemaBody, body).view
        reply = await self._ask("GetWriteSchema", call, pb.WriteSchemaRequest(view=view).SerializeToString())
        if reply.code != "OK":
            return reply
        schema = pb.WriteSchema.FromString(reply.body)
        return _json(WriteSchemaAnswer(view=schema.view, columns=_columns(schema.columns)))

    async def write(self, call: Call, body: bytes) -> Reply:
        """Accept rows."""
        asked = _parse(WriteBody, body)
        reply = await self._ask("GetWriteSchema", call, pb.WriteSchemaRequest(view=asked.view).SerializeToString())
        if reply.code != "OK":
            return reply
        schema = pb.WriteSchema.FromString(reply.body)
        rows = _from_json({field.column: DType(field.dtype) for field in schema.columns}, asked.rows, "$.columns")
        reply = await self._ask("Write", call, pack_write(schema, asked.view, rows, asked.write_id.encode()))
        if reply.code != "OK":
            return reply
        done = pb.WriteReply.FromString(reply.body)
        return _json(
            WriteAnswer(
                accepted=done.accepted,
                repeated=done.repeated_rows,
                parked=done.parked,
                first_seq=done.first_seq,
                last_seq=done.last_seq,
                warnings=list(done.warnings),
            )
        )

    async def advance_clock(self, call: Call, body: bytes) -> Reply:
        """Move the replay clock."""
        asked = _parse(ClockBody, body).time
        try:
            instant = to_micros(asked)
        except ValueError as error:
            raise InvalidArgumentError(f"'{asked}' is not an instant.", place="$.time") from error
        reply = await self._ask("AdvanceClock", call, pb.AdvanceClockRequest(time=instant).SerializeToString())
        return reply if reply.code != "OK" else _json(_clock(pb.Clock.FromString(reply.body)))

    async def get_status(self, call: Call, _: bytes) -> Reply:
        """Return the store's clock and revision."""
        reply = await self._ask("GetStatus", call, b"")
        if reply.code != "OK":
            return reply
        status = pb.ServerStatus.FromString(reply.body)
        return _json(
            StatusAnswer(
                clock=_clock(status.clock),
                revision=status.revision,
                project=status.project,
                environment=status.environment,
                internal_errors=status.internal_errors,
            )
        )

    async def _ask(self, rpc: str, call: Call, body: bytes) -> Reply:
        reply = self._methods[f"/{SERVICE}/{rpc}"](call, body)
        return reply if isinstance(reply, Reply) else await reply


def http_app(
    methods: Mapping[str, Handler],
    guard: Guard,
    settings: ServeSettings,
    *,
    metrics: Handler,
    is_ready: Callable[[], bool],
    admission: Admission | None = None,
    admit: Handler | None = None,
    lineage: Callable[[Callable[..., Any]], APIRouter] | None = None,
) -> FastAPI:
    """Return the HTTP application.

    Args:
        methods: The handlers of the service by method path.
        guard: Turns what goes wrong into replies.
        settings: The server's settings.
        metrics: Answers with the server's numbers as text.
        is_ready: Whether calls are taken; False while draining.
        admission: Says whether there is time for one more call; None always has some.
        admit: Answers whether a caller may call a route; without it there are no routes of lineage.
        lineage: Makes the routes of lineage, as `featurestore.asking` does; None has none.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=_hosts(settings))
    for route, handler in JsonHandlers(methods, guard).methods().items():
        verb, _, path = route.partition(" ")
        app.add_api_route(path, _endpoint(route, handler, admission), methods=[verb])
    app.add_api_route("/metrics", _endpoint("GET /metrics", metrics, admission, PROMETHEUS), methods=["GET"])
    described = document()
    app.add_api_route("/openapi.json", _constant(msgspec.json.encode(described), JSON), methods=["GET"])
    app.add_api_route("/docs", _constant(page(described).encode(), "text/html; charset=utf-8"), methods=["GET"])
    app.add_api_route("/healthz", _health(lambda: True), methods=["GET"])
    app.add_api_route("/readyz", _health(is_ready), methods=["GET"])
    if lineage is not None and admit is not None:
        app.router.routes.extend(lineage(_authorizing(admit)).routes)
        app.add_exception_handler(_RefusedError, _refused)
    app.add_exception_handler(HTTPException, _unrouted(sorted(declared_routes(app))))
    return app


class _RefusedError(Exception):
    """A caller who may not call, with the reply that says so."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.message)
        self.reply = reply


class _Turns:
    """Lets one question through at a time while a few wait: workers have reads to answer. It belongs to one event loop."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(1)
        self._there = 0

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        if self._there > _MOST_WAITING:
            error = ResourceExhaustedError(
                f"{self._there} questions of lineage are asked at once.",
                repair="Ask again a little later, or run `lineage`.",
                retry_after=1.0,
            )
            raise _RefusedError(error_reply(error))
        self._there += 1
        try:
            async with self._turn:
                yield
        finally:
            self._there -= 1


def _authorizing(admit: Handler) -> Callable[[Request], AsyncIterator[None]]:
    """Return the dependency of routes that have no handler of their own: it admits who calls, and questions one by one."""
    turns = _Turns()

    async def authorize(request: Request) -> AsyncIterator[None]:
        route = f"{request.method} {request.scope['route'].path}"
        reply = admit(Call(route, dict(request.headers), request.client.host if request.client else ""), b"")
        assert isinstance(reply, Reply)  # whoever admits does not wait
        if reply.code != "OK":
            raise _RefusedError(reply)
        if request.method != "GET":  # a body may come slowly
            yield
            return
        async with turns.one():
            yield

    return authorize


def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, _RefusedError)
    return _response(error.reply)


def declared_routes(app: FastAPI) -> set[str]:
    """Return every route of an application as `access.METHODS` names it."""
    return {
        f"{verb} {route.path}"  # type: ignore[attr-defined]  # HTTP routes have both
        for route in app.routes
        for verb in route.methods - {"HEAD"}  # type: ignore[attr-defined]  # likewise
    }


def _endpoint(
    route: str, handler: Handler, admission: Admission | None, media_type: str = JSON
) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        if admission is not None and not admission.admits():
            return _response(error_reply(admission.refusal()))
        call = Call(route, dict(request.headers), request.client.host if request.client else "")
        try:
            body = await _body_of(request)
        except FeatureStoreError as error:
            return _response(error_reply(error))
        reply = handler(call, body)
        return _response(reply if isinstance(reply, Reply) else await reply, media_type)

    return endpoint


def _unrouted(routes: Sequence[str]) -> Callable[[Request, Exception], Response]:
    """Return what answers a request that no route takes, in the form of every other error."""

    def answer(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        asked = f"{request.method} {request.url.path}"
        near = nearest_name(asked, routes)
        code = _ROUTING.get(error.status_code, "INVALID_ARGUMENT")
        message = f"No route {asked[:200]}." + (f" Did you mean {near}?" if near else "")
        content = _error(ErrorFacts(code=code, message=message, nearest=near or ""))
        return Response(content, error.status_code, error.headers, JSON)

    return answer


def _constant(content: bytes, media_type: str) -> Callable[[], Any]:
    async def answer() -> Response:
        return Response(content, headers=_CLOSED, media_type=media_type)

    return answer


def _health(is_well: Callable[[], bool]) -> Callable[[], Any]:
    async def health() -> Response:
        return Response(status_code=200 if is_well() else 503)

    return health


async def _body_of(request: Request) -> bytes:
    """Return the body, which must say that it is JSON: a page of another origin cannot send that without asking first."""
    if request.method == "GET":
        return b""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise InvalidArgumentError("The body must be JSON.", repair="Send `content-type: application/json`.")
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_REQUEST_BYTES:
            raise ResourceExhaustedError(
                f"The request has more than {MAX_REQUEST_BYTES} bytes.", repair="Send it in parts."
            )
        parts.append(part)
    return b"".join(parts)


def _response(reply: Reply, media_type: str = JSON) -> Response:
    """Return the HTTP form of a reply: errors as JSON, trailers as headers."""
    response = Response(*_content(reply), media_type=media_type if reply.code == "OK" else JSON)
    for name, value in reply.trailers:  # there may be several of one name
        response.headers.append(name, value)
    return response


def _content(reply: Reply) -> tuple[bytes, int]:
    """Return the body and the HTTP status."""
    if reply.code == "OK":
        return reply.body, 200
    trailers = dict(reply.trailers)
    facts = {
        name: unquote(trailers[f"fs-{name}"]) for name in ("place", "nearest", "repair") if f"fs-{name}" in trailers
    }
    return _error(ErrorFacts(code=reply.code, message=reply.message, **facts)), HTTP_OF.get(reply.code, 500)


def _error(facts: ErrorFacts) -> bytes:
    return msgspec.json.encode(ErrorAnswer(error=facts))


def _json(answer: Answer, trailers: tuple[tuple[str, str], ...] = ()) -> Reply:
    return Reply(msgspec.json.encode(answer), trailers=trailers)


def _parse(kind: type[_BodyType], body: bytes) -> _BodyType:
    try:
        return msgspec.json.decode(body or b"{}", type=kind, strict=True)
    except msgspec.DecodeError as error:
        unknown = _UNKNOWN_FIELD.match(str(error))
        if unknown is None:
            raise InvalidArgumentError(f"{error}.") from error
        fields = kind.__struct_fields__
        near = nearest_name(unknown["name"], fields)
        hint = f"Did you mean '{near}'?" if near else f"There is: {', '.join(fields)}."
        raise InvalidArgumentError(f"No field '{unknown['name']}' in the request. {hint}", place="$") from error


def _schema_request(asked: SchemaBody) -> bytes:
    message = pb.SchemaRequest(
        service=asked.service, features=asked.features, full_feature_names=asked.full_feature_names
    )
    return message.SerializeToString()


def _from_json(types: Mapping[str, DType], columns: Columns, place: str) -> dict[str, list[Any]]:
    """Return JSON columns as Python values; columns that are not declared stay as they are, to be refused by name."""
    return {
        name: [_python(types[name], value, f"{place}.{name}[{i}]") for i, value in enumerate(values)]
        if name in types
        else list(values)
        for name, values in columns.items()
    }


def _python(dtype: DType, value: Value, place: str) -> Any:
    """Return the Python value that a JSON value stands for; what fits no rule stays, to be refused by its type."""
    if dtype.is_nested:
        return _nested(dtype, value, place)
    read = _READ.get(dtype.family)
    if read is None or not isinstance(value, str):
        return value
    try:
        return read(value)
    except (ValueError, InvalidOperation, binascii.Error) as error:
        raise InvalidArgumentError(f"'{value[:80]}' is not a {dtype}.", place=place) from error


def _nested(dtype: DType, value: Any, place: str) -> Any:
    """Return a nested value with every part read by its own type."""
    if isinstance(value, list) and dtype.family != "struct":
        return [_python(dtype.element, item, f"{place}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict) and dtype.family == "struct":
        fields = dict(dtype.fields)
        return {
            name: _python(fields[name], item, f"{place}.{name}") if name in fields else item
            for name, item in value.items()
        }
    return value


def _double(text: str) -> float | str:
    return float(text) if text in {"NaN", "Infinity", "-Infinity"} else text


_READ: Mapping[str, Callable[[str], Any]] = {
    "timestamp": to_micros,
    "date": date.fromisoformat,
    "binary": lambda text: base64.b64decode(text, validate=True),
    "decimal": Decimal,
    "float32": _double,
    "float64": _double,
}


def _number(value: Any) -> Any:
    """Return a value with every number that JSON lacks as text."""
    if isinstance(value, list):
        return [_number(item) for item in value]
    if isinstance(value, dict):
        return {name: _number(item) for name, item in value.items()}
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _rows(rows: OnlineRows) -> RowsAnswer:
    return RowsAnswer(
        features={name: [_number(value) for value in values] for name, values in rows.to_dict().items()},
        statuses={name: status.tolist() for name, status in rows.status.items()},
        event_times={
            name: [
                instant(micros) if status in {"PRESENT", "NULL"} else None
                for micros, status in zip(times.tolist(), rows.status[name].tolist(), strict=True)
            ]
            for name, times in rows.event_time.items()
        },
        time=instant(rows.time),
        position=rows.position,
        versions={name: rows.versions(name) for name in rows.in_flight},
    )


def _schema(schema: pb.Schema) -> SchemaAnswer:
    return SchemaAnswer(
        fingerprint=schema.fingerprint.hex(),
        revision=schema.revision,
        keys=[KeySet(entity=key_set.entity, columns=_columns(key_set.fields)) for key_set in schema.key_sets],
        request=_columns(schema.request),
        features=[Output(name=f.name, ref=f.ref, dtype=f.dtype) for f in schema.features],
    )


def _columns(fields: Iterable[pb.KeyField]) -> list[Column]:
    return [Column(column=field.column, dtype=field.dtype) for field in fields]


def _clock(clock: pb.Clock) -> ClockAnswer:
    return ClockAnswer(time=instant(clock.time), replay=clock.replay)


def _hosts(settings: ServeSettings) -> list[str]:
    """Return the names under which the server may be called: in local mode a foreign name is a page's trick."""
    return ["localhost", "127.0.0.1", "[::1]", settings.host] if is_loopback(settings.host) else ["*"]
