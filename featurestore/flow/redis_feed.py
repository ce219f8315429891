"""The row log -> Redis, by a cursor that stands in Redis beside the rows and moves with them or after them, never before.

What is in the log is put batch by batch; a row that is there already, or a greater one, stays, so that a batch may come again after a
crash. Where the log does not reach back to the cursor, because Redis was away for long or was emptied, the offline tables hold what is
missing. Every commit makes sure that the record of the cursor is still the one it knows: nothing is put into a Redis that was emptied
meanwhile.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pyarrow as pa

from featurestore.errors import FailedPreconditionError
from featurestore.flow.apply import WrittenView, release_rows, show_rows
from featurestore.flow.fold import TRIMMED, Tables
from featurestore.flow.materialize import MaterializeReport, fill_online
from featurestore.flow.row_log import conform, logged_rows
from featurestore.offline.durable import write_durably
from featurestore.online.keyspaces import (
    Keyspace,
    find_keyspace,
    live_layouts,
    open_keyspace,
    record_keyspace,
    usual_number,
)
from featurestore.online.redis import FED, Fed, RedisStore, decode_fed
from featurestore.online.redis_address import RedisAddress
from featurestore.online.store import Head, OnlineStore, Snapshot, read_head, write_head
from featurestore.refs import ViewRef
from featurestore.registry.snapshot import RegistrySnapshot
from featurestore.rows import SEQ

_ROWS_AT_ONCE = 50_000  # read from the log
_ROWS_OF_A_COMMIT = 5_000
_LOG_ID = b"log_id"
_GRACE = 60_000_000  # microseconds that a row stays after it is too old: clocks differ

_Filling = tuple[ViewRef, tuple[int, ...]]  # a view version and its layouts


@dataclass(frozen=True, slots=True)
class _Piece:
    """A piece of the log, as it was at one moment.

    Attributes:
        head: The head of the store then.
        trimmed: Key of the last entry that was folded away.
        batches: (key, view version, rows) of entries after the cursor.
        is_last: Whether there were no more.
        readable: The view versions that can be read in the store.
    """

    head: Head
    trimmed: int
    batches: list[tuple[int, ViewRef, pa.Table]]
    is_last: bool
    readable: list[WrittenView]


class RedisFeed:
    """Brings what a store accepts to Redis; threads may share it.

    Args:
        address: Where Redis is.
        log: The store that accepts rows; the caller is its only writer.
        owner: The file that tells this project's store from others; it is made when there is none.
        snapshot: Returns the registry as it is now.
        tables: Gives the offline table of a view version.
        expire: Whether rows that are older than the ttl of their view go by themselves; not on the replay clock.
    """

    def __init__(
        self,
        address: RedisAddress,
        log: OnlineStore,
        owner: Path,
        snapshot: Callable[[], RegistrySnapshot],
        tables: Tables,
        *,
        expire: bool,
    ) -> None:
        self.store = RedisStore(address)
        self._log = log
        self._snapshot = snapshot
        self._tables = tables
        self._expire = expire
        self._mutex = threading.RLock()
        self._owner, self._log_id = _owner_of(owner), self._identify()
        self._filled: set[_Filling] = set()  # known to be readable there

    def step(self) -> int:
        """Bring everything to Redis that is not there yet, and return how many rows of the log that were.

        Raises:
            UnavailableError: Redis does not answer; the next step goes on.
            FailedPreconditionError: Redis drops keys by itself, or holds the rows of another store.
        """
        with self._mutex:
            fed = self._begin()
            count, has_base = 0, fed.complete
            while True:
                piece = self._read(fed.cursor)
                if fed.cursor < piece.trimmed or not has_base:
                    fed, has_base = self._catch_up(fed, piece), True
                for key, ref, rows in piece.batches:
                    fed = self._put(fed, key, ref, rows, piece.head.clock)
                    count += len(rows)
                if piece.is_last and self._trimmed() <= fed.cursor:
                    break
            self._fill(piece)
            self._conclude(fed, piece.head)
            return count

    def materialize(self, view: WrittenView, *, now: int, full: bool) -> MaterializeReport | None:
        """Bring the offline rows of a view version to Redis, after what is in the log; None for a windowed view.

        Args:
            view: The view version, which has a table.
            now: Rows with a later event time are parked; microseconds.
            full: Read everything, whatever was brought before.
        """
        if view.record.kind == "window":
            return None
        with self._mutex:
            self._filled.discard(_filling(view))  # if it fails, the next step fills
            self.step()
            return fill_online(self.store, view, self._tables(view.ref), now=now, full=full)

    @contextmanager
    def paused(self) -> Iterator[RedisStore]:
        """Hold all feeding up, so that rows which are being erased are not brought again."""
        with self._mutex:
            self.step()
            yield self.store

    def close(self) -> None:
        """Release the connections."""
        self.store.close()

    def _identify(self) -> bytes:
        """Return what tells this row log from one that was lost, made when it is asked for the first time."""
        with self._log.read() as snapshot:
            known = snapshot.get("meta", _LOG_ID)
        if known is not None:
            return known
        with self._log.write() as transaction:
            transaction.put("meta", _LOG_ID, secrets.token_bytes(16))
        return self._identify()

    def _begin(self) -> Fed:
        """Return how far Redis was fed; one that holds nothing, or what a lost row log fed, is filled from the start."""
        with self.store.read() as there:
            stored = there.get("meta", FED)
        if stored != self.store.guard:  # it went back in time, or somebody else fed it
            self._filled.clear()
        self.store.guard = stored
        if stored is None:
            return self._take()
        fed = decode_fed(stored)
        if fed.owner != self._owner:
            raise FailedPreconditionError(
                f"{self.store.address} holds the rows of another store under '{self.store.address.namespace}'.",
                repair="Choose another namespace under [online], or delete those keys; what is missing is brought again.",
            )
        return fed if fed.log == self._log_id else self._take()

    def _take(self) -> Fed:
        """Begin with an empty Redis."""
        self.store.check()
        self.store.clear()
        self._filled.clear()
        self.store.guard = b""
        return self._note(Fed(self._owner, secrets.token_bytes(8), log=self._log_id))

    def _note(self, fed: Fed, *shown: tuple[WrittenView, pa.Table, int]) -> Fed:
        """Record how far Redis was fed, in one commit with the rows that are shown last and the position of them."""
        with self.store.write() as transaction:
            for view, rows, now in shown:
                show_rows(transaction, view, rows, now=now)
                head, last = read_head(transaction), rows[SEQ][-1].as_py()
                pushed, given = max(head.pushed_seq, last), max(head.last_seq, last)
                write_head(transaction, replace(head, pushed_seq=pushed, last_seq=given))
            transaction.put("meta", FED, msgspec.msgpack.encode(fed))
        return fed

    def _read(self, cursor: int) -> _Piece:
        registry = self._snapshot()
        self._set_lifetimes(registry)
        batches: list[tuple[int, ViewRef, pa.Table]] = []
        count, is_last = 0, True
        with self._log.read() as log:
            for key, ref, rows in logged_rows(log, after=cursor):
                if count >= _ROWS_AT_ONCE:
                    is_last = False
                    break
                batches.append((int.from_bytes(key, "big"), ref, rows))
                count += len(rows)
            return _Piece(read_head(log), _trimmed(log), batches, is_last, _readable(registry, log))

    def _trimmed(self) -> int:
        with self._log.read() as log:
            return _trimmed(log)

    def _catch_up(self, fed: Fed, piece: _Piece) -> Fed:
        """Bring from the offline tables what the log does not hold any more."""
        for view in piece.readable:
            table = self._tables(view.ref)
            if table.exists:
                fill_online(self.store, view, table, now=piece.head.clock, full=not fed.complete)
        return self._note(msgspec.structs.replace(fed, cursor=max(fed.cursor, piece.trimmed)))

    def _put(self, fed: Fed, key: int, ref: ViewRef, rows: pa.Table, now: int) -> Fed:
        """Put a batch of the log, and move the cursor with the last of it."""
        view = WrittenView.of(self._snapshot(), ref)
        rows = conform(rows, view.schema.arrow())
        parts = [rows.slice(start, _ROWS_OF_A_COMMIT) for start in range(0, len(rows), _ROWS_OF_A_COMMIT)]
        shown = parts if view.record.kind == "batch" else []
        for part in shown[:-1]:
            with self.store.write() as transaction:
                show_rows(transaction, view, part, now=now)
        return self._note(msgspec.structs.replace(fed, cursor=key), *((view, part, now) for part in shown[-1:]))

    def _fill(self, piece: _Piece) -> None:
        """Make readable in Redis what is readable in the store: all its rows were in the log, or its table has them."""
        for view in piece.readable:
            if _filling(view) not in self._filled:
                self._fill_view(view, piece.head.clock)
                self._filled.add(_filling(view))

    def _fill_view(self, view: WrittenView, now: int) -> None:
        with self.store.read() as there, self._log.read() as here:
            keyspaces = [
                (find_keyspace(there, view.ref, layout), find_keyspace(here, view.ref, layout))
                for layout in live_layouts(view.record)
            ]
        if all(copy is not None and copy.filled and _reached(copy) >= _reached(known) for copy, known in keyspaces):
            return
        table = self._tables(view.ref)
        if table.exists:
            fill_online(self.store, view, table, now=now)
            return
        with self.store.write() as transaction:
            for layout in live_layouts(view.record):
                keyspace = open_keyspace(transaction, view.ref, layout)
                record_keyspace(transaction, view.ref, layout, msgspec.structs.replace(keyspace, filled=True))

    def _conclude(self, fed: Fed, head: Head) -> None:
        """Make visible what has come due, and say how far Redis is; nothing is sent when nothing is new."""
        with self.store.read() as there:
            known = read_head(there)
        done = replace(known, last_seq=head.last_seq, pushed_seq=head.pushed_seq, clock=max(known.clock, head.clock))
        if done == known and fed.complete:
            return
        whole = msgspec.structs.replace(fed, complete=True)
        with self.store.write() as transaction:
            released = release_rows(transaction, self._snapshot(), now=head.clock)
            write_head(transaction, replace(released, last_seq=head.last_seq, pushed_seq=head.pushed_seq))
            transaction.put("meta", FED, msgspec.msgpack.encode(whole))

    def _set_lifetimes(self, registry: RegistrySnapshot) -> None:
        if self._expire:
            self.store.lifetimes = {
                Keyspace(usual_number(ref, layout)).prefix: record.ttl + _GRACE
                for ref, record in registry.view_versions()
                if record.ttl is not None
                for layout in live_layouts(record)
            }


def _owner_of(path: Path) -> bytes:
    """Return what a file says about whose store this is, made when there is none."""
    if not path.exists():
        write_durably(path, secrets.token_bytes(16))
    return path.read_bytes()


def _filling(view: WrittenView) -> _Filling:
    return view.ref, live_layouts(view.record)


def _reached(keyspace: Keyspace | None) -> int:
    """Return the version of the offline table up to which rows were brought online; -1 before the first."""
    return -1 if keyspace is None or keyspace.version is None else keyspace.version


def _trimmed(log: Snapshot) -> int:
    return int.from_bytes(log.get("meta", TRIMMED) or b"", "big")


def _readable(registry: RegistrySnapshot, log: Snapshot) -> list[WrittenView]:
    """Return the view versions without windows that can be read in a store."""
    found = []
    for ref, record in registry.view_versions():
        if record.kind == "batch":
            keyspaces = [find_keyspace(log, ref, layout) for layout in live_layouts(record)]
            if any(keyspace is not None and keyspace.filled for keyspace in keyspaces):
                found.append(WrittenView.of(registry, ref))
    return found
