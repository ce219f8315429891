"""Engines that follow the point-in-time rule: each finds the same rows, by its own means.

An engine is a class with two methods; a new one is a class in a module of this package and a line in ENGINES, and must pass
`featurestore.testing.engines`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from featurestore.errors import NotFoundError
from featurestore.offline.engines.duckdb import DuckDBEngine
from featurestore.offline.point_in_time import Gathered, Joined, PointInTimeRule, Spine
from featurestore.offline.table import OfflineTable


class Engine(Protocol):
    """Finds the rows that spine rows get; keeps no state between calls."""

    name: str

    def join(self, table: OfflineTable, spine: Spine, rule: PointInTimeRule, columns: Sequence[str]) -> Joined:
        """Return for each spine row the value columns of the one row that the rule gives it."""

    def gather(self, table: OfflineTable, spine: Spine, rule: PointInTimeRule, columns: Sequence[str]) -> Gathered:
        """Return the events of the spine's entities, for windows to be folded over."""


ENGINES: Mapping[str, Callable[[], Engine]] = {
    "duckdb": DuckDBEngine,
}


def engine_of(name: str) -> Engine:
    """Return the engine of that name; raises NotFoundError with the nearest one.

    >>> engine_of("duckdb").name
    'duckdb'
    """
    if name not in ENGINES:
        raise NotFoundError.of("engine", name, ENGINES)
    return ENGINES[name]()
