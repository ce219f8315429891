"""Upkeep of a project's tables: by command, by itself after an ingest, and never at the cost of a dataset or a reader."""

import json
import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_project import NOON

from featurestore import FeatureStore
from featurestore.cli import main
from featurestore.errors import FailedPreconditionError, NotFoundError
from featurestore.flow.upkeep import files_of_datasets
from featurestore.flow.write import Writer
from featurestore.offline import compaction, vacuum
from featurestore.refs import ViewRef

WEATHER = ViewRef("weather", 1)
SPINE = {"origin": ["JFK", "LGA"], "event_timestamp": [NOON, NOON]}


@pytest.fixture
def store(project):
    with FeatureStore(project) as store:
        store.apply()
        store.ingest("weather")
        yield store


def observe(store, number):
    """Ingest one more row of weather."""
    path = store.settings.root / "data" / "weather.parquet"
    rows = pq.read_table(path)
    more = rows.slice(0, 1).set_column(rows.column_names.index("temp"), "temp", pa.array([float(number)]))
    pq.write_table(pa.concat_tables([rows, more]), path)
    return store.ingest("weather")


def files(store):
    return {file.path for file in store.table(WEATHER).files()}


def test_compact_makes_one_file_and_a_vacuum_keeps_what_a_dataset_lists(store, monkeypatch):
    observe(store, 1)
    listed = files(store)
    dataset = store.save("summer", store.get_historical_features(SPINE, ["weather:temp"]))
    observe(store, 2)
    unlisted = files(store) - listed
    (report,) = store.compact("weather")
    assert (report.view, report.rows, report.files_before, report.files, report.removed) == ("weather@v1", 5, 3, 1, 0)
    for path in store.table(WEATHER).directory.rglob("*"):
        os.utime(path, (0, 0))
    real = vacuum.TableLog.unnamed_files
    monkeypatch.setattr(vacuum.TableLog, "unnamed_files", lambda log, older_than: real(log, older_than * 0))
    assert store.compact("weather", vacuum=True)[0].removed == 1
    assert [path.exists() for path in unlisted] == [False]
    assert all(path.exists() for path in listed)
    assert dataset.rebuild().equal
    shutil.rmtree(dataset.directory)
    assert store.compact("weather", vacuum=True)[0].removed == 2


def test_the_files_of_a_dataset_are_told_for_the_right_table(store):
    store.save("summer", store.get_historical_features(SPINE, ["weather:temp"]))
    table = store.table(WEATHER)
    named = {str(path.relative_to(table.directory)) for path in files(store)}
    assert files_of_datasets(store.settings.store / "datasets", table) == named
    assert files_of_datasets(store.settings.store / "datasets", store.table(ViewRef("payments", 1))) == set()


def test_compacting_a_view_that_has_no_rows_or_is_unknown_says_so(store):
    with pytest.raises(FailedPreconditionError, match="never filled"):
        store.compact("payments")
    with pytest.raises(NotFoundError, match="Did you mean 'weather'"):
        store.compact("wether")


def test_an_ingest_compacts_a_table_whose_buckets_are_many_files(store, monkeypatch):
    monkeypatch.setattr(compaction, "MOST_FILES_OF_A_BUCKET", 2)
    observe(store, 1)
    assert len(files(store)) == 2
    observe(store, 2)
    assert len(files(store)) == 1


def test_the_command_says_what_was_done(store, project, capsys):
    observe(store, 1)
    with pytest.raises(SystemExit) as ended:
        main(["compact", "weather", "--buckets", "2", "--format", "json", "--project", str(project)])
    assert not ended.value.code
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["view"], row["rewritten"], row["buckets"]) == ("weather@v1", 4, 2)


def test_a_training_read_needs_no_writer_when_no_row_waits_to_be_folded(store, monkeypatch):
    def refuse(*_):
        raise AssertionError("the writer was opened")

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "__init__", refuse)
        assert store.get_historical_features(SPINE, ["weather:temp"]).to_arrow()["temp"].to_pylist() == [55.5, None]
    batch = {"user_id": [1], "paid_at": [NOON], "amount": [2.0], "payment_id": ["a"]}
    store.write("payments", pa.table(batch | {"paid_at": pa.array([NOON], pa.timestamp("us", "UTC"))}))
    spine = {"user_id": [1], "event_timestamp": [NOON]}
    read = store.get_historical_features(spine, ["payments:count_amount_30000d"])
    assert read.to_arrow()["count_amount_30000d"].to_pylist() == [1]
