"""FeatureStore: the facade. Each method says plan, then do; what is done lives in the layers below."""

from __future__ import annotations

import getpass
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from featurestore.audit import UsageWriter, collect
from featurestore.config import Settings, load_settings
from featurestore.definitions import Definition
from featurestore.definitions.loading import load_definitions
from featurestore.errors import FailedPreconditionError, InvalidArgumentError
from featurestore.identity import Identity, Principal, check_declared, identify
from featurestore.planning import ReadPlan, plan_read
from featurestore.refs import ViewRef
from featurestore.registry.plan import (
    ChangePlan,
    named_by,
    plan_changes,
    promote,
    register_dataset,
    set_status,
    switch_layout,
)
from featurestore.registry.snapshot import RegistrySnapshot, ViewRecord
from featurestore.registry.storage import Registry, open_registry
from featurestore.rows import RowSchema
from featurestore.types import from_micros, to_micros

if TYPE_CHECKING:
    from datetime import datetime

    import pyarrow as pa

    from featurestore.decoding import OnlineRows
    from featurestore.flow.ingest import IngestReport
    from featurestore.flow.materialize import MaterializeReport
    from featurestore.flow.replay import Feed
    from featurestore.flow.write import WriteReport
    from featurestore.flow.writers import AnyWriter
    from featurestore.offline.datasets import Dataset
    from featurestore.offline.point_in_time import Knowledge
    from featurestore.offline.table import OfflineTable
    from featurestore.offline.training_set import TrainingSet
    from lineage import Lineage

DAY = 86_400_000_000
RETIRE_AFTER_DAYS = 90


def system_clock() -> int:
    """Return now in microseconds since 1970 UTC."""
    return time.time_ns() // 1000


class FeatureStore(AbstractContextManager["FeatureStore"]):
    """A project folder as a feature store; no server is needed.

    Args:
        project: The project folder, which holds featurestore.toml.
        consumer: What the caller says it runs, e.g. ``"delay_model@3"``; None takes FEATURESTORE_CONSUMER, or nothing.
        clock: Returns now in microseconds UTC, for commits and usage; None is the system's.

    Raises:
        NotFoundError: The folder has no featurestore.toml; says how to make one.
        ConfigError: featurestore.toml is wrong; says where.
    """

    def __init__(
        self, project: str | Path = ".", *, consumer: str | None = None, clock: Callable[[], int] | None = None
    ) -> None:
        self.settings: Settings = load_settings(project)
        self.consumer = consumer if consumer is not None else os.environ.get("FEATURESTORE_CONSUMER", "")
        self.registry: Registry = open_registry(self.settings.registry_url, project=self.settings.project.name)
        self._clock = clock or system_clock
        self._usage: UsageWriter | None = None

    # --- definitions ---------------------------------------------------------------------------------------------

    def plan(self, definitions: str | Path | Sequence[Definition] | None = None) -> ChangePlan:
        """Say what an apply would do: what is created, which versions appear, and who reads what changes.

        Args:
            definitions: A file of definitions relative to the project, or the definitions themselves; None takes the
                project's own file.

        Raises:
            DefinitionError: A definition is impossible, or does not fit its source; nothing was changed.
        """
        if definitions is None or isinstance(definitions, str | Path):
            file = self.settings.root / (definitions or self.settings.project.definitions)
            return self._plan(load_definitions(file))
        return replace(self._plan(definitions), notes=())

    def apply(
        self, plan: ChangePlan | str | Path | Sequence[Definition] | None = None, *, message: str = ""
    ) -> ChangePlan:
        """Commit a change plan; something else than a plan is planned first.

        Args:
            plan: A plan made before, or what `plan` takes.
            message: Why, for the change log.

        Raises:
            ConflictError: Somebody committed since the plan was made; plan again.
        """
        change = plan if isinstance(plan, ChangePlan) else self.plan(plan)
        if change:
            self.registry.commit(
                change.document,
                expected_revision=change.base_revision,
                log=change.log(),
                principal=self._principal.name,
                now=self._clock(),
                message=message,
            )
        return change

    def promote(self, view: str, *, move: Sequence[str] = ()) -> ChangePlan:
        """Make a version the current one; `move` names services and consumers that go along, all others stay."""
        return self.apply(promote(self.snapshot(), ViewRef.parse(view), move=move))

    def deprecate(self, view: str, *, reason: str = "") -> ChangePlan:
        """Mark a version as on its way out; it stays readable."""
        return self.apply(set_status(self.snapshot(), ViewRef.parse(view), "deprecated", reason=reason))

    def retire(self, view: str, *, force: str = "") -> ChangePlan:
        """Take a version out of service.

        Args:
            view: The version, e.g. ``weather@v1``.
            force: A reason to do it although somebody may read it; it is recorded.

        Raises:
            FailedPreconditionError: Somebody read it within the last 90 days (or three cadences), a manifest, service or
                on-demand view names it, or the usage of that time is not complete.
        """
        ref = self.snapshot().freeze(ViewRef.parse(view))
        readers = () if force else tuple(self._readers(ref))
        if readers:
            raise FailedPreconditionError(
                f"{ref} is still read: {'; '.join(readers)}.",
                repair=f"Move its readers, or run `featurestore retire {ref} --force REASON`.",
            )
        return self.apply(set_status(self.snapshot(), ref, "retired", reason=force))

    def snapshot(self, revision: int | None = None) -> RegistrySnapshot:
        """Return what is registered, at a revision or now."""
        return self.registry.snapshot(revision)

    # --- rows in -------------------------------------------------------------------------------------------------

    def ingest(self, view: str, *, known_until: datetime | str | int | None = None) -> IngestReport:
        """Pull a view's source into the offline store; rows that are there already are counted and not taken again.

        Args:
            view: A view, or a version of it; without one, the current version.
            known_until: Take only what was known at this instant (UTC if naive); None takes all.

        Raises:
            FailedPreconditionError: The view's rows come by `write` alone.
            DefinitionError: The source cannot be read.
        """
        from featurestore.flow.ingest import ingest_rows, ingesting

        ref, record = self._stored(view)
        if record.source is None or record.source.kind == "push":
            raise FailedPreconditionError(
                f"The rows of {ref} come by write.", repair=f"Run `featurestore write {ref} FILE`."
            )
        schema = RowSchema.of(record)
        canonical = schema.canonical(self._sources.read(record.source, schema))
        table = self.table(ref)
        with self.writer() as writer, ingesting(table.directory):
            writer.fold()
            return ingest_rows(
                str(ref),
                canonical,
                table=table,
                sequence=writer,
                known_until=None if known_until is None else to_micros(known_until),
                backfilled_until=record.backfilled_until,
            )

    def write(self, view: str, rows: Any, *, write_id: bytes = b"") -> WriteReport:
        """Accept rows that look like the view's source; when this returns they are durable and visible.

        Args:
            view: A view, or a version of it.
            rows: A table (Arrow, Polars, pandas or anything with ``__arrow_c_stream__``), or column name -> list.
            write_id: Makes a repeat harmless for seven days; empty for none.

        Raises:
            InvalidArgumentError: A column is missing, null where it must not be, or of another type.
        """
        ref, _ = self._stored(view)
        with self.writer() as writer:
            return writer.write(ref, to_arrow_table(rows), write_id=write_id)

    def materialize(self, view: str | None = None) -> list[MaterializeReport]:
        """Bring the latest rows of a view, or of all views, to the online store; also makes an added feature readable."""
        refs = [self._stored(view)[0]] if view else [ref for ref, _ in self._filled_views()]
        reports = []
        for ref in refs:
            if not self._is_filled(ref):
                raise FailedPreconditionError(f"{ref} has no rows.", repair=f"Run `featurestore ingest {ref.view}`.")
            with self.writer() as writer:
                reports.append(writer.materialize(ref))
            self.apply(switch_layout(self.snapshot(), ref, reports[-1].layout))
        return reports

    def feeds(self, views: Sequence[str], *, since: int, until: int) -> list[Feed]:
        """Return the source rows of views that became known in ``(since, until]``, in that order, for a replay.

        Args:
            views: Views, or versions of them, that have a source.
            since: Microseconds UTC, not included.
            until: Microseconds UTC, included.
        """
        from featurestore.flow.replay import Feed

        feeds = []
        for view in views:
            ref, record = self._stored(view)
            if record.source is None or record.source.kind == "push":
                raise InvalidArgumentError(f"{ref} has no source to replay.", place=view)
            schema = RowSchema.of(record)
            feeds.append(Feed.of(ref, self._sources.read(record.source, schema), schema, since=since, until=until))
        return feeds

    def replay(self, views: Sequence[str], *, since: int, moments: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Play history into the store: rows enter when they became known, and the replay clock stops at each moment.

        Args:
            views: Views, or versions of them, that have a source.
            since: Rows known up to here are in already; microseconds UTC.
            moments: Rising instants, microseconds UTC.

        Yields:
            (moment, rows written since the one before).

        Raises:
            FailedPreconditionError: The store runs on the system clock.
        """
        from featurestore.flow.replay import replay

        feeds = self.feeds(views, since=since, until=moments[-1])
        with self.writer() as writer:
            yield from replay(writer, feeds, moments)

    # --- features out --------------------------------------------------------------------------------------------

    def get_historical_features(
        self,
        spine: Any,
        features: str | Sequence[str],
        *,
        timestamp: str = "event_timestamp",
        knowledge: Knowledge = "as_known",
        position: int | None = None,
        full_feature_names: bool = False,
    ) -> TrainingSet:
        """Join features onto a spine as they were known at each of its rows' times.

        Args:
            spine: Keys and times: a table (Arrow, Polars, pandas ...), or column name -> list; its other columns pass through.
            features: Name of a feature service, or references.
            timestamp: The spine's time column; naive times are UTC.
            knowledge: ``as_known`` (rows created after the time do not count), ``latest`` (they do), or ``as_served`` (what the
                online store had accepted at `position`).
            position: For ``as_served``: the position a response carried.
            full_feature_names: Name outputs ``view__feature``.

        Raises:
            NotFoundError: An unknown service, view, version or feature; says the nearest name.
            InvalidArgumentError: The spine lacks a key or has one of another type; says where.
            FailedPreconditionError: A view was never filled; says the command.
            AccessDeniedError: A view refuses undeclared readers.
        """
        from featurestore.offline.training_set import read_training_set

        snapshot = self.snapshot()
        plan = plan_read(snapshot, features, full_feature_names=full_feature_names)
        table = to_arrow_table(spine)
        identity = self._authorize(snapshot, plan, "offline", rows=len(table))
        with self.writer() as writer:
            writer.fold()
        training_set = read_training_set(
            plan,
            table,
            timestamp=timestamp,
            tables=self.table,
            knowledge=knowledge,
            position=position,
            engine=self.settings.offline.engine,
        )
        self._record(plan, identity, "offline", "ok", len(table))
        return training_set

    def get_online_features(
        self,
        features: str | Sequence[str],
        keys: Mapping[str, Sequence[Any]],
        *,
        request: Mapping[str, Sequence[Any]] | None = None,
        full_feature_names: bool = False,
    ) -> OnlineRows:
        """Read the newest features of some keys, in process; the server gives the same answer.

        Args:
            features: Name of a feature service, or references.
            keys: Key column -> values, all of one length.
            request: Request column -> values, for on-demand features.
            full_feature_names: Name outputs ``view__feature``.

        Raises:
            NotFoundError: An unknown service, view, version or feature; says the nearest name.
            InvalidArgumentError: A key is missing, null, or of another type; says where.
            FailedPreconditionError: A view was never filled; says the command.
        """
        from featurestore.flow.writers import is_replay
        from featurestore.online.local import read_in_process

        snapshot = self.snapshot()
        plan = plan_read(snapshot, features, full_feature_names=full_feature_names)
        count = len(next(iter(keys.values()), ()))
        identity = self._authorize(snapshot, plan, "online", rows=count)
        clock = None if is_replay(self.settings.store) else self._clock
        rows = read_in_process(self._online_folder, plan, keys, request or {}, clock=clock)
        self._record(plan, identity, "online", "ok", count)
        return rows

    def save(self, name: str, training_set: TrainingSet) -> Dataset:
        """Save a training set under a name and register it; a name is given once."""
        from featurestore.offline.datasets import save_dataset

        dataset = save_dataset(
            name, training_set, self._datasets_folder, now=self._clock(), consumer=self.consumer or None
        )
        self.apply(register_dataset(self.snapshot(), dataset.name, dataset.record()))
        return dataset

    def datasets(self) -> list[str]:
        """Return the names of the saved training sets."""
        return sorted(self.snapshot().document.datasets)

    def dataset(self, name: str) -> Dataset:
        """Return a saved training set; raises NotFoundError with the nearest name."""
        from featurestore.offline.datasets import load_dataset

        return load_dataset(name, self._datasets_folder)

    # --- lineage -------------------------------------------------------------------------------------------------

    @cached_property
    def lineage(self) -> Lineage:
        """The questions of lineage about this project: consumers, impact, usage, findings."""
        from lineage import Lineage

        self.collect_usage()
        return Lineage(self.settings.root)

    def collect_usage(self) -> None:
        """Fold what this process and finished ones have counted into the registry's daily usage."""
        if self._usage is not None:
            self._usage.rotate()
        with closing(sqlite3.connect(self.registry.sqlite_path(), timeout=10, isolation_level=None)) as connection:
            collect(self._usage_folder, connection)

    # --- below the surface ---------------------------------------------------------------------------------------

    def writer(self) -> AbstractContextManager[AnyWriter]:
        """Return the store's one writer: the server's if one runs, else this process under the store's lock."""
        from featurestore.flow.writers import open_writer

        return open_writer(self.settings.store, snapshot=self.snapshot, clock=self._clock, tables=self.table)

    def table(self, ref: ViewRef) -> OfflineTable:
        """Return the offline table of a view version; it may have no rows yet."""
        from featurestore.offline.table import OfflineTable

        frozen = self.snapshot().freeze(ref)
        folder = self.settings.store / "offline" / frozen.view / f"v{frozen.version}"
        return OfflineTable(folder, RowSchema.of(self.snapshot().view(frozen)), buckets=self.settings.offline.buckets)

    def close(self) -> None:
        """Fold this process's usage and close the registry."""
        if self._usage is not None:
            self._usage.close()
            self._usage = None
            self.collect_usage()
        self.registry.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _plan(self, definitions: Sequence[Definition]) -> ChangePlan:
        return plan_changes(self.snapshot(), definitions, check_source=self._check_source, is_filled=self._is_filled)

    @property
    def _online_folder(self) -> Path:
        return self.settings.store / "online"

    @property
    def _usage_folder(self) -> Path:
        return self.settings.store / "usage"

    @property
    def _datasets_folder(self) -> Path:
        return self.settings.store / "datasets"

    @cached_property
    def _principal(self) -> Principal:
        return Principal(f"local:{getpass.getuser()}", frozenset({"admin"}), local=True)

    @cached_property
    def _sources(self) -> Any:
        from featurestore.offline.sources import SourceReader

        return SourceReader(self.settings.root)

    def _stored(self, view: str) -> tuple[ViewRef, ViewRecord]:
        ref = self.snapshot().freeze(ViewRef.parse(view))
        record = self.snapshot().view(ref)
        if record.kind == "on_demand":
            raise InvalidArgumentError(
                f"{ref} is computed on demand and has no rows.", repair="Name one of its inputs."
            )
        return ref, record

    def _filled_views(self) -> Iterator[tuple[ViewRef, ViewRecord]]:
        for ref, record in self.snapshot().view_versions():
            if record.kind != "on_demand" and record.status != "retired" and self._is_filled(ref):
                yield ref, record

    def _is_filled(self, ref: ViewRef) -> bool:
        from featurestore.online.local import was_written

        return self.table(ref).exists or was_written(self._online_folder, ref)

    def _check_source(self, name: str, record: ViewRecord) -> None:
        self._sources.check(name, record, RowSchema.of(record))

    def _authorize(self, snapshot: RegistrySnapshot, plan: ReadPlan, mode: str, *, rows: int) -> Identity:
        identity = identify(self._principal, self.consumer, self.registry.credentials())
        try:
            check_declared(snapshot, plan, identity, environment=self.settings.project.environment, now=self._clock())
        except PermissionError:
            self._record(plan, identity, mode, "refused", rows)
            raise
        return identity

    def _record(self, plan: ReadPlan, identity: Identity, mode: str, outcome: str, rows: int) -> None:
        if self._usage is None:
            environment = self.settings.project.environment
            self._usage = UsageWriter(self._usage_folder, environment=environment, clock=self._clock)
        self._usage.register_plan(plan.plan_id, plan.counted)
        self._usage.record(
            plan.plan_id, identity.principal, identity.consumer, identity.binding, "in process", mode, outcome, rows
        )

    def _readers(self, ref: ViewRef) -> Iterator[str]:
        """Say who keeps a version from being retired: what names it, recent reads, and gaps in what is known of them."""
        yield from named_by(self.snapshot(), ref)
        cadence = 0.0
        for name, consumer in self.snapshot().document.consumers.items():
            if any(text.startswith(f"{ref}:") for text in consumer.reads):
                cadence = max(cadence, consumer.cadence_days or 0)
                yield f"{name} declares it"
        self.collect_usage()
        since = self._clock() - int(max(RETIRE_AFTER_DAYS, 3 * cadence) * DAY)
        usage = self.lineage.usage(str(ref), since=since)
        last: dict[str, int] = {}
        for read in (read for read in usage.reads if read.outcome == "ok"):
            who = read.consumer or read.principal
            last[who] = max(read.last_read, last.get(who, read.last_read))
        for who, instant in last.items():
            yield f"{who} read it on {from_micros(instant):%Y-%m-%d}"
        for gap in usage.coverage.gaps:
            yield f"usage is incomplete: {gap}"


def to_arrow_table(rows: Any) -> pa.Table:
    """Return rows as an Arrow table: Arrow, Polars, pandas, anything with ``__arrow_c_stream__``, or column name -> list.

    >>> to_arrow_table({"origin": ["JFK"]}).num_rows
    1
    """
    import pyarrow as pa

    if isinstance(rows, pa.Table):
        return rows
    if isinstance(rows, Mapping) or hasattr(rows, "__arrow_c_stream__"):
        try:
            return pa.table(dict(rows) if isinstance(rows, Mapping) else rows)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise InvalidArgumentError(f"The columns do not make a table: {error}.") from error
    raise InvalidArgumentError(
        f"A {type(rows).__name__} is not a table.", repair="Give Arrow, Polars, pandas, or a dict of lists."
    )
