"""SourceReader: what the rest of the store asks of a source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import ConfigError, DefinitionError, FeatureStoreError, NotFoundError
from featurestore.offline.sources.formats import ArrowFiles, CSVFiles, FileSource, ParquetFiles
from featurestore.offline.sources.pieces import Columns, OpenSource, Piece, first_misfit
from featurestore.offline.sources.query import Limits, Query, quoted
from featurestore.registry.snapshot import SourceRecord, ViewRecord
from featurestore.rows import CREATED, RowColumn, RowSchema, may_become
from featurestore.types import DType, from_arrow, from_micros, to_arrow

if TYPE_CHECKING:
    from featurestore.registry.snapshot import Columns as RecordedColumns

_FILES: Mapping[str, type[FileSource]] = {"parquet": ParquetFiles, "csv": CSVFiles, "arrow": ArrowFiles}


def no_connection(name: str) -> str:
    """Refuse any connection: for a reader without settings."""
    raise ConfigError(f"No connection '{name}'.", repair=f'Name it under [connections]: {name} = "postgresql://...".')


@dataclass(frozen=True, slots=True)
class SourceReader:
    """Reads sources whose paths are relative to a project folder.

    Args:
        root: The project folder.
        connections: Name of a connection -> its URL; raises ConfigError for an unknown one.
        limits: What one read may take.
    """

    root: Path
    connections: Callable[[str], str] = no_connection
    limits: Limits = field(default_factory=Limits)

    def columns(self, source: SourceRecord) -> Mapping[str, pa.DataType]:
        """Return the columns of a source with their Arrow types, without reading its rows where the types are known without.

        Raises:
            DefinitionError: The source is not there or not readable, or the SQL does not resolve.
        """
        return self._open(source).columns()

    def read(self, source: SourceRecord, schema: RowSchema, *, known_until: int | None = None) -> pa.Table:
        """Return the rows of a source as one table; see `batches`."""
        return self.batches(source, schema, known_until=known_until).read_all()

    def batches(
        self, source: SourceRecord, schema: RowSchema, *, known_until: int | None = None
    ) -> pa.RecordBatchReader:
        """Return the rows of a source as a stream of batches: only the columns that a view needs, in their declared types.

        Args:
            source: The source.
            schema: The columns a view needs.
            known_until: Leave out rows that became known after this instant (microseconds UTC); None takes all. A row without an
                event time is not left out: it is for the caller to count.

        Raises:
            DefinitionError: The source is not there or not readable, a column is missing, or a value does not fit its declared
                type; says file and row. Raised by the stream as well.
            ConflictError: A file changed while it was read.
            UnavailableError: The server does not answer, or the query takes too long.
        """
        opened = self._open(source)
        available = opened.columns()
        targets = _targets(schema, available, source.name)
        stream = _fitted(opened, targets, schema, source.name, known_until)
        return pa.RecordBatchReader.from_batches(pa.schema(list(targets.items())), stream)

    def check(self, name: str, view: ViewRecord, schema: RowSchema) -> SourceRecord | None:
        """Check that a view can be filled from its source, and return the source with the columns that it has now.

        Args:
            name: Name of the view, for the error.
            view: The view; None is returned for one without a source.
            schema: The columns it needs.

        Raises:
            DefinitionError: A column is missing or has a type that does not fit, the SQL does not resolve, or a windowed view
                has events that cannot be told apart.
        """
        source = view.source
        if source is None or source.kind == "push":
            if source and view.kind == "window" and not view.event_key:
                raise DefinitionError(
                    f"Events pushed to windowed view '{name}' could be equal.",
                    place=name,
                    repair="Give it an event_key.",
                )
            return source
        found, columns = self._with_columns(source.defined())
        for column in _needed(schema):
            _check_column(name, column, columns, source)
        if view.kind == "window" and not view.event_key:
            self._check_distinct(name, found, schema)
        return found

    def _with_columns(self, source: SourceRecord) -> tuple[SourceRecord, Columns]:
        """Return a source with the columns that it and its tables have now: text columns keep these types from here on."""
        tables, found = dict(source.tables), {}
        for name, table in source.tables.items():
            known, _ = self._with_columns(source.table(name))
            found[name] = known.columns
            tables[name] = table if isinstance(table, str) else known
        inner = msgspec.structs.replace(source, tables=tables, table_columns=found)
        columns = self.columns(inner)
        return msgspec.structs.replace(inner, columns=_recorded(columns)), columns

    def _open(self, source: SourceRecord) -> OpenSource:
        if source.kind in _FILES:
            return _FILES[source.kind](self.root, source)
        if source.kind == "delta":
            from featurestore.offline.sources.delta import DeltaVersion

            return DeltaVersion(self.root, source)
        if source.kind == "postgres":
            from featurestore.offline.sources.postgres import PostgresRows

            return PostgresRows(source, self.connections(source.connection or ""), self.limits)
        tables = {name: self._open(source.table(name)) for name in source.tables}
        return Query(source.name, source.query or "", tables, self.limits)

    def _check_distinct(self, name: str, source: SourceRecord, schema: RowSchema) -> None:
        columns = ", ".join(dict.fromkeys(quoted(column.source) for column in _needed(schema)))
        twins = f"SELECT count(*) AS twins FROM (SELECT 1 FROM events GROUP BY {columns} HAVING count(*) > 1)"  # noqa: S608  # quoted
        query = Query(source.name, twins, {"events": self._open(source)}, self.limits)
        found = next(query.pieces(["twins"])).batch["twins"][0].as_py()
        if found:
            raise DefinitionError(
                f"{found} events of windowed view '{name}' have an equal twin, which would be taken for a repeat.",
                place=name,
                repair='Say which columns tell events apart: event_key={"event_id": "string"}.',
            )


def _needed(schema: RowSchema) -> Iterator[RowColumn]:
    for column in schema.columns:
        if column.name != CREATED or schema.created_timestamp is not None:
            yield column


def _check_column(place: str, column: RowColumn, available: Columns, source: SourceRecord | None = None) -> None:
    if column.source not in available:
        missing = NotFoundError.of("column", column.source, available)
        raise DefinitionError(missing.message, place=f"{place}.{column.source}")
    if not may_become(available[column.source], column.dtype):
        is_text = source is not None and source.kind == "csv"
        raise DefinitionError(
            f"Column '{column.source}' is {available[column.source]}, declared {column.dtype}.",
            place=f"{place}.{column.source}",
            repair=f'Say columns={{"{column.source}": "{column.dtype}"}} on the source.' if is_text else None,
        )


def _targets(schema: RowSchema, available: Columns, source: str) -> dict[str, pa.DataType]:
    """Return the columns to read with the types they are handed on in: as declared, or as they are where two declarations differ."""
    for column in _needed(schema):
        _check_column(source, column, available)
    wanted: dict[str, set[DType]] = {}
    for column in _needed(schema):
        wanted.setdefault(column.source, set()).add(column.dtype)
    return {name: to_arrow(next(iter(types))) if len(types) == 1 else available[name] for name, types in wanted.items()}


def _fitted(
    opened: OpenSource,
    targets: Mapping[str, pa.DataType],
    schema: RowSchema,
    source: str,
    known_until: int | None,
) -> Iterator[pa.RecordBatch]:
    condition = None if known_until is None else _known_sql(schema, known_until)
    for piece in opened.pieces(list(targets), condition):
        arrays = [_fit(piece, name, wanted, source) for name, wanted in targets.items()]
        batch = pa.record_batch(arrays, names=list(targets))
        yield batch if known_until is None else batch.filter(_known(batch, schema, known_until))


def _fit(piece: Piece, column: str, wanted: pa.DataType, source: str) -> pa.Array:
    array = piece.batch.column(column)
    if array.type == wanted:
        return array
    try:
        return array.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        row = first_misfit(array, lambda part: part.cast(wanted))
        raise DefinitionError(
            f"Value {array[row].as_py()!r:.60} of column '{column}' of source '{source}' does not fit {from_arrow(wanted)}.",
            place=piece.place(row),
            repair="Correct it, or declare a wider type.",
        ) from error


def _known(batch: pa.RecordBatch, schema: RowSchema, instant: int) -> pa.Array:
    event = batch.column(schema.event_timestamp).cast(pa.int64())
    created = batch.column(schema.created_timestamp).cast(pa.int64()) if schema.created_timestamp else event
    return pc.or_(pc.is_null(event), pc.less_equal(pc.max_element_wise(event, created), instant))


def _known_sql(schema: RowSchema, instant: int) -> str:
    """Return the same as a condition in SQL, for sources that leave rows out themselves; it reads alike in DuckDB and PostgreSQL."""
    event = f"CAST({quoted(schema.event_timestamp)} AS TIMESTAMP WITH TIME ZONE)"
    created = (
        f"CAST({quoted(schema.created_timestamp)} AS TIMESTAMP WITH TIME ZONE)" if schema.created_timestamp else event
    )
    moment = f"TIMESTAMP WITH TIME ZONE '{from_micros(instant).isoformat(sep=' ')}'"
    return f"({event} IS NULL OR greatest({event}, {created}) <= {moment})"


def _recorded(columns: Columns) -> RecordedColumns:
    return tuple((name, _type_name(arrow_type)) for name, arrow_type in columns.items())


def _type_name(arrow_type: pa.DataType) -> str:
    """Return our name of a type, or Arrow's where we have none."""
    try:
        return from_arrow(arrow_type).name
    except FeatureStoreError:
        return str(arrow_type)
