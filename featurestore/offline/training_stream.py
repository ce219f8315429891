"""A training set that may be larger than memory: the spine comes in batches, and is joined chunk by chunk on the same pinned tables."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, ResourceExhaustedError
from featurestore.offline.durable import sync
from featurestore.offline.engines import Engine
from featurestore.offline.point_in_time import Knowledge
from featurestore.offline.reader import Position, ViewSource
from featurestore.offline.table import OfflineTable
from featurestore.offline.training_set import TrainingReport, TrainingSet, read_training_set
from featurestore.planning import ReadPlan
from featurestore.refs import ViewRef

MEMORY_LIMIT = 1 << 30
BATCH_ROWS = 64 * 1024
ROW_GROUP = 128 * 1024

# What a chunk needs beside its rows: two buckets being decoded, and a row group being written.
_FIXED_BYTES = 160 << 20
# What a row needs while it is joined: its times, its place, the candidates; and the share of the columns that exist twice for a while.
_ROW_BYTES, _TWICE = 96, 1.2
_LEAST_ROWS = 16 * 1024
_TEXT_BYTES = 24


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stream is.

    Attributes:
        rows: Rows done.
        total: Rows of the spine; None where nobody knows yet.
        seconds: Since the stream was started.
    """

    rows: int
    total: int | None
    seconds: float

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.rows / max(self.seconds, 1e-9)

    @property
    def remaining(self) -> float | None:
        """Seconds still to go at this rate; None where nobody knows.

        >>> Progress(rows=100, total=300, seconds=2.0).remaining
        4.0
        """
        return None if self.total is None or not self.rows else (self.total - self.rows) / self.rate


@dataclass(frozen=True, slots=True)
class SpineBatches:
    """A spine that comes in batches.

    Attributes:
        schema: Its columns.
        batches: Its rows, once.
        total: How many there are; None where nobody knows.
    """

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]
    total: int | None

    @classmethod
    def of(cls, spine: Any) -> SpineBatches:
        """Return anything that gives Arrow batches as a spine.

        Args:
            spine: An Arrow table, a record batch reader, a dataset, a path of Parquet files (a file or a folder), or anything with
                ``__arrow_c_stream__`` (Polars, DuckDB, pandas).

        Raises:
            NotFoundError: There is no such path.
            InvalidArgumentError: It is none of these.
        """
        import pyarrow.dataset as ds

        if isinstance(spine, str | Path):
            if not Path(spine).exists():
                raise NotFoundError.of("spine", str(spine), [])
            spine = ds.dataset(spine, format="parquet")
        if isinstance(spine, pa.Table):
            return cls(spine.schema, iter(spine.to_batches()), len(spine))
        if isinstance(spine, ds.Dataset):
            total = spine.count_rows()
            scanned = spine.to_batches(
                batch_size=BATCH_ROWS, batch_readahead=1, fragment_readahead=1, use_threads=False
            )
            return cls(spine.schema, iter(scanned), total)
        if hasattr(spine, "__arrow_c_stream__"):
            reader = pa.RecordBatchReader.from_stream(spine)
            return cls(reader.schema, iter(reader), None)
        raise InvalidArgumentError(
            f"A {type(spine).__name__} gives no Arrow batches.",
            repair="Give an Arrow table or reader, a Parquet path, or a Polars or DuckDB frame.",
        )


class TrainingStream:
    """The spine with features, in batches, in the order of the spine; every chunk is an exact read of the same tables.

    Args:
        plan: What to read.
        spine: Keys, times and other columns, in batches.
        tables: View version -> its offline table; all are pinned now, whatever is written later.
        timestamp: Name of the spine's column of times.
        engine: Name of an engine, or one.
        knowledge: ``as_known``, ``latest`` or ``as_served``.
        position: For ``as_served``, as in `read_training_set`.
        now: Microseconds since 1970 UTC; rows of the spine after it are warned about. None does not look.
        memory_limit: Bytes that the rows being worked on may take, beside what the process has anyway; at least some thousand rows
            are worked on at a time.
        progress: Called after each chunk.
        ended: Called once with the rows that were read, at the end or when the reader stops early.

    Raises:
        FailedPreconditionError: A view version was never filled.
    """

    def __init__(
        self,
        plan: ReadPlan,
        spine: SpineBatches,
        *,
        tables: Callable[[ViewRef], OfflineTable],
        timestamp: str = "event_timestamp",
        engine: str | Engine = "kernel",
        knowledge: Knowledge = "as_known",
        position: Position = None,
        now: int | None = None,
        memory_limit: int = MEMORY_LIMIT,
        progress: Callable[[Progress], None] | None = None,
        ended: Callable[[int], None] | None = None,
    ) -> None:
        pinned: dict[ViewRef, OfflineTable] = {}

        def pinned_table(ref: ViewRef) -> OfflineTable:
            if ref not in pinned:
                table = tables(ref)
                pinned[ref] = table.pinned() if table.exists else table
            return pinned[ref]

        def read(chunk: pa.Table) -> TrainingSet:
            return read_training_set(
                plan, chunk, timestamp=timestamp, tables=pinned_table, engine=engine, knowledge=knowledge,
                position=position, now=now,
            )  # fmt: skip

        self.plan = plan
        self._read = read
        self._spine = spine
        self._first = read(
            spine.schema.empty_table()
        )  # pins every table, and says what is wrong with the spine's columns
        self._memory_limit = memory_limit
        self._progress = progress
        self._ended = ended
        self._report: TrainingReport | None = None
        self._started = False

    @property
    def schema(self) -> pa.Schema:
        """The columns of every batch: the spine's, then one for each output of the plan."""
        return self._first.table.schema

    @property
    def sources(self) -> tuple[ViewSource, ...]:
        """Where each view is read from."""
        return self._first.sources

    def described(self) -> TrainingSet:
        """Return a set without rows that says what is read, and how."""
        return self._first

    @property
    def report(self) -> TrainingReport:
        """What became of the spine's rows.

        Raises:
            FailedPreconditionError: The stream was not read to its end.
        """
        if self._report is None:
            raise FailedPreconditionError("The training set was not read to its end yet.", repair="Read it first.")
        return self._report

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield the set in batches of at most 64 Ki rows, once.

        Raises:
            FailedPreconditionError: It was read before.
        """
        for part in self.parts():
            yield from part.table.to_batches(max_chunksize=BATCH_ROWS)
            del part  # before the next one is made

    def read(self) -> TrainingReport:
        """Read the set to its end, keep nothing, and return its report."""
        for part in self.parts():
            del part  # before the next one is made
        return self.report

    def to_arrow(self) -> pa.RecordBatchReader:
        """Return the set as a record batch reader, for whatever reads Arrow streams."""
        return pa.RecordBatchReader.from_batches(self.schema, iter(self))

    def to_parquet(self, path: str | Path) -> TrainingReport:
        """Write the set to a Parquet file (zstd) and return its report; the file is there whole, or not at all.

        Args:
            path: Where; a file that is there is replaced.

        Raises:
            ResourceExhaustedError: The disk is full, or cannot be written; nothing is left.
            FailedPreconditionError: The stream was read before.
        """
        path = Path(path)
        draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            with _writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                writer = pq.ParquetWriter(draft, self.schema, compression="zstd", use_dictionary=self._repeating())
            with writer:
                for part in self.parts():
                    with _writing(path):
                        writer.write_table(part.table, row_group_size=ROW_GROUP)
                    del part  # before the next one is made
                with _writing(path):
                    writer.close()
            with _writing(path):
                sync(draft)
                draft.replace(path)
                sync(path.parent)
        finally:
            draft.unlink(missing_ok=True)
        return self.report

    def _repeating(self) -> list[str]:
        """Return the columns of which a dictionary pays: floats and times hardly repeat."""
        return [
            field.name
            for field in self.schema
            if not (pa.types.is_floating(field.type) or pa.types.is_timestamp(field.type))
        ]

    def parts(self) -> Iterator[TrainingSet]:
        """Yield the set in parts that fit in memory, once; let go of each before the next one is made.

        Raises:
            FailedPreconditionError: It was read before.
        """
        if self._started:
            raise FailedPreconditionError("The stream was read before.", repair="Make a new one.")
        self._started = True
        begun, report, rows = time.monotonic(), self._first.report, 0
        try:
            for chunk in _in_chunks(self._spine, _chunk_rows(self.schema, self._memory_limit)):
                read = self._read(chunk)
                rows, report = rows + len(read), report + read.report
                yield read
                del read  # a part is all that fits
                if self._progress is not None:
                    self._progress(Progress(rows, self._spine.total, time.monotonic() - begun))
            self._report = report
        finally:
            if self._ended is not None:
                self._ended(rows)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResourceExhaustedError(
            f"{path} cannot be written: {error}.",
            place=str(path),
            repair="Make room on the disk, or name another path.",
        ) from error


def _in_chunks(spine: SpineBatches, rows: int) -> Iterator[pa.Table]:
    """Yield the spine in tables of so many rows; the last one has what is left."""
    waiting: list[pa.RecordBatch] = []
    free = rows
    for batch in spine.batches:
        rest = batch
        while len(rest) >= free:
            yield pa.Table.from_batches([*waiting, rest.slice(0, free)], spine.schema)
            rest, waiting, free = rest.slice(free), [], rows
        if len(rest):
            waiting.append(rest)
            free -= len(rest)
    if waiting:
        yield pa.Table.from_batches(waiting, spine.schema)


def _chunk_rows(schema: pa.Schema, memory_limit: int) -> int:
    """Return how many rows of these columns may be worked on at once."""
    row = sum(_width(field.type) for field in schema) * _TWICE + _ROW_BYTES
    return max(_LEAST_ROWS, int((memory_limit - _FIXED_BYTES) / row))


def _width(arrow_type: pa.DataType) -> float:
    """Return how many bytes a value of a type takes, its validity included; of text, a guess."""
    if pa.types.is_fixed_size_list(arrow_type):
        return 1 + float(arrow_type.list_size) * _width(arrow_type.value_type)
    if pa.types.is_primitive(arrow_type) or pa.types.is_decimal(arrow_type):
        return 1 + float(arrow_type.bit_width) / 8
    if pa.types.is_struct(arrow_type):
        return 1 + sum(_width(field.type) for field in arrow_type)
    return _TEXT_BYTES * (4 if pa.types.is_nested(arrow_type) else 1)
