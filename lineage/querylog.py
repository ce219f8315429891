"""Reads the logs of databases and object stores: who read which table or file, and when.

Three forms, told apart by content: JSON lines and CSV with a statement or a path per entry, and the access log of S3-like stores.
Only what reads counts: a statement that only writes a table is left out. An entry that cannot be understood is counted and its line
is listed, never dropped in silence.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from lineage.errors import InvalidQuestionError, NotFoundError
from lineage.imported import Access
from lineage.instants import instant

_TIMES = ("at", "time", "timestamp", "start_time", "query_start", "eventtime", "log_time", "created_at")
_USERS = ("principal", "user", "user_name", "usename", "username", "requester", "user_email", "role")
_STATEMENTS = ("statement", "query", "query_text", "sql", "command")
_OBJECTS = ("object", "path", "key", "uri")
# time in brackets, then remote address, requester, request id, operation and key: the access log of S3 and its relatives.
_S3_LINE = re.compile(
    r"\S+ (?P<bucket>\S+) \[(?P<time>[^\]]+)\] \S+ (?P<user>\S+) \S+ (?P<operation>\S+) (?P<key>\S+) "
)
_READ_OPERATIONS = re.compile(
    r"(REST\.(GET|HEAD|COPY)\.OBJECT)|^(GetObject|HeadObject|CopyObject|SelectObjectContent)$"
)


@dataclass(frozen=True, slots=True)
class LogReport:
    """What a log says.

    Attributes:
        accesses: Every read of a table or a file.
        entries: How many entries the log has.
        skipped: ``(line, reason)`` of what could not be understood; lines are counted from 1.
    """

    accesses: tuple[Access, ...]
    entries: int
    skipped: tuple[tuple[int, str], ...]


def read_log(path: Path, *, dialect: str | None = None) -> LogReport:
    """Read a query log or an object-store log.

    Args:
        path: The file: JSON lines, CSV with a header, or an S3 access log.
        dialect: Whose SQL its statements are, e.g. ``postgres``; None takes what most have in common.

    Raises:
        NotFoundError: There is no such file.
        InvalidQuestionError: It is in none of these forms.
    """
    if not path.is_file():
        raise NotFoundError(f"There is no log '{path}'.")
    text = path.read_text("utf-8", errors="replace")
    accesses: list[Access] = []
    skipped: list[tuple[int, str]] = []
    entries = 0
    for line, entry in _entries(text, path):
        entries += 1
        try:
            accesses += _accesses(entry, path.name, line, dialect)
        except (ValueError, InvalidQuestionError) as error:
            skipped.append((line, str(error)))
    return LogReport(tuple(accesses), entries, tuple(skipped))


def _entries(text: str, path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    first = text.lstrip()[:1]
    lines = text.splitlines()
    if first == "{":
        yield from ((number, _json_entry(line)) for number, line in enumerate(lines, 1) if line.strip())
    elif lines and _S3_LINE.match(lines[0]):
        yield from ((number, _s3_entry(line)) for number, line in enumerate(lines, 1) if line.strip())
    elif lines and {name.strip().lower() for name in lines[0].split(",")} & {*_STATEMENTS, *_OBJECTS}:
        reader = csv.DictReader(io.StringIO(text))
        yield from ((reader.line_num, {str(k).strip().lower(): v for k, v in row.items()}) for row in reader)
    else:
        raise InvalidQuestionError(
            f"'{path}' is no log that can be read.",
            repair="Give JSON lines, CSV with the columns time, user and statement (or path), or an S3 access log.",
        )


def _json_entry(line: str) -> Mapping[str, Any]:
    try:
        found = json.loads(line)
    except json.JSONDecodeError:
        return {}
    entry = {str(key).lower(): value for key, value in found.items()} if isinstance(found, dict) else {}
    identity, request = entry.get("useridentity"), entry.get("requestparameters")
    if isinstance(identity, dict):  # CloudTrail
        entry["user"] = identity.get("arn") or identity.get("principalId") or ""
    if isinstance(request, dict) and "key" in request:
        reads = _READ_OPERATIONS.search(str(entry.get("eventname", "")))
        entry["path"] = f"{request.get('bucketName', '')}/{request['key']}" if reads else ""
    return entry


def _s3_entry(line: str) -> Mapping[str, Any]:
    match = _S3_LINE.match(line)
    if match is None:
        return {}
    path = f"{match['bucket']}/{match['key']}" if _READ_OPERATIONS.search(match["operation"]) else ""
    at = datetime.strptime(match["time"], "%d/%b/%Y:%H:%M:%S %z").isoformat()
    return {"time": at, "user": "" if match["user"] == "-" else match["user"], "path": path}


def _accesses(entry: Mapping[str, Any], origin: str, line: int, dialect: str | None) -> list[Access]:
    at = _instant(_first(entry, _TIMES))
    user = str(_first(entry, _USERS) or "")
    statement, path = _first(entry, _STATEMENTS), _first(entry, _OBJECTS)
    if statement:
        tables = sorted(tables_read(str(statement), dialect=dialect))
        return [Access(at, user, _kind(table), table, origin, line) for table in tables]
    if path is None:
        raise ValueError("it has neither a statement nor a path")
    return [Access(at, user, "object", str(path), origin, line)] if path else []


def _kind(table: str) -> str:
    return "object" if "/" in table or table.endswith((".parquet", ".csv")) else "query"


def _first(entry: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((entry[name] for name in names if name in entry), None)


def _instant(value: Any) -> int:
    """Read an instant: ISO text, or a number of seconds, milliseconds or microseconds since 1970 UTC, told apart by its size."""
    if value is None:
        raise ValueError("it has no time")
    if isinstance(value, str) and not re.fullmatch(r"-?\d+(\.\d+)?", value):
        return instant(value.strip().replace(" UTC", "+00:00"), now=0)
    number = float(value)
    for limit, factor in ((1e11, 1_000_000), (1e14, 1_000)):
        if abs(number) < limit:
            return int(number * factor)
    return int(number)


def tables_read(statement: str, *, dialect: str | None = None) -> frozenset[str]:
    """Return the tables and files that a SQL statement reads, as it names them.

    Args:
        statement: SQL; what it names itself in WITH is no table.
        dialect: Whose SQL it is; None takes what most have in common.

    Raises:
        ValueError: It is no SQL that can be read.

    >>> sorted(tables_read("INSERT INTO plan SELECT * FROM public.weather w JOIN 'data/a.parquet' USING (station)"))
    ['data/a.parquet', 'public.weather']
    """
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    try:
        parsed = [tree for tree in sqlglot.parse(statement, dialect=dialect or "duckdb") if tree is not None]
    except SqlglotError as error:
        raise ValueError(f"its statement is no SQL that can be read: {str(error).splitlines()[0]}") from None
    found: set[str] = set()
    for tree in parsed:
        named = {cte.alias for cte in tree.find_all(exp.CTE)}
        target = tree.this.find(exp.Table) if isinstance(tree, (exp.Insert, exp.Create)) else None
        for table in tree.find_all(exp.Table):
            if table is not target and isinstance(table.this, exp.Identifier) and (table.db or table.name not in named):
                found.add(".".join(part.name for part in table.parts))
        found |= {
            literal.name
            for function in tree.find_all(exp.ReadParquet, exp.ReadCSV)
            for literal in function.find_all(exp.Literal)
            if literal.is_string
        }
    return frozenset(found)
