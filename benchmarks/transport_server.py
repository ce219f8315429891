"""One server of a project's reads: by a transport of `featurestore serve`, or the same handlers by grpcio's threads.

``bare`` handlers take the keys from a request and read; nobody is admitted, counted or measured. An echo answers each request as it came.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc

from featurestore.client import SERVICE
from featurestore.config import load_settings
from featurestore.registry.storage import open_registry
from featurestore.serving.call import Call, Handler, Reply
from featurestore.serving.grpc_aio import GrpcAioTransport
from featurestore.serving.handlers import FeatureHandlers
from featurestore.serving.metrics import MetricsFile
from featurestore.serving.native import NativeTransport
from featurestore.serving.request_keys import named_plan
from featurestore.serving.settings import METRICS, ServeSettings, serve_settings
from featurestore.serving.worker_process import open_store, open_usage

READ = f"/{SERVICE}/GetOnlineFeatures"


def handlers_of(stack: ExitStack, settings: ServeSettings, *, bare: bool) -> Mapping[str, Handler]:
    """Open the project, and return its handlers."""
    registry = stack.enter_context(open_registry(settings.registry_url, project=settings.name))
    reader = stack.enter_context(open_store(settings))
    usage = stack.enter_context(open_usage(settings))
    nothing: Any = None
    handlers = FeatureHandlers(
        settings,
        registry=registry,
        reader=reader,
        usage=usage,
        metrics=MetricsFile(settings.store_dir / METRICS),
        writer=nothing,
        write=nothing,
        training=nothing,
    )
    if not bare:
        return handlers.methods()

    def read(_: Call, body: bytes) -> Reply:
        known = handlers.state.reads[named_plan(body)]
        keys = known.plain and known.plain.read(body)
        if keys is None:
            raise RuntimeError("The requests of this benchmark are plain ones.")
        return Reply(reader.read(known.prepared, [keys]))

    return {**handlers.methods(), READ: read}


class Threads(grpc.GenericRpcHandler):
    """Handlers as grpcio's threads call them."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._methods = {path: grpc.unary_unary_rpc_method_handler(_by_thread(path, h)) for path, h in handlers.items()}

    def service(self, handler_call_details: Any) -> Any:
        return self._methods.get(handler_call_details.method)


def _by_thread(path: str, handle: Handler) -> Any:
    def answer(body: bytes, context: Any) -> bytes:
        metadata = {name: value for name, value in context.invocation_metadata() if isinstance(value, str)}
        reply: Any = handle(Call(path, metadata, "127.0.0.1"), body)
        if reply.code != "OK":
            context.abort(getattr(grpc.StatusCode, reply.code), reply.message)
        return reply.body

    return answer


def echo(sample: bytes) -> Mapping[str, Handler]:
    """Return a handler that answers the same bytes each time."""
    return {READ: lambda _call, _body: Reply(sample)}


async def serve(transport: Any, address: str) -> None:
    """Serve until the process is ended."""
    await transport.start(address)
    await asyncio.Event().wait()


def main(kind: str, project: str, address: str, sample: str = "") -> None:
    """Serve: KIND is native, native-bare, native-echo, grpc_aio, grpc_aio-echo or threads."""
    name, _, how = kind.partition("-")
    with ExitStack() as stack:
        settings = serve_settings(load_settings(Path(project)))
        handlers = (
            echo(Path(sample).read_bytes()) if how == "echo" else handlers_of(stack, settings, bare=how == "bare")
        )
        if name == "threads":
            server = grpc.server(ThreadPoolExecutor(4))
            server.add_generic_rpc_handlers((Threads(handlers),))
            server.add_insecure_port(address)
            server.start()
            server.wait_for_termination()
        transport: Any = {"native": NativeTransport, "grpc_aio": GrpcAioTransport}[name]
        with asyncio.Runner(loop_factory=transport.new_event_loop) as runner:
            runner.run(serve(transport(handlers), address))


if __name__ == "__main__":
    main(*sys.argv[1:])
