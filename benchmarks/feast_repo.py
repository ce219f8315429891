"""Feast's side, run by the Python of Feast's own environment: its repository, its training reads, and its requests.

It takes one command a line on standard input, as JSON, and answers each with a line: what is timed here has Feast imported already.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesRequest, GetOnlineFeaturesResponse
from feast.types import Float64, Int64, String
from memory import greatest_resident_set
from tables import CREATED, EVENT, KEY, TTL_DAYS, VIEW

_TYPES = {"float64": Float64, "int64": Int64, "string": String}


class Repository:
    """A Feast repository of one view, in a folder.

    Args:
        folder: Where it is made.
        file: The Parquet file of the view.
        dtypes: Feature -> type.
        created: Whether the file has created times.
        online: Settings of the online store.
        views: How many views there are of the same file; several are told apart by their names.
    """

    def __init__(
        self, folder: str, file: str, dtypes: dict[str, str], *, created: bool, online: dict[str, str], views: int = 1
    ) -> None:
        Path(folder).mkdir(parents=True)
        settings = {
            "project": "bench",
            "provider": "local",
            "registry": {"path": f"{folder}/registry.db", "cache_ttl_seconds": 600},
            "offline_store": {"type": "duckdb"},
            "online_store": online,
            "entity_key_serialization_version": 3,
        }
        (Path(folder) / "feature_store.yaml").write_text(yaml.safe_dump(settings))
        user = Entity(name="user", join_keys=[KEY], value_type=ValueType.INT64)
        source = FileSource(
            name="source", path=file, timestamp_field=EVENT, created_timestamp_column=CREATED if created else ""
        )
        schema = [Field(name=KEY, dtype=Int64), *(Field(name=n, dtype=_TYPES[t]) for n, t in dtypes.items())]
        names = [VIEW] if views == 1 else [f"{VIEW}_{n}" for n in range(views)]
        ttl = timedelta(days=TTL_DAYS)
        made = [FeatureView(name=name, entities=[user], ttl=ttl, schema=schema, source=source) for name in names]
        self.store = FeatureStore(repo_path=folder)
        self.store.apply([user, *made])
        self.features = [f"{view}:{name}" for view in names for name in dtypes]
        self.full_names = views > 1

    def historical(self, spine: str, *, as_known: bool, out: str | None = None) -> float:
        """Read a training set and return the seconds it took; also write it, if asked to."""
        keys = pd.read_parquet(spine)
        begun = time.perf_counter()
        job = self.store.get_historical_features(
            keys, self.features, full_feature_names=self.full_names, filter_by_created_timestamp=as_known
        )
        frame = job.to_df()
        seconds = time.perf_counter() - begun
        if out:
            frame.to_parquet(out)
        return seconds

    def memory(self) -> float:
        """Return the greatest resident set so far, in megabytes."""
        return greatest_resident_set()

    def materialize(self, days: int = 2) -> None:
        """Fill the online store with the last days."""
        now = datetime.now(UTC)
        self.store.materialize(now - timedelta(days=days), now)

    def request(self, keys: list[int]) -> str:
        """Return the serialized request of an online read over gRPC, in hexadecimal."""
        request = GetOnlineFeaturesRequest()
        request.features.val.extend(self.features)
        for key in keys:
            request.entities[KEY].val.add().int64_val = key
        return request.SerializeToString().hex()

    def answer(self, message: str) -> dict[str, list[Any]]:
        """Return the values of a serialized answer, in hexadecimal, by feature."""
        answer = GetOnlineFeaturesResponse.FromString(bytes.fromhex(message))
        columns = zip(answer.metadata.feature_names.val, answer.results, strict=True)
        return {name: list(map(_python, column.values)) for name, column in columns}


def _python(value: Any) -> Any:
    kind = value.WhichOneof("val")
    return None if kind in (None, "null_val") else getattr(value, kind)


def main() -> None:
    """Answer commands until standard input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what Feast prints is no answer
    repository: Any = None
    for line in sys.stdin:
        method, arguments = json.loads(line)
        if method == "open":
            repository, answer = Repository(**arguments), None
        else:
            answer = getattr(repository, method)(**arguments)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
