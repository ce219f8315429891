"""What erasures did to the files of a table: the old name of each file, the new one, and the receipt that says more.

    <table>/_erased.jsonl    one ErasedFile a line, written before the file goes

So whoever looks for a file that an erasure removed, be it a read in progress or one of an old version of the log, is told so.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from featurestore.errors import CorruptionError, ErasedError
from featurestore.offline.durable import append_lines, whole_lines

_RECORD = "_erased.jsonl"


class ErasedFile(msgspec.Struct, frozen=True):
    """A file that held rows of an erased entity.

    Attributes:
        file: Its path in the table's folder.
        new: The file that has its other rows; empty when none was needed.
        receipt: Number of the receipt.
        rows: Rows that were erased from it.
        is_live: Whether it counted until then; else its rows stood elsewhere too.
    """

    file: str
    new: str
    receipt: int
    rows: int
    is_live: bool


def erased_files(directory: Path) -> list[ErasedFile]:
    """Return what erasures did to the files of a table, oldest first."""
    path = directory / _RECORD
    try:
        return [msgspec.json.decode(line, type=ErasedFile) for line in whole_lines(path)]
    except msgspec.DecodeError as error:
        raise CorruptionError(f"The record of erased files is damaged: {error}.", place=str(path)) from error


def record_erased(directory: Path, files: Iterable[ErasedFile]) -> None:
    """Note durably what becomes of files, before it does."""
    append_lines(directory / _RECORD, [msgspec.json.encode(file) for file in files])


def erased_error(path: Path) -> ErasedError | None:
    """Return the error of a file that an erasure has removed; None when no erasure did.

    Args:
        path: The file that is missing, in a folder of its table.
    """
    for directory in list(path.parents)[:2]:
        for erased in erased_files(directory):
            if directory / erased.file == path:
                return ErasedError(
                    f"Rows of this file were erased by receipt {erased.receipt}, and the file with them.",
                    place=str(path),
                    repair="Read the newest version again; older ones cannot be read any more.",
                )
    return None
