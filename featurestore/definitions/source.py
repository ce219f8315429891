"""Where rows come from: a table with event times and, if it is known, the time each row was created."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from featurestore.definitions.checks import check_name
from featurestore.errors import DefinitionError


@dataclass(frozen=True)
class ParquetSource:
    """A Parquet file, folder or glob.

    Args:
        name: Identity of the source; part of every meaning made from it.
        path: File, folder or glob, relative to the project folder; where it lies is not part of the meaning.
        event_timestamp: Column of the time at which a row became true; naive times are UTC.
        created_timestamp: Column of the time at which a row became known; None means at its event time.
    """

    name: str
    path: str
    event_timestamp: str
    created_timestamp: str | None = None

    def __post_init__(self) -> None:
        check_name("Source", self.name)

    def document(self) -> dict[str, Any]:
        """Return the neutral JSON form."""
        return _document("parquet", self, path=self.path)


@dataclass(frozen=True)
class SQLSource:
    """A query, in DuckDB's SQL, over other sources.

    Args:
        name: Identity of the source; part of every meaning made from it.
        query: One SELECT; it names its inputs as in `tables` and can read nothing else.
        tables: Table name in the query -> Parquet path, relative to the project folder.
        event_timestamp: Output column of the time at which a row became true.
        created_timestamp: Output column of the time at which a row became known; None means at its event time.
    """

    name: str
    query: str
    tables: Mapping[str, str]
    event_timestamp: str
    created_timestamp: str | None = None

    def __post_init__(self) -> None:
        check_name("Source", self.name)
        for table in self.tables:
            check_name("Table", table)
        if not self.tables:
            raise DefinitionError(f"Source '{self.name}' names no tables.", repair='Say tables={"flights": "..."}.')

    def document(self) -> dict[str, Any]:
        """Return the neutral JSON form."""
        return _document("sql", self, query=_one_line(self.query), tables=dict(sorted(self.tables.items())))


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


Source = ParquetSource | SQLSource | PushSource

_QUOTED = r"""[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|\$(\w*)\$.*?\$\2\$"""
_SQL_PIECE = re.compile(rf"({_QUOTED})|(?:\s|--[^\n]*|/\*.*?\*/)+", re.DOTALL)


def _one_line(query: str) -> str:
    """Return the query without comments and with single spaces outside quotes: how it is laid out is not its meaning."""
    return _SQL_PIECE.sub(lambda piece: piece[1] or " ", query).strip().rstrip("; ")


def _document(kind: str, source: Source, **special: Any) -> dict[str, Any]:
    form: dict[str, Any] = {"kind": kind, "name": source.name, "path": None, "query": None, "tables": {}}
    form |= {"event_timestamp": source.event_timestamp, "created_timestamp": source.created_timestamp}
    return form | special
