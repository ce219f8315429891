"""The offline table: what was committed is what is read, sorted, once, checked, and whole."""

import os
import random
import sys
import threading
from pathlib import Path

import deltalake
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from table_rows import SCHEMA, WIDER, facts, facts_in_order, numbered, rows

from featurestore.errors import CorruptionError, FailedPreconditionError, NotFoundError, ResourceExhaustedError
from featurestore.offline import data_files, lookup
from featurestore.offline import log as table_log
from featurestore.offline.table import OfflineTable
from featurestore.rows import SEQ, RowColumn, RowSchema
from featurestore.types import Binary, Bool, Date, DType, String

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
    real = os.fsync

    def noting(handle):
        real(handle)
        synced.add(os.fstat(handle).st_ino)

    monkeypatch.setattr(os, "fsync", noting)
    monkeypatch.setattr(table_log, "CHECKPOINT_EVERY", 2)
    table = OfflineTable(tmp_path / "weather", SCHEMA)
    table.load(rows(*LOG))
    OfflineTable(table.directory, WIDER).load(rows(("JFK", 9, None, 1.0, 1, 2.0, 5), schema=WIDER))
    table.append(rows(("JFK", 8, None, 1.0, 1, 6)), fold=6)
    log = set((table.directory / "_delta_log").iterdir())
    assert {path.suffix for path in log} == {".json", ".parquet", ""}
    assert {path.stat().st_ino for path in log} <= synced


def test_a_damaged_commit_is_named(table):
    table.load(rows(*LOG[:2]))
    other = OfflineTable(table.directory, SCHEMA)
    assert len(other.read()) == 2
    table.append(rows(*LOG[2:]), fold=1)
    commit = max((table.directory / "_delta_log").glob("*.json"))
    commit.write_bytes(commit.read_bytes().replace(b'"', b"'", 1))
    with pytest.raises(CorruptionError, match="A commit is damaged") as caught:
        other.read()
    assert caught.value.place == str(commit)


def test_a_commit_that_the_disk_did_not_take_keeps_its_files(table, monkeypatch):
    """It is in the log, so a fold that is repeated finds it there; its rows must be there too."""
    table.load(rows(*LOG[:2]))
    real = os.fsync

    def failing(handle):
        if Path(f"/proc/self/fd/{handle}").readlink().name == "_delta_log":
            raise OSError(5, "Input/output error")
        real(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing)
        with pytest.raises(ResourceExhaustedError, match="did not take"):
            table.append(rows(*LOG[2:]), fold=1)
    assert not table.append(rows(*LOG[2:]), fold=1)
    assert facts(table.read()) == LOG


def test_a_log_that_cannot_be_summed_up_is_committed_to_nevertheless(table, monkeypatch, caplog):
    def failing(directory):
        raise OSError("No space left on device")

    monkeypatch.setattr(table_log, "CHECKPOINT_EVERY", 1)
    monkeypatch.setattr("featurestore.offline.delta.sum_up", failing)
    table.load(rows(*LOG))
    assert facts(table.read()) == LOG
    assert "was not summed up" in caplog.text


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


@pytest.fixture
def many(tmp_path):
    """A table of one file with pages of every kind, several of them in a column and several row groups."""
    schema = RowSchema(
        SCHEMA.keys,
        (RowColumn("id", Binary, "id"),),
        (
            *SCHEMA.values,
            RowColumn("open", Bool, "open"),
            RowColumn("day", Date, "day"),
            RowColumn("price", DType.of("decimal(12,2)"), "price"),
            RowColumn("note", String, "note"),
        ),
        "at",
        "made",
    )
    table = OfflineTable(tmp_path / "prices", schema, buckets=1)
    chance = random.Random(3)
    drawn = []
    for n in range(3000):
        made, temp, count, day, price = (None if chance.random() < 0.3 else n * 7919 % 5000 for _ in range(5))
        is_open, note = chance.choice([None, True, False]), chance.choice([None, "", "é", "clear", f"note {n}"])
        drawn.append((f"k{n % 9}", b"%d" % n, n, made, temp, count, is_open, day, price, note, n))
    table.load(rows(*drawn, schema=schema))
    return table


def test_a_flipped_bit_is_an_error_that_names_the_file_or_changes_nothing(many, monkeypatch):
    monkeypatch.setattr(data_files, "ROW_GROUP", 1000)
    many.compact(buckets=2)
    before = many.read()
    file = many.files()[0]
    whole = file.path.read_bytes()
    chance = random.Random(5)
    places = [chance.randrange(len(whole)) for _ in range(250)] + list(range(len(whole) - 60, len(whole)))
    errors = 0
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << chance.randrange(8)
        file.path.write_bytes(damaged)
        found = read_or_error(many)
        errors += isinstance(found, str)
        assert str(file.path) in found if isinstance(found, str) else found.equals(before)
    assert errors > 0.9 * len(places)


def read_or_error(table):
    try:
        return table.read()
    except CorruptionError as error:
        return str(error)


def test_the_header_of_a_page_is_checked_although_its_own_checksum_leaves_it_out(many):
    (file,) = many.files()
    whole = file.path.read_bytes()
    with pq.ParquetFile(file.path) as parquet:
        group = parquet.metadata.row_group(0)
        chunks = [group.column(number) for number in range(group.num_columns)]
    for chunk in chunks:
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        for place in range(start, start + 24):
            damaged = bytearray(whole)
            damaged[place] ^= 2
            file.path.write_bytes(damaged)
            with pytest.raises(CorruptionError, match=str(file.path)):
                many.read([chunk.path_in_schema])


def test_a_page_that_is_damaged_is_reported_with_its_offset(table):
    table.load(rows(*[("JFK", n, None, float(n), n * 7919, n) for n in range(5000)]))
    (file,) = table.files()
    damaged = bytearray(file.path.read_bytes())
    damaged[len(damaged) // 3] ^= 0x10
    file.path.write_bytes(damaged)
    with pytest.raises(CorruptionError, match=rf"{file.path}, offset \d+"):
        table.read()


@pytest.mark.parametrize("cut", [1, 20, 1000, None])
def test_a_file_that_is_cut_off_is_reported_by_name(table, cut):
    table.load(numbered(1, 300, keys=1))
    path = table.files()[0].path
    path.write_bytes(path.read_bytes()[:-cut] if cut else b"")
    with pytest.raises(CorruptionError, match=str(path)):
        table.read()


def test_a_file_that_is_missing_or_another_is_reported_by_name(table):
    table.load(rows(*LOG))
    path = table.files()[0].path
    path.unlink()
    with pytest.raises(CorruptionError, match=f"missing.*{path}"):
        table.read()
    pq.write_table(rows(*LOG), path)
    with pytest.raises(CorruptionError, match=f"not what was written.*{path}"):
        table.read()


def test_the_files_carry_their_row_count_in_the_log(table):
    table.load(rows(*LOG))
    assert sum(file.rows for file in table.files()) == len(LOG)
    assert deltalake.DeltaTable(table.directory).transaction_version("fold") is None


# --- looking up rows ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def read_groups(monkeypatch):
    """The row groups that are read, file by file."""
    read = []
    real = data_files.read_data_file

    def noting(file, wanted, *, groups=None):
        read.append((file.bucket, groups))
        return real(file, wanted, groups=groups)

    monkeypatch.setattr(lookup, "read_data_file", noting)
    return read


def test_new_rows_read_only_the_row_groups_that_may_hold_one_like_them(tmp_path, monkeypatch, read_groups):
    monkeypatch.setattr(data_files, "ROW_GROUP", 50)
    table = OfflineTable(tmp_path / "weather", SCHEMA, buckets=4)
    table.load(numbered(1, 1000, keys=40))
    stored = numbered(1, 1000, keys=40)
    known = stored.slice(500, 1).drop_columns([SEQ])
    other = rows(("k20", 1_000_000, None, 1.0, 1, 0)).drop_columns([SEQ])
    assert len(table.new_rows(other)) == 1
    assert read_groups == []
    assert len(table.new_rows(known)) == 0
    buckets = {bucket for bucket, _ in read_groups}
    assert len(buckets) == 1
    assert len(read_groups) <= 3


def test_events_since_read_only_the_row_groups_with_later_events(tmp_path, monkeypatch, read_groups):
    monkeypatch.setattr(data_files, "ROW_GROUP", 50)
    table = OfflineTable(tmp_path / "weather", SCHEMA, buckets=1)
    table.load(rows(*[("JFK", n, None, float(n), n, n) for n in range(1000)]))
    assert len(table.events_since(949)) == 50
    assert read_groups == [(0, [19])]


instants = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 5)
like_rows = st.tuples(
    st.sampled_from(["", "a", "b", "é", "ab"]),
    instants,
    st.none() | instants,
    st.none() | st.sampled_from([0.0, -0.0, float("nan"), 1.5]),
    st.none() | st.integers(0, 1),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(like_rows, max_size=12), st.lists(like_rows, max_size=12), st.lists(like_rows, max_size=8), st.data())
def test_new_rows_and_latest_agree_with_a_plain_scan(tmp_path_factory, loaded, appended, offered, data):
    table = OfflineTable(tmp_path_factory.mktemp("table") / "weather", SCHEMA, buckets=2)
    stored = [(*row, seq) for seq, row in enumerate((*loaded, *appended), start=1)]
    if loaded:
        table.load(rows(*stored[: len(loaded)]))
    table.append(rows(*stored[len(loaded) :]), fold=1)
    if data.draw(st.booleans()):
        table.compact()
    offered += (
        data.draw(st.lists(st.sampled_from(stored), max_size=3).map(lambda a: [r[:-1] for r in a])) if stored else []
    )

    def same(row):
        return tuple("nan" if value != value else value for value in row)

    seen, fresh = {same(row[:-1]) for row in stored}, []
    for row in offered:
        if same(row) not in seen:
            seen.add(same(row))
            fresh.append(row)
    found = table.new_rows(rows(*[(*row, 0) for row in offered]).drop_columns([SEQ]))
    assert list(map(same, facts_in_order(found))) == list(map(same, fresh))
    at = data.draw(instants)
    best = {}
    for row in stored:
        order = (row[1], -(2**63) if row[2] is None else row[2], row[-1])
        if row[1] <= at and (row[0] not in best or order > best[row[0]][0]):
            best[row[0]] = (order, row[-1])
    assert sorted(table.latest(at)[SEQ].to_pylist()) == sorted(seq for _, seq in best.values())
    later = sorted(row[-1] for row in stored if row[1] > at)
    assert sorted(table.events_since(at)[SEQ].to_pylist()) == later
