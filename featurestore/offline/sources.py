"""Reading a view's source with DuckDB, in a connection that can reach the named files and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from featurestore.errors import DefinitionError, NotFoundError, nearest_name
from featurestore.registry.snapshot import SourceRecord, ViewRecord
from featurestore.rows import CREATED, RowColumn, RowSchema, may_become

if TYPE_CHECKING:
    import pyarrow as pa

_THREADS = 2


@dataclass(frozen=True, slots=True)
class SourceReader:
    """Reads sources whose paths are relative to a project folder.

    Args:
        root: The project folder.
    """

    root: Path

    def columns(self, source: SourceRecord) -> Mapping[str, pa.DataType]:
        """Return the columns of a source with their Arrow types, without reading its rows.

        Raises:
            DefinitionError: The file is not there or not readable, or the SQL does not resolve.
        """
        with self._connection(source) as connection:
            schema = connection.sql(f"SELECT * FROM ({_query(source)}) LIMIT 0").to_arrow_table().schema  # noqa: S608  # the user's own query
            return {field.name: field.type for field in schema}

    def read(self, source: SourceRecord, schema: RowSchema) -> pa.Table:
        """Return the rows of a source, only the columns that a view needs.

        Raises:
            DefinitionError: The file is not there or not readable, or the SQL does not resolve.
        """
        wanted = ", ".join(dict.fromkeys(_quoted(column.source) for column in _needed(schema)))
        with self._connection(source) as connection:
            return connection.sql(f"SELECT {wanted} FROM ({_query(source)})").to_arrow_table()  # noqa: S608  # as above

    def check(self, name: str, view: ViewRecord, schema: RowSchema) -> None:
        """Check that a view can be filled from its source.

        Args:
            name: Name of the view, for the error.
            view: The view.
            schema: The columns it needs.

        Raises:
            DefinitionError: A column is missing or has a type that does not fit, the SQL does not resolve, or a windowed view
                has events that cannot be told apart.
        """
        source = view.source
        if source is None:
            return
        if source.kind == "push":
            if view.kind == "window" and not view.event_key:
                raise DefinitionError(
                    f"Events pushed to windowed view '{name}' could be equal.",
                    place=name,
                    repair="Give it an event_key.",
                )
            return
        columns = self.columns(source)
        for column in _needed(schema):
            _check_column(name, column, columns)
        if view.kind == "window" and not view.event_key:
            self._check_distinct(name, source, schema)

    def _check_distinct(self, name: str, source: SourceRecord, schema: RowSchema) -> None:
        columns = ", ".join(dict.fromkeys(_quoted(column.source) for column in _needed(schema)))
        equal = f"SELECT count(*) FROM (SELECT 1 FROM ({_query(source)}) GROUP BY {columns} HAVING count(*) > 1)"  # noqa: S608
        with self._connection(source) as connection:
            found = connection.execute(equal).fetchone()
        if found and found[0]:
            raise DefinitionError(
                f"{found[0]} events of windowed view '{name}' have an equal twin, which would be taken for a repeat.",
                place=name,
                repair='Say which columns tell events apart: event_key={"event_id": "string"}.',
            )

    @contextmanager
    def _connection(self, source: SourceRecord) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open a locked connection that sees the source's files as views."""
        paths = source.tables if source.kind == "sql" else {"source": source.path or ""}
        tables = {table: self._files(path, source.name) for table, path in paths.items()}
        config: dict[str, str | bool | int | float | list[str]] = {
            "threads": _THREADS,
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        }
        connection = duckdb.connect(config=config)
        try:
            connection.execute("SET TimeZone = 'UTC'")
            _check_select(source)
            connection.execute(f"SET allowed_paths = {_list(file for files in tables.values() for file in files)}")
            connection.execute("SET enable_external_access = false")
            for table, files in tables.items():
                connection.execute(f"CREATE VIEW {_quoted(table)} AS SELECT * FROM read_parquet({_list(files)})")  # noqa: S608
            connection.execute("SET lock_configuration = true")
            yield connection
        except duckdb.Error as error:
            raise DefinitionError(
                f"Source '{source.name}' cannot be read: {_first_line(error)}", place=source.name
            ) from error
        finally:
            connection.close()

    def _files(self, text: str, source: str) -> list[str]:
        """Return the files of a path: itself, all Parquet files of a folder, or what a pattern matches."""
        path = self.root / text
        if path.is_file():
            return [str(path)]
        files = sorted(glob(str(path / "**" / "*.parquet" if path.is_dir() else path), recursive=True))  # noqa: PTH207  # the pattern may be absolute
        if not files:
            folder = path.parent
            near = nearest_name(path.name, [entry.name for entry in folder.iterdir()]) if folder.is_dir() else None
            hint = f" Did you mean '{Path(text).parent / near}'?" if near else ""
            raise DefinitionError(f"Source '{source}' has no file '{text}' under {self.root}.{hint}", place=source)
        return files


def _needed(schema: RowSchema) -> Iterator[RowColumn]:
    for column in schema.columns:
        if column.name != CREATED or schema.created_timestamp is not None:
            yield column


def _check_column(view: str, column: RowColumn, available: Mapping[str, pa.DataType]) -> None:
    if column.source not in available:
        missing = NotFoundError.of("column", column.source, available)
        raise DefinitionError(missing.message, place=f"{view}.{column.source}")
    if not may_become(available[column.source], column.dtype):
        raise DefinitionError(
            f"Column '{column.source}' is {available[column.source]}, declared {column.dtype}.",
            place=f"{view}.{column.source}",
        )


def _query(source: SourceRecord) -> str:
    return source.query if source.kind == "sql" and source.query else "SELECT * FROM source"


def _check_select(source: SourceRecord) -> None:
    """Refuse anything but one SELECT: it stands inside other SQL, where a second statement would run as well."""
    kinds = [statement.type for statement in duckdb.extract_statements(_query(source))]
    if kinds != [duckdb.StatementType.SELECT]:
        raise DefinitionError(f"The query of source '{source.name}' is not one SELECT.", place=source.name)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _list(values: Iterable[str]) -> str:
    return "[" + ", ".join("'" + value.replace("'", "''") + "'" for value in values) + "]"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
