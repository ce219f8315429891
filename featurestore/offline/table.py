"""The offline table of one view version: our own Parquet files under a Delta log.

    bucket-3-of-16/<id>.parquet   bulk loads: one file a hash bucket of the entity key, sorted by (key, event, created, seq)
    recent/<id>.parquet           small appends, unbucketed and sorted in the same way; reads merge them
    _delta_log/                   which files count, since which commit, and how far the row log was folded

A file is written and synced before the commit that names it, and never changed after. A bucket may have several files, until a compaction
makes them one; all bucketed files of one version of the log were written for the same number of buckets.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import NotFoundError
from featurestore.offline.actions import BUCKETS, FOLD, LOAD, Change, TableState
from featurestore.offline.buckets import check_buckets, suitable_buckets
from featurestore.offline.compaction import CompactReport, compact, tend, write_buckets
from featurestore.offline.data_files import DataFile, grouped, read_data_file, write_data_file
from featurestore.offline.durable import holding, rewriting
from featurestore.offline.erase import TableErasure, erase_rows
from featurestore.offline.log import TableLog
from featurestore.offline.lookup import Found, look_up, rows_after
from featurestore.offline.order import greatest_rows, sorted_order
from featurestore.offline.vacuum import RETENTION, vacuum
from featurestore.rows import SEQ, RowSchema
from featurestore.subject import Subject

__all__ = ["CompactReport", "DataFile", "LoadReport", "OfflineTable", "TableState"]


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a bulk load committed.

    Attributes:
        rows: Rows that were added.
        files: Files they went into.
        version: Version of the Delta log that holds them.
    """

    rows: int
    files: int
    version: int


class OfflineTable:
    """The accepted rows of one view version on disk.

    Args:
        directory: Folder of the version; made by the first load or append.
        schema: Columns of its rows. A column that older files lack reads as null.
        buckets: Number of hash buckets, a power of two; None lets the first load, and compactions, choose it by the size of the table.
        at_version: Read this version of the Delta log; None is the newest.
        state: Read these files and never look at the log; None looks.
    """

    def __init__(
        self,
        directory: Path,
        schema: RowSchema,
        *,
        buckets: int | None = None,
        at_version: int | None = None,
        state: TableState | None = None,
    ) -> None:
        self.directory = directory
        self.schema = schema
        self._wanted_buckets = None if buckets is None else check_buckets(buckets)
        self._log = TableLog(directory, at_version=at_version)
        self._state = state

    def __repr__(self) -> str:
        return f"OfflineTable({str(self.directory)!r})"

    @property
    def exists(self) -> bool:
        """Whether anything was ever committed; until then a read of this version is refused."""
        return self._state is not None or self._log.exists

    @property
    def version(self) -> int:
        """Version of the Delta log that is read."""
        return self._state.version if self._state else self._log.version

    @property
    def buckets(self) -> int:
        """Number of hash buckets of bulk loads."""
        return self.state().buckets if self.exists else self._unbucketed

    @property
    def fold_position(self) -> int:
        """Number of the greatest fold that is committed, 0 before the first."""
        return self._log.mark(FOLD)

    @property
    def last_seq(self) -> int:
        """The greatest sequence number in the table, as its log says; 0 when there is none."""
        return self._log.last_seq if self.exists else 0

    @property
    def loaded_until(self) -> int:
        """The greatest sequence number that came in bulk, 0 before the first load."""
        return self._log.mark(LOAD)

    def files(self) -> tuple[DataFile, ...]:
        """Return the live files, in order of their paths."""
        return self.state().files

    def state(self) -> TableState:
        """Return what the table is at the version that is read."""
        return self._state or self._log.state(unbucketed=self._unbucketed)

    def pinned(self) -> OfflineTable:
        """Return the table as it is now, for reads that must all see the same rows."""
        return OfflineTable(self.directory, self.schema, state=self.state())

    @property
    def _unbucketed(self) -> int:
        return self._wanted_buckets or 1

    # --- writing ---------------------------------------------------------------------------------------------------------------------

    def load(self, rows: pa.Table) -> LoadReport:
        """Add rows in bulk: one sorted file a bucket, all in one commit.

        Args:
            rows: Accepted rows, as `schema.arrow()` says, ``__seq`` included; in any order.

        Raises:
            ConflictError: Other writers kept committing in between.
            ResourceExhaustedError: The disk is full; nothing was added.
        """
        self._log.create(self.schema.arrow())
        rows = rows.select(self.schema.arrow().names).combine_chunks()
        loaded = max(self.loaded_until, pc.max(rows[SEQ]).as_py() or 0)
        while True:
            buckets = self._log.mark(BUCKETS) or self._wanted_buckets or suitable_buckets(len(rows), rows.nbytes // 2)
            written = write_buckets(self.directory, rows, self.schema, buckets)
            change = Change(written, marks={BUCKETS: buckets, LOAD: loaded})
            version = self._log.commit(change, still=lambda now, kept=buckets: now.mark(BUCKETS) in (0, kept))  # type: ignore[misc]
            if version is not None:
                return LoadReport(len(rows), len(written), version)

    def append(self, rows: pa.Table, *, fold: int) -> bool:
        """Add a small batch to the recent run, exactly once.

        Args:
            rows: Accepted rows, as for `load`; may be none, then only the fold is recorded.
            fold: Number of this fold of the row log; it only rises.

        Returns:
            Whether it was added; False when the table already has this fold, or a later one.

        Raises:
            ConflictError: Other writers kept committing in between.
            ResourceExhaustedError: The disk is full; nothing was added.
        """
        self._log.create(self.schema.arrow())
        rows = rows.select(self.schema.arrow().names).combine_chunks()
        rows = rows.take(pa.array(sorted_order(rows, self.schema)))
        written = [write_data_file(self.directory, rows, self.schema)] if len(rows) else []
        change = Change(written, marks={FOLD: fold})
        return self._log.commit(change, still=lambda now: now.mark(FOLD) < fold) is not None

    def compact(self, *, buckets: int | None = None) -> CompactReport:
        """Make one sorted file a bucket of the recent run and the files of each bucket, in one commit.

        Args:
            buckets: Number of hash buckets from now on, a power of two up to 1024; None keeps it unless another suits far better.

        Raises:
            FailedPreconditionError: Nothing was ever committed.
            InvalidArgumentError: The number is no power of two.
            ConflictError: Other compactions kept being faster.
            ResourceExhaustedError: The disk is full; the table is as it was.
        """
        with holding(rewriting(self.directory), shared=True):
            return compact(self._log, self.schema, buckets=buckets, wanted=self._wanted_buckets)

    def tend(self) -> CompactReport | None:
        """Compact if the recent run is large, or buckets are many files or of a size that does not suit; returns what was done."""
        if not self.exists:
            return None
        with holding(rewriting(self.directory), shared=True):
            return tend(self._log, self.schema, wanted=self._wanted_buckets)

    def vacuum(self, *, keep: Collection[str] = (), older_than: timedelta = RETENTION) -> list[str]:
        """Remove files that no commit names any more, and what killed writers left, from the disk.

        Args:
            keep: Paths in the folder that stay, such as those a saved dataset lists.
            older_than: How long ago a file must have been replaced; files written within the last hour always stay.

        Returns:
            The paths of the removed files in the folder.

        Raises:
            FailedPreconditionError: Nothing was ever committed.
        """
        return vacuum(self._log, keep=keep, older_than=older_than)

    def erase(self, subject: Subject, *, receipt: int, keep: Collection[str] = ()) -> TableErasure:
        """Write every file of the folder anew that holds rows of a subject, live or not, and commit the new ones.

        The old files stay until `TableErasure.finish`; whoever lists one of them takes the new one first. Interrupted anywhere, it is
        done again with the same answer. The caller holds the locks of the table: nobody loads, compacts or appends meanwhile.

        Args:
            subject: Whom to erase; the table has its join keys.
            receipt: Number of the receipt.
            keep: Paths in the folder whose other rows must stay although they are not live, such as those a saved dataset lists.

        Raises:
            CorruptionError: A live file is missing or damaged; says which.
            ResourceExhaustedError: The disk is full; everything is as it was.
        """
        return erase_rows(self._log, self.schema, subject, receipt=receipt, keep=keep)

    # --- reading ---------------------------------------------------------------------------------------------------------------------

    def read(self, columns: Sequence[str] | None = None, *, files: Sequence[DataFile] | None = None) -> pa.Table:
        """Return rows of the table, bulk and recent, in no promised order.

        Args:
            columns: Names of the columns to read; None means all, ``__seq`` included.
            files: The files to read, from `files()`; None means all that are live.

        Raises:
            FailedPreconditionError: Nothing was ever committed.
            NotFoundError: The table has no such column.
            CorruptionError: A file is missing or damaged; says which, and where in it.
        """
        schema = self.schema.arrow()
        for name in columns or ():
            if name not in schema.names:
                raise NotFoundError.of("column", name, schema.names)
        wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
        parts = [read_data_file(file, wanted) for file in (self.files() if files is None else files)]
        return pa.concat_tables(parts) if parts else wanted.empty_table()

    def latest(self, at: int, *, files: Sequence[DataFile] | None = None) -> pa.Table:
        """Return the row of each entity with the greatest (event time, created, seq) among those with an event time up to `at`.

        Args:
            at: Microseconds since 1970 UTC, included.
            files: Look at these alone; None looks at all, and holds no more of them than one bucket.
        """
        if files is not None:
            return greatest_rows(self.read(files=files), self.schema, until=at, in_order=len(files) == 1)
        parts = [self.latest(at, files=group) for group in grouped(self.files())]
        return greatest_rows(pa.concat_tables([self.schema.arrow().empty_table(), *parts]), self.schema, until=at)

    def events_since(self, time: int, *, files: Sequence[DataFile] | None = None) -> pa.Table:
        """Return the rows with an event time after `time` (microseconds since 1970 UTC), in no promised order.

        Args:
            time: Microseconds since 1970 UTC, not included.
            files: Look at these alone; None looks at all that are live.
        """
        return rows_after(self.files() if files is None else files, self.schema, time)

    def new_rows(self, rows: pa.Table) -> pa.Table:
        """Return the rows that the table does not have yet, each once, in their order.

        Two rows are the same when keys, event key, both times and all values are equal; null equals null, and NaN equals NaN.

        Args:
            rows: Canonical rows, without ``__seq``.
        """
        return self.look_up(rows).new

    def look_up(self, rows: pa.Table, *, recent: bool = True) -> Found:
        """Say which rows the table has, under which sequence number, and which it has not; see `new_rows`.

        Args:
            rows: Canonical rows, without ``__seq``.
            recent: Whether to look at the recent run too; what is there came by the row log.
        """
        if not self.exists:
            return look_up(TableState(-1, 1, ()), self.schema, rows)
        state = self.state()
        looked_at = state.files if recent else tuple(file for file in state.files if file.bucket is not None)
        return look_up(replace(state, files=looked_at), self.schema, rows)

    def files_at(self, version: int) -> list[DataFile] | None:
        """Return the files that were live at a version of the log; None when that is not known, or not on disk, any more."""
        return self._log.files_at(version)

    def added_between(self, since: int, until: int) -> list[DataFile] | None:
        """Return the files that brought new rows after one version of the log and up to another.

        They may have been compacted into others since.

        Returns:
            None when that is not known, or not on disk, any more.
        """
        return self._log.added_between(since, until)
