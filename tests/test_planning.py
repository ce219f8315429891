"""References become a read plan: frozen, named, keyed, counted; and the same plan for the same question."""

from dataclasses import replace

import msgspec
import pytest

from featurestore.definitions import Entity, Feature, FeatureService, FeatureView, OnDemandFeatureView, PushSource
from featurestore.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from featurestore.planning import plan_read
from featurestore.registry.plan import plan_changes
from featurestore.registry.snapshot import Document, RegistrySnapshot

ORIGIN = Entity("origin", {"origin": "string"})
ROUTE = Entity("route", {"origin": "string", "dest": "string"})
TEMP, HUMID = Feature("temp", "float64"), Feature("humid", "float64")
WEATHER = FeatureView("weather", ORIGIN, PushSource("weather"), [TEMP, HUMID])
TRAFFIC = FeatureView("traffic", ROUTE, PushSource("traffic"), [Feature("flights", "int64"), Feature("temp", "string")])
NUMBERED = FeatureView(
    "gates", Entity("gate", {"origin": "int64"}), PushSource("gates"), [Feature("gate_count", "int64")]
)
HEAT = OnDemandFeatureView(
    "heat", [Feature("feels", "float64", expression="temp + bump")], inputs=[WEATHER], request={"bump": "float64"}
)
DELAY = FeatureService("delay", [WEATHER, WEATHER.alias("dest_weather", join_keys={"origin": "dest"}), HEAT])


def apply(snapshot, *definitions):
    plan = plan_changes(snapshot, definitions, check_source=lambda name, record: None, is_filled=lambda ref: True)
    return RegistrySnapshot(msgspec.structs.replace(plan.document, revision=snapshot.revision + 1))


DEFINITIONS = (WEATHER, TRAFFIC, NUMBERED, HEAT, DELAY)
SNAPSHOT = apply(RegistrySnapshot(Document(project="flights")), *DEFINITIONS)
CHANGED = apply(SNAPSHOT, *DEFINITIONS[1:], replace(WEATHER, features=[replace(TEMP, unit="degC"), HUMID]))


def names(plan):
    return [output.name for output in plan.outputs]


def test_a_reference_without_a_version_reads_the_current_one():
    plan = plan_read(SNAPSHOT, ["weather:temp"])
    assert [str(output.ref) for output in plan.outputs] == ["weather@v1:temp"]
    assert plan.counted == ("weather@v1:temp",)
    assert [str(view.ref) for view in plan.views] == ["weather@v1"]
    assert plan.revision == 1


def test_outputs_come_in_the_order_asked_for_and_once():
    plan = plan_read(SNAPSHOT, ["traffic:flights", "weather:humid", "weather@v1:humid"])
    assert names(plan) == ["flights", "humid"]
    assert [output.dtype.name for output in plan.outputs] == ["int64", "float64"]
    assert [str(plan.views[output.source].ref) for output in plan.outputs] == ["traffic@v1", "weather@v1"]


def test_views_of_one_key_share_a_key_set():
    plan = plan_read(CHANGED, ["weather@v1:temp", "weather@v2:humid", "traffic:flights"])
    assert [key_set.columns for key_set in plan.key_sets] == [("origin",), ("origin", "dest")]
    assert [view.key_set for view in plan.views] == [0, 0, 1]


def test_equal_columns_of_unlike_types_are_two_key_sets():
    plan = plan_read(SNAPSHOT, ["weather:temp", "gates:gate_count"])
    assert [[dtype.name for dtype in key_set.dtypes] for key_set in plan.key_sets] == [["string"], ["int64"]]
    assert [view.key_set for view in plan.views] == [0, 1]


def test_two_outputs_of_one_name_are_refused_with_the_way_out():
    with pytest.raises(
        InvalidArgumentError, match=r"called 'temp': weather@v1:temp and traffic@v1:temp.*full_feature_names"
    ):
        plan_read(SNAPSHOT, ["weather:temp", "traffic:temp"])


def test_full_names_tell_views_versions_and_roles_apart():
    assert names(plan_read(SNAPSHOT, ["weather:temp", "traffic:temp"], full_feature_names=True)) == [
        "weather__temp",
        "traffic__temp",
    ]
    assert names(plan_read(CHANGED, ["weather@v1:temp", "weather@v2:temp"], full_feature_names=True)) == [
        "weather@v1__temp",
        "weather@v2__temp",
    ]
    assert names(plan_read(SNAPSHOT, "delay", full_feature_names=True)) == [
        "weather__temp",
        "weather__humid",
        "dest_weather__temp",
        "dest_weather__humid",
        "heat__feels",
    ]


def test_a_role_is_read_by_its_own_columns():
    plan = plan_read(SNAPSHOT, "delay", full_feature_names=True)
    assert [key_set.columns for key_set in plan.key_sets] == [("origin",), ("dest",)]
    assert [key_set.entity for key_set in plan.key_sets] == ["origin", "dest_weather"]
    assert [view.key_set for view in plan.views[: plan.visible]] == [0, 1]


def test_a_role_counts_as_the_features_it_reads():
    assert plan_read(SNAPSHOT, "delay", full_feature_names=True).counted == (
        "weather@v1:temp",
        "weather@v1:humid",
        "heat@v1:feels",
    )


def test_a_role_without_a_service_is_refused():
    with pytest.raises(InvalidArgumentError, match="names a role") as refused:
        plan_read(SNAPSHOT, ["weather:temp", "dest_weather=weather:temp"])
    assert refused.value.place == "$.features[1]"


def test_an_on_demand_feature_reads_its_inputs_behind_the_answer():
    plan = plan_read(SNAPSHOT, ["heat:feels"])
    assert names(plan) == ["feels"]
    assert plan.visible == 0
    assert [str(view.ref) for view in plan.views] == ["weather@v1"]
    assert [feature.name for feature in plan.views[0].features] == ["temp"]
    assert plan.on_demand[0].inputs == (("temp", 0, "temp"),)
    assert [(name, dtype.name) for name, dtype in plan.request] == [("bump", "float64")]
    assert plan.outputs[0].source == len(plan.views)
    assert plan.counted == ("heat@v1:feels", "weather@v1:temp")


def test_the_source_of_an_on_demand_output_comes_after_hidden_views():
    plan = plan_read(SNAPSHOT, ["heat:feels", "weather:temp"])
    assert [output.source for output in plan.outputs] == [2, 0]
    assert (plan.visible, len(plan.views)) == (1, 2)
    assert plan.on_demand[0].inputs == (("temp", 1, "temp"),)


def test_a_plan_is_made_once_and_kept_on_its_snapshot():
    assert plan_read(SNAPSHOT, ["weather:temp"]) is plan_read(SNAPSHOT, ["weather:temp"])
    assert plan_read(SNAPSHOT, ["weather:temp"]) is not plan_read(CHANGED, ["weather:temp"])


def test_a_fingerprint_stays_while_the_answer_means_the_same():
    described = apply(SNAPSHOT, replace(WEATHER, owner="ops@example.com"), *DEFINITIONS[1:])
    assert plan_read(described, "delay", full_feature_names=True).plan_id == (
        plan_read(SNAPSHOT, "delay", full_feature_names=True).plan_id
    )


@pytest.mark.parametrize(
    ("features", "full"),
    [
        (["weather:temp"], True),
        (["weather:humid"], False),
        (["weather@v2:temp"], False),
        (["weather:temp", "weather:humid"], False),
        (["weather:humid", "weather:temp"], False),
        (["heat:feels"], False),
    ],
)
def test_a_fingerprint_differs_when_the_answer_does(features, full):
    asked = plan_read(CHANGED, features, full_feature_names=full)
    assert asked.fingerprint != plan_read(CHANGED, ["weather:temp"]).fingerprint
    assert len(asked.fingerprint) == 16
    assert bytes.fromhex(asked.plan_id) == asked.fingerprint


@pytest.mark.parametrize(
    ("features", "nearest"),
    [
        (["weather:tmep"], "weather@v1:temp"),
        (["wether:temp"], "weather"),
        (["weather@v9:temp"], "weather@v2"),
        ("dealy", "delay"),
    ],
)
def test_an_unknown_name_gives_the_nearest(features, nearest):
    with pytest.raises(NotFoundError, match=f"Did you mean '{nearest}'") as unknown:
        plan_read(CHANGED, features)
    assert unknown.value.nearest == nearest


def test_a_wrong_question_is_not_remembered_as_a_plan():
    for _ in range(2):
        with pytest.raises(NotFoundError):
            plan_read(SNAPSHOT, ["weather:tmep"])


def test_nothing_asked_is_refused():
    with pytest.raises(InvalidArgumentError, match="No features"):
        plan_read(SNAPSHOT, [])


def test_a_feature_that_is_not_filled_yet_says_what_to_run():
    grown = apply(SNAPSHOT, replace(WEATHER, features=[TEMP, HUMID, Feature("gust", "float64")]), *DEFINITIONS[1:])
    with pytest.raises(FailedPreconditionError, match="featurestore ingest weather"):
        plan_read(grown, ["weather:gust"])
    assert names(plan_read(grown, ["weather:temp"])) == ["temp"]
