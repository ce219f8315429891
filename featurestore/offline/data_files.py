"""The Parquet files of an offline table: written once, sorted, and never served when a bit of them changed.

    bucket-3-of-16/<id>-<footer>-<headers>.parquet      one hash bucket of sixteen
    recent/<id>-<footer>-<headers>.parquet              the recent run
    .../<id>.draft                                      being written; left behind by a process that was killed

Every page carries a checksum of its values. What lies between the pages is not covered by those: the footer, whose CRC-32 is in the name,
and the header of each page, of which the name has a 64-bit FNV-1a (Fowler, Noll and Vo). The headers are found by following their lengths
through Thrift's compact protocol (https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md).
"""

from __future__ import annotations

import re
import uuid
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from featurestore.compiling import compiled
from featurestore.errors import CorruptionError, ResourceExhaustedError
from featurestore.offline.buckets import FNV_OFFSET, FNV_PRIME
from featurestore.offline.durable import sync
from featurestore.offline.erased_files import erased_error
from featurestore.rows import CREATED, EVENT, SEQ, RowSchema

RECENT = "recent"
DRAFT = ".draft"
ROW_GROUP = 128 * 1024

_NAME = re.compile(r"[0-9a-f]{32}-([0-9a-f]{8})-([0-9a-f]{16})\.parquet")
_TIME_ORDER = [(EVENT, "ascending"), (CREATED, "ascending"), (SEQ, "ascending")]
_MAGIC = b"PAR1"
_STOP, _TRUTHS, _NUMBERS, _TEXT, _STRUCT = 0, (1, 2), (4, 5, 6), 8, 12  # types of Thrift's compact protocol
_RESTORE = "Restore it from a backup; or move the version's folder away and run `featurestore ingest`, which loses pushed rows."


@dataclass(frozen=True, slots=True)
class DataFile:
    """One live file of the table.

    Attributes:
        path: Where it is.
        bucket: Its bucket, or None in the recent run.
        rows: How many rows the log says it has.
        size: How many bytes the log says it has.
    """

    path: Path
    bucket: int | None
    rows: int
    size: int

    @property
    def buckets(self) -> int | None:
        """How many buckets there were when it was written, which its folder says; None in the recent run."""
        count = self.path.parent.name.partition("-of-")[2]
        return int(count) if count else None


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file that is on disk, and that no commit names yet.

    Attributes:
        file: The file.
        first_seq: The least sequence number in it.
        last_seq: The greatest one.
    """

    file: DataFile
    first_seq: int
    last_seq: int


def grouped(files: Iterable[DataFile]) -> list[tuple[DataFile, ...]]:
    """Return files in groups to be read one after the other: those of each bucket, then the recent run in parts that fit in memory.

    The same files give the same groups in the same order, whatever order they come in.
    """
    groups: dict[tuple[int, int], list[DataFile]] = {}
    recent = 0
    for file in sorted(files, key=lambda file: file.path):
        recent += file.rows if file.bucket is None else 0
        bucket = (file.buckets or 0, file.bucket) if file.bucket is not None else (_LAST, recent // _RECENT_ROWS)
        groups.setdefault(bucket, []).append(file)
    return [tuple(groups[bucket]) for bucket in sorted(groups)]


_LAST, _RECENT_ROWS = 1 << 30, 1_000_000


def write_data_file(
    directory: Path, rows: pa.Table, schema: RowSchema, *, bucket: int | None = None, buckets: int = 1
) -> WrittenFile:
    """Write and sync one file.

    Args:
        directory: Folder of the table.
        rows: At least one row, in order of (key, event, created, seq).
        schema: Columns of the rows.
        bucket: Their bucket; None writes to the recent run.
        buckets: How many buckets there are.

    Raises:
        ResourceExhaustedError: The disk is full; nothing is left of the file.
    """
    folder = directory / (RECENT if bucket is None else f"bucket-{bucket}-of-{buckets}")
    draft = folder / f"{uuid.uuid4().hex}{DRAFT}"
    order = [(column.name, "ascending") for column in schema.keys] + _TIME_ORDER
    try:
        new_folder = not folder.is_dir()
        folder.mkdir(exist_ok=True)
        pq.write_table(
            rows,
            draft,
            compression="zstd",
            row_group_size=ROW_GROUP,
            use_dictionary=[field.name for field in rows.schema if _repeats(field)],
            write_page_checksum=True,
            sorting_columns=pq.SortingColumn.from_ordering(rows.schema, order, "at_start"),
        )
        path = draft.rename(folder / f"{draft.stem}-{_checksums(draft)}.parquet")
        sync(path, folder, *([directory] if new_folder else []))
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise ResourceExhaustedError(
            f"A file of {len(rows)} rows cannot be written: {error}.",
            place=str(folder),
            repair="Make room on the disk and try again; nothing was changed.",
        ) from error
    first, last = pc.min_max(rows[SEQ]).as_py().values()
    return WrittenFile(DataFile(path, bucket, len(rows), path.stat().st_size), first, last)


def discard(written: Sequence[WrittenFile]) -> None:
    """Remove files that no commit will name."""
    for file in written:
        file.file.path.unlink(missing_ok=True)


def open_data_file(file: DataFile, **options: Any) -> pq.ParquetFile:
    """Open a file for reading, after checking everything that the checksums of its pages, verified at the read, leave out.

    Args:
        file: The file.
        options: Of `pyarrow.parquet.ParquetFile`.

    Raises:
        CorruptionError: It is missing, or damaged; names it.
    """
    try:
        _check_around_pages(file.path)
        parquet = pq.ParquetFile(file.path, page_checksum_verification=True, **options)
    except FileNotFoundError as error:
        erased = erased_error(file.path)
        if erased is not None:
            raise erased from error
        raise CorruptionError("A file that the log names is missing.", place=str(file.path), repair=_RESTORE) from error
    except (OSError, pa.ArrowException) as error:
        raise damage(file, error) from error
    if parquet.metadata.num_rows != file.rows:
        raise damage(file, f"it has {parquet.metadata.num_rows} rows, the log says {file.rows}")
    return parquet


def read_data_file(file: DataFile, wanted: pa.Schema, *, groups: Sequence[int] | None = None) -> pa.Table:
    """Read columns of one file, with nulls for those it lacks.

    Args:
        file: The file.
        wanted: The columns.
        groups: Numbers of the row groups to read; None reads all.

    Raises:
        CorruptionError: It is missing, or damaged; names it, and where the damage is if that can be seen.
    """
    with open_data_file(file) as parquet:
        chosen = range(parquet.metadata.num_row_groups) if groups is None else groups
        there = set(parquet.schema_arrow.names)
        names = [name for name in wanted.names if name in there]
        try:
            found = parquet.read_row_groups(list(chosen), columns=names)
        except (OSError, pa.ArrowException) as error:
            raise damage(file, error) from error
        rows = sum(parquet.metadata.row_group(group).num_rows for group in chosen)
    columns = [found[field.name] if field.name in there else pa.nulls(rows, field.type) for field in wanted]
    return pa.table(columns, schema=wanted)


def damage(file: DataFile, error: object) -> CorruptionError:
    """Return the error of a damaged file, with the offset of the first column chunk that cannot be read where there is one."""
    place = next((f"{file.path}, offset {offset}" for offset in _damaged_chunks(file.path)), str(file.path))
    return CorruptionError(f"A file is damaged: {error}.", place=place, repair=_RESTORE)


def _repeats(field: pa.Field) -> bool:
    """Say whether a dictionary of a column's values can pay: floats and times hardly repeat, and decode faster plain."""
    return not (pa.types.is_floating(field.type) or pa.types.is_timestamp(field.type) or field.name == SEQ)


def _check_around_pages(path: Path) -> None:
    named = _NAME.fullmatch(path.name)
    if named is None:
        raise OSError("its name carries no checksums, so this program did not write it")
    raw = _mapped(path)
    if _footer_checksum(raw) != named[1]:
        raise OSError("its footer is not what was written")
    if _headers_checksum(raw) != named[2]:
        raise OSError("a page header is not what was written")


def _checksums(path: Path) -> str:
    raw = _mapped(path)
    return f"{_footer_checksum(raw)}-{_headers_checksum(raw)}"


def _mapped(path: Path) -> npt.NDArray[np.uint8]:
    if path.stat().st_size < _TAIL + len(_MAGIC):
        raise OSError("it is cut off")
    return np.memmap(path, np.uint8, mode="r")


_TAIL = 4 + len(_MAGIC)  # the length of the footer, and the magic


def _footer_start(raw: npt.NDArray[np.uint8]) -> int:
    length = int.from_bytes(raw[-_TAIL : -len(_MAGIC)].tobytes(), "little")
    return max(0, len(raw) - _TAIL - length)


def _footer_checksum(raw: npt.NDArray[np.uint8]) -> str:
    return f"{zlib.crc32(raw[_footer_start(raw) :].data):08x}"


def _headers_checksum(raw: npt.NDArray[np.uint8]) -> str:
    return f"{int(_hash_headers(raw, len(_MAGIC), _footer_start(raw))):016x}"


@compiled
def _hash_headers(raw: npt.NDArray[np.uint8], start: int, end: int) -> np.uint64:
    """Return the FNV-1a of all page headers from `start` to `end`; 0 where something that is no header stands."""
    digest = FNV_OFFSET
    at = start
    while at < end:
        header = at
        at, body = _skip_header(raw, at, end)
        if body < 0:
            return np.uint64(0)
        for position in range(header, at):
            digest = (digest ^ np.uint64(raw[position])) * FNV_PRIME
        at += body
    return digest if at == end else np.uint64(0)


@compiled
def _skip_header(raw: npt.NDArray[np.uint8], start: int, end: int) -> tuple[int, int]:
    """Return where a page header ends, and how long the page after it is: -1 when this is no page header.

    A header is a Thrift struct of numbers, truth values, texts and further structs; its third field is the length of the page.
    """
    at, depth, field, body = start, 0, 0, -1
    while at < end:
        kind, step = raw[at] & 15, raw[at] >> 4
        at += 1
        if depth == 0:
            field += step
        if kind == _STOP:
            if depth == 0:
                return at, body
            depth -= 1
        elif kind == _STRUCT:
            depth += 1
        elif kind in _NUMBERS:
            number, at = _varint(raw, at, end)
            if depth == 0 and field == 3:
                body = number >> 1
        elif kind == _TEXT:
            length, at = _varint(raw, at, end)
            at += length
        elif kind not in _TRUTHS:
            return end, -1
    return end, -1


@compiled
def _varint(raw: npt.NDArray[np.uint8], start: int, end: int) -> tuple[int, int]:
    """Return a number of variable length, and where it ends."""
    at, number, shift = start, 0, 0
    while at < end and shift < 63:
        digit = int(raw[at])
        at += 1
        number |= (digit & 127) << shift
        shift += 7
        if digit < 128:
            break
    return number, at


def _damaged_chunks(path: Path) -> Iterator[int]:
    """Yield the offset of each column chunk that cannot be read, as far as the footer can."""
    try:
        parquet = pq.ParquetFile(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException):
        return  # the footer itself is damaged
    with parquet:
        for group in range(parquet.metadata.num_row_groups):
            for column in range(parquet.metadata.num_columns):
                chunk = parquet.metadata.row_group(group).column(column)
                try:
                    parquet.read_row_group(group, columns=[chunk.path_in_schema])
                except (OSError, pa.ArrowException):
                    yield chunk.dictionary_page_offset or chunk.data_page_offset
