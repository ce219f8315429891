"""The one writer process of a server: accepts rows over a Unix socket, folds the log, releases due rows, collects usage."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from featurestore.errors import InvalidArgumentError
from featurestore.flow.remote import ADDRESS, SOCKET
from featurestore.flow.write import Writer
from featurestore.registry.storage import Registry
from featurestore.serving.child import Lifeline, every, run_child
from featurestore.serving.grpc_aio import GrpcAioTransport
from featurestore.serving.settings import ServeSettings
from featurestore.serving.writer_handlers import WriterHandlers
from featurestore.store import FeatureStore, system_clock

RELEASE_SECONDS = 0.25  # how late a row that has come due may become visible
FOLD_SECONDS = 10.0  # each fold is a commit of the offline tables; a training read folds before it reads anyway
MAX_TABLE_BYTES = 512 << 20  # what a process on this machine may write at once

_LONGEST_SOCKET = 100  # bytes of its path; the kernel takes 107


async def write(settings: ServeSettings, lifeline: Lifeline) -> None:
    """Be the writer until the lifeline says stop."""
    with FeatureStore(settings.project) as store, socket_of(settings.store_dir) as path:
        clock = None if settings.is_replay else system_clock
        writer = Writer(settings.store_dir, store.snapshot, clock, store.table)
        handlers = WriterHandlers(
            writer,
            store.snapshot,
            replay=settings.is_replay,
            usage_directory=settings.store_dir / "usage",
            registry_path=_sqlite_path(store.registry),
        )
        pa.array([None])  # makes Arrow look for pandas now, which takes seconds, and not during the first write
        transport = GrpcAioTransport(handlers.methods(), public=False, max_request_bytes=MAX_TABLE_BYTES)
        await _listen(transport, path)
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(every(RELEASE_SECONDS, "releasing rows", lambda: handlers.release(system_clock()))),
                tasks.create_task(every(FOLD_SECONDS, "folding the row log", handlers.fold)),
                tasks.create_task(every(settings.usage_seconds, "collecting usage", handlers.collect)),
            ]
            lifeline.ready(socket=str(path))
            await lifeline.stop.wait()
            await transport.drain(settings.drain_seconds)
            for task in running:
                task.cancel()
        await handlers.close()


@contextmanager
def socket_of(store_directory: Path) -> Iterator[Path]:
    """Choose where the writer listens, and leave nothing of it behind.

    A path that is too long for a socket is replaced by a private folder's; the file ``writer.address`` names it.
    """
    store_directory.mkdir(parents=True, exist_ok=True)
    address = store_directory / ADDRESS
    path = store_directory / SOCKET
    address.unlink(missing_ok=True)
    if len(os.fsencode(path)) <= _LONGEST_SOCKET:
        yield path
        path.unlink(missing_ok=True)
        return
    with tempfile.TemporaryDirectory(prefix="featurestore-") as folder:  # only its owner may enter it
        path = Path(folder) / SOCKET
        address.write_text(f"{path}\n")
        yield path
        address.unlink(missing_ok=True)


async def _listen(transport: GrpcAioTransport, path: Path) -> None:
    """Open the socket for its owner alone."""
    before = os.umask(0o177)
    try:
        await transport.start(f"unix:{path}")
    finally:
        os.umask(before)


def _sqlite_path(registry: Registry) -> Path | None:
    try:
        return registry.sqlite_path()
    except InvalidArgumentError:
        return None


if __name__ == "__main__":
    run_child(write)
