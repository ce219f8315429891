"""The accepted row of a view version: its columns, in one place for write, ingest, the offline table and the online store.

A canonical table has, in order: the join keys, the event key, ``__event_timestamp`` and ``__created_timestamp`` (timestamp[us, UTC],
created may be null), then the value columns. Accepted rows also carry ``__seq`` (int64), the order of acceptance. Value columns are the
features of a batch view under their feature names, or the columns that the aggregates of a windowed one and their filters read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidArgumentError, nearest_name
from featurestore.registry.snapshot import ViewRecord
from featurestore.types import DType, Timestamp, from_arrow, is_arrow_list, to_arrow

if TYPE_CHECKING:
    import pyarrow as pa

EVENT, CREATED, SEQ = "__event_timestamp", "__created_timestamp", "__seq"


@dataclass(frozen=True, slots=True)
class RowColumn:
    """One column: its canonical name, its type, and its name in the source."""

    name: str
    dtype: DType
    source: str


@dataclass(frozen=True, slots=True)
class RowSchema:
    """The columns of a view version's rows.

    Attributes:
        keys: Join key columns in the order of the entity.
        event_key: Columns that tell equal events apart.
        values: Value columns.
        event_timestamp: Source column of the event time.
        created_timestamp: Source column of the created time, or None.
    """

    keys: tuple[RowColumn, ...]
    event_key: tuple[RowColumn, ...]
    values: tuple[RowColumn, ...]
    event_timestamp: str
    created_timestamp: str | None

    @classmethod
    def of(cls, view: ViewRecord) -> RowSchema:
        """Return the row schema of a stored view version; on-demand views have none (InvalidArgumentError)."""
        if view.source is None:
            raise InvalidArgumentError("An on-demand view has no rows of its own.")
        return cls(
            keys=_columns(view.join_keys),
            event_key=_columns(view.event_key),
            values=_value_columns(view),
            event_timestamp=view.source.event_timestamp,
            created_timestamp=view.source.created_timestamp,
        )

    @property
    def columns(self) -> tuple[RowColumn, ...]:
        """All canonical columns in order, without ``__seq``."""
        created = RowColumn(CREATED, Timestamp, self.created_timestamp or CREATED)
        return (*self.keys, *self.event_key, RowColumn(EVENT, Timestamp, self.event_timestamp), created, *self.values)

    def arrow(self) -> pa.Schema:
        """Return the Arrow schema of accepted rows, ``__seq`` last."""
        import pyarrow as pa

        return pa.schema([(c.name, to_arrow(c.dtype)) for c in self.columns] + [(SEQ, pa.int64())])

    def canonical(self, table: pa.Table) -> Canonical:
        """Check rows that look like the source's and return them in canonical form; nothing is cast silently.

        Args:
            table: Rows with the source's column names; other columns are ignored. Naive times count as UTC.

        Returns:
            The canonical rows, and how many were refused for a null event time or a null key.

        Raises:
            InvalidArgumentError: A column is missing, or has another type that does not fit exactly.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        optional = CREATED if self.created_timestamp is None else None
        arrays = [
            pa.nulls(len(table), to_arrow(column.dtype)) if column.name == optional else _fit(table, column)
            for column in self.columns
        ]
        rows = pa.table(arrays, schema=pa.schema([(c.name, to_arrow(c.dtype)) for c in self.columns]))
        whole = pc.is_valid(rows[EVENT])
        no_event = len(rows) - pc.sum(whole).as_py() if len(rows) else 0
        for key in (*self.keys, *self.event_key):
            whole = pc.and_(whole, pc.is_valid(rows[key.name]))
        kept = rows.filter(whole) if len(rows) else rows
        return Canonical(kept, no_event, len(rows) - len(kept) - no_event)


@dataclass(frozen=True, slots=True)
class Canonical:
    """Canonical rows, and how many were refused because of a null event time or a null key."""

    rows: Any
    null_events: int
    null_keys: int


def _columns(pairs: Sequence[tuple[str, str]]) -> tuple[RowColumn, ...]:
    return tuple(RowColumn(name, DType(dtype), name) for name, dtype in pairs)


def _value_columns(view: ViewRecord) -> tuple[RowColumn, ...]:
    if view.kind == "window":
        read = dict(pair for f in view.features if f.aggregation for pair in f.aggregation.columns)
        return tuple(RowColumn(column, DType(dtype), column) for column, dtype in read.items())
    return tuple(RowColumn(f.name, f.type, f.column or f.name) for f in view.features)


def _fit(table: pa.Table, column: RowColumn) -> pa.ChunkedArray:
    """Return one column in its declared type: a lossless widening or an exact narrowing, never a rounding."""
    import pyarrow as pa

    if column.source not in table.column_names:
        near = nearest_name(column.source, table.column_names)
        hint = f" There is '{near}'." if near else ""
        raise InvalidArgumentError(f"Column '{column.source}' is missing.{hint}", place=f"$.columns.{column.source}")
    array, place = table[column.source], f"$.columns.{column.source}"
    wanted = to_arrow(column.dtype)
    if array.type != wanted:
        if not may_become(array.type, column.dtype):
            raise InvalidArgumentError(
                f"Column '{column.source}' is {array.type}, declared {column.dtype}.", place=place
            )
        try:
            array = array.cast(wanted, safe=True)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InvalidArgumentError(
                f"Column '{column.source}' does not fit {column.dtype}: {error}.", place=place
            ) from error
    if column.dtype.is_nested and has_null_in_vector(array, column.dtype):
        raise InvalidArgumentError(
            f"Column '{column.source}' has a vector with a null element, declared {column.dtype}.",
            place=place,
            repair="Make the whole vector null, or declare a list.",
        )
    return array


def may_become(arrow_type: pa.DataType, wanted: DType) -> bool:
    """Say whether a column of this Arrow type can hold values of the declared type: only within one family, all the way down.

    A list of any layout may become a list, and a vector if all have its length; a struct keeps its fields and their order.
    """
    import pyarrow as pa

    if pa.types.is_null(arrow_type):
        return True
    if pa.types.is_unsigned_integer(arrow_type):
        return wanted.is_integer
    if wanted.is_nested:
        return _may_become_nested(arrow_type, wanted)
    try:
        have = from_arrow(arrow_type)
    except InvalidArgumentError:  # a time of day, a map: no value of ours
        return False
    if have.is_integer:
        return wanted.is_integer or wanted.lane == "doubles" or wanted.family == "decimal"
    return have.family == wanted.family or (have.lane == "doubles" and wanted.name == "float64")


def _may_become_nested(arrow_type: pa.DataType, wanted: DType) -> bool:
    import pyarrow as pa

    if wanted.family == "struct":
        return (
            pa.types.is_struct(arrow_type)
            and [field.name for field in arrow_type.fields] == [name for name, _ in wanted.fields]
            and all(may_become(f.type, dtype) for f, (_, dtype) in zip(arrow_type.fields, wanted.fields, strict=True))
        )
    if pa.types.is_fixed_size_list(arrow_type):
        fits = wanted.family == "list" or arrow_type.list_size == wanted.length
    else:
        fits = is_arrow_list(arrow_type)
    return fits and may_become(arrow_type.value_type, wanted.element)


def has_null_in_vector(array: Any, dtype: DType) -> bool:
    """Say whether a vector somewhere in an Arrow column of this type has a null element."""
    import pyarrow.compute as pc

    if dtype.family == "struct":
        return any(
            has_null_in_vector(pc.struct_field(array, name), field) for name, field in dtype.fields if field.is_nested
        )
    if dtype.family == "vector":
        return bool(pc.list_flatten(array).null_count)
    return dtype.element.is_nested and has_null_in_vector(pc.list_flatten(array), dtype.element)
