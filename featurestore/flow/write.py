"""The one writer of a project: accepts rows, numbers them, and makes them durable and visible in one transaction."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING

import msgspec
import numpy as np
import pyarrow as pa

from featurestore.errors import FailedPreconditionError, FeatureStoreError, InvalidArgumentError, UnavailableError
from featurestore.flow.apply import WrittenView, release_rows, show_rows
from featurestore.flow.erase import Places, begin, erase
from featurestore.flow.erased import Journal, Receipt, erasures_of
from featurestore.flow.fold import Tables, fold_log, folded_head
from featurestore.flow.ingest import is_ingesting, late_creation_warning
from featurestore.flow.materialize import MaterializeReport, fill_online
from featurestore.flow.quarantine import Gate
from featurestore.flow.repeats import answer_of, new_rows, remember_answer
from featurestore.flow.row_log import first_logged, log_rows
from featurestore.flow.sweep import Sweep
from featurestore.flow.upkeep import UpkeepReport, tend_views
from featurestore.offline.expectations import Batch
from featurestore.offline.table import OfflineTable
from featurestore.online.keyspaces import open_keyspace, record_keyspace
from featurestore.online.lmdb import open_lmdb
from featurestore.online.redis_address import RedisAddress
from featurestore.online.rows import micros
from featurestore.online.store import Head, OnlineStore, Transaction, read_head, write_head
from featurestore.refs import ViewRef
from featurestore.registry.snapshot import RegistrySnapshot
from featurestore.rows import EVENT, SEQ, Canonical, RowSchema
from featurestore.types import from_micros

if TYPE_CHECKING:
    from featurestore.flow.redis_feed import RedisFeed

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


@dataclass(frozen=True, slots=True)
class Write:
    """A write that shall be accepted.

    Attributes:
        ref: The view; without a version, the current one.
        rows: Rows that look like the view's source.
        write_id: A write with the same id within seven days is answered as the first was; empty is none.
        released: Id of the quarantined batch that the rows are; empty is none.
        stream: Number of the stream that it is part of: once a part is refused, those after it are too. 0 is none.
    """

    ref: ViewRef
    rows: pa.Table
    write_id: bytes = b""
    released: str = ""
    stream: int = 0


Answer = WriteReport | FeatureStoreError


@dataclass(frozen=True, slots=True)
class _Ready:
    """A write with its view and its rows in canonical form."""

    write: Write
    view: WrittenView
    rows: pa.Table


@dataclass(slots=True)
class _Together:
    """What writes that are committed together have accepted so far.

    Attributes:
        head: The head after them.
        broken: Streams of which a part was refused.
        accepted: The new rows by view.
    """

    head: Head
    broken: set[int]
    accepted: dict[ViewRef, tuple[WrittenView, list[pa.Table]]] = field(default_factory=dict)

    def add(self, view: WrittenView, rows: pa.Table, last_seq: int) -> None:
        self.head = replace(self.head, last_seq=last_seq)
        self.accepted.setdefault(view.ref, (view, []))[1].append(rows)


class Writer(AbstractContextManager["Writer"]):
    """The one writer of a project; it holds the lock until it is closed.

    Args:
        store_directory: The project's ``store`` folder.
        snapshot: Returns the registry as it is now.
        clock: Microseconds since 1970 UTC; None is the replay clock, which `advance_clock` moves.
        tables: Gives the offline table of a view version.
        redis: The Redis that is read online; it is fed from the row log. None is none.

    Raises:
        UnavailableError: Another process is the writer.
    """

    def __init__(
        self,
        store_directory: Path,
        snapshot: Callable[[], RegistrySnapshot],
        clock: Clock | None,
        tables: Tables,
        redis: RedisAddress | None = None,
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
        self._sweep = Sweep(self._store)
        self._opened: dict[ViewRef, OfflineTable] = {}
        self._gate = Gate(store_directory)
        self._erasures = erasures_of(store_directory)
        self._directory = store_directory
        self._feed: RedisFeed | None = None
        try:
            if redis is not None:
                self._feed = self._open_feed(redis)
            self._recover()
            self._ledger = self._erasures.ledger()
        except BaseException:
            self.close()
            raise

    def write(self, ref: ViewRef, rows: pa.Table, *, write_id: bytes = b"", released: str = "") -> WriteReport:
        """Accept rows of a view; when this returns they are durable, and visible unless they are dated after now.

        Args:
            ref: The view; without a version, the current one.
            rows: Rows that look like the view's source.
            write_id: A write with the same id within seven days is answered as the first was, and not accepted again; empty is none.
            released: Id of the quarantined batch that the rows are: the expectations that it broke are waived.

        Raises:
            InvalidArgumentError: A column is missing or has another type, or an event time or key is null; nothing was accepted.
            QuarantinedError: An expectation does not hold; nothing was accepted, and the rows are in quarantine.
            ErasedError: Rows are of an erased entity, and not later than its erasure; nothing was accepted.
        """
        (answer,) = self.write_all([Write(ref, rows, write_id, released)])
        if isinstance(answer, FeatureStoreError):
            raise answer
        return answer

    def write_all(self, writes: Sequence[Write]) -> list[Answer]:
        """Accept several writes in one durable commit, in their order and each by itself: one that is refused undoes no other.

        If they cannot be committed together, each is tried alone, so that none fails for what another did.

        Args:
            writes: What to accept.

        Returns:
            For each write what `write` returns, or the error that it raises.
        """
        try:
            return self._commit(writes, set())
        except Exception:  # whatever one of them did, the others have their turn
            if len(writes) == 1:
                raise
        broken: set[int] = set()
        return [self._alone(write, broken) for write in writes]

    def reserve(self, count: int) -> int:
        """Return the first of `count` sequence numbers that nobody else will get, for a bulk load."""
        with self._store.write() as transaction:
            head = read_head(transaction)
            write_head(transaction, replace(head, last_seq=head.last_seq + count))
        return head.last_seq + 1

    def fold(self) -> int:
        """Move the row log to the offline tables, exactly once; returns how many rows that were."""
        return fold_log(self._store, self._tables)

    def unfolded(self) -> int:
        """Return how many sequence numbers the row log goes back: about as many rows as wait for the next fold."""
        with self._store.read() as snapshot:
            first = first_logged(snapshot)
            return 0 if first is None else read_head(snapshot).last_seq - first + 1

    def tend(self) -> list[UpkeepReport]:
        """Compact the offline tables whose reads gain from it, and drop some online pages that no window reaches any more.

        May run beside everything else that the writer does.
        """
        self._sweep.step(self._snapshot())
        stored = [ref for ref, record in self._snapshot().view_versions() if record.source is not None]
        return tend_views(stored, self._tables)

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

    def erase(self, entity: str, keys: pa.Table, *, principal: str, reason: str, now: int) -> Receipt:
        """Erase keys of an entity from everything that the store holds; an erasure that was interrupted is finished first.

        Args:
            entity: Name of the entity.
            keys: One row for each key, with the entity's join keys as columns.
            principal: Who asks for it.
            reason: Why; it is kept.
            now: Microseconds since 1970 UTC.

        Raises:
            NotFoundError: There is no such entity.
            InvalidArgumentError: A key is missing, null or of another type, or the reason names it.
            UnavailableError: An ingest, a compaction or a save is in the way; nothing was changed.
        """
        self.finish_erasure()
        journal = begin(self._places(), entity, keys, principal=principal, reason=reason, now=now)
        self.fold()
        try:
            return self._erase(journal)
        finally:
            self._ledger = self._erasures.ledger()

    @property
    def is_erasing(self) -> bool:
        """Whether an erasure runs, or was interrupted."""
        return self._erasures.journal() is not None

    def finish_erasure(self) -> None:
        """Go on with an erasure that was interrupted, if there is one; until it is done no rows of its keys are accepted.

        Raises:
            UnavailableError: Redis does not answer, or an ingest, a compaction or a save is in the way.
        """
        journal = self._erasures.journal()
        if journal is not None:
            self.fold()
            try:
                self._erase(journal)
            finally:
                self._ledger = self._erasures.ledger()

    def materialize(self, ref: ViewRef, *, full: bool = False) -> MaterializeReport:
        """Bring the offline rows of a view version online, after folding the row log; fills a newer layout too.

        Args:
            ref: The view; without a version, the current one.
            full: Read everything, and not only what came since the last time.

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
        report = fill_online(self._store, view, table, now=now, full=full)
        self.release()  # what came due meanwhile was parked as not yet due
        if self._feed is not None:
            self._feed.materialize(view, now=now, full=full)
        return report

    def feed(self) -> int:
        """Bring to Redis what is not there yet; returns how many rows of the log that were, 0 without Redis.

        Raises:
            UnavailableError: Redis does not answer; nothing is lost, the next call goes on.
        """
        return 0 if self._feed is None else self._feed.step()

    @property
    def is_feeding(self) -> bool:
        """Whether there is a Redis to feed."""
        return self._feed is not None

    def head(self) -> Head:
        """Return the state of the store: last sequence number and clock."""
        with self._store.read() as snapshot:
            return read_head(snapshot)

    def close(self) -> None:
        """Give the lock back, after an attempt to bring what was accepted to Redis; a later writer brings what is missing."""
        if self._feed is not None:
            with suppress(FeatureStoreError):
                self._feed.step()
            self._feed.close()
        self._store.close()
        self._lock.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _places(self, *copies: OnlineStore) -> Places:
        return Places(self._directory, self._store, self._tables, self._snapshot(), copies)

    def _open_feed(self, redis: RedisAddress) -> RedisFeed:
        from featurestore.flow.redis_feed import RedisFeed

        owner, expire = self._directory / "redis_owner", redis.expire and bool(self._clock)
        return RedisFeed(redis, self._store, owner, self._snapshot, self._tables, expire=expire)

    def _erase(self, journal: Journal) -> Receipt:
        """Do what a journal says, in Redis too; nothing is brought there meanwhile."""
        if self._feed is None:
            return erase(self._places(), journal)
        with self._feed.paused() as copy:
            return erase(self._places(copy), journal)

    def _recover(self) -> None:
        """Go on after the numbers that are in use, if the online store was lost and is empty again; finish an erasure."""
        if self.head() == Head():
            views = [ref for ref, record in self._snapshot().view_versions() if record.source is not None]
            head = folded_head(Head(), views, self._tables)
            if head != Head():
                with self._store.write() as transaction:
                    write_head(transaction, head)
        try:
            self.finish_erasure()
        except UnavailableError:
            if self._feed is None:  # with Redis it waits for that, and what it erases is not accepted meanwhile
                raise

    def _release(self, transaction: Transaction, *, now: int | None = None) -> Head:
        """Apply parked rows that are due, and move the store's clock: everything up to it is visible, nothing after it."""
        clock = read_head(transaction).clock if self._clock is None else self._clock()
        return release_rows(transaction, self._snapshot(), now=clock if now is None else now)

    def _alone(self, write: Write, broken: set[int]) -> Answer:
        try:
            return self._commit([write], broken)[0]
        except FeatureStoreError as error:
            broken.add(write.stream)
            return error

    def _commit(self, writes: Sequence[Write], broken: set[int]) -> list[Answer]:
        """Do several writes in one transaction.

        Args:
            writes: What to accept.
            broken: Streams of which a part was refused before; those of which one is now are added.
        """
        snapshot = self._snapshot()
        ready = [self._ready(snapshot, write) for write in writes]
        refused = [one for one in ready if isinstance(one, FeatureStoreError)]
        if len(refused) == len(writes):
            broken.update(write.stream for write in writes)
            return list(refused)
        with self._store.write() as transaction:
            together = _Together(self._release(transaction), broken)
            answers = [
                self._answer(transaction, together, write.stream, one) for write, one in zip(writes, ready, strict=True)
            ]
            for view, parts in together.accepted.values():
                self._show_accepted(transaction, view, pa.concat_tables(parts), together.head.clock)
        return answers

    def _ready(self, snapshot: RegistrySnapshot, write: Write) -> _Ready | FeatureStoreError:
        """Return a write with everything about it that is known without the store, or why it is refused."""
        try:
            view = WrittenView.of(snapshot, write.ref)
            rows = _whole(view.schema.canonical(write.rows), view.schema)
            gone = self._ledger.find(view.record.join_keys, rows)
        except FeatureStoreError as error:
            return error
        return gone.error(str(view.ref)) if gone else _Ready(write, view, rows)

    def _answer(
        self, transaction: Transaction, together: _Together, stream: int, ready: _Ready | FeatureStoreError
    ) -> Answer:
        """Accept one write of several: what it puts into the store is undone if it is refused."""
        try:
            if isinstance(ready, FeatureStoreError):
                raise ready
            if stream and stream in together.broken:
                raise FailedPreconditionError("A part of this stream before it was refused.")
            with transaction.part() as part:
                report, accepted = self._accept(part, ready, together.head)
                remember_answer(part, ready.view.ref, ready.write.write_id, report, now=together.head.clock)
        except FeatureStoreError as error:
            together.broken.add(stream)
            return error
        if accepted is not None:
            together.add(ready.view, accepted, report.last_seq)
        return report

    def _accept(self, transaction: Transaction, ready: _Ready, head: Head) -> tuple[WriteReport, pa.Table | None]:
        """Return how a write is answered, and its new rows with their numbers, which are not in the store yet."""
        write, view, rows = ready.write, ready.view, ready.rows
        answered = answer_of(transaction, view.ref, write.write_id, WriteReport)
        if answered is not None:
            return answered, None
        fresh = new_rows(transaction, view.ref, view.schema, rows)
        table = self._table(view.ref)
        if table.loaded_until:
            found = table.look_up(fresh, recent=False)  # the digests know what was pushed alone
            show_rows(transaction, view, found.stored, now=head.clock)
            fresh = found.new
        batch = Batch.of(view.ref, view.record, fresh, rows, now=head.clock)
        warnings = self._gate.admit(batch, "write", write_id=write.write_id, released=write.released)
        if not len(fresh):
            return WriteReport(0, len(rows), 0, 0, 0, warnings), None
        warnings += late_creation_warning(fresh, str(view.ref), view.record.backfilled_until)
        first, last = head.last_seq + 1, head.last_seq + len(fresh)
        accepted = fresh.append_column(SEQ, pa.array(np.arange(first, last + 1)))
        parked = int((micros(fresh[EVENT]) > head.clock).sum())
        return WriteReport(len(fresh), len(rows) - len(fresh), parked, first, last, warnings), accepted

    def _show_accepted(self, transaction: Transaction, view: WrittenView, rows: pa.Table, now: int) -> None:
        """Log accepted rows and make them visible; rows of one view that were accepted together are one batch."""
        log_rows(transaction, view.ref, rows)
        self._note_first_rows(transaction, view)
        last = rows[SEQ][-1].as_py()
        head = read_head(transaction)
        write_head(transaction, replace(head, last_seq=max(head.last_seq, last), pushed_seq=max(head.pushed_seq, last)))
        show_rows(transaction, view, rows, now=now)

    def _note_first_rows(self, transaction: Transaction, view: WrittenView) -> None:
        """A version whose very first rows are pushed is complete online from then on; one with a past needs a materialize.

        While an ingest runs, its rows may be there any moment: that is a past.
        """
        keyspace = open_keyspace(transaction, view.ref, view.record.layout)
        if keyspace.filled or is_ingesting(self._table(view.ref).directory) or self._table(view.ref).exists:
            return
        filled = msgspec.structs.replace(keyspace, filled=True)
        record_keyspace(transaction, view.ref, view.record.layout, filled)

    def _table(self, ref: ViewRef) -> OfflineTable:
        """Return the offline table of a view version, the same one as before while its columns are: its log is then open."""
        table = self._tables(ref)
        known = self._opened.get(ref)
        if known is None or (known.directory, known.schema) != (table.directory, table.schema):
            known = self._opened[ref] = table
        return known


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
