"""What many tests need: a small project on real files."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

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


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project folder with a weather file of three rows of two airports; nothing is applied yet."""
    (tmp_path / "featurestore.toml").write_text('[project]\nname = "small"\n')
    (tmp_path / "features.py").write_text(FEATURES)
    (tmp_path / "data").mkdir()
    hour = timedelta(hours=1)
    rows = pa.table(
        {
            "origin": ["JFK", "JFK", "LGA"],
            "observed_at": pa.array([NOON - 5 * hour, NOON - 2 * hour, NOON - 3 * hour], pa.timestamp("us", "UTC")),
            "reported_at": pa.array([NOON - 4 * hour, NOON - hour, NOON - 2 * hour], pa.timestamp("us", "UTC")),
            "temp": [50.0, 55.5, None],
            "visib": pa.array([10, 3, 7], pa.int32()),
        }
    )
    pq.write_table(rows, tmp_path / "data" / "weather.parquet")
    return tmp_path
