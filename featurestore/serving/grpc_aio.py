"""The reference transport: grpc.aio, with health and reflection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from featurestore.serving.access import SERVICE
from featurestore.serving.call import Call, Handler, Reply, monotonic_micros
from featurestore.serving.settings import MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES

_ENVELOPE = 64 << 10
_OPTIONS = (
    ("grpc.so_reuseport", 1),
    ("grpc.max_send_message_length", MAX_RESPONSE_BYTES + _ENVELOPE),
    ("grpc.max_metadata_size", 8 << 10),
    ("grpc.absolute_max_metadata_size", 16 << 10),
    # grpc refuses streams over this limit (UNAVAILABLE) when many arrive at once, so it is above what one client has in flight.
    ("grpc.max_concurrent_streams", 1000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 2),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_connection_idle_ms", 300_000),
    ("grpc.max_connection_age_ms", 1_800_000),
    ("grpc.max_connection_age_grace_ms", 30_000),
)
_CODES = {code.name: code for code in grpc.StatusCode}


class GrpcAioTransport:
    """Serves handlers over grpc.aio.

    Args:
        handlers: Handlers by method path.
        public: Whether to serve health and reflection beside them.
        max_request_bytes: Larger messages are refused by the transport. By default it lets through somewhat more than handlers do,
            whose refusal says more.

    Attributes:
        name: What the conformance suite calls it.
    """

    name = "grpc_aio"

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        *,
        public: bool = True,
        max_request_bytes: int = 2 * MAX_REQUEST_BYTES,
    ) -> None:
        self._options = (*_OPTIONS, ("grpc.max_receive_message_length", max_request_bytes))
        self._handlers = _GenericHandlers(handlers)
        self._server: grpc.aio.Server | None = None
        self._health = health.aio.HealthServicer() if public else None

    async def start(self, address: str, *, certificate: Path | None = None, key: Path | None = None) -> int:
        """Listen, and return the port (1 for a Unix socket).

        Args:
            address: ``host:port``, where port 0 takes a free one, or ``unix:/path``.
            certificate: PEM file with the chain; None serves plain text.
            key: PEM file with its key.
        """
        server = self._server = grpc.aio.server(options=self._options)
        server.add_generic_rpc_handlers((self._handlers,))
        if self._health is not None:
            health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
            await self._health.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
            names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        if certificate is not None and key is not None:
            pair = (await asyncio.to_thread(key.read_bytes), await asyncio.to_thread(certificate.read_bytes))
            port = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        else:
            port = server.add_insecure_port(address)
        await server.start()
        return port

    async def drain(self, seconds: float) -> None:
        """Take no more calls, let those in flight finish for so many seconds, and stop."""
        if self._server is None:
            return
        if self._health is not None:
            await self._health.enter_graceful_shutdown()
        await self._server.stop(seconds)


class _GenericHandlers(grpc.GenericRpcHandler):
    """Finds the handler of a method; bytes go in and out as they are."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._methods: dict[str, Any] = {
            path: grpc.unary_unary_rpc_method_handler(_unary(path, handle)) for path, handle in handlers.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a call, or None for a method that is not there."""
        return self._methods.get(handler_call_details.method)


def _unary(path: str, handle: Handler) -> Callable[[bytes, Any], Awaitable[bytes]]:
    async def answer(body: bytes, context: Any) -> bytes:
        remaining = context.time_remaining()
        metadata = {name: value for name, value in context.invocation_metadata() if isinstance(value, str)}
        deadline = None if remaining is None else monotonic_micros() + int(remaining * 1e6)
        reply = handle(Call(path, metadata, peer_host(context.peer()), deadline), body)
        if not isinstance(reply, Reply):
            reply = await reply
        if reply.code != "OK":
            await context.abort(_CODES[reply.code], reply.message, reply.trailers)
        if reply.trailers:
            context.set_trailing_metadata(reply.trailers)
        return reply.body

    return answer


def peer_host(peer: str) -> str:
    """Return the host of a gRPC peer.

    >>> peer_host("ipv4:10.0.0.7:40123"), peer_host("ipv6:%5B::1%5D:40123"), peer_host("unix:")
    ('10.0.0.7', '::1', 'unix')
    """
    kind, _, rest = peer.partition(":")
    return kind if kind == "unix" else unquote(rest.rpartition(":")[0]).strip("[]")
