"""Materialize: many events offline to the latest row of each entity online, into LMDB, beside Feast on DuckDB into its SQLite store.

The number is entity rows a second. Every round brings all of them online anew; at the end both stores must hold every entity.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from feast_peer import Ask, feast_repository
from measuring import Claim, Effort, in_turn, seconds_of
from projects import make_project, write_rows
from tables import DAY, KEY, TRAINING, VIEW, events

from featurestore import FeatureStore
from featurestore.refs import ViewRef

OURS, FEAST = "featurestore, LMDB", "Feast, DuckDB to SQLite"

_FEAST_ROUNDS = 1  # each takes minutes; the ratio of every round of ours is to the same one


def measure(effort: Effort) -> list[Claim]:
    """Measure a full materialize."""
    rows, entities = (40_000, 2_000) if effort.small else (10_000_000, 100_000)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        end = time.time_ns() // 1000 - DAY
        file = write_rows(events(rows, entities, end=end), folder / "events.parquet")
        online = {"type": "sqlite", "path": str(folder / "online.db")}
        with (
            make_project(folder / "project", file, TRAINING.dtypes, created=True) as store,
            feast_repository(folder, file, TRAINING.dtypes, created=True, online=online) as feast,
        ):
            store.ingest(VIEW)
            contenders: Mapping[str, Callable[[], float]] = {OURS: lambda: _ours(store, entities)}
            runs = in_turn(contenders, effort.rounds)
            theirs = [_feast(feast, entities) for _ in range(_FEAST_ROUNDS)]
            runs[FEAST] = [theirs[number % len(theirs)] for number in range(effort.rounds)]
            _demand_online(store, entities)
            again = seconds_of(lambda: store.materialize(VIEW))
    remarks = {OURS: f"with nothing new: {again:.2g} s", FEAST: f"measured {_FEAST_ROUNDS} x"}
    name = (
        f"Materialize {rows:,} events x {len(TRAINING.dtypes)} features to {entities:,} entities, entity rows a second"
    )
    return [Claim(name, "req/s", runs, remarks)]


def _ours(store: FeatureStore, entities: int) -> float:
    with store.writer() as writer:
        return entities / seconds_of(lambda: writer.materialize(ViewRef(VIEW, 1), full=True))


def _feast(feast: Ask, entities: int) -> float:
    return entities / seconds_of(lambda: feast("materialize", days=100))


def _demand_online(store: FeatureStore, entities: int) -> None:
    """Refuse a number for a store that lacks entities; a few may have no event at all."""
    features = [f"{VIEW}:{name}" for name in TRAINING.dtypes]
    answer = store.get_online_features(features, {KEY: list(range(entities))})
    found = sum(state != "NOT_FOUND" for state in answer.status[next(iter(TRAINING.dtypes))])
    if found < 0.99 * entities:
        raise RuntimeError(f"Only {found} of {entities} entities are online.")
