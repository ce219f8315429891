"""What Delta's own library does for a table: making it, reading summed up logs, widening it, and summing its log up.

It is imported when it is needed: a small table is read without.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import deltalake
import pyarrow as pa
from deltalake.exceptions import CommitFailedError, DeltaError

from featurestore.errors import NotFoundError
from featurestore.offline.actions import BUCKET, MARKS, LogVersion
from featurestore.offline.data_files import DataFile, WrittenFile
from featurestore.rows import SEQ

_SETTINGS = {"delta.logRetentionDuration": "interval 7 days", "delta.deletedFileRetentionDuration": "interval 7 days"}


def create_table(directory: Path, columns: pa.Schema) -> None:
    """Make a table without rows, unless there is one.

    Raises:
        OSError: It cannot be written.
    """
    try:
        deltalake.DeltaTable.create(
            directory,
            schema=pa.schema([*columns, pa.field(BUCKET, pa.int32())]),
            partition_by=[BUCKET],
            mode="ignore",
            configuration=_SETTINGS,
        )
    except DeltaError as error:
        raise OSError(str(error)) from error


def read_version(directory: Path, version: int | None) -> LogVersion:
    """Return a version of a log, None being the newest.

    Raises:
        NotFoundError: The log does not know that version, or not any more.
    """
    try:
        table = deltalake.DeltaTable(directory, version=version)
    except DeltaError as error:
        raise NotFoundError(
            f"The log of {directory} has no version {version}: {error}.", place=str(directory)
        ) from error
    adds = pa.table(table.get_add_actions(flatten=True))
    names = (
        ("path", f"partition.{BUCKET}", "num_records", "size_bytes", f"min.{SEQ}", f"max.{SEQ}") if len(adds) else ()
    )
    found = zip(*(adds[name].to_pylist() for name in names), strict=True)
    files = {
        path: WrittenFile(DataFile(directory / path, bucket, rows, size), first, last)
        for path, bucket, rows, size, first, last in found
    }
    marks = {name: table.transaction_version(name) or 0 for name in MARKS}
    return LogVersion(directory, table.version(), frozenset(f.name for f in table.schema().fields), files, marks)


def add_columns(directory: Path, columns: pa.Schema) -> bool:
    """Give a table more columns; False when somebody else committed meanwhile, perhaps these very columns."""
    try:
        deltalake.DeltaTable(directory).alter.add_columns(deltalake.Schema.from_arrow(columns).fields)
    except CommitFailedError:
        return False
    return True


def sum_up(directory: Path) -> int:
    """Write a checkpoint of the newest version, whose number is returned, and remove what the log has kept for long enough.

    Raises:
        OSError: It cannot be written.
    """
    try:
        table = deltalake.DeltaTable(directory)
        table.create_checkpoint()
        table.cleanup_metadata()
    except DeltaError as error:
        raise OSError(str(error)) from error
    return int(table.version())


def unnamed_files(directory: Path, older_than: timedelta) -> list[str]:
    """Return the paths, sorted, of files in a table's folder that were replaced that long ago, or that no commit ever named."""
    hours = int(older_than / timedelta(hours=1))
    table = deltalake.DeltaTable(directory)
    return sorted(set(table.vacuum(hours, dry_run=True, enforce_retention_duration=False, full=True)))
