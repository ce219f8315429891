"""Saved training sets: a Parquet file and a manifest that says what it was made from, proved by a digest of its values.

    <datasets>/<name>/data.parquet    the rows
    <datasets>/<name>/manifest.json   Manifest as JSON

A dataset appears whole or not at all, under a name that is given once. Its digest is of the values, not of the file: columns and rows in
their order, every NaN as one, -0.0 as 0.0, nulls apart; so a rewrite by another version of the Parquet library has the same one.
"""

from __future__ import annotations

import shutil
import uuid
from dataclasses import dataclass
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.errors import ConflictError, CorruptionError, InvalidArgumentError, NotFoundError
from featurestore.lanes import LaneColumn, to_lane
from featurestore.offline.durable import sync
from featurestore.offline.training_set import TrainingSet
from featurestore.refs import NAME
from featurestore.registry.snapshot import DatasetRecord
from featurestore.types import from_arrow, to_arrow

SCHEMA_VERSION = 1
LIBRARIES = ("featurestore", "deltalake", "duckdb", "numba", "numpy", "polars", "pyarrow")
_DATA, _MANIFEST = "data.parquet", "manifest.json"


class ManifestFeature(msgspec.Struct, frozen=True):
    """One output column: its name, its frozen reference, and the fingerprint of its meaning."""

    name: str
    ref: str
    dtype: str
    fingerprint: str


class ManifestSource(msgspec.Struct, frozen=True):
    """The files that a view was read from: version of its Delta log, and paths in the view's folder."""

    view: str
    version: int
    files: tuple[str, ...]


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
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True, slots=True)
class Dataset:
    """A saved training set.

    Attributes:
        manifest: What it is, and what it was made from.
        directory: Its folder.
    """

    manifest: Manifest
    directory: Path

    @property
    def name(self) -> str:
        """Its name."""
        return self.manifest.name

    def record(self) -> DatasetRecord:
        """Return what the registry keeps of it."""
        manifest = self.manifest
        return DatasetRecord(
            refs=tuple(feature.ref for feature in manifest.features),
            rows=manifest.rows,
            saved_at=manifest.saved_at,
            digest=manifest.digest,
            consumer=manifest.consumer,
        )

    def to_arrow(self) -> pa.Table:
        """Return the rows; raises CorruptionError when the file is missing or damaged."""
        path = self.directory / _DATA
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                return file.read()
        except (OSError, pa.ArrowException) as error:
            raise CorruptionError(f"Dataset '{self.name}' is damaged: {error}.", place=str(path)) from error

    def verify(self) -> None:
        """Read the file again and compare; raises CorruptionError when its values are not those that were saved."""
        found = table_digest(self.to_arrow())
        if found != self.manifest.digest:
            raise CorruptionError(
                f"Dataset '{self.name}' has the digest {found}, saved was {self.manifest.digest}.",
                place=str(self.directory / _DATA),
            )


def save_dataset(
    name: str, training_set: TrainingSet, directory: Path, *, now: int, consumer: str | None = None
) -> Dataset:
    """Save a training set under a name.

    Args:
        name: Letters, digits and underscores; given once.
        training_set: What to save.
        directory: The folder of all datasets.
        now: Microseconds since 1970 UTC.
        consumer: Who saves it, or None.

    Returns:
        The dataset; the one that is there already when it has the same values.

    Raises:
        InvalidArgumentError: The name is not allowed.
        ConflictError: The name is taken by other values.
    """
    if not NAME.fullmatch(name):
        raise InvalidArgumentError(
            f"Dataset name {name!r} is not allowed.", repair="Use letters, digits and underscores, at most 128."
        )
    manifest = _manifest(name, training_set, now, consumer)
    if not (directory / name).exists():
        _write(directory / name, training_set.table, manifest)
        return Dataset(manifest, directory / name)
    there = load_dataset(name, directory)
    if there.manifest.digest != manifest.digest:
        raise ConflictError(f"There is a dataset '{name}' with other values.", repair="Save this one under a new name.")
    return there


def load_dataset(name: str, directory: Path) -> Dataset:
    """Return a saved dataset.

    Args:
        name: Its name.
        directory: The folder of all datasets.

    Raises:
        NotFoundError: There is none of that name; says the nearest one.
        CorruptionError: Its manifest cannot be read.
    """
    path = directory / name / _MANIFEST
    if not path.is_file():
        raise NotFoundError.of("dataset", name, [found.parent.name for found in directory.glob(f"*/{_MANIFEST}")])
    try:
        return Dataset(msgspec.json.decode(path.read_bytes(), type=Manifest), directory / name)
    except msgspec.DecodeError as error:
        raise CorruptionError(f"The manifest of dataset '{name}' is damaged: {error}.", place=str(path)) from error


def table_digest(table: pa.Table) -> str:
    """Return a digest of the values: 16 bytes of BLAKE2b as text.

    >>> table_digest(pa.table({"a": [0.0, None]})) == table_digest(pa.table({"a": [-0.0, None]}))
    True
    """
    digest = blake2b(digest_size=16)
    for name in table.column_names:
        column = table[name].combine_chunks()
        for part in (f"{name}\0{len(column)}\0".encode(), *_canonical(column)):
            digest.update(part)
    return digest.hexdigest()


def _canonical(column: pa.Array) -> tuple[bytes, ...]:
    """Return our type, validity and values as bytes that depend on the values alone, not on how a file holds them."""
    try:
        dtype = from_arrow(column.type)
    except InvalidArgumentError:  # a type that only passes through, such as a list: by its Python values
        return (repr(column.to_pylist()).encode(),)
    return (dtype.name.encode(), *_canonical_lane(to_lane(column.cast(to_arrow(dtype)), dtype)))


def _canonical_lane(lane: LaneColumn) -> tuple[bytes, ...]:
    valid = np.packbits(lane.valid).tobytes()
    if isinstance(lane.values, list):
        lengths = np.fromiter(map(len, lane.values), np.int64, len(lane.values))
        return valid, lengths.tobytes(), b"".join(lane.values)
    values = lane.values
    if values.dtype == np.float64:
        values = np.where(np.isnan(values), np.nan, values + 0.0)
    return valid, np.where(lane.valid, values, np.zeros_like(values)).tobytes()


def _manifest(name: str, training_set: TrainingSet, now: int, consumer: str | None) -> Manifest:
    plan, position = training_set.plan, training_set.position
    outputs = {output.name for output in plan.outputs}
    records = {str(view.ref.feature(f.name)): f for view in plan.views for f in view.features}
    records |= {str(view.ref.feature(f.name)): f for view in plan.on_demand for f in view.features}
    return Manifest(
        name=name,
        saved_at=now,
        consumer=consumer,
        rows=len(training_set),
        digest=table_digest(training_set.table),
        spine_digest=table_digest(
            training_set.table.select([c for c in training_set.table.column_names if c not in outputs])
        ),
        plan=plan.plan_id,
        revision=plan.revision,
        features=tuple(
            ManifestFeature(o.name, str(o.ref), o.dtype.name, records[str(o.ref)].fingerprint) for o in plan.outputs
        ),
        sources=tuple(ManifestSource(s.view, s.version, s.files) for s in training_set.sources),
        knowledge=training_set.knowledge,
        position=position if position is None or isinstance(position, int) else dict(position),
        engine=training_set.engine,
        libraries={library: version(library) for library in LIBRARIES},
    )


def _write(folder: Path, table: pa.Table, manifest: Manifest) -> None:
    """Write into a folder of another name, then give it the right one: a reader sees all of it or nothing."""
    unfinished = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    unfinished.mkdir(parents=True)
    try:
        pq.write_table(table, unfinished / _DATA, compression="zstd", write_page_checksum=True)
        (unfinished / _MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
        sync(unfinished / _DATA, unfinished / _MANIFEST, unfinished)
        unfinished.rename(folder)
        sync(folder.parent)
    except OSError as error:
        if not folder.exists():
            raise
        raise ConflictError(f"Somebody else has just saved a dataset '{folder.name}'.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
