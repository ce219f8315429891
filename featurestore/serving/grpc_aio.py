"""The reference transport: grpc.aio, with health and reflection."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from featurestore.serving.access import SERVICE
from featurestore.serving.admission import Admission
from featurestore.serving.call import Call, Handler, Reply, StreamHandler, monotonic_micros
from featurestore.serving.settings import MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES, TlsFiles
from featurestore.serving.status import Refusals

_ENVELOPE = 64 << 10
_PROBE_SECONDS, _MOST_PROBES = 0.02, 64
_PROBE_FOLDER = "featurestore-probe-"
_QUEUE_SECONDS = 1.0
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
        streams: Handlers of streams by method path.
        public: Whether to serve health and reflection beside them.
        admission: Says whether there is time for one more call that is answered without waiting; None always has some.
        max_request_bytes: Larger messages are refused by the transport. By default it lets through somewhat more than handlers do,
            whose refusal says more.

    Attributes:
        name: What the conformance suite calls it.
        supports: What of the suite it does by itself.
        new_event_loop: Makes the event loop that it runs on.
    """

    name = "grpc_aio"
    supports = frozenset({"unary", "streams", "health", "reflection", "tls"})
    new_event_loop = staticmethod(asyncio.new_event_loop)

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        streams: Mapping[str, StreamHandler] | None = None,
        *,
        public: bool = True,
        admission: Admission | None = None,
        max_request_bytes: int = 2 * MAX_REQUEST_BYTES,
    ) -> None:
        self._options = (*_OPTIONS, ("grpc.max_receive_message_length", max_request_bytes))
        self._admission = admission
        self._probe: _Probe | None = None
        self._probing: asyncio.Task[None] | None = None
        self._handlers = _GenericHandlers(handlers, streams or {}, admission)
        self._server: grpc.aio.Server | None = None
        self._health = health.aio.HealthServicer() if public else None

    async def start(self, address: str, *, tls: TlsFiles | None = None) -> int:
        """Listen, and return the port (1 for a Unix socket).

        Args:
            address: ``host:port``, where port 0 takes a free one, or ``unix:/path``.
            tls: Certificate and key; new connections get those that lie there by then. None serves plain text.
        """
        server = self._server = grpc.aio.server(options=self._options)
        server.add_generic_rpc_handlers((self._handlers,))
        if self._health is not None:
            health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
            await self._health.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
            names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        if tls is not None:
            port = server.add_secure_port(address, await asyncio.to_thread(_credentials, tls))
        else:
            port = server.add_insecure_port(address)
        self._probe = _Probe(server, self._admission)
        await server.start()
        if self._admission is not None:
            self._probing = asyncio.ensure_future(self._probe.run())
        return port

    async def drain(self, seconds: float) -> None:
        """Take no more calls, let those in flight finish for so many seconds, and stop.

        grpc cancels calls that it has received and nobody has asked it for (grpc issue 41785). So calls are taken in for a moment without
        being answered, until a probe finds nobody before it; then clients are told to connect anew, and everybody is answered.
        """
        if self._server is None or self._probe is None:
            return
        if self._health is not None:
            await self._health.enter_graceful_shutdown()
        if self._probing is not None:
            self._probing.cancel()
        self._handlers.turn.clear()
        for _ in range(2):  # whoever was answered just before has asked anew by the second
            await self._probe.passed(min(seconds, _QUEUE_SECONDS))
        self._probe.close()
        stopping = asyncio.ensure_future(self._server.stop(seconds))
        await asyncio.sleep(0)  # the stop has begun then
        self._handlers.turn.set()
        await stopping


class _GenericHandlers(grpc.GenericRpcHandler):
    """Finds the handler of a method; bytes go in and out as they are.

    Attributes:
        turn: Whether calls are answered; else they are taken in and wait.
    """

    def __init__(
        self, handlers: Mapping[str, Handler], streams: Mapping[str, StreamHandler], admission: Admission | None
    ) -> None:
        self._admission = admission
        self._refusals = Refusals(admission or Admission())
        self.turn = asyncio.Event()
        self.turn.set()
        self._at_once = {path for path, handle in handlers.items() if not iscoroutinefunction(handle)}
        self._methods: dict[str, Any] = {
            path: grpc.unary_unary_rpc_method_handler(_unary(path, handle, self.turn))
            for path, handle in handlers.items()
        }
        self._methods |= {
            path: grpc.stream_stream_rpc_method_handler(_stream(path, handle, self.turn))
            for path, handle in streams.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a call, or None for a method that is not there; nothing of the call's body has been read yet."""
        method = handler_call_details.method
        if self._admission is None or method not in self._at_once or self._admission.admits():
            return self._methods.get(method)
        return _refusing(self._refusals.reply())


class _Probe:
    """Learns how long calls wait before anything of them is seen: it sends one now and then, to a socket of its own.

    grpc.aio takes calls one by one off a queue that nothing tells about, so a call is the only way to know how long it is.
    """

    PATH = "/featurestore.Probe/Wait"

    def __init__(self, server: grpc.aio.Server, admission: Admission | None) -> None:
        self._admission = admission
        _remove_dead_probes()
        self._folder = tempfile.TemporaryDirectory(prefix=f"{_PROBE_FOLDER}{os.getpid()}-")  # for its owner alone
        self._address = f"unix:{self._folder.name}/probe.sock"
        server.add_insecure_port(self._address)
        server.add_generic_rpc_handlers((_ProbeHandler(self._arrived),))
        self._sent: deque[int] = deque()  # when those were sent that have not arrived

    async def run(self) -> None:
        """Send probes until cancelled."""
        async with grpc.aio.insecure_channel(self._address) as channel, asyncio.TaskGroup() as probes:
            while True:
                if len(self._sent) < _MOST_PROBES:
                    probes.create_task(self._send(channel))
                await asyncio.sleep(_PROBE_SECONDS)

    async def passed(self, seconds: float) -> None:
        """Wait, for so many seconds at most, until everything that waits now has had its turn."""
        async with grpc.aio.insecure_channel(self._address) as channel:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._send(channel), seconds)

    async def _send(self, channel: grpc.aio.Channel) -> None:
        self._sent.append(time.monotonic_ns())
        method: Any = channel.unary_unary(self.PATH)
        try:
            await method(b"")
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:  # it did not arrive, and others may not have
                self._sent.clear()

    def close(self) -> None:
        """Remove the socket."""
        self._folder.cleanup()

    def _arrived(self) -> None:
        if self._sent:
            waited = time.monotonic_ns() - self._sent.popleft()
            if self._admission is not None:
                self._admission.note(waited)


def _remove_dead_probes() -> None:
    """Remove the folders of processes that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PROBE_FOLDER}*"):
        process = folder.name.removeprefix(_PROBE_FOLDER).partition("-")[0]
        if not Path("/proc", process).exists():
            shutil.rmtree(folder, ignore_errors=True)


class _ProbeHandler(grpc.GenericRpcHandler):
    def __init__(self, arrived: Callable[[], None]) -> None:
        self._arrived = arrived

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> None:
        """Notice a probe; whatever it is, there is no handler for it."""
        if handler_call_details.method == _Probe.PATH:
            self._arrived()


def _unary(path: str, handle: Handler, turn: asyncio.Event) -> Callable[[bytes, Any], Awaitable[bytes]]:
    async def answer(body: bytes, context: Any) -> bytes:
        if not turn.is_set():
            await turn.wait()
        reply = handle(_call(path, context), body)
        if not isinstance(reply, Reply):
            reply = await reply
        if reply.code != "OK":
            await context.abort(_CODES[reply.code], reply.message, reply.trailers)
        if reply.trailers:
            context.set_trailing_metadata(reply.trailers)
        return reply.body

    return answer


def _refusing(reply: Reply) -> Any:
    """Return a handler that refuses; one of a stream, since that need not read the request first."""

    async def refuse(_: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        await context.abort(_CODES[reply.code], reply.message, reply.trailers)
        yield b""

    return grpc.stream_stream_rpc_method_handler(refuse)


def _stream(
    path: str, handle: StreamHandler, turn: asyncio.Event
) -> Callable[[AsyncIterator[bytes], Any], AsyncIterator[bytes]]:
    async def answer(bodies: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        await turn.wait()
        replies: Any = handle(_call(path, context), bodies)
        async with aclosing(replies):  # a caller that goes away ends the work
            async for reply in replies:
                if reply.code != "OK":
                    await context.abort(_CODES[reply.code], reply.message, reply.trailers)
                yield reply.body

    return answer


def _call(path: str, context: Any) -> Call:
    remaining = context.time_remaining()
    metadata = {name: value for name, value in context.invocation_metadata() if isinstance(value, str)}
    deadline = None if remaining is None else monotonic_micros() + int(remaining * 1e6)
    return Call(path, metadata, peer_host(context.peer()), deadline, _certified(context))


def _certified(context: Any) -> str:
    """Return who the client's certificate was made out to: its first alternative name, or its common name."""
    identities = context.peer_identities()
    return identities[0].decode() if identities else ""


def _credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    """Return credentials that look for new files at each connection."""
    known = [tls.read()]

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        files = tls.read()
        if files == known[0]:
            return None
        known[0] = files
        return _configuration(files)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(known[0]),
        fetch,  # type: ignore[arg-type]  # None keeps what is known, says grpc's documentation
        require_client_authentication=tls.client_ca is not None,
    )


def _configuration(files: tuple[bytes, bytes, bytes | None]) -> grpc.ServerCertificateConfiguration:
    certificate, key, client_ca = files
    return grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca)


def peer_host(peer: str) -> str:
    """Return the host of a gRPC peer.

    >>> peer_host("ipv4:10.0.0.7:40123"), peer_host("ipv6:%5B::1%5D:40123"), peer_host("unix:")
    ('10.0.0.7', '::1', 'unix')
    """
    kind, _, rest = peer.partition(":")
    return kind if kind == "unix" else unquote(rest.rpartition(":")[0]).strip("[]")
