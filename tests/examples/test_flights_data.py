"""The tables that examples/flights ships say what its README says, and their times fit together."""

import hashlib
import re
from pathlib import Path

import polars as pl
import pytest

DATA = Path(__file__).parents[2] / "examples" / "flights" / "data"
ROWS = {"flights": 336_776, "weather": 26_115, "planes": 3_322, "airports": 1_462, "airlines": 16}
NEW_YORK = "America/New_York"
UTC_INSTANT = pl.Datetime("us", "UTC")


def table(name: str) -> pl.DataFrame:
    return pl.read_parquet(DATA / f"{name}.parquet")


@pytest.fixture(scope="module")
def flights() -> pl.DataFrame:
    return table("flights")


@pytest.fixture(scope="module")
def weather() -> pl.DataFrame:
    return table("weather")


def clock(instant: str, zone: str) -> pl.Expr:
    local = pl.col(instant).dt.convert_time_zone(zone)
    return local.dt.hour().cast(pl.Int16) * 100 + local.dt.minute()


def share(frame: pl.DataFrame, predicate: pl.Expr) -> float:
    return frame.select(predicate.mean()).item()


@pytest.mark.parametrize("name", ROWS)
def test_row_counts(name):
    assert table(name).height == ROWS[name]


@pytest.mark.parametrize("name", ROWS)
def test_readme_gives_the_hash_of_each_file(name):
    digest = hashlib.sha256((DATA / f"{name}.parquet").read_bytes()).hexdigest()
    listed = re.search(
        rf"\| `{name}\.parquet` \| ([\d,]+) \| [\d,]+ \| `([0-9a-f]{{64}})` \|", (DATA / "README.md").read_text()
    )
    assert listed is not None
    assert (f"{ROWS[name]:,}", digest) == listed.groups()


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("flights", ["flight_id"]),
        ("flights", ["year", "month", "day", "carrier", "flight", "origin", "sched_dep_time"]),
        ("weather", ["origin", "observed_at"]),
        ("planes", ["tailnum"]),
        ("airports", ["faa"]),
        ("airlines", ["carrier"]),
    ],
)
def test_keys_are_unique_and_never_null(name, key):
    keys = table(name).select(key)
    assert sum(keys.null_count().row(0)) == 0
    assert keys.n_unique() == keys.height


def test_instants_are_utc_microseconds(flights, weather):
    instants = ["time_hour", "scheduled_departure", "departed_at", "scheduled_arrival", "landed_at"]
    assert [flights.schema[name] for name in instants] == [UTC_INSTANT] * len(instants)
    assert [weather.schema[name] for name in ("observed_at", "reported_at")] == [UTC_INSTANT] * 2


def test_flight_id_is_made_of_departure_flight_and_origin(flights):
    first = flights.filter(flight=1545, carrier="UA", month=1, day=1)
    assert first["flight_id"].to_list() == ["2013-01-01T10:15Z-UA1545-EWR"]


def test_scheduled_departure_is_the_local_schedule(flights):
    assert share(flights, pl.col("sched_dep_time") == pl.col("hour").cast(pl.Int16) * 100 + pl.col("minute")) == 1
    assert share(flights, clock("scheduled_departure", NEW_YORK) == pl.col("sched_dep_time")) == 1
    assert flights["year"].unique().to_list() == [2013]


def test_departed_at_shows_dep_time_in_new_york(flights):
    assert share(flights, clock("departed_at", NEW_YORK) == pl.col("dep_time") % 2400) == 1


def test_arrivals_show_the_source_times_where_they_landed(flights):
    zones = table("airports").select(dest="faa", zone="tzone")
    landed = flights.join(zones, on="dest", how="left")
    assert landed["zone"].null_count() == 0
    parts = [
        part.select(
            "flight_id",
            scheduled=clock("scheduled_arrival", str(zone)) == pl.col("sched_arr_time") % 2400,
            landed=clock("landed_at", str(zone)) == pl.col("arr_time") % 2400,
        )
        for (zone,), part in landed.group_by("zone")
    ]
    agreement = pl.concat(parts)
    assert agreement["scheduled"].all()
    # 02:03 on 10 March did not exist in Florida: the clock was put forward at 02:00.
    assert agreement.filter(~pl.col("landed"))["flight_id"].to_list() == ["2013-03-10T02:45Z-B635-JFK"]


def test_arrival_delay_is_the_time_between_schedule_and_landing(flights):
    minutes_late = (pl.col("landed_at") - pl.col("scheduled_arrival")).dt.total_minutes()
    assert share(flights, minutes_late == pl.col("arr_delay")) == 1


def test_flights_land_after_they_departed_and_flew(flights):
    away = (pl.col("landed_at") - pl.col("departed_at")).dt.total_minutes()
    assert share(flights, pl.col("landed_at") > pl.col("departed_at")) == 1
    assert share(flights, away > pl.col("air_time")) == 1
    assert share(flights, away < 24 * 60) == 1


def test_flights_that_did_not_happen_have_no_instants(flights):
    cancelled = flights.filter(pl.col("dep_time").is_null())
    diverted = flights.filter(pl.col("dep_time").is_not_null(), pl.col("arr_delay").is_null())
    assert (cancelled.height, diverted.height) == (8_255, 1_175)
    assert cancelled["departed_at"].null_count() == cancelled["landed_at"].null_count() == cancelled.height
    assert diverted["landed_at"].null_count() == diverted["arr_time"].null_count() == 458
    assert flights["departed_at"].null_count() == 8_255
    assert flights["landed_at"].null_count() == 8_713


def test_flights_are_in_order_of_scheduled_departure(flights):
    assert flights["scheduled_departure"].is_sorted()


def test_airports_of_all_flights_are_known(flights):
    known = set(table("airports").filter(pl.col("tzone").is_not_null())["faa"])
    assert set(flights["origin"]) == {"EWR", "JFK", "LGA"}
    assert set(flights["dest"]) | set(flights["origin"]) <= known


def test_added_airports_lie_at_the_flown_distance(flights):
    """The source gives each flight's great-circle distance in miles."""
    places = table("airports").select("faa", lat=pl.col("lat").radians(), lon=pl.col("lon").radians())
    routes = (
        flights.filter(pl.col("dest").is_in(["SJU", "BQN", "PSE", "STT"]))
        .select("origin", "dest", "distance")
        .unique()
        .join(places, left_on="origin", right_on="faa")
        .join(places, left_on="dest", right_on="faa", suffix="_dest")
    )
    chord = ((pl.col("lat_dest") - pl.col("lat")) / 2).sin() ** 2 + pl.col("lat").cos() * pl.col("lat_dest").cos() * (
        (pl.col("lon_dest") - pl.col("lon")) / 2
    ).sin() ** 2
    miles = 2 * 3_958.8 * chord.sqrt().arcsin()
    assert set(routes["dest"]) == {"SJU", "BQN", "PSE", "STT"}
    assert share(routes, (miles - pl.col("distance")).abs() < 8) == 1


def test_carriers_of_all_flights_are_known(flights):
    assert set(flights["carrier"]) == set(table("airlines")["carrier"])


def test_weather_is_hourly_float_and_reported_at_the_end_of_its_hour(weather):
    measures = weather.drop("origin", "observed_at", "reported_at")
    assert set(measures.dtypes) == {pl.Float64}
    assert share(weather, pl.col("observed_at").dt.truncate("1h") == pl.col("observed_at")) == 1
    assert share(weather, pl.col("reported_at") - pl.col("observed_at") == pl.duration(hours=1)) == 1
    assert set(weather["origin"]) == {"EWR", "JFK", "LGA"}


def test_weather_keeps_both_hours_when_the_clock_is_put_back(weather):
    one_o_clock = pl.col("observed_at").dt.convert_time_zone(NEW_YORK).dt.strftime("%m-%d %H") == "11-03 01"
    assert weather.filter(one_o_clock).height == 2 * 3


def test_afternoons_are_warmer_than_nights_in_new_york(weather):
    """Holds only if the weather's instants are truly UTC."""
    hour = pl.col("observed_at").dt.convert_time_zone(NEW_YORK).dt.hour()
    mean = dict(weather.group_by(hour.alias("hour")).agg(pl.col("temp").mean()).rows())
    assert max(mean, key=mean.__getitem__) in {13, 14, 15}
    assert min(mean, key=mean.__getitem__) in {4, 5, 6}
