"""A small project that is really served, in this process: what the suites of transports call."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeVar

import grpc

from featurestore.audit import UsageWriter, collect
from featurestore.client import SERVICE, Client, texts
from featurestore.config import system_clock
from featurestore.definitions import (
    Definition,
    Entity,
    Feature,
    FeatureService,
    FeatureView,
    Model,
    OnDemandFeatureView,
    PushSource,
)
from featurestore.flow.write import Writer
from featurestore.online.lmdb import open_lmdb
from featurestore.online.reader import OnlineReader
from featurestore.registry.storage import open_registry
from featurestore.serving.access import rpc_of
from featurestore.serving.call import Call, Handler, Reply, StreamHandler
from featurestore.serving.grpc_aio import GrpcAioTransport
from featurestore.serving.handlers import FeatureHandlers
from featurestore.serving.metrics import MetricsFile
from featurestore.serving.ports import shared_socket
from featurestore.serving.settings import METRICS, ServeSettings, TlsFiles
from featurestore.serving.training_handlers import TrainingHandlers
from featurestore.serving.writer_handlers import WriterHandlers
from featurestore.store import FeatureStore

HOUR = timedelta(hours=1) // timedelta(microseconds=1)
ECHO = "featurestore.testing.Echo"

_T = TypeVar("_T")


class Transport(Protocol):
    """A transport as the suite makes it: from handlers by method path.

    Attributes:
        name: What the suite calls it.
        supports: Of ``unary``, ``streams``, ``health``, ``reflection`` and ``tls``; without streams, grpc.aio serves them on another port.
        new_event_loop: Makes the event loop that it runs on.
    """

    name: str
    supports: frozenset[str]
    new_event_loop: Callable[[], asyncio.AbstractEventLoop]

    def __init__(self, handlers: Mapping[str, Handler], streams: Mapping[str, StreamHandler]) -> None: ...

    async def start(self, address: str, *, tls: TlsFiles | None = None) -> int:
        """Listen on ``host:port`` and return the port."""
        ...

    async def drain(self, seconds: float) -> None:
        """Finish the calls in flight and stop."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back from a call that nothing interpreted."""

    code: str
    message: str
    trailers: Mapping[str, str]
    body: bytes


def definitions() -> Sequence[Definition]:
    """Return the project's features: keys of one text, one number and two columns; every access mode; a view without rows."""
    origin = Entity("origin", {"origin": "string"})
    user = Entity("user", {"user_id": "int64"})
    route = Entity("route", {"origin": "string", "dest": "string"})
    temp, humid, note = Feature("temp", "float64"), Feature("humid", "int64"), Feature("note", "string")
    weather = FeatureView("weather", origin, PushSource("weather"), [temp, humid, note], ttl=timedelta(days=1))
    activity = FeatureView("activity", user, PushSource("activity"), [Feature("score", "float64")])
    traffic = FeatureView("traffic", route, PushSource("traffic"), [Feature("delays", "int32")])
    watched = FeatureView("watched", origin, PushSource("watched"), [Feature("seen", "bool")], access="warn")
    guarded = FeatureView("guarded", origin, PushSource("guarded"), [Feature("secret", "float64")], access="enforce")
    idle = FeatureView("idle", origin, PushSource("idle"), [Feature("nothing", "float64")])
    heat = OnDemandFeatureView(
        "heat",
        [Feature("feels", "float64", expression="temp + bump")],
        inputs=[weather[["temp"]]],
        request={"bump": "float64"},
    )
    service = FeatureService("delay_model", [weather])
    trusted = Model("trusted", version="1", reads=["delay_model", watched, guarded])
    stranger = Model("stranger", version="1", reads=["delay_model"])
    return [weather, activity, traffic, watched, guarded, idle, heat, service, trusted, stranger]


class ServedProject(AbstractContextManager["ServedProject"]):
    """A project that some transport serves from a thread of this process.

    Args:
        folder: An empty folder; the project is made in it.
        transport: The transport's class.
        auth: ``none`` or ``required``.
        clock: ``system`` or ``replay``.
        tls: Serve over TLS; the target is ``localhost`` then.
        settings: More of the server's settings.

    Attributes:
        store: The project's facade, to apply changes with.
        handlers: The handlers that answer.
        target: ``host:port`` of the server.
        stream_target: Of its streams; mostly the same.
    """

    target: str
    stream_target: str

    def __init__(
        self,
        folder: Path,
        transport: type[Transport],
        *,
        auth: Literal["none", "required"] = "none",
        clock: Literal["system", "replay"] = "system",
        tls: TlsFiles | None = None,
        **settings: Any,
    ) -> None:
        (folder / "featurestore.toml").write_text('[project]\nname = "suite"\n')
        self._stack = ExitStack()
        self.store = self._stack.enter_context(FeatureStore(folder))
        self.store.apply(definitions())
        self.settings = ServeSettings(
            project=folder,
            store_dir=folder / "store",
            registry_url=self.store.settings.registry_url,
            name="suite",
            auth=auth,
            clock=clock,
            tls=tls,
            **settings,
        )
        if "streams" not in transport.supports:
            held = self._stack.enter_context(closing(shared_socket("127.0.0.1", 0)))
            self.settings = replace(self.settings, stream_port=held.getsockname()[1])
        writer_clock = None if clock == "replay" else system_clock
        writer = Writer(self.settings.store_dir, self.store.snapshot, writer_clock, self.store.table)
        self._writer = WriterHandlers(
            writer,
            self.store.snapshot,
            replay=clock == "replay",
            usage_directory=self.settings.store_dir / "usage",
            registry_path=self.store.registry.sqlite_path(),
            metrics=MetricsFile(self.settings.store_dir / METRICS),
        )
        registry = self._stack.enter_context(open_registry(self.settings.registry_url, project="suite"))
        self._online = open_lmdb(self.settings.store_dir / "online")
        self.usage = UsageWriter(self.settings.store_dir / "usage", environment="dev", clock=system_clock, slots=256)
        self.handlers = FeatureHandlers(
            self.settings,
            registry=registry,
            reader=OnlineReader(self._online, writer_clock),
            usage=self.usage,
            metrics=MetricsFile(self.settings.store_dir / METRICS),
            writer=self._forward,
            write=self._writer.streams()["/featurestore.v1.Writer/StreamWrite"],
            training=TrainingHandlers(self.store).get_historical_features,
        )
        self._loop = transport.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        methods, streams = {**self.handlers.methods(), **echo(self.handlers)}, self.handlers.streams()
        self._transport = transport(methods, streams)
        self._beside = GrpcAioTransport(methods, streams) if self.settings.stream_port else None

    def __enter__(self) -> Self:
        self._thread.start()
        port = self.run(self._transport.start("127.0.0.1:0", tls=self.settings.tls))
        host = "localhost" if self.settings.tls else "127.0.0.1"
        self.target = self.stream_target = f"{host}:{port}"
        if self._beside is not None:
            beside = self.run(self._beside.start(f"127.0.0.1:{self.settings.stream_port}", tls=self.settings.tls))
            self.stream_target = f"{host}:{beside}"
        self.channel = self._stack.enter_context(grpc.insecure_channel(self.target))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run(self._transport.drain(1.0))
        if self._beside is not None:
            self.run(self._beside.drain(1.0))
        self.run(self._writer.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self.usage.close()
        self._online.close()
        self._stack.close()

    def run(self, awaitable: Awaitable[_T]) -> _T:
        """Run something on the server's event loop and wait for it."""

        async def awaited() -> _T:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(awaited(), self._loop).result(timeout=60)

    def drain(self, seconds: float) -> None:
        """Drain the transport now; leaving the project later does it again, which does nothing."""
        self.run(self._transport.drain(seconds))

    def client(self, **settings: Any) -> Client:
        """Return a client of the server, patient enough for a busy machine."""
        return Client(self.target, **{"timeout": 20.0, "token": "", "consumer": "", **settings})

    def call(
        self,
        method: str,
        body: bytes = b"",
        *,
        service: str = SERVICE,
        timeout: float = 20.0,
        metadata: Mapping[str, str] | None = None,
    ) -> Answer:
        """Call a method with raw bytes."""
        fields = tuple((metadata or {}).items())
        stub: Any = self.channel.unary_unary(f"/{service}/{method}")
        try:
            answer, call = stub.with_call(body, timeout=timeout, metadata=fields)
        except grpc.RpcError as error:
            return Answer(error.code().name, error.details() or "", texts(error.trailing_metadata()), b"")
        return Answer("OK", "", texts(call.trailing_metadata()), answer)

    def fill(self) -> None:
        """Write the project's rows: each view has some but ``idle``; LGA's weather is two days old."""
        now = system_clock()
        fresh, old = now - HOUR, now - 48 * HOUR
        rows: Mapping[str, dict[str, list[Any]]] = {
            "weather": {
                "origin": ["JFK", "LGA", "EWR"],
                "event_timestamp": [fresh, old, fresh],
                "temp": [40.5, 41.0, None],
                "humid": [60, 61, -(2**63)],
                "note": ["clear", "old", "Schnee \N{SNOWFLAKE}"],
            },
            "activity": {"user_id": [1001, -1], "event_timestamp": [fresh, fresh], "score": [0.25, 0.5]},
            "traffic": {"origin": ["JFK"], "dest": ["LAX"], "event_timestamp": [fresh], "delays": [7]},
            "watched": {"origin": ["JFK"], "event_timestamp": [fresh], "seen": [True]},
            "guarded": {"origin": ["JFK"], "event_timestamp": [fresh], "secret": [1.5]},
        }
        with self.client(token=self.token("filler", "writer")) as client:
            for view, columns in rows.items():
                client.write(view, columns)

    def token(self, name: str, *roles: str, expires_at: int | None = None) -> str:
        """Create a token of the principal of that name, and let the server know; empty in local mode."""
        if self.settings.auth == "none":
            return ""
        now = system_clock()
        secret = self.store.registry.create_token(
            name, principal=name, roles=frozenset(roles), now=now, expires_at=expires_at
        )
        self.refresh()
        return secret

    def bind(self, principal: str, consumer: str) -> None:
        """Bind a principal to a consumer, and let the server know."""
        self.store.registry.bind(principal, consumer, now=system_clock())
        self.refresh()

    def refresh(self) -> None:
        """Let the server take up what the registry has now, as its watcher does four times a second."""
        self.handlers.refresh()

    def fold(self) -> None:
        """Bring what was written offline: the writer of this process has no socket that a training read could ask."""
        self.run(self._writer.fold())

    def usage_of(self, consumer: str) -> list[tuple[str, str, str, int]]:
        """Return what a consumer has read so far: (feature version, mode, outcome, rows)."""
        self.usage.rotate()
        with closing(sqlite3.connect(self.store.registry.sqlite_path(), isolation_level=None)) as connection:
            collect(self.settings.store_dir / "usage", connection)
            found = connection.execute(
                "SELECT view, version, feature, mode, outcome, entity_rows FROM usage_daily WHERE consumer = ?",
                [consumer],
            )
            return [(f"{view}@v{version}:{feature}", *rest) for view, version, feature, *rest in found]

    async def _forward(self, call: Call, body: bytes) -> Reply:
        reply = self._writer.methods()[f"/featurestore.v1.Writer/{rpc_of(call.method)}"](call, body)
        return reply if isinstance(reply, Reply) else await reply


def echo(handlers: FeatureHandlers) -> Mapping[str, Handler]:
    """Return handlers that show what a transport passes on: Echo and EchoLater answer what came, Sleep waits, Fail fails."""

    def at_once(call: Call, body: bytes) -> Reply:
        facts = {"metadata": dict(call.metadata), "peer": call.peer, "remaining": call.remaining}
        trailers = (("fs-body-size", str(len(body))), ("fs-twice", "one"), ("fs-twice", "two"))
        return Reply(body or json.dumps(facts).encode(), trailers=trailers)

    async def later(call: Call, body: bytes) -> Reply:
        await asyncio.sleep(0)
        return at_once(call, body)

    async def sleep(_: Call, body: bytes) -> Reply:
        await asyncio.sleep(float(body or b"0.2"))
        return Reply(str(time.monotonic()).encode())

    def fail(_: Call, body: bytes) -> Reply:
        raise ZeroDivisionError(f"a secret: {body.decode()}")

    methods = {"Echo": at_once, "EchoLater": later, "Sleep": sleep, "Fail": fail}
    return {f"/{ECHO}/{name}": handlers.guard.wrap(handle) for name, handle in methods.items()}
