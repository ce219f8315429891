"""A worker loads what it needs and no more: what takes long to load is loaded where somebody uses it."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "package", ["numba", "fastapi", "polars", "duckdb", "pandas", "deltalake", "sqlglot", "networkx", "redis"]
)
def test_a_worker_can_answer_without(package):
    look = f"import sys, featurestore.serving.worker_process; print({package!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
