"""What is naturally true of the flights out of New York: found, and nothing else said."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from lineage.evaluation.data import read_data
from lineage.evaluation.dependence import dependence_of, hindsight

DATA = Path(__file__).parents[2] / "examples" / "flights" / "data"


@pytest.fixture(scope="module")
def flights(tmp_path_factory):
    """Flights beside their airline's name and their plane, a tenth of the year."""
    table = pq.read_table(DATA / "flights.parquet")
    table = table.filter(pc.is_valid(table["arr_delay"]))
    table = table.take(np.arange(0, len(table), 10))
    table = table.join(pq.read_table(DATA / "airlines.parquet"), "carrier")
    table = table.join(pq.read_table(DATA / "planes.parquet").select(["tailnum", "speed", "seats"]), "tailnum")
    columns = ["year", "sched_dep_time", "hour", "minute", "carrier", "name", "speed", "seats", "arr_delay"]
    path = tmp_path_factory.mktemp("flights") / "flights.parquet"
    pq.write_table(table.select(columns), path)
    return dependence_of(read_data(str(path), label="arr_delay"))


@pytest.fixture(scope="module")
def weather(tmp_path_factory):
    """Hourly weather of one airport."""
    table = pq.read_table(DATA / "weather.parquet", columns=["origin", "temp", "dewp", "humid", "visib", "wind_dir"])
    table = table.filter(pc.equal(table["origin"], "JFK")).drop(["origin"])
    path = tmp_path_factory.mktemp("weather") / "weather.parquet"
    pq.write_table(table.append_column("y", pa.array(np.arange(len(table)) * 1.0)), path)
    return dependence_of(read_data(str(path), label="y"))


def test_the_year_is_constant_and_the_speed_is_hardly_there(flights):
    assert flights.constant == ("year",)
    assert set(flights.empty) == {"speed"}


def test_the_scheduled_time_follows_from_hour_and_minute(flights):
    found = {one.column: set(one.by) for one in flights.determined}
    assert found["sched_dep_time"] <= {"hour", "minute"}
    assert "hour" in found["sched_dep_time"]


def test_carrier_and_airline_are_one(flights):
    assert flights.between("carrier", "name") == pytest.approx(1.0, abs=1e-3)


def test_nothing_else_goes_together(flights):
    assert {frozenset(group) for group in flights.clusters} == {
        frozenset({"sched_dep_time", "hour", "minute"}),
        frozenset({"carrier", "name"}),
    }


def test_humidity_follows_from_temperature_and_dew_point(weather):
    found = {one.column: set(one.by) for one in weather.determined}
    assert found["humid"] == {"temp", "dewp"}
    assert {frozenset(group) for group in weather.clusters} == {frozenset({"temp", "dewp", "humid"})}


KNOWN_BEFORE = [
    "sched_dep_time",
    "hour",
    "distance",
    "carrier",
    "origin",
    "tailnum",
    "speed",
    "seats",
    "scheduled_arrival",
]
AFTER = ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time", "departed_at", "landed_at"]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Every tenth flight, cancelled ones among them, with what is only known later beside what is known before."""
    table = pq.read_table(DATA / "flights.parquet")
    table = table.take(np.arange(0, len(table), 10))
    table = table.join(pq.read_table(DATA / "planes.parquet").select(["tailnum", "speed", "seats"]), "tailnum")
    late = pc.greater(table["arr_delay"].cast(pa.int32()), 15)
    table = table.select([*KNOWN_BEFORE, *AFTER, "scheduled_departure"]).append_column("late", late)
    path = tmp_path_factory.mktemp("outcomes") / "outcomes.parquet"
    pq.write_table(table, path)
    return path


def rows(path, label):
    other = ["late"] if label == "arr_delay" else []
    return read_data(str(path), label=label, time="scheduled_departure", leave_out=other)


@pytest.mark.parametrize("label", ["late", "arr_delay"])
def test_what_is_known_after_the_fact_is_found_and_nothing_else(outcomes, label):
    assert {one.column for one in hindsight(rows(outcomes, label))} == set(AFTER) - {label}


def test_what_says_the_label_is_found_where_every_outcome_is_known(outcomes, tmp_path):
    table = pq.read_table(outcomes)
    path = tmp_path / "known.parquet"
    pq.write_table(table.filter(pc.is_valid(table["late"])), path)
    assert {one.column: one.sign for one in hindsight(rows(path, "late"))} == {"arr_delay": "says the label"}


def test_what_is_null_together_is_a_group(outcomes):
    asked = ("dep_time", "carrier", "air_time", "speed", "distance")
    found = dependence_of(read_data(str(outcomes), label="hour", features=asked))
    assert found.null_together == (("dep_time", "air_time"),)
    assert set(found.empty) == {"speed"}
