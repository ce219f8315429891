"""Sources that are files: Parquet, CSV and Arrow IPC, read one after the other, each in pieces."""

from __future__ import annotations

import csv
import io
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from featurestore.errors import DefinitionError, NotFoundError
from featurestore.offline.sources.files import SourceFile, find_files
from featurestore.offline.sources.pieces import Columns, Piece, first_misfit, unreadable
from featurestore.offline.sources.texts import candidates, guess, partition_type, typed
from featurestore.registry.snapshot import SourceRecord
from featurestore.types import DType, to_arrow

_ROWS = 65_536
_BLOCK = 4 << 20
_FAULTS = (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, pa.ArrowKeyError, OSError, csv.Error)


@dataclass(frozen=True)
class FileSource(ABC):
    """The files of a source, in the order of their names; a column must be in every file, or in its folder names.

    Args:
        root: The project folder.
        record: The source; the types of text columns are taken from its `columns`, where they are known.
    """

    root: Path
    record: SourceRecord

    suffixes: ClassVar[tuple[str, ...]]

    @abstractmethod
    def _names_in(self, file: SourceFile) -> Sequence[str]:
        """Return the names of the columns that lie in a file."""

    @abstractmethod
    def _types_in(self, file: SourceFile) -> Columns:
        """Return the columns that lie in a file with their types."""

    @abstractmethod
    def _batches_in(self, file: SourceFile, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Go through the rows of a file; all wanted columns lie in it."""

    @cached_property
    def files(self) -> list[SourceFile]:
        """The files there are now."""
        return find_files(self.root, self.record.path or "", self.suffixes, self.record.name)

    @property
    def has_partitions(self) -> bool:
        """Whether folder names are columns."""
        return bool(self._partitions)

    def columns(self) -> Columns:
        """Return the columns of the first file and of the folder names."""
        with self._reading(self.files[0]):
            own = self._types_in(self.files[0])
        return {**{name: to_arrow(dtype) for name, dtype in self._partitions.items()}, **own}

    def pieces(self, wanted: Sequence[str], known_until: str | None = None) -> Iterator[Piece]:  # noqa: ARG002  # as OpenSource says
        """Go through the rows of all files."""
        for file in self.files:
            first = 0
            with self._reading(file):
                lying = self._lying_in(file, wanted)
                for batch in self._batches_in(file, lying):
                    yield Piece(self._completed(batch, file, wanted), partial(self._place, file, first))
                    first += len(batch)

    @contextmanager
    def _reading(self, file: SourceFile) -> Iterator[None]:
        """Say of which file an error is, and refuse a file that changed meanwhile."""
        with file.unchanged(self.record.name):
            try:
                yield
            except _FAULTS as error:
                repair = "It is damaged or of another format: write it anew, or take it out of the path."
                raise unreadable(self.record.name, error, place=file.name, repair=repair) from error

    def _place(self, file: SourceFile, first: int, row: int) -> str:
        return f"{file.name}, row {first + row + 1}"

    def _lying_in(self, file: SourceFile, wanted: Sequence[str]) -> list[str]:
        """Return the wanted columns that lie in a file; raises DefinitionError for one that its folders do not name either."""
        available = self._names_in(file)
        for column in wanted:
            if column not in available and column not in file.partitions:
                missing = NotFoundError.of("column", column, [*available, *file.partitions])
                raise DefinitionError(f"Source '{self.record.name}': {missing.message}", place=file.name)
        return [column for column in wanted if column in available]

    @cached_property
    def _partitions(self) -> dict[str, DType]:
        known = dict(self.record.columns) | dict(self.record.partitions)
        names = dict.fromkeys(name for file in self.files for name in file.partitions)
        texts = {name: [file.partitions.get(name) for file in self.files] for name in names}
        return {name: DType.of(known.get(name) or partition_type(texts[name])) for name in names}

    def _completed(self, batch: pa.RecordBatch, file: SourceFile, wanted: Sequence[str]) -> pa.RecordBatch:
        """Add the columns of the folder names."""
        lying = batch.schema.names
        arrays = [
            batch.column(name) if name in lying else pa.repeat(self._constant(file, name), len(batch))
            for name in wanted
        ]
        return pa.record_batch(arrays, names=list(wanted))

    def _constant(self, file: SourceFile, column: str) -> pa.Scalar:
        text, dtype = file.partitions[column], self._partitions[column]
        try:
            return typed(pa.array([text], pa.string()), dtype)[0]
        except pa.ArrowInvalid as error:
            raise DefinitionError(
                f"Folder name '{column}={text}' of source '{self.record.name}' is not {dtype}.",
                place=file.name,
                repair=f'Rename the folder, or say partitions={{"{column}": "string"}}.',
            ) from error


class ParquetFiles(FileSource):
    """Parquet files."""

    suffixes = (".parquet",)

    def _names_in(self, file: SourceFile) -> Sequence[str]:
        return list(self._types_in(file))

    def _types_in(self, file: SourceFile) -> Columns:
        schema = pq.read_schema(file.path)
        return dict(zip(schema.names, schema.types, strict=True))

    def _batches_in(self, file: SourceFile, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(file.path, page_checksum_verification=True) as opened:
            yield from opened.iter_batches(_ROWS, columns=list(wanted))


class ArrowFiles(FileSource):
    """Arrow IPC files: the file format (also known as Feather), or the stream format."""

    suffixes = (".arrow", ".arrows", ".feather", ".ipc")

    def _names_in(self, file: SourceFile) -> Sequence[str]:
        return list(self._types_in(file))

    def _types_in(self, file: SourceFile) -> Columns:
        with _open_ipc(file.path) as opened:
            return dict(zip(opened.schema.names, opened.schema.types, strict=True))

    def _batches_in(self, file: SourceFile, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        with _open_ipc(file.path, wanted) as opened:
            is_file = isinstance(opened, pa.ipc.RecordBatchFileReader)
            batches = map(opened.get_batch, range(opened.num_record_batches)) if is_file else opened
            for batch in batches:
                batch.validate(full=True)  # offsets of a damaged file could point anywhere
                yield from (batch.slice(start, _ROWS) for start in range(0, len(batch), _ROWS))


@contextmanager
def _open_ipc(path: Path, wanted: Sequence[str] | None = None) -> Iterator[Any]:
    with pa.memory_map(str(path)) as mapped:
        magic = mapped.read(6)
        mapped.seek(0)
        if magic.startswith(b"FEA1"):
            raise pa.ArrowInvalid("Feather version 1 is not read, write version 2")
        make = pa.ipc.open_file if magic == b"ARROW1" else pa.ipc.open_stream
        if wanted is None:
            yield make(mapped)
            return
        names = make(mapped).schema.names
        mapped.seek(0)
        fields = [names.index(name) for name in wanted]
        yield make(mapped, options=pa.ipc.IpcReadOptions(included_fields=fields))


class CSVFiles(FileSource):
    """CSV files: every cell is read as text, then strictly as the type of its column."""

    suffixes = (".csv", ".csv.gz")

    def _names_in(self, file: SourceFile) -> Sequence[str]:
        if not self.record.header:
            return [name for name, _ in self.record.declared]
        with self._lines(file) as lines:
            names: list[str] | None = next(filter(None, lines), None)
        if not names:
            raise unreadable(self.record.name, "the file is empty, it has no header", place=file.name)
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise unreadable(self.record.name, f"the header names '{twice[0]}' twice", place=f"{file.name}:1")
        return names

    def _types_in(self, file: SourceFile) -> Columns:
        return {name: to_arrow(DType.of(self._types[name])) for name in self._names_in(file)}

    def _batches_in(self, file: SourceFile, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        first = 0
        types = {name: DType.of(self._types[name]) for name in wanted}
        for batch in self._texts_in(file, wanted):
            arrays = [self._typed(file, batch.column(name), name, types[name], first) for name in wanted]
            yield pa.record_batch(arrays, names=list(wanted))
            first += len(batch)

    @cached_property
    def _types(self) -> Mapping[str, str]:
        """The type of each column: as declared, as it was when the plan was made, or what all cells fit now."""
        known = dict(self.record.columns) | dict(self.record.declared)
        possible: dict[str, list[str]] = {}
        for file in self.files:
            names = [name for name in self._names_in(file) if name not in known]
            for batch in self._texts_in(file, names) if names else ():
                for name in names:
                    texts = batch.column(name).drop_null()
                    possible[name] = (
                        guess(possible.get(name) or candidates(), texts) if len(texts) else possible.get(name, [])
                    )
            possible |= {name: [] for name in names if name not in possible}
        return {name: types[0] if types else "string" for name, types in possible.items()} | known

    def _texts_in(self, file: SourceFile, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        names = self._names_in(file)
        if not wanted or self._is_empty(file):
            return
        reading = pyarrow.csv.ReadOptions(
            column_names=names,
            skip_rows_after_names=int(bool(self.record.header)),
            block_size=_BLOCK,
            use_threads=False,
        )
        parsing = pyarrow.csv.ParseOptions(delimiter=self.record.delimiter, newlines_in_values=True)
        converting = pyarrow.csv.ConvertOptions(
            include_columns=list(wanted),
            column_types=dict.fromkeys(wanted, pa.string()),
            null_values=list(self.record.nulls or ()),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        try:
            with pyarrow.csv.open_csv(file.path, reading, parsing, converting) as opened:
                yield from opened
        except pa.ArrowInvalid as error:
            row = re.search(r"Row #(\d+): ?(.*)", str(error), re.DOTALL)
            if row is None:
                raise
            line, _ = self._position(file, int(row[1]) - 1 - bool(self.record.header))
            raise unreadable(self.record.name, row[2], place=f"{file.name}:{line}") from error

    def _typed(self, file: SourceFile, texts: pa.Array, column: str, dtype: DType, first: int) -> pa.Array:
        try:
            return typed(texts, dtype)
        except pa.ArrowInvalid as error:
            row = first_misfit(texts, lambda part: typed(part, dtype))
            line, names = self._position(file, first + row)
            raise DefinitionError(
                f"Cell '{texts[row].as_py()!s:.60}' of column '{column}' of source '{self.record.name}' is not {dtype}.",
                place=f"{file.name}:{line}, column {names.index(column) + 1}",
                repair=f'Correct it, name it in nulls=[...] if it means null, or say columns={{"{column}": "string"}}.',
            ) from error

    def _place(self, file: SourceFile, first: int, row: int) -> str:
        return f"{file.name}:{self._position(file, first + row)[0]}"

    def _position(self, file: SourceFile, row: int) -> tuple[int, Sequence[str]]:
        """Return the line, from 1, on which a row (from 0) begins, and the names of the columns."""
        with self._lines(file) as lines:
            cells: list[str] = next(islice(filter(None, lines), row + bool(self.record.header), None), [])
            return lines.line_num - sum(cell.count("\n") for cell in cells), self._names_in(file)

    def _is_empty(self, file: SourceFile) -> bool:
        with self._lines(file) as lines:
            return next(islice(filter(None, lines), int(bool(self.record.header)), None), None) is None

    @contextmanager
    def _lines(self, file: SourceFile) -> Iterator[Any]:
        """Open a file for Python's reader, which knows lines; its header, its first row, and the line of an error."""
        with pa.input_stream(str(file.path)) as stream:
            text = io.TextIOWrapper(stream, "utf-8-sig", errors="replace", newline="")
            yield csv.reader(text, delimiter=self.record.delimiter or ",")
