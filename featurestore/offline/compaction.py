"""Compaction: the recent run and the files of a bucket become one sorted file a bucket; the number of buckets may change with it.

The number of buckets is a power of two, so bucket b of many lies in bucket b % few of few: to split or to merge buckets, one of the larger
ones is all that is looked at, and all that is in memory beside the recent run. Everything is one commit. The files it replaces stay on disk
until a vacuum, for those who read them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.errors import ConflictError
from featurestore.offline.actions import BUCKETS, COMPACT, Change, LogVersion, TableState
from featurestore.offline.buckets import buckets_of, check_buckets, suitable_buckets
from featurestore.offline.data_files import DataFile, WrittenFile, discard, read_data_file, write_data_file
from featurestore.offline.log import COMMIT_ATTEMPTS, TableLog
from featurestore.offline.order import sorted_order
from featurestore.rows import RowSchema

MOST_RECENT_FILES = 32
MOST_FILES_OF_A_BUCKET = 8
RECENT_ROWS = 50_000  # so few are read beside any table without being noticed
RECENT_SHARE = 0.1  # of the rows in buckets; below it a read beside the recent run costs little
OFF_BY = 4  # so far the number of buckets may be from the one that suits
ROWS_AT_ONCE = 2_000_000  # of the recent run, in memory


@dataclass(frozen=True, slots=True)
class CompactReport:
    """What a compaction did.

    Attributes:
        rows: Rows that were written anew; 0 when there was nothing to do.
        files_before: Live files before it.
        files: Live files after it.
        buckets: Number of hash buckets after it.
        version: Version of the Delta log after it.
    """

    rows: int
    files_before: int
    files: int
    buckets: int
    version: int


def tend(log: TableLog, schema: RowSchema, *, wanted: int | None = None) -> CompactReport | None:
    """Compact a table if its reads would gain from it; else, if the recent run is many files, make them few.

    Args:
        log: The table's log.
        schema: Its columns.
        wanted: The number of buckets that the settings ask for; None leaves the choice to the size of the table.

    Returns:
        What was done, or None.
    """
    state = log.state()
    bucketed = sum(file.rows for file in state.files if file.bucket is not None)
    recent = sum(file.rows for file in state.recent)
    is_many = len(state.recent) > MOST_RECENT_FILES
    is_large = recent > RECENT_SHARE * bucketed
    if is_large and (is_many or recent > RECENT_ROWS):
        return compact(log, schema, wanted=wanted)
    if any(len(files) > MOST_FILES_OF_A_BUCKET for files in state.by_bucket().values()):
        return compact(log, schema, wanted=wanted)
    if state.buckets and _next_buckets(state, wanted) != state.buckets:
        return compact(log, schema, wanted=wanted)
    return _merge_recent(log, schema, state) if is_many else None


def compact(
    log: TableLog, schema: RowSchema, *, buckets: int | None = None, wanted: int | None = None
) -> CompactReport:
    """Write the recent run and the files of each bucket into one sorted file a bucket.

    Args:
        log: The table's log.
        schema: Its columns.
        buckets: Number of buckets from now on; None keeps it unless it is far from what suits.
        wanted: The number that the settings ask for; None leaves the choice to the size of the table.

    Raises:
        InvalidArgumentError: The number of buckets is no power of two.
        ConflictError: Other compactions kept being faster.
        ResourceExhaustedError: The disk is full; the table is as it was.
    """
    for _ in range(COMMIT_ATTEMPTS):
        number = log.mark(COMPACT) + 1
        state = log.state()
        count = check_buckets(buckets) if buckets else _next_buckets(state, wanted)
        if _is_compact(state, count):
            return _report(state, state.buckets or count)
        written, replaced = _rewritten(log.directory, schema, state, count)
        report = _commit(log, state, Change(written, replaced, _marks(state, count, number), new_rows=False), count)
        if report is not None:
            return report
    raise ConflictError(f"Other compactions of {log.directory} kept being faster.", repair="Try again.")


def write_buckets(directory: Path, rows: pa.Table, schema: RowSchema, buckets: int) -> list[WrittenFile]:
    """Write rows in any order as one sorted file a bucket; nothing of them is left when the disk is full."""
    bucket = buckets_of([rows[key.name] for key in schema.keys], buckets) if len(rows) else np.zeros(0, np.int64)
    order = sorted_order(rows, schema, bucket)
    rows, bucket = rows.take(pa.array(order)), bucket[order]
    edges = np.flatnonzero(np.diff(bucket, prepend=-1, append=-1)) if len(rows) else np.zeros(1, np.int64)
    written: list[WrittenFile] = []
    try:
        for start, stop in pairwise(edges.tolist()):
            part = rows.slice(start, stop - start)
            written.append(write_data_file(directory, part, schema, bucket=int(bucket[start]), buckets=buckets))
    except BaseException:
        discard(written)
        raise
    return written


def _next_buckets(state: TableState, wanted: int | None) -> int:
    """Return how many buckets a table should have after its next compaction."""
    suits = wanted or suitable_buckets(sum(file.rows for file in state.files), sum(file.size for file in state.files))
    if not state.buckets or wanted:
        return suits
    return suits if max(suits, state.buckets) > OFF_BY * min(suits, state.buckets) else state.buckets


def _is_compact(state: TableState, count: int) -> bool:
    one_each = all(len(files) == 1 for files in state.by_bucket().values())
    return one_each and not state.recent and state.buckets in (0, count)


def _marks(state: TableState, count: int, number: int) -> dict[str, int]:
    """Return the app transactions of a compaction: it is the n-th, and if it changes the number of buckets, no load may be beside it."""
    return {COMPACT: number} if state.buckets == count else {COMPACT: number, BUCKETS: count}


def _commit(log: TableLog, state: TableState, change: Change, count: int) -> CompactReport | None:
    """Commit a compaction; None when another one was faster, or rows came into buckets that are about to change their number."""

    def still(now: LogVersion) -> bool:
        if now.mark(COMPACT) >= change.marks[COMPACT]:
            return False
        return BUCKETS not in change.marks or now.state().by_bucket() == state.by_bucket()

    version = log.commit(change, still=still)
    if version is None:
        return None
    files = len(state.files) - len(change.removed) + len(change.added)
    rows = sum(written.file.rows for written in change.added)
    return CompactReport(rows, len(state.files), files, count, version)


def _report(state: TableState, count: int) -> CompactReport:
    return CompactReport(0, len(state.files), len(state.files), count, state.version)


def _rewritten(
    directory: Path, schema: RowSchema, state: TableState, count: int
) -> tuple[list[WrittenFile], list[DataFile]]:
    """Write all rows that are not in place; return the new files, and those they replace."""
    few = min(state.buckets or count, count)
    settled: dict[int, list[DataFile]] = {residue: [] for residue in range(few)}
    for file in state.files:
        if file.bucket is not None:
            settled[file.bucket % few].append(file)
    written: list[WrittenFile] = []
    replaced = list(state.recent)
    try:
        for residue, recent in _recent_by_residue(state.recent, schema, few):
            files = settled[residue]
            if not len(recent) and (not files or (len(files) == 1 and state.buckets == count)):
                continue
            parts = [*(read_data_file(file, schema.arrow()) for file in files), recent]
            written += write_buckets(directory, pa.concat_tables(parts), schema, count)
            replaced += files
    except BaseException:
        discard(written)
        raise
    return written, replaced


def _recent_by_residue(files: Sequence[DataFile], schema: RowSchema, few: int) -> Iterator[tuple[int, pa.Table]]:
    """Go through the residues of the bucket, each with its rows of the recent run; a long run is read several times, to hold but a part."""
    passes = min(few, max(1, -(-sum(file.rows for file in files) // ROWS_AT_ONCE)))
    for first in range(passes):
        residues = range(first, few, passes)
        rows, residue = _recent_of(files, schema, few, residues)
        for wanted in residues:
            yield wanted, rows.filter(pa.array(residue == wanted)) if len(rows) else rows


def _recent_of(
    files: Sequence[DataFile], schema: RowSchema, few: int, residues: range
) -> tuple[pa.Table, npt.NDArray[np.int64]]:
    """Return the rows of the recent run in some residues of the bucket, and the residue of each."""
    parts, found = [schema.arrow().empty_table()], [np.zeros(0, np.int64)]
    for file in files:
        rows = read_data_file(file, schema.arrow())
        residue = buckets_of([rows[key.name] for key in schema.keys], few)
        inside = np.isin(residue, np.asarray(residues))
        parts.append(rows.filter(pa.array(inside)))
        found.append(residue[inside])
    return pa.concat_tables(parts), np.concatenate(found)


def _merge_recent(log: TableLog, schema: RowSchema, state: TableState) -> CompactReport | None:
    """Make one file of the small ones of the recent run; the buckets stay as they are."""
    number = log.mark(COMPACT) + 1
    small = _small_files(state.recent)
    if len(small) < MOST_RECENT_FILES:
        return None
    rows = pa.concat_tables([read_data_file(file, schema.arrow()) for file in small])
    written = write_data_file(log.directory, rows.take(pa.array(sorted_order(rows, schema))), schema)
    return _commit(log, state, Change([written], small, {COMPACT: number}, new_rows=False), state.buckets)


def _small_files(files: Sequence[DataFile]) -> list[DataFile]:
    """Return the smallest files that together are not too large for memory."""
    by_rows = sorted(files, key=lambda file: file.rows)
    together = accumulate(file.rows for file in by_rows)
    return [file for file, rows in zip(by_rows, together, strict=True) if rows <= ROWS_AT_ONCE]
