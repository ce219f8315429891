"""Engines that follow the point-in-time rule: each finds the same rows, by its own means.

An engine is a class with two methods; a new one is a class in a module of this package and a line in ENGINES, and must pass
`featurestore.testing.engines`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Protocol, cast

from featurestore.errors import NotFoundError
from featurestore.offline.point_in_time import Gathered, Int64Array, Joined, PointInTimeRule, Spine
from featurestore.offline.table import OfflineTable


class Engine(Protocol):
    """Finds the rows that spine rows get; keeps no state between calls."""

    name: str

    def join(self, table: OfflineTable, spine: Spine, rule: PointInTimeRule, columns: Sequence[str]) -> Joined:
        """Return for each spine row the value columns of the one row that the rule gives it."""

    def gather(
        self,
        table: OfflineTable,
        spine: Spine,
        rule: PointInTimeRule,
        columns: Sequence[str],
        *,
        reach: int | None = None,
    ) -> Sequence[tuple[Int64Array, Callable[[], Gathered]]]:
        """Return parts of the spine's rows, each with what gathers the events of its entities, for windows to be folded over.

        Each spine row is in one part; threads may gather several parts at once.

        Events that lie further back than `reach` microseconds from all times of their entity need not be there.
        """


# The default first. A module is loaded when its engine is asked for.
ENGINES: Mapping[str, str] = {
    "kernel": "featurestore.offline.engines.kernel:KernelEngine",
    "duckdb": "featurestore.offline.engines.duckdb:DuckDBEngine",
}


def engine_of(name: str) -> Engine:
    """Return the engine of that name; raises NotFoundError with the nearest one.

    >>> engine_of("duckdb").name
    'duckdb'
    """
    if name not in ENGINES:
        raise NotFoundError.of("engine", name, ENGINES)
    module, _, engine = ENGINES[name].partition(":")
    return cast(Callable[[], Engine], getattr(import_module(module), engine))()
