"""Erasing rows from a saved dataset, and keeping its list of files right when an erasure has written them anew.

New files are written beside the old ones, then the manifest names them, then the old ones go: a reader finds one dataset or the other.
What remains has digests of its own, so that a rebuild still proves it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.errors import CorruptionError, ResourceExhaustedError
from featurestore.offline.data_files import DataFile
from featurestore.offline.datasets.digest import digests, table_digest
from featurestore.offline.datasets.manifest import ErasedRows, Manifest, ManifestFile, ManifestSource
from featurestore.offline.datasets.saved import MANIFEST, Dataset, load_dataset
from featurestore.offline.durable import sync, write_durably
from featurestore.subject import Mask, Subject, any_of


def all_datasets(directory: Path) -> Iterator[Dataset]:
    """Go through the saved datasets of a folder, and remove what a killed save or erasure has left beside them.

    Args:
        directory: The folder of all datasets; the caller sees to it that nobody saves one.
    """
    for unfinished in directory.glob(".*-*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    for path in sorted(directory.glob(f"*/{MANIFEST}")):
        dataset = load_dataset(path.parent.name, directory)
        _sweep(dataset)
        yield dataset


def erase_from_dataset(
    dataset: Dataset, subject: Subject, *, receipt: int, digests_of: Callable[[Subject], list[str]]
) -> int:
    """Take the rows of a subject out of a dataset and its spine; done again, it changes nothing.

    Args:
        dataset: The dataset.
        subject: Whom to erase.
        receipt: Number of the receipt, which the manifest then names.
        digests_of: Gives the keyed digests of keys.

    Returns:
        How many rows this receipt has erased.

    Raises:
        CorruptionError: The file cannot be decoded, so that nobody knows whose rows it holds.
        ResourceExhaustedError: The disk is full; the dataset is as it was.
    """
    mask = rows_of_dataset(dataset, subject)
    if not mask.any():
        return sum(gone.rows for gone in dataset.manifest.erased if gone.receipt == receipt)
    table, spine, kept = dataset.to_arrow(), _spine_of(dataset), pa.array(~mask)
    gone = ErasedRows(receipt, int(mask.sum()), tuple(sorted(digests_of(_keys_in(dataset, subject, table)))))
    manifest = _without(dataset, table.filter(kept), spine.filter(kept), gone)
    try:
        _write(dataset.directory / manifest.data, table.filter(kept))
        _write(dataset.directory / manifest.spine, spine.filter(kept))
        write_durably(dataset.directory / MANIFEST, manifest.to_json())
    except OSError as error:
        raise ResourceExhaustedError(
            f"Dataset '{dataset.name}' cannot be written anew: {error}.", place=str(dataset.directory)
        ) from error
    _sweep(Dataset(manifest, dataset.directory))
    return gone.rows


def rows_of_dataset(dataset: Dataset, subject: Subject) -> Mask:
    """Return bool[rows]: which rows have a key of a subject, in whatever role the plan reads it.

    Args:
        dataset: The dataset.
        subject: Whom to look for.
    """
    table = dataset.to_arrow()
    masks = (subject.mask([table[name] for name in role]) for role in _roles(dataset, subject))
    return any_of(masks, len(table))


def rename_files(dataset: Dataset, directory: Path, renamed: Mapping[str, DataFile | None]) -> None:
    """Let a dataset list the files that an erasure has written, in the place of the old ones.

    Args:
        dataset: The dataset.
        directory: Folder of the table that they belong to.
        renamed: Path of an old file in that folder -> the new one, or None where no row was left.
    """
    sources = tuple(
        _renamed(source, directory, renamed) if source.is_of(directory, dataset.store) else source
        for source in dataset.manifest.sources
    )
    if sources != dataset.manifest.sources:
        manifest = msgspec.structs.replace(dataset.manifest, sources=sources)
        write_durably(dataset.directory / MANIFEST, manifest.to_json())


def _renamed(source: ManifestSource, directory: Path, renamed: Mapping[str, DataFile | None]) -> ManifestSource:
    details = source.details or (None,) * len(source.files)  # schema 1 has none
    pairs: list[tuple[str, ManifestFile | None]] = []
    for name, detail in zip(source.files, details, strict=True):
        if name not in renamed:
            pairs.append((name, detail))
        elif (new := renamed[name]) is not None:
            fact = ManifestFile(new.bucket, new.rows, new.size) if detail is not None else None
            pairs.append((new.path.relative_to(directory).as_posix(), fact))
    return msgspec.structs.replace(
        source,
        files=tuple(name for name, _ in pairs),
        details=tuple(detail for _, detail in pairs if detail is not None),
    )


def _without(dataset: Dataset, table: pa.Table, spine: pa.Table, gone: ErasedRows) -> Manifest:
    """Return the manifest of what remains; of a dataset that was damaged before, the digests stay as they were saved."""
    manifest = msgspec.structs.replace(
        dataset.manifest,
        rows=len(table),
        data=f"data-{gone.receipt}.parquet",
        spine=f"spine-{gone.receipt}.parquet",
        erased=(*dataset.manifest.erased, gone),
    )
    try:
        dataset.check()
        dataset.spine()
    except CorruptionError:
        return manifest
    whole, columns = digests(table)
    columns = columns if manifest.columns else {}
    return msgspec.structs.replace(manifest, digest=whole, columns=columns, spine_digest=table_digest(spine))


def _roles(dataset: Dataset, subject: Subject) -> set[tuple[str, ...]]:
    """Return the columns that hold keys of the entity, each in the order of its join keys: under the plan's key sets, and by name."""
    roles = {tuple(name for name, _ in subject.join_keys)}
    if dataset.manifest.definitions is not None:
        plan = dataset.manifest.read_plan()
        for view in plan.views:
            places = subject.places(view.record.join_keys)
            if places is not None:
                roles.add(tuple(plan.key_sets[view.key_set].columns[place] for place in places))
    there = set(dataset.schema().names) - set(dataset.manifest.outputs)
    return {role for role in roles if set(role) <= there}


def _keys_in(dataset: Dataset, subject: Subject, table: pa.Table) -> Subject:
    """Return the keys of a subject that a dataset has."""
    names = [name for name, _ in subject.join_keys]
    found = []
    for role in _roles(dataset, subject):
        rows = table.select(role)
        rows = rows.filter(pa.array(subject.mask(rows.columns))).rename_columns(names)
        found.append(Subject.of(subject.entity, subject.join_keys, rows).values if len(rows) else None)
    keys = pa.concat_tables([part for part in found if part is not None])
    return Subject(subject.entity, subject.join_keys, keys.group_by(names).aggregate([]).select(names))


def _spine_of(dataset: Dataset) -> pa.Table:
    """Return the spine as it is, whether or not it is what was saved."""
    path = dataset.directory / dataset.manifest.spine
    return pq.read_table(path) if path.exists() else dataset.to_arrow().drop_columns(list(dataset.manifest.outputs))


def _write(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)
    sync(path)


def _sweep(dataset: Dataset) -> None:
    """Remove the files that the manifest does not name."""
    named = {MANIFEST, dataset.manifest.data, dataset.manifest.spine}
    for path in dataset.directory.iterdir():
        if path.name not in named:
            path.unlink()
    sync(dataset.directory)
