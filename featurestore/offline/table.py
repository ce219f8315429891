"""The offline table of one view version: our own Parquet files under a Delta log.

    bucket-3/<id>.parquet      bulk loads: one file a hash bucket of the entity key, sorted by (key, event, created, seq)
    recent/<id>.parquet        small appends, unbucketed and sorted in the same way; reads merge them
    _delta_log/                which files count, since which commit, and how far the row log was folded

A file is written and synced before the commit that names it, and never changed after. Appends do not conflict with each other, so a
commit that lost a race is simply repeated; only a fold that somebody else has committed is not, because its app transaction says so.
The log holds no values of keys or features, so that erasing an entity does not have to look for it there.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import deltalake
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction

from featurestore.errors import ConflictError, CorruptionError, FailedPreconditionError, NotFoundError
from featurestore.offline.buckets import buckets_of
from featurestore.offline.durable import sync
from featurestore.offline.relations import query, quoted, with_integer_times
from featurestore.rows import CREATED, EVENT, SEQ, RowSchema
from featurestore.types import INT64_MIN

BUCKET = "__bucket"
RECENT = "recent"
FOLD = "fold"
ROW_GROUP = 128 * 1024
CHECKPOINT_EVERY = 20  # commits
COMMIT_ATTEMPTS = 20
_BUCKETS_SETTING = "featurestore.buckets"


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


@dataclass(frozen=True, slots=True)
class DataFile:
    """One live file of the table.

    Attributes:
        path: Where it is.
        bucket: Its bucket, or None in the recent run.
        rows: How many rows the log says it has.
        size: How many bytes the log says it has.
    """

    path: Path
    bucket: int | None
    rows: int
    size: int


class OfflineTable:
    """The accepted rows of one view version on disk.

    Args:
        directory: Folder of the version; made by the first load or append.
        schema: Columns of its rows. A column that older files lack reads as null.
        buckets: Number of hash buckets of a new table; an existing one keeps its own.
        at_version: Read this version of the Delta log; None is the newest.
    """

    def __init__(self, directory: Path, schema: RowSchema, *, buckets: int = 16, at_version: int | None = None) -> None:
        self.directory = directory
        self.schema = schema
        self._new_buckets = buckets
        self._at_version = at_version

    def __repr__(self) -> str:
        return f"OfflineTable({str(self.directory)!r})"

    @property
    def exists(self) -> bool:
        """Whether anything was ever committed; until then a read of this version is refused."""
        return (self.directory / "_delta_log").is_dir() and deltalake.DeltaTable.is_deltatable(self.directory)

    @property
    def version(self) -> int:
        """Version of the Delta log that is read."""
        return int(self._open(self._at_version).version())

    @property
    def buckets(self) -> int:
        """Number of hash buckets of bulk loads."""
        return int(self._open().metadata().configuration[_BUCKETS_SETTING]) if self.exists else self._new_buckets

    @property
    def fold_position(self) -> int:
        """Number of the greatest fold that is committed, 0 before the first."""
        return self._open().transaction_version(FOLD) or 0 if self.exists else 0

    def files(self) -> tuple[DataFile, ...]:
        """Return the live files, in order of their paths."""
        actions = pa.table(self._open(self._at_version).get_add_actions(flatten=True))
        names = ("path", f"partition.{BUCKET}", "num_records", "size_bytes")
        found = zip(*(actions[name].to_pylist() for name in names), strict=True)
        return tuple(
            sorted((DataFile(self.directory / path, *facts) for path, *facts in found), key=lambda file: file.path)
        )

    def pinned(self) -> OfflineTable:
        """Return the table as it is now, for reads that must all see the same rows."""
        return OfflineTable(self.directory, self.schema, at_version=self.version)

    # --- writing ---------------------------------------------------------------------------------------------------------------------

    def load(self, rows: pa.Table) -> LoadReport:
        """Add rows in bulk: one sorted file a bucket, all in one commit.

        Args:
            rows: Accepted rows, as `schema.arrow()` says, ``__seq`` included; in any order.

        Raises:
            ConflictError: Other writers kept committing in between.
        """
        self._create()
        rows = rows.select(self.schema.arrow().names).combine_chunks()
        bucket = buckets_of([rows[key.name] for key in self.schema.keys], self.buckets)
        order = _sorted_order(rows, self.schema, bucket)
        rows, bucket = rows.take(pa.array(order)), bucket[order]
        edges = np.flatnonzero(np.diff(bucket, prepend=-1, append=-1)) if len(rows) else np.zeros(1, np.int64)
        added = [
            self._write_file(rows.slice(start, stop - start), int(bucket[start]))
            for start, stop in pairwise(edges.tolist())
        ]
        return LoadReport(len(rows), len(added), self._commit(added))

    def append(self, rows: pa.Table, *, fold: int) -> bool:
        """Add a small batch to the recent run, exactly once.

        Args:
            rows: Accepted rows, as for `load`; may be none, then only the fold is recorded.
            fold: Number of this fold of the row log; it only rises.

        Returns:
            Whether it was added; False when the table already has this fold, or a later one.

        Raises:
            ConflictError: Other writers kept committing in between.
        """
        self._create()
        if self.fold_position >= fold:
            return False
        rows = rows.select(self.schema.arrow().names).combine_chunks()
        rows = rows.take(pa.array(_sorted_order(rows, self.schema)))
        added = [self._write_file(rows, None)] if len(rows) else []
        if self._commit(added, fold=fold) >= 0:
            return True
        for action in added:
            (self.directory / action.path).unlink()
        return False

    def _create(self) -> None:
        """Make the table, or give it the columns that were added to the view since."""
        wanted = self.schema.arrow()
        if not self.exists:
            self.directory.mkdir(parents=True, exist_ok=True)
            deltalake.DeltaTable.create(
                self.directory,
                schema=pa.schema([*wanted, pa.field(BUCKET, pa.int32())]),
                partition_by=[BUCKET],
                mode="ignore",
                configuration={_BUCKETS_SETTING: str(self._new_buckets)},
                raise_if_key_not_exists=False,
            )
            self._sync_log(since=-1)
        for _ in range(COMMIT_ATTEMPTS):
            table = self._open()
            since = table.version()
            known = {field.name for field in table.schema().fields}
            added = [field for field in wanted if field.name not in known]
            if not added:
                return
            try:
                table.alter.add_columns(deltalake.Schema.from_arrow(pa.schema(added)).fields)
            except CommitFailedError:
                continue  # somebody else committed: look again
            self._sync_log(since)

    def _write_file(self, rows: pa.Table, bucket: int | None) -> AddAction:
        """Write and sync one file; return what the log has to say about it."""
        folder = RECENT if bucket is None else f"bucket-{bucket}"
        path = self.directory / folder / f"{uuid.uuid4().hex}.parquet"
        path.parent.mkdir(exist_ok=True)
        order = pq.SortingColumn.from_ordering(
            rows.schema, [(column.name, "ascending") for column in self.schema.keys] + _TIME_ORDER, "at_start"
        )
        pq.write_table(
            rows, path, compression="zstd", row_group_size=ROW_GROUP, write_page_checksum=True, sorting_columns=order
        )
        sync(path, path.parent, self.directory)
        first, last = pc.min_max(rows[SEQ]).as_py().values()
        statistics = {
            "numRecords": len(rows),
            "minValues": {SEQ: first},
            "maxValues": {SEQ: last},
            "nullCount": {SEQ: 0},
        }
        partition = {BUCKET: None if bucket is None else str(bucket)}
        return AddAction(
            f"{folder}/{path.name}",
            path.stat().st_size,
            partition,
            time.time_ns() // 1_000_000,
            True,
            json.dumps(statistics),
        )

    def _commit(self, added: Sequence[AddAction], fold: int | None = None) -> int:
        """Commit the files; return the version of the log, or -1 when the fold was there already."""
        marks = None if fold is None else [deltalake.Transaction(FOLD, fold)]
        for _ in range(COMMIT_ATTEMPTS):
            table = self._open()
            since = table.version()
            if fold is not None and (table.transaction_version(FOLD) or 0) >= fold:
                return -1
            try:
                table.create_write_transaction(
                    list(added), "append", table.schema(), [BUCKET],
                    commit_properties=deltalake.CommitProperties(app_transactions=marks),
                )  # fmt: skip
            except CommitFailedError:
                continue  # a racing fold, or a column that was added: look again
            self._checkpoint()
            return self._sync_log(since)
        raise ConflictError(f"Other writers kept committing to {self.directory}.", repair="Try again.")

    def _checkpoint(self) -> None:
        """Sum the log up now and then, so that opening the table does not read every commit there ever was."""
        table = self._open()
        if table.version() % CHECKPOINT_EVERY == 0:
            table.create_checkpoint()
            log = self.directory / "_delta_log"
            sync(*log.glob(f"{table.version():020}.checkpoint*"), log / "_last_checkpoint", log)

    def _sync_log(self, since: int) -> int:
        """Make the commits after version `since` durable and return the newest: the log's own writer renames without syncing."""
        version = int(self._open().version())
        log = self.directory / "_delta_log"
        sync(*(log / f"{number:020}.json" for number in range(since + 1, version + 1)), log)
        return version

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
        parts = [_read_file(file, wanted) for file in (self.files() if files is None else files)]
        return pa.concat_tables(parts) if parts else wanted.empty_table()

    def latest(self, at: int) -> pa.Table:
        """Return the row of each entity with the greatest (event time, created, seq) among those with an event time up to `at`.

        Args:
            at: Microseconds since 1970 UTC, included.
        """
        rows = self.read()
        keys = [key.name for key in self.schema.keys]
        winners = (
            _order_frame(rows, self.schema)
            .lazy()
            .with_row_index("row")
            .filter(pl.col(EVENT) <= at)
            .sort(EVENT, CREATED, SEQ)
            .group_by(keys)
            .agg(pl.col("row").last())
            .sort(keys)
            .collect()
        )
        return rows.take(winners["row"].to_arrow())

    def events_since(self, time: int) -> pa.Table:
        """Return the rows with an event time after `time` (microseconds since 1970 UTC), in no promised order."""
        rows = self.read()
        return rows.filter(pc.greater(rows[EVENT].cast(pa.int64()), time))

    def new_rows(self, rows: pa.Table) -> pa.Table:
        """Return the rows that the table does not have yet, each once, in their order.

        Two rows are the same when keys, event key, both times and all values are equal; null equals null, and NaN equals NaN.

        Args:
            rows: Canonical rows, without ``__seq``.
        """
        names = [column.name for column in self.schema.columns]
        columns = quoted(*names)
        offered = with_integer_times(rows.select(names)).append_column("__row", pa.array(np.arange(len(rows))))
        kept = query(
            f"SELECT min(__row) AS __row FROM (SELECT {columns}, __row FROM offered UNION ALL SELECT {columns}, -1 FROM stored) "  # noqa: S608
            f"GROUP BY {columns} HAVING min(__row) >= 0 ORDER BY 1",
            offered=offered,
            stored=with_integer_times(self._rows_between(rows).select(names)),
        )
        return rows.take(kept["__row"])

    def _rows_between(self, rows: pa.Table) -> pa.Table:
        """Return the stored rows with event times between the first and the last of these rows."""
        if not self.exists or not len(rows):
            return self.schema.arrow().empty_table()
        first, last = pc.min_max(rows[EVENT].cast(pa.int64())).as_py().values()
        stored = self.read()
        event = stored[EVENT].cast(pa.int64())
        return stored.filter(pc.and_(pc.greater_equal(event, first), pc.less_equal(event, last)))

    def _open(self, version: int | None = None) -> deltalake.DeltaTable:
        if not self.exists:
            raise FailedPreconditionError(f"{self.directory} was never filled.")
        return deltalake.DeltaTable(self.directory, version=version)


_TIME_ORDER = [(EVENT, "ascending"), (CREATED, "ascending"), (SEQ, "ascending")]


def _order_frame(rows: pa.Table, schema: RowSchema) -> pl.DataFrame:
    """Return keys, times and seq as a Polars frame; times as integers, a null created as the lowest."""
    narrow = with_integer_times(rows.select([*(key.name for key in schema.keys), EVENT, CREATED, SEQ]))
    created = narrow.column_names.index(CREATED)
    frame = pl.from_arrow(narrow.set_column(created, CREATED, pc.fill_null(narrow[CREATED], INT64_MIN)))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _sorted_order(
    rows: pa.Table, schema: RowSchema, bucket: npt.NDArray[np.int64] | None = None
) -> npt.NDArray[np.int64]:
    """Return the order of the rows by (bucket, key, event, created, seq)."""
    frame = _order_frame(rows, schema)
    by = [key.name for key in schema.keys] + [EVENT, CREATED, SEQ]
    if bucket is not None:
        frame, by = frame.with_columns(pl.Series(BUCKET, bucket)), [BUCKET, *by]
    return frame.select(pl.arg_sort_by(by)).to_series().cast(pl.Int64).to_numpy()


def _read_file(file: DataFile, wanted: pa.Schema) -> pa.Table:
    """Read columns of one file, with nulls for those it lacks; every page is checked against its checksum."""
    if not file.path.exists():
        raise CorruptionError("A file that the log names is missing.", place=str(file.path), repair=_RESTORE)
    try:
        parquet = pq.ParquetFile(file.path, page_checksum_verification=True)
        with parquet:
            there = set(parquet.schema_arrow.names)
            found = parquet.read([name for name in wanted.names if name in there])
    except (OSError, pa.ArrowException) as error:
        raise CorruptionError(f"A file is damaged: {error}.", place=_damaged_at(file.path), repair=_RESTORE) from error
    if len(found) != file.rows:
        raise CorruptionError(f"A file has {len(found)} rows, the log says {file.rows}.", place=str(file.path))
    columns = [found[field.name] if field.name in there else pa.nulls(file.rows, field.type) for field in wanted]
    return pa.table(columns, schema=wanted)


_RESTORE = "Restore it from a backup; or move the version's folder away and run `featurestore ingest`, which loses pushed rows."


def _damaged_at(path: Path) -> str:
    """Return the file, with the offset of the first column chunk that cannot be read where its footer still can."""
    for offset in _damaged_chunks(path):
        return f"{path}, offset {offset}"
    return str(path)


def _damaged_chunks(path: Path) -> Iterator[int]:
    try:
        parquet = pq.ParquetFile(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException):
        return  # the footer itself is damaged
    with parquet:
        for group in range(parquet.metadata.num_row_groups):
            for column, name in enumerate(parquet.schema_arrow.names):
                try:
                    parquet.read_row_group(group, columns=[name])
                except (OSError, pa.ArrowException):
                    chunk = parquet.metadata.row_group(group).column(column)
                    yield chunk.dictionary_page_offset or chunk.data_page_offset
