"""Reads the registry of a project: plain SQLite and plain JSON, by the contract in docs/reference/registry-json.md.

The file is opened read-only, so asking never changes or blocks the store. One connection is one read transaction: the snapshot
and the usage read through it are of the same moment.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lineage.errors import (
    CorruptRegistryError,
    InvalidQuestionError,
    MissingRegistryError,
    NewerSchemaError,
    NotAllowedError,
    UnavailableError,
)
from lineage.instants import instant
from lineage.trees import names_in_tree

SCHEMA_VERSION = 1
TABLES = frozenset({"commits", "bindings", "usage_daily", "usage_segments"})


@dataclass(frozen=True, slots=True)
class ColumnOrigin:
    """Where a column of a query comes from.

    Attributes:
        column: Its name.
        direct: (source, column) pairs whose values flow into it.
        indirect: (source, column) pairs that only decide it, or its rows.
        opaque: Why there may be more; None when all are known.
    """

    column: str
    direct: tuple[tuple[str, str], ...]
    indirect: tuple[tuple[str, str], ...]
    opaque: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Where the rows of a view come from.

    Attributes:
        name: Identity of the source.
        kind: ``parquet``, ``csv``, ``arrow``, ``delta``, ``postgres``, ``sql`` or ``push``.
        tables: The tables that a SQL source reads, in the order of `aliases`.
        aliases: What the query calls them.
        query: SQL text of a query; None without one.
        dialect: Whose SQL it is: ``duckdb`` or ``postgres``; None without a query.
        columns: (name, type) of its columns when the plan was made; empty where nobody looked.
        lineage: Where the columns of a query come from; empty without a query, or where nobody looked.
        event_timestamp: Column of the event time; None when the source has no rows of its own.
        created_timestamp: Column of the time a row became known, or None.
        path: File, folder, glob or table; None when there is none.
    """

    name: str
    kind: str
    tables: tuple[Source, ...] = ()
    event_timestamp: str | None = None
    created_timestamp: str | None = None
    aliases: tuple[str, ...] = ()
    query: str | None = None
    dialect: str | None = None
    columns: tuple[tuple[str, str], ...] = ()
    lineage: tuple[ColumnOrigin, ...] = ()
    path: str | None = None

    def every(self) -> Iterator[Source]:
        """Yield the source, the tables that it reads, and theirs."""
        yield self
        for table in self.tables:
            yield from table.every()


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature of a view version.

    Attributes:
        ref: ``view@v1:feature``.
        columns: Source columns its values are computed from.
        expression: SQL of an on-demand feature; None for all others.
        deciding: Columns of the source that decide which events a window counts.
        inputs: Names of inputs whose values flow into an on-demand feature, and of those that decide it; None where no tree says it.
        description: What it means; empty when nobody said.
        fingerprint: Hash of its meaning; empty in a document without one.
        settings: The other parts of its definition, as text: the window and what it aggregates.
    """

    ref: str
    name: str
    dtype: str
    unit: str
    columns: tuple[str, ...] = ()
    expression: str | None = None
    deciding: tuple[str, ...] = ()
    description: str = ""
    fingerprint: str = ""
    settings: str = ""
    inputs: tuple[frozenset[str], frozenset[str]] | None = None


@dataclass(frozen=True, slots=True)
class ViewVersion:
    """One version of a feature view.

    Attributes:
        ref: ``view@v1``.
        source: None for an on-demand view.
        inputs: Feature references that an on-demand view is computed from.
        request: Names of the values that come with a request.
        join_keys: Columns of the entity's key.
        access: ``observe``, ``warn`` or ``enforce``.
        ttl: How long a row counts, in microseconds; None is without limit.
        created_revision: The revision that made it; 0 when unknown.
        tags: What people noted on it.
    """

    ref: str
    name: str
    version: int
    kind: str
    status: str
    entity: str | None
    join_keys: tuple[str, ...]
    source: Source | None
    features: tuple[Feature, ...]
    inputs: tuple[str, ...]
    request: tuple[str, ...]
    access: str
    owner: str
    ttl: int | None = None
    created_revision: int = 0
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Service:
    """A named selection of feature references."""

    name: str
    features: tuple[str, ...]
    owner: str


@dataclass(frozen=True)
class Consumer:
    """A manifest: what a consumer declares that it reads and writes.

    Attributes:
        key: ``name``, or ``name@version`` for a model.
        reads: References as frozen, aliases included, services resolved.
        environment: Where the declaration counts; empty is everywhere.
        cadence_days: How often it reads; None is at any time.
        expires_at: From this instant on (microseconds since 1970 UTC) the declaration no longer counts; None is never.
        tags: What people noted on it; ``code`` names the folder that its code is in.
    """

    key: str
    kind: str
    name: str
    version: str
    reads: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    dataset: str | None = None
    label: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    environment: str = ""
    cadence_days: float | None = None
    expires_at: int | None = None
    owner: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def features(self) -> frozenset[str]:
        """The feature versions it declares, without aliases."""
        return frozenset(map(without_alias, self.reads))

    def counts_in(self, environment: str, at: int) -> bool:
        """Say whether the declaration counts in an environment at an instant."""
        return self.environment in ("", environment) and (self.expires_at is None or at < self.expires_at)


@dataclass(frozen=True, slots=True)
class Dataset:
    """A saved training set.

    Attributes:
        consumer: Who saved it, or None.
        saved_at: Microseconds since 1970 UTC.
        digest: Hash of its content.
    """

    name: str
    refs: tuple[str, ...]
    rows: int
    saved_at: int
    consumer: str | None
    digest: str


@dataclass(frozen=True, slots=True)
class Binding:
    """A principal may say that it runs a consumer; ``model@*`` is every version of a model."""

    principal: str
    consumer: str


@dataclass(frozen=True, slots=True)
class Rollout:
    """A version that is on its way to be current.

    Attributes:
        view: The version.
        kind: ``canary`` (some keys read it already) or ``shadow`` (it is compared, and nobody gets it).
        share: Of the keys, from 0 to 1; 0 in the shadow.
        moves: Services and consumers that move along.
    """

    view: str
    kind: str
    share: float = 0.0
    moves: tuple[str, ...] = ()

    def __str__(self) -> str:
        what = "compared in the shadow" if self.kind == "shadow" else f"read by {100 * self.share:g} % of the keys"
        return f"{self.view} is {what}" + (f", with {', '.join(self.moves)}" if self.moves else "")


@dataclass(frozen=True)
class Snapshot:
    """The registry at one commit.

    Attributes:
        views: ``view@v1`` -> version.
        current: View name -> the version that `current` means.
        consumers: Consumer key -> manifest.
        rollouts: View name -> the version that is on its way to be current.
        store: Whose installation it was taken over from, such as ``feast``; empty when it is this project's own.
    """

    project: str
    revision: int
    committed_at: int
    views: Mapping[str, ViewVersion]
    current: Mapping[str, int]
    services: Mapping[str, Service]
    consumers: Mapping[str, Consumer]
    datasets: Mapping[str, Dataset]
    rollouts: Mapping[str, Rollout] = field(default_factory=dict)
    store: str = ""

    @cached_property
    def writers(self) -> Mapping[str, tuple[str, ...]]:
        """View version -> the consumers that write it: its rows are their predictions."""
        found: dict[str, list[str]] = {}
        for key, consumer in self.consumers.items():
            for view in consumer.writes:
                found.setdefault(view, []).append(key)
        return {view: tuple(keys) for view, keys in found.items()}

    def in_flight(self, refs: Iterable[str]) -> tuple[Rollout, ...]:
        """Return the versions on their way to be current among the views of feature references."""
        names = {ref.partition("@")[0] for ref in refs}
        return tuple(rollout for name, rollout in sorted(self.rollouts.items()) if name in names)

    def inputs_of(self, ref: str) -> frozenset[str]:
        """Return all that an on-demand feature is computed from, so that reading it reads them; nothing for any other feature."""
        found: set[str] = set()
        waiting = [ref]
        while waiting:
            view = self.views.get(view_of(waiting.pop()))
            new = set(view.inputs if view else ()) - found
            found |= new
            waiting.extend(new)
        return frozenset(found)

    def with_inputs(self, refs: Iterable[str]) -> frozenset[str]:
        """Return feature references and all that the on-demand ones among them are computed from."""
        given = frozenset(refs)
        return given.union(*map(self.inputs_of, given))

    def outermost(self, refs: Iterable[str]) -> frozenset[str]:
        """Return feature references without those that another of them is computed from."""
        given = frozenset(refs)
        return given.difference(*map(self.inputs_of, given))

    def owner_of(self, view_ref: str) -> str:
        """Return the owner of a view version; empty when unknown."""
        view = self.views.get(view_ref)
        return view.owner if view else ""


def without_alias(ref: str) -> str:
    """Return the reference without its role.

    >>> without_alias("dest_weather=weather@v1:temp")
    'weather@v1:temp'
    """
    return ref.rpartition("=")[2]


def view_of(ref: str) -> str:
    """Return the view version of a feature reference.

    >>> view_of("weather@v1:temp")
    'weather@v1'
    """
    return ref.partition(":")[0]


def feature_in(ref: str) -> str:
    """Return a feature reference without its version: what is the same feature in every version.

    >>> feature_in("weather@v1:temp")
    'weather:temp'
    """
    view, _, feature = ref.partition(":")
    return f"{view.partition('@')[0]}:{feature}"


@contextmanager
def connect(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a registry file read-only, in one read transaction.

    Args:
        path: The file, ``<project>/store/registry.db``.

    Raises:
        MissingRegistryError: There is no such file.
        CorruptRegistryError: It is not a registry.
        NotAllowedError: This user may not read it.
        UnavailableError: It is locked.
    """
    if not path.is_file():
        raise MissingRegistryError(
            f"There is no registry at '{path}'.", path=path, repair="Run `featurestore apply` first."
        )
    if not os.access(path, os.R_OK):
        raise NotAllowedError(f"You may not read the registry '{path}'.")
    with _translated(path):
        connection = _begun(path)
        try:
            _check_tables(connection, path)
            yield connection
        finally:
            connection.close()


def _begun(path: Path) -> sqlite3.Connection:
    """Open the file and begin to read.

    A registry in WAL mode needs two files beside it, which SQLite cannot make in a folder that is read-only. Where nothing waits in a
    log the file alone is the whole registry, and nobody writes it there: then it is read as it is.
    """
    address = f"{path.resolve().as_uri()}?mode=ro"
    try:
        return _beginning(address)
    except sqlite3.OperationalError:
        log = path.with_name(f"{path.name}-wal")
        is_whole = not log.exists() or log.stat().st_size == 0
        if not is_whole or os.access(path.parent, os.W_OK):
            raise
        return _beginning(f"{address}&immutable=1")


def _beginning(address: str) -> sqlite3.Connection:
    connection = sqlite3.connect(address, uri=True, timeout=5, isolation_level=None)
    try:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return connection


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF in (
            sqlite3.SQLITE_ERROR,
            sqlite3.SQLITE_CORRUPT,
        ):
            raise CorruptRegistryError(f"The registry '{path}' is not as published: {error}.", path=path) from error
        raise UnavailableError(f"The registry '{path}' cannot be read: {error}.") from error
    except sqlite3.DatabaseError as error:
        raise CorruptRegistryError(f"'{path}' is not a registry: {error}.", path=path) from error


def _check_tables(connection: sqlite3.Connection, path: Path) -> None:
    found = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")}
    if missing := sorted(TABLES - found):
        raise CorruptRegistryError(f"'{path}' is not a registry: it has no table {', '.join(missing)}.", path=path)


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit of the registry: its document, and how long it was the newest.

    Attributes:
        replaced_at: When the next commit came, in microseconds since 1970 UTC; None for the newest.
    """

    revision: int
    committed_at: int
    document: str
    replaced_at: int | None


def read_commit(connection: sqlite3.Connection, path: Path, as_of: str | None, *, now: int) -> Commit:
    """Read one commit: the newest, or the newest up to a revision or an instant.

    Args:
        connection: An open registry.
        path: Its file, for messages.
        as_of: A revision (digits), an ISO time, or a duration ago; None is the newest.
        now: Microseconds since 1970 UTC.

    Raises:
        MissingRegistryError: Nothing had been applied by then.
        InvalidQuestionError: `as_of` is no revision and no time.
    """
    column, bound = _as_of_bound(as_of, now)
    row = connection.execute(
        f"SELECT revision, committed_at, document FROM commits WHERE {column} <= ? ORDER BY revision DESC LIMIT 1",  # noqa: S608 - one of two constants
        (bound,),
    ).fetchone()
    if row is None:
        when = f" as of {as_of}" if as_of else ""
        raise MissingRegistryError(
            f"Nothing was applied to '{path}'{when}.", path=path, repair="Run `featurestore apply` first."
        )
    following = connection.execute("SELECT min(committed_at) FROM commits WHERE revision > ?", (row[0],)).fetchone()
    return Commit(row[0], row[1], row[2], following[0])


def _as_of_bound(as_of: str | None, now: int) -> tuple[str, int]:
    if as_of is None:
        return "revision", 2**63 - 1
    if as_of.isdecimal():
        if len(as_of) > 18:
            raise InvalidQuestionError(f"'{as_of}' is no revision.", repair="Write a number such as 3.")
        return "revision", int(as_of)
    return "committed_at", instant(as_of, now=now)


def read_bindings(connection: sqlite3.Connection, *, until: int) -> tuple[Binding, ...]:
    """Read the bindings made up to an instant (microseconds since 1970 UTC)."""
    rows = connection.execute(
        "SELECT DISTINCT principal, consumer FROM bindings WHERE created_at <= ? ORDER BY principal, consumer", (until,)
    )
    return tuple(Binding(*row) for row in rows)


@dataclass(frozen=True, slots=True)
class Declarations:
    """Since when each consumer declares each feature without a break, up to a commit.

    Attributes:
        revision: The commit; 0 is before the first.
        committed_at: Its instant, which tells it from a commit of the same number in another registry.
        since: ``(consumer key, view@v1:feature)`` -> instant in microseconds since 1970 UTC.
    """

    revision: int = 0
    committed_at: int = 0
    since: Mapping[tuple[str, str], int] = field(default_factory=dict)


def read_declarations(
    connection: sqlite3.Connection, *, revision: int, known: Declarations = Declarations()
) -> Declarations:
    """Return since when each consumer declares each feature, up to a revision.

    Args:
        connection: An open registry.
        revision: The last commit that counts.
        known: The answer of an earlier commit: only what came after it is read. One of another registry is not used.
    """
    row = connection.execute("SELECT committed_at FROM commits WHERE revision = ?", (known.revision,)).fetchone()
    if known.revision > revision or (known.revision and (row is None or row[0] != known.committed_at)):
        known = Declarations()
    rows = connection.execute(
        "SELECT revision, committed_at, json_extract(document, '$.consumers') FROM commits "
        "WHERE revision > ? AND revision <= ? ORDER BY revision",
        (known.revision, revision),
    )
    before, declared = "", set(known.since)
    for number, committed_at, consumers in rows:
        if consumers != before:
            before, declared = consumers, _declarations(json.loads(consumers or "{}"))
        known = Declarations(number, committed_at, {pair: known.since.get(pair, committed_at) for pair in declared})
    return known


def _declarations(consumers: Mapping[str, Any]) -> set[tuple[str, str]]:
    return {(key, without_alias(ref)) for key, document in consumers.items() for ref in document.get("reads", ())}


def parse_snapshot(commit: Commit, path: Path) -> Snapshot:
    """Build the snapshot from the document of a commit.

    Args:
        commit: A commit as read.
        path: The registry file, for messages.

    Raises:
        NewerSchemaError: The document is of a newer schema than this code reads.
        CorruptRegistryError: The document is not as published.
    """
    try:
        document = json.loads(commit.document)
        version = document["schema_version"]
        if not isinstance(version, int) or version < 1:
            raise CorruptRegistryError(
                f"Revision {commit.revision} of '{path}' has no valid schema version.", path=path
            )
        if version > SCHEMA_VERSION:
            raise NewerSchemaError(path=path, found=version, supported=SCHEMA_VERSION)
        return _snapshot(document, commit)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        fact = f"{type(error).__name__}: {error}"
        raise CorruptRegistryError(
            f"Revision {commit.revision} of '{path}' is not as published ({fact}).", path=path
        ) from error


def _snapshot(document: Mapping[str, Any], commit: Commit) -> Snapshot:
    entities = document["entities"]
    views = [
        _view(name, int(number), version, entities)
        for name, view in document["views"].items()
        for number, version in view["versions"].items()
    ]
    return Snapshot(
        project=document["project"],
        revision=commit.revision,
        committed_at=commit.committed_at,
        views={view.ref: view for view in views},
        current={name: view["current"] for name, view in document["views"].items()},
        services={
            name: Service(name, tuple(service["features"]), service.get("owner", ""))
            for name, service in document["services"].items()
        },
        consumers={key: _consumer(key, consumer) for key, consumer in document["consumers"].items()},
        datasets={name: _dataset(name, dataset) for name, dataset in document["datasets"].items()},
        rollouts={
            name: _rollout(name, view["rollout"]) for name, view in document["views"].items() if view.get("rollout")
        },
        store=document.get("store", ""),
    )


def _rollout(name: str, record: Mapping[str, Any]) -> Rollout:
    share, moves = float(record.get("share", 0.0)), tuple(record.get("moves", ()))
    return Rollout(f"{name}@v{record['to']}", record["kind"], share, moves)


def _view(name: str, number: int, version: Mapping[str, Any], entities: Mapping[str, Any]) -> ViewVersion:
    ref = f"{name}@v{number}"
    entity = version.get("entity")
    source = version.get("source")
    return ViewVersion(
        ref=ref,
        name=name,
        version=number,
        kind=version["kind"],
        status=version["status"],
        entity=entity,
        join_keys=tuple(column for column, _ in (entities[entity]["join_keys"] if entity else ())),
        source=_source(source, name) if source else None,
        features=tuple(_feature(ref, feature) for feature in version["features"]),
        inputs=tuple(map(without_alias, version.get("inputs", ()))),
        request=tuple(column for column, _ in version.get("request", ())),
        access=version.get("access", "observe"),
        owner=version.get("owner", ""),
        ttl=version.get("ttl"),
        created_revision=version.get("created_revision") or 0,
        tags=dict(version.get("tags") or {}),
    )


def _source(document: Mapping[str, Any] | str, name: str, columns: Sequence[Sequence[str]] = ()) -> Source:
    if isinstance(document, str):  # a table of a SQL source may be given by its path alone
        return Source(document, "parquet", columns=_pairs(columns), path=document)
    tables = document.get("tables") or {}
    found = document.get("table_columns") or {}
    query = document.get("query")
    sources = {alias: _source(table, alias, found.get(alias, ())) for alias, table in tables.items()}
    return Source(
        name=document.get("name") or document.get("path") or name,
        kind=document["kind"],
        tables=tuple(sources.values()),
        event_timestamp=document.get("event_timestamp"),
        created_timestamp=document.get("created_timestamp"),
        aliases=tuple(tables),
        query=query,
        dialect=(document.get("dialect") or "duckdb") if query else None,
        columns=_pairs(document.get("columns") or columns),
        path=document.get("path"),
        lineage=tuple(_origin(column, origin, sources) for column, origin in (document.get("lineage") or {}).items()),
    )


def _origin(column: str, document: Mapping[str, Any], sources: Mapping[str, Source]) -> ColumnOrigin:
    return ColumnOrigin(
        column=column,
        direct=tuple((sources[table].name, name) for table, name in document.get("direct", ())),
        indirect=tuple(dict.fromkeys((sources[table].name, name) for table, name, _ in document.get("indirect", ()))),
        opaque=document.get("opaque"),
    )


def _pairs(columns: Sequence[Sequence[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, dtype) for name, dtype in columns)


def _feature(view_ref: str, document: Mapping[str, Any]) -> Feature:
    aggregation = document.get("aggregation") or {}
    expression = document.get("expression")
    columns = (document.get("column"), aggregation.get("column"))
    return Feature(
        ref=f"{view_ref}:{document['name']}",
        name=document["name"],
        dtype=document["dtype"],
        unit=document.get("unit") or "",
        columns=tuple(column for column in columns if column),
        expression=expression.get("sql", "") if expression else None,
        deciding=tuple(column for column, _ in (aggregation.get("where") or {}).get("columns", ())),
        description=document.get("description") or "",
        fingerprint=document.get("fingerprint") or "",
        settings=_settings(aggregation),
        inputs=_inputs(expression.get("tree")) if expression else None,
    )


def _inputs(tree: Mapping[str, Any] | None) -> tuple[frozenset[str], frozenset[str]] | None:
    if not tree:
        return None
    names = names_in_tree(tree)
    return names.direct, names.deciding


def _settings(aggregation: Mapping[str, Any]) -> str:
    """Return the window of a feature as one text; empty for a feature without one."""
    parts = {name: value for name, value in aggregation.items() if value not in (None, "", [], {}) and name != "where"}
    where = (aggregation.get("where") or {}).get("sql")
    return ", ".join(
        [*(f"{name}={value}" for name, value in sorted(parts.items())), *([f"where={where}"] if where else [])]
    )


def _consumer(key: str, document: Mapping[str, Any]) -> Consumer:
    return Consumer(
        key=key,
        kind=document["kind"],
        name=document["name"],
        version=document.get("version") or "",
        reads=tuple(document.get("reads", ())),
        services=tuple(document.get("services", ())),
        writes=tuple(document.get("writes", ())),
        dataset=document.get("dataset"),
        label=document.get("label") or "",
        metrics=dict(document.get("metrics") or {}),
        environment=document.get("environment") or "",
        cadence_days=document.get("cadence_days"),
        expires_at=document.get("expires_at"),
        owner=document.get("owner") or "",
        tags=dict(document.get("tags") or {}),
    )


def _dataset(name: str, document: Mapping[str, Any]) -> Dataset:
    return Dataset(
        name=name,
        refs=tuple(document["refs"]),
        rows=document["rows"],
        saved_at=document["saved_at"],
        consumer=document.get("consumer"),
        digest=document.get("digest", ""),
    )
