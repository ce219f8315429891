"""Erasing rows from an offline table: no file of the folder, live or not, holds a row of the subject afterwards.

A live file, or one that a dataset lists, is written anew without those rows; any other file that holds some goes. What becomes of each file
is noted before the log changes, so that an erasure that was interrupted goes on with the files it has written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.errors import ConflictError, CorruptionError
from featurestore.offline.actions import COMPACT, ERASE, Change
from featurestore.offline.data_files import DRAFT, DataFile, WrittenFile, damage, read_data_file, write_data_file
from featurestore.offline.durable import sync
from featurestore.offline.erased_files import ErasedFile, erased_files, record_erased
from featurestore.offline.log import COMMIT_ATTEMPTS, TableLog
from featurestore.rows import SEQ, RowSchema
from featurestore.subject import Subject

_LOG = "_delta_log"
_FEW_ROWS = 100_000  # are read sooner without threads


@dataclass(frozen=True, slots=True)
class TableErasure:
    """What an erasure does to a table.

    Attributes:
        directory: Folder of the table.
        files: What becomes of each file that held rows of the subject.
        written: Path of a new file -> what it holds.
        doomed: Paths that are about to go.
    """

    directory: Path
    files: tuple[ErasedFile, ...]
    written: Mapping[str, DataFile]
    doomed: tuple[Path, ...]

    @property
    def rows(self) -> int:
        """Rows that were erased; each is counted once."""
        return sum(file.rows for file in self.files if file.is_live)

    @property
    def renamed(self) -> Mapping[str, DataFile | None]:
        """Path of each old file -> the new one, or None where no row was left."""
        return {file.file: self.written.get(file.new) for file in self.files}

    def finish(self) -> None:
        """Remove the old files, durably."""
        for path in self.doomed:
            path.unlink(missing_ok=True)
        sync(*{path.parent for path in self.doomed})


def rows_of(directory: Path, schema: RowSchema, subject: Subject) -> Iterator[tuple[Path, pa.Table]]:
    """Go through the files of a table's folder, live or not, that hold rows of a subject: (file, those rows).

    Args:
        directory: Folder of the table.
        schema: Columns of its rows.
        subject: Whom to look for; the table has its join keys.

    Raises:
        CorruptionError: A file cannot be decoded, so that nobody knows whose rows it holds.
    """
    names = [name for name, _ in subject.join_keys]
    for path in _parquet_files(directory):
        try:
            with pq.ParquetFile(path) as parquet:
                threads = parquet.metadata.num_rows > _FEW_ROWS
                keys = parquet.read(columns=names, use_threads=threads)
                found = subject.mask([keys[name] for name in names])
                if found.any():
                    yield path, _conform(parquet.read(use_threads=threads).filter(pa.array(found)), schema)
        except (OSError, pa.ArrowException, KeyError) as error:
            raise CorruptionError(
                f"A file cannot be decoded: {error}.", place=str(path), repair="Restore it from a backup, or remove it."
            ) from error


def erase_rows(
    log: TableLog, schema: RowSchema, subject: Subject, *, receipt: int, keep: Collection[str]
) -> TableErasure:
    """Write the files of a table anew that hold rows of a subject, and commit; see `OfflineTable.erase`."""
    for _ in range(COMMIT_ATTEMPTS):
        live = {_name(log, file.path): file for file in (log.state().files if log.exists else ())}
        noted = {file.file: file for file in erased_files(log.directory) if file.receipt == receipt}
        holding = {_name(log, path): rows for path, rows in rows_of(log.directory, schema, subject)}
        plan = [
            noted[name]
            if _is_written(log, noted.get(name))
            else _rewrite(log, schema, subject, ErasedFile(name, "", receipt, len(rows), name in live), live, keep)
            for name, rows in holding.items()
        ]
        record_erased(log.directory, [file for file in plan if noted.get(file.file) != file])
        if _commit(log, [file for file in plan if file.file in live], live, receipt):
            everything = tuple({**noted, **{file.file: file for file in plan}}.values())
            new = [file.new for file in everything if file.new and (log.directory / file.new).exists()]
            written = {name: _data_file(log.directory / name) for name in new}
            doomed = [log.directory / name for name in holding]
            return TableErasure(log.directory, everything, written, (*doomed, *_drafts(log.directory)))
    raise ConflictError(f"Others kept committing to {log.directory}.", repair="Try again.")


def _is_written(log: TableLog, noted: ErasedFile | None) -> bool:
    """Say whether what becomes of a file was settled before: it goes without a new one, or the new one is there."""
    return noted is not None and (not noted.new or (log.directory / noted.new).exists())


def _rewrite(
    log: TableLog,
    schema: RowSchema,
    subject: Subject,
    erased: ErasedFile,
    live: Mapping[str, DataFile],
    keep: Collection[str],
) -> ErasedFile:
    """Write the other rows of a file that must stay, and return where they are."""
    if not (erased.is_live or erased.file in keep):
        return erased
    file = live.get(erased.file) or _data_file(log.directory / erased.file)
    rows = read_data_file(file, schema.arrow())
    rest = rows.filter(pa.array(~subject.mask([rows[key] for key, _ in subject.join_keys])))
    if not len(rest):
        return erased
    written = write_data_file(log.directory, rest, schema, bucket=file.bucket, buckets=file.buckets or 1)
    return msgspec.structs.replace(erased, new=_name(log, written.file.path))


def _commit(log: TableLog, files: Sequence[ErasedFile], live: Mapping[str, DataFile], receipt: int) -> bool:
    """Put the new files in the place of the live ones; False when the table changed meanwhile."""
    if not files:
        return True
    change = Change(
        added=[_written(log, file.new) for file in files if file.new],
        removed=[live[file.file] for file in files],
        marks={ERASE: receipt, COMPACT: log.mark(COMPACT) + 1},
        new_rows=False,
    )
    return (
        log.commit(change, still=lambda now: {_name(log, f.path) for f in now.state().files} == set(live)) is not None
    )


def _written(log: TableLog, name: str) -> WrittenFile:
    """Return a file that is on disk, with the sequence numbers that its statistics say."""
    file = _data_file(log.directory / name)
    seqs = read_data_file(file, pa.schema([(SEQ, pa.int64())]))[SEQ]
    numbers = np.asarray(seqs)
    return WrittenFile(file, int(numbers.min()), int(numbers.max()))


def _data_file(path: Path) -> DataFile:
    """Return a file of the folder as it is on disk."""
    bucket = path.parent.name.partition("-of-")[0].removeprefix("bucket-")
    number = int(bucket) if bucket.isdigit() else None
    size = path.stat().st_size
    try:
        rows = pq.read_metadata(path).num_rows
    except (OSError, pa.ArrowException) as error:
        raise damage(DataFile(path, number, 0, size), error) from error
    return DataFile(path, number, rows, size)


def _conform(rows: pa.Table, schema: RowSchema) -> pa.Table:
    wanted = schema.arrow()
    there = set(rows.column_names)
    columns = [rows[f.name] if f.name in there else pa.nulls(len(rows), f.type) for f in wanted]
    return pa.table(columns, schema=wanted)


def _parquet_files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("*/*.parquet") if path.parent.name != _LOG)


def _drafts(directory: Path) -> list[Path]:
    """Return what killed writers left half written; the locks say that nobody else is writing now."""
    return sorted(path for path in directory.glob(f"*/*{DRAFT}") if path.parent.name != _LOG)


def _name(log: TableLog, path: Path) -> str:
    return path.relative_to(log.directory).as_posix()
