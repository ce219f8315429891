"""The facade on a real project: plan, apply, ingest, join, materialize, read, save, promote, retire."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import polars as pl
import pyarrow as pa
import pytest
from small_project import FEATURES, NOON

from featurestore import Entity, Feature, FeatureService, FeatureStore, FeatureView, Model, PushSource
from featurestore.errors import (
    AccessDeniedError,
    ConflictError,
    DefinitionError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
)
from featurestore.flow.clock_mark import set_clock
from featurestore.types import to_micros

HOUR = timedelta(hours=1)


@pytest.fixture
def store(project):
    with FeatureStore(project, consumer="model@1") as opened:
        opened.apply()
        yield opened


@pytest.fixture
def filled(store):
    store.ingest("weather")
    store.materialize()
    return store


def spine(*times, origin="JFK", **more):
    return {
        "origin": [origin] * len(times),
        "event_timestamp": list(times),
        **{k: [v] * len(times) for k, v in more.items()},
    }


def test_a_project_needs_its_file(tmp_path):
    with pytest.raises(NotFoundError, match="featurestore init"):
        FeatureStore(tmp_path)


def test_a_read_before_the_first_ingest_says_the_command(store):
    with pytest.raises(FailedPreconditionError, match="featurestore ingest weather"):
        store.get_historical_features(spine(NOON), ["weather:temp"])
    with pytest.raises(FailedPreconditionError, match="featurestore materialize"):
        store.get_online_features(["weather:temp"], {"origin": ["JFK"]})


def test_a_report_that_was_not_out_yet_is_not_known(filled):
    found = filled.get_historical_features(spine(NOON - 3 * HOUR, NOON - 1.5 * HOUR, NOON), ["weather:temp"])
    assert found.to_arrow()["temp"].to_pylist() == [50.0, 50.0, 55.5]


def test_the_newest_knowledge_can_be_asked_for(filled):
    found = filled.get_historical_features(spine(NOON - 1.5 * HOUR), ["weather:temp"], knowledge="latest")
    assert found.to_arrow()["temp"].to_pylist() == [55.5]


def test_online_and_offline_agree_through_an_on_demand_feature(filled):
    online = filled.get_online_features(
        "model_features", {"origin": ["JFK", "LGA", "XXX"]}, request={"bonus": [1.0, 2.0, 3.0]}
    )
    keys = {"origin": ["JFK", "LGA", "XXX"], "bonus": [1.0, 2.0, 3.0], "event_timestamp": [NOON] * 3}
    offline = filled.get_historical_features(keys, "model_features").to_arrow()
    assert online.to_dict() == {name: offline[name].to_pylist() for name in ("temp", "visib", "felt")}
    assert online.to_dict()["felt"] == [56.5, None, None]
    assert online.status["temp"].tolist() == ["PRESENT", "NULL", "NOT_FOUND"]


def test_pushed_rows_that_are_still_in_the_row_log_are_rows(project):
    entity = Entity("user", {"user_id": "int64"})
    score = FeatureView("score", entity, PushSource("score"), [Feature("a", "float64")])
    with FeatureStore(project) as store:
        store.apply([entity, score])
        store.write("score", {"user_id": [1], "event_timestamp": [NOON - HOUR], "a": [1.5]})
        store.apply([entity, replace(score, features=[*score.features, Feature("b", "float64")])])
        assert store.get_online_features(["score:a"], {"user_id": [1]}).to_dict() == {"a": [1.5]}
        with pytest.raises(FailedPreconditionError, match="not filled yet"):
            store.get_online_features(["score:b"], {"user_id": [1]})
        assert [(report.view, report.rows) for report in store.materialize("score")] == [("score@v1", 1)]
        assert store.get_online_features(["score:a", "score:b"], {"user_id": [1]}).to_dict() == {
            "a": [1.5],
            "b": [None],
        }


def test_a_version_that_a_service_selects_is_not_retired(project):
    entity = Entity("user", {"user_id": "int64"})
    score = FeatureView("score", entity, PushSource("score"), [Feature("a", "float64")])
    with FeatureStore(project) as store:
        store.apply([entity, score, FeatureService("scores", [score])])
        with pytest.raises(FailedPreconditionError, match="service scores selects it"):
            store.retire("score@v1")


def test_a_pushed_row_is_in_the_next_training_set(store):
    store.write("payments", {"user_id": [1], "payment_id": ["a"], "paid_at": [NOON - HOUR], "amount": [2.5]})
    rows = {"user_id": [1, 2], "event_timestamp": [NOON, NOON]}
    found = store.get_historical_features(
        rows, ["payments:sum_amount_30000d", "payments:count_amount_30000d"]
    ).to_arrow()
    assert found["sum_amount_30000d"].to_pylist() == [2.5, None]
    assert found["count_amount_30000d"].to_pylist() == [1, 0]
    assert store.get_online_features(["payments:sum_amount_30000d"], {"user_id": [1]}).to_dict() == {
        "sum_amount_30000d": [2.5]
    }


def test_a_stream_reads_as_one_read_does_and_counts_its_rows_once(filled, tmp_path):
    keys = pa.table(spine(NOON - 3 * HOUR, NOON - 1.5 * HOUR, NOON))
    streamed = filled.stream_historical_features(keys.to_reader(max_chunksize=2), ["weather:temp"])
    assert streamed.to_parquet(tmp_path / "train.parquet").rows == 3
    assert pl.read_parquet(tmp_path / "train.parquet")["temp"].to_list() == [50.0, 50.0, 55.5]
    filled.collect_usage()
    (read,) = filled.lineage.usage("weather@v1:temp").reads
    assert (read.mode, read.calls, read.entity_rows) == ("offline", 1, 3)


def test_ingest_is_idempotent(filled):
    again = filled.ingest("weather")
    assert (again.accepted, again.repeated) == (0, 3)


def test_a_spine_may_be_any_table(filled):
    rows = spine(NOON)
    tables = (rows, pa.table(rows), pl.DataFrame(rows), pl.DataFrame(rows).to_pandas())
    assert [filled.get_historical_features(t, ["weather:temp"]).to_arrow()["temp"].to_pylist() for t in tables] == [
        [55.5]
    ] * 4
    with pytest.raises(InvalidArgumentError, match="not a table"):
        filled.get_historical_features("weather", ["weather:temp"])


def test_names_that_do_not_exist_come_with_the_nearest_one(filled):
    with pytest.raises(NotFoundError, match="Did you mean 'weather@v1:temp'"):
        filled.get_online_features(["weather:tmep"], {"origin": ["JFK"]})
    with pytest.raises(NotFoundError, match="Did you mean 'model_features'"):
        filled.get_historical_features(spine(NOON), "model_feature")
    with pytest.raises(NotFoundError, match="Did you mean 'weather'"):
        filled.ingest("wether")


def test_a_changed_meaning_gets_a_version_and_both_can_be_read(filled, project):
    (project / "features.py").write_text(FEATURES.replace('unit="degF"', 'unit="degC"'))
    plan = filled.plan()
    assert [(change.kind, change.object, change.consumers) for change in plan.changes] == [
        ("new version", "view weather@v2", ("model@1",))
    ]
    filled.apply(plan)
    assert filled.get_online_features("model_features", {"origin": ["JFK"]}, request={"bonus": [0.0]}).to_dict()[
        "temp"
    ] == [55.5]
    with pytest.raises(FailedPreconditionError, match="weather@v2"):
        filled.get_online_features(["weather@v2:temp"], {"origin": ["JFK"]})
    filled.ingest("weather@v2")
    filled.materialize("weather@v2")
    both = ["weather@v1:temp", "weather@v2:temp"]
    online = filled.get_online_features(both, {"origin": ["JFK"]}, full_feature_names=True)
    offline = filled.get_historical_features(spine(NOON), both, full_feature_names=True).to_arrow()
    assert online.to_dict() == {"weather@v1__temp": [55.5], "weather@v2__temp": [55.5]}
    assert offline["weather@v2__temp"].to_pylist() == [55.5]


def test_an_added_feature_moves_nobody_and_can_be_read_once_filled(filled, project):
    added = FEATURES.replace(
        'Feature("visib", "int32", unit="mi")', 'Feature("visib", "int32"), Feature("gust", "float64", column="temp")'
    )
    added = added.replace('Feature("visib", "int32")', 'Feature("visib", "int32", unit="mi")')
    (project / "features.py").write_text(added)
    assert [(c.kind, c.object) for c in filled.apply().changes] == [("add feature", "view weather@v1")]
    assert (
        "gust" not in filled.get_historical_features(spine(NOON, bonus=0.0), "model_features").to_arrow().column_names
    )
    for read in (filled.get_online_features, lambda f, k: filled.get_historical_features(spine(NOON), f)):
        with pytest.raises(FailedPreconditionError, match="not filled yet"):
            read(["weather:gust"], {"origin": ["JFK"]})
    filled.ingest("weather")
    filled.materialize("weather")
    assert filled.get_online_features(["weather:gust", "weather:temp"], {"origin": ["JFK"]}).to_dict() == {
        "gust": [55.5],
        "temp": [55.5],
    }
    assert filled.get_historical_features(spine(NOON), ["weather:gust"]).to_arrow()["gust"].to_pylist() == [55.5]


def test_a_stale_plan_is_refused(filled, project):
    (project / "features.py").write_text(FEATURES.replace('unit="degF"', 'unit="degC"'))
    plan = filled.plan()
    filled.apply([Model("other", version="1", reads=["weather:temp"])])
    with pytest.raises(ConflictError, match="Plan again"):
        filled.apply(plan)
    assert list(filled.snapshot().document.views["weather"].versions) == [1]


def test_a_column_that_is_not_in_the_source_is_refused_at_plan(store, project):
    (project / "features.py").write_text(FEATURES.replace('"temp", "float64"', '"tempp", "float64"'))
    with pytest.raises(DefinitionError, match="Did you mean 'temp'"):
        store.plan()


def test_a_definition_that_does_not_run_says_its_line(store, project):
    (project / "features.py").write_text(FEATURES + '\nbroken = Feature("x", "flaot64")\n')
    with pytest.raises(DefinitionError, match=r"float64.*features.py:\d+"):
        store.plan()


def test_a_saved_dataset_is_registered_and_verifies(filled):
    saved = filled.save("first", filled.get_historical_features(spine(NOON), ["weather:temp"]))
    assert filled.datasets() == ["first"]
    assert filled.snapshot().document.datasets["first"].digest == saved.manifest.digest
    filled.dataset("first").verify()
    with pytest.raises(NotFoundError, match="Did you mean 'first'"):
        filled.dataset("frist")


def test_an_enforced_view_refuses_who_does_not_declare_it(filled, project):
    (project / "features.py").write_text(FEATURES.replace('    owner="met@example.com",', '    access="enforce",'))
    filled.apply()
    assert filled.get_online_features(["weather:temp"], {"origin": ["JFK"]}).to_dict() == {"temp": [55.5]}
    with FeatureStore(project, consumer="somebody") as other:
        with pytest.raises(AccessDeniedError, match=r"somebody.*weather@v1:temp"):
            other.get_online_features(["weather:temp"], {"origin": ["JFK"]})
        with pytest.raises(AccessDeniedError, match="weather@v1:temp"):
            other.get_historical_features(spine(NOON), ["weather:temp"])


def test_promote_moves_only_what_it_is_told_to(filled, project):
    (project / "features.py").write_text(FEATURES.replace('unit="degF"', 'unit="degC"'))
    filled.apply()
    assert filled.promote("weather@v2").notes == ("stay where they are: comfort, model@1, model_features",)
    assert filled.snapshot().document.services["model_features"].features[0] == "weather@v1:temp"
    filled.promote("weather@v2", move=["model_features", "model@1"])
    assert filled.snapshot().document.services["model_features"].features[0] == "weather@v2:temp"


def test_a_version_that_is_read_is_not_retired(filled):
    with pytest.raises(FailedPreconditionError, match="model@1 declares it"):
        filled.retire("weather@v1")
    filled.retire("weather@v1", force="moved to another store")
    with pytest.raises(FailedPreconditionError, match="retired"):
        filled.get_online_features(["weather:temp"], {"origin": ["JFK"]})


def test_a_reader_whose_process_still_holds_its_counts_keeps_a_version(filled, project):
    """A running process hands its counts over only now and then: they are seen where they are, and stay there."""
    (project / "features.py").write_text(FEATURES.replace('unit="degF"', 'unit="degC"'))
    filled.apply()
    filled.ingest("weather@v2")
    filled.materialize("weather@v2")
    with FeatureStore(project, consumer="another_job") as running:
        running.get_online_features(["weather@v2:temp"], {"origin": ["JFK"]})
        for _ in range(2):
            with pytest.raises(FailedPreconditionError, match="another_job read it on"):
                filled.retire("weather@v2")


def test_reads_in_process_are_counted_per_feature_version(filled, project):
    filled.get_online_features(["weather:temp"], {"origin": ["JFK", "LGA"]})
    filled.get_historical_features(spine(NOON), ["weather:temp"])
    filled.collect_usage()
    reads = filled.lineage.usage("weather@v1:temp").reads
    assert sorted((read.consumer, read.mode, read.calls, read.entity_rows) for read in reads) == [
        ("model@1", "offline", 1, 1),
        ("model@1", "online", 1, 2),
    ]


def test_the_replay_clock_is_refused_on_the_system_clock(filled):
    with pytest.raises(FailedPreconditionError, match="system clock"):
        list(filled.replay(["weather"], since=0, moments=[1]))


def test_two_ingests_at_once_accept_every_row_once(store, project):
    with ThreadPoolExecutor(2) as threads, FeatureStore(project) as other:
        reports = list(threads.map(lambda one: one.ingest("weather"), (store, other)))
    assert sorted((report.accepted, report.repeated) for report in reports) == [(0, 3), (3, 0)]


def test_history_is_replayed_row_by_row_as_it_became_known(store):
    set_clock(store.settings.store, "replay")
    moments = [NOON - 3.5 * HOUR, NOON - 1.5 * HOUR, NOON]
    seen = []
    for _, written in store.replay(["weather"], since=0, moments=[to_micros(moment) for moment in moments]):
        answer = store.get_online_features(["weather:temp"], {"origin": ["JFK"]})
        seen.append((written, answer.to_dict()["temp"][0], answer.time))
    assert seen == list(zip([1, 1, 1], [50.0, 50.0, 55.5], map(to_micros, moments), strict=True))
    offline = store.get_historical_features(spine(*moments), ["weather:temp"]).to_arrow()
    assert offline["temp"].to_pylist() == [temp for _, temp, _ in seen]
    with pytest.raises(InvalidArgumentError, match="only rises"):
        list(store.replay(["weather"], since=0, moments=[to_micros(NOON - HOUR)]))
