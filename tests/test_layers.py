"""The structure that the folder listing promises: imports go downwards, start-up is light, public names are public."""

import subprocess
import sys
from pathlib import Path

import pytest

import featurestore

ROOT = Path(__file__).parent.parent
HEAVY = ("numpy", "grpc", "pyarrow", "duckdb", "polars", "numba", "networkx", "sqlalchemy", "fastapi", "sqlglot")


def test_imports_go_downwards():
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("module", ["featurestore.cli", "lineage.cli"])
def test_help_imports_nothing_heavy(module):
    script = f"""
import runpy, sys
sys.argv = ["x", "--help"]
try:
    runpy.run_module({module!r}, run_name="__main__")
except SystemExit:
    pass
if {module!r} == "featurestore.cli":
    try:
        sys.modules.get("featurestore.cli") or __import__("featurestore.cli")
        sys.modules["featurestore.cli"].main(["--help"])
    except SystemExit:
        pass
print("heavy:", [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "Usage" in done.stdout
    assert done.stderr.splitlines()[-1] == "heavy: []"


def test_importing_the_package_imports_nothing_heavy():
    script = f"import sys, featurestore, lineage; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_can_be_imported():
    assert sorted(featurestore.__all__) == featurestore.__all__
    for name in featurestore.__all__:
        assert getattr(featurestore, name) is not None


def test_no_module_has_a_name_that_says_nothing():
    names = {path.stem for package in ("featurestore", "lineage") for path in (ROOT / package).rglob("*.py")}
    assert not names & {"utils", "helpers", "common", "base", "core", "manager", "misc"}


def test_generated_code_is_what_the_contract_says(tmp_path):
    protos = sorted(str(path.relative_to(ROOT / "proto")) for path in (ROOT / "proto").rglob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", "proto", f"--python_out={tmp_path}", *protos]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    for made in tmp_path.rglob("*_pb2.py"):
        assert made.read_text() == (ROOT / made.relative_to(tmp_path)).read_text(), f"run `make proto`: {made.name}"


def test_nothing_from_the_wire_or_the_registry_is_executed():
    forbidden = (
        "import pickle",
        "import dill",
        "import marshal",
        "import shelve",
        "cloudpickle",
        " eval(",
        " exec(",
        "joblib",
    )
    for package in ("featurestore", "lineage"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            assert not [word for word in forbidden if word in text], path
