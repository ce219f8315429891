"""Sorted runs: the rows of one bucket as they lie in one file, or in the recent run; each is in order of (key, event, created, seq)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from featurestore.offline.buckets import buckets_of
from featurestore.offline.data_files import DataFile, damage, open_data_file
from featurestore.offline.table import OfflineTable
from featurestore.rows import CREATED, EVENT, SEQ
from featurestore.types import INT64_MIN

Int64Array = npt.NDArray[np.int64]

# So much of a row group is decoded at once, in values of eight bytes: little enough to stay in a processor's cache.
VALUES_AT_ONCE = 2 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Part:
    """Some columns of some rows.

    Attributes:
        places: Which of the rows that were asked for are here.
        rows: Where in the arrays each of them stands.
        columns: Name -> values.
    """

    places: slice
    rows: Int64Array
    columns: dict[str, pa.Array]


class Run(Protocol):
    """Rows of one bucket in order of (key, event, created, seq)."""

    def whole(self, names: Sequence[str]) -> dict[str, pa.Array]:
        """Return columns of all rows, in order."""

    def parts(self, names: Sequence[str], rows: Int64Array) -> Iterator[Part]:
        """Return columns of the rows with these rising numbers, bit by bit."""


class FileRun:
    """One file of a bucket; every page is checked against its checksum.

    Args:
        file: The file.
        schema: Columns of the table; those that the file lacks are null.
        coded: Columns to read as dictionaries: text of few different values, and keys.
    """

    def __init__(self, file: DataFile, schema: pa.Schema, coded: Sequence[str]) -> None:
        self._file = file
        self._schema = schema
        self._coded = coded

    def whole(self, names: Sequence[str]) -> dict[str, pa.Array]:
        """Return columns of all rows, in order."""
        return self._read(names, range(self._parquet.num_row_groups))

    def parts(self, names: Sequence[str], rows: Int64Array) -> Iterator[Part]:
        """Return columns of the rows with these rising numbers, a row group and a few columns at a time."""
        bounds = np.searchsorted(rows, self._group_starts)
        for group, (start, stop) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
            if start == stop:
                continue
            inside = rows[start:stop] - self._group_starts[group]
            size = int(self._group_starts[group + 1] - self._group_starts[group])
            step = max(1, VALUES_AT_ONCE // size)
            for first in range(0, len(names), step):
                yield Part(slice(start, stop), inside, self._read(names[first : first + step], [group]))

    def values_a_byte(self, name: str) -> float:
        """Return how many values of a column a byte of its pages holds, before compression; 0 when the file lacks it."""
        group = self._parquet.metadata.row_group(0)
        chunks = (group.column(number) for number in range(group.num_columns))
        found = next((chunk for chunk in chunks if chunk.path_in_schema == name), None)
        return found.num_values / max(1, found.total_uncompressed_size) if found else 0.0

    @cached_property
    def _parquet(self) -> pq.ParquetFile:
        return open_data_file(self._file, read_dictionary=list(self._coded), pre_buffer=False)

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(self._parquet.schema_arrow.names)

    @cached_property
    def _group_starts(self) -> Int64Array:
        metadata = self._parquet.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        return np.cumsum([0, *sizes], dtype=np.int64)

    def _read(self, names: Sequence[str], groups: Sequence[int]) -> dict[str, pa.Array]:
        there = [name for name in names if name in self._names]
        try:
            found = self._parquet.read_row_groups(groups, columns=there, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise damage(self._file, error) from error
        read = {name: in_one(column) for name, column in zip(found.column_names, found.columns, strict=True)}
        rows = sum(int(self._group_starts[group + 1] - self._group_starts[group]) for group in groups)
        return {name: read[name] if name in read else pa.nulls(rows, self._schema.field(name).type) for name in names}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if "_parquet" in self.__dict__:
            self._parquet.close()


@dataclass(frozen=True, slots=True)
class MemoryRun:
    """Rows of one bucket in memory.

    Attributes:
        columns: Name -> values.
        order: Where in them the rows stand, in order.
    """

    columns: dict[str, pa.Array]
    order: Int64Array

    def whole(self, names: Sequence[str]) -> dict[str, pa.Array]:
        """Return columns of all rows, in order."""
        return {name: self.columns[name].take(pa.array(self.order)) for name in names}

    def parts(self, names: Sequence[str], rows: Int64Array) -> Iterator[Part]:
        """Return columns of the rows with these rising numbers, all at once."""
        yield Part(slice(len(rows)), self.order[rows], {name: self.columns[name] for name in names})


@dataclass(frozen=True, slots=True)
class RecentRows:
    """The recent run: all files that are not in a bucket, read once.

    Attributes:
        columns: Name -> values; keys of text as dictionaries.
        bucket: int64, the bucket of each row.
        keys: Names of the key columns.
    """

    columns: dict[str, pa.Array]
    bucket: Int64Array
    keys: tuple[str, ...]

    @classmethod
    def read(cls, table: OfflineTable, files: Sequence[DataFile], names: Sequence[str], buckets: int) -> RecentRows:
        """Read columns of the recent run, with keys, times and seq.

        Args:
            table: The table.
            files: Its files that are not in a bucket.
            names: Names of the other columns.
            buckets: Number of buckets of the table.
        """
        keys = tuple(key.name for key in table.schema.keys)
        rows = table.read(list(dict.fromkeys((*keys, EVENT, CREATED, SEQ, *names))), files=files)
        bucket = buckets_of([rows[key] for key in keys], buckets) if len(rows) else np.zeros(0, np.int64)
        columns = {name: in_one(rows[name]) for name in rows.column_names}
        columns |= {key: as_codes(columns[key]) for key in keys}
        return cls(columns, bucket, keys)

    def run(self, bucket: int) -> MemoryRun | None:
        """Return the rows of a bucket, sorted; None when there are none."""
        rows = np.flatnonzero(self.bucket == bucket)
        if not len(rows):
            return None
        keys = [key_image(self.columns[key]) for key in self.keys]
        times = [to_micros_or_lowest(self.columns[name]) for name in (EVENT, CREATED, SEQ)]
        return MemoryRun(self.columns, rows[np.lexsort([by[rows] for by in reversed([*keys, *times])])])


def in_one(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array; dictionaries of several chunks become one."""
    if column.num_chunks == 1:
        return column.chunk(0)
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
    return column.combine_chunks()


def is_text(arrow_type: pa.DataType) -> bool:
    """Say whether values are text or bytes of any length."""
    return bool(pa.types.is_string(arrow_type) or pa.types.is_binary(arrow_type))


def as_codes(column: pa.Array) -> pa.Array:
    """Return text and bytes as a dictionary; other columns as they are."""
    return column if pa.types.is_primitive(column.type) else column.dictionary_encode()


def key_image(column: pa.Array) -> Int64Array:
    """Return whole numbers that are equal where the values of a key column are: themselves, or the codes of a dictionary; 0 at a null."""
    if pa.types.is_dictionary(column.type):
        column = column.indices
    if pa.types.is_date32(column.type):
        column = column.cast(pa.int32())
    return _whole_numbers(column, 0)


def to_micros_or_lowest(times: pa.Array) -> Int64Array:
    """Return times, or whole numbers, as int64; a null as the lowest of all."""
    return _whole_numbers(times, INT64_MIN)


def _whole_numbers(column: pa.Array, at_null: int) -> Int64Array:
    whole = column.cast(pa.int64())  # of 64-bit values this is a view, and stays one where nothing is to be filled
    return np.asarray(pc.fill_null(whole, at_null) if whole.null_count else whole)
