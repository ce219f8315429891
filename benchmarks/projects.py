"""Project folders of ours to measure."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tables import CREATED, EVENT, KEY, TTL_DAYS, VIEW

from featurestore import Entity, Feature, FeatureService, FeatureStore, FeatureView, Model, ParquetSource

SERVICE, MODEL = "everything", "model@1"

_SETTINGS = """\
[project]
name = "bench"
"""


def make_project(folder: Path, file: Path, dtypes: dict[str, str], *, created: bool) -> FeatureStore:
    """Make a project of one view over a Parquet file, a service of all its features and a model that declares it."""
    folder.mkdir(parents=True)
    (folder / "featurestore.toml").write_text(_SETTINGS)
    source = ParquetSource("source", str(file), event_timestamp=EVENT, created_timestamp=CREATED if created else None)
    features = [Feature(name, dtype) for name, dtype in dtypes.items()]
    user = Entity("user", join_keys={KEY: "int64"})
    view = FeatureView(VIEW, entity=user, source=source, features=features, ttl=timedelta(days=TTL_DAYS))
    service = FeatureService(SERVICE, features=[view])
    store = FeatureStore(folder, consumer=MODEL)
    store.apply([user, view, service, Model("model", version="1", reads=[service])])
    return store


def write_rows(rows: pa.Table, path: Path) -> Path:
    """Write rows as every contender reads them: Parquet, zstd."""
    pq.write_table(rows, path, compression="zstd", row_group_size=128 << 10)
    return path
