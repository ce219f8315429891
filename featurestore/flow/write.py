"""The one writer of a project: accepts rows, numbers them, and makes them durable and visible in one transaction."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
import pyarrow as pa

from featurestore.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError
from featurestore.flow.apply import WrittenView, apply_rows
from featurestore.flow.fold import Tables, fold_log, folded_head
from featurestore.flow.ingest import late_creation_warning
from featurestore.flow.materialize import MaterializeReport, fill_online
from featurestore.flow.parked import earliest_parked, park_rows, take_due
from featurestore.flow.repeats import answer_of, new_rows, remember_answer
from featurestore.flow.row_log import conform, log_rows
from featurestore.online.keyspaces import open_keyspace, record_keyspace
from featurestore.online.lmdb import open_lmdb
from featurestore.online.rows import micros
from featurestore.online.store import Head, Transaction, read_head, write_head
from featurestore.refs import ViewRef
from featurestore.registry.snapshot import RegistrySnapshot
from featurestore.rows import EVENT, SEQ, Canonical, RowSchema
from featurestore.types import from_micros

Clock = Callable[[], int]


@dataclass(frozen=True, slots=True)
class WriteReport:
    """How a write was answered.

    Attributes:
        accepted: Rows that were new; they are durable.
        repeated_rows: Rows equal to an accepted one in keys, times, event key and values.
        parked: Accepted rows that are dated after now: they become visible when they come due.
        first_seq: Sequence number of the first accepted row, 0 when none was.
        last_seq: Sequence number of the last one.
        warnings: What a user should know.
    """

    accepted: int
    repeated_rows: int
    parked: int
    first_seq: int
    last_seq: int
    warnings: tuple[str, ...] = ()


class Writer(AbstractContextManager["Writer"]):
    """The one writer of a project; it holds the lock until it is closed.

    Args:
        store_directory: The project's ``store`` folder.
        snapshot: Returns the registry as it is now.
        clock: Microseconds since 1970 UTC; None is the replay clock, which `advance_clock` moves.
        tables: Gives the offline table of a view version.

    Raises:
        UnavailableError: Another process is the writer.
    """

    def __init__(
        self,
        store_directory: Path,
        snapshot: Callable[[], RegistrySnapshot],
        clock: Clock | None,
        tables: Tables,
    ) -> None:
        self._lock = _hold(store_directory / "writer.lock")
        try:
            self._store = open_lmdb(store_directory / "online")
        except BaseException:
            self._lock.close()
            raise
        self._snapshot = snapshot
        self._clock = clock
        self._tables = tables
        self._recover()

    def write(self, ref: ViewRef, rows: pa.Table, *, write_id: bytes = b"") -> WriteReport:
        """Accept rows of a view; when this returns they are durable, and visible unless they are dated after now.

        Args:
            ref: The view; without a version, the current one.
            rows: Rows that look like the view's source.
            write_id: A write with the same id within seven days is answered as the first was, and not accepted again; empty is none.

        Raises:
            InvalidArgumentError: A column is missing or has another type, or an event time or key is null; nothing was accepted.
        """
        view = WrittenView.of(self._snapshot(), ref)
        canonical = _whole(view.schema.canonical(rows), view.schema)
        with self._store.write() as transaction:
            answered = answer_of(transaction, view.ref, write_id, WriteReport)
            if answered is not None:
                return answered
            head = self._release(transaction)
            report = self._accept(transaction, view, canonical, head)
            remember_answer(transaction, view.ref, write_id, report, now=head.clock)
        return report

    def reserve(self, count: int) -> int:
        """Return the first of `count` sequence numbers that nobody else will get, for a bulk load."""
        with self._store.write() as transaction:
            head = read_head(transaction)
            write_head(transaction, replace(head, last_seq=head.last_seq + count))
        return head.last_seq + 1

    def fold(self) -> int:
        """Move the row log to the offline tables, exactly once; returns how many rows that were."""
        return fold_log(self._store, self._tables)

    def release(self) -> Head:
        """Make the rows visible that have come due; returns the head after it."""
        with self._store.write() as transaction:
            return self._release(transaction)

    def advance_clock(self, time: int) -> Head:
        """Move the replay clock forward and make visible what comes due, at once.

        Args:
            time: Microseconds since 1970 UTC; not before the clock's.

        Raises:
            FailedPreconditionError: This store runs on the system clock.
            InvalidArgumentError: The clock only rises.
        """
        if self._clock is not None:
            raise FailedPreconditionError(
                "This store runs on the system clock.", repair="Start the server with --clock replay."
            )
        with self._store.write() as transaction:
            head = read_head(transaction)
            if time < head.clock:
                raise InvalidArgumentError(
                    f"The replay clock is at {from_micros(head.clock).isoformat()} and only rises.", place="$.time"
                )
            return self._release(transaction, now=time)

    def materialize(self, ref: ViewRef) -> MaterializeReport:
        """Bring the offline rows of a view version online, after folding the row log; fills a newer layout too.

        Raises:
            FailedPreconditionError: The version has no rows, or the replay clock was never set.
        """
        view = WrittenView.of(self._snapshot(), ref)
        self.fold()
        table = self._tables(view.ref)
        if not table.exists:
            raise FailedPreconditionError(
                f"{view.ref} has no rows.",
                repair=f"Run `featurestore ingest {view.ref}` or `featurestore write {view.ref}`.",
            )
        now = self.release().clock
        if self._clock is None and now == 0:
            raise FailedPreconditionError(
                "The replay clock was never set, so no row has happened yet.",
                repair="Advance it first: POST /v1/clock, Client.advance_clock, or `featurestore replay`.",
            )
        return fill_online(self._store, view, table, now=now)

    def head(self) -> Head:
        """Return the state of the store: last sequence number and clock."""
        with self._store.read() as snapshot:
            return read_head(snapshot)

    def close(self) -> None:
        """Give the lock back."""
        self._store.close()
        self._lock.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _recover(self) -> None:
        """Go on after the numbers that are in use, if the online store was lost and is empty again."""
        if self.head() == Head():
            views = [ref for ref, record in self._snapshot().view_versions() if record.source is not None]
            head = folded_head(Head(), views, self._tables)
            if head != Head():
                with self._store.write() as transaction:
                    write_head(transaction, head)

    def _release(self, transaction: Transaction, *, now: int | None = None) -> Head:
        """Apply parked rows that are due, and move the store's clock: everything up to it is visible, nothing after it."""
        head = read_head(transaction)
        time = max(head.clock, head.clock if self._clock is None else self._clock(), now or head.clock)
        snapshot = self._snapshot()
        for ref, parts in take_due(transaction, time).items():
            view = WrittenView.of(snapshot, ref)
            schema = view.schema.arrow()
            apply_rows(transaction, view, pa.concat_tables([conform(part, schema) for part in parts]), now=time)
        head = replace(head, clock=time, earliest_parked=earliest_parked(transaction))
        write_head(transaction, head)
        return head

    def _accept(self, transaction: Transaction, view: WrittenView, rows: pa.Table, head: Head) -> WriteReport:
        fresh = new_rows(transaction, view.ref, view.schema, rows)
        table = self._tables(view.ref)
        if view.record.kind == "window" and not view.schema.event_key and table.exists:
            fresh = table.new_rows(fresh)  # an event that was ingested before would count twice
        warnings = late_creation_warning(fresh, str(view.ref), view.record.backfilled_until)
        if not len(fresh):
            return WriteReport(0, len(rows), 0, 0, 0)
        first, last = head.last_seq + 1, head.last_seq + len(fresh)
        accepted = fresh.append_column(SEQ, pa.array(np.arange(first, last + 1)))
        log_rows(transaction, view.ref, accepted)
        future = micros(accepted[EVENT]) > head.clock
        park_rows(transaction, view.ref, accepted.filter(pa.array(future)))
        self._note_first_rows(transaction, view)
        apply_rows(transaction, view, accepted.filter(pa.array(~future)), now=head.clock)
        waits = earliest_parked(transaction)
        write_head(transaction, replace(head, last_seq=last, pushed_seq=last, earliest_parked=waits))
        return WriteReport(len(fresh), len(rows) - len(fresh), int(future.sum()), first, last, warnings)

    def _note_first_rows(self, transaction: Transaction, view: WrittenView) -> None:
        """A version whose very first rows are pushed is complete online from then on; one with a past needs a materialize."""
        keyspace = open_keyspace(transaction, view.ref, view.record.layout)
        if not keyspace.filled and not self._tables(view.ref).exists:
            filled = type(keyspace)(keyspace.number, filled=True)
            record_keyspace(transaction, view.ref, view.record.layout, filled)


def _whole(canonical: Canonical, schema: RowSchema) -> pa.Table:
    """Return the rows, or refuse them all if any has a null event time or key: a push says exactly what it means."""
    if canonical.null_events:
        raise InvalidArgumentError(
            f"{canonical.null_events} rows have a null event time.", place=f"$.columns.{schema.event_timestamp}"
        )
    if canonical.null_keys:
        names = ", ".join(column.source for column in (*schema.keys, *schema.event_key))
        raise InvalidArgumentError(f"{canonical.null_keys} rows have a null key ({names}).", place="$.columns")
    return canonical.rows


def _hold(path: Path) -> IO[str]:
    """Take the writer's lock, or say who has it; the lock goes with the process that holds it, however that ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        holder = lock.read().strip() or "another process"
        lock.close()
        raise UnavailableError(
            f"{path} is held by {holder}.", repair="Write through its server, or stop it."
        ) from error
    lock.truncate(0)
    lock.write(f"process {os.getpid()}\n")
    lock.flush()
    return lock
