"""A change plan says all of what an apply would do, is refused when stale, and commits as neutral JSON or not at all."""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.definitions import (
    Aggregation,
    Dashboard,
    Entity,
    Feature,
    FeatureService,
    FeatureView,
    Job,
    Model,
    OnDemandFeatureView,
    ParquetSource,
    Person,
    PushSource,
    Service,
    SQLSource,
)
from featurestore.errors import ConflictError, CorruptionError, DefinitionError, NotFoundError
from featurestore.refs import ViewRef
from featurestore.registry.plan import plan_changes, promote, register_dataset, set_status
from featurestore.registry.snapshot import DatasetRecord, Document, RegistrySnapshot
from featurestore.registry.storage import open_registry
from featurestore.types import to_micros

ORIGIN = Entity("origin", {"origin": "string"}, description="An airport.", owner="ops@example.com", tags={"tier": "1"})
ROUTE = Entity("route", {"origin": "string", "dest": "string"})
WEATHER = FeatureView(
    "weather",
    ORIGIN,
    ParquetSource("weather", "data/weather.parquet", event_timestamp="observed_at"),
    [Feature("temp", "float64", unit="degF"), Feature("humid", "decimal(5,2)", column="rh")],
    ttl=timedelta(hours=3),
    backfilled_until=datetime(2013, 11, 1),
)
TRAFFIC = FeatureView(
    "traffic",
    ROUTE,
    SQLSource("flights", "SELECT * FROM raw", {"raw": "raw/*.parquet"}, "at", "loaded"),
    [Aggregation("delay", "mean", timedelta(hours=3))],
    event_key={"flight": "string"},
    access="enforce",
)
SCORES = FeatureView("scores", ROUTE, PushSource("scores"), [Feature("score", "float32")])
HEAT = OnDemandFeatureView(
    "heat",
    [Feature("feels", "float64", expression="CASE WHEN temp > 40 THEN temp * bump ELSE NULL END")],
    inputs=[WEATHER],
    request={"bump": "float64"},
)
DELAY = FeatureService("delay", [WEATHER, HEAT, WEATHER.alias("dest_weather", join_keys={"origin": "dest"})[["temp"]]])
EVERYTHING = (
    ORIGIN,
    ROUTE,
    WEATHER,
    TRAFFIC,
    SCORES,
    HEAT,
    DELAY,
    Model(
        "delay_model", [DELAY, TRAFFIC], ["scores"], "ml@example.com", version="3", metrics={"auc": 0.71}, label="late"
    ),
    Job("nightly", ["weather:temp"], cadence=timedelta(days=1), expires_at=datetime(2014, 1, 1, tzinfo=UTC)),
    Service("api", ["delay"], environment="prod"),
    Dashboard("board", ["traffic"]),
    Person("ann", []),
)
EMPTY = RegistrySnapshot(Document(project="flights"))


def planned(snapshot, *definitions, check=lambda name, record: None):
    return plan_changes(snapshot, definitions, check_source=check, is_filled=lambda ref: True)


def committed(snapshot, plan):
    return RegistrySnapshot(msgspec.structs.replace(plan.document, revision=snapshot.revision + 1))


@pytest.fixture
def registry(tmp_path):
    with open_registry(tmp_path / "registry.db", project="flights") as opened:
        yield opened


def commit(registry, plan, now=1):
    return registry.commit(
        plan.document, expected_revision=plan.base_revision, log=plan.log(), principal="ann", now=now
    )


def test_a_plan_lists_every_object_in_order_of_dependence():
    assert [(change.kind, change.object) for change in planned(EMPTY, *reversed(EVERYTHING)).changes] == [
        ("create", "entity route"),
        ("create", "entity origin"),
        ("create", "view scores@v1"),
        ("create", "view traffic@v1"),
        ("create", "view weather@v1"),
        ("create", "view heat@v1"),
        ("create", "service delay"),
        ("create", "consumer ann"),
        ("create", "consumer board"),
        ("create", "consumer api"),
        ("create", "consumer nightly"),
        ("create", "consumer delay_model@3"),
    ]


def test_a_plan_changes_nothing_by_itself(registry):
    planned(registry.snapshot(), *EVERYTHING)
    assert registry.revision() == 0
    assert registry.snapshot().document == Document(project="flights")


def test_a_stale_plan_is_refused_and_nothing_is_half_applied(registry):
    first, second = planned(registry.snapshot(), WEATHER), planned(registry.snapshot(), *EVERYTHING)
    kept = commit(registry, first)
    with pytest.raises(ConflictError, match=r"made from revision 0, the registry is at 1\. Plan again"):
        commit(registry, second)
    assert registry.revision() == 1
    assert registry.snapshot().document == kept.document
    assert registry.snapshot().document.consumers == {}
    assert [revision for revision, _ in registry.log()] == [1, 1]


def test_a_plan_from_the_future_is_refused(registry):
    plan = replace(planned(registry.snapshot(), WEATHER), base_revision=5)
    with pytest.raises(ConflictError):
        commit(registry, plan)
    assert registry.revision() == 0


def test_an_impossible_definition_refuses_the_whole_file():
    def check(name, record):
        if name == "traffic":
            raise DefinitionError("Column 'delay' is not there.")

    with pytest.raises(DefinitionError, match="not there"):
        planned(EMPTY, *EVERYTHING, check=check)


def test_sources_are_checked_for_new_and_changed_views_only():
    checked = []

    def check(name, record):
        checked.append((name, record.ttl))

    first = committed(EMPTY, planned(EMPTY, *EVERYTHING, check=check))
    assert {name for name, _ in checked} == {"weather", "traffic", "scores"}
    checked.clear()
    planned(first, *EVERYTHING, check=check)
    assert checked == []
    planned(first, replace(WEATHER, ttl=None), TRAFFIC, check=check)
    assert checked == [("weather", None)]


def test_the_change_log_keeps_what_each_commit_did(registry):
    commit(registry, planned(registry.snapshot(), WEATHER, Model("m", [WEATHER])), now=5)
    changed = replace(WEATHER, features=[replace(WEATHER.features[0], unit="degC"), WEATHER.features[1]])
    snapshot = commit(registry, planned(registry.snapshot(), changed), now=6)
    commit(registry, promote(snapshot, ViewRef("weather", 2)), now=7)
    commit(registry, set_status(registry.snapshot(), ViewRef("weather", 1), "deprecated", reason="old"), now=8)
    assert [(revision, line.kind, line.object, line.detail) for revision, line in registry.log(since=1)] == [
        (2, "new version", "view weather@v2", "temp unit: degF -> degC"),
        (3, "promote", "view weather@v2", "current was v1"),
        (4, "deprecated", "view weather@v1", "old"),
    ]
    assert [line.object for revision, line in registry.log() if revision == 1] == [
        "entity origin",
        "view weather@v1",
        "consumer m@1",
    ]


def test_a_commit_stamps_revision_and_time_and_keeps_older_revisions(registry):
    commit(registry, planned(registry.snapshot(), WEATHER), now=5)
    commit(registry, planned(registry.snapshot(), WEATHER, TRAFFIC), now=6)
    assert [(s.revision, s.document.committed_at) for s in map(registry.snapshot, (1, 2))] == [(1, 5), (2, 6)]
    assert set(registry.snapshot(1).document.views) == {"weather"}
    with pytest.raises(NotFoundError, match="revision"):
        registry.snapshot(9)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (replace(WEATHER, ttl=None), "ttl: 3:00:00 -> none"),
        (replace(WEATHER, source=replace(WEATHER.source, name="noaa")), "source name: weather -> noaa"),
        (replace(WEATHER, features=WEATHER.features[:1]), "humid: removed"),
        (
            replace(WEATHER, features=[WEATHER.features[0], Feature("humid", "decimal(5,2)")]),
            "humid column: rh -> humid",
        ),
    ],
)
def test_a_new_version_says_what_differs_and_whom_it_concerns(changed, said):
    first = committed(EMPTY, planned(EMPTY, WEATHER, Model("m", [WEATHER]), Model("other", [])))
    change = planned(first, changed).changes[0]
    assert (change.kind, change.object, change.detail, change.consumers) == (
        "new version",
        "view weather@v2",
        said,
        ("m@1",),
    )


def test_an_added_feature_is_listed_as_such():
    first = committed(EMPTY, planned(EMPTY, WEATHER))
    grown = replace(WEATHER, features=[*WEATHER.features, Feature("gust", "float64")], owner="ops@example.com")
    changes = planned(first, grown).changes
    assert [(change.kind, change.detail) for change in changes] == [
        ("add feature", "gust"),
        ("update", "owner"),
    ]


def test_a_view_that_left_the_file_stays_and_is_noted():
    first = committed(EMPTY, planned(EMPTY, *EVERYTHING))
    plan = planned(first, WEATHER)
    assert not plan
    assert [note.split()[1] for note in plan.notes] == ["heat", "scores", "traffic"]
    assert plan.document == first.document


def test_a_retired_view_that_left_the_file_is_not_noted():
    first = committed(EMPTY, planned(EMPTY, WEATHER, SCORES))
    retired = committed(first, set_status(first, ViewRef("scores", 1), "retired"))
    assert planned(retired, WEATHER).notes == ()


@pytest.mark.parametrize(
    "twice",
    [
        (WEATHER, replace(WEATHER, owner="x")),
        (WEATHER, replace(HEAT, name="weather", inputs=[])),
        (ORIGIN, Entity("origin", {"id": "int64"})),
        (FeatureService("s", [WEATHER]), FeatureService("s", [SCORES])),
        (Job("m", []), Person("m", [])),
    ],
)
def test_a_name_defined_twice_is_refused(twice):
    with pytest.raises(DefinitionError, match="given twice"):
        planned(EMPTY, *twice)


@pytest.mark.parametrize(
    ("definition", "nearest"),
    [
        (FeatureService("s", ["wether:temp"]), "weather"),
        (FeatureService("s", ["weather:tmep"]), "weather@v1:temp"),
        (FeatureService("s", ["weather@v7:temp"]), "weather@v1"),
        (FeatureService("s", ["wether"]), "weather"),
        (Model("m", ["dealy"]), "delay"),
        (Model("m", ["weather:humd"]), "weather@v1:humid"),
        (Model("m", writes=["score"]), "scores"),
        (OnDemandFeatureView("o", [Feature("x", "float64", expression="temp")], inputs=["weathr:temp"]), "weather"),
    ],
)
def test_an_unknown_name_gives_the_nearest_and_the_place(definition, nearest):
    with pytest.raises(NotFoundError) as unknown:
        planned(EMPTY, *EVERYTHING, definition)
    assert f"Did you mean '{nearest}'?" in str(unknown.value)
    assert unknown.value.place == getattr(definition, "key", definition.name)


def only_json(value):
    if isinstance(value, dict):
        return all(type(key) is str and only_json(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(only_json, value))
    return value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value))


def test_the_document_is_neutral_json_and_comes_back():
    first = committed(EMPTY, planned(EMPTY, *EVERYTHING))
    dataset = DatasetRecord(refs=("weather@v1:temp",), rows=10, saved_at=5, digest="ab", consumer="delay_model@3")
    snapshot = committed(first, register_dataset(first, "delay_training", dataset))
    parsed = json.loads(snapshot.to_json())
    assert only_json(parsed)
    assert RegistrySnapshot.from_json(snapshot.to_json()).document == snapshot.document
    assert RegistrySnapshot.from_json(snapshot.to_json()).to_json() == snapshot.to_json()


def test_the_document_has_the_published_form():
    parsed = json.loads(committed(EMPTY, planned(EMPTY, *EVERYTHING)).to_json())
    assert (parsed["schema_version"], parsed["revision"], parsed["project"]) == (1, 1, "flights")
    weather = parsed["views"]["weather"]["versions"]["1"]
    assert weather["join_keys"] == [["origin", "string"]]
    assert (weather["kind"], weather["ttl"], weather["layout"]) == ("batch", 10_800_000_000, 1)
    assert weather["backfilled_until"] == to_micros("2013-11-01T00:00:00Z")
    assert set(weather["features"][0]) >= {
        "name",
        "dtype",
        "unit",
        "fingerprint",
        "column",
        "aggregation",
        "expression",
    }
    traffic = parsed["views"]["traffic"]["versions"]["1"]
    assert traffic["event_key"] == [["flight", "string"]]
    assert traffic["features"][0]["aggregation"] == {
        "column": "delay",
        "function": "mean",
        "dtype": "float64",
        "time_window": 10_800_000_000,
        "n": None,
        "where": None,
    }
    heat = parsed["views"]["heat"]["versions"]["1"]
    assert heat["inputs"] == ["weather@v1:temp"]
    assert heat["request"] == [["bump", "float64"]]
    assert set(heat["features"][0]["expression"]) == {"sql", "tree"}
    model = parsed["consumers"]["delay_model@3"]
    assert (model["version"], model["services"], model["writes"]) == ("3", ["delay"], ["scores@v1"])
    assert model["reads"] == [
        "weather@v1:temp",
        "weather@v1:humid",
        "heat@v1:feels",
        "traffic@v1:mean_delay_3h",
    ]
    nightly = parsed["consumers"]["nightly"]
    assert (nightly["cadence_days"], nightly["expires_at"]) == (1.0, to_micros("2014-01-01T00:00:00Z"))


def test_every_kind_of_feature_says_exactly_one_thing_about_its_origin():
    parsed = json.loads(committed(EMPTY, planned(EMPTY, *EVERYTHING)).to_json())
    for versions in parsed["views"].values():
        for view in versions["versions"].values():
            for feature in view["features"]:
                assert sum(feature[origin] is not None for origin in ("column", "aggregation", "expression")) == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
@settings(max_examples=100)
def test_anything_but_a_document_is_corruption(value):
    with pytest.raises(CorruptionError):
        RegistrySnapshot.from_json(json.dumps(value))


@given(st.data())
@settings(max_examples=60)
def test_a_document_cut_short_is_corruption(data):
    text = committed(EMPTY, planned(EMPTY, WEATHER)).to_json()
    with pytest.raises(CorruptionError, match="damaged"):
        RegistrySnapshot.from_json(text[: data.draw(st.integers(0, len(text) - 1))])


@pytest.mark.parametrize("version", [2, 99])
def test_a_newer_schema_is_refused_whatever_else_it_says(version):
    with pytest.raises(CorruptionError, match=rf"schema_version {version}.*Upgrade"):
        RegistrySnapshot.from_json(json.dumps({"schema_version": version, "moons": []}))


@pytest.mark.parametrize("version", ["two", None, [], 1.5])
def test_a_schema_version_of_another_type_is_corruption(version):
    with pytest.raises(CorruptionError):
        RegistrySnapshot.from_json(json.dumps({"schema_version": version, "project": "flights"}))


@pytest.mark.parametrize(
    "definition",
    [
        replace(WEATHER, tags={"tier": 1}),
        replace(WEATHER, owner=5),
        replace(WEATHER, description="half a pair: \ud800"),
        Model("m", metrics={"auc": math.nan}),
        Model("m", metrics={"auc": "high"}),
        Model("m", tags={"a": object()}),
    ],
)
def test_what_could_not_be_read_back_is_refused_before_it_is_committed(definition):
    with pytest.raises(DefinitionError, match="cannot be kept"):
        planned(EMPTY, definition)
