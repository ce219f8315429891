"""The manifest of a dataset: what it is, what it was made from, and all it takes to make it again."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from featurestore.errors import CorruptionError, FailedPreconditionError
from featurestore.offline.datasets.environment import CodeVersion
from featurestore.offline.reader import ViewSource
from featurestore.offline.table import DataFile, TableState
from featurestore.planning import PlannedOnDemand, PlannedView, ReadPlan, plan_read
from featurestore.refs import ViewRef
from featurestore.registry.snapshot import (
    AliasRecord,
    Document,
    EntityRecord,
    RegistrySnapshot,
    ServiceRecord,
    ViewVersions,
)

SCHEMA_VERSION = 3
DATA, SPINE = "data.parquet", "spine.parquet"
_SERVICE = "dataset"  # the one service of the frozen definitions: what was read, in its order


class ManifestFeature(msgspec.Struct, frozen=True):
    """One output column: its name, its frozen reference, and the fingerprint of its meaning."""

    name: str
    ref: str
    dtype: str
    fingerprint: str


class ManifestFile(msgspec.Struct, frozen=True):
    """What the log said of a file: its bucket (None in the recent run), and how many rows and bytes it has."""

    bucket: int | None
    rows: int
    size: int


class ManifestSource(msgspec.Struct, frozen=True):
    """The files that a view was read from.

    Attributes:
        view: The view version, with its alias if it was read under one.
        version: Version of its Delta log.
        files: Paths in the view's folder.
        folder: The view's folder, relative to the store's; empty in a manifest of schema 1.
        buckets: Number of hash buckets at that version.
        details: One for each of the files.
    """

    view: str
    version: int
    files: tuple[str, ...]
    folder: str = ""
    buckets: int = 0
    details: tuple[ManifestFile, ...] = ()

    @classmethod
    def of(cls, source: ViewSource, store: Path) -> ManifestSource:
        """Return the source of a training set, as a manifest in the store's folder keeps it."""
        details = tuple(ManifestFile(file.bucket, file.rows, file.size) for file in source.state.files)
        folder = Path(os.path.relpath(source.directory, store)).as_posix()
        return cls(source.view, source.version, source.files, folder, source.state.buckets, details)

    @property
    def version_name(self) -> str:
        """The view version without the alias it was read under."""
        return self.view.rpartition("=")[2]

    def is_of(self, directory: Path, store: Path) -> bool:
        """Say whether the files lie in a view's folder, under the store's."""
        view = ViewRef.parse(self.version_name)
        folder = self.folder or f"offline/{view.view}/v{view.version}"  # schema 1 names the view alone
        return os.path.abspath(store / folder) == os.path.abspath(directory)  # noqa: PTH100  # links stay

    def state(self, store: Path) -> TableState:
        """Return the table as it was, from the files alone: the log may have forgotten that version."""
        named = zip(self.files, self.details, strict=True)
        files = (DataFile(store / self.folder / path, fact.bucket, fact.rows, fact.size) for path, fact in named)
        return TableState(self.version, self.buckets, tuple(files))


class ErasedRows(msgspec.Struct, frozen=True):
    """Rows that a dataset has lost to an erasure.

    Attributes:
        receipt: Number of the receipt.
        rows: How many they were.
        digests: Keyed digests of their keys; the receipt has the same.
    """

    receipt: int
    rows: int
    digests: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.rows} rows were erased by receipt {self.receipt}"


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a dataset is, and what it was made from.

    Attributes:
        name: Its name.
        saved_at: Microseconds since 1970 UTC.
        consumer: Who saved it, or None.
        rows: Number of rows.
        digest: Digest of the values.
        spine_digest: Digest of the columns that came with the spine.
        plan: Fingerprint of the read plan.
        revision: Registry revision of the plan.
        features: The output columns.
        sources: Where each view was read from.
        knowledge: What counted as known.
        position: For ``as_served``: the position, or one for each view version.
        engine: The engine that joined.
        libraries: Library -> version.
        columns: Column -> digest of its values; empty in a manifest of schema 1.
        definitions: The neutral JSON of the registry, reduced to what was read; None in a manifest of schema 1.
        timestamp: The spine's column of times.
        request: (column, type) pairs that came with the spine for on-demand features.
        full_feature_names: Whether outputs are named ``view__feature``.
        python: Version of Python.
        platform: Operating system and machine.
        code: Commit of the project's code; None outside of a git work tree.
        seed: The seed of whatever chose the spine or will be trained, as the caller named it; None where none was.
        erased: What erasures took out since; rows and digests above are those of what remains.
        data: File of the rows, in the dataset's folder.
        spine: File of the spine.
        schema_version: Of this document.
    """

    name: str
    saved_at: int
    consumer: str | None
    rows: int
    digest: str
    spine_digest: str
    plan: str
    revision: int
    features: tuple[ManifestFeature, ...]
    sources: tuple[ManifestSource, ...]
    knowledge: str
    position: int | dict[str, int] | None
    engine: str
    libraries: dict[str, str]
    columns: dict[str, str] = {}
    definitions: Document | None = None
    timestamp: str = "event_timestamp"
    request: tuple[tuple[str, str], ...] = ()
    full_feature_names: bool = False
    python: str = ""
    platform: str = ""
    code: CodeVersion | None = None
    seed: int | None = None
    erased: tuple[ErasedRows, ...] = ()
    data: str = DATA
    spine: str = SPINE
    schema_version: int = SCHEMA_VERSION

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the output columns."""
        return tuple(feature.name for feature in self.features)

    def read_plan(self) -> ReadPlan:
        """Return the plan that was read, made anew from the frozen definitions; the registry is not asked.

        Raises:
            FailedPreconditionError: The manifest was written before definitions were kept.
        """
        if self.definitions is None:
            raise FailedPreconditionError(
                f"Dataset '{self.name}' was saved before definitions were kept with it: it cannot be rebuilt.",
                repair="Save it again from its spine.",
            )
        return plan_read(RegistrySnapshot(self.definitions), _SERVICE, full_feature_names=self.full_feature_names)

    def to_json(self) -> bytes:
        """Return the manifest as JSON for people and programs."""
        return msgspec.json.format(msgspec.json.encode(self))

    @classmethod
    def from_json(cls, text: bytes, *, place: str) -> Manifest:
        """Read a manifest of this schema or an older one.

        Raises:
            CorruptionError: It is none, or of a newer schema; says the place.
        """
        try:
            header = msgspec.json.decode(text, type=_Header)
            if header.schema_version > SCHEMA_VERSION:
                raise CorruptionError(
                    f"The manifest has schema_version {header.schema_version}, this program reads up to {SCHEMA_VERSION}.",
                    place=place,
                    repair="Upgrade featurestore.",
                )
            return msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError as error:
            raise CorruptionError(f"A manifest is damaged: {error}.", place=place) from error


class _Header(msgspec.Struct, frozen=True):
    schema_version: int = 1


def frozen_definitions(plan: ReadPlan) -> Document:
    """Return the registry's document reduced to what a plan reads, so that the plan can be made again from it alone."""
    planned: tuple[PlannedView | PlannedOnDemand, ...] = (*plan.views, *plan.on_demand)
    views: dict[str, ViewVersions] = {}
    for view in planned:
        known = views.get(view.ref.view)
        versions = {**(known.versions if known else {}), view.ref.version or 0: view.record}
        views[view.ref.view] = ViewVersions(current=max(versions), versions=versions)
    service = ServiceRecord(features=tuple(str(output.ref) for output in plan.outputs), aliases=_aliases(plan))
    return Document(
        project=_SERVICE,
        revision=plan.revision,
        entities={
            view.record.entity: EntityRecord(join_keys=view.record.join_keys) for view in planned if view.record.entity
        },
        views=views,
        services={_SERVICE: service},
    )


def _aliases(plan: ReadPlan) -> dict[str, AliasRecord]:
    aliases = {}
    for view in plan.views:
        if view.ref.alias:
            keys = [name for name, _ in view.record.join_keys]
            columns = dict(zip(keys, plan.key_sets[view.key_set].columns, strict=True))
            aliases[view.ref.alias] = AliasRecord(view=str(ViewRef(view.ref.view, view.ref.version)), join_keys=columns)
    return aliases
