"""Training read: features for keys and times, beside DuckDB doing the same rule in SQL and beside Feast on DuckDB.

All read the same events. Before anything is timed, DuckDB's answer must be ours, value by value; Feast's is compared and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from feast_peer import Ask, feast_repository
from measuring import Claim, Effort, in_turn, seconds_of
from projects import SERVICE, make_project, write_rows
from tables import CREATED, DAY, EVENT, KEY, TRAINING, TTL_DAYS, events, spine

from featurestore import FeatureStore

END = 1_792_000_000_000_000  # any instant does, as long as it is the same for all

OURS, DUCKDB, FEAST = "featurestore", "DuckDB SQL, same rule", "Feast on DuckDB"

FEATURES = tuple(TRAINING.dtypes)

_EVENTS = f"""
    SELECT *, file_row_number AS seq, coalesce({CREATED}, '-infinity') AS created
    FROM read_parquet('{{file}}', file_row_number = true)"""
_TTL = TTL_DAYS * DAY
_NEWEST = 9_223_372_036_854_775_807

# A plain ASOF takes any of two rows of one event time: the order is (event time, created, seq).
_YOUNG = ", ".join(f"CASE WHEN e.age <= {_TTL} THEN e.{name} END AS {name}" for name in FEATURES)
LATEST = f"""
    WITH events AS (SELECT *, row({EVENT}, created, seq) AS since FROM ({_EVENTS})),
    found AS (
        SELECT s.row, epoch_us(s.{EVENT}) - epoch_us(e.{EVENT}) AS age, e.*
        FROM spine s ASOF LEFT JOIN events e
            ON s.{KEY} = e.{KEY} AND row(s.{EVENT}, 'infinity'::timestamptz, {_NEWEST}) >= e.since
    )
    SELECT row, {_YOUNG} FROM found e ORDER BY row"""

# What is known at t is the greatest row among those known from t or before: a running maximum, joined by when rows became known.
_FOUND = ", ".join(f"e.{name}" for name in FEATURES)
AS_KNOWN = f"""
    WITH events AS ({_EVENTS}),
    known AS (
        SELECT {KEY}, row(known_from, seq) AS since,
            max({{{{'event': {EVENT}, 'created': created, 'seq': seq}}}})
                OVER (PARTITION BY {KEY} ORDER BY known_from, seq ROWS UNBOUNDED PRECEDING) AS greatest
        FROM (SELECT *, greatest({EVENT}, created) AS known_from FROM events)
    ),
    found AS (
        SELECT s.row, s.{EVENT} AS asked_at, k.greatest.seq AS seq
        FROM spine s ASOF LEFT JOIN known k ON s.{KEY} = k.{KEY} AND row(s.{EVENT}, {_NEWEST}) >= k.since
    )
    SELECT f.row, {_FOUND}
    FROM found f LEFT JOIN events e ON f.seq = e.seq AND epoch_us(f.asked_at) - epoch_us(e.{EVENT}) <= {_TTL}
    ORDER BY f.row"""

FORMS = {"as_known": AS_KNOWN, "latest": LATEST}


def measure(effort: Effort) -> list[Claim]:
    """Measure training reads of two sizes under both kinds of knowledge."""
    rows, entities, spines = (20_000, 2_000, [2_000]) if effort.small else (1_000_000, 100_000, [100_000, 1_000_000])
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        file = write_rows(events(rows, entities, end=END), folder / "events.parquet")
        online = {"type": "sqlite", "path": str(folder / "unused.db")}
        with (
            make_project(folder / "project", file, TRAINING.dtypes, created=True) as store,
            feast_repository(folder, file, TRAINING.dtypes, created=True, online=online) as feast,
        ):
            store.ingest("activity")
            asked = [write_rows(spine(count, entities, end=END), folder / f"spine_{count}.parquet") for count in spines]
            return [_claim(store, feast, file, path, knowledge, effort) for path in asked for knowledge in FORMS]


def _claim(store: FeatureStore, feast: Ask, file: Path, path: Path, knowledge: str, effort: Effort) -> Claim:
    keys = pq.read_table(path)
    with duckdb.connect() as connection:
        connection.register("spine", keys)
        sql = FORMS[knowledge].format(file=file)

        def ours() -> pa.Table:
            return store.get_historical_features(keys, SERVICE, knowledge=knowledge).to_arrow()

        def theirs() -> pa.Table:
            return connection.sql(sql).to_arrow_table()

        expected = ours()
        _demand_equal(expected, theirs())
        answer = path.with_suffix(f".{knowledge}.parquet")
        feast("historical", spine=str(path), as_known=knowledge == "as_known", out=str(answer))
        differing = _differing(expected, pq.read_table(answer))
        contenders: Mapping[str, Callable[[], float]] = {
            OURS: lambda: seconds_of(ours),
            DUCKDB: lambda: seconds_of(theirs),
            FEAST: lambda: feast("historical", spine=str(path), as_known=knowledge == "as_known"),
        }
        runs = in_turn(contenders, effort.rounds)
    name = f"Training read, {len(keys):,} rows x {len(FEATURES)} features, {knowledge}"
    remarks = {DUCKDB: "every value equal to ours", FEAST: f"{differing:,} rows differ from ours"}
    return Claim(name, "s", runs, remarks)


def _demand_equal(ours: pa.Table, theirs: pa.Table) -> None:
    """Refuse to time two answers that are not the same, row by row in the order of the spine."""
    expected = ours.select(["row", *FEATURES])
    if not expected.equals(theirs.cast(expected.schema)):
        raise RuntimeError(f"DuckDB's form of the rule differs in {_differing(ours, theirs)} rows; nothing was timed.")


def _differing(ours: pa.Table, theirs: pa.Table) -> int:
    """Count the rows of ours that the other answer lacks or gives other values."""
    expected = ours.select(["row", *FEATURES])
    given = theirs.select(["row", *FEATURES]).cast(expected.schema)
    left, right = (pl.DataFrame(pl.from_arrow(table)) for table in (expected, given))
    return left.height - left.join(right, on=["row", *FEATURES], how="semi", nulls_equal=True).height
