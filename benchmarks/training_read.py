"""Training read: features for keys and times, beside DuckDB doing the same rule in SQL and beside Feast on DuckDB.

All read the same events. Before anything is timed, DuckDB's answer must be ours, value by value; Feast's is compared and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from feast_peer import Ask, feast_repository
from measuring import Claim, Effort, in_turn, seconds_of
from projects import SERVICE, make_project, write_rows
from tables import CREATED, DAY, EVENT, KEY, TRAINING, TTL_DAYS, VIEW, events, instants, spine

from featurestore import FeatureStore
from featurestore import rows as rows_of
from featurestore.offline.table import OfflineTable
from featurestore.offline.training_set import read_training_set
from featurestore.planning import ReadPlan, plan_read
from featurestore.registry.snapshot import (
    Document,
    EntityRecord,
    FeatureRecord,
    RegistrySnapshot,
    SourceRecord,
    ViewRecord,
    ViewVersions,
)
from featurestore.rows import SEQ, RowColumn, RowSchema
from featurestore.types import DType, from_arrow

END = 1_792_000_000_000_000  # any instant does, as long as it is the same for all

OURS, DUCKDB, FEAST = "featurestore", "DuckDB SQL, same rule", "Feast on DuckDB"
DECODE, POLARS = "PyArrow, decoding the columns alone", "Polars join_asof"

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
    """Measure training reads beside peers, then large ones beside the decoding of what they need, then a wide one."""
    return [*_beside_peers(effort), *_large(effort), _wide(effort)]


def _beside_peers(effort: Effort) -> list[Claim]:
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


def _large(effort: Effort) -> list[Claim]:
    """Measure reads of 10 million events a view: one view beside the decoding of its columns and beside peers, then several views."""
    rows, entities, asked = (20_000, 2_000, 2_000) if effort.small else (10_000_000, 100_000, 1_000_000)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        file = write_rows(events(rows, entities, end=END), folder / "events.parquet")
        table = offline_table(pq.read_table(file), folder / "table")
        keys = spine(asked, entities, end=END)
        numbers = [name for name, dtype in TRAINING.dtypes.items() if dtype != "string"]
        size = f"{asked:,} rows, {rows:,} events a view"

        def ours(features: Sequence[str], views: int = 1) -> pa.Table:
            return read_training_set(plan_of_views(features, views), keys, tables=lambda _: table).table

        _demand_equal(ours(FEATURES), _duckdb(AS_KNOWN, file, keys))
        beside = {
            OURS: lambda: seconds_of(lambda: ours(FEATURES)),
            DECODE: lambda: seconds_of(lambda: _decode(table, FEATURES)),
            DUCKDB: lambda: seconds_of(lambda: _duckdb(AS_KNOWN, file, keys)),
            POLARS: lambda: seconds_of(lambda: _polars(file, keys)),
        }
        numeric = {
            OURS: lambda: seconds_of(lambda: ours(numbers)),
            DECODE: lambda: seconds_of(lambda: _decode(table, numbers)),
        }
        several = {
            f"{n} views" if n > 1 else "1 view": partial(lambda n: seconds_of(lambda: ours(FEATURES, n)), n)
            for n in (1, 3, 10)
        }
        remarks = {DUCKDB: "every value equal to ours", POLARS: "knows no created time: what it reads is latest"}
        return [
            Claim(
                f"Training read, {size}, {len(FEATURES)} features, as_known",
                "s",
                in_turn(beside, effort.rounds),
                remarks,
            ),
            Claim(f"Training read, {size}, {len(numbers)} numbers, as_known", "s", in_turn(numeric, effort.rounds)),
            Claim(f"Training read, {size}, several views", "s", in_turn(several, effort.rounds)),
        ]


def _wide(effort: Effort) -> Claim:
    """Measure a read of a thousand features."""
    rows, features = (500, 50) if effort.small else (17_000, 1_000)
    random = np.random.default_rng(4)
    names = [f"feature_{n}" for n in range(features)]
    made = {KEY: random.integers(0, 2_000, rows), EVENT: instants(random.integers(END - 90 * DAY, END, rows))}
    made |= {name: np.round(random.normal(size=rows), 1) for name in names}
    keys = spine(rows, 2_000, end=END)
    with TemporaryDirectory() as scratch:
        table = offline_table(pa.table(made), Path(scratch))
        plan = plan_of_views(names, 1)
        runs = in_turn(
            {OURS: lambda: seconds_of(lambda: read_training_set(plan, keys, tables=lambda _: table))}, effort.rounds
        )
    return Claim(f"Training read, {rows:,} rows x {features:,} features", "s", runs)


def offline_table(rows: pa.Table, folder: Path) -> OfflineTable:
    """Load events as a view has them, without a project around it."""
    schema = _row_schema(rows.schema)
    accepted = schema.canonical(rows).rows.append_column(SEQ, pa.array(np.arange(1, len(rows) + 1)))
    table = OfflineTable(folder, schema)
    table.load(accepted)
    return table.pinned()


def opened_table(folder: Path, file: Path) -> OfflineTable:
    """Open a table that another process loaded from a file of events."""
    return OfflineTable(folder, _row_schema(pq.read_schema(file))).pinned()


def _row_schema(columns: pa.Schema) -> RowSchema:
    values = [name for name in columns.names if name not in (KEY, EVENT, CREATED)]
    return RowSchema(
        keys=(RowColumn(KEY, DType("int64"), KEY),),
        event_key=(),
        values=tuple(RowColumn(name, from_arrow(columns.field(name).type), name) for name in values),
        event_timestamp=EVENT,
        created_timestamp=CREATED if CREATED in columns.names else None,
    )


def plan_of_views(features: Sequence[str], views: int) -> ReadPlan:
    """Return a plan of the same features in several views of one entity, each over the same files."""
    keys = ((KEY, "int64"),)
    source = SourceRecord(
        kind="push", name="made", path="", query=None, tables={}, event_timestamp=EVENT, created_timestamp=CREATED
    )
    dtypes = TRAINING.dtypes
    records = tuple(
        FeatureRecord(name=name, dtype=dtypes.get(name, "float64"), fingerprint=name, column=name) for name in features
    )
    record = ViewRecord(
        kind="batch", entity="user", join_keys=keys, source=source, ttl=TTL_DAYS * DAY, features=records
    )
    document = Document(
        project="bench",
        entities={"user": EntityRecord(join_keys=keys)},
        views={f"{VIEW}_{n}": ViewVersions(current=1, versions={1: record}) for n in range(views)},
    )
    refs = [f"{VIEW}_{n}:{name}" for n in range(views) for name in features]
    return plan_read(RegistrySnapshot(document), refs, full_feature_names=views > 1)


def _decode(table: OfflineTable, features: Sequence[str]) -> None:
    """Decode what a read needs, and do nothing with it: nobody who reads these files can be faster."""
    for file in table.files():
        pq.read_table(file.path, columns=[KEY, rows_of.EVENT, rows_of.CREATED, *features], partitioning=None)


def _duckdb(form: str, file: Path, keys: pa.Table) -> pa.Table:
    with duckdb.connect() as connection:
        connection.register("spine", keys)
        return connection.sql(form.format(file=file)).to_arrow_table()


def _polars(file: Path, keys: pa.Table) -> pl.DataFrame:
    asked = pl.DataFrame(pl.from_arrow(keys)).sort(EVENT)
    there = pl.read_parquet(file).sort(EVENT, CREATED).drop(CREATED)
    return asked.join_asof(there, on=EVENT, by=KEY, tolerance=f"{TTL_DAYS}d", check_sortedness=False)


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
