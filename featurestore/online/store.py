"""What an online store is: named tables of sorted bytes, read in consistent snapshots and written in durable transactions.

A backend implements `OnlineStore`; featurestore.testing.stores is the suite it must pass. Readers never wait: a snapshot takes no lock
that a writer holds, and stays as it was when it began.

    rows       keyspace + entity key -> the newest row, as the bytes that are sent
    order      keyspace + entity key -> event, created, seq of that row; only writers read it
    pages      keyspace + entity key + page -> events of a windowed view
    log        seq -> a batch of accepted rows that is not yet in the offline table
    parked     event, seq -> an accepted row that is dated after now
    digests    digest of an accepted row -> nothing
    write_ids  digest of a write id -> how that write was answered
    meta       the head, keyspaces, format
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol, get_args

from featurestore.errors import CorruptionError
from featurestore.types import INT64_MAX

Table = Literal["rows", "order", "pages", "log", "parked", "digests", "write_ids", "meta"]
TABLES: tuple[Table, ...] = get_args(Table)

_HEAD = struct.Struct("<QQqq")
HEAD = b"head"


@dataclass(frozen=True, slots=True)
class Head:
    """The state of the whole store at one commit.

    Attributes:
        last_seq: The greatest sequence number given out; 0 before the first.
        pushed_seq: The greatest sequence number of a pushed row.
        clock: No row with a later event time is visible, and every row up to it is; microseconds. It only rises, and is
            the time of day of a store on the replay clock.
        earliest_parked: Event time of the first accepted row that is not visible yet; INT64_MAX when there is none.
    """

    last_seq: int = 0
    pushed_seq: int = 0
    clock: int = 0
    earliest_parked: int = INT64_MAX

    def time(self, now: int | None) -> int:
        """Return the instant t of a read: now, but never past a row that waits, and never before a row that is visible.

        Args:
            now: Microseconds, or None for the replay clock.

        >>> Head(clock=5, earliest_parked=8).time(20), Head(clock=5).time(20), Head(clock=5).time(None)
        (7, 20, 5)
        """
        return self.clock if now is None else max(self.clock, min(now, self.earliest_parked - 1))


class Snapshot(Protocol):
    """The store as it was at one commit."""

    def get(self, table: Table, key: bytes) -> bytes | None:
        """Return the value of a key, or None."""

    def multi_get(self, table: Table, prefix: bytes, keys: Iterable[bytes]) -> list[bytes | None]:
        """Return the value of prefix + key for each key, in their order, None where there is none."""

    def scan(self, table: Table, first: bytes, until: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Go through the pairs with ``first <= key < until`` in the order of keys."""


class Transaction(Snapshot, Protocol):
    """The one write in progress; it sees what it wrote."""

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        """Set the value of a key."""

    def put_many(self, table: Table, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Set many values; sorted keys are fastest."""

    def delete(self, table: Table, key: bytes) -> None:
        """Remove a key; nothing happens when it is not there."""

    def part(self) -> AbstractContextManager[Transaction]:
        """Begin a part that an error inside undoes alone; until it ends it is used in the place of the whole."""


class OnlineStore(Protocol):
    """A place for online rows, the row log and what the writer remembers."""

    def read(self) -> AbstractContextManager[Snapshot]:
        """Begin a snapshot; leaving it frees it."""

    def write(self) -> AbstractContextManager[Transaction]:
        """Begin the only write; leaving it commits durably, an error inside undoes all of it.

        Threads of one process get it in the order in which they asked.
        """

    def writers(self) -> int:
        """Return how many threads of this process write or wait to: long work writes less at once while there are others."""
        return 0

    def reopen(self) -> bool:
        """Follow the store to where a rewrite moved it, and say whether it did; snapshots in progress end where they began."""
        return False

    def close(self) -> None:
        """Release the store; snapshots must have ended."""


def read_head(snapshot: Snapshot) -> Head:
    """Return the head; a store nobody wrote to has the first one."""
    packed = snapshot.get("meta", HEAD)
    return Head() if packed is None else _unpacked(packed)


@lru_cache(maxsize=2)
def _unpacked(packed: bytes) -> Head:
    """Return a head that is mostly the one of the read before."""
    if len(packed) != _HEAD.size:
        raise CorruptionError(f"The head record has {len(packed)} bytes, not {_HEAD.size}.", place="meta/head")
    return Head(*_HEAD.unpack(packed))


def write_head(transaction: Transaction, head: Head) -> None:
    """Record the head."""
    packed = _HEAD.pack(head.last_seq, head.pushed_seq, head.clock, head.earliest_parked)
    transaction.put("meta", HEAD, packed)
