"""Features of flights out of New York in 2013, each with its own sense of time. Change a line, then run `featurestore plan`.

Three rules keep the future out of training:
* weather is observed at one time and reported an hour later: it is known from `reported_at` on;
* what happened to a flight (delays, time in the air) is known once it has landed, not before;
* a plane's facts do not change, so they count from the first day of the data on.
"""

from datetime import timedelta

from featurestore import (
    Aggregation,
    Entity,
    Feature,
    FeatureService,
    FeatureView,
    Job,
    OnDemandFeatureView,
    ParquetSource,
    PushSource,
    SQLSource,
)

HOUR, DAY = timedelta(hours=1), timedelta(days=1)

# --- what features are about -----------------------------------------------------------------------------------------

origin = Entity("origin", join_keys={"origin": "string"}, description="A New York airport: EWR, JFK or LGA")
plane = Entity("plane", join_keys={"tailnum": "string"}, description="One aircraft, by its tail number")
carrier = Entity("carrier", join_keys={"carrier": "string"}, description="An airline")
route = Entity("route", join_keys={"origin": "string", "dest": "string"}, description="From one airport to another")
flight = Entity("flight", join_keys={"flight_id": "string"}, description="One scheduled flight")

# --- the latest row counts -------------------------------------------------------------------------------------------

weather = FeatureView(
    "weather",
    entity=origin,
    source=ParquetSource(
        "weather", "data/weather.parquet", event_timestamp="observed_at", created_timestamp="reported_at"
    ),
    features=[
        Feature("temp", "float64", unit="degF"),
        Feature("dewp", "float64", unit="degF"),
        Feature("humid", "float64", unit="percent"),
        Feature("wind_speed", "float64", unit="mi/h"),
        Feature("precip", "float64", unit="in/h"),
        Feature("visib", "float64", unit="mi"),
    ],
    ttl=timedelta(hours=4),
    owner="met@airport.example",
    description="The last hourly weather report of the airport; older than four hours is no weather",
)

plane_facts = FeatureView(
    "plane",
    entity=plane,
    source=SQLSource(
        "planes",
        """
        SELECT tailnum, seats, engines, year AS built, TIMESTAMPTZ '2013-01-01 00:00:00+00' AS registered_at
        FROM planes
        """,
        tables={"planes": "data/planes.parquet"},
        event_timestamp="registered_at",
    ),
    features=[
        Feature("seats", "int32", unit="1"),
        Feature("engines", "int32", unit="1"),
        Feature("built", "int32", unit="year"),
    ],
    owner="fleet@airport.example",
    description="What kind of plane it is",
)

# --- windows over past flights ---------------------------------------------------------------------------------------

origin_traffic = FeatureView(
    "origin_traffic",
    entity=origin,
    source=SQLSource(
        "departures",
        "SELECT flight_id, origin, departed_at, landed_at, dep_delay::DOUBLE AS dep_delay FROM flights WHERE landed_at IS NOT NULL",
        tables={"flights": "data/flights.parquet"},
        event_timestamp="departed_at",
        created_timestamp="landed_at",  # dep_delay is only published with the flight's record, after it landed
    ),
    features=[
        Aggregation("dep_delay", "count", 6 * HOUR, unit="1", name="departures_6h"),
        Aggregation("dep_delay", "mean", 6 * HOUR, unit="min"),
        Aggregation("dep_delay", "max", 6 * HOUR, unit="min"),
        Aggregation("dep_delay", "mean", DAY, unit="min"),
    ],
    event_key={"flight_id": "string"},
    owner="ops@airport.example",
    description="How late flights have been leaving this airport",
)

carrier_delays = FeatureView(
    "carrier_delays",
    entity=carrier,
    source=SQLSource(
        "arrivals",
        "SELECT flight_id, carrier, landed_at, arr_delay::DOUBLE AS arr_delay FROM flights WHERE landed_at IS NOT NULL",
        tables={"flights": "data/flights.parquet"},
        event_timestamp="landed_at",
    ),
    features=[
        Aggregation("arr_delay", "mean", DAY, unit="min"),
        Aggregation("arr_delay", "stddev", DAY, unit="min"),
        Aggregation("arr_delay", "mean", 7 * DAY, unit="min"),
    ],
    event_key={"flight_id": "string"},
    owner="ops@airport.example",
    description="How late the airline's flights have been landing",
)

route_history = FeatureView(
    "route_history",
    entity=route,
    source=SQLSource(
        "route_arrivals",
        """
        SELECT flight_id, origin, dest, landed_at, arr_delay::DOUBLE AS arr_delay, air_time::DOUBLE AS air_time
        FROM flights WHERE landed_at IS NOT NULL
        """,
        tables={"flights": "data/flights.parquet"},
        event_timestamp="landed_at",
    ),
    features=[
        Aggregation("arr_delay", "mean", 7 * DAY, unit="min", name="route_delay_7d"),
        Aggregation("air_time", "mean", 7 * DAY, unit="min", name="route_air_time_7d"),
    ],
    event_key={"flight_id": "string"},
    owner="ops@airport.example",
    description="How the route has been flown lately",
)

# --- computed at read, from the request and from other features ------------------------------------------------------

flight_plan = OnDemandFeatureView(
    "flight_plan",
    inputs=["weather:visib"],
    request={"distance": "float64", "block_minutes": "float64", "local_hour": "int64"},
    features=[
        Feature("planned_speed", "float64", unit="mi/h", expression="distance / (block_minutes / 60)"),
        Feature("evening", "bool", expression="local_hour >= 17"),
        Feature("low_visibility", "bool", expression="visib < 3"),
    ],
    owner="ops@airport.example",
    description="What the schedule itself says, and whether one can see the runway",
)

# --- what a model writes back ----------------------------------------------------------------------------------------

delay_score = FeatureView(
    "delay_score",
    entity=flight,
    source=PushSource("delay_scores", event_timestamp="scored_at"),
    features=[Feature("probability", "float64", unit="1", description="That the flight arrives over 15 minutes late")],
    owner="ml@airport.example",
    description="The predictions of delay_model",
)

# --- who reads what --------------------------------------------------------------------------------------------------

delay_features = FeatureService(
    "delay_features",
    features=[
        weather,
        plane_facts,
        origin_traffic,
        carrier_delays,
        route_history,
        flight_plan,
    ],
    owner="ml@airport.example",
    description="All that delay_model reads",
)

gate_planner = Job(
    "gate_planner",
    reads=[delay_score, "origin_traffic:departures_6h", "weather:wind_speed"],  # it never reads the last one
    owner="gates@airport.example",
    description="Gives late flights a gate further out",
)
