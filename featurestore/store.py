"""FeatureStore: the facade. Each method says plan, then do; what is done lives in the layers below."""

from __future__ import annotations

import getpass
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from featurestore.audit import UsageWriter, collect, live_reads
from featurestore.config import Settings, load_settings, system_clock
from featurestore.definitions import Definition
from featurestore.definitions.loading import load_definitions
from featurestore.errors import ErasedError, FailedPreconditionError, InvalidArgumentError
from featurestore.identity import Identity, Principal, check_declared, identify
from featurestore.planning import ReadPlan, plan_read, refuse_windows
from featurestore.refs import ViewRef
from featurestore.registry.plan import (
    ChangePlan,
    drop_dataset,
    plan_changes,
    promote,
    register_dataset,
    set_status,
    switch_layout,
)
from featurestore.registry.readers import SeenRead, Taken
from featurestore.registry.rollout import start_rollout
from featurestore.registry.snapshot import RegistrySnapshot, SourceRecord, ViewRecord
from featurestore.registry.storage import Registry, open_registry
from featurestore.rows import RowSchema
from featurestore.types import to_micros

if TYPE_CHECKING:
    from datetime import datetime

    import pyarrow as pa

    from featurestore.decoding import OnlineRows
    from featurestore.flow.erased import Erasures, Receipt
    from featurestore.flow.ingest import IngestReport
    from featurestore.flow.materialize import MaterializeReport
    from featurestore.flow.quarantine import Gate, HeldBatch
    from featurestore.flow.replay import Feed
    from featurestore.flow.upkeep import UpkeepReport
    from featurestore.flow.write import WriteReport
    from featurestore.flow.writers import AnyWriter
    from featurestore.offline.datasets import Dataset
    from featurestore.offline.point_in_time import Knowledge
    from featurestore.offline.profiles import Profile
    from featurestore.offline.revisions import Revisions
    from featurestore.offline.sources import SourceReader
    from featurestore.offline.table import OfflineTable
    from featurestore.offline.training_set import TrainingSet
    from featurestore.offline.training_stream import Progress, SpineBatches, TrainingStream
    from lineage import Lineage

DAY = 86_400_000_000
RETIRE_AFTER_DAYS = 90


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

    def plan(
        self, definitions: str | Path | Sequence[Definition] | None = None, *, remove: Sequence[str] = ()
    ) -> ChangePlan:
        """Say what an apply would do: what is created, which versions appear, and who reads what changes.

        Args:
            definitions: A file of definitions relative to the project, or the definitions themselves; None takes the
                project's own file.
            remove: Views that left the file and shall go: every version of them is retired.

        Raises:
            DefinitionError: A definition is impossible, or does not fit its source; nothing was changed.
        """
        if definitions is None or isinstance(definitions, str | Path):
            file = self.settings.root / (definitions or self.settings.project.definitions)
            return self._plan(load_definitions(file), remove)
        return replace(self._plan(definitions, remove), notes=())

    def apply(
        self,
        plan: ChangePlan | str | Path | Sequence[Definition] | None = None,
        *,
        message: str = "",
        remove: Sequence[str] = (),
        force: str = "",
    ) -> ChangePlan:
        """Commit a change plan; something else than a plan is planned first.

        Args:
            plan: A plan made before, or what `plan` takes.
            message: Why, for the change log.
            remove: As for `plan`.
            force: A reason to do it although somebody may read what it takes away; it is recorded.

        Raises:
            ConflictError: Somebody committed since the plan was made; plan again.
            FailedPreconditionError: It takes something away that somebody reads (see `retire`).
        """
        change = plan if isinstance(plan, ChangePlan) else self.plan(plan, remove=remove)
        readers = tuple(self._readers(change.taken)) if change.taken else ()
        if readers and change.taken and not force:
            raise FailedPreconditionError(
                f"{change.taken.object} is still read: {'; '.join(readers)}.",
                repair=f"Move its readers, or run `featurestore {change.taken.command} --force REASON`.",
            )
        change = change.forced(force, readers) if readers else change
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

    def promote(self, view: str, *, move: Sequence[str] = (), force: str = "") -> ChangePlan:
        """Make a version the current one.

        Args:
            view: The version, e.g. ``weather@v2``.
            move: Services and consumers that go along; all others stay.
            force: A reason to do it although somebody may get another meaning than before; it is recorded.

        Raises:
            FailedPreconditionError: Somebody read the version that is current now and does not declare it, so that a reference
                without a version would mean something else to them; or a consumer would be moved through a service without
                being named; or the usage of that time is not complete (see `retire`).
        """
        return self.apply(promote(self.snapshot(), ViewRef.parse(view), move=move), force=force)

    def roll_out(self, view: str, *, share: float | None, move: Sequence[str] = ()) -> ChangePlan:
        """Begin, or change, the rollout of a version; `promote` it to end that, or the current version to go back.

        Args:
            view: The version, e.g. ``weather@v2``.
            share: Which share of the keys gets it, from 0 to 1; None compares it in the shadow, and nobody gets it.
            move: Services that take part; online reads without a version always do.

        Raises:
            FailedPreconditionError: The version is current, was never filled online, or cannot answer in the place of the other.
        """
        from featurestore.online.local import check_filled

        change = start_rollout(self.snapshot(), ViewRef.parse(view), share=share, move=move)
        ref = self.snapshot().freeze(ViewRef.parse(view))
        check_filled(self._online_folder, ref, self.snapshot().view(ref).layout)
        return self.apply(change)

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
        return self.apply(set_status(self.snapshot(), ViewRef.parse(view), "retired", reason=force), force=force)

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
            QuarantinedError: An expectation does not hold; nothing was accepted, and the new rows are in quarantine.
        """
        ref, record = self._stored(view)
        if record.source is None or record.source.kind == "push":
            raise FailedPreconditionError(
                f"The rows of {ref} come by write.", repair=f"Run `featurestore write {ref} FILE`."
            )
        rows = self._sources.read(record.source, RowSchema.of(record))
        return self._load(ref, rows, known_until=None if known_until is None else to_micros(known_until))

    def write(self, view: str, rows: Any, *, write_id: bytes = b"") -> WriteReport:
        """Accept rows that look like the view's source; when this returns they are durable and visible.

        Args:
            view: A view, or a version of it.
            rows: A table (Arrow, Polars, pandas or anything with ``__arrow_c_stream__``), or column name -> list.
            write_id: Makes a repeat harmless for seven days; empty for none.

        Raises:
            InvalidArgumentError: A column is missing, null where it must not be, or of another type.
            QuarantinedError: An expectation does not hold; nothing was accepted, and the rows are in quarantine.
        """
        ref, _ = self._stored(view)
        with self.writer() as writer:
            return writer.write(ref, to_arrow_table(rows), write_id=write_id)

    def materialize(self, view: str | None = None, *, full: bool = False) -> list[MaterializeReport]:
        """Bring the latest rows of a view, or of all views, to the online store; also makes an added feature readable.

        Args:
            view: A view, or a version of it; None takes all that have rows.
            full: Read everything, and not only what came since the last time.
        """
        refs = [self._stored(view)[0]] if view else [ref for ref, _ in self._filled_views()]
        reports = []
        for ref in refs:
            if not self._is_filled(ref):
                raise FailedPreconditionError(f"{ref} has no rows.", repair=f"Run `featurestore ingest {ref.view}`.")
            with self.writer() as writer:
                reports.append(writer.materialize(ref, full=full))
            self.apply(switch_layout(self.snapshot(), ref, reports[-1].layout))
        return reports

    def quarantined(self) -> list[HeldBatch]:
        """Return every batch that was ever held because an expectation of its view did not hold, oldest first."""
        return self._gate.quarantine.batches()

    def quarantined_batch(self, batch: str) -> HeldBatch:
        """Return a held batch by its id, or by how its id begins; raises NotFoundError."""
        return self._gate.quarantine.batch(batch)

    def release(self, batch: str, *, reason: str) -> int:
        """Submit a quarantined batch again by the way it came, with the expectations that it broke waived.

        Args:
            batch: Its id, or how its id begins.
            reason: Why; it is recorded.

        Returns:
            How many rows were accepted.

        Raises:
            NotFoundError: There is no such batch.
            FailedPreconditionError: It was released or dropped before.
            QuarantinedError: Something that its report does not name does not hold now.
        """
        from featurestore.flow.quarantine import release

        held = self.quarantined_batch(batch)
        submit = partial(self._load_again if held.report.way == "ingest" else self._write_again, held)
        return release(held, reason=reason, principal=self._principal.name, now=self._clock(), submit=submit)

    def drop(self, batch: str, *, reason: str) -> None:
        """Delete the rows of a quarantined batch; its report and the reason stay.

        Raises:
            NotFoundError: There is no such batch.
            FailedPreconditionError: It was released or dropped before.
        """
        from featurestore.flow.quarantine import drop

        held = self.quarantined_batch(batch)
        drop(held, reason=reason, principal=self._principal.name, now=self._clock())

    def profile(self, view: str) -> Profile:
        """Take a profile of a view version as its offline table is now, and keep it; the one there is if nothing came since.

        Raises:
            FailedPreconditionError: The version has no rows.
        """
        ref, _ = self._stored(view)
        self._fold_log()
        return self._profile(ref)

    def profiles(self, view: str) -> list[Profile]:
        """Return the kept profiles of a view version, oldest first."""
        return self._gate.references.log(self._stored(view)[0]).read()

    def revisions(self, view: str | None = None) -> list[Revisions]:
        """Count how often rows came again with something else, and publish it for `lineage check --select LN310`.

        Args:
            view: A view, or a version of it; None takes all that have rows and can be told.

        Raises:
            FailedPreconditionError: The version has no rows.
            InvalidArgumentError: Its events have no key, so that nobody can say which were revised.
        """
        from featurestore.offline.revisions import can_be_told, measure_revisions, publish_revisions

        self._fold_log()
        every = [(ref, record) for ref, record in self._filled_views() if can_be_told(record)]
        found = []
        for ref, record in [self._stored(view)] if view else every:
            found.append(measure_revisions(ref, record, self.table(ref), now=self._clock()))
            publish_revisions(self.settings.store, found[-1])
        return found

    def compact(
        self, view: str | None = None, *, buckets: int | None = None, vacuum: bool = False
    ) -> list[UpkeepReport]:
        """Make one sorted file a bucket of a view's offline rows, or of all views'; readers and writers go on beside it.

        Args:
            view: A view, or a version of it; None takes all that have rows.
            buckets: Number of hash buckets from now on, a power of two up to 1024; None keeps it unless another suits far better.
            vacuum: Whether files that were replaced over seven days ago leave the disk, unless a dataset lists them.

        Raises:
            FailedPreconditionError: The view has no rows.
            InvalidArgumentError: The number of buckets is no power of two.
        """
        from featurestore.flow.upkeep import compact_view, files_of_datasets

        refs = [self._stored(view)[0]] if view else [ref for ref, _ in self._filled_views()]
        self._fold_log()
        tables = [(ref, self.table(ref)) for ref in refs]
        keeps = [files_of_datasets(self._datasets_folder, table) if vacuum else None for _, table in tables]
        return [
            compact_view(ref, table, buckets=buckets, keep=keep)
            for (ref, table), keep in zip(tables, keeps, strict=True)
        ]

    def erase(self, entity: str, keys: Any, *, reason: str = "") -> Receipt:
        """Erase keys of an entity from everything that the store holds: all versions of all views, online and offline, and datasets.

        Args:
            entity: Name of the entity.
            keys: A table, or column name -> list, with the entity's join keys.
            reason: Why; the receipt keeps it.

        Raises:
            NotFoundError: There is no such entity.
            InvalidArgumentError: A key is missing, null or of another type, or the reason names it.
            UnavailableError: An ingest, a compaction or a save is in the way; nothing was changed.
        """
        with self.writer() as writer:
            table, principal = to_arrow_table(keys), self._principal.name
            receipt = writer.erase(entity, table, principal=principal, reason=reason, now=self._clock())
        for name in receipt.datasets:
            if name in self.snapshot().document.datasets:
                self.apply(register_dataset(self.snapshot(), name, self.dataset(name).record()))
        return receipt

    def receipts(self) -> list[Receipt]:
        """Return the receipts of all erasures, oldest first."""
        return self._erasures.receipts()

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
        self._fold_log()
        read = partial(
            read_training_set,
            plan,
            table,
            timestamp=timestamp,
            tables=self.table,
            knowledge=knowledge,
            position=position,
            engine=self.settings.offline.engine,
        )
        try:
            training_set = read()
        except ErasedError:  # a file went while it was about to be read; what took its place is read
            training_set = read()
        self._record(plan, identity, "offline", "ok", len(table))
        return training_set

    def stream_historical_features(
        self,
        spine: Any,
        features: str | Sequence[str],
        *,
        timestamp: str = "event_timestamp",
        knowledge: Knowledge = "as_known",
        position: int | None = None,
        full_feature_names: bool = False,
        memory_limit: int = 1 << 30,
        progress: Callable[[Progress], None] | None = None,
    ) -> TrainingStream:
        """Join features onto a spine that may be larger than memory; the answer comes in batches, or goes to a Parquet file.

        Args:
            spine: Keys and times: a path of Parquet files, an Arrow table, reader or dataset, or anything with
                ``__arrow_c_stream__``; read once, in order.
            features: As for `get_historical_features`.
            timestamp: Likewise.
            knowledge: Likewise.
            position: Likewise.
            full_feature_names: Likewise.
            memory_limit: Bytes that the rows being worked on may take, beside what the process has anyway.
            progress: Called after each chunk with rows done, rate and time to go.

        Returns:
            A stream: iterate it, or call ``to_parquet(path)``; its ``report`` is complete at the end.

        Raises:
            NotFoundError: An unknown service, view, version, feature or path.
            InvalidArgumentError: The spine lacks a key or has one of another type; says where.
            FailedPreconditionError: A view was never filled; says the command.
            AccessDeniedError: A view refuses undeclared readers.
        """
        from featurestore.offline.training_stream import SpineBatches

        snapshot = self.snapshot()
        plan = plan_read(snapshot, features, full_feature_names=full_feature_names)
        batches = SpineBatches.of(spine)
        identity = self._authorize(snapshot, plan, "offline", rows=batches.total or 0)
        return self.stream_plan(
            plan,
            batches,
            timestamp=timestamp,
            knowledge=knowledge,
            position=position,
            memory_limit=memory_limit,
            progress=progress,
            ended=partial(self._record, plan, identity, "offline", "ok"),
        )

    def stream_plan(self, plan: ReadPlan, spine: SpineBatches, **how: Any) -> TrainingStream:
        """Read a plan for a spine, for a caller that somebody else has admitted and counts.

        Args:
            plan: What to read.
            spine: Keys and times.
            how: Arguments of TrainingStream: timestamp, knowledge, position, memory_limit, progress, ended.
        """
        from featurestore.offline.training_stream import TrainingStream

        self._fold_log()
        return TrainingStream(plan, spine, tables=self.table, engine=self.settings.offline.engine, **how)

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
        from featurestore.flow.clock_mark import is_replay
        from featurestore.online.local import read_in_process

        snapshot = self.snapshot()
        plan = plan_read(snapshot, features, full_feature_names=full_feature_names)
        count = len(next(iter(keys.values()), ()))
        identity = self._authorize(snapshot, plan, "online", rows=count)
        clock = None if is_replay(self.settings.store) else self._clock
        redis = self.settings.redis
        rows, used = read_in_process(self._online_folder, plan, keys, request or {}, clock=clock, redis=redis)
        self._record(plan, identity, "online", "ok", count, used)
        return rows

    def save(self, name: str, training_set: TrainingSet | TrainingStream, *, seed: int | None = None) -> Dataset:
        """Save a training set under a name and register it, with all it takes to make it again; a name is given once.

        Args:
            name: Letters, digits and underscores.
            training_set: What `get_historical_features` or `stream_historical_features` returned; a stream is read to its end.
            seed: The seed of whatever chose the spine or will be trained on it, for the manifest.

        Raises:
            ConflictError: There is a dataset of that name with other values or features.
            ErasedError: It has rows of an erased entity, or was read before an erasure.
            ResourceExhaustedError: The disk is full; nothing is left behind.
        """
        from featurestore.flow.erased import refuse_erased
        from featurestore.offline.datasets import save_dataset

        with self._erasures.reading():
            ledger = self._erasures.ledger()
            dataset = save_dataset(
                name,
                training_set,
                self._datasets_folder,
                now=self._clock(),
                consumer=self.consumer or None,
                seed=seed,
                code=self.settings.root,
                admit=partial(refuse_erased, ledger),
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

    def delete_dataset(self, name: str, *, force: str = "") -> ChangePlan:
        """Delete a saved training set, so that the files it lists are no longer kept for it.

        Args:
            name: Its name.
            force: A reason to do it although a consumer's manifest names it; it is recorded.

        Raises:
            NotFoundError: There is none of that name; says the nearest one.
            FailedPreconditionError: A consumer's manifest names it.
        """
        from featurestore.offline.datasets import delete_dataset, load_dataset

        if name not in self.snapshot().document.datasets:
            load_dataset(name, self._datasets_folder)
        change = self.apply(drop_dataset(self.snapshot(), name, reason=force))
        delete_dataset(name, self._datasets_folder)
        return change

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

        redis = self.settings.redis
        return open_writer(
            self.settings.store, snapshot=self.snapshot, clock=self._clock, tables=self.table, redis=redis
        )

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

    def _load(
        self, ref: ViewRef, rows: pa.Table, *, known_until: int | None = None, released: str = ""
    ) -> IngestReport:
        """Accept rows in bulk, and take a profile when the newest one is old."""
        from featurestore.flow.ingest import ingest_rows, ingesting
        from featurestore.offline.expectations import Batch
        from featurestore.offline.profiles import is_due

        record, table = self.snapshot().view(ref), self.table(ref)
        now = self._now() if known_until is None else known_until

        def admit(new: pa.Table, offered: pa.Table) -> tuple[str, ...]:
            return self._gate.admit(Batch.of(ref, record, new, offered, now=now), "ingest", released=released)

        with self.writer() as writer, ingesting(table.directory):
            writer.fold()
            report = ingest_rows(
                str(ref),
                RowSchema.of(record).canonical(rows),
                table=table,
                sequence=writer,
                known_until=known_until,
                backfilled_until=record.backfilled_until,
                admit=admit,
                erased=partial(self._erasures.ledger().find, record.join_keys),
            )
        table.tend()
        if report.accepted and is_due(self._gate.references.log(ref).newest(), table, now=self._clock()):
            self._profile(ref)
        return report

    def _load_again(self, held: HeldBatch, rows: pa.Table) -> int:
        return self._load(ViewRef.parse(held.report.view), rows, released=held.id).accepted

    def _write_again(self, held: HeldBatch, rows: pa.Table) -> int:
        with self.writer() as writer:
            ref, write_id = ViewRef.parse(held.report.view), bytes.fromhex(held.report.write_id)
            return writer.write(ref, rows, write_id=write_id, released=held.id).accepted

    def _profile(self, ref: ViewRef) -> Profile:
        from featurestore.offline.profiles import keep_profile

        with self._erasures.reading():
            return keep_profile(self._gate.references.log(ref), self.table(ref), now=self._clock())

    def _now(self) -> int:
        """Return the store's time: the replay clock's where it runs on one."""
        from featurestore.flow.clock_mark import is_replay
        from featurestore.online.local import clock_of

        return clock_of(self._online_folder) if is_replay(self.settings.store) else self._clock()

    @cached_property
    def _erasures(self) -> Erasures:
        from featurestore.flow.erased import erasures_of

        return erasures_of(self.settings.store)

    @cached_property
    def _gate(self) -> Gate:
        from featurestore.flow.quarantine import Gate

        return Gate(self.settings.store)

    def _plan(self, definitions: Sequence[Definition], remove: Sequence[str]) -> ChangePlan:
        check, is_filled = self._check_source, self._is_filled
        change = plan_changes(self.snapshot(), definitions, check_source=check, is_filled=is_filled, remove=remove)
        if self.settings.online.store == "redis":
            refuse_windows(change.document)
        return change

    def _fold_log(self) -> None:
        """Bring every row that was acknowledged before this call offline; costs nothing when there is none."""
        from featurestore.online.local import has_logged_rows

        if has_logged_rows(self._online_folder):
            with self.writer() as writer:
                writer.fold()

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
    def _sources(self) -> SourceReader:
        from featurestore.offline.sources import Limits, SourceReader

        allowed = self.settings.sources
        limits = Limits(memory_mb=allowed.memory_mb, seconds=allowed.timeout_seconds)
        return SourceReader(self.settings.root, self.settings.connection, limits)

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

    def _check_source(self, name: str, record: ViewRecord) -> SourceRecord | None:
        found = self._sources.check(name, record, RowSchema.of(record))
        if found is None or not found.query:
            return found
        import msgspec

        from lineage.columns import with_lineage

        return msgspec.convert(with_lineage(msgspec.to_builtins(found)), SourceRecord)

    def _authorize(self, snapshot: RegistrySnapshot, plan: ReadPlan, mode: str, *, rows: int) -> Identity:
        identity = identify(self._principal, self.consumer, self.registry.credentials())
        try:
            check_declared(snapshot, plan, identity, environment=self.settings.project.environment, now=self._clock())
        except PermissionError:
            self._record(plan, identity, mode, "refused", rows)
            raise
        return identity

    def _record(
        self,
        plan: ReadPlan,
        identity: Identity,
        mode: str,
        outcome: str,
        rows: int,
        used: Iterable[tuple[str, int]] = (),
    ) -> None:
        if self._usage is None:
            environment = self.settings.project.environment
            self._usage = UsageWriter(self._usage_folder, environment=environment, clock=self._clock)
        for plan_id, refs in plan.usage_plans():
            self._usage.register_plan(plan_id, refs)
        who = (identity.principal, identity.consumer, identity.binding, "in process", mode, outcome)
        for plan_id, count in used or plan.usage(rows):
            self._usage.record(plan_id, *who, count)

    def _readers(self, taken: Taken) -> Iterator[str]:
        """Say who keeps a change from being made: what names it, recent reads, and gaps in what is known of them."""
        yield from taken.named
        since = self._clock() - int(max(RETIRE_AFTER_DAYS, 3 * taken.cadence_days) * DAY)
        try:
            state = self.lineage.state(since=since)
        except InvalidArgumentError as error:  # a registry that keeps no usage
            yield f"who reads it is not known: {error.message}"
            return
        seen = [SeenRead(r.feature, r.consumer or r.principal, r.last_read) for r in state.usage.rows if r.served]
        seen += (  # a running worker hands its counts over only now and then
            SeenRead(str(live.ref), live.consumer or live.principal, live.last_read)
            for live in live_reads(self._usage_folder)
            if live.outcome == "ok" and live.last_read >= since
        )
        yield from taken.readers(seen)
        # Where no worker ever began to count nobody ever read: that gap names no worker, and is none here.
        yield from (f"usage is incomplete: {gap}" for gap in state.usage.coverage().gaps if gap.worker)


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
