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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
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
from featurestore.offline.datasets.digest import TableDigest, table_digest
from featurestore.offline.datasets.environment import code_version, library_versions
from featurestore.offline.datasets.manifest import (
    DATA,
    SPINE,
    Manifest,
    ManifestFeature,
    ManifestSource,
    frozen_definitions,
)
from featurestore.offline.durable import sync
from featurestore.offline.erased_files import erased_error
from featurestore.offline.frames import Frames
from featurestore.offline.training_set import TrainingSet
from featurestore.offline.training_stream import BATCH_ROWS, ROW_GROUP, SpineBatches, TrainingStream
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

    def batches(self, rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """Yield the rows in batches of at most so many, for sets larger than memory.

        Raises:
            CorruptionError: The file is missing or damaged.
        """
        return self._batches(self.manifest.data, rows)

    def spine_batches(self) -> SpineBatches:
        """Return the spine in batches, after comparing its digest; raises CorruptionError when it is not as it was saved."""
        file = self.manifest.spine
        with self._open(file) as parquet:
            schema = parquet.schema_arrow
        digest, _ = _digested(schema, self._batches(file))
        self._check(file, digest, self.manifest.spine_digest)
        return SpineBatches(schema, self._batches(file), self.manifest.rows)

    def check(self) -> None:
        """Compare the digests of the rows, batch by batch; raises CorruptionError when they are not those that were saved."""
        digest, columns = _digested(self.schema(), self.batches())
        self._check(self.manifest.data, digest, self.manifest.digest)
        if self.manifest.columns not in ({}, columns):  # schema 1 has none
            raise CorruptionError(
                f"The manifest of dataset '{self.name}' has other digests for its columns than their values.",
                place=str(self.directory / MANIFEST),
            )

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

    def _batches(self, file: str, rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        with self._open(file) as parquet:
            yield from parquet.iter_batches(batch_size=rows)

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
    training: TrainingSet | TrainingStream,
    directory: Path,
    *,
    now: int,
    consumer: str | None = None,
    seed: int | None = None,
    code: Path | None = None,
    admit: Callable[[TrainingSet], None] | None = None,
) -> Dataset:
    """Save a training set under a name; a stream is read to its end, and never whole in memory.

    Args:
        name: Letters, digits and underscores; given once.
        training: What to save.
        directory: The folder of all datasets, in the store's folder.
        now: Microseconds since 1970 UTC.
        consumer: Who saves it, or None.
        seed: The seed of whatever chose the spine or will be trained on it; only kept. None where there is none.
        code: A folder in the git work tree of the project's code; None keeps no commit.
        admit: Called with each part of the rows before it is saved; what it raises, nothing is left of. None admits all.

    Returns:
        The dataset; the one that is there already when it has the same values of the same features.

    Raises:
        InvalidArgumentError: The name is not allowed, or a column cannot be kept.
        ConflictError: The name is taken by something else.
        ErasedError: A file that it was read from was erased since.
        ResourceExhaustedError: The disk is full; nothing is left behind.
    """
    _check_files(training)
    if not NAME.fullmatch(name):
        raise InvalidArgumentError(
            f"Dataset name {name!r} is not allowed.", repair="Use letters, digits and underscores, at most 128."
        )
    rows = _Rows(training, admit)
    describe = partial(_manifest, name, rows, directory.parent, now, consumer, seed, code)
    if not (directory / name).exists():
        return Dataset(_write(directory / name, rows, describe), directory / name)
    for table in rows:
        del table  # before the next one is made
    manifest, there = describe(), load_dataset(name, directory)
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


class _Rows:
    """The rows to be saved, as they come, and the digests of those that came."""

    def __init__(self, training: TrainingSet | TrainingStream, admit: Callable[[TrainingSet], None] | None) -> None:
        self._parts = training.parts()
        self._admit = admit
        self._digest, self._spine_digest = TableDigest(), TableDigest()
        self.of = training.described()
        self.count = 0
        none = self.of.table.schema.empty_table()
        self._digest.update(none)
        self._spine_digest.update(self.spine_of(none))

    def spine_of(self, table: pa.Table) -> pa.Table:
        """Return the columns that came with the spine."""
        return table.drop_columns([output.name for output in self.of.plan.outputs])

    def __iter__(self) -> Iterator[pa.Table]:
        for part in self._parts:
            if self._admit is not None:
                self._admit(part)
            self._digest.update(part.table)
            self._spine_digest.update(self.spine_of(part.table))
            self.count += len(part)
            yield part.table
            del part  # before the next one is made

    def digests(self) -> tuple[str, dict[str, str], str]:
        """Return the digest of all rows, of each column, and of the spine."""
        return *self._digest.finish(), self._spine_digest.finish()[0]


def _digested(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> tuple[str, dict[str, str]]:
    digest = TableDigest()
    digest.update(schema.empty_table())
    for batch in batches:
        digest.update(pa.Table.from_batches([batch]))
    return digest.finish()


def _check_files(training: TrainingSet | TrainingStream) -> None:
    """Refuse rows that were read before an erasure: nobody has looked through them."""
    for source in training.sources:
        for file in source.state.files:
            erased = None if file.path.exists() else erased_error(file.path)
            if erased is not None:
                raise erased


def _manifest(
    name: str,
    rows: _Rows,
    store: Path,
    now: int,
    consumer: str | None,
    seed: int | None,
    code: Path | None,
) -> Manifest:
    training_set = rows.of
    plan, position = training_set.plan, training_set.position
    planned: tuple[PlannedView | PlannedOnDemand, ...] = (*plan.views, *plan.on_demand)
    records = {str(view.ref.feature(f.name)): f for view in planned for f in view.features}
    digest, columns, spine_digest = rows.digests()
    sources = {source.view: ManifestSource.of(source, store) for source in training_set.sources}
    return Manifest(
        name=name,
        saved_at=now,
        consumer=consumer,
        rows=rows.count,
        digest=digest,
        spine_digest=spine_digest,
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


def _write(folder: Path, rows: _Rows, describe: Callable[[], Manifest]) -> Manifest:
    """Write into a folder of another name, then give it the right one: a reader sees all of it or nothing."""
    _sweep(folder.parent)
    try:
        with _claimed(_unfinished(folder)) as unfinished:
            _write_rows(unfinished, rows)
            manifest = describe()
            draft = unfinished / f"{MANIFEST}.draft"
            draft.write_bytes(manifest.to_json())
            draft.rename(unfinished / MANIFEST)  # whoever asks which files are listed never sees half a manifest
            sync(*(unfinished / file for file in (DATA, SPINE, MANIFEST)), unfinished)
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
    return manifest


def _write_rows(folder: Path, rows: _Rows) -> None:
    schema = rows.of.table.schema
    spine_schema = rows.spine_of(schema.empty_table()).schema
    with _writer(folder / DATA, schema) as data, _writer(folder / SPINE, spine_schema) as spine:
        for table in rows:
            data.write_table(table, row_group_size=ROW_GROUP)
            spine.write_table(rows.spine_of(table), row_group_size=ROW_GROUP)
            del table  # before the next one is made


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True)


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
