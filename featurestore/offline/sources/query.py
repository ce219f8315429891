"""A user's SELECT over declared tables, in a DuckDB connection that reaches them and nothing else, with bounded memory and time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.errors import DefinitionError, FeatureStoreError, UnavailableError
from featurestore.offline.sources.formats import ParquetFiles
from featurestore.offline.sources.pieces import Columns, OpenSource, Piece, unreadable

_THREADS = 2
_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class Limits:
    """What one read of a source may take.

    Attributes:
        memory_mb: Memory of a query over tables, in MiB; what does not fit is spilled to a temporary folder.
        seconds: How long a query may run before it is stopped.
    """

    memory_mb: int = 1024
    seconds: float = 3600.0


@dataclass(frozen=True)
class Query:
    """One SELECT over tables.

    Args:
        name: Name of the source, for errors.
        sql: The SELECT, in DuckDB's SQL.
        tables: Name in the query -> the table.
        limits: What it may take.
    """

    name: str
    sql: str
    tables: Mapping[str, OpenSource]
    limits: Limits

    def columns(self) -> Columns:
        """Return the columns of the result; no row of a table is read."""
        with self._connection(_write_schema) as connection:
            schema = connection.sql(f"SELECT * FROM ({self.sql}\n) LIMIT 0").to_arrow_table().schema  # noqa: S608  # the user's own query
            return dict(zip(schema.names, schema.types, strict=True))

    def pieces(self, wanted: Sequence[str], known_until: str | None = None) -> Iterator[Piece]:
        """Go through the rows of the result."""
        columns = ", ".join(map(quoted, wanted))
        where = f" WHERE {known_until}" if known_until else ""
        first = 0
        with self._connection(_write_rows) as connection:
            query = f"SELECT {columns} FROM ({self.sql}\n){where}"  # noqa: S608  # as above
            for batch in connection.sql(query).to_arrow_reader(_ROWS):
                yield Piece(batch, partial(self._place, first))
                first += len(batch)

    def _place(self, first: int, row: int) -> str:
        return f"{self.name}, row {first + row + 1} of its query"

    @contextmanager
    def _connection(self, write: Callable[[OpenSource, Path], None]) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open a locked connection that sees the tables and no other file, for as long as the limits allow."""
        self._check_select()
        with TemporaryDirectory(prefix="featurestore-source-") as folder:
            files = {
                name: _files(table, Path(folder) / f"{name}.parquet", write) for name, table in self.tables.items()
            }
            connection = duckdb.connect(config=self._config(Path(folder) / "spill"))
            stopper = Timer(self.limits.seconds, connection.interrupt)
            stopper.daemon = True
            try:
                self._lock(connection, files)
                stopper.start()
                yield connection
            except (duckdb.Error, OSError) as error:  # a stream of batches hands on the same words as an OSError
                raise self._explained(error) from error
            finally:
                stopper.cancel()
                connection.close()

    def _check_select(self) -> None:
        """Refuse anything but one SELECT: it stands inside other SQL, where a second statement would run as well."""
        try:
            kinds = [statement.type for statement in duckdb.extract_statements(self.sql)]
        except duckdb.Error as error:
            raise unreadable(self.name, error) from error
        if kinds != [duckdb.StatementType.SELECT]:
            raise DefinitionError(f"The query of source '{self.name}' is not one SELECT.", place=self.name)

    def _config(self, spill: Path) -> dict[str, str | bool | int | float | list[str]]:
        return {
            "threads": _THREADS,
            "memory_limit": f"{self.limits.memory_mb}MiB",
            "temp_directory": str(spill),
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
            "allow_persistent_secrets": "false",
            "python_enable_replacements": "false",
        }

    def _lock(self, connection: duckdb.DuckDBPyConnection, files: Mapping[str, Sequence[str]]) -> None:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"SET allowed_paths = {_list(file for paths in files.values() for file in paths)}")
        connection.execute("SET enable_external_access = false")
        for table, paths in files.items():
            view = f"SELECT * FROM read_parquet({_list(paths)}, hive_partitioning = false)"  # noqa: S608  # quoted
            connection.execute(f"CREATE VIEW {quoted(table)} AS {view}")
        connection.execute("SET lock_configuration = true")

    def _explained(self, error: Exception) -> FeatureStoreError:
        said = str(error)
        if "INTERRUPT Error" in said:
            return UnavailableError(
                f"The query of source '{self.name}' took longer than {self.limits.seconds:g} seconds.",
                place=self.name,
                repair="Make it cheaper, or raise timeout_seconds under [sources] in featurestore.toml.",
            )
        if "Out of Memory Error" in said:
            return unreadable(
                self.name,
                f"its query needs more than {self.limits.memory_mb} MiB",
                repair="Make it cheaper, or raise memory_mb under [sources] in featurestore.toml.",
            )
        return self._error_of_a_file() or unreadable(self.name, said)

    def _error_of_a_file(self) -> FeatureStoreError | None:
        """Return the error of a file that cannot be read, which says more than the query could; None if all can."""
        for table in self.tables.values():
            if isinstance(table, ParquetFiles):
                try:
                    for _ in table.pieces(list(table.columns())):
                        pass
                except FeatureStoreError as error:
                    return error
        return None


def quoted(name: str) -> str:
    """Return a name as SQL.

    >>> print(quoted('a "b" c'))
    "a ""b"" c"
    """
    return '"' + name.replace('"', '""') + '"'


def _files(table: OpenSource, spool: Path, write: Callable[[OpenSource, Path], None]) -> list[str]:
    """Return Parquet files that hold a table: its own, or one that is written now, which a query can scan again and in parts."""
    if isinstance(table, ParquetFiles) and not table.has_partitions:
        return [str(file.path) for file in table.files]
    write(table, spool)
    return [str(spool)]


def _write_schema(table: OpenSource, path: Path) -> None:
    pq.write_table(pa.schema(list(table.columns().items())).empty_table(), path)


def _write_rows(table: OpenSource, path: Path) -> None:
    columns = table.columns()
    schema = pa.schema(list(columns.items()))
    with pq.ParquetWriter(path, schema, compression="lz4") as writer:
        for piece in table.pieces(list(columns)):
            writer.write_batch(piece.batch.cast(schema))


def _list(values: Iterator[str] | Sequence[str]) -> str:
    return "[" + ", ".join("'" + value.replace("'", "''") + "'" for value in values) + "]"
