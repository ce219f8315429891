"""The definitions of the small project that many tests use."""

from datetime import UTC, datetime

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)

FEATURES = """
from datetime import timedelta
from featurestore import (
    Aggregation, Entity, Feature, FeatureService, FeatureView, Model, OnDemandFeatureView, ParquetSource, PushSource,
)

origin = Entity("origin", join_keys={"origin": "string"})
user = Entity("user", join_keys={"user_id": "int64"})
weather = FeatureView(
    "weather",
    entity=origin,
    source=ParquetSource("weather", "data/weather.parquet", event_timestamp="observed_at", created_timestamp="reported_at"),
    features=[Feature("temp", "float64", unit="degF"), Feature("visib", "int32", unit="mi")],
    ttl=timedelta(days=30000),
    owner="met@example.com",
)
payments = FeatureView(
    "payments",
    entity=user,
    source=PushSource("payments", event_timestamp="paid_at"),
    features=[Aggregation("amount", "sum", timedelta(days=30000)), Aggregation("amount", "count", timedelta(days=30000))],
    event_key={"payment_id": "string"},
)
comfort = OnDemandFeatureView(
    "comfort", inputs=["weather:temp"], request={"bonus": "float64"},
    features=[Feature("felt", "float64", expression="temp + bonus")],
)
model_features = FeatureService("model_features", features=[weather, comfort])
model = Model("model", version="1", reads=[model_features])
"""
