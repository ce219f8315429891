"""The fast transport: a small Rust extension reads and writes HTTP/2 while the event loop waits for its files, on the same thread.

So a call goes from its socket to its handler and back without a change of threads, and handlers run one at a time as ever. It takes an
event loop that is made for it, `NativeLoop`.

It serves unary calls and health. Streams and reflection are grpc.aio's, on a second port that schemas and the server's status name.
The extension is a wheel of its own (`make native`), and nothing needs it: `is_installed` says whether it is there.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Mapping
from importlib.util import find_spec
from inspect import iscoroutinefunction
from typing import Any

from grpc_health.v1 import health_pb2

from featurestore.errors import ConfigError, FailedPreconditionError, UnavailableError
from featurestore.serving.access import SERVICE
from featurestore.serving.admission import Admission
from featurestore.serving.call import Call, Handler, Reply, StreamHandler
from featurestore.serving.settings import MAX_REQUEST_BYTES, TlsFiles
from featurestore.serving.status import Guard, Refusals

_CHECK, _WATCH, _LIST = (f"/grpc.health.v1.Health/{name}" for name in ("Check", "Watch", "List"))
_FAILED = Reply(code="INTERNAL", message="The handler failed.")
_MEBIBYTE = 1 << 20
# Seconds of one wait: Python acts on a signal between waits alone, where no handler of asyncio's ends them.
_LONGEST = 1.0
_LIMITS: Mapping[str, float] = {
    "max_arriving": 256 * _MEBIBYTE,  # request bytes in pieces, over all connections
    "max_calls": 5000,  # in progress, over all connections; more are refused before their body is read
    "max_connections": 10_000,
    "max_streams": 1000,  # calls at once on a connection
    "max_metadata": 16 << 10,
    "handshake": 10.0,  # seconds for TLS, and for the first bytes of HTTP/2
    "idle": 300.0,
    "age": 1800.0,
    "keepalive": 60.0,  # seconds between our pings of a quiet connection
    "keepalive_timeout": 20.0,
}


def is_installed() -> bool:
    """Say whether the extension is there."""
    return find_spec("featurestore_native") is not None


class _Selector(selectors.DefaultSelector):
    """Lets the I/O of transports go on whenever the event loop would wait, or look, for its files."""

    def __init__(self) -> None:
        super().__init__()
        self.io = _extension().Io(self.fileno())
        self._look = True  # some files may still be ready, of which the I/O has told before

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return the files that are ready; also nothing, when a handler may have left something else to do."""
        ready = super().select(0) if self._look else []
        longest = _LONGEST if timeout is None else min(timeout, _LONGEST)
        if self.io.wait(0 if ready else longest) and not ready:
            ready = super().select(0)
        self._look = bool(ready)
        return ready

    def close(self) -> None:
        """End the I/O, then as ever."""
        self.io.close()
        super().close()


class NativeLoop(asyncio.SelectorEventLoop):
    """An event loop on which native transports can be served.

    Attributes:
        io: The sockets and timers of those transports.

    Raises:
        ConfigError: The extension is not installed.
    """

    def __init__(self) -> None:
        selector = _Selector()
        super().__init__(selector)
        self.io = selector.io


class NativeTransport:
    """Serves handlers of unary calls by the extension, on a `NativeLoop`; see GrpcAioTransport.

    Args:
        handlers: Handlers by method path; one that returns an awaitable is run as a task of the event loop.
        streams: Handlers of streams, by whose names callers are told where to go.
        stream_port: Where streams are served; 0 when nowhere.
        admission: Says whether there is time for one more call that is answered without waiting; None always has some.
        max_request_bytes: Larger messages are refused by the transport.
        limits: In place of this module's.

    Attributes:
        name: What the conformance suite calls it.
        supports: What of the suite it does by itself.
        new_event_loop: Makes the event loop that it runs on.

    Raises:
        ConfigError: The extension is not installed.
    """

    name = "native"
    supports = frozenset({"unary", "health", "tls"})
    new_event_loop: type[asyncio.AbstractEventLoop] = NativeLoop

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        streams: Mapping[str, StreamHandler] | None = None,
        *,
        stream_port: int = 0,
        admission: Admission | None = None,
        max_request_bytes: int = 2 * MAX_REQUEST_BYTES,
        **limits: float,
    ) -> None:
        self._health = _Health()
        self._ended: asyncio.Event | None = None
        there = f" Streams and reflection are served on port {stream_port}." if streams and stream_port else ""
        self._server = _extension().Server(
            {**handlers, **self._health.methods()},
            held={_WATCH},
            call=Call,
            reply=Reply,
            later=_later,
            admission=None if admission is None else _asked(admission, handlers),
            elsewhere=there,
            max_message=max_request_bytes,
            **{**_LIMITS, **limits},
        )

    async def start(self, address: str, *, tls: TlsFiles | None = None) -> int:
        """Listen, and return the port.

        Args:
            address: ``host:port``, where port 0 takes a free one.
            tls: Certificate and key; new connections get those that lie there by then. None serves plain text.

        Raises:
            UnavailableError: The port cannot be taken, or the files of `tls` cannot be used.
            FailedPreconditionError: The running event loop is no `NativeLoop`.
        """
        loop = asyncio.get_running_loop()
        if not isinstance(loop, NativeLoop):
            raise FailedPreconditionError(
                "The native transport runs on a NativeLoop alone.",
                repair="Use `asyncio.Runner(loop_factory=NativeLoop)`.",
            )
        host, _, port = address.rpartition(":")
        files = None if tls is None else (tls.certificate, tls.key, tls.client_ca)
        ended = asyncio.Event()
        try:
            bound: int = self._server.start(loop.io, host, int(port), files, ended.set)
        except OSError as error:
            raise UnavailableError(f"The native transport cannot listen on {address}: {error}.") from error
        self._ended = ended
        return bound

    async def drain(self, seconds: float) -> None:
        """Take no more calls, let those in flight finish for so many seconds, and stop."""
        self._health.serving = False
        if self._ended is not None:
            self._server.drain(seconds)
            await self._ended.wait()


class _Health:
    """Answers health checks.

    It knows nothing of its transport: the extension holds handlers where the garbage collector does not look, so a circle would stay.
    """

    def __init__(self) -> None:
        self.serving = True

    def methods(self) -> Mapping[str, Handler]:
        handlers = {_CHECK: self._check, _WATCH: self._watch, _LIST: self._list}
        return {path: Guard().wrap(handle) for path, handle in handlers.items()}

    def _check(self, _: Call, body: bytes) -> Reply:
        if not self._knows(body):
            return Reply(code="NOT_FOUND", message="No such service.")
        return Reply(self._state().SerializeToString())

    def _watch(self, _: Call, body: bytes) -> Reply:
        kinds = health_pb2.HealthCheckResponse
        state = self._state() if self._knows(body) else kinds(status=kinds.SERVICE_UNKNOWN)
        return Reply(state.SerializeToString())

    def _list(self, _: Call, __: bytes) -> Reply:
        state = self._state()
        return Reply(health_pb2.HealthListResponse(statuses={"": state, SERVICE: state}).SerializeToString())

    def _knows(self, body: bytes) -> bool:
        return health_pb2.HealthCheckRequest.FromString(body).service in {"", SERVICE}

    def _state(self) -> health_pb2.HealthCheckResponse:
        kinds = health_pb2.HealthCheckResponse
        return kinds(status=kinds.SERVING if self.serving else kinds.NOT_SERVING)


def _extension() -> Any:
    if not is_installed():
        raise ConfigError(
            "The native transport is not installed.",
            place="serving.transport",
            repair='Run `make native`, or set transport = "grpc_aio".',
        )
    import featurestore_native

    return featurestore_native


def _asked(
    admission: Admission, handlers: Mapping[str, Handler]
) -> tuple[set[str], Callable[[], Reply | None], Callable[[int], bool]]:
    """Return what the extension asks: which methods, the reply of a call that is refused, and whether any is, after so long a wait."""
    refusals = Refusals(admission)
    at_once = {path for path, handle in handlers.items() if not iscoroutinefunction(handle)}

    def note(waited: int) -> bool:
        admission.note(waited)
        return admission.is_crowded

    return at_once, lambda: None if admission.admits() else refusals.reply(), note


def _later(awaitable: Awaitable[Reply], respond: Callable[[Reply], None]) -> asyncio.Task[None]:
    """Run what a handler waits for, and give its reply to the extension, which cancels the task when nobody waits for that any more."""

    async def answer() -> None:
        reply = _FAILED
        try:
            reply = await awaitable
        finally:
            respond(reply)  # whatever happened: the caller waits

    task: Any = asyncio.get_running_loop().create_task(answer())
    return task  # type: ignore[no-any-return]  # a task of the running loop
