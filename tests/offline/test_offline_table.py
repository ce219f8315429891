"""The offline table: what was committed is what is read, sorted, once, checked, and whole."""

import threading

import deltalake
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.errors import CorruptionError, FailedPreconditionError, NotFoundError
from featurestore.offline import table as offline_table
from featurestore.offline.table import OfflineTable
from featurestore.rows import CREATED, EVENT, SEQ, RowColumn, RowSchema
from featurestore.types import Float64, Int64, String

SCHEMA = RowSchema(
    keys=(RowColumn("origin", String, "origin"),),
    event_key=(),
    values=(RowColumn("temp", Float64, "temp"), RowColumn("count", Int64, "count")),
    event_timestamp="at",
    created_timestamp="made",
)
WIDER = RowSchema(SCHEMA.keys, (), (*SCHEMA.values, RowColumn("wind", Float64, "wind")), "at", "made")


def rows(*facts, schema=SCHEMA):
    """Rows of (origin, event, created, temp, count, seq)."""
    columns = list(zip(*facts, strict=True)) if facts else [[] for _ in schema.arrow()]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, schema.arrow(), strict=True)], schema=schema.arrow())


def facts(table):
    plain = [table[name].cast(pa.int64()) if name in (EVENT, CREATED) else table[name] for name in table.column_names]
    return sorted(zip(*(column.to_pylist() for column in plain), strict=True), key=lambda row: row[-1])


LOG = [
    ("JFK", 5, None, 1.0, 2**60 + 1, 1),
    ("LGA", 4, 6, None, None, 2),
    ("JFK", 5, 7, -0.0, 3, 3),
    ("JFK", -9, None, 2.5, 4, 4),
]


@pytest.fixture
def table(tmp_path):
    return OfflineTable(tmp_path / "weather", SCHEMA, buckets=4)


def test_a_table_that_was_never_filled_says_so(table):
    assert (table.exists, table.fold_position, table.buckets) == (False, 0, 4)
    with pytest.raises(FailedPreconditionError, match="never filled"):
        table.read()


def test_bulk_and_recent_rows_are_read_together(table):
    report = table.load(rows(*LOG[:2]))
    assert (report.rows, report.version) == (2, 1)
    assert table.append(rows(*LOG[2:]), fold=1)
    assert facts(table.read()) == LOG
    assert table.read(["count"]).schema == pa.schema([("count", pa.int64())])


def test_every_commit_and_checkpoint_is_synced(tmp_path, monkeypatch):
    synced = set()
    real = offline_table.sync

    def noting(*paths):
        real(*paths)
        synced.update(paths)

    monkeypatch.setattr(offline_table, "sync", noting)
    monkeypatch.setattr(offline_table, "CHECKPOINT_EVERY", 2)
    table = OfflineTable(tmp_path / "weather", SCHEMA)
    table.load(rows(*LOG))
    OfflineTable(table.directory, WIDER).load(rows(("JFK", 9, None, 1.0, 1, 2.0, 5), schema=WIDER))
    table.append(rows(("JFK", 8, None, 1.0, 1, 6)), fold=6)
    log = set((table.directory / "_delta_log").iterdir())
    assert {path.suffix for path in log} == {".json", ".parquet", ""}
    assert log <= synced


def test_an_unknown_column_is_an_error_that_says_the_nearest(table):
    table.load(rows(*LOG))
    with pytest.raises(NotFoundError, match="Did you mean 'temp'"):
        table.read(["tmep"])


def test_a_bucket_is_one_file_sorted_by_key_event_created_and_seq(table):
    generator = np.random.default_rng(7)
    drawn = [
        (
            f"k{generator.integers(9)}",
            int(generator.integers(5)),
            None if n % 3 else int(generator.integers(9)),
            0.0,
            n,
            n,
        )
        for n in range(200)
    ]
    table.load(rows(*drawn))
    assert len({file.bucket for file in table.files()}) == len(table.files()) > 1
    for file in table.files():
        found = [(k, e, -1 if c is None else c, s) for k, e, c, _, _, s in facts_in_order(table.read(files=[file]))]
        assert found == sorted(found)
        assert pq.ParquetFile(file.path).metadata.row_group(0).column(0).compression == "ZSTD"


def facts_in_order(table):
    plain = [table[name].cast(pa.int64()) if name in (EVENT, CREATED) else table[name] for name in table.column_names]
    return list(zip(*(column.to_pylist() for column in plain), strict=True))


def test_an_entity_lies_in_one_bucket_whatever_the_load(table):
    table.load(rows(*LOG))
    table.load(rows(("JFK", 8, None, 0.0, 0, 9)))
    buckets = {
        file.bucket for file in table.files() if "JFK" in table.read(["origin"], files=[file])["origin"].to_pylist()
    }
    assert len(buckets) == 1


def test_a_fold_is_appended_exactly_once(table):
    assert table.append(rows(LOG[0]), fold=1)
    assert not table.append(rows(LOG[0]), fold=1)
    assert table.append(rows(), fold=3)
    assert not table.append(rows(LOG[1]), fold=2)
    assert (table.fold_position, facts(table.read())) == (3, [LOG[0]])


def test_racing_folds_of_one_number_are_committed_once(table):
    table.append(rows(), fold=1)
    added = []
    race = [threading.Thread(target=lambda: added.append(table.append(rows(LOG[0]), fold=2))) for _ in range(4)]
    for thread in race:
        thread.start()
    for thread in race:
        thread.join()
    assert (sorted(added), facts(table.read())) == ([False, False, False, True], [LOG[0]])
    assert len(list((table.directory / "recent").iterdir())) == 1


def test_racing_loads_all_arrive(table):
    race = [threading.Thread(target=table.load, args=(rows(row),)) for row in LOG]
    for thread in race:
        thread.start()
    for thread in race:
        thread.join()
    assert facts(table.read()) == LOG


def test_a_column_that_was_added_later_is_null_in_older_rows(table):
    table.load(rows(*LOG[:1]))
    wider = OfflineTable(table.directory, WIDER)
    assert wider.read(["wind"])["wind"].to_pylist() == [None]
    wider.load(rows(("JFK", 6, None, 1.0, 1, 7.5, 2), schema=WIDER))
    assert sorted(wider.read(["wind"])["wind"].to_pylist(), key=str) == [7.5, None]
    assert len(table.read()) == 2
    assert wider.buckets == 4


def test_other_readers_of_delta_see_the_same_rows(table):
    import polars as pl

    table.load(rows(*LOG[:2]))
    table.append(rows(*LOG[2:]), fold=1)
    frame = pl.scan_delta(str(table.directory)).select("origin", SEQ).sort(SEQ).collect()
    assert frame.rows() == [(row[0], row[-1]) for row in LOG]


def test_the_log_holds_no_key_and_no_value(table):
    table.load(rows(("very-private", 5, None, 1234.5, 98765, 1)))
    log = "".join(path.read_text() for path in (table.directory / "_delta_log").glob("*.json"))
    assert "very-private" not in log
    assert "1234.5" not in log
    assert "98765" not in log


def test_new_rows_leave_out_what_is_stored_and_what_repeats(table):
    nan = ("LGA", 4, 6, float("nan"), None, 5)
    table.load(rows(*LOG, nan))
    offered = [
        LOG[1],
        nan,
        ("JFK", 5, None, 1.5, 2**60 + 1, 0),
        ("JFK", 5, 8, 1.0, 3, 0),
        ("JFK", 5, None, 1.5, 2**60 + 1, 0),
    ]
    fresh = table.new_rows(rows(*offered).drop_columns([SEQ]))
    assert [row[:3] for row in facts_in_order(fresh)] == [("JFK", 5, None), ("JFK", 5, 8)]
    assert fresh["temp"].to_pylist() == [1.5, 1.0]


def test_everything_is_new_to_a_table_that_was_never_filled(table):
    assert len(table.new_rows(rows(*LOG, LOG[0]).drop_columns([SEQ]))) == 4


def test_latest_is_the_greatest_row_of_each_entity_up_to_an_instant(table):
    table.load(rows(*LOG))
    assert [row[-1] for row in facts(table.latest(5))] == [2, 3]
    assert [row[-1] for row in facts(table.latest(4))] == [2, 4]
    assert len(table.latest(-10)) == 0


def test_events_since_are_strictly_later(table):
    table.load(rows(*LOG))
    assert [row[-1] for row in facts(table.events_since(4))] == [1, 3]


def test_a_pinned_table_does_not_see_later_commits(table):
    table.load(rows(LOG[0]))
    pinned = table.pinned()
    table.load(rows(LOG[1]))
    assert (facts(pinned.read()), pinned.version, table.version) == ([LOG[0]], 1, 2)


@pytest.mark.parametrize("where", [0.3, 0.6])
def test_a_flipped_byte_is_reported_with_file_and_offset(table, where):
    table.load(rows(*[("JFK", n, None, float(n), n * 7919, n) for n in range(5000)]))
    (file,) = table.files()
    damaged = bytearray(file.path.read_bytes())
    damaged[int(len(damaged) * where)] ^= 0x10
    file.path.write_bytes(damaged)
    with pytest.raises(CorruptionError, match=rf"{file.path}, offset \d+"):
        table.read()


def test_a_truncated_or_missing_file_is_reported_by_name(table):
    table.load(rows(*LOG))
    path = table.files()[0].path
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CorruptionError, match=str(path)):
        table.read()
    path.unlink()
    with pytest.raises(CorruptionError, match=f"missing.*{path}"):
        table.read()


def test_the_files_carry_their_row_count_in_the_log(table):
    table.load(rows(*LOG))
    assert sum(file.rows for file in table.files()) == len(LOG)
    assert deltalake.DeltaTable(table.directory).transaction_version("fold") is None
