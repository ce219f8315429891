"""Reaching the one writer of a project: the server's over its socket if one runs, else this process under the lock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from featurestore.errors import UnavailableError
from featurestore.flow.clock_mark import is_replay
from featurestore.flow.fold import Tables
from featurestore.flow.remote import RemoteWriter
from featurestore.flow.sockets import socket_path
from featurestore.flow.write import Clock, Writer
from featurestore.online.redis_address import RedisAddress
from featurestore.registry.snapshot import RegistrySnapshot

_PATIENCE = 10.0  # seconds to wait for another process that holds the lock for a short while

AnyWriter = Writer | RemoteWriter


@contextmanager
def open_writer(
    store: Path,
    *,
    snapshot: Callable[[], RegistrySnapshot],
    clock: Clock,
    tables: Tables,
    redis: RedisAddress | None = None,
) -> Iterator[AnyWriter]:
    """Open the writer of a store for a while.

    Args:
        store: The project's ``store`` folder.
        snapshot: Returns the registry as it is now.
        clock: Microseconds UTC; a store on the replay clock does not ask it.
        tables: Gives the offline table of a view version.
        redis: The Redis that is read online; None is none.

    Raises:
        UnavailableError: Another process holds the lock and serves no socket.
    """
    now = None if is_replay(store) else clock
    with _reach(store, lambda: Writer(store, snapshot, now, tables, redis)) as writer:
        yield writer


def _reach(store: Path, take: Callable[[], Writer]) -> AnyWriter:
    """Return the server's writer, or become the writer; another process that is it for a moment is waited for."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        if _is_served(store):
            return RemoteWriter(store)
        try:
            return take()
        except UnavailableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _is_served(store: Path) -> bool:
    """Say whether a writer answers at the socket; one that was killed leaves its file behind."""
    path = socket_path(store)
    if not path.exists():
        return False
    with grpc.insecure_channel(f"unix:{path}") as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=1.0)
        except grpc.FutureTimeoutError:
            return False
    return True
