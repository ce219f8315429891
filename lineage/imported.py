"""What lineage was told by imports: reads around the server, references in code, model artefacts.

One SQLite file beside the registry, ``store/lineage.db``, written by ``lineage import`` alone. The registry itself is never written.
An import that is repeated, comes late or in another order leaves the same records: each is kept under what it says.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lineage.errors import CorruptRegistryError, NotAllowedError, UnavailableError
from lineage.graph import Edge, Node
from lineage.registry import Consumer, Declarations

RECORDS = "lineage.db"
_TABLES = """
CREATE TABLE IF NOT EXISTS accesses (at INTEGER, principal TEXT, kind TEXT, object TEXT, origin TEXT, line INTEGER,
                                     PRIMARY KEY (principal, object, kind, at));
CREATE TABLE IF NOT EXISTS code_references (repository TEXT, file TEXT, line INTEGER, "column" INTEGER, kind TEXT, ref TEXT,
                                            confidence TEXT, consumer TEXT);
CREATE TABLE IF NOT EXISTS repositories (repository TEXT PRIMARY KEY, scanned_at INTEGER, unresolved INTEGER);
CREATE TABLE IF NOT EXISTS artefacts (consumer TEXT PRIMARY KEY, document TEXT);
CREATE TABLE IF NOT EXISTS declarations (revision INTEGER, committed_at INTEGER, since TEXT);
CREATE TABLE IF NOT EXISTS manifests (consumer TEXT PRIMARY KEY, document TEXT, origin TEXT, at INTEGER);
CREATE TABLE IF NOT EXISTS events (document TEXT PRIMARY KEY, at INTEGER);
CREATE TABLE IF NOT EXISTS nodes (kind TEXT, name TEXT, PRIMARY KEY (kind, name));
CREATE TABLE IF NOT EXISTS edges (upstream_kind TEXT, upstream TEXT, downstream_kind TEXT, downstream TEXT, kind TEXT, at INTEGER,
                                  PRIMARY KEY (upstream_kind, upstream, downstream_kind, downstream, kind));
CREATE TABLE IF NOT EXISTS told (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), version INTEGER);
"""
# Random, so that a file which is made anew, or copied back, has no version of another.
_NEW_VERSION = "INSERT OR REPLACE INTO told VALUES (1, random())"


@dataclass(frozen=True, slots=True)
class Access:
    """One read of a table or a file that did not come through the store.

    Attributes:
        at: Microseconds since 1970 UTC.
        principal: Who the log says it was; empty for nobody.
        kind: ``query`` or ``object``.
        object: The table as the statement names it, or the path.
        origin: The log it stood in.
        line: Where in the log, counted from 1.
    """

    at: int
    principal: str
    kind: str
    object: str
    origin: str
    line: int

    def evidence(self) -> dict[str, Any]:
        """Return it as one piece of evidence."""
        return {"type": "access", **asdict(self)}


@dataclass(frozen=True, slots=True)
class CodeReference:
    """A place in code that names something of the store.

    Attributes:
        repository: The code that was scanned.
        kind: ``feature``, ``view``, ``service`` or ``table``.
        ref: The name as far as the scan could tell.
        confidence: ``literal``, ``alias``, ``folded`` or ``dynamic``.
        consumer: The consumer that the code says it runs; empty when it does not say.
    """

    repository: str
    file: str
    line: int
    column: int
    kind: str
    ref: str
    confidence: str
    consumer: str = ""

    @property
    def place(self) -> str:
        """Where it is, as editors write it."""
        return f"{self.file}:{self.line}"

    def evidence(self) -> dict[str, Any]:
        """Return it as one piece of evidence."""
        return {"type": "code", **asdict(self)}


@dataclass(frozen=True, slots=True)
class Records:
    """Everything that was imported.

    Attributes:
        artefacts: Consumer -> what its model uses, as `lineage.artefacts` describes it.
        repositories: Scanned code -> how many references could not be resolved.
    """

    accesses: tuple[Access, ...] = ()
    references: tuple[CodeReference, ...] = ()
    artefacts: Mapping[str, Mapping[str, Any]] | None = None
    repositories: Mapping[str, int] | None = None


def read_records(path: Path, *, until: int) -> Records:
    """Read what was imported.

    Args:
        path: ``store/lineage.db``; one that does not exist holds nothing.
        until: Accesses after this instant (microseconds since 1970 UTC) are left out.

    Raises:
        CorruptRegistryError: The file is not what `lineage import` writes.
    """
    with _reading(path) as connection:
        if connection is None:
            return Records(artefacts={}, repositories={})
        accesses = connection.execute(
            "SELECT at, principal, kind, object, origin, line FROM accesses WHERE at <= ? ORDER BY at, principal, object",
            (until,),
        )
        references = connection.execute("SELECT * FROM code_references ORDER BY repository, file, line, 4, ref")
        return Records(
            tuple(Access(*row) for row in accesses),
            tuple(CodeReference(*row) for row in references),
            {key: json.loads(text) for key, text in connection.execute("SELECT consumer, document FROM artefacts")},
            dict(connection.execute("SELECT repository, unresolved FROM repositories")),
        )


def add_accesses(path: Path, accesses: Iterable[Access]) -> int:
    """Add reads of an imported log and return how many were new.

    Args:
        path: ``store/lineage.db``; made when missing.
        accesses: What the log says; what is there already counts once.

    Raises:
        NotAllowedError: The folder may not be written.
    """
    with _writing(path) as connection:
        before = connection.total_changes
        connection.executemany(
            "INSERT OR IGNORE INTO accesses (at, principal, kind, object, origin, line) VALUES (?, ?, ?, ?, ?, ?)",
            ((a.at, a.principal, a.kind, a.object, a.origin, a.line) for a in accesses),
        )
        return connection.total_changes - before


def replace_references(
    path: Path, repository: str, references: Iterable[CodeReference], *, unresolved: int, at: int
) -> int:
    """Replace what is known of one repository's code by a newer scan, and return how many references there are now.

    Args:
        path: ``store/lineage.db``; made when missing.
        repository: Its name.
        references: What the scan found.
        unresolved: How many references the scan could not resolve.
        at: When it was scanned, in microseconds since 1970 UTC.

    Raises:
        NotAllowedError: The folder may not be written.
    """
    rows = [(r.repository, r.file, r.line, r.column, r.kind, r.ref, r.confidence, r.consumer) for r in references]
    with _writing(path) as connection:
        connection.execute("DELETE FROM code_references WHERE repository = ?", (repository,))
        connection.executemany("INSERT INTO code_references VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        connection.execute("INSERT OR REPLACE INTO repositories VALUES (?, ?, ?)", (repository, at, unresolved))
    return len(rows)


def put_artefact(path: Path, consumer: str, document: Mapping[str, Any]) -> None:
    """Keep what a consumer's model uses; a later one takes its place.

    Args:
        path: ``store/lineage.db``; made when missing.
        consumer: Its key, such as ``delay_model@1``.
        document: As `lineage.artefacts` describes the model.

    Raises:
        NotAllowedError: The folder may not be written.
    """
    with _writing(path) as connection:
        connection.execute(
            "INSERT OR REPLACE INTO artefacts VALUES (?, ?)", (consumer, json.dumps(document, sort_keys=True))
        )


@dataclass(frozen=True, slots=True)
class ToldGraph:
    """Objects and edges that events of others told, each edge with the first instant it was told for (microseconds since 1970 UTC)."""

    nodes: tuple[Node, ...] = ()
    edges: tuple[tuple[Edge, int], ...] = ()


def add_events(
    path: Path, events: Iterable[tuple[str, int]], *, nodes: Iterable[Node], edges: Iterable[tuple[Edge, int]]
) -> int:
    """Keep events and what they tell, and return how many events were new; late, repeated and unordered ones end the same.

    Args:
        path: ``store/lineage.db``; made when missing.
        events: Each as canonical JSON, with its instant.
        nodes: Objects that they tell of.
        edges: Edges that they tell, with their instants.

    Raises:
        NotAllowedError: The folder may not be written.
    """
    rows = [(e.upstream.kind, e.upstream.name, e.downstream.kind, e.downstream.name, e.kind, at) for e, at in edges]
    with _writing(path) as connection:
        before = connection.total_changes
        connection.executemany("INSERT OR IGNORE INTO events VALUES (?, ?)", events)
        new = connection.total_changes - before
        connection.executemany("INSERT OR IGNORE INTO nodes VALUES (?, ?)", [(n.kind, n.name) for n in nodes])
        connection.executemany(
            "INSERT INTO edges VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET at = min(at, excluded.at)", rows
        )
        connection.execute(_NEW_VERSION)
    return new


def put_manifests(path: Path, manifests: Iterable[tuple[Consumer, int]], *, origin: str) -> int:
    """Keep manifests that another tool holds, in place of those it held before, and return how many there are now.

    Args:
        path: ``store/lineage.db``; made when missing.
        manifests: Each with since when it is declared, in microseconds since 1970 UTC.
        origin: Where they come from.

    Raises:
        NotAllowedError: The folder may not be written.
    """
    rows = [(c.key, json.dumps(asdict(c), sort_keys=True), origin, at) for c, at in manifests]
    with _writing(path) as connection:
        connection.execute("DELETE FROM manifests WHERE origin = ?", (origin,))
        connection.executemany("INSERT OR REPLACE INTO manifests VALUES (?, ?, ?, ?)", rows)
        connection.execute(_NEW_VERSION)
    return len(rows)


def read_manifests(path: Path, *, until: int) -> tuple[tuple[Consumer, int], ...]:
    """Read the manifests that other tools hold, each with since when; arguments as in `read_records`."""
    with _reading(path) as connection:
        if connection is None or not _has(connection, "manifests"):
            return ()
        rows = connection.execute("SELECT document, at FROM manifests WHERE at <= ? ORDER BY consumer", (until,))
        return tuple((_manifest(json.loads(document)), at) for document, at in rows)


def _manifest(document: Mapping[str, Any]) -> Consumer:
    lists = {name: tuple(document[name]) for name in ("reads", "services", "writes")}
    return Consumer(**{**document, **lists})


def read_told(path: Path, *, until: int) -> ToldGraph:
    """Read what events told up to an instant (microseconds since 1970 UTC); arguments as in `read_records`."""
    with _reading(path) as connection:
        if connection is None or not _has(connection, "edges"):
            return ToldGraph()
        rows = connection.execute("SELECT * FROM edges WHERE at <= ? ORDER BY 1, 2, 3, 4, 5", (until,))
        edges = tuple((Edge(Node(a, b), Node(c, d), kind), at) for a, b, c, d, kind, at in rows)
        return ToldGraph(tuple(Node(*row) for row in connection.execute("SELECT kind, name FROM nodes")), edges)


def told_key(path: Path) -> tuple[int, ...]:
    """Return what changes with what events told and what manifests other tools hold; nothing before the first of them."""
    with _reading(path) as connection:
        if connection is None or not _has(connection, "told"):
            return ()
        return tuple(connection.execute("SELECT version FROM told").fetchone() or ())


def _has(connection: sqlite3.Connection, table: str) -> bool:
    return bool(connection.execute("SELECT count(*) FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0])


def read_kept_declarations(path: Path) -> Declarations:
    """Return the declarations that were kept of an earlier commit; none where nothing was kept or the file cannot be read."""
    if not path.is_file():
        return Declarations()
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=1)) as connection:
            row = connection.execute("SELECT revision, committed_at, since FROM declarations").fetchone()
        since = {(key, ref): at for key, ref, at in json.loads(row[2])} if row else {}
    except (sqlite3.DatabaseError, json.JSONDecodeError, TypeError, ValueError):
        return Declarations()
    return Declarations(row[0], row[1], since) if row else Declarations()


def keep_declarations(path: Path, found: Declarations) -> None:
    """Keep the declarations of a commit, so that only later ones are read next time; a folder that is read-only keeps none."""
    text = json.dumps([[key, ref, at] for (key, ref), at in sorted(found.since.items())])
    with suppress(NotAllowedError, UnavailableError, CorruptRegistryError), _writing(path) as connection:
        connection.execute("DELETE FROM declarations")
        connection.execute("INSERT INTO declarations VALUES (?, ?, ?)", (found.revision, found.committed_at, text))


@contextmanager
def _writing(path: Path) -> Iterator[sqlite3.Connection]:
    with _translated(path):
        connection = sqlite3.connect(path, timeout=10)
        try:
            connection.executescript(_TABLES)
            with connection:
                yield connection
        finally:
            connection.close()


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection | None]:
    """Open the file read-only; None where there is none yet."""
    if not path.is_file():
        yield None
        return
    with _translated(path):
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5, isolation_level=None)
        try:
            yield connection
        finally:
            connection.close()


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            raise NotAllowedError(f"'{path}' may not be written: {error}.") from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise UnavailableError(f"'{path}' is locked: {error}.") from error
        raise CorruptRegistryError(f"'{path}' is not what `lineage import` writes: {error}.", path=path) from error
    except (sqlite3.DatabaseError, json.JSONDecodeError, TypeError) as error:
        raise CorruptRegistryError(f"'{path}' is not what `lineage import` writes: {error}.", path=path) from error
