"""The registry at one revision: immutable, resolved, and equal to its neutral JSON (docs/reference/registry-json.md)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec

from featurestore.errors import CorruptionError, FailedPreconditionError, NotFoundError
from featurestore.refs import FeatureRef, ViewRef
from featurestore.types import DType

SCHEMA_VERSION = 1


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the neutral JSON."""


class EntityRecord(Record, frozen=True):
    """An entity as it was applied; `join_keys` are (column, type) pairs."""

    join_keys: tuple[tuple[str, str], ...]
    description: str = ""
    owner: str = ""
    tags: dict[str, str] = {}


Columns = tuple[tuple[str, str], ...]


class ColumnLineageRecord(Record, frozen=True):
    """Where a column of a query comes from: (table, column) pairs whose values flow, and (table, column, reason) that only decide.

    The tables are named as in the query. `opaque` says why there may be more; null when all are known.
    """

    direct: tuple[tuple[str, str], ...] = ()
    indirect: tuple[tuple[str, str, str], ...] = ()
    opaque: str | None = None


class SourceRecord(Record, frozen=True):
    """Where rows come from, and the columns (name, type) it had when the plan was made.

    `path` is a file, folder or glob, or the table of a PostgreSQL server; a table of a SQL source is a Parquet path or a source.
    `columns`, `table_columns` and the `lineage` of a query's columns are not part of the definition: the plan finds them, and they
    stay until the definition changes.
    """

    kind: Literal["parquet", "csv", "arrow", "delta", "postgres", "sql", "push"]
    name: str
    path: str | None
    query: str | None
    tables: dict[str, str | SourceRecord]
    event_timestamp: str
    created_timestamp: str | None
    dialect: Literal["duckdb", "postgres"] | None = None
    connection: str | None = None
    version: int | None = None
    declared: Columns = ()
    partitions: Columns = ()
    header: bool | None = None
    delimiter: str | None = None
    nulls: tuple[str, ...] | None = None
    columns: Columns = ()
    table_columns: dict[str, Columns] = {}
    lineage: dict[str, ColumnLineageRecord] = {}

    def table(self, name: str) -> SourceRecord:
        """Return a table of a SQL source as a source, with the columns that were found."""
        table = self.tables[name]
        if isinstance(table, str):
            table = SourceRecord(
                kind="parquet",
                name=table,
                path=table,
                query=None,
                tables={},
                event_timestamp="",
                created_timestamp=None,
            )
        return msgspec.structs.replace(table, columns=self.table_columns.get(name, ()))

    def defined(self) -> SourceRecord:
        """Return the source as it was defined, without what the plan found."""
        return msgspec.structs.replace(self, columns=(), table_columns={}, lineage={})


class FilterRecord(Record, frozen=True):
    """Which events an aggregate counts: the text, the parsed tree that is evaluated, and the (column, type) pairs that it reads."""

    sql: str
    tree: Any
    columns: tuple[tuple[str, str], ...]


class AggregationRecord(Record, frozen=True):
    """One aggregate over a window of `time_window` microseconds; `dtype` is the type of the column, `n` the length of a list."""

    column: str
    function: str
    dtype: str
    time_window: int
    n: int | None = None
    where: FilterRecord | None = None

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """The (column, type) pairs that it reads: its own column, and those of its filter."""
        return ((self.column, self.dtype), *(self.where.columns if self.where else ()))


class ExpressionRecord(Record, frozen=True):
    """A request-time expression: its text, and the parsed tree that is evaluated."""

    sql: str
    tree: Any


class FeatureRecord(Record, frozen=True):
    """One feature of a view version; exactly one of column, aggregation and expression is set.

    `expectations` are their neutral JSON forms, as `definitions.expectation.Expectation.document` writes them.
    """

    name: str
    dtype: str
    fingerprint: str
    unit: str = ""
    description: str = ""
    layout: int = 1
    column: str | None = None
    aggregation: AggregationRecord | None = None
    expression: ExpressionRecord | None = None
    same_as: str | None = None
    expectations: tuple[dict[str, Any], ...] = ()

    @property
    def type(self) -> DType:
        """Its type."""
        return DType(self.dtype)


class ViewRecord(Record, frozen=True):
    """One version of a view; `ttl` and `backfilled_until` in microseconds, None for no limit."""

    kind: Literal["batch", "window", "on_demand"]
    features: tuple[FeatureRecord, ...]
    status: Literal["live", "deprecated", "retired"] = "live"
    entity: str | None = None
    join_keys: tuple[tuple[str, str], ...] = ()
    source: SourceRecord | None = None
    ttl: int | None = None
    event_key: tuple[tuple[str, str], ...] = ()
    backfilled_until: int | None = None
    request: tuple[tuple[str, str], ...] = ()
    inputs: tuple[str, ...] = ()
    access: Literal["observe", "warn", "enforce"] = "observe"
    owner: str = ""
    description: str = ""
    tags: dict[str, str] = {}
    schedule: str = ""
    expectations: tuple[dict[str, Any], ...] = ()
    layout: int = 1
    created_revision: int = 0

    def feature(self, name: str) -> FeatureRecord | None:
        """Return the feature of that name, or None."""
        return next((feature for feature in self.features if feature.name == name), None)

    def stored(self, layout: int | None = None) -> tuple[FeatureRecord, ...]:
        """Return the features that the rows of a layout hold; None means the layout that is read now."""
        return tuple(feature for feature in self.features if feature.layout <= (layout or self.layout))

    @property
    def newest_layout(self) -> int:
        """The layout that has every feature; it is filled while `layout` is still read."""
        return max(feature.layout for feature in self.features)


class RolloutRecord(Record, frozen=True):
    """A version that is on its way to be current.

    ``canary``: a `share` of the keys, from 0 to 1, reads version `to` already. ``shadow``: it is read as well and compared, and nobody gets
    it. Both are for online reads without a version, and for reads of the services that are about to be moved.
    """

    to: int
    kind: Literal["canary", "shadow"]
    share: float = 0.0
    moves: tuple[str, ...] = ()

    @property
    def described(self) -> str:
        """Who reads the version, for people: ``10% of keys, with delay``."""
        what = "compared in the shadow" if self.kind == "shadow" else f"{100 * self.share:g}% of keys"
        return what + (f", with {', '.join(self.moves)}" if self.moves else "")


class ViewVersions(Record, frozen=True):
    """All versions of a view; `current` is what a reference without a version means."""

    current: int
    versions: dict[int, ViewRecord]
    rollout: RolloutRecord | None = None


class AliasRecord(Record, frozen=True):
    """A view read for another role: join key of the entity -> column that holds it."""

    view: str
    join_keys: dict[str, str]


class ServiceRecord(Record, frozen=True):
    """A named selection of frozen references."""

    features: tuple[str, ...]
    aliases: dict[str, AliasRecord] = {}
    owner: str = ""
    description: str = ""
    tags: dict[str, str] = {}


class ConsumerRecord(Record, frozen=True):
    """A consumer and its manifest, frozen to feature versions; `direct` are the reads that it selects itself, null where it is not kept."""

    kind: Literal["model", "job", "service", "dashboard", "person"]
    name: str
    version: str | None = None
    reads: tuple[str, ...] = ()
    direct: tuple[str, ...] | None = None
    services: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    dataset: str | None = None
    label: str = ""
    metrics: dict[str, float] = {}
    environment: str = ""
    cadence_days: float | None = None
    expires_at: int | None = None
    owner: str = ""
    description: str = ""
    tags: dict[str, str] = {}


class DatasetRecord(Record, frozen=True):
    """A saved training set: what it was made from and a digest of its values.

    `revision` is that of the read plan, `sources` says which version of its Delta log each view was read at, and `commit` is the
    commit of the project's code, empty outside of a git work tree.
    """

    refs: tuple[str, ...]
    rows: int
    saved_at: int
    digest: str
    consumer: str | None = None
    revision: int = 0
    sources: dict[str, int] = {}
    commit: str = ""


class Document(Record, frozen=True):
    """The whole neutral JSON of one revision."""

    project: str
    schema_version: int = SCHEMA_VERSION
    revision: int = 0
    committed_at: int = 0
    entities: dict[str, EntityRecord] = {}
    views: dict[str, ViewVersions] = {}
    services: dict[str, ServiceRecord] = {}
    consumers: dict[str, ConsumerRecord] = {}
    datasets: dict[str, DatasetRecord] = {}


@dataclass(frozen=True)
class RegistrySnapshot:
    """The registry at one revision, with look-ups that answer with the nearest name.

    Args:
        document: The neutral JSON as records.

    >>> RegistrySnapshot(Document(project="demo")).view(ViewRef("weather"))
    Traceback (most recent call last):
    featurestore.errors.NotFoundError: No view 'weather'. There is no view yet.
    """

    document: Document
    plans: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> RegistrySnapshot:
        """Read the neutral JSON; raises CorruptionError when it is not one, or is of a newer schema."""
        try:
            header = msgspec.json.decode(text)
            version = header.get("schema_version") if isinstance(header, dict) else None
            if isinstance(version, int) and version > SCHEMA_VERSION:
                raise CorruptionError(
                    f"The registry has schema_version {version}, this program reads up to {SCHEMA_VERSION}.",
                    repair="Upgrade featurestore.",
                )
            return cls(msgspec.convert(header, Document, strict=False))
        except msgspec.DecodeError as error:
            raise CorruptionError(f"The registry document is damaged: {error}.") from error

    def to_json(self) -> str:
        """Return the neutral JSON, with sorted names."""
        return msgspec.json.encode(msgspec.to_builtins(self.document, str_keys=True), order="deterministic").decode()

    @property
    def revision(self) -> int:
        """Number of the commit; 0 before the first."""
        return self.document.revision

    def freeze(self, ref: ViewRef) -> ViewRef:
        """Return the reference with its version: its own, or the current one; raises NotFoundError."""
        versions = self.document.views.get(ref.view)
        if versions is None:
            raise NotFoundError.of("view", ref.view, self.document.views)
        version = ref.version or versions.current
        if version not in versions.versions:
            raise NotFoundError.of(
                "view version", f"{ref.view}@v{version}", [f"{ref.view}@v{n}" for n in versions.versions]
            )
        return ViewRef(ref.view, version, ref.alias)

    def view(self, ref: ViewRef) -> ViewRecord:
        """Return a view version; raises NotFoundError with the nearest name."""
        frozen = self.freeze(ref)
        return self.document.views[frozen.view].versions[frozen.version or 0]

    def feature(self, ref: FeatureRef) -> FeatureRecord:
        """Return a feature that can be read; raises NotFoundError, or FailedPreconditionError while it is not filled."""
        view = self.view(ref.view_ref)
        record = view.feature(ref.feature)
        if record is None:
            frozen = self.freeze(ref.view_ref)
            raise NotFoundError.of(
                "feature", str(frozen.feature(ref.feature)), [str(frozen.feature(f.name)) for f in view.features]
            )
        if view.status == "retired":
            raise FailedPreconditionError(f"{self.freeze(ref.view_ref)} is retired.", repair="Read a newer version.")
        if record.layout > view.layout:
            frozen = self.freeze(replace(ref.view_ref, alias=None))
            raise FailedPreconditionError(
                f"Feature '{ref}' was added and its column is not filled yet.",
                repair=f"Run `featurestore ingest {frozen}`, then `featurestore materialize {frozen}`.",
            )
        return record

    def service(self, name: str) -> ServiceRecord:
        """Return a feature service; raises NotFoundError with the nearest name."""
        if name not in self.document.services:
            raise NotFoundError.of("service", name, self.document.services)
        return self.document.services[name]

    def consumer(self, name: str) -> ConsumerRecord:
        """Return a consumer's manifest; raises NotFoundError with the nearest name."""
        if name not in self.document.consumers:
            raise NotFoundError.of("consumer", name, self.document.consumers)
        return self.document.consumers[name]

    def view_versions(self) -> Iterator[tuple[ViewRef, ViewRecord]]:
        """Go through every version of every view."""
        for name, versions in self.document.views.items():
            for number, record in versions.versions.items():
                yield ViewRef(name, number), record
