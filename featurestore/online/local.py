"""The online store in this process: the read of the server without a server, by the same request, reader and decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from featurestore.decoding import OnlineRows, decode
from featurestore.errors import FailedPreconditionError
from featurestore.keys import encode_request
from featurestore.lanes import WireColumn
from featurestore.online.keyspaces import find_keyspace, has_keyspaces
from featurestore.online.lmdb import open_lmdb
from featurestore.online.reader import OnlineReader, PreparedRead, schema_message
from featurestore.online.redis_address import RedisAddress
from featurestore.online.store import Snapshot, read_head
from featurestore.planning import ReadPlan
from featurestore.refs import ViewRef
from featurestore.v1 import serving_pb2 as pb

_T = TypeVar("_T")


def read_in_process(
    folder: Path,
    plan: ReadPlan,
    keys: Mapping[str, Sequence[Any]],
    request: Mapping[str, Sequence[Any]],
    *,
    clock: Callable[[], int] | None,
    redis: RedisAddress | None = None,
) -> tuple[OnlineRows, tuple[tuple[str, int], ...]]:
    """Read one row per entity from an online store in this process; returns them, and what usage counts: (id, rows).

    Args:
        folder: Folder of the online store.
        plan: What to read.
        keys: Key column -> values, all of one length.
        request: Request column -> values of the same length.
        clock: Microseconds UTC; None is the replay clock, which lives in the store.
        redis: The Redis that is read in the place of the folder; None is none.

    Raises:
        UnavailableError: Redis does not answer, or is not filled again yet.
        FailedPreconditionError: A view was never filled; names the command that does.
        InvalidArgumentError: A column is missing or unknown, a key is null, or a value of another type; says where.
    """
    from featurestore.client import ReadShape  # it brings grpc along, which the other functions here do without

    schema = schema_message(plan)
    message = pb.ReadRequest.FromString(ReadShape.of(schema).pack(keys, request))
    encoded = [encode_request(message.columns, key_set) for key_set in plan.key_sets]
    if redis is not None:
        prepared, answered = _read_redis(redis, plan, encoded, message.columns, clock)
        return decode(schema, answered), tuple(prepared.usage(encoded))
    store = open_lmdb(folder)  # not read-only: a writer of this process may have it open, or open it next
    try:
        reader = OnlineReader(store, clock)
        prepared = reader.prepare(plan)
        return decode(schema, reader.read(prepared, encoded, message.columns)), tuple(prepared.usage(encoded))
    finally:
        store.close()


def _read_redis(
    address: RedisAddress,
    plan: ReadPlan,
    keys: Sequence[Sequence[bytes]],
    request: Iterable[WireColumn],
    clock: Callable[[], int] | None,
) -> tuple[PreparedRead, bytes]:
    from featurestore.online.redis import RedisStore
    from featurestore.online.redis_reader import prepare_in_redis, read_at_once

    store = RedisStore(address)
    try:
        prepared = prepare_in_redis(plan)
        return prepared, read_at_once(store, prepared, keys, request, now=clock() if clock else None)
    finally:
        store.close()


def clock_of(folder: Path) -> int:
    """Return the clock of an online store, microseconds UTC; 0 before it was ever set.

    Args:
        folder: Folder of the online store.
    """
    return _ask(folder, lambda snapshot: read_head(snapshot).clock) or 0


def was_written(folder: Path, ref: ViewRef) -> bool:
    """Say whether rows of a view version were accepted, although they may still be in the row log alone.

    Args:
        folder: Folder of the online store; it need not be there.
        ref: The view version.
    """
    return bool(_ask(folder, lambda snapshot: has_keyspaces(snapshot, ref)))


def check_filled(folder: Path, ref: ViewRef, layout: int) -> None:
    """Make sure that a view version can be read online; raises FailedPreconditionError.

    Args:
        folder: Folder of the online store; it need not be there.
        ref: The view version.
        layout: Its layout.
    """
    keyspace = _ask(folder, lambda snapshot: find_keyspace(snapshot, ref, layout))
    if keyspace is None or not keyspace.filled:
        raise FailedPreconditionError(
            f"{ref} was never filled online.", repair=f"Run `featurestore materialize {ref}` first."
        )


def has_logged_rows(folder: Path) -> bool:
    """Say whether the row log holds accepted rows that may not be in the offline tables yet.

    Args:
        folder: Folder of the online store; it need not be there.
    """
    return bool(_ask(folder, lambda snapshot: any(True for _ in snapshot.scan("log", b"", b"\xff"))))


def _ask(folder: Path, question: Callable[[Snapshot], _T]) -> _T | None:
    """Ask the store something; the answer is None when there is no store."""
    if not folder.exists():
        return None
    store = open_lmdb(folder)
    try:
        with store.read() as snapshot:
            return question(snapshot)
    finally:
        store.close()
