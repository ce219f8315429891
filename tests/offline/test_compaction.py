"""Compaction and vacuum: fewer files, the same rows, whoever writes beside it, and nothing that is read goes."""

import json
import multiprocessing
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import deltalake
import duckdb
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from table_rows import SCHEMA, WIDER, facts, facts_in_order, numbered, rows, work

from featurestore.errors import InvalidArgumentError
from featurestore.offline import compaction
from featurestore.offline.buckets import buckets_of
from featurestore.offline.data_files import DRAFT
from featurestore.offline.table import OfflineTable
from featurestore.rows import CREATED, EVENT, SEQ

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["__main__", "featurestore.offline.table", "featurestore.offline.delta", "pandas"])


@pytest.fixture
def table(tmp_path):
    return OfflineTable(tmp_path / "weather", SCHEMA, buckets=4)


def fill(table, *, loads=2, appends=3, size=40):
    """Load and append numbered rows in turn; return how many there are."""
    first = 1
    for turn in range(loads + appends):
        if (turn % 2 and loads) or not appends:
            table.load(numbered(first, size))
            loads -= 1
        else:
            table.append(numbered(first, size), fold=first + size - 1)
            appends -= 1
        first += size
    return first - 1


def check_layout(table, buckets, *, one_file=True):
    """Every file of a bucket holds that bucket's rows alone, sorted, and was written for so many buckets."""
    state = table.state()
    assert state.buckets == buckets
    for file in state.files:
        stored = table.read(files=[file])
        order = [(k, e, -1 if c is None else c, s) for k, e, c, _, _, s in facts_in_order(stored)]
        assert order == sorted(order)
        if file.bucket is not None:
            assert file.buckets == buckets
            assert set(buckets_of([stored["origin"]], buckets).tolist()) == {file.bucket}
    if one_file:
        assert [len(files) for files in state.by_bucket().values()] == [1] * len(state.by_bucket())
        assert state.recent == ()


def test_a_compacted_table_is_one_sorted_file_a_bucket_with_the_same_rows(table):
    count = fill(table)
    report = table.compact()
    assert (report.rows, report.buckets, report.version) == (count, 4, table.version)
    assert (report.files_before, report.files) == (3 + 8, 4)
    check_layout(table, 4)
    assert facts(table.read()) == facts(numbered(1, count))
    assert table.compact().rows == 0
    assert table.version == report.version


def test_a_bucket_that_nothing_is_added_to_keeps_its_file(table):
    table.load(numbered(1, 100))
    before = {file.path for file in table.files()}
    table.append(numbered(200, 1), fold=200)
    report = table.compact()
    assert len(before & {file.path for file in table.files()}) == 3
    assert 1 < report.rows < 101


def test_folds_go_on_where_they_were_after_a_compaction_and_a_checkpoint(table):
    count = fill(table, loads=1, appends=14)
    position = table.fold_position
    table.compact()
    assert (table.fold_position, table.loaded_until) == (position, 80)
    assert not table.append(numbered(count, 1), fold=position)
    assert table.append(numbered(count + 1, 1), fold=count + 1)
    again = OfflineTable(table.directory, SCHEMA)
    assert (again.fold_position, len(again.read())) == (count + 1, count + 1)


def test_a_pinned_table_and_the_log_before_it_are_read_as_they_were(table):
    count = fill(table)
    pinned, version = table.pinned(), table.version
    table.compact(buckets=2)
    assert (pinned.version, pinned.buckets, len(pinned.files())) == (version, 4, 11)
    assert facts(pinned.read()) == facts(numbered(1, count))
    past = OfflineTable(table.directory, SCHEMA, at_version=version)
    assert (past.buckets, facts(past.read())) == (4, facts(numbered(1, count)))


@pytest.mark.parametrize(("before", "after"), [(1, 8), (8, 1), (2, 16), (16, 4), (4, 4)])
def test_the_number_of_buckets_changes_in_one_commit(tmp_path, before, after):
    table = OfflineTable(tmp_path / "weather", SCHEMA, buckets=before)
    count = fill(table)
    version = table.version
    report = OfflineTable(table.directory, SCHEMA).compact(buckets=after)
    assert (report.buckets, report.version) == (after, version + 1)
    check_layout(table, after)
    assert facts(table.read()) == facts(numbered(1, count))
    OfflineTable(table.directory, SCHEMA).load(numbered(count + 1, 30))
    check_layout(table, after, one_file=False)


def test_the_number_of_buckets_is_a_power_of_two(table):
    table.load(numbered(1, 10))
    for wrong in (3, 2048, -4):
        with pytest.raises(InvalidArgumentError, match="power of two from 1 to 1024"):
            table.compact(buckets=wrong)
    with pytest.raises(InvalidArgumentError, match="12 buckets"):
        OfflineTable(table.directory, SCHEMA, buckets=12)


def test_a_small_table_is_one_bucket_and_a_large_one_is_split_when_it_is_compacted(tmp_path, monkeypatch):
    table = OfflineTable(tmp_path / "weather", SCHEMA)
    table.load(numbered(1, 50))
    assert (table.buckets, len(table.files())) == (1, 1)
    monkeypatch.setattr(compaction, "suitable_buckets", lambda rows, size: 4)
    assert table.compact().rows == 0
    monkeypatch.setattr(compaction, "suitable_buckets", lambda rows, size: 8)
    assert table.tend().buckets == 8
    check_layout(table, 8)
    monkeypatch.setattr(compaction, "suitable_buckets", lambda rows, size: 1)
    fixed = OfflineTable(table.directory, SCHEMA, buckets=8)
    assert fixed.tend() is None
    assert table.tend().buckets == 1


def test_a_table_tends_itself_when_its_recent_run_is_large(table, monkeypatch):
    monkeypatch.setattr(compaction, "RECENT_ROWS", 30)
    table.load(numbered(1, 100))
    table.append(numbered(101, 30), fold=130)
    assert table.tend() is None
    table.append(numbered(131, 1), fold=131)
    assert table.tend().files == 4
    assert table.tend() is None
    assert facts(table.read()) == facts(numbered(1, 131))


def test_many_small_appends_become_one_file_and_buckets_stay(table, monkeypatch):
    monkeypatch.setattr(compaction, "MOST_RECENT_FILES", 3)
    table.load(numbered(1, 100))
    settled = {file.path for file in table.files()}
    for number in range(101, 106):
        table.append(numbered(number, 1), fold=number)
    report = table.tend()
    assert (report.rows, report.files_before, report.files) == (5, 9, 5)
    assert settled < {file.path for file in table.files()}
    check_layout(table, 4, one_file=False)
    assert (facts(table.read()), table.fold_position) == (facts(numbered(1, 105)), 105)


def test_a_long_recent_run_is_read_in_parts(table, monkeypatch):
    monkeypatch.setattr(compaction, "ROWS_AT_ONCE", 50)
    for number in range(1, 200, 40):
        table.append(numbered(number, 40), fold=number)
    read = []
    real = compaction.read_data_file
    monkeypatch.setattr(compaction, "read_data_file", lambda *a, **k: read.append(a) or real(*a, **k))
    table.compact()
    assert len(read) == 5 * 4
    check_layout(table, 4)
    assert facts(table.read()) == facts(numbered(1, 200))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["load", "append", "compact", "1", "2", "8"]), st.integers(0, 12)), max_size=9)
)
def test_any_order_of_loads_appends_and_compactions_keeps_every_row_once(tmp_path_factory, steps):
    table = OfflineTable(tmp_path_factory.mktemp("table") / "weather", SCHEMA, buckets=2)
    table.append(rows(), fold=1)
    count = 0
    for fold, (step, size) in enumerate(steps, start=2):
        if step == "load":
            table.load(numbered(count + 1, size))
            count += size
        elif step == "append":
            assert table.append(numbered(count + 1, size), fold=fold)
            count += size
        else:
            table.compact(buckets=int(step) if step.isdigit() else None)
            check_layout(table, table.buckets)
    assert facts(table.read()) == facts(numbered(1, count))


# --- races -------------------------------------------------------------------------------------------------------------------------------


def race(table, *tasks):
    """Let processes work on a table at once; return how often each did what it was told. A task is (what, first seq, rows, times)."""
    runners = []
    for task in tasks:
        ours, theirs = PROCESSES.Pipe()
        process = PROCESSES.Process(target=work, args=(str(table.directory), *task, theirs))
        process.start()
        runners.append((process, ours))
    for _, pipe in runners:
        assert pipe.recv() == "ready"
    for _, pipe in runners:
        pipe.send("go")
    done = [pipe.recv() for _, pipe in runners]
    for process, _ in runners:
        process.join()
        assert process.exitcode == 0
    return done


def test_of_racing_compactions_one_wins_and_no_row_is_lost_or_doubled(table):
    count = fill(table, loads=4, appends=4)
    assert sum(race(table, ("compact", 0, 0, 1), ("compact", 0, 0, 1), ("compact", 0, 0, 1))) == 1
    check_layout(table, 4)
    assert facts(table.read()) == facts(numbered(1, count))
    named = {file.path for file in table.files()} | {
        table.directory / json.loads(line)["add"]["path"]
        for commit in (table.directory / "_delta_log").glob("*.json")
        for line in commit.read_text().splitlines()
        if "add" in json.loads(line)
    }
    assert set(table.directory.rglob("*.parquet")) - set((table.directory / "_delta_log").iterdir()) == named


def test_two_writers_of_twenty_commits_each_lose_nothing_beside_a_compaction(table):
    table.append(numbered(1, 1), fold=1)
    done = race(table, ("load", 1001, 5, 20), ("load", 2001, 5, 20), ("append", 3001, 5, 20), ("compact", 0, 0, 6))
    assert done[:3] == [20, 20, 20]
    expected = [*numbered(1, 1)[SEQ].to_pylist()]
    expected += [*range(1001, 1101), *range(2001, 2101), *range(3001, 3101)]
    assert sorted(table.read([SEQ])[SEQ].to_pylist()) == expected
    table.compact()
    check_layout(table, 4)
    assert sorted(table.read([SEQ])[SEQ].to_pylist()) == expected


def test_loads_beside_a_change_of_buckets_all_arrive_in_the_right_bucket(table):
    count = fill(table)
    done = race(table, ("load", 1001, 5, 10), ("8", 0, 0, 2), ("2", 0, 0, 2), ("append", 3001, 2, 10))
    assert (done[0], done[3]) == (10, 10)
    check_layout(table, table.buckets, one_file=False)
    expected = [*range(1, count + 1), *range(1001, 1051), *range(3001, 3021)]
    assert sorted(table.read([SEQ])[SEQ].to_pylist()) == expected


# --- vacuum ------------------------------------------------------------------------------------------------------------------------------


def age(table, hours=2):
    """Let every file in the table's folder be old."""
    past = time.time() - hours * 3600
    for path in table.directory.rglob("*"):
        os.utime(path, (past, past))


def test_a_vacuum_removes_what_was_replaced_and_what_a_killed_writer_left(table):
    count = fill(table)
    replaced = {str(file.path.relative_to(table.directory)) for file in table.files()}
    table.compact()
    draft = table.directory / "recent" / f"{'0' * 32}{DRAFT}"
    draft.write_bytes(b"half")
    age(table)
    removed = table.vacuum(older_than=timedelta(0))
    assert set(removed) == replaced | {f"recent/{draft.name}"}
    assert {file.path for file in table.files()} == set(table.directory.glob("[br]*/*"))
    assert facts(table.read()) == facts(numbered(1, count))


def test_a_vacuum_keeps_what_is_young_and_what_it_is_told_to_keep(table):
    fill(table)
    pinned = table.pinned()
    table.compact()
    assert table.vacuum(older_than=timedelta(0)) == [], "written within the hour"
    age(table)
    assert table.vacuum() == [], "replaced within seven days"
    listed = [str(file.path.relative_to(table.directory)) for file in pinned.files()]
    assert table.vacuum(keep=listed, older_than=timedelta(0)) == []
    assert len(pinned.read()) == 200
    table.vacuum(keep=listed[1:], older_than=timedelta(0))
    assert [file.path.exists() for file in pinned.files()] == [False] + [True] * (len(listed) - 1)
    with pytest.raises(InvalidArgumentError, match="negative"):
        table.vacuum(older_than=timedelta(-1))


# --- other readers -----------------------------------------------------------------------------------------------------------------------


def seen_by_polars(table):
    return (
        pl.scan_delta(str(table.directory)).select("origin", EVENT, CREATED, "temp", "count", SEQ).collect().to_arrow()
    )


def seen_by_delta(table):
    return deltalake.DeltaTable(table.directory).to_pyarrow_table(
        columns=["origin", EVENT, CREATED, "temp", "count", SEQ]
    )


def seen_by_duckdb(table):
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        files = connection.read_parquet([str(file.path) for file in table.files()], union_by_name=True)
        return files.select(f"origin, {EVENT}, {CREATED}, temp, count, {SEQ}").to_arrow_table()


@pytest.mark.parametrize("reader", [seen_by_polars, seen_by_delta, seen_by_duckdb])
def test_other_readers_see_the_same_rows_after_everything_that_can_happen_to_a_table(table, reader):
    def check():
        names = ["origin", EVENT, CREATED, "temp", "count", SEQ]
        assert facts(reader(table).select(names)) == facts(wider.read(names))

    wider = OfflineTable(table.directory, WIDER, buckets=4)
    fill(table)
    check()
    table.compact()
    check()
    wider.append(rows(("JFK", 9, None, 1.0, 1, 2.5, 900), schema=WIDER), fold=900)
    check()
    wider.compact(buckets=8)
    check()
    assert wider.read(["wind"])["wind"].null_count == len(wider.read()) - 1
    assert pa.types.is_float64(pa.table(pl.scan_delta(str(table.directory)).collect().to_arrow())["wind"].type)
