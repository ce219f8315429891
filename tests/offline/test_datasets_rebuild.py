"""A dataset is made again from its frozen plan and its listed files, whatever happened to the store since; a difference is named."""

import json
import os
import random
import shutil
from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_project import FEATURES, NOON

from featurestore import FeatureStore
from featurestore.cli import main
from featurestore.errors import CorruptionError, FailedPreconditionError
from featurestore.flow.upkeep import files_of_datasets
from featurestore.offline.data_files import write_data_file
from featurestore.offline.datasets import diff_datasets, load_dataset
from featurestore.refs import ViewRef
from featurestore.rows import RowSchema

HOUR = timedelta(hours=1)
INSTANT = pa.timestamp("us", "UTC")


@pytest.fixture
def store(project):
    with FeatureStore(project) as opened:
        opened.apply()
        opened.ingest("weather")
        opened.write("payments", payments([1, 1, 2], [1.25, 2.5, 4.0]))
        yield opened


@pytest.fixture
def dataset(store):
    return save(store, "first")


def payments(users, amounts, at=NOON - HOUR, first=0):
    count = len(users)
    return {
        "user_id": users,
        "paid_at": pa.array([at] * count, INSTANT),
        "payment_id": [f"p{first + n}" for n in range(count)],
        "amount": amounts,
    }


def weather(temps, origin="JFK", observed=NOON - HOUR, reported=NOON - HOUR / 2):
    count = len(temps)
    return {
        "origin": [origin] * count,
        "observed_at": pa.array([observed] * count, INSTANT),
        "reported_at": pa.array([reported] * count, INSTANT),
        "temp": pa.array(temps, pa.float64()),
        "visib": pa.array([1] * count, pa.int32()),
    }


def spine():
    return pa.table(
        {
            "origin": ["JFK", "LGA", "JFK", None, "XXX"],
            "user_id": [1, 2, 3, 1, None],
            "bonus": [0.5, None, 1.0, 2.0, 3.0],
            "event_timestamp": pa.array([NOON, NOON, NOON - 4 * HOUR, NOON, NOON], INSTANT),
        }
    )


def save(store, name, **options):
    return store.save(name, store.get_historical_features(spine(), wanted(store), **options))


def wanted(store):
    """Every feature of the first versions: stored, folded and computed."""
    document = store.snapshot().document
    return [
        f"{view}@v1:{feature.name}"
        for view in ("weather", "payments", "comfort")
        for feature in document.views[view].versions[1].features
    ]


def proves(dataset):
    """The dataset verifies by each engine, and the rebuild has the digests of the save."""
    for engine in ("kernel", "duckdb"):
        found = dataset.verify(engine=engine)
        assert (found.equal, found.columns, found.engine) == (True, dataset.manifest.columns, engine)
    return True


def test_a_fresh_dataset_is_made_again(store, dataset):
    assert proves(dataset)
    assert dataset.to_arrow()["temp"].to_pylist() == [55.5, None, 50.0, None, None]
    found = dataset.verify()
    assert (found.engine, found.rows, found.libraries) == (dataset.manifest.engine, 5, {})


@pytest.mark.parametrize("knowledge", ["as_known", "latest"])
def test_later_writes_and_corrections_do_not_leak(store, knowledge):
    dataset = save(store, "kept", knowledge=knowledge)
    before = dataset.to_arrow()
    store.write("weather", weather([99.0]))
    store.write(
        "weather", weather([98.0], observed=NOON - 2 * HOUR, reported=NOON)
    )  # a correction of a row that was read
    store.write("payments", payments([1, 3], [100.0, 100.0], first=10))
    now = save(store, "now", knowledge=knowledge).to_arrow()
    assert now["temp"].to_pylist() != before["temp"].to_pylist(), "the store itself has moved on"
    assert dataset.to_arrow().equals(before)
    assert proves(dataset)
    assert proves(store.dataset("now"))


def test_a_dataset_as_it_was_served_is_made_again(store):
    position = store.table(ViewRef("weather", 1)).read(["__seq"])["__seq"].to_pylist()
    dataset = save(store, "served", knowledge="as_served", position=max(position))
    store.write("weather", weather([99.0]))
    assert proves(dataset)


def test_a_log_that_forgot_the_version_is_not_needed(store, dataset):
    for _ in range(3):
        store.write("weather", weather([99.0]))
        save(store, f"later_{store.table(ViewRef('weather', 1)).version}")
    for log in (store.settings.store / "offline").rglob("_delta_log"):
        shutil.rmtree(log)
    assert proves(dataset)


@pytest.mark.parametrize("buckets", [None, 1, 64])
def test_compaction_other_buckets_and_vacuum_do_not_matter(store, dataset, buckets):
    store.write("weather", weather([99.0]))
    store.write("payments", payments([1], [7.0], first=20))
    save(store, "later")
    removed = []
    for ref in (ViewRef("weather", 1), ViewRef("payments", 1)):
        store.write(ref.view, weather([98.0]) if ref.view == "weather" else payments([2], [8.0], first=30))
        save(store, f"with_{ref.view}")
        store.delete_dataset(f"with_{ref.view}")  # what only this one listed may go
        table = store.table(ref)
        table.compact(buckets=buckets)
        for path in table.directory.rglob("*.parquet"):
            os.utime(path, (0, 0))
        listed = files_of_datasets(dataset.directory.parent, table)
        removed += table.vacuum(keep=listed, older_than=timedelta(0))
    assert removed, "some files went"
    assert proves(dataset)
    assert proves(store.dataset("later"))


def test_the_registry_is_not_needed(store, dataset):
    store.close()
    (store.settings.store / "registry.db").unlink()
    assert proves(load_dataset("first", dataset.directory.parent))


def test_a_moved_project_verifies(store, dataset, tmp_path_factory):
    moved = tmp_path_factory.mktemp("elsewhere") / "project"
    store.close()
    shutil.move(store.settings.root, moved)
    assert proves(load_dataset("first", moved / "store" / "datasets"))


def test_new_versions_promotion_and_retirement_do_not_matter(store, project, dataset):
    (project / "features.py").write_text(FEATURES.replace('unit="degF"', 'unit="degC"'))
    rows = pq.read_table(project / "data" / "weather.parquet")
    pq.write_table(rows.set_column(3, "temp", pa.array([10.0, 13.1, None])), project / "data" / "weather.parquet")
    store.apply()
    store.ingest("weather@v2")
    assert proves(dataset)
    store.promote("weather@v2", move=["model_features"], force="a rehearsal")
    assert proves(dataset)
    store.retire("weather@v1", force="moved")
    with pytest.raises(FailedPreconditionError, match="retired"):
        store.get_historical_features(spine(), ["weather@v1:temp"])
    assert proves(dataset)


def test_an_added_feature_does_not_matter(store, project, dataset):
    rows = pq.read_table(project / "data" / "weather.parquet")
    pq.write_table(rows.append_column("wind", pa.array([1.0, 2.0, 3.0])), project / "data" / "weather.parquet")
    (project / "features.py").write_text(
        FEATURES.replace(
            'Feature("visib", "int32", unit="mi")', 'Feature("visib", "int32", unit="mi"), Feature("wind", "float64")'
        )
    )
    store.apply()
    store.ingest("weather")
    store.materialize("weather")
    assert store.get_historical_features(spine(), ["weather:wind"]).to_arrow()["wind"].null_count < 5
    assert proves(dataset)


def test_a_changed_expression_does_not_matter(store, project, dataset):
    (project / "features.py").write_text(FEATURES.replace("temp + bonus", "temp - bonus"))
    store.apply()
    store.promote("comfort@v2", force="a rehearsal")
    assert proves(dataset)


def test_nested_features_are_made_again(store, project):
    (project / "features.py").write_text(
        FEATURES
        + """
songs = FeatureView(
    "songs", entity=user, source=PushSource("songs", event_timestamp="at"),
    features=[Feature("tags", "list<string>"), Feature("taste", "vector<float32,2>"), Feature("last", "struct<a:int64,b:list<float64>>")],
)
"""
    )
    store.apply()
    kinds = {
        "tags": pa.list_(pa.string()),
        "taste": pa.list_(pa.float32(), 2),
        "last": pa.struct([("a", pa.int64()), ("b", pa.list_(pa.float64()))]),
    }
    values = {
        "tags": [["a", None], [], None],
        "taste": [[1.0, float("nan")], None, [-0.0, 2.0]],
        "last": [{"a": 1, "b": [0.5]}, None, {"a": None, "b": None}],
    }
    rows = pa.table({"user_id": [1, 2, 3], "at": pa.array([NOON] * 3, INSTANT)})
    for name, kind in kinds.items():
        rows = rows.append_column(name, pa.array(values[name], kind))
    store.write("songs", rows)
    asked = {"user_id": [1, 2, 3, 4], "event_timestamp": [NOON] * 4}
    dataset = store.save("songs", store.get_historical_features(asked, [f"songs:{name}" for name in kinds]))
    assert dataset.to_arrow()["tags"].to_pylist() == [["a", None], [], None, None]
    store.write("songs", rows.set_column(2, "tags", pa.array([["b"], ["c"], ["d"]])))
    again = store.save("again", store.get_historical_features(asked, [f"songs:{name}" for name in kinds]))
    assert proves(dataset)
    assert proves(again)
    (changed,) = diff_datasets(dataset, again).values
    assert (changed.column, changed.changed, changed.examples[0][1:]) == ("tags", 3, (["a", None], ["b"]))


def test_random_histories_leave_a_dataset_as_it_was(store):
    chance = random.Random(5)
    saved = []
    for turn in range(6):
        times = [NOON - chance.randrange(1, 40) * HOUR for _ in range(20)]
        rows = [
            weather(
                [chance.choice([None, float(chance.randrange(9))])],
                chance.choice(["JFK", "LGA"]),
                at,
                at + HOUR * chance.randrange(3),
            )
            for at in times
        ]
        store.write("weather", pa.concat_tables([pa.table(row) for row in rows]))
        saved.append(save(store, f"turn_{turn}"))
    assert len({dataset.manifest.digest for dataset in saved}) > 1
    assert all(dataset.verify(engine=chance.choice(["kernel", "duckdb"])).equal for dataset in saved)


# --- planted faults ------------------------------------------------------------------------------------------------------------------


def view_file(dataset, view):
    (source,) = [source for source in dataset.manifest.sources if source.view == view]
    return dataset.store / source.folder / source.files[-1]


@pytest.mark.parametrize("view", ["weather@v1", "payments@v1"])
def test_a_listed_file_that_is_gone_or_damaged_is_named(store, dataset, view):
    path = view_file(dataset, view)
    good = path.read_bytes()
    path.write_bytes(good[:40] + bytes(20) + good[60:])
    with pytest.raises(CorruptionError, match=path.name):
        dataset.verify()
    path.unlink()
    with pytest.raises(CorruptionError, match=rf"'first' was made from a file of {view} that is gone.*{path.name}"):
        dataset.verify()


def other_rows(dataset, view, column, before, after):
    """Put another sound file in the place of the listed one that has this value: no checksum of it is wrong."""
    document = json.loads((dataset.directory / "manifest.json").read_text())
    (source,) = [source for source in document["sources"] if source["view"] == view]
    folder = dataset.store / source["folder"]
    record = dataset.manifest.read_plan().views[0].record
    for place, file in enumerate(source["files"]):
        rows = pq.read_table(folder / file)
        values = rows[column].to_pylist()
        if before in values:
            changed = pa.array([after if value == before else value for value in values], rows[column].type)
            rows = rows.set_column(rows.column_names.index(column), column, changed)
            written = write_data_file(folder, rows, RowSchema.of(record)).file
            source["files"][place] = str(written.path.relative_to(folder))
            source["details"][place] = {"bucket": None, "rows": written.rows, "size": written.size}
    (dataset.directory / "manifest.json").write_text(json.dumps(document))
    return load_dataset(dataset.name, dataset.directory.parent)


def test_rows_that_changed_underneath_are_found_by_column_row_and_value(project, dataset, capsys):
    dataset = other_rows(dataset, "weather@v1", "temp", 55.5, 55.25)
    found = dataset.rebuild()
    assert [(d.column, d.rows, d.first, d.saved, d.rebuilt) for d in found.differences] == [
        ("temp", 1, 0, 55.5, 55.25),
        ("felt", 1, 0, 56.0, 55.75),
    ]
    with pytest.raises(
        FailedPreconditionError, match=r"not reproduced: 'temp' in 1 rows, first in row 0: 55.5 was saved, 55.25"
    ):
        dataset.verify()
    assert run(capsys, "datasets", "verify", "first", "--project", str(project))[0] == 1
    code, out, _ = run(capsys, "datasets", "verify", "first", "--project", str(project), "--format", "json")
    answer = json.loads(out)
    assert (code, answer["equal"], answer["differences"][0]) == (
        1,
        False,
        {"column": "temp", "rows": 1, "first": 0, "saved": 55.5, "rebuilt": 55.25},
    )


def one_hour_to_live(manifest):
    manifest["definitions"]["views"]["weather"]["versions"]["1"]["ttl"] = HOUR // timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("change", "columns"),
    [
        (lambda manifest: manifest["sources"].__delitem__(0), None),
        (lambda manifest: manifest["columns"].update(temp="0" * 32), None),
        (lambda manifest: manifest.update(knowledge="latest"), set()),
        (one_hour_to_live, {"temp", "visib", "felt"}),
    ],
)
def test_a_manifest_that_was_changed_is_not_believed(store, dataset, change, columns):
    path = dataset.directory / "manifest.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    changed = store.dataset("first")
    if columns is None:
        with pytest.raises(CorruptionError, match="first"):
            changed.rebuild()
    else:
        assert {difference.column for difference in changed.rebuild().differences} == columns


def test_other_libraries_are_told(store, dataset):
    path = dataset.directory / "manifest.json"
    document = json.loads(path.read_text())
    document["libraries"] |= {"pyarrow": "1.0", "gone": "2.0"}
    path.write_text(json.dumps(document))
    found = store.dataset("first").verify()
    assert {name: then for name, (then, _) in found.libraries.items()} == {"pyarrow": "1.0", "gone": "2.0"}


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as done:
        main(list(arguments))
    captured = capsys.readouterr()
    return done.value.code, captured.out, captured.err


def test_the_command_says_that_all_is_equal(store, project, dataset, capsys):
    code, out, err = run(capsys, "datasets", "verify", "first", "--project", str(project), "--format", "json")
    assert (code, json.loads(out)["equal"], json.loads(out)["columns"]) == (0, True, dataset.manifest.columns)
    assert "a rebuild of 5 rows gives the same" in err
    code, out, _ = run(capsys, "datasets", "show", "first", "--project", str(project))
    assert (code, "weather@v1 at log version" in out, dataset.manifest.digest in out) == (0, True, True)
    code, out, _ = run(capsys, "datasets", "show", "first", "--project", str(project), "--format", "json")
    shown = json.loads(out)["dataset"]
    assert (shown["digest"], shown["saved_at"]) == (dataset.manifest.digest, dataset.manifest.saved_at)
    assert run(capsys, "datasets", "delete", "first", "--project", str(project))[0] == 0
    assert store.datasets() == []
