"""What every kind of source gives: its columns, and its rows in pieces that know where they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from featurestore.errors import DefinitionError, nearest_name

Columns = Mapping[str, pa.DataType]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows of a source.

    Attributes:
        batch: The rows, with the source's column names.
        place: Row of the batch, from 0 -> where it lies, for errors, e.g. ``data/weather.parquet, row 7`` (from 1).
    """

    batch: pa.RecordBatch
    place: Callable[[int], str]


class OpenSource(Protocol):
    """A source that can be asked; every question raises DefinitionError when the source cannot be read."""

    def columns(self) -> Columns:
        """Return the columns with their Arrow types, without reading rows where the types are known without."""
        ...

    def pieces(self, wanted: Sequence[str], known_until: str | None = None) -> Iterator[Piece]:
        """Go through the rows, in pieces of bounded size.

        Args:
            wanted: Columns to read; all of them exist.
            known_until: SQL condition that the rows meet, for a source that can leave out others early; None is all.
        """
        ...


def unreadable(source: str, cause: object, *, place: str | None = None, repair: str | None = None) -> DefinitionError:
    """Build the error of a source that cannot be read; only the first line of the cause is kept."""
    text = str(cause).strip().partition("\n")[0].rstrip(".")
    return DefinitionError(f"Source '{source}' cannot be read: {text}.", place=place or source, repair=repair)


def missing_path(root: Path, path: str, source: str) -> DefinitionError:
    """Build the error of a path under a project folder that names nothing, with the nearest name."""
    whole = root / path
    folder = next(parent for parent in whole.parents if parent.is_dir())
    near = nearest_name(whole.relative_to(folder).parts[0], [entry.name for entry in folder.iterdir()])
    shown = folder.relative_to(root) if folder.is_relative_to(root) else folder
    hint = f" Did you mean '{shown / near}'?" if near else ""
    fits = " that fits" if set(path) & set("*?[") else ""
    return DefinitionError(f"Source '{source}' has no file{fits} '{path}' under {root}.{hint}", place=source)


def first_misfit(array: pa.Array, convert: Callable[[pa.Array], object]) -> int:
    """Return the position of the first value that cannot be converted, of an array that cannot.

    >>> first_misfit(pa.array(["1", "x", "2", "y"]), lambda texts: texts.cast(pa.int64()))
    1
    """
    low, high = 0, len(array)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            convert(array.slice(low, middle - low))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            high = middle
        else:
            low = middle
    return low
