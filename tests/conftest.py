"""What many tests need: a small project on real files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings
from small_project import FEATURES, NOON

if TYPE_CHECKING:
    from postgres_server import PostgresServer

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # trainings of several workers share the cores
settings.register_profile(
    "suite", deadline=None, print_blob=True
)  # no test asserts a time; a failure says how to repeat it
settings.load_profile("suite")


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


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL server, started when a test of this worker first asks for it."""
    from postgres_server import started_server

    with started_server() as server:
        yield server


@pytest.fixture
def postgres_database(postgres: PostgresServer) -> Iterator[str]:
    """The name of an empty database of the server."""
    with postgres.database() as name:
        yield name
