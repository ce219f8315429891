"""Saving, loading and deleting datasets: a folder that appears whole or not at all, under a name that is given once.

<datasets>/<name>/data.parquet     the rows
<datasets>/<name>/spine.parquet    the spine they were made for
<datasets>/<name>/manifest.json    Manifest as JSON; it names the other two, which an erasure puts under new names
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.errors import (
    ConflictError,
    CorruptionError,
    ErasedError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
)
from featurestore.offline.datasets.digest import digests, table_digest
from featurestore.offline.datasets.environment import code_version, library_versions
from featurestore.offline.datasets.manifest import Manifest, ManifestFeature, ManifestSource, frozen_definitions
from featurestore.offline.durable import sync
from featurestore.offline.erased_files import erased_error
from featurestore.offline.frames import Frames
from featurestore.offline.training_set import TrainingSet
from featurestore.planning import PlannedOnDemand, PlannedView
from featurestore.refs import NAME
from featurestore.registry.snapshot import DatasetRecord

if TYPE_CHECKING:
    from featurestore.offline.datasets.rebuild import Rebuild

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Dataset(Frames):
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

    @property
    def store(self) -> Path:
        """The folder of the store, which the manifest's paths are relative to."""
        return self.directory.parent.parent

    def __len__(self) -> int:
        return self.manifest.rows

    def record(self) -> DatasetRecord:
        """Return what the registry keeps of it."""
        manifest = self.manifest
        return DatasetRecord(
            refs=tuple(feature.ref for feature in manifest.features),
            rows=manifest.rows,
            saved_at=manifest.saved_at,
            digest=manifest.digest,
            consumer=manifest.consumer,
            revision=manifest.revision,
            sources={source.view: source.version for source in manifest.sources},
            commit=manifest.code.commit if manifest.code else "",
        )

    def to_arrow(self) -> pa.Table:
        """Return the rows; raises CorruptionError when the file is missing or damaged."""
        return self._read(self.manifest.data)

    def schema(self) -> pa.Schema:
        """Return the names and types of the columns; raises CorruptionError when the file is missing or damaged."""
        with self._open(self.manifest.data) as parquet:
            return parquet.schema_arrow

    def spine(self) -> pa.Table:
        """Return the spine that the rows were made for; raises CorruptionError when it is missing or not as it was saved."""
        if (
            not (self.directory / self.manifest.spine).exists() and self.manifest.definitions is None
        ):  # schema 1 kept none beside
            spine = self.to_arrow().drop_columns(list(self.manifest.outputs))
        else:
            spine = self._read(self.manifest.spine)
        self._check(self.manifest.spine, table_digest(spine), self.manifest.spine_digest)
        return spine

    def check(self) -> pa.Table:
        """Return the rows after comparing their digests; raises CorruptionError when they are not those that were saved."""
        table = self.to_arrow()
        digest, columns = digests(table)
        self._check(self.manifest.data, digest, self.manifest.digest)
        if self.manifest.columns not in ({}, columns):  # schema 1 has none
            raise CorruptionError(
                f"The manifest of dataset '{self.name}' has other digests for its columns than their values.",
                place=str(self.directory / MANIFEST),
            )
        return table

    def rebuild(self, *, engine: str | None = None) -> Rebuild:
        """Make the dataset again from the frozen plan and the listed files, and compare; later rows are never read.

        Args:
            engine: Name of the engine that joins; None takes the one it was saved with.

        Raises:
            CorruptionError: A file of the dataset or of a view is missing or damaged; says which.
            FailedPreconditionError: The manifest is of schema 1, which does not hold enough to rebuild from.
        """
        from featurestore.offline.datasets.rebuild import rebuild_dataset

        return rebuild_dataset(self, engine=engine)

    def verify(self, *, engine: str | None = None) -> Rebuild:
        """Prove that the file holds what was saved, and that a rebuild gives the same; see `rebuild`.

        Raises:
            FailedPreconditionError: A rebuild gives other values; says which columns, how many rows, and the first place.
        """
        found = self.rebuild(engine=engine)
        if not found.equal:
            raise FailedPreconditionError(f"Dataset '{self.name}' is not reproduced: {found}.")
        return found

    def to_mlflow(self, *, targets: str | None = None) -> Any:
        """Return the dataset as an input for `mlflow.log_input`, with its digest, schema, profile and source.

        Args:
            targets: The column that a model predicts, or None.

        Raises:
            FailedPreconditionError: MLflow is not installed.
        """
        try:
            from featurestore.offline.datasets.mlflow_input import SavedDataset
        except ImportError as error:
            raise FailedPreconditionError(
                "MLflow is not installed.", repair="Run `pip install featurestore[mlflow]`."
            ) from error
        return SavedDataset(self, targets=targets)

    def _read(self, file: str) -> pa.Table:
        with self._open(file) as parquet:
            return parquet.read()

    @contextmanager
    def _open(self, file: str) -> Iterator[pq.ParquetFile]:
        path = self.directory / file
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as parquet:
                yield parquet
        except (OSError, pa.ArrowException) as error:
            self._check_current(path)
            raise CorruptionError(f"Dataset '{self.name}' is damaged: {error}.", place=str(path)) from error

    def _check_current(self, path: Path) -> None:
        """Say so if an erasure has taken a file away since the manifest was read."""
        manifest = self.directory / MANIFEST
        if path.exists() or not manifest.exists():
            return
        erased = Manifest.from_json(manifest.read_bytes(), place=str(manifest)).erased
        if len(erased) > len(self.manifest.erased):
            raise ErasedError(
                f"{erased[-1]} from dataset '{self.name}'.", place=str(path), repair="Load the dataset again."
            )

    def _check(self, file: str, found: str, saved: str) -> None:
        if found != saved:
            raise CorruptionError(
                f"Dataset '{self.name}' has the digest {found}, saved was {saved}.", place=str(self.directory / file)
            )


def save_dataset(
    name: str,
    training_set: TrainingSet,
    directory: Path,
    *,
    now: int,
    consumer: str | None = None,
    seed: int | None = None,
    code: Path | None = None,
) -> Dataset:
    """Save a training set under a name.

    Args:
        name: Letters, digits and underscores; given once.
        training_set: What to save.
        directory: The folder of all datasets, in the store's folder.
        now: Microseconds since 1970 UTC.
        consumer: Who saves it, or None.
        seed: The seed of whatever chose the spine or will be trained on it; only kept. None where there is none.
        code: A folder in the git work tree of the project's code; None keeps no commit.

    Returns:
        The dataset; the one that is there already when it has the same values of the same features.

    Raises:
        InvalidArgumentError: The name is not allowed, or a column cannot be kept.
        ConflictError: The name is taken by something else.
        ErasedError: A file that it was read from was erased since.
        ResourceExhaustedError: The disk is full; nothing is left behind.
    """
    _check_files(training_set)
    if not NAME.fullmatch(name):
        raise InvalidArgumentError(
            f"Dataset name {name!r} is not allowed.", repair="Use letters, digits and underscores, at most 128."
        )
    table = training_set.to_arrow()
    outputs = [output.name for output in training_set.plan.outputs]
    spine = table.drop_columns(outputs)
    manifest = _manifest(name, training_set, spine, directory.parent, now, consumer, seed, code)
    if not (directory / name).exists():
        _write(directory / name, {manifest.data: table, manifest.spine: spine}, manifest)
        return Dataset(manifest, directory / name)
    there = load_dataset(name, directory)
    if (there.manifest.digest, there.manifest.features) != (manifest.digest, manifest.features):
        raise ConflictError(
            f"There is a dataset '{name}' with other values or features.", repair="Save this one under a new name."
        )
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
    path = directory / name / MANIFEST
    if not NAME.fullmatch(name) or not path.is_file():
        there = [found.parent.name for found in directory.glob(f"*/{MANIFEST}") if found.parent.name[0] != "."]
        raise NotFoundError.of("dataset", name, there)
    return Dataset(Manifest.from_json(path.read_bytes(), place=str(path)), directory / name)


def delete_dataset(name: str, directory: Path) -> bool:
    """Delete the folder of a dataset; return whether there was one."""
    if not NAME.fullmatch(name) or not (directory / name).is_dir():
        return False
    gone = _unfinished(directory / name)
    (directory / name).rename(gone)
    sync(directory)
    shutil.rmtree(gone, ignore_errors=True)
    return True


def _check_files(training_set: TrainingSet) -> None:
    """Refuse rows that were read before an erasure: nobody has looked through them."""
    for source in training_set.sources:
        for file in source.state.files:
            erased = None if file.path.exists() else erased_error(file.path)
            if erased is not None:
                raise erased


def _manifest(
    name: str,
    training_set: TrainingSet,
    spine: pa.Table,
    store: Path,
    now: int,
    consumer: str | None,
    seed: int | None,
    code: Path | None,
) -> Manifest:
    plan, position = training_set.plan, training_set.position
    planned: tuple[PlannedView | PlannedOnDemand, ...] = (*plan.views, *plan.on_demand)
    records = {str(view.ref.feature(f.name)): f for view in planned for f in view.features}
    digest, columns = digests(training_set.to_arrow())
    sources = {source.view: ManifestSource.of(source, store) for source in training_set.sources}
    return Manifest(
        name=name,
        saved_at=now,
        consumer=consumer,
        rows=len(training_set),
        digest=digest,
        spine_digest=table_digest(spine),
        plan=plan.plan_id,
        revision=plan.revision,
        features=tuple(
            ManifestFeature(o.name, str(o.ref), o.dtype.name, records[str(o.ref)].fingerprint) for o in plan.outputs
        ),
        sources=tuple(sources.values()),
        knowledge=training_set.knowledge,
        position=position if position is None or isinstance(position, int) else dict(position),
        engine=training_set.engine,
        libraries=library_versions(),
        columns=columns,
        definitions=frozen_definitions(plan),
        timestamp=training_set.timestamp,
        request=tuple((column, dtype.name) for column, dtype in plan.request),
        full_feature_names=all(o.name != o.ref.feature for o in plan.outputs),
        python=platform.python_version(),
        platform=platform.platform(),
        code=None if code is None else code_version(code),
        seed=seed,
    )


def _write(folder: Path, tables: dict[str, pa.Table], manifest: Manifest) -> None:
    """Write into a folder of another name, then give it the right one: a reader sees all of it or nothing."""
    _sweep(folder.parent)
    try:
        with _claimed(_unfinished(folder)) as unfinished:
            for file, table in tables.items():
                pq.write_table(table, unfinished / file, compression="zstd", write_page_checksum=True)
            draft = unfinished / f"{MANIFEST}.draft"
            draft.write_bytes(manifest.to_json())
            draft.rename(unfinished / MANIFEST)  # whoever asks which files are listed never sees half a manifest
            sync(*(unfinished / file for file in (*tables, MANIFEST)), unfinished)
            unfinished.rename(folder)
        sync(folder.parent)
    except pa.ArrowNotImplementedError as error:
        raise InvalidArgumentError(
            f"Dataset '{folder.name}' has a column that Parquet cannot hold: {error}."
        ) from error
    except OSError as error:
        if folder.exists():
            raise ConflictError(f"Somebody else has just saved a dataset '{folder.name}'.") from error
        raise ResourceExhaustedError(
            f"Dataset '{folder.name}' was not saved: {error}.",
            place=str(folder),
            repair="Free space, then save it again.",
        ) from error


def _unfinished(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")


@contextmanager
def _claimed(unfinished: Path) -> Iterator[Path]:
    """Make a folder that nobody sweeps away while this process lives, and that is gone afterwards if it still has this name."""
    handle = _made_and_locked(unfinished)
    try:
        yield unfinished
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        os.close(handle)


def _made_and_locked(folder: Path) -> int:
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX)
        if folder.exists():
            return handle
        os.close(handle)  # swept away between the two steps


def _sweep(directory: Path) -> None:
    """Remove what a killed process left: unfinished folders that nobody holds."""
    for unfinished in directory.glob(".*-*"):
        try:
            handle = os.open(unfinished, os.O_RDONLY)
        except OSError:  # somebody else has just removed it
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(unfinished, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(handle)
