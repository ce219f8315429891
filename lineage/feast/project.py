"""Writes a project out of a Feast registry and its logs, which every `lineage` command can be asked about."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lineage.feast.document import FeastRegistry
from lineage.feast.requests import RequestLog, read_requests

_TABLES = """
CREATE TABLE commits (revision INTEGER PRIMARY KEY, committed_at INTEGER, principal TEXT, message TEXT, document TEXT);
CREATE TABLE bindings (principal TEXT, consumer TEXT, created_at INTEGER);
CREATE TABLE usage_daily (day TEXT, view TEXT, version INTEGER, feature TEXT, principal TEXT, consumer TEXT, binding TEXT,
    environment TEXT, mode TEXT, client TEXT, outcome TEXT, calls INTEGER, entity_rows INTEGER, first_read INTEGER, last_read INTEGER);
CREATE TABLE usage_segments (worker TEXT, number INTEGER, environment TEXT, started_at INTEGER, ended_at INTEGER, closed INTEGER,
    dropped INTEGER);
"""


@dataclass(frozen=True, slots=True)
class Imported:
    """What was taken over.

    Attributes:
        views: Number of view versions.
        requests: Rows of usage: one for each day, feature and reader.
        skipped: ``(file, line, reason)`` of what could not be understood in the logs.
    """

    folder: Path
    views: int
    services: int
    requests: int
    skipped: tuple[tuple[str, int, str], ...]


def import_feast(
    registry: FeastRegistry,
    folder: Path,
    *,
    requests: Iterable[Path] = (),
    complete_from: int | None = None,
    complete_until: int | None = None,
) -> Imported:
    """Write the project of a Feast registry; one that is there is replaced, records of other imports are kept.

    That a feature service is dead can only be said of a time whose requests are all known. A line of a log that cannot be understood
    counts as lost.

    Args:
        registry: What Feast declares.
        folder: The project folder; made when missing.
        requests: Logs of feature requests, JSON lines.
        complete_from: Since when the logs hold every request, in microseconds since 1970 UTC; None is their first line.
        complete_until: Until when; None is their last line.

    Raises:
        NotFoundError: There is no such log.
    """
    bindings: dict[str, list[str]] = {}
    for service, principals in sorted(registry.principals.items()):
        for principal in principals:
            bindings.setdefault(principal, []).append(service)
    logs = [read_requests(path, registry, bindings) for path in requests]
    store = folder / "store"
    store.mkdir(parents=True, exist_ok=True)
    (folder / "featurestore.toml").write_text("# made by `lineage import feast`: it holds lineage alone\n")
    new = store / "registry.db.new"
    new.unlink(missing_ok=True)
    _write(new, registry, bindings, logs)
    _cover(new, logs, complete_from, complete_until)
    new.replace(store / "registry.db")
    return Imported(
        folder,
        sum(len(view["versions"]) for view in registry.document["views"].values()),
        len(registry.document["services"]),
        sum(len(log.usage) for log in logs),
        tuple((log.name, line, reason) for log in logs for line, reason in log.skipped),
    )


def _write(path: Path, registry: FeastRegistry, bindings: Mapping[str, list[str]], logs: list[RequestLog]) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(_TABLES)
        connection.executemany("INSERT INTO commits VALUES (?, ?, 'feast', 'import', ?)", _commits(registry))
        connection.executemany(
            "INSERT INTO bindings VALUES (?, ?, ?)",
            ((who, name, registry.created[name]) for who, names in bindings.items() for name in names),
        )
        for log in logs:
            connection.executemany(
                "INSERT INTO usage_daily VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", log.usage
            )


def _cover(path: Path, logs: list[RequestLog], start: int | None, end: int | None) -> None:
    """Say which time the logs cover: one segment, before and after which nothing is known."""
    known = [log for log in logs if log.last]
    starts = [log.first for log in known] if start is None else [start]
    ends = [log.last for log in known] if end is None else [end]
    if not logs or not starts or not ends:
        return
    lost = sum(len(log.skipped) for log in logs)
    # Number 0, which is missing, stands for the time before; a worker that is not closed may have gone on.
    segment = ("requests", 1, "", min(starts), max(ends), 0, lost)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO usage_segments VALUES (?, ?, ?, ?, ?, ?, ?)", segment)


def _commits(registry: FeastRegistry) -> Iterator[tuple[int, int, str]]:
    """Yield one commit for each time a feature service was made, so that each declares since then, and one for the newest change."""
    moments = sorted({*registry.created.values(), registry.committed_at})
    for revision, moment in enumerate(moments, 1):
        made: dict[str, Any] = {
            kind: {n: x for n, x in registry.document[kind].items() if registry.created[n] <= moment}
            for kind in ("services", "consumers")
        }
        yield revision, moment, json.dumps({**registry.document, **made, "revision": revision, "committed_at": moment})
