"""What makes a new version, what does not, and who stays where: DESIGN section 3, row by row."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from featurestore.definitions import (
    Aggregation,
    Entity,
    Feature,
    FeatureService,
    FeatureView,
    Job,
    Model,
    OnDemandFeatureView,
    ParquetSource,
    PushSource,
    SQLSource,
)
from featurestore.errors import DefinitionError, FailedPreconditionError, NotFoundError
from featurestore.planning import plan_read
from featurestore.refs import FeatureRef, ViewRef
from featurestore.registry.plan import plan_changes, promote, set_status, switch_layout
from featurestore.registry.rollout import start_rollout
from featurestore.registry.snapshot import Document, RegistrySnapshot
from featurestore.rows import RowSchema

ORIGIN = Entity("origin", {"origin": "string"})
SOURCE = ParquetSource("weather", "data/weather.parquet", event_timestamp="observed_at", created_timestamp="loaded_at")
TEMP = Feature("temp", "float64", unit="degF")
HUMID = Feature("humid", "float64")
GUST = Feature("gust", "float64")
WEATHER = FeatureView("weather", ORIGIN, SOURCE, [TEMP, HUMID], ttl=timedelta(hours=3))

QUERY = "SELECT origin, observed_at, temp, humid FROM raw WHERE temp > 0"
FROM_SQL = replace(WEATHER, source=SQLSource("weather", QUERY, {"raw": "data/raw.parquet"}, "observed_at"))

DELAY = Aggregation("delay", "mean", timedelta(hours=3), unit="minute")
WINDOWED = FeatureView("traffic", ORIGIN, PushSource("flights", "at"), [DELAY], event_key={"flight": "string"})

HEAT = OnDemandFeatureView(
    "heat", [Feature("feels", "float64", expression="temp * 2 + bump")], inputs=[WEATHER], request={"bump": "float64"}
)


def no_check(name, record):
    return None


def apply(snapshot, *definitions, filled=True):
    plan = plan_changes(snapshot, definitions, check_source=no_check, is_filled=lambda ref: filled)
    return committed(snapshot, plan)


def committed(snapshot, plan):
    assert plan.base_revision == snapshot.revision
    return RegistrySnapshot(msgspec.structs.replace(plan.document, revision=snapshot.revision + 1))


def registered(*definitions):
    return apply(RegistrySnapshot(Document(project="flights")), *definitions)


def versions(snapshot, view="weather"):
    return sorted(snapshot.document.views[view].versions)


def view(snapshot, text):
    return snapshot.view(ViewRef.parse(text))


def retiring(snapshot, text):
    """Return what a retirement takes from its readers."""
    return set_status(snapshot, ViewRef.parse(text), "retired").taken


def feature(snapshot, text):
    ref = FeatureRef.parse(text)
    return view(snapshot, str(ref.view_ref)).feature(ref.feature)


# --- meaning: a new version ------------------------------------------------------------------------------------------

MEANING = {
    "join key name": (WEATHER, replace(WEATHER, entity=Entity("origin", {"airport": "string"}))),
    "join key type": (WEATHER, replace(WEATHER, entity=Entity("origin", {"origin": "int64"}))),
    "another join key": (WEATHER, replace(WEATHER, entity=Entity("origin", {"origin": "string", "gate": "string"}))),
    "source name": (WEATHER, replace(WEATHER, source=replace(SOURCE, name="noaa"))),
    "source kind": (WEATHER, replace(WEATHER, source=PushSource("weather", "observed_at", "loaded_at"))),
    "query": (FROM_SQL, replace(FROM_SQL, source=replace(FROM_SQL.source, query=QUERY.replace("> 0", "> 1")))),
    "text within a query": (
        replace(FROM_SQL, source=replace(FROM_SQL.source, query="SELECT 'a b' AS temp, 0 AS humid FROM raw")),
        replace(FROM_SQL, source=replace(FROM_SQL.source, query="SELECT 'a  b' AS temp, 0 AS humid FROM raw")),
    ),
    "source column": (WEATHER, replace(WEATHER, features=[replace(TEMP, column="air_temp"), HUMID])),
    "dtype": (WEATHER, replace(WEATHER, features=[replace(TEMP, dtype="float32"), HUMID])),
    "unit": (WEATHER, replace(WEATHER, features=[replace(TEMP, unit="degC"), HUMID])),
    "removed feature": (WEATHER, replace(WEATHER, features=[TEMP])),
    "renamed feature": (WEATHER, replace(WEATHER, features=[replace(TEMP, name="t", column="temp"), HUMID])),
    "event time column": (WEATHER, replace(WEATHER, source=replace(SOURCE, event_timestamp="at"))),
    "created time column": (WEATHER, replace(WEATHER, source=replace(SOURCE, created_timestamp="known_at"))),
    "no created time column": (WEATHER, replace(WEATHER, source=replace(SOURCE, created_timestamp=None))),
    "ttl": (WEATHER, replace(WEATHER, ttl=timedelta(hours=4))),
    "no ttl": (WEATHER, replace(WEATHER, ttl=None)),
    "event_key": (WEATHER, replace(WEATHER, event_key={"report": "string"})),
    "event_key type": (WINDOWED, replace(WINDOWED, event_key={"flight": "int64"})),
    "backfilled_until": (WEATHER, replace(WEATHER, backfilled_until=datetime(2013, 11, 1, tzinfo=UTC))),
    "window length": (WINDOWED, replace(WINDOWED, features=[replace(DELAY, time_window=timedelta(hours=6), name="d")])),
    "same name, other window": (
        replace(WINDOWED, features=[replace(DELAY, name="d")]),
        replace(WINDOWED, features=[replace(DELAY, name="d", time_window=timedelta(hours=6))]),
    ),
    "aggregate function": (
        replace(WINDOWED, features=[replace(DELAY, name="d")]),
        replace(WINDOWED, features=[replace(DELAY, name="d", function="max")]),
    ),
    "aggregated column": (
        replace(WINDOWED, features=[replace(DELAY, name="d")]),
        replace(WINDOWED, features=[replace(DELAY, name="d", column="arr_delay")]),
    ),
    "filter": (
        replace(WINDOWED, features=[replace(DELAY, name="d")]),
        replace(WINDOWED, features=[replace(DELAY, name="d", where="delay > 0")]),
    ),
    "condition of a filter": (
        replace(WINDOWED, features=[replace(DELAY, name="d", where="delay > 0")]),
        replace(WINDOWED, features=[replace(DELAY, name="d", where="delay >= 0")]),
    ),
    "type of a column of a filter": (
        replace(WINDOWED, features=[replace(DELAY, name="d", where="gate = 1")], columns={"gate": "int64"}),
        replace(WINDOWED, features=[replace(DELAY, name="d", where="gate = 1")], columns={"gate": "int32"}),
    ),
    "length of a list": (
        replace(WINDOWED, features=[replace(DELAY, name="d", function="last", n=2)]),
        replace(WINDOWED, features=[replace(DELAY, name="d", function="last", n=3)]),
    ),
    "batch becomes windowed": (
        WEATHER,
        replace(WEATHER, features=[replace(DELAY, name="temp"), replace(DELAY, name="humid")], ttl=None),
    ),
}


@pytest.mark.parametrize("difference", MEANING)
def test_a_change_of_meaning_makes_a_new_version_beside_the_old(difference):
    before, after = MEANING[difference]
    first = registered(before)
    second = apply(first, after)
    name = before.name
    assert versions(first, name) == [1]
    assert versions(second, name) == [1, 2]
    assert view(second, f"{name}@v1") == view(first, f"{name}@v1")
    assert second.document.views[name].current == 1
    assert view(second, f"{name}@v2").created_revision == 2


EXPRESSIONS = {
    "expression": "temp * 3 + bump",
    "another input": "humid * 2 + bump",
    "another request column": "temp * 2",
}


@pytest.mark.parametrize("difference", EXPRESSIONS)
def test_a_changed_expression_makes_a_new_version(difference):
    changed = replace(HEAT, features=[Feature("feels", "float64", expression=EXPRESSIONS[difference])])
    assert versions(apply(registered(WEATHER, HEAT), WEATHER, changed), "heat") == [1, 2]


def test_a_changed_unit_of_an_expression_makes_a_new_version():
    feels = replace(HEAT.features[0], unit="degC")
    assert versions(apply(registered(WEATHER, HEAT), WEATHER, replace(HEAT, features=[feels])), "heat") == [1, 2]


def test_a_wider_type_of_an_expression_makes_a_new_version_and_a_narrower_one_is_refused():
    narrow = OnDemandFeatureView(
        "twice", [Feature("x", "float32", expression="bump + bump")], request={"bump": "float32"}
    )
    wide = replace(narrow, features=[replace(narrow.features[0], dtype="float64")])
    assert versions(apply(registered(narrow), wide), "twice") == [1, 2]
    with pytest.raises(DefinitionError, match="is float64, declared float32"):
        registered(replace(wide, features=[replace(wide.features[0], dtype="float32")], request={"bump": "float64"}))


def test_a_changed_type_of_a_request_column_makes_a_new_version():
    changed = replace(HEAT, request={"bump": "int64"})
    assert versions(apply(registered(WEATHER, HEAT), WEATHER, changed), "heat") == [1, 2]


# --- not meaning: the same version -----------------------------------------------------------------------------------

NOT_MEANING = {
    "owner": (WEATHER, replace(WEATHER, owner="ops@example.com")),
    "tags": (WEATHER, replace(WEATHER, tags={"tier": "1"})),
    "description": (WEATHER, replace(WEATHER, description="As observed.")),
    "description of a feature": (WEATHER, replace(WEATHER, features=[replace(TEMP, description="In shade."), HUMID])),
    "access mode": (WEATHER, replace(WEATHER, access="enforce")),
    "schedule": (WEATHER, replace(WEATHER, schedule="hourly")),
    "file path": (WEATHER, replace(WEATHER, source=replace(SOURCE, path="archive/*.parquet"))),
    "paths of a query": (FROM_SQL, replace(FROM_SQL, source=replace(FROM_SQL.source, tables={"raw": "old.parquet"}))),
    "description of the entity": (WEATHER, replace(WEATHER, entity=replace(ORIGIN, description="An airport."))),
    "description of an aggregate": (WINDOWED, replace(WINDOWED, features=[replace(DELAY, description="Late?")])),
    "owner of an on-demand view": (HEAT, replace(HEAT, owner="ops@example.com")),
    "spaces in a filter": (
        replace(WINDOWED, features=[replace(DELAY, where="delay > 0")]),
        replace(WINDOWED, features=[replace(DELAY, where="(delay)   >\n0")]),
    ),
}


@pytest.mark.parametrize("difference", NOT_MEANING)
def test_what_is_not_meaning_keeps_the_version_and_is_listed(difference):
    before, after = NOT_MEANING[difference]
    others = [WEATHER] if before is HEAT else []
    first = registered(*others, before)
    plan = plan_changes(first, [*others, after], check_source=no_check, is_filled=lambda ref: True)
    second = committed(first, plan)
    assert versions(second, before.name) == [1]
    assert [change.kind for change in plan.changes] == ["update"]
    old, new = view(first, before.name), view(second, before.name)
    assert [f.fingerprint for f in new.features] == [f.fingerprint for f in old.features]
    assert second.document != first.document


LAYOUTS = {
    "order of features": (WEATHER, replace(WEATHER, features=[HUMID, TEMP])),
    "its column spelled out": (WEATHER, replace(WEATHER, features=[replace(TEMP, column="temp"), HUMID])),
    "spaces in a query": (FROM_SQL, replace(FROM_SQL, source=replace(FROM_SQL.source, query=f"  {QUERY} ;\n"))),
    "comments in a query": (
        FROM_SQL,
        replace(
            FROM_SQL, source=replace(FROM_SQL.source, query=QUERY.replace("FROM", "-- the 'raw' one\n/* ; */ FROM"))
        ),
    ),
    "spaces in an expression": (
        HEAT,
        replace(HEAT, features=[Feature("feels", "float64", expression="temp  *  2\n + bump")]),
    ),
}


@pytest.mark.parametrize("difference", LAYOUTS)
def test_how_a_definition_is_written_is_not_its_meaning(difference):
    before, after = LAYOUTS[difference]
    others = [WEATHER] if before is HEAT else []
    assert versions(apply(registered(*others, before), *others, after), before.name) == [1]


def test_the_same_definitions_again_change_nothing():
    definitions = (ORIGIN, WEATHER, HEAT, WINDOWED, FeatureService("delay", [WEATHER, HEAT]), Model("m", ["delay"]))
    first = registered(*definitions)
    plan = plan_changes(first, reversed(definitions), check_source=no_check, is_filled=lambda ref: True)
    assert not plan
    assert plan.changes == ()


# --- links, added features, returns ----------------------------------------------------------------------------------


def test_unchanged_features_are_linked_and_changed_ones_are_not():
    after = apply(registered(WEATHER), MEANING["unit"][1])
    assert feature(after, "weather@v2:humid").same_as == "weather@v1:humid"
    assert feature(after, "weather@v2:temp").same_as is None


def test_a_link_names_the_first_version_with_that_meaning():
    second = apply(registered(WEATHER), MEANING["unit"][1])
    third = apply(second, replace(WEATHER, features=[replace(TEMP, unit="K"), HUMID]))
    assert feature(third, "weather@v3:humid").same_as == "weather@v1:humid"


def test_a_change_of_the_whole_view_links_nothing():
    after = apply(registered(WEATHER), MEANING["ttl"][1])
    assert [f.same_as for f in view(after, "weather@v2").features] == [None, None]


def test_an_added_feature_keeps_the_version_and_waits_in_the_next_layout_of_a_filled_view():
    after = apply(registered(WEATHER), replace(WEATHER, features=[GUST, TEMP, HUMID]))
    assert versions(after) == [1]
    record = view(after, "weather@v1")
    assert [(f.name, f.layout) for f in record.features] == [("temp", 1), ("humid", 1), ("gust", 2)]
    assert (record.layout, record.newest_layout) == (1, 2)
    assert [f.name for f in record.stored()] == ["temp", "humid"]
    with pytest.raises(FailedPreconditionError, match="not filled yet"):
        plan_read(after, ["weather:gust"])


def test_an_added_feature_of_a_view_without_rows_can_be_read_at_once():
    after = apply(registered(WEATHER), replace(WEATHER, features=[TEMP, HUMID, GUST]), filled=False)
    record = view(after, "weather@v1")
    assert record.layout == record.newest_layout == 2  # rows that come before the apply lie in layout 1
    assert [output.name for output in plan_read(after, ["weather:gust"]).outputs] == ["gust"]


def test_a_switched_layout_makes_the_added_feature_readable():
    waiting = apply(registered(WEATHER), replace(WEATHER, features=[TEMP, HUMID, GUST]))
    plan = switch_layout(waiting, ViewRef("weather"), 2)
    after = committed(waiting, plan)
    assert plan.changes[0].detail == "readable now: gust"
    assert plan_read(after, ["weather:gust"]).views[0].record.layout == 2
    assert not switch_layout(after, ViewRef("weather"), 2)


def test_a_layout_that_was_filled_while_another_was_added_is_not_switched_to():
    waiting = apply(registered(WEATHER), replace(WEATHER, features=[TEMP, HUMID, GUST]))
    after = apply(waiting, replace(WEATHER, features=[TEMP, HUMID, GUST, Feature("wind", "float64")]))
    assert not switch_layout(after, ViewRef("weather"), 2)
    assert switch_layout(after, ViewRef("weather"), 3)


def test_what_would_break_without_a_version_is_named():
    service = FeatureService("s", [WEATHER.alias("there", join_keys={"origin": "dest"})])
    snapshot = registered(WEATHER, HEAT, service)
    assert retiring(snapshot, "weather@v1").named == ("service s selects it", "heat@v1 computes from it")
    gone = committed(snapshot, set_status(snapshot, ViewRef("heat"), "retired"))
    assert retiring(gone, "weather@v1").named == ("service s selects it",)
    assert not retiring(snapshot, "heat@v1").named


def rolled_out(share=0.5):
    """Two versions, the second on its way."""
    changed = apply(registered(WEATHER), MEANING["unit"][1])
    return committed(changed, start_rollout(changed, ViewRef("weather", 2), share=share))


def test_a_version_on_its_way_is_read_and_its_retirement_ends_that():
    snapshot = rolled_out()
    assert plan_read(snapshot, ["weather:temp"]).views[0].rollout
    assert retiring(snapshot, "weather@v2").named == ("it is on its way: 50% of keys",)
    assert not retiring(snapshot, "weather@v1").named
    retired = committed(snapshot, set_status(snapshot, ViewRef("weather", 2), "retired"))
    assert retired.document.views["weather"].rollout is None
    assert plan_read(retired, ["weather:temp"]).views[0].rollout is None


def test_a_rollout_stands_still_while_its_version_is_for_declared_readers_alone():
    enforced = apply(rolled_out(), replace(MEANING["unit"][1], access="enforce"))
    assert view(enforced, "weather@v2").access == "enforce"
    assert plan_read(enforced, ["weather:temp"]).views[0].rollout is None


def test_a_second_addition_before_the_fill_gets_a_layout_of_its_own():
    waiting = apply(registered(WEATHER), replace(WEATHER, features=[TEMP, HUMID, GUST]))
    after = apply(waiting, replace(WEATHER, features=[TEMP, HUMID, GUST, Feature("wind", "float64")]))
    assert [f.layout for f in view(after, "weather@v1").features] == [1, 1, 2, 3]


def test_an_addition_and_a_change_at_once_make_a_new_version_with_everything():
    after = apply(registered(WEATHER), replace(WEATHER, features=[replace(TEMP, unit="degC"), HUMID, GUST]))
    assert versions(after) == [1, 2]
    assert [(f.name, f.layout) for f in view(after, "weather@v2").features] == [("temp", 1), ("humid", 1), ("gust", 1)]


@pytest.mark.parametrize("difference", MEANING)
def test_reverting_a_definition_returns_to_the_old_version(difference):
    before, after = MEANING[difference]
    changed = apply(registered(before), after)
    plan = plan_changes(changed, [before], check_source=no_check, is_filled=lambda ref: True)
    assert versions(committed(changed, plan), before.name) == [1, 2]
    assert view(committed(changed, plan), f"{before.name}@v1") == view(changed, f"{before.name}@v1")
    assert view(committed(changed, plan), f"{before.name}@v2") == view(changed, f"{before.name}@v2")
    assert not [change for change in plan.changes if change.object.startswith("view")]


def test_a_retired_version_is_never_returned_to():
    changed = apply(registered(WEATHER), MEANING["unit"][1])
    retired = committed(changed, set_status(changed, ViewRef("weather", 1), "retired"))
    again = apply(retired, WEATHER)
    assert versions(again) == [1, 2, 3]
    assert [view(again, f"weather@v{n}").status for n in (1, 2, 3)] == ["retired", "live", "live"]


def test_a_retired_version_cannot_be_read_or_promoted():
    retired = committed(registered(WEATHER), set_status(registered(WEATHER), ViewRef("weather", 1), "retired"))
    with pytest.raises(FailedPreconditionError, match="retired"):
        plan_read(retired, ["weather@v1:temp"])
    with pytest.raises(FailedPreconditionError, match="retired"):
        promote(retired, ViewRef("weather", 1))


def test_a_deprecated_version_keeps_its_status_through_an_apply_and_can_be_read():
    first = registered(WEATHER)
    deprecated = committed(first, set_status(first, ViewRef("weather", 1), "deprecated", reason="use v2"))
    after = apply(deprecated, replace(WEATHER, owner="ops@example.com"))
    assert view(after, "weather@v1").status == "deprecated"
    assert plan_read(after, ["weather:temp"]).outputs[0].ref == FeatureRef("weather", 1, "temp")


def test_a_change_of_status_lists_who_declares_the_version():
    first = registered(WEATHER, Model("m", ["weather:temp"]), Job("other", []))
    change = set_status(first, ViewRef("weather", 1), "retired", reason="nobody reads it").changes[0]
    assert (change.kind, change.object, change.detail, change.consumers) == (
        "retired",
        "view weather@v1",
        "nobody reads it",
        ("m@1",),
    )


# --- frozen references -----------------------------------------------------------------------------------------------

READERS = (
    FeatureService("whole", [WEATHER]),
    FeatureService("some", [WEATHER[["temp"]]]),
    FeatureService("text", ["weather:temp"]),
    FeatureService("role", [WEATHER.alias("dest_weather", join_keys={"origin": "dest"})[["temp"]]]),
    Model("through", ["whole"]),
    Model("direct", [WEATHER]),
    Model("picked", ["weather:temp"]),
    Model("in_role", [WEATHER.alias("dest_weather", join_keys={"origin": "dest"})[["temp"]]]),
    Model("both", ["whole", WEATHER]),
    Job("writer", writes=[WEATHER]),
)
CHANGED = replace(WEATHER, features=[replace(TEMP, unit="degC"), HUMID])


def frozen(snapshot):
    """Return every frozen reference of every reader."""
    services = {name: record.features for name, record in snapshot.document.services.items()}
    consumers = {name: (*record.reads, *record.writes) for name, record in snapshot.document.consumers.items()}
    return services | consumers


def test_every_reference_is_frozen_to_a_version():
    found = frozen(registered(WEATHER, *READERS))
    assert found["whole"] == ("weather@v1:temp", "weather@v1:humid")
    assert found["some"] == found["text"] == ("weather@v1:temp",)
    assert found["role"] == ("dest_weather=weather@v1:temp",)
    assert found["through@1"] == found["direct@1"] == found["both@1"] == found["whole"]
    assert found["picked@1"] == found["in_role@1"] == ("weather@v1:temp",)
    assert found["writer"] == ("weather@v1",)


def test_no_later_apply_moves_a_frozen_reference():
    first = registered(WEATHER, *READERS)
    changed = apply(first, CHANGED, *READERS)
    promoted = committed(changed, promote(changed, ViewRef("weather", 2)))
    again = apply(promoted, CHANGED, *READERS)
    grown = apply(again, replace(CHANGED, features=[*CHANGED.features, GUST]), *READERS)
    for later in (changed, promoted, again, grown):
        assert frozen(later) == frozen(first)


def test_a_whole_view_selection_keeps_exactly_its_features():
    readers = [
        reader for reader in READERS if reader.name != "both"
    ]  # says it twice: by a service, and as a whole view
    first = registered(WEATHER, *readers)
    grown = apply(first, replace(WEATHER, features=[TEMP, HUMID, GUST]), *readers, filled=False)
    again = apply(grown, replace(WEATHER, features=[TEMP, HUMID, GUST]), *readers)
    assert feature(grown, "weather@v1:gust") is not None
    assert frozen(grown) == frozen(again) == frozen(first)


def test_a_new_reference_takes_the_current_version():
    changed = apply(registered(WEATHER, *READERS), CHANGED, *READERS)
    promoted = committed(changed, promote(changed, ViewRef("weather", 2)))
    new = FeatureService("new", [WEATHER])
    assert frozen(apply(changed, CHANGED, *READERS, new))["new"] == ("weather@v1:temp", "weather@v1:humid")
    assert frozen(apply(promoted, CHANGED, *READERS, new))["new"] == ("weather@v2:temp", "weather@v2:humid")


def test_a_file_that_names_a_version_moves_the_reference():
    changed = apply(registered(WEATHER, FeatureService("s", ["weather:temp"])), CHANGED)
    moved = apply(changed, CHANGED, FeatureService("s", ["weather@v2:temp"]))
    assert frozen(moved)["s"] == ("weather@v2:temp",)
    assert frozen(apply(moved, CHANGED, FeatureService("s", ["weather:temp"])))["s"] == ("weather@v2:temp",)


def test_a_whole_view_added_to_what_a_service_covers_declares_all_of_that_version():
    service = FeatureService("some", [WEATHER[["temp"]]])
    first = registered(WEATHER, service, Model("m", ["some"]))
    wider = apply(first, WEATHER, service, Model("m", ["some", WEATHER]))
    assert frozen(first)["m@1"] == ("weather@v1:temp",)
    assert frozen(wider)["m@1"] == ("weather@v1:temp", "weather@v1:humid")


def test_a_feature_only_another_version_has_is_refused_with_the_way_out():
    changed = apply(registered(WEATHER), replace(WEATHER, features=[replace(TEMP, unit="degC"), HUMID, GUST]))
    with pytest.raises(NotFoundError, match=r"weather@v2 has it: write 'weather@v2:gust'"):
        apply(
            changed, replace(WEATHER, features=[replace(TEMP, unit="degC"), HUMID, GUST]), Model("m", ["weather:gust"])
        )


# --- promote ---------------------------------------------------------------------------------------------------------


def test_promote_changes_what_an_ad_hoc_read_means_and_says_who_stays():
    changed = apply(registered(WEATHER, *READERS), CHANGED, *READERS)
    plan = promote(changed, ViewRef("weather", 2))
    after = committed(changed, plan)
    assert after.document.views["weather"].current == 2
    assert plan_read(after, ["weather:temp"]).counted == ("weather@v2:temp",)
    assert plan_read(after, "whole").counted == ("weather@v1:temp", "weather@v1:humid")
    readers = "both@1, direct@1, in_role@1, picked@1, role, some, text, through@1, whole"
    assert plan.notes == (f"stay where they are: {readers}",)
    assert plan.changes[0].consumers == ()


def test_promote_move_of_a_service_moves_it_and_who_reads_through_it():
    readers = (FeatureService("whole", [WEATHER]), Model("through", ["whole"]), Model("direct", [WEATHER]))
    changed = apply(registered(WEATHER, *readers), CHANGED, *readers)
    plan = promote(changed, ViewRef("weather", 2), move=["whole"])
    after = committed(changed, plan)
    v2 = ("weather@v2:temp", "weather@v2:humid")
    assert frozen(after) == {"whole": v2, "through@1": v2, "direct@1": ("weather@v1:temp", "weather@v1:humid")}
    assert plan.changes[0].consumers == ("through@1", "whole")
    assert plan.notes == ("stay where they are: direct@1",)
    assert frozen(apply(after, CHANGED, *readers)) == frozen(after)


def test_promote_move_of_a_model_moves_it_alone_and_it_stays_moved():
    readers = (Model("one", [WEATHER]), Model("two", [WEATHER]))
    changed = apply(registered(WEATHER, *readers), CHANGED, *readers)
    after = committed(changed, promote(changed, ViewRef("weather", 2), move=["one@1"]))
    assert frozen(after)["one@1"] == ("weather@v2:temp", "weather@v2:humid")
    assert frozen(after)["two@1"] == ("weather@v1:temp", "weather@v1:humid")
    assert frozen(apply(after, CHANGED, *readers)) == frozen(after)


def test_a_model_cannot_be_moved_away_from_its_service():
    readers = (FeatureService("whole", [WEATHER]), Model("through", ["whole"]))
    changed = apply(registered(WEATHER, *readers), CHANGED, *readers)
    with pytest.raises(FailedPreconditionError, match="--move whole"):
        promote(changed, ViewRef("weather", 2), move=["through@1"])
    both = promote(changed, ViewRef("weather", 2), move=["through@1", "whole"])
    assert frozen(committed(changed, both))["through@1"] == ("weather@v2:temp", "weather@v2:humid")


def test_a_model_that_reads_through_two_services_keeps_what_the_other_says():
    readers = (FeatureService("a", [WEATHER]), FeatureService("b", ["weather:temp"]), Model("m", ["a", "b"]))
    changed = apply(registered(WEATHER, *readers), CHANGED, *readers)
    after = committed(changed, promote(changed, ViewRef("weather", 2), move=["a"]))
    assert frozen(after)["m@1"] == ("weather@v2:temp", "weather@v2:humid", "weather@v1:temp")
    assert frozen(apply(after, CHANGED, *readers)) == frozen(after)


def test_a_moved_service_that_had_both_versions_reads_one_once():
    changed = apply(registered(WEATHER), CHANGED)
    both = apply(changed, CHANGED, FeatureService("both", ["weather@v1:temp", "weather@v2:temp"]))
    after = committed(both, promote(both, ViewRef("weather", 2), move=["both"]))
    assert frozen(after)["both"] == ("weather@v2:temp",)


def test_a_moved_service_keeps_its_roles():
    role = FeatureService("role", [WEATHER.alias("dest_weather", join_keys={"origin": "dest"})[["temp"]]])
    changed = apply(registered(WEATHER, role), CHANGED, role)
    after = committed(changed, promote(changed, ViewRef("weather", 2), move=["role"]))
    assert frozen(after)["role"] == ("dest_weather=weather@v2:temp",)
    assert after.service("role").aliases["dest_weather"].view == "weather@v2"
    assert plan_read(after, "role").key_sets[0].columns == ("dest",)


def test_promote_refuses_to_move_a_reader_whose_feature_is_gone():
    only_humid = replace(WEATHER, features=[HUMID])
    changed = apply(registered(WEATHER, Model("m", ["weather:temp"])), only_humid)
    with pytest.raises(FailedPreconditionError, match=r"m@1 reads weather@v1:temp, and weather@v2 has no 'temp'"):
        promote(changed, ViewRef("weather", 2), move=["m@1"])


@pytest.mark.parametrize(
    ("ref", "move", "nearest"),
    [
        (ViewRef("wether", 1), [], "weather"),
        (ViewRef("weather", 3), [], "weather@v1"),
        (ViewRef("weather"), ["m"], "m@1"),
    ],
)
def test_promote_names_the_nearest_of_what_is_unknown(ref, move, nearest):
    with pytest.raises(NotFoundError) as unknown:
        promote(registered(WEATHER, Model("m", [WEATHER])), ref, move=move)
    assert nearest in str(unknown.value)


def test_promoting_back_returns_ad_hoc_reads():
    changed = apply(registered(WEATHER), CHANGED)
    there = committed(changed, promote(changed, ViewRef("weather", 2)))
    back = committed(there, promote(there, ViewRef("weather", 1)))
    assert plan_read(back, ["weather:temp"]).counted == ("weather@v1:temp",)


# --- on-demand -------------------------------------------------------------------------------------------------------


def inputs(snapshot, text):
    return view(snapshot, text).inputs


def test_an_on_demand_view_keeps_its_inputs_whatever_current_means():
    first = registered(WEATHER, HEAT)
    changed = apply(first, CHANGED, HEAT)
    promoted = committed(changed, promote(changed, ViewRef("weather", 2)))
    again = apply(promoted, CHANGED, HEAT)
    assert versions(again, "heat") == [1]
    assert inputs(again, "heat") == ("weather@v1:temp",)


def test_an_on_demand_view_over_an_input_of_another_meaning_is_a_new_version():
    changed = apply(registered(WEATHER, HEAT), CHANGED, HEAT)
    named = replace(HEAT, inputs=["weather@v2:temp"])
    moved = apply(changed, CHANGED, named)
    assert versions(moved, "heat") == [1, 2]
    assert inputs(moved, "heat@v2") == ("weather@v2:temp",)
    assert feature(moved, "heat@v2:feels").same_as is None
    assert versions(apply(moved, CHANGED, replace(HEAT, inputs=["weather@v1:temp"])), "heat") == [1, 2]


def test_an_on_demand_view_over_a_newer_input_of_the_same_meaning_keeps_its_version():
    humid = OnDemandFeatureView("dry", [Feature("dryness", "float64", expression="1 - humid")], inputs=[WEATHER])
    changed = apply(registered(WEATHER, humid), CHANGED, humid)
    plan = plan_changes(
        changed,
        [CHANGED, replace(humid, inputs=["weather@v2:humid"])],
        check_source=no_check,
        is_filled=lambda ref: True,
    )
    moved = committed(changed, plan)
    assert versions(moved, "dry") == [1]
    assert inputs(moved, "dry") == ("weather@v2:humid",)
    assert [(change.kind, change.object, change.detail) for change in plan.changes] == [
        ("update", "view dry@v1", "inputs")
    ]


def test_an_expression_may_later_use_another_feature_of_its_whole_view():
    changed = apply(registered(WEATHER, HEAT), CHANGED, HEAT)
    promoted = committed(changed, promote(changed, ViewRef("weather", 2)))
    wider = replace(HEAT, features=[Feature("feels", "float64", expression="temp * humid + bump")])
    after = apply(promoted, CHANGED, wider)
    assert inputs(after, "heat@v2") == ("weather@v1:temp", "weather@v1:humid")


def test_an_added_expression_keeps_the_version_and_can_be_read_at_once():
    after = apply(
        registered(WEATHER, HEAT),
        WEATHER,
        replace(HEAT, features=[*HEAT.features, Feature("half", "float64", expression="temp / 2")]),
    )
    assert versions(after, "heat") == [1]
    assert [output.name for output in plan_read(after, ["heat:feels", "heat:half"]).outputs] == ["feels", "half"]


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        (replace(HEAT, inputs=["heat:feels"], name="hotter"), "itself computed on demand"),
        (replace(HEAT, inputs=[WEATHER], request={"bump": "float64", "temp": "float64"}), "Two inputs"),
        (replace(HEAT, inputs=[WEATHER.alias("dest", join_keys={"origin": "dest"})]), "another role"),
    ],
)
def test_an_on_demand_view_over_impossible_inputs_is_refused(definition, reason):
    with pytest.raises(DefinitionError, match=reason):
        apply(registered(WEATHER, HEAT), WEATHER, definition)


def test_an_expression_over_an_unknown_column_is_refused():
    wrong = replace(HEAT, features=[Feature("feels", "float64", expression="tmep * 2")])
    with pytest.raises((DefinitionError, NotFoundError), match="tmep"):
        registered(WEATHER, wrong)


# --- roles -----------------------------------------------------------------------------------------------------------


def test_a_role_is_kept_in_the_reference_and_in_the_service():
    service = FeatureService("delay", [WEATHER, WEATHER.alias("dest_weather", join_keys={"origin": "dest"})])
    record = registered(WEATHER, service).service("delay")
    assert record.features[2:] == ("dest_weather=weather@v1:temp", "dest_weather=weather@v1:humid")
    assert record.aliases["dest_weather"].view == "weather@v1"
    assert record.aliases["dest_weather"].join_keys == {"origin": "dest"}


def test_a_role_with_an_unknown_join_key_is_refused_with_the_nearest():
    service = FeatureService("delay", [WEATHER.alias("dest_weather", join_keys={"orgin": "dest"})])
    with pytest.raises(NotFoundError, match="Did you mean 'origin'"):
        registered(WEATHER, service)


def test_a_role_without_keys_is_refused():
    with pytest.raises(DefinitionError, match="names a role without its keys"):
        registered(WEATHER, FeatureService("delay", ["dest_weather=weather:temp"]))


def test_a_manifest_declares_what_is_read_not_under_which_role():
    both = [WEATHER[["temp"]], WEATHER.alias("dest_weather", join_keys={"origin": "dest"})[["temp"]]]
    assert frozen(registered(WEATHER, FeatureService("s", both), Model("m", ["s"])))["m@1"] == ("weather@v1:temp",)


def test_a_filter_keeps_the_columns_that_it_reads_with_the_rows():
    late = replace(DELAY, where="status = 'late' AND delay > 0")
    record = view(
        registered(replace(WINDOWED, features=[late], columns={"status": "string", "spare": "int8"})), "traffic"
    )
    assert record.features[0].aggregation.where.columns == (("delay", "float64"), ("status", "string"))
    assert [column.name for column in RowSchema.of(record).values] == ["delay", "status"]


def test_a_filter_that_reads_another_column_needs_an_event_key_to_keep_the_version():
    columns = {"status": "string"}
    late = replace(DELAY, name="late", where="status = 'late'")
    for event_key, expected in (({"flight": "string"}, [1]), ({}, [1, 2])):
        before = replace(WINDOWED, event_key=event_key, columns=columns)
        assert versions(apply(registered(before), replace(before, features=[DELAY, late])), "traffic") == expected


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (
            "statsu = 'late'",
            r"No column 'statsu'. Did you mean 'status'\?.*where of 'mean_delay_3h'.*columns=\{'status'",
        ),
        ("delay + 1", r"A filter must be true or false; 'delay \+ 1' is float64"),
        ("status = 1", "do not meet.*where of 'mean_delay_3h'"),
        ("delay >", "Not a SQL expression"),
    ],
)
def test_an_impossible_filter_is_refused_at_the_plan(where, said):
    with pytest.raises(DefinitionError, match=said):
        registered(replace(WINDOWED, features=[replace(DELAY, where=where)], columns={"status": "string"}))


def test_columns_are_for_filters_alone():
    with pytest.raises(DefinitionError, match="has columns for filters, and no aggregates"):
        replace(WEATHER, columns={"status": "string"})


def test_an_aggregate_without_filter_and_list_has_the_fingerprint_it_always_had():
    (feature,) = view(registered(WINDOWED), "traffic").features
    assert feature.fingerprint == "93d8084f905542e18723be1af889b8fe"
