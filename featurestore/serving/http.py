"""The same methods as JSON over HTTP: a JSON body becomes the message that the handler takes, and its answer becomes JSON.

Numbers keep their exact values; instants are ISO 8601 in UTC, binary is base64, decimals are text, and a double that JSON has no number
for is ``"NaN"``, ``"Infinity"`` or ``"-Infinity"``.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Any
from urllib.parse import unquote

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.middleware.trustedhost import TrustedHostMiddleware

from featurestore.client import ReadShape, pack_columns, pack_write
from featurestore.decoding import OnlineRows, decode
from featurestore.errors import InvalidArgumentError, ResourceExhaustedError
from featurestore.serving.access import METHODS, ROUTES, SERVICE
from featurestore.serving.call import Call, Handler, Reply
from featurestore.serving.settings import MAX_REQUEST_BYTES, ServeSettings, is_loopback
from featurestore.serving.status import HTTP_OF, Guard
from featurestore.types import DType, from_micros, to_micros
from featurestore.v1 import serving_pb2 as pb

Value = str | int | float | bool | None
Columns = dict[str, list[Value]]


class _Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request as JSON; an unknown field is refused."""


class SchemaBody(_Body, frozen=True):
    """What to read: a service, or references."""

    service: str = ""
    features: tuple[str, ...] = ()
    full_feature_names: bool = False


class ReadBody(SchemaBody, frozen=True):
    """What to read, and for which keys; `request` is data for on-demand features."""

    keys: Columns = {}
    request: Columns = {}


class WriteSchemaBody(_Body, frozen=True):
    """The view whose columns are asked for."""

    view: str


class WriteBody(WriteSchemaBody, frozen=True):
    """Rows of a view as columns, under the source's names."""

    rows: Columns
    write_id: str = ""


class ClockBody(_Body, frozen=True):
    """The instant to move the replay clock to: ISO 8601, or microseconds since 1970 UTC."""

    time: str | int


_BODIES: Mapping[str, type[_Body]] = {
    "GetSchema": SchemaBody,
    "GetOnlineFeatures": ReadBody,
    "GetWriteSchema": WriteSchemaBody,
    "Write": WriteBody,
    "AdvanceClock": ClockBody,
}


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
        return reply if reply.code != "OK" else _json(_schema_facts(pb.Schema.FromString(reply.body)))

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
        return reply if reply.code != "OK" else _json(_rows_facts(decode(shape.schema, reply.body)), reply.trailers)

    async def get_write_schema(self, call: Call, body: bytes) -> Reply:
        """Return the columns that rows of a view have."""
        view = _parse(WriteSchemaBody, body).view
        reply = await self._ask("GetWriteSchema", call, pb.WriteSchemaRequest(view=view).SerializeToString())
        if reply.code != "OK":
            return reply
        schema = pb.WriteSchema.FromString(reply.body)
        return _json({"view": schema.view, "columns": _fields(schema.columns)})

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
        facts = {"accepted": done.accepted, "repeated": done.repeated_rows, "parked": done.parked}
        return _json({**facts, "first_seq": done.first_seq, "last_seq": done.last_seq, "warnings": list(done.warnings)})

    async def advance_clock(self, call: Call, body: bytes) -> Reply:
        """Move the replay clock."""
        asked = _parse(ClockBody, body).time
        try:
            instant = to_micros(asked)
        except ValueError as error:
            raise InvalidArgumentError(f"'{asked}' is not an instant.", place="$.time") from error
        reply = await self._ask("AdvanceClock", call, pb.AdvanceClockRequest(time=instant).SerializeToString())
        return reply if reply.code != "OK" else _json(_clock_facts(pb.Clock.FromString(reply.body)))

    async def get_status(self, call: Call, _: bytes) -> Reply:
        """Return the store's clock and revision."""
        reply = await self._ask("GetStatus", call, b"")
        if reply.code != "OK":
            return reply
        status = pb.ServerStatus.FromString(reply.body)
        return _json(
            {
                "clock": _clock_facts(status.clock),
                "revision": status.revision,
                "project": status.project,
                "environment": status.environment,
                "internal_errors": status.internal_errors,
            }
        )

    async def _ask(self, rpc: str, call: Call, body: bytes) -> Reply:
        reply = self._methods[f"/{SERVICE}/{rpc}"](call, body)
        return reply if isinstance(reply, Reply) else await reply


def http_app(methods: Mapping[str, Handler], guard: Guard, settings: ServeSettings, *, is_ready: Callable[[], bool]) -> FastAPI:
    """Return the HTTP application.

    Args:
        methods: The handlers of the service by method path.
        guard: Turns what goes wrong into replies.
        settings: The server's settings.
        is_ready: Whether calls are taken; False while draining.
    """
    app = FastAPI(title="featurestore", docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=_hosts(settings))
    for route, handler in JsonHandlers(methods, guard).methods().items():
        verb, _, path = route.partition(" ")
        body = _BODIES.get(ROUTES[route])
        extra = {"requestBody": {"content": {"application/json": {"schema": _json_schema(body)}}}} if body else None
        app.add_api_route(path, _endpoint(route, handler), methods=[verb], name=ROUTES[route], openapi_extra=extra)
    app.add_api_route("/healthz", _health(lambda: True), methods=["GET"], name="alive")
    app.add_api_route("/readyz", _health(is_ready), methods=["GET"], name="ready")
    return app


def declared_routes(app: FastAPI) -> set[str]:
    """Return every route of an application as `access.METHODS` names it."""
    return {
        f"{verb} {route.path}"  # type: ignore[attr-defined]  # HTTP routes have both
        for route in app.routes
        for verb in route.methods - {"HEAD"}  # type: ignore[attr-defined]  # likewise
    }


def _endpoint(route: str, handler: Handler) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        metadata = {name: value for name, value in request.headers.items()}
        call = Call(route, metadata, request.client.host if request.client else "")
        try:
            body = await _body_of(request)
        except (InvalidArgumentError, ResourceExhaustedError) as error:
            return _response(_refusal(error))
        reply = handler(call, body)
        return _response(reply if isinstance(reply, Reply) else await reply)

    return endpoint
