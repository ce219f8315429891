"""Where rows come from: a table with event times and, if it is known, the time each row was created.

The name of a source, its query and the texts it takes for null are meaning. Where its rows lie is not: path, table, connection, delimiter
and pinned version may change while the features stay what they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from featurestore.definitions.checks import check_apart, check_kind, check_name
from featurestore.errors import DefinitionError
from featurestore.types import DType


@dataclass(frozen=True)
class ParquetSource:
    """A Parquet file, folder or glob.

    Args:
        name: Identity of the source; part of every meaning made from it.
        path: File, folder or glob, relative to the project folder; where it lies is not part of the meaning.
        event_timestamp: Column of the time at which a row became true; naive times are UTC.
        created_timestamp: Column of the time at which a row became known; None means at its event time.
        partitions: Types of the columns that stand in folder names (``year=2013``); one that is not named here is an int64 where
            every value is a whole number without leading zeros when the plan is made, else a string.
    """

    name: str
    path: str
    event_timestamp: str = "event_timestamp"
    created_timestamp: str | None = None
    partitions: Mapping[str, str | DType] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name("Source", self.name)
        _check_types(self.name, self.partitions)

    def document(self) -> dict[str, Any]:
        """Return the neutral JSON form."""
        return _document("parquet", self, path=self.path, partitions=_types(self.partitions))


@dataclass(frozen=True)
class CSVSource:
    """A CSV file, folder or glob, in UTF-8; a cell that is not of its column's type is an error with file, line and column.

    Args:
        name: Identity of the source.
        path: File, folder or glob, relative to the project folder; ``.csv.gz`` is decompressed.
        event_timestamp: Column of the time at which a row became true; times are ISO 8601, naive ones are UTC.
        created_timestamp: Column of the time at which a row became known; None means at its event time.
        columns: Column -> type. With a header, a column that is not named here gets the first of ``bool``, ``int64``, ``float64``,
            ``date``, ``timestamp`` and ``string`` that every cell fits when the plan is made, and keeps it. Without a header: all
            columns, in order.
        header: Whether the first line of each file names its columns.
        delimiter: One character.
        nulls: Texts of an unquoted cell that mean null; a quoted cell is never null.
        partitions: Types of the columns that stand in folder names, as in ParquetSource.

    Raises:
        DefinitionError: A type is unknown or cannot be written as text, or there is neither a header nor `columns`.

    >>> CSVSource("weather", "data/*.csv", columns={"temp": "float64"}, nulls=["", "NA"]).document()["nulls"]
    ['', 'NA']
    """

    name: str
    path: str
    event_timestamp: str = "event_timestamp"
    created_timestamp: str | None = None
    columns: Mapping[str, str | DType] = field(default_factory=dict)
    header: bool = True
    delimiter: str = ","
    nulls: Sequence[str] = ("",)
    partitions: Mapping[str, str | DType] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name("Source", self.name)
        _check_types(self.name, self.partitions)
        _check_types(self.name, self.columns)
        if not isinstance(self.delimiter, str) or len(self.delimiter) != 1 or self.delimiter in '"\r\n':
            raise DefinitionError(f"Delimiter {self.delimiter!r} of '{self.name}' is not one character.")
        if isinstance(self.nulls, str):
            raise DefinitionError(f"The nulls of '{self.name}' are a text.", repair=f"Write nulls=[{self.nulls!r}].")
        if not self.header and not self.columns:
            raise DefinitionError(
                f"CSV source '{self.name}' has no header.", repair='Name all columns in order: columns={"id": "int64"}.'
            )

    def document(self) -> dict[str, Any]:
        """Return the neutral JSON form."""
        return _document(
            "csv",
            self,
            path=self.path,
            declared=_types(self.columns),
            header=self.header,
            delimiter=self.delimiter,
            nulls=sorted(set(self.nulls)),
            partitions=_types(self.partitions),
        )


@dataclass(frozen=True)
class ArrowSource:
    """An Arrow IPC file, folder or glob: the file format (Feather) or the stream format, told apart by their first bytes.

    Args:
        name: Identity of the source.
        path: File, folder or glob, relative to the project folder.
        event_timestamp: Column of the time at which a row became true; naive times are UTC.
        created_timestamp: Column of the time at which a row became known; None means at its event time.
        partitions: Types of the columns that stand in folder names, as in ParquetSource.
    """

    name: str
    path: str
    event_timestamp: str = "event_timestamp"
    created_timestamp: str | None = None
    partitions: Mapping[str, str | DType] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name("Source", self.name)
        _check_types(self.name, self.partitions)

    def document(self) -> dict[str, Any]:
        """Return the neutral JSON form."""
        return _document("arrow", self, path=self.path, partitions=_types(self.partitions))


@dataclass(frozen=True)
class DeltaSource:
    """A folder that holds a Delta table.

    Args:
        name: Identity of the source.
        path: The folder, relative to the project folder.
        event_timestamp: Column of the time at which a row became true; naive times are UTC.
        created_timestamp: Column of the time at which a row became known; None means at its event time.
        version: Version of the table to read; None is the newest.
    """

    name: str
    path: str
    event_timestamp: str = "event_timestamp"
    created_timestamp: str | None = None
    version: int | None = None

    def __post_init__(self) -> None:
        check_name("Source", self.name)
        if self.version is not None and (not isinstance(self.version, int) or self.version < 0):
            raise DefinitionError(
                f"Version {self.version!r} of Delta source '{self.name}' is not a number from 0.",
                repair="Leave it out for the newest.",
            )

    def document(self) -> dict[str, Any]:
        """Return the neutral JSON form."""
        return _document("delta", self, path=self.path, version=self.version)


@dataclass(frozen=True)
class PostgresSource:
    """A table of a PostgreSQL server, or a query that runs there, read-only.

    Args:
        name: Identity of the source.
        connection: Name of a connection: a key under ``[connections]`` in featurestore.toml, or the URL in the environment
            variable ``FEATURESTORE_CONNECTION_<NAME>``. The URL and its password never enter the registry.
        table: The table, with its schema if it is not on the search path: ``"public.weather"``; where it lies is not meaning.
        query: In place of `table`: one SELECT in PostgreSQL's SQL; it is meaning.
        event_timestamp: Column of the time at which a row became true; naive times are UTC.
        created_timestamp: Column of the time at which a row became known; None means at its event time.

    Raises:
        DefinitionError: Neither a table nor a query, or both.

    >>> PostgresSource("weather", "warehouse", table="public.weather").document()["connection"]
    'warehouse'
    """

    name: str
    connection: str
    table: str | None = None
    query: str | None = None
    event_timestamp: str = "event_timestamp"
    created_timestamp: str | None = None

    def __post_init__(self) -> None:
        check_name("Source", self.name)
        if not isinstance(self.connection, str) or "://" in self.connection:
            raise DefinitionError(
                f"The connection of source '{self.name}' is not a name.",
                repair="Write the URL under [connections] in featurestore.toml, and its name here.",
            )
        check_name("Connection", self.connection)
        if (self.table is None) == (self.query is None):
            raise DefinitionError(
                f"PostgreSQL source '{self.name}' needs a table or a query, not both.",
                repair='Say table="public.weather".',
            )

    def document(self) -> dict[str, Any]:
        """Return the neutral JSON form."""
        special: dict[str, Any] = {"path": self.table, "connection": self.connection}
        if self.query is not None:
            special |= {"query": _one_line(self.query), "dialect": "postgres"}
        return _document("postgres", self, **special)


@dataclass(frozen=True)
class SQLSource:
    """A query, in DuckDB's SQL, over other sources.

    Args:
        name: Identity of the source; part of every meaning made from it.
        query: One SELECT; it names its inputs as in `tables` and can read nothing else.
        tables: Table name in the query -> a source (its time columns do not matter here), or a Parquet path relative to the project
            folder. What a source means is part of the meaning of the query; a path is not.
        event_timestamp: Output column of the time at which a row became true.
        created_timestamp: Output column of the time at which a row became known; None means at its event time.
    """

    name: str
    query: str
    tables: Mapping[str, str | Source]
    event_timestamp: str = "event_timestamp"
    created_timestamp: str | None = None

    def __post_init__(self) -> None:
        check_name("Source", self.name)
        for table, source in self.tables.items():
            check_name("Table", table)
            check_kind(f"Table '{table}' of '{self.name}'", source, str | Tabular, '"data/raw.parquet" or a source')
        check_apart("Table", self.tables, self.name)
        if not self.tables:
            raise DefinitionError(f"Source '{self.name}' names no tables.", repair='Say tables={"flights": "..."}.')

    def document(self) -> dict[str, Any]:
        """Return the neutral JSON form."""
        tables = {name: t if isinstance(t, str) else t.document() for name, t in sorted(self.tables.items())}
        return _document("sql", self, query=_one_line(self.query), tables=tables, dialect="duckdb")


@dataclass(frozen=True)
class PushSource:
    """Rows that come by `write` alone, such as the predictions of a model.

    Args:
        name: Identity of the source.
        event_timestamp: Column of the time at which a row became true.
        created_timestamp: Column of the time at which a row became known; None means at its event time.
    """

    name: str
    event_timestamp: str = "event_timestamp"
    created_timestamp: str | None = None

    def __post_init__(self) -> None:
        check_name("Source", self.name)

    def document(self) -> dict[str, Any]:
        """Return the neutral JSON form."""
        return _document("push", self)


Tabular = ParquetSource | CSVSource | ArrowSource | DeltaSource | PostgresSource | SQLSource
Source = Tabular | PushSource

_QUOTED = r"""[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|\$(\w*)\$.*?\$\2\$"""
_SQL_PIECE = re.compile(rf"({_QUOTED})|(?:\s|--[^\n]*|/\*.*?\*/)+", re.DOTALL)


def _one_line(query: str) -> str:
    """Return the query without comments and with single spaces outside quotes: how it is laid out is not its meaning."""
    return _SQL_PIECE.sub(lambda piece: piece[1] or " ", query).strip().rstrip("; ")


def _check_types(source: str, columns: Mapping[str, str | DType]) -> None:
    """Refuse types that no text can be read as."""
    for column, dtype in columns.items():
        if DType.of(dtype).family in _NOT_TEXT:
            raise DefinitionError(
                f"Column '{column}' of source '{source}' cannot be {dtype}: it is read from text.",
                repair="Declare it as string.",
            )


_NOT_TEXT = frozenset({"binary", "list", "struct", "vector"})


def _types(columns: Mapping[str, str | DType]) -> list[tuple[str, str]]:
    return [(column, DType.of(dtype).name) for column, dtype in columns.items()]


def _document(kind: str, source: Source, **special: Any) -> dict[str, Any]:
    form: dict[str, Any] = {"kind": kind, "name": source.name, "path": None, "query": None, "tables": {}}
    form |= {"event_timestamp": source.event_timestamp, "created_timestamp": source.created_timestamp}
    return form | special
