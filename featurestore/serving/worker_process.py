"""One reading process of a server: an event loop that answers reads at once, and hands writes to the writer process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import uvicorn
from sqlalchemy.exc import SQLAlchemyError

from featurestore.audit import UsageWriter
from featurestore.errors import UnavailableError
from featurestore.online.lmdb import open_lmdb
from featurestore.online.reader import OnlineReader
from featurestore.registry.storage import open_registry
from featurestore.serving.child import Lifeline, every, run_child
from featurestore.serving.forward import WriterForwarder
from featurestore.serving.grpc_aio import GrpcAioTransport
from featurestore.serving.handlers import FeatureHandlers
from featurestore.serving.http import http_app
from featurestore.serving.settings import ServeSettings
from featurestore.store import system_clock
from featurestore.windows import compile_kernels

HEARTBEAT_SECONDS = 1.0
USAGE_SLOTS = 16384


async def read(settings: ServeSettings, lifeline: Lifeline) -> None:
    """Answer calls until the lifeline says stop."""
    with (
        open_registry(settings.registry_url, project=settings.name) as registry,
        open_store(settings) as reader,
        open_usage(settings) as usage,
    ):
        writer = WriterForwarder(settings.store_dir)
        handlers = FeatureHandlers(settings, registry=registry, reader=reader, usage=usage, writer=writer)
        transport = GrpcAioTransport(handlers.methods())
        http = HttpServer(handlers, settings, lifeline)
        port = await transport.start(
            address_of(settings.host, settings.grpc_port), certificate=settings.tls_certificate, key=settings.tls_key
        )
        async with asyncio.TaskGroup() as tasks:
            tending = [
                tasks.create_task(every(settings.poll_seconds, "reading the registry", lambda: _refresh(handlers))),
                tasks.create_task(every(HEARTBEAT_SECONDS, "the heartbeat", lambda: _beat(usage))),
                tasks.create_task(every(settings.usage_seconds, "handing over usage", lambda: _hand_over(usage))),
            ]
            serving = tasks.create_task(http.serve())
            await http.started()
            compile_kernels()  # the first windowed read does not wait for it
            lifeline.ready(grpc_port=port, http_port=http.port)
            await lifeline.stop.wait()
            http.stop()
            await transport.drain(settings.drain_seconds)
            await serving
            for task in tending:
                task.cancel()
        await writer.close()


class HttpServer:
    """The HTTP side of a worker; a server without an HTTP port has one that does nothing.

    Attributes:
        port: Where it listens, or None.
    """

    def __init__(self, handlers: FeatureHandlers, settings: ServeSettings, lifeline: Lifeline) -> None:
        self.port: int | None = None
        self._server: _Embedded | None = None
        if settings.http_port is not None:
            app = http_app(handlers.methods(), handlers.guard, settings, is_ready=lambda: not lifeline.stop.is_set())
            tls = {"ssl_certfile": settings.tls_certificate, "ssl_keyfile": settings.tls_key}
            config = uvicorn.Config(
                app,
                access_log=False,
                log_config=None,
                server_header=False,
                lifespan="off",
                timeout_graceful_shutdown=int(settings.drain_seconds) or 1,
                **(tls if settings.tls_certificate else {}),  # type: ignore[arg-type]  # paths
            )
            self._server = _Embedded(config)
            self._socket = shared_socket(settings.host, settings.http_port)
            self.port = self._socket.getsockname()[1]

    async def serve(self) -> None:
        """Answer until `stop`."""
        if self._server is not None:
            await self._server.serve([self._socket])

    async def started(self) -> None:
        """Wait until it listens."""
        while self._server is not None and not self._server.started:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # uvicorn has a flag and no event

    def stop(self) -> None:
        """Take no more calls, and finish those in flight."""
        if self._server is not None:
            self._server.should_exit = True


class _Embedded(uvicorn.Server):
    """A server that leaves signals to the process it is part of."""

    def capture_signals(self) -> nullcontext[None]:  # type: ignore[override]  # a context manager that does nothing
        return nullcontext()


@contextmanager
def open_store(settings: ServeSettings) -> Iterator[OnlineReader]:
    """Open the online store for reading, with the server's clock."""
    store = open_lmdb(settings.store_dir / "online", readonly=True)
    try:
        yield OnlineReader(store, None if settings.is_replay else system_clock)
    finally:
        store.close()


@contextmanager
def open_usage(settings: ServeSettings) -> Iterator[UsageWriter]:
    """Open this worker's usage segments; leaving it says that they are complete."""
    usage = UsageWriter(
        settings.store_dir / "usage", environment=settings.environment, clock=system_clock, slots=USAGE_SLOTS
    )
    try:
        yield usage
    finally:
        usage.close()


def address_of(host: str, port: int) -> str:
    """Return an address as gRPC takes it.

    >>> address_of("::1", 6565)
    '[::1]:6565'
    """
    return f"[{host.strip('[]')}]:{port}" if ":" in host else f"{host}:{port}"


def shared_socket(host: str, port: int) -> socket.socket:
    """Return a bound socket on a port that the other processes of this server bind too; the kernel spreads connections."""
    bare = host.strip("[]")
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((bare, port))
    except OSError as error:
        bound.close()
        raise UnavailableError(f"Port {port} of {host} cannot be taken: {error.strerror}.") from error
    return bound


async def _refresh(handlers: FeatureHandlers) -> None:
    """Look at the registry off the event loop; while it cannot be read, the state stays."""
    try:
        await asyncio.to_thread(handlers.refresh)
    except SQLAlchemyError as error:
        raise UnavailableError(f"The registry cannot be read: {error}.") from error


async def _beat(usage: UsageWriter) -> None:
    usage.heartbeat()
    if usage.free_slots < USAGE_SLOTS // 8:
        usage.rotate()


async def _hand_over(usage: UsageWriter) -> None:
    """Let the collector have what was counted, if anything was."""
    if usage.free_slots < USAGE_SLOTS:
        usage.rotate()


if __name__ == "__main__":
    run_child(read)
