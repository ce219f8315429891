"""Finding rows in an offline table without reading all of it: by bucket, and by the statistics of row groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from featurestore.offline.actions import TableState
from featurestore.offline.buckets import buckets_of, suitable_buckets
from featurestore.offline.data_files import DataFile, open_data_file, read_data_file
from featurestore.offline.relations import query, quoted, with_integer_times
from featurestore.rows import EVENT, SEQ, RowSchema

_PLACE = "__row"


def rows_after(files: Sequence[DataFile], schema: RowSchema, time: int) -> pa.Table:
    """Return the rows of some files with an event time after an instant (microseconds UTC), in no promised order."""
    parts = [schema.arrow().empty_table()]
    for file in files:
        with open_data_file(file) as parquet:
            groups = [group for group, (_, last) in enumerate(_ranges(parquet, EVENT)) if last is None or last > time]
        if groups:
            rows = read_data_file(file, schema.arrow(), groups=groups)
            parts.append(rows.filter(pc.greater(rows[EVENT].cast(pa.int64()), time)))
    return pa.concat_tables(parts)


@dataclass(frozen=True, slots=True)
class Found:
    """What of some offered rows a table has; rows that were offered several times are here once.

    Attributes:
        new: The rows that the table does not have, in their order.
        stored: Those that it has, with the ``__seq`` they have there.
    """

    new: pa.Table
    stored: pa.Table


def look_up(state: TableState, schema: RowSchema, offered: pa.Table) -> Found:
    """Look for rows that are equal to offered ones in keys, event key, both times and all values.

    Only the buckets of the offered keys are looked at, and in them the row groups that may hold a row of the same key and event time.

    Args:
        state: What the table is.
        schema: Its columns.
        offered: Canonical rows, without ``__seq``.
    """
    numbers = np.zeros(len(offered), np.int64)
    places = [np.zeros(0, np.int64)]
    parts = max(1, state.buckets, suitable_buckets(len(offered), 0))  # of which each lies in one bucket
    part_of = buckets_of([offered[key.name] for key in schema.keys], parts) if len(offered) else numbers
    settled = state.by_bucket()
    for number in np.unique(part_of).tolist():
        part = np.flatnonzero(part_of == number)
        rows = offered.take(pa.array(part))
        files = [*settled.get(number % max(1, state.buckets), ()), *state.recent]
        first, seq = _stored_numbers(rows, _alike(files, schema, rows), schema)
        places.append(part[first])
        numbers[part[first]] = seq
    distinct = np.sort(np.concatenate(places))
    new, known = distinct[numbers[distinct] == 0], distinct[numbers[distinct] != 0]
    stored = offered.take(pa.array(known)).append_column(schema.arrow().field(SEQ), pa.array(numbers[known]))
    return Found(offered if len(new) == len(offered) else offered.take(pa.array(new)), stored)


def _stored_numbers(
    offered: pa.Table, stored: pa.Table, schema: RowSchema
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the places of the distinct offered rows, the first of equal ones, and the ``__seq`` each is stored under; 0 when it is not."""
    if len(offered) == 1 and not len(stored):  # what most writes are: one new row
        return np.zeros(1, np.int64), np.zeros(1, np.int64)
    names = [column.name for column in schema.columns]
    columns = quoted(*names)
    numbered = with_integer_times(offered.select(names)).append_column(_PLACE, pa.array(np.arange(len(offered))))
    found = query(
        f"SELECT min({_PLACE}) AS {_PLACE}, coalesce(max({SEQ}), 0) AS {SEQ} FROM "  # noqa: S608  # names are quoted
        f"(SELECT {columns}, {_PLACE}, NULL AS {SEQ} FROM offered UNION ALL SELECT {columns}, NULL, {SEQ} FROM stored) "
        f"GROUP BY {columns} HAVING min({_PLACE}) IS NOT NULL",
        offered=numbered,
        stored=with_integer_times(stored.select([*names, SEQ])),
    )
    return np.asarray(found[_PLACE]), np.asarray(found[SEQ].cast(pa.int64()))


def _alike(files: Sequence[DataFile], schema: RowSchema, offered: pa.Table) -> pa.Table:
    """Return the rows of some files that have key and event time of an offered one."""
    names = [*(key.name for key in schema.keys), EVENT]
    wanted = offered.select(names)
    bounds = [_Bounds.of(offered, name) for name in (names[0], EVENT)]
    parts = [schema.arrow().empty_table()]
    for file in files:
        with open_data_file(file) as parquet:
            groups = list(_groups_within(parquet, bounds))
        for group in groups:
            narrow = read_data_file(file, pa.schema([schema.arrow().field(name) for name in names]), groups=[group])
            places = _in_both(narrow, wanted, names)
            if len(places):
                parts.append(read_data_file(file, schema.arrow(), groups=[group]).take(places))
    return pa.concat_tables(parts)


def _in_both(stored: pa.Table, wanted: pa.Table, names: Sequence[str]) -> pa.ChunkedArray:
    """Return the places of the stored rows whose key and event time are wanted."""
    numbered = with_integer_times(stored).append_column(_PLACE, pa.array(np.arange(len(stored))))
    return query(
        f"SELECT {_PLACE} FROM stored SEMI JOIN wanted USING ({quoted(*names)}) ORDER BY 1",  # noqa: S608  # quoted
        stored=numbered,
        wanted=with_integer_times(wanted),
    )[_PLACE]


@dataclass(frozen=True, slots=True)
class _Bounds:
    """Values of one column, sorted, as statistics hold them: numbers, or bytes."""

    name: str
    values: pa.Array

    @classmethod
    def of(cls, rows: pa.Table, name: str) -> _Bounds:
        column = rows[name].combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks)
        kind = column.type
        if pa.types.is_string(kind) or pa.types.is_binary(kind):
            column = column.cast(pa.binary())
        else:
            column = (column.cast(pa.int32()) if pa.types.is_date32(kind) else column).cast(pa.int64())
        return cls(name, column.sort())

    def meets(self, first: Any, last: Any) -> bool:
        """Say whether one of the values may lie in a range; None is an unknown end."""
        if first is None or last is None:
            return True
        inside = pc.and_(pc.greater_equal(self.values, first), pc.less_equal(self.values, last))
        return bool(pc.any(inside).as_py())


def _groups_within(parquet: pq.ParquetFile, bounds: Sequence[_Bounds]) -> Iterator[int]:
    """Yield the row groups that may hold a value of each column."""
    ranges = [_ranges(parquet, bound.name) for bound in bounds]
    for group in range(parquet.metadata.num_row_groups):
        if all(bound.meets(*found[group]) for bound, found in zip(bounds, ranges, strict=True)):
            yield group


def _ranges(parquet: pq.ParquetFile, name: str) -> list[tuple[Any, Any]]:
    """Return the least and greatest value of a column in each row group, as they are stored; None where that is not known."""
    metadata = parquet.metadata
    position = parquet.schema_arrow.names.index(name)  # keys and times are first, and not nested
    found: list[tuple[Any, Any]] = []
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(position).statistics
        known = statistics is not None and statistics.has_min_max
        found.append((statistics.min_raw, statistics.max_raw) if known else (None, None))
    return found
