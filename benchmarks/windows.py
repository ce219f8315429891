"""Window aggregates for a training read: our fold beside DuckDB's range join and beside Polars' rolling groups.

All read the same Parquet file of events. Before anything is timed, both peers' answers must be ours: counts, minima, maxima and last
values exactly, sums and means to twelve digits, as their sums depend on the order of their terms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from measuring import Claim, Effort, in_turn, seconds_of
from tables import DAY, EVENT, HOUR, KEY, instants

from featurestore import Aggregation, Entity, FeatureService, FeatureStore, FeatureView, Model, ParquetSource

OURS, DUCKDB, POLARS = "featurestore", "DuckDB range join", "Polars rolling"
WINDOWS = {"1h": HOUR, "1d": DAY, "7d": 7 * DAY, "30d": 30 * DAY}
FUNCTIONS = ("count", "sum", "mean", "min", "max", "last")
NAMES = [f"{function}_amount_{window}" for window in WINDOWS for function in FUNCTIONS]
ENTITIES = {"spread": 10_000, "hot": 100}

_START = 1_700_000_000_000_000  # any instant does, as long as it is the same for all
_SPAN = 365 * DAY
_IN_DUCKDB = "count(amount), sum(amount), avg(amount), min(amount), max(amount), arg_max(amount, e.event_timestamp)"


def measure(effort: Effort) -> list[Claim]:
    """Measure reads of entities that have few events each, and of few that have many."""
    return [_claim(name, effort) for name in ENTITIES]


def _claim(name: str, effort: Effort) -> Claim:
    events, rows, entities = 1_000_000, 100_000, ENTITIES[name]  # the peers take minutes for ten times as many
    if effort.small:
        events, rows, entities = 20_000, 2_000, entities // 50
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        file, spine = folder / "events.parquet", _spine(rows, entities)
        pq.write_table(_events(events, entities), file, compression="zstd", row_group_size=128 << 10)
        with _project(folder / "project", file) as store:
            store.ingest("payments")

            def ours() -> pa.Table:
                return store.get_historical_features(spine, "everything", knowledge="latest").to_arrow()

            peers: Mapping[str, Callable[[], pa.Table]] = {
                DUCKDB: lambda: _range_join(file, spine),
                POLARS: lambda: _rolling(file, spine),
            }
            expected = ours()
            for peer, answer in peers.items():
                _demand_equal(peer, expected, answer())
            runs = in_turn({OURS: lambda: seconds_of(ours)} | _timed(peers), effort.rounds)
    title = f"Windows, {events:,} events of {entities:,} entities ({name}), {rows:,} rows x {len(NAMES)} aggregates"
    return Claim(title, "s", runs, dict.fromkeys(peers, "every value equal, sums to 12 digits or 1e-9"))


def _timed(peers: Mapping[str, Callable[[], pa.Table]]) -> dict[str, Callable[[], float]]:
    return {name: lambda answer=answer: seconds_of(answer) for name, answer in peers.items()}


def _project(folder: Path, file: Path) -> FeatureStore:
    folder.mkdir()
    (folder / "featurestore.toml").write_text('[project]\nname = "bench"\n')
    user = Entity("user", join_keys={KEY: "int64"})
    aggregations = [
        Aggregation("amount", function, timedelta(microseconds=window))
        for window in WINDOWS.values()
        for function in FUNCTIONS
    ]
    source = ParquetSource("payments", str(file), event_timestamp=EVENT)
    view = FeatureView("payments", user, source, aggregations, event_key={"payment_id": "int64"})
    service = FeatureService("everything", features=[view])
    store = FeatureStore(folder, consumer="model@1")
    store.apply([user, view, service, Model("model", version="1", reads=[service])])
    return store


def _events(count: int, entities: int) -> pa.Table:
    """Return a year of payments; no user has two at one instant, so that the last one is the same by every rule."""
    random = np.random.default_rng(1)
    key = (random.random(count) ** 1.3 * entities).astype(np.int64)
    times = _START + np.sort(random.choice(_SPAN // 1000, count, replace=False, shuffle=False)) * 1000
    amount = np.round(random.lognormal(3, 1.5, count), 2)
    return pa.table({KEY: key, EVENT: instants(times), "payment_id": np.arange(count), "amount": amount})


def _spine(rows: int, entities: int) -> pa.Table:
    random = np.random.default_rng(2)
    key = (random.random(rows) ** 1.3 * entities * 1.02).astype(np.int64)
    times = random.integers(_START + 30 * DAY, _START + _SPAN, rows)
    return pa.table({"row": np.arange(rows), KEY: key, EVENT: instants(times)})


def _range_join(file: Path, spine: pa.Table) -> pa.Table:
    """One join and group for each window: all at once would join each of them to the longest."""
    found = []
    with duckdb.connect() as connection:
        connection.register("spine", spine)
        for window, length in WINDOWS.items():
            names = ", ".join(f"{function}_amount_{window}" for function in FUNCTIONS)
            sql = f"""
                SELECT * EXCLUDE row FROM (
                    SELECT s.row, {_IN_DUCKDB}
                    FROM spine s LEFT JOIN read_parquet('{file}') e ON s.{KEY} = e.{KEY}
                        AND e.{EVENT} <= s.{EVENT} AND e.{EVENT} > s.{EVENT} - to_microseconds({length})
                    GROUP BY s.row
                ) AS found(row, {names}) ORDER BY row"""
            found.append(connection.sql(sql).to_arrow_table())
    return pa.table(
        {name: column for table in found for name, column in zip(table.column_names, table.columns, strict=True)}
    )


def _rolling(file: Path, spine: pa.Table) -> pa.Table:
    """Rolling groups over events and spine together; rows of the spine have no amount, and are what is kept."""
    asked = pl.DataFrame(pl.from_arrow(spine)).lazy()
    events = pl.scan_parquet(file).select(KEY, EVENT, "amount")
    # At one instant events come first; the key of the sort is unique, as times of events are whole milliseconds of their own.
    both = pl.concat([events, asked], how="diagonal_relaxed").sort(KEY, EVENT, "row", nulls_last=False)
    found = [
        both.rolling(EVENT, period=f"{length}us", group_by=KEY, closed="right").agg(
            pl.col("row").last(),
            *(_in_polars(function).alias(f"{function}_amount_{window}") for function in FUNCTIONS),
        )
        for window, length in WINDOWS.items()
    ]
    kept = [frame.filter(pl.col("row").is_not_null()).drop(KEY, EVENT).sort("row").drop("row") for frame in found]
    return pl.concat(pl.collect_all(kept), how="horizontal").to_arrow()


def _in_polars(function: str) -> pl.Expr:
    amount = pl.col("amount")
    if function == "last":
        return amount.drop_nulls().last()
    if function == "sum":
        return pl.when(amount.count() > 0).then(amount.sum())
    return getattr(amount, function)()


def _demand_equal(peer: str, ours: pa.Table, theirs: pa.Table) -> None:
    for name in NAMES:
        left, right = (table[name].cast(pa.float64()) for table in (ours, theirs))
        values = [np.asarray(column.fill_null(np.nan)) for column in (left, right)]
        exact = not name.startswith(("sum", "mean"))
        if not np.allclose(*values, rtol=0 if exact else 1e-12, atol=0 if exact else 1e-9, equal_nan=True):
            raise RuntimeError(f"{peer} differs in {name}; nothing was timed.")
