"""The client's own wheel: built from the same sources, installed into an empty environment, it reads from a running server."""

import json
import os
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest

from featurestore.serving.grpc_aio import GrpcAioTransport
from featurestore.testing.served import ServedProject

ROOT = Path(__file__).parents[2]
UV = ROOT / ".venv/bin/uv"
WHEEL_BYTES, INSTALLED_BYTES = 1_000_000, 100_000_000

READ = """
import asyncio, json, sys
from featurestore.client import AsyncClient, Client
from featurestore.errors import FeatureStoreError

read = (["weather:temp", "weather:note"], {"origin": ["JFK", "XXX"]})
asked = dict(timeout=20, consumer="", token="")

async def later():
    async with AsyncClient(sys.argv[1], **asked) as client:
        return (await client.get_online_features(*read)).to_dict()

with Client(sys.argv[1], **asked) as client:
    rows = client.get_online_features(*read)
    written = client.write("activity", {"user_id": [7], "event_timestamp": [1], "score": [0.5]})
try:
    from featurestore import FeatureStore
except ImportError as error:
    missing = str(error)
loaded = [m for m in sys.modules.values() if m.__name__.split(".")[0] == "featurestore"]
print(json.dumps({
    "rows": rows.to_dict(), "later": asyncio.run(later()), "accepted": written.accepted, "missing": missing,
    "files": [m.__file__ for m in loaded], "modules": sorted(sys.modules),
}))
"""

pytestmark = pytest.mark.skipif(not UV.exists(), reason="uv is missing: run `make setup`")


def uv(*arguments):
    clean = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    subprocess.run([UV, *map(str, arguments)], check=True, capture_output=True, timeout=170, env=clean)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    built = ["--wheel", "--no-build-isolation", "--python", ROOT / ".venv/bin/python", "--out-dir", folder]
    uv("build", *built, ROOT / "packaging/client")
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment with the wheel, and what it needs in the versions that the project is locked to."""
    environment = tmp_path_factory.mktemp("client") / "venv"
    uv("venv", "--python", ROOT / ".venv/bin/python", environment)
    uv("pip", "install", "--python", environment / "bin/python", "-c", ROOT / "requirements.lock", wheel)
    return environment


def size_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_client_alone_is_small(wheel, installed):
    """Below a megabyte itself, and below a hundred with grpcio, protobuf and NumPy; nothing else comes along."""
    (packages,) = installed.glob("lib/python*/site-packages")
    size, with_needs = wheel.stat().st_size, size_of(packages)
    print(f"wheel {size / 1e3:.0f} kB, installed with what it needs {with_needs / 1e6:.1f} MB")
    assert size < WHEEL_BYTES
    assert with_needs < INSTALLED_BYTES
    there = {path.name.partition("-")[0] for path in packages.glob("*.dist-info")}
    assert there == {"featurestore_client", "grpcio", "numpy", "protobuf", "typing_extensions"}


def test_the_wheel_holds_the_sources_as_they_are(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        assert len(names) > 10
        for name in names:
            assert archive.read(name) == (ROOT / name).read_bytes(), name


def test_the_client_alone_reads_from_a_running_server(installed, wheel, tmp_path):
    """Every module that it needs is in its wheel, every module of the wheel is one that it needs, and the rest says what to install."""
    with ServedProject(tmp_path, GrpcAioTransport) as served:
        served.fill()
        done = subprocess.run(  # noqa: PLW1510  # its end is looked at below
            [installed / "bin/python", "-I", "-c", READ, served.target], capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 0, done.stderr
    saw = json.loads(done.stdout)
    assert saw["rows"] == saw["later"] == {"temp": [40.5, None], "note": ["clear", None]}
    assert saw["accepted"] == 1
    assert "featurestore" in saw["missing"]
    assert all(str(installed) in file for file in saw["files"])
    assert not {"pyarrow", "duckdb", "polars", "numba", "sqlalchemy", "fastapi", "msgspec", "lmdb"} & set(
        saw["modules"]
    )
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("featurestore/") and name.endswith(".py")}
    assert held == {
        str(Path(file).relative_to(next(installed.glob("lib/python*/site-packages")))) for file in saw["files"]
    }


def test_the_versions_it_needs_are_those_of_the_whole():
    alone, whole = (
        tomllib.loads((ROOT / path).read_text())["project"]["dependencies"]
        for path in ("packaging/client/pyproject.toml", "pyproject.toml")
    )
    assert {need for need in alone if not need.startswith("numpy")} <= set(whole)
