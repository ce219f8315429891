"""Promise: one training row for each spine row, and never the future; for several views at once, whatever was accepted."""

from pathlib import Path
from tempfile import TemporaryDirectory

import oracle
import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore.offline.engines import ENGINES
from featurestore.offline.table import OfflineTable
from featurestore.offline.training_set import read_training_set
from featurestore.planning import plan_read
from featurestore.registry.snapshot import (
    Document,
    EntityRecord,
    FeatureRecord,
    RegistrySnapshot,
    SourceRecord,
    ViewRecord,
    ViewVersions,
)
from featurestore.rows import RowColumn, RowSchema
from featurestore.testing.strategies import instants, rows
from featurestore.types import Float64, Int64, String

KEYS = [("1", "12"), ("11", "2"), ("1", "1")]
JOIN_KEYS = (("origin", "string"), ("dest", "string"))
SOURCE = SourceRecord(
    kind="parquet", name="s", path="x", query=None, tables={}, event_timestamp="at", created_timestamp="made"
)


def row_schema(name):
    return RowSchema(
        keys=(RowColumn("origin", String, "origin"), RowColumn("dest", String, "dest")),
        event_key=(),
        values=(RowColumn(f"{name}_whole", Int64, "a"), RowColumn(f"{name}_float", Float64, "b")),
        event_timestamp="at",
        created_timestamp="made",
    )


def view(schema, ttl, until):
    features = [
        FeatureRecord(name=c.name, dtype=c.dtype.name, fingerprint=c.name, column=c.name) for c in schema.values
    ]
    return ViewRecord(
        kind="batch", entity="route", join_keys=JOIN_KEYS, source=SOURCE, ttl=ttl, backfilled_until=until,
        features=tuple(features),
    )  # fmt: skip


@st.composite
def stores(draw):
    """Two views of one entity, with rows, and a spine."""
    views = {
        name: (draw(st.sampled_from((None, 1, 5))), draw(st.none() | instants()), draw(rows(row_schema(name), KEYS)))
        for name in ("first", "second")
    }
    key = st.tuples(st.sampled_from(("1", "11", None)), st.sampled_from(("12", "2", "1", None)))
    return views, draw(st.lists(st.tuples(st.sampled_from(KEYS) | key, st.none() | instants()), max_size=12))


@given(
    store=stores(),
    knowledge=st.sampled_from(("as_known", "latest", "as_served")),
    engine=st.sampled_from(list(ENGINES)),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_training_set_agrees_with_the_oracle_for_every_view(store, knowledge, engine):
    views, pairs = store
    position = 6 if knowledge == "as_served" else None
    schemas = {name: row_schema(name) for name in views}
    snapshot = RegistrySnapshot(
        Document(
            project="p",
            entities={"route": EntityRecord(join_keys=JOIN_KEYS)},
            views={
                name: ViewVersions(current=1, versions={1: view(schemas[name], ttl, until)})
                for name, (ttl, until, _) in views.items()
            },
        )
    )
    spine = pa.table(
        {
            "row": pa.array(range(len(pairs)), pa.int64()),
            "origin": pa.array([key[0] for key, _ in pairs], pa.string()),
            "dest": pa.array([key[1] for key, _ in pairs], pa.string()),
            "event_timestamp": pa.array([time for _, time in pairs], pa.timestamp("us")),
        }
    )
    refs = [f"{name}:{column.name}" for name, schema in schemas.items() for column in schema.values]
    with TemporaryDirectory() as folder:
        tables = {name: OfflineTable(Path(folder, name), schema, buckets=2) for name, schema in schemas.items()}
        for name, (_, _, log) in views.items():
            tables[name].load(log)
        got = read_training_set(
            plan_read(snapshot, refs),
            spine,
            tables=lambda ref: tables[ref.view],
            engine=engine,
            knowledge=knowledge,
            position=position,
        )
    assert got.table.select(spine.column_names).equals(spine)
    for (name, (ttl, until, log)), report in zip(views.items(), got.report.views, strict=True):
        plain = [
            {
                "event": e,
                "created": c,
                "seq": seq,
                "origin": o,
                "dest": d,
                f"{name}_whole": whole,
                f"{name}_float": real,
            }
            for o, d, e, c, whole, real, seq in zip(
                *(log[i].cast(pa.int64()).to_pylist() if i in (2, 3) else log[i].to_pylist() for i in range(7)),
                strict=True,
            )
        ]
        expected = oracle.join(
            pairs, plain, ["origin", "dest"], ttl=ttl, knowledge=knowledge, position=position, backfilled_until=until
        )
        for column in (f"{name}_whole", f"{name}_float"):
            values = [None if row is None else row[column] for row, _ in expected]
            assert list(map(repr, values)) == list(map(repr, got.table[column].to_pylist()))
        statuses = [status for _, status in expected]
        assert [statuses.count(s) for s in ("matched", "missing", "expired", "not_yet_known")] == [
            report.matched, report.missing, report.expired, report.not_yet_known,
        ]  # fmt: skip
