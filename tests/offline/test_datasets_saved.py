"""A dataset is saved once, whole, with all it takes to make it again; old manifests are read, and damage is named."""

import fcntl
import json
import os
import platform
import subprocess
from importlib.metadata import version

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_project import FEATURES, NOON

from featurestore import FeatureStore
from featurestore.errors import (
    ConflictError,
    CorruptionError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
)
from featurestore.offline.datasets import load_dataset, save_dataset, table_digest

WANTED = ["weather:temp", "weather:visib", "comfort:felt"]


@pytest.fixture
def store(project):
    with FeatureStore(project, consumer="model@1", clock=lambda: 7) as opened:
        opened.apply()
        opened.ingest("weather")
        yield opened


@pytest.fixture
def training_set(store):
    return store.get_historical_features(spine(), WANTED)


def spine(origins=("JFK", "LGA", "XXX"), **more):
    times = pa.array([NOON] * len(origins), pa.timestamp("us", "UTC"))
    return pa.table({"origin": list(origins), "bonus": [1.0] * len(origins), "event_timestamp": times, **more})


def edit_manifest(dataset, change):
    path = dataset.directory / "manifest.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_a_saved_dataset_is_there_with_its_spine_and_its_values(store, training_set):
    saved = store.save("first", training_set, seed=42)
    loaded = store.dataset("first")
    assert loaded == saved == store.save("first", training_set)
    assert loaded.to_arrow().equals(training_set.to_arrow())
    assert loaded.spine().equals(spine())
    assert len(loaded) == 3
    assert loaded.to_polars().columns == loaded.schema().names == loaded.to_arrow().column_names
    assert loaded.to_pandas()["visib"].isna().tolist() == [False, False, True]
    assert loaded.to_numpy()["visib"].dtype == "int32"


def test_the_manifest_says_what_it_was_made_from(store, training_set):
    manifest = store.save("first", training_set, seed=42).manifest
    assert [(f.name, f.ref) for f in manifest.features] == [
        ("temp", "weather@v1:temp"),
        ("visib", "weather@v1:visib"),
        ("felt", "comfort@v1:felt"),
    ]
    table = store.table(training_set.plan.views[0].ref)
    (source,) = manifest.sources
    assert (source.view, source.version, source.folder) == ("weather@v1", table.version, "offline/weather/v1")
    assert source.files == tuple(str(file.path.relative_to(table.directory)) for file in table.files())
    assert source.state(store.settings.store) == table.state()
    assert (manifest.seed, manifest.consumer, manifest.saved_at, manifest.rows) == (42, "model@1", 7, 3)
    assert (manifest.timestamp, manifest.request) == ("event_timestamp", (("bonus", "float64"),))
    assert manifest.python == platform.python_version()
    assert manifest.libraries["pyarrow"] == version("pyarrow")
    assert (manifest.digest, set(manifest.columns)) == (
        table_digest(training_set.to_arrow()),
        set(training_set.to_arrow().column_names),
    )
    assert manifest.code is None


def test_the_plan_can_be_made_again_from_the_manifest_alone(store, training_set):
    assert store.save("first", training_set).manifest.read_plan().fingerprint == training_set.plan.fingerprint


@pytest.mark.parametrize("full", [False, True])
def test_services_with_roles_and_full_names_are_frozen_too(store, project, full):
    (project / "features.py").write_text(
        FEATURES.replace(
            "features=[weather, comfort]",
            'features=[weather[["temp"]], weather.alias("far", join_keys={"origin": "dest"})[["visib"]], comfort]',
        )
    )
    store.apply()
    read = store.get_historical_features(spine(dest=["LGA", "JFK", None]), "model_features", full_feature_names=full)
    manifest = store.save("roles", read).manifest
    assert manifest.full_feature_names is full
    again = manifest.read_plan()
    assert (again.fingerprint, again.outputs, again.key_sets) == (
        read.plan.fingerprint,
        read.plan.outputs,
        read.plan.key_sets,
    )


def test_the_registry_keeps_what_lineage_needs(store, training_set):
    saved = store.save("first", training_set)
    record = store.snapshot().document.datasets["first"]
    assert record == saved.record()
    assert record.refs == ("weather@v1:temp", "weather@v1:visib", "comfort@v1:felt")
    assert (record.rows, record.saved_at, record.consumer, record.digest) == (3, 7, "model@1", saved.manifest.digest)
    assert (record.revision, record.sources) == (
        training_set.plan.revision,
        {"weather@v1": 0 + saved.manifest.sources[0].version},
    )


def test_the_commit_of_the_project_is_kept_and_whether_it_was_changed(store, project, training_set):
    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
        done = subprocess.run(["git", *identity, *arguments], cwd=project, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "-q")
    assert store.save("before_any_commit", training_set).manifest.code is None
    git("add", "features.py")
    git("commit", "-q", "-m", "first")
    clean = store.save("clean", training_set).manifest.code
    assert (clean.commit, clean.dirty) == (git("rev-parse", "HEAD"), False)
    assert store.snapshot().document.datasets["clean"].commit == clean.commit
    (project / "features.py").write_text(FEATURES + "\n")
    assert store.save("dirty", training_set).manifest.code.dirty


def test_a_name_is_given_once(store, training_set):
    store.save("first", training_set)
    with pytest.raises(ConflictError, match="new name"):
        store.save("first", store.get_historical_features(spine(["LGA"]), WANTED))
    same_values = store.get_historical_features(spine(), WANTED, knowledge="latest")
    assert store.save("first", same_values).manifest.knowledge == "as_known", "the one that is there"
    for name in ("", "a/b", "..", ".x", "a b"):
        with pytest.raises(InvalidArgumentError, match="not allowed"):
            store.save(name, training_set)
        with pytest.raises(NotFoundError):
            store.dataset(name)
    with pytest.raises(NotFoundError, match="Did you mean 'first'"):
        store.dataset("frist")


def test_columns_of_any_type_come_back_with_the_spine(store):
    more = {
        "tags": pa.array([["a", None], [], None]),
        "place": pa.array([{"x": 1.0, "y": [1, 2]}, None, {"x": None, "y": None}]),
        "vector": pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32(), 2)),
        "group": pa.array(["a", "b", "a"]).dictionary_encode(),
        "count": pa.array([1, 2, None], pa.uint64()),
    }
    store.save("nested", store.get_historical_features(spine(**more), WANTED))
    assert store.dataset("nested").to_arrow().select(list(more)).to_pydict() == pa.table(more).to_pydict()
    assert store.dataset("nested").verify().equal
    interval = pa.array([(1, 2, 3)] * 3, pa.month_day_nano_interval())
    with pytest.raises(InvalidArgumentError):
        store.save("interval", store.get_historical_features(spine(interval=interval), WANTED))
    assert [path.name for path in (store.settings.store / "datasets").iterdir()] == ["nested"]


def test_a_manifest_of_schema_1_loads_and_its_values_verify(store, training_set):
    saved = store.save("first", training_set)
    (saved.directory / "spine.parquet").unlink()
    kept = {
        "name", "saved_at", "consumer", "rows", "digest", "spine_digest", "plan", "revision", "features", "sources",
        "knowledge", "position", "engine", "libraries",
    }  # fmt: skip

    def to_schema_1(document):
        for name in set(document) - kept:
            del document[name]
        document["schema_version"] = 1
        document["sources"] = [{name: s[name] for name in ("view", "version", "files")} for s in document["sources"]]

    edit_manifest(saved, to_schema_1)
    old = store.dataset("first")
    old.check()
    assert old.to_arrow().equals(training_set.to_arrow())
    assert old.spine().equals(spine())
    with pytest.raises(FailedPreconditionError, match="before definitions were kept"):
        old.verify()


def test_a_manifest_of_a_newer_schema_is_refused(store, training_set):
    edit_manifest(store.save("first", training_set), lambda document: document.update(schema_version=99))
    with pytest.raises(CorruptionError, match=r"schema_version 99.*manifest.json.*Upgrade"):
        store.dataset("first")


def test_a_damaged_dataset_is_named(store, training_set):
    saved = store.save("first", training_set)
    for file in ("data.parquet", "spine.parquet"):
        path = saved.directory / file
        good = path.read_bytes()
        path.write_bytes(good[:-9])
        with pytest.raises(CorruptionError, match=rf"'first'.*{file}"):
            saved.verify()
        path.unlink()
        with pytest.raises(CorruptionError, match=rf"'first'.*{file}"):
            saved.verify()
        path.write_bytes(good)
    (saved.directory / "manifest.json").write_text("{")
    with pytest.raises(CorruptionError, match=r"manifest\.json"):
        store.dataset("first")


def test_a_flipped_byte_is_named_or_harmless_and_never_another_value(store, training_set):
    saved = store.save("first", training_set)
    path = saved.directory / "data.parquet"
    good, named = path.read_bytes(), 0
    for place in range(0, len(good), 11):
        path.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
        try:
            saved.check()
        except CorruptionError as error:
            assert "data.parquet" in str(error)  # noqa: PT017
            named += 1
        else:
            assert saved.to_arrow().to_pydict() == training_set.to_arrow().to_pydict()
    assert named > len(good) / 11 / 2


def test_a_stream_is_saved_part_by_part_as_the_whole_set_would_be(store):
    rows = 200_000  # more than a part, and than a block of the digest
    asked = spine(["JFK", "LGA"] * (rows // 2), row=pa.array(range(rows)))
    whole = store.save("whole", store.get_historical_features(asked, WANTED))
    parts = []
    stream = store.stream_historical_features(asked, WANTED, memory_limit=1, progress=parts.append)
    streamed = store.save("streamed", stream)
    assert len(parts) > 5
    assert (streamed.manifest.digest, streamed.manifest.columns) == (whole.manifest.digest, whole.manifest.columns)
    assert streamed.manifest.spine_digest == whole.manifest.spine_digest
    assert streamed.to_arrow().equals(whole.to_arrow())
    assert pa.Table.from_batches(streamed.batches(1000)).equals(whole.to_arrow())
    assert streamed.verify().rows == len(streamed) == rows
    again = store.save("streamed", store.stream_historical_features(asked, WANTED, memory_limit=1))
    assert again == streamed


def test_a_stream_without_rows_is_saved(store):
    saved = store.save("none", store.stream_historical_features(spine().slice(0, 0), WANTED))
    assert (len(saved), saved.verify().equal) == (0, True)
    assert saved.manifest.digest == table_digest(saved.to_arrow())


def test_other_values_under_the_same_name_are_seen(store, training_set):
    saved = store.save("first", training_set)
    table = training_set.to_arrow()
    pq.write_table(table.set_column(4, "visib", pa.array([3, 8, None], pa.int32())), saved.directory / "data.parquet")
    with pytest.raises(CorruptionError, match=r"has the digest .*data.parquet"):
        saved.verify()


def test_a_dataset_is_deleted_unless_a_model_names_it(store, project, training_set):
    (project / "features.py").write_text(FEATURES.replace('version="1",', 'version="1", dataset="first",'))
    saved = store.save("first", training_set)
    store.save("other", training_set)
    store.apply()
    with pytest.raises(FailedPreconditionError, match=r"model@1 was trained on.*--force"):
        store.delete_dataset("first")
    assert store.dataset("first") == saved
    store.delete_dataset("other")
    store.delete_dataset("first", force="the model is gone")
    assert (store.datasets(), list(saved.directory.parent.iterdir())) == ([], [])
    assert ("delete", "dataset first", "the model is gone") in [
        (change.kind, change.object, change.detail) for _, change in store.registry.log()
    ]
    with pytest.raises(NotFoundError):
        store.delete_dataset("first")


def test_a_dataset_that_was_saved_and_not_registered_is_registered_by_the_next_save(store, training_set):
    folder = store.settings.store / "datasets"
    save_dataset("first", training_set, folder, now=1)
    assert store.datasets() == []
    assert store.save("first", training_set).manifest.saved_at == 1
    assert store.datasets() == ["first"]
    assert load_dataset("first", folder).manifest.saved_at == 1


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_writes_is_not(store, training_set):
    datasets = store.settings.store / "datasets"
    for name in (".first-dead", ".first-living"):
        (datasets / name).mkdir(parents=True)
        (datasets / name / "data.parquet").write_bytes(b"half")
    held = os.open(datasets / ".first-living", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(NotFoundError, match="There is no dataset yet"):
        store.dataset("first")
    store.save("first", training_set)
    assert sorted(path.name for path in datasets.iterdir()) == [".first-living", "first"]
    os.close(held)
    store.save("second", training_set)
    assert sorted(path.name for path in datasets.iterdir()) == ["first", "second"]
