"""The one writer process of a server: accepts rows over a Unix socket, folds the log, releases due rows, collects usage."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pyarrow as pa

from featurestore.config import system_clock
from featurestore.errors import InvalidArgumentError
from featurestore.flow.sockets import WRITER
from featurestore.flow.write import Writer
from featurestore.registry.storage import Registry
from featurestore.serving.child import Lifeline, every, run_child
from featurestore.serving.grpc_aio import GrpcAioTransport
from featurestore.serving.local_socket import listen, local_socket
from featurestore.serving.metrics import MetricsFile
from featurestore.serving.settings import METRICS, ServeSettings
from featurestore.serving.writer_handlers import WriterHandlers
from featurestore.store import FeatureStore

RELEASE_SECONDS = 0.25  # how late a row that has come due may become visible
FEED_SECONDS = 0.05  # how late an accepted row may be in Redis; nothing is done without one
FOLD_SECONDS = 10.0  # each fold is a commit of the offline tables; a training read folds before it reads anyway
MEASURE_SECONDS = 1.0
TEND_SECONDS = 60.0  # how often the offline tables are looked at for a compaction
MAX_TABLE_BYTES = 512 << 20  # what a process on this machine may write at once


async def write(settings: ServeSettings, lifeline: Lifeline) -> None:
    """Be the writer until the lifeline says stop."""
    with FeatureStore(settings.project) as store, local_socket(settings.store_dir, WRITER) as path:
        clock = None if settings.is_replay else system_clock
        writer = Writer(settings.store_dir, store.snapshot, clock, store.table, store.settings.redis)
        handlers = WriterHandlers(
            writer,
            store.snapshot,
            replay=settings.is_replay,
            usage_directory=settings.store_dir / "usage",
            registry_path=_sqlite_path(store.registry),
            metrics=MetricsFile(settings.store_dir / METRICS),
        )
        transport = GrpcAioTransport(
            handlers.methods(), handlers.streams(), public=False, max_request_bytes=MAX_TABLE_BYTES
        )
        await listen(transport, path)
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(every(RELEASE_SECONDS, "releasing rows", lambda: handlers.release(system_clock()))),
                tasks.create_task(every(FEED_SECONDS, "feeding Redis", handlers.feed)),
                tasks.create_task(every(FOLD_SECONDS, "folding the row log", handlers.fold)),
                tasks.create_task(every(MEASURE_SECONDS, "measuring", handlers.measure)),
                tasks.create_task(every(TEND_SECONDS, "compacting", handlers.tend)),
                tasks.create_task(every(settings.usage_seconds, "collecting usage", handlers.collect)),
            ]
            # Arrow looks for pandas when it first makes an array, which takes long: here, and not in a write.
            tasks.create_task(asyncio.to_thread(pa.array, [None]))
            lifeline.ready(socket=str(path))
            await lifeline.stop.wait()
            await transport.drain(settings.drain_seconds)
            for task in running:
                task.cancel()
        await handlers.close()


def _sqlite_path(registry: Registry) -> Path | None:
    try:
        return registry.sqlite_path()
    except InvalidArgumentError:
        return None


if __name__ == "__main__":
    run_child(write)
