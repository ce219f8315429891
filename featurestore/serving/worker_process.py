"""One reading process of a server: an event loop that answers reads at once, and hands writes to the writer process."""

from __future__ import annotations

import asyncio
import gc
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

import uvicorn
from sqlalchemy.exc import SQLAlchemyError

from featurestore.asking import lineage_routes
from featurestore.audit import UsageWriter
from featurestore.config import load_settings, system_clock
from featurestore.errors import UnavailableError
from featurestore.flow.sockets import SERVICE, TRAINING, TRAINING_SERVICE, WRITER
from featurestore.online.lmdb import open_lmdb
from featurestore.online.reader import OnlineReader
from featurestore.registry.storage import Registry, open_registry
from featurestore.serving.admission import Admission
from featurestore.serving.child import Lifeline, every, run_child
from featurestore.serving.forward import Forwarder
from featurestore.serving.grpc_aio import GrpcAioTransport
from featurestore.serving.handlers import FeatureHandlers
from featurestore.serving.metrics import MetricsFile
from featurestore.serving.native import NativeTransport
from featurestore.serving.ports import address_of, shared_socket
from featurestore.serving.settings import MAX_REQUEST_BYTES, METRICS, ServeSettings, TlsFiles
from featurestore.serving.tracing import tracing

if TYPE_CHECKING:
    from featurestore.online.redis_reader import RedisReader

HEARTBEAT_SECONDS = 1.0
USAGE_SLOTS = 16384


async def read(settings: ServeSettings, lifeline: Lifeline) -> None:
    """Answer calls until the lifeline says stop."""
    with open_registry(settings.registry_url, project=settings.name) as registry, open_usage(settings) as usage:
        await _serve(settings, lifeline, registry, usage)


async def _serve(settings: ServeSettings, lifeline: Lifeline, registry: Registry, usage: UsageWriter) -> None:
    async with open_reader(settings) as reader:
        at, spans = settings.store_dir, tracing()
        writer = Forwarder(
            at, WRITER, SERVICE, methods=("Write", "AdvanceClock"), streams=("StreamWrite",), tracing=spans
        )
        training = Forwarder(at, TRAINING, TRAINING_SERVICE, streams=("GetHistoricalFeatures",), tracing=spans)
        handlers = FeatureHandlers(
            settings,
            registry=registry,
            reader=reader,
            usage=usage,
            metrics=MetricsFile(at / METRICS),
            writer=writer,
            write=writer.stream,
            training=training.stream,
        )
        admission = Admission()
        transports = transports_of(settings, handlers, admission)
        for transport, port in transports:
            await transport.start(address_of(settings.host, port), tls=settings.tls)
        http = await asyncio.to_thread(HttpServer, handlers, settings, lifeline, admission)  # gRPC is served meanwhile
        async with asyncio.TaskGroup() as tasks:
            tending = [
                tasks.create_task(every(settings.poll_seconds, "reading the registry", lambda: _refresh(handlers))),
                tasks.create_task(every(settings.poll_seconds, "following the online store", lambda: _follow(reader))),
                tasks.create_task(every(HEARTBEAT_SECONDS, "reading the certificate", http.follow_certificate)),
                tasks.create_task(every(HEARTBEAT_SECONDS, "the heartbeat", lambda: _beat(usage, handlers))),
                tasks.create_task(every(settings.usage_seconds, "handing over usage", lambda: _hand_over(usage))),
            ]
            serving = tasks.create_task(http.serve())
            await http.started()
            gc.freeze()  # what is loaded by now stays: looking it through would keep calls waiting for a tenth of a second
            lifeline.ready(grpc_port=settings.grpc_port, http_port=http.port)
            await lifeline.stop.wait()
            http.stop()
            await asyncio.gather(*(transport.drain(settings.drain_seconds) for transport, _ in transports))
            await serving
            for task in tending:
                task.cancel()
        await writer.close()
        await training.close()


def transports_of(
    settings: ServeSettings, handlers: FeatureHandlers, admission: Admission
) -> Sequence[tuple[GrpcAioTransport | NativeTransport, int]]:
    """Return what serves gRPC, with the port of each: the native transport leaves streams to grpc.aio, which is complete by itself."""
    methods, streams = handlers.methods(), handlers.streams()
    if settings.transport == "grpc_aio":
        return ((GrpcAioTransport(methods, streams, admission=admission), settings.grpc_port),)
    complete = GrpcAioTransport(methods, streams, admission=Admission())  # calls wait in another queue there
    fast = NativeTransport(methods, streams, stream_port=settings.stream_port, admission=admission)
    return ((fast, settings.grpc_port), (complete, settings.stream_port))


def event_loop_of(settings: ServeSettings) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes the event loop of a worker."""
    return NativeTransport.new_event_loop if settings.transport == "native" else GrpcAioTransport.new_event_loop


class HttpServer:
    """The HTTP side of a worker; a server without an HTTP port has one that does nothing.

    Attributes:
        port: Where it listens, or None.
    """

    def __init__(
        self, handlers: FeatureHandlers, settings: ServeSettings, lifeline: Lifeline, admission: Admission
    ) -> None:
        self.port: int | None = None
        self._server: _Embedded | None = None
        self._tls = settings.tls
        self._files = None if settings.tls is None else settings.tls.read()
        if settings.http_port is not None:
            from featurestore.serving.http import http_app  # what it needs takes long to load

            app = http_app(
                handlers.methods(),
                handlers.guard,
                settings,
                metrics=handlers.guard.wrap(handlers.metrics),
                admission=admission,
                admit=handlers.guard.wrap(handlers.admit),
                lineage=lineage_routes(settings.project, max_bytes=MAX_REQUEST_BYTES),
                is_ready=lambda: not lifeline.stop.is_set(),
            )
            config = uvicorn.Config(
                app,
                access_log=False,
                log_config=None,
                server_header=False,
                lifespan="off",
                timeout_graceful_shutdown=int(settings.drain_seconds) or 1,
                **_http_tls(settings.tls),
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

    async def follow_certificate(self) -> None:
        """Show new connections the certificate that lies there by now; raises OSError while it cannot be used.

        A client CA that is new is accepted from then on; one that is gone, when the worker is replaced.
        """
        if self._tls is None or self._server is None or self._tls.read() == self._files:
            return
        context = self._server.config.ssl
        assert context is not None
        trial = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # files that do not fit together would spoil the other
        trial.load_cert_chain(self._tls.certificate, self._tls.key)
        context.load_cert_chain(self._tls.certificate, self._tls.key)
        if self._tls.client_ca is not None:
            context.load_verify_locations(self._tls.client_ca)
        self._files = self._tls.read()

    def stop(self) -> None:
        """Take no more calls, and finish those in flight."""
        if self._server is not None:
            self._server.should_exit = True


def _http_tls(tls: TlsFiles | None) -> dict[str, Any]:
    if tls is None:
        return {}
    asked = ssl.CERT_NONE if tls.client_ca is None else ssl.CERT_REQUIRED
    return {
        "ssl_certfile": tls.certificate,
        "ssl_keyfile": tls.key,
        "ssl_ca_certs": tls.client_ca,
        "ssl_cert_reqs": asked,
    }


class _Embedded(uvicorn.Server):
    """A server that leaves signals to the process it is part of."""

    def capture_signals(self) -> nullcontext[None]:  # type: ignore[override]  # a context manager that does nothing
        return nullcontext()


@contextmanager
def open_store(settings: ServeSettings) -> Iterator[OnlineReader]:
    """Open the online store of the project folder for reading, with the server's clock."""
    store = open_lmdb(settings.store_dir / "online", readonly=True)
    try:
        yield OnlineReader(store, _clock(settings))
    finally:
        store.close()


@asynccontextmanager
async def open_reader(settings: ServeSettings) -> AsyncIterator[OnlineReader | RedisReader]:
    """Open what online reads read, with the server's clock."""
    address = load_settings(settings.project).redis
    if address is None:
        with open_store(settings) as reader:
            yield reader
        return
    from featurestore.online.redis_reader import RedisReader

    remote = RedisReader(address, _clock(settings))
    try:
        yield remote
    finally:
        await remote.close()


def _clock(settings: ServeSettings) -> Callable[[], int] | None:
    return None if settings.is_replay else system_clock


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


async def _refresh(handlers: FeatureHandlers) -> None:
    """Look at the registry off the event loop; while it cannot be read, the state stays."""
    try:
        await asyncio.to_thread(handlers.refresh)
    except SQLAlchemyError as error:
        raise UnavailableError(f"The registry cannot be read: {error}.") from error


async def _follow(reader: OnlineReader | RedisReader) -> None:
    """Read from the environment that an erasure has put in the place of the one that is open; or see how far Redis was fed."""
    if isinstance(reader, OnlineReader):
        reader.follow()
    else:
        with suppress(UnavailableError):  # who reads is told
            await reader.follow()


async def _beat(usage: UsageWriter, handlers: FeatureHandlers) -> None:
    usage.heartbeat()
    handlers.collect_metrics()
    if usage.free_slots < USAGE_SLOTS // 8:
        usage.rotate()


async def _hand_over(usage: UsageWriter) -> None:
    """Let the collector have what was counted, if anything was."""
    if usage.free_slots < USAGE_SLOTS:
        usage.rotate()


if __name__ == "__main__":
    run_child(read, event_loop=event_loop_of)
