"""What a feature costs, from what the project keeps: bytes, the time of a refresh, the time of a read, owners upstream.

Costs do not add up: one column less saves its bytes and no round trip. So there are two answers, for one feature and for its whole view.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from lineage.graph import Node
from lineage.registry import ViewVersion, view_of
from lineage.state import State

OFFLINE = "offline"


@dataclass(frozen=True, slots=True)
class Cost:
    """What one feature, and its whole view, cost.

    Attributes:
        feature: Its reference.
        bytes: Of the column in the offline files; 0 when there are none.
        view_bytes: Of all columns of the view.
        shared_by: How many features the view has: dropping one saves no round trip and no refresh.
        upstream: How many source columns and features it is made from.
        owners: Who owns these, sorted.
        readers: How many consumers declare or read it.
    """

    feature: str
    bytes: int
    view_bytes: int
    shared_by: int
    upstream: int
    owners: tuple[str, ...]
    readers: int


def cost_of(state: State, ref: str) -> Cost:
    """Return what a feature costs, from the registry and the offline files."""
    view = state.snapshot.views.get(view_of(ref))
    sizes = column_bytes(offline_files(state, view)) if view else {}
    node = Node("feature", ref)
    upstream = state.graph.upstream((node,)).nodes if node in state.graph else ()
    owners = {state.snapshot.owner_of(view_of(n.name)) for n in (*upstream, node) if n.kind in ("feature", "view")}
    relations = [r for r in state.relations if r.feature == ref]
    return Cost(
        feature=ref,
        bytes=sizes.get(ref.partition(":")[2], 0),
        view_bytes=sum(sizes.values()),
        shared_by=len(view.features) if view else 0,
        upstream=sum(n.kind in ("column", "feature", "request") for n in upstream),
        owners=tuple(sorted(owners - {""})),
        readers=len({r.reader.node for r in relations}),
    )


def offline_files(state: State, view: ViewVersion) -> list[Path]:
    """Return the files that the Delta log of a view's offline table names; none without a log."""
    folder = state.path.parent / OFFLINE / view.name / f"v{view.version}"
    if not (folder / "_delta_log").is_dir():
        return []
    from deltalake import DeltaTable

    return [Path(path) for path in DeltaTable(folder).file_uris()]


def column_bytes(paths: Sequence[Path]) -> dict[str, int]:
    """Return the compressed bytes of each top-level column in some Parquet files."""
    import pyarrow.parquet as pq

    found: dict[str, int] = {}
    for path in paths:
        metadata = pq.read_metadata(path)
        for group in range(metadata.num_row_groups):
            for place in range(metadata.num_columns):
                column = metadata.row_group(group).column(place)
                name = column.path_in_schema.partition(".")[0]
                found[name] = found.get(name, 0) + column.total_compressed_size
    return found


@dataclass(frozen=True, slots=True)
class TimeCost:
    """How much longer something takes with some columns than without.

    Attributes:
        median_us: Median of the paired differences in microseconds.
        low_us: The difference is above this with 97.5 % (order statistics of the paired differences).
        high_us: It is below this with 97.5 %.
        rounds: How many pairs were timed.
    """

    median_us: float
    low_us: float
    high_us: float
    rounds: int

    def times(self, factor: float) -> TimeCost:
        """Return the cost of so many times as many rows."""
        return replace(
            self, median_us=self.median_us * factor, low_us=self.low_us * factor, high_us=self.high_us * factor
        )


def time_cost(
    run: Callable[[Sequence[str]], object],
    everything: Sequence[str],
    dropped: Sequence[str],
    *,
    rounds: int = 200,
    seed: int = 0,
) -> TimeCost:
    """Replay something with and without some columns, in pairs of random order.

    Args:
        run: Does it once, e.g. ``lambda refs: client.get_online_features(refs, keys=keys)``.
        everything: All names.
        dropped: What the shorter run leaves out.
        rounds: Pairs to time.
        seed: Of the order within pairs.

    >>> cost = time_cost(lambda refs: sum(range(1000 * len(refs))), ["a", "b"], ["b"], rounds=50)
    >>> cost.rounds
    50
    """
    kept = [name for name in everything if name not in dropped]
    order = random.Random(seed)  # noqa: S311 - an order, no secret
    differences = []
    for _ in range(rounds):
        both = [(everything, 1.0), (kept, -1.0)]
        order.shuffle(both)
        differences.append(sum(sign * _timed(run, names) for names, sign in both))
    ordered = sorted(differences)
    margin = round(0.98 * rounds**0.5)  # of the sign test: 1.96 standard deviations of a binomial of one half
    low, high = max(0, rounds // 2 - margin), min(rounds - 1, rounds // 2 + margin)
    return TimeCost(median(ordered), ordered[low], ordered[high], rounds)


def _timed(run: Callable[[Sequence[str]], object], names: Sequence[str]) -> float:
    begun = time.perf_counter_ns()
    run(names)
    return (time.perf_counter_ns() - begun) / 1000
