"""Feature views and what can be selected of them: mistakes are found on their own line."""

from dataclasses import FrozenInstanceError, replace
from datetime import timedelta

import pytest

from featurestore.definitions import (
    Aggregation,
    Entity,
    Feature,
    FeatureSelection,
    FeatureService,
    FeatureView,
    OnDemandFeatureView,
    PushSource,
    SQLSource,
)
from featurestore.errors import DefinitionError, NotFoundError

ORIGIN = Entity("origin", {"origin": "string"})
TEMP = Feature("temp", "float64")
WEATHER = FeatureView("weather", ORIGIN, PushSource("weather"), [TEMP, Feature("humid", "float64")])
MEAN = Aggregation("delay", "mean", timedelta(hours=3))
TRAFFIC = FeatureView("traffic", ORIGIN, PushSource("traffic"), [MEAN], event_key={"flight": "string"})


def test_features_keep_their_order():
    assert WEATHER.feature_names == ("temp", "humid")
    assert not WEATHER.is_windowed
    assert TRAFFIC.is_windowed


def test_a_definition_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        WEATHER.owner = "me"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"features": []}, "has no features"),
        ({"features": [TEMP, MEAN]}, "mixes columns and aggregations"),
        ({"features": [TEMP, TEMP]}, "'temp' is given twice"),
        ({"features": [Feature("origin", "string")]}, "name of a join key"),
        ({"features": [Feature("__seq", "int64")]}, "the store's own"),
        ({"ttl": timedelta(0)}, "longer than zero"),
        ({"ttl": timedelta(hours=-1)}, "longer than zero"),
        ({"event_key": {"id": "strng"}}, "Did you mean 'string'"),
        ({"event_key": {"a b": "string"}}, "not allowed"),
        ({"event_key": {"origin": "string"}}, "'origin' is given twice"),
        ({"event_key": {"temp": "int64"}}, "'temp' is given twice"),
        ({"event_key": {"__seq": "int64"}}, "the store's own"),
        ({"features": [TEMP, replace(TEMP, name="Temp")]}, "'temp' and 'Temp' differ in case alone"),
        ({"features": [Feature("Origin", "string")]}, "'origin' and 'Origin' differ in case alone"),
        ({"access": "deny"}, "not observe, warn or enforce"),
        ({"name": "my view"}, "not allowed"),
    ],
)
def test_an_impossible_view_is_refused(changed, said):
    with pytest.raises(DefinitionError, match=said):
        replace(WEATHER, **changed)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"ttl": timedelta(hours=1)}, "has a ttl"),
        ({"features": [MEAN, MEAN]}, "'mean_delay_3h' is given twice"),
        ({"features": [MEAN, replace(MEAN, function="sum", dtype="int64")]}, "'delay' is given twice"),
        ({"features": [replace(MEAN, column="flight", function="count", dtype="string")]}, "'flight' is given twice"),
        ({"features": [replace(MEAN, column="origin", function="count", dtype="string")]}, "'origin' is given twice"),
    ],
)
def test_an_impossible_windowed_view_is_refused(changed, said):
    with pytest.raises(DefinitionError, match=said):
        replace(TRAFFIC, **changed)


def test_several_aggregates_of_one_column_are_one_column():
    several = [MEAN, replace(MEAN, function="max"), replace(MEAN, time_window=timedelta(days=1))]
    assert replace(TRAFFIC, features=several).feature_names == ("mean_delay_3h", "max_delay_3h", "mean_delay_1d")


def test_a_selection_names_features_that_are_there():
    assert WEATHER[["humid"]] == FeatureSelection("weather", ("humid",))
    with pytest.raises(NotFoundError, match="Did you mean 'weather:humid'"):
        WEATHER[["humd"]]


def test_a_role_selects_like_its_view():
    role = WEATHER.alias("dest_weather", join_keys={"origin": "dest"})
    assert role[["temp"]] == FeatureSelection("weather", ("temp",), role)
    with pytest.raises(NotFoundError, match="Did you mean 'weather:temp'"):
        role[["tmp"]]
    with pytest.raises(DefinitionError, match="not allowed"):
        WEATHER.alias("dest weather", join_keys={})


def test_an_on_demand_view_needs_an_expression_for_each_feature():
    with pytest.raises(DefinitionError, match="'heat:temp' has no expression"):
        OnDemandFeatureView("heat", [TEMP], inputs=[WEATHER])


@pytest.mark.parametrize("request_columns", [{"a b": "float64"}, {"bump": "flot64"}])
def test_an_on_demand_view_checks_its_request(request_columns):
    with pytest.raises(DefinitionError):
        OnDemandFeatureView("heat", [replace(TEMP, expression="1")], request=request_columns)


def test_a_feature_of_unknown_type_names_the_nearest():
    with pytest.raises(DefinitionError, match="Did you mean 'float64'"):
        Feature("temp", "flaot64")


def test_a_service_selects_something():
    with pytest.raises(DefinitionError, match="selects no features"):
        FeatureService("delay", [])


def test_a_query_needs_tables():
    with pytest.raises(DefinitionError, match="names no tables"):
        SQLSource("s", "SELECT 1", {}, "at")


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("SELECT  a,\n\tb FROM t ;\n", "SELECT a, b FROM t"),
        ("SELECT a -- the 'first'\nFROM t", "SELECT a FROM t"),
        ("SELECT/* a; */a FROM t", "SELECT a FROM t"),
        ("SELECT 'a  -- b' FROM t", "SELECT 'a  -- b' FROM t"),
        ("SELECT 'it''s  /* */' FROM t", "SELECT 'it''s  /* */' FROM t"),
        ('SELECT "a  b" FROM t', 'SELECT "a  b" FROM t'),
        ("SELECT $$a  b$$, $x$ -- $$ $x$ FROM t", "SELECT $$a  b$$, $x$ -- $$ $x$ FROM t"),
        (r"SELECT E'\'  b'  FROM t", r"SELECT E'\'  b' FROM t"),
        ("SELECT a - -1 FROM t", "SELECT a - -1 FROM t"),
    ],
)
def test_the_layout_of_a_query_is_dropped_and_its_text_is_not(written, kept):
    assert SQLSource("s", written, {"t": "t.parquet"}, "at").document()["query"] == kept
