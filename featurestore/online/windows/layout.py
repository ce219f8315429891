"""How the events of a windowed view are kept: which columns a stored event and a tile have, and how long the stretches of pages are."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from featurestore.registry.snapshot import AggregationRecord, FeatureRecord, FilterRecord
from featurestore.types import DType
from featurestore.windows import columns_read, filter_name, filters_of
from featurestore.windows.columns import Int64Array
from featurestore.windows.packing import KEY_HIGH, KEY_LOW
from featurestore.windows.stored import FLOATS, INTEGERS, TEXTS, TILE_FIELDS, TILE_HEAD

_FOLDED_ALONE = ("count", "sum", "mean", "min", "max", "first", "last")
_STRETCHES = 30 * 24 * 60  # of the shortest kind in the longest window: a page is a day, an hour or a minute of a month
_BIAS = 1 << 63
_PAGE_BYTES = 9
_pack_length = struct.Struct(">H").pack
_pack_page = struct.Struct(">BQ").pack


@dataclass(frozen=True, slots=True)
class PageLayout:
    """How the events of a windowed view's layout are kept.

    Attributes:
        columns: The aggregated columns with their types.
        filters: Name -> filter; of each event it is kept whether it passes.
        read: Every column that a row needs: the aggregated ones, and those that filters read.
        groups: What a tile says something of: (column, name of a filter or "").
        longest: The longest window, microseconds.
        spans: The stretches of time of one page at each level, microseconds; each is a multiple of the next.
        keyed: Whether the view declares an event key.
    """

    columns: tuple[tuple[str, DType], ...]
    filters: tuple[tuple[str, FilterRecord], ...]
    read: tuple[str, ...]
    groups: tuple[tuple[str, str], ...]
    longest: int
    spans: tuple[int, int, int]
    keyed: bool

    @classmethod
    def of(cls, features: Iterable[FeatureRecord], *, keyed: bool) -> PageLayout:
        """Return the layout for these aggregates."""
        aggregations = aggregations_of(features)
        columns = {a.column: DType(a.dtype) for a in aggregations}
        longest = max(a.time_window for a in aggregations)
        shortest = -(-longest // _STRETCHES)
        return cls(
            columns=tuple(columns.items()),
            filters=tuple(filters_of(aggregations).items()),
            read=tuple(columns_read(aggregations)),
            groups=tuple(dict.fromkeys(group_of(a) for a in aggregations if is_in_tiles(a))),
            longest=longest,
            spans=(24 * 60 * shortest, 60 * shortest, shortest),
            keyed=keyed,
        )

    @property
    def event_columns(self) -> int:
        """How many columns a stored event has."""
        return self.column(len(self.columns)) + len(self.filters)

    @property
    def tile_columns(self) -> int:
        """How many columns a tile has."""
        return TILE_HEAD + TILE_FIELDS * len(self.groups)

    @property
    def texts(self) -> tuple[int, ...]:
        """The numbers of the columns whose values are bytes."""
        return tuple(n for n, (_, dtype) in enumerate(self.columns) if dtype.lane == "strings")

    def column(self, number: int) -> int:
        """Return the column of events with the values of an aggregated column; the one after it says where they are null."""
        return (KEY_LOW + 1 if self.keyed else KEY_HIGH) + 2 * number

    def group_rows(self, groups: Sequence[tuple[str, str]]) -> Int64Array:
        """Return some groups as the kernel takes them; see featurestore.windows.stored.Folded."""
        names = [name for name, _ in self.columns]
        rows = [(self.groups.index(group), *self._places(names.index(group[0]), group[1])) for group in groups]
        return np.array(rows, np.int64).reshape(len(rows), 5)

    def oldest_page(self, oldest: int) -> int:
        """Return the first page of level 1 that holds instants after the given one."""
        return (oldest + 1) // self.spans[0]

    def _places(self, number: int, where: str) -> tuple[int, int, int, int]:
        first, dtype = self.column(number), self.columns[number][1]
        kind = {"strings": TEXTS, "doubles": FLOATS}.get(dtype.lane, INTEGERS)
        filters = [name for name, _ in self.filters]
        passed = self.column(len(self.columns)) + filters.index(where) if where else -1
        return first, first + 1, passed, kind


def aggregations_of(features: Iterable[FeatureRecord]) -> list[AggregationRecord]:
    """Return the aggregations of a windowed view's features."""
    return [feature.aggregation for feature in features if feature.aggregation is not None]


def is_in_tiles(aggregation: AggregationRecord) -> bool:
    """Say whether an aggregate is made of tiles; every other one goes through all events of its window."""
    if aggregation.function == "count":
        return True
    is_number = DType(aggregation.dtype).lane != "strings"
    return is_number and aggregation.n is None and aggregation.function in _FOLDED_ALONE


def group_of(aggregation: AggregationRecord) -> tuple[str, str]:
    """Return the column and the name of the filter of an aggregate, "" for none."""
    return aggregation.column, filter_name(aggregation.where) if aggregation.where else ""


def entity_name(key: bytes) -> bytes:
    """Return the key of an entity's root, behind the prefix of the keyspace."""
    return _pack_length(len(key)) + key


def page_name(level: int, page: int) -> bytes:
    """Return what follows an entity's name in the key of a page."""
    return _pack_page(level, page + _BIAS)


def page_names(levels: Int64Array, pages: Int64Array) -> list[bytes]:
    """Return `page_name` of many pages."""
    raw = np.empty((len(pages), _PAGE_BYTES), np.uint8)
    raw[:, 0] = levels
    raw[:, 1:] = (pages.view(np.uint64) ^ np.uint64(_BIAS)).astype(">u8")[:, np.newaxis].view(np.uint8)
    joined = raw.tobytes()
    return [joined[at : at + _PAGE_BYTES] for at in range(0, len(joined), _PAGE_BYTES)]


def split_name(name: bytes, prefix: int) -> tuple[int, int] | None:
    """Return the level and number of the page with a key, (0, 0) for a root; None for a key that is neither.

    Args:
        name: The key.
        prefix: How many bytes of it are the keyspace's.
    """
    page = name[prefix + 2 + int.from_bytes(name[prefix : prefix + 2], "big") :]
    if not page:
        return 0, 0
    return (page[0], int.from_bytes(page[1:], "big") - _BIAS) if len(page) == _PAGE_BYTES else None
