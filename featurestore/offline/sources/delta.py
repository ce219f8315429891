"""Delta tables, read at one version by the Delta library, deletion vectors and column mapping included."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from featurestore.errors import DefinitionError
from featurestore.offline.sources.pieces import Columns, Piece, missing_path, unreadable
from featurestore.registry.snapshot import SourceRecord


@dataclass(frozen=True)
class DeltaVersion:
    """A Delta table at one version: what others commit while it is read does not show.

    Args:
        root: The project folder.
        record: The source.
    """

    root: Path
    record: SourceRecord

    def columns(self) -> Columns:
        """Return the columns of the table."""
        with self._reading():
            schema = pa.schema(self._table.schema())
            return dict(zip(schema.names, schema.types, strict=True))

    def pieces(self, wanted: Sequence[str], known_until: str | None = None) -> Iterator[Piece]:  # noqa: ARG002  # as OpenSource says
        """Go through the rows of the version."""
        columns = self.columns()
        schema = pa.schema([(name, columns[name]) for name in wanted])
        first = 0
        with self._reading():
            for batch in pa.RecordBatchReader.from_stream(self._table.scan(columns=list(wanted))):
                yield Piece(batch.select(list(wanted)).cast(schema), partial(self._place, first))
                first += len(batch)

    def _place(self, first: int, row: int) -> str:
        return f"{self.record.path}@v{self._table.version()}, row {first + row + 1}"

    @cached_property
    def _table(self) -> Any:
        path = self.root / (self.record.path or "")
        if not path.is_dir():
            raise missing_path(self.root, self.record.path or "", self.record.name)
        if not DeltaTable.is_deltatable(str(path)):
            raise DefinitionError(
                f"'{self.record.path}' of source '{self.record.name}' is no Delta table: it has no _delta_log.",
                place=self.record.name,
                repair="Say ParquetSource if it is a folder of Parquet files.",
            )
        newest = DeltaTable(str(path))
        wanted = self.record.version
        if wanted is None or wanted == newest.version():
            return newest
        if wanted > newest.version():
            raise DefinitionError(
                f"Delta table '{self.record.path}' has no version {wanted}, the newest is {newest.version()}.",
                place=self.record.name,
            )
        return DeltaTable(str(path), version=wanted)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (DeltaError, pa.ArrowInvalid, OSError) as error:
            repair = "A file of it is gone or damaged: restore it, or read another version."
            raise unreadable(self.record.name, error, place=self.record.path, repair=repair) from error
