"""Rides: drivers, their statistics and their vehicles, and who reads them."""

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String

driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64, owner="ops@rides.example")
statistics = FileSource(
    name="statistics",
    path="data/statistics.parquet",
    timestamp_field="event_timestamp",
    created_timestamp_column="created",
)
vehicles = FileSource(name="vehicles", path="data/vehicles.parquet", timestamp_field="event_timestamp")

driver_statistics = FeatureView(
    name="driver_statistics",
    entities=[driver],
    ttl=timedelta(days=30),
    schema=[Field(name="rate", dtype=Float64, description="share of rides kept"), Field(name="trips", dtype=Int64)],
    source=statistics,
    owner="ops@rides.example",
    tags={"team": "supply"},
)
driver_vehicle = FeatureView(
    name="driver_vehicle",
    entities=[driver],
    ttl=timedelta(0),
    schema=[Field(name="seats", dtype=Int64), Field(name="model", dtype=String)],
    source=vehicles,
)
ride = RequestSource(name="ride", schema=[Field(name="passengers", dtype=Int64)])


@on_demand_feature_view(sources=[driver_vehicle, ride], schema=[Field(name="fits", dtype=Float64)], mode="python")
def ride_fit(inputs):
    """Say how many passengers a seat has to take."""
    return {"fits": [float(p) / max(1, s or 1) for p, s in zip(inputs["passengers"], inputs["seats"], strict=True)]}


arrival_v1 = FeatureService(
    name="arrival_v1",
    features=[driver_statistics[["rate"]], driver_vehicle],
    owner="eta@rides.example",
    tags={"principals": "arrival-server"},
)
pricing_v1 = FeatureService(name="pricing_v1", features=[driver_statistics, ride_fit], owner="pricing@rides.example")
