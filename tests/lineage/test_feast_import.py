"""An installation of Feast becomes a project: declared, undeclared, dead and wrong-version readers are told apart.

feast_project/registry.json was written by `lineage import feast` from feast_project/, applied by Feast 0.67.0 twice: the second time
`driver_statistics` had the feature `cancelled` more. The slow tier makes it anew.
"""

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lineage import InvalidQuestionError, Lineage, NotFoundError, UnavailableError
from lineage.cli import main
from lineage.feast import import_feast, read_feast, read_repository

FEAST = Path(__file__).parent / "feast_project"
REGISTRY = FEAST / "registry.json"


@pytest.fixture(scope="module")
def registry():
    return read_feast(read_repository(REGISTRY))


@pytest.fixture
def begin(registry):
    """When the newest feature service was made."""
    return datetime.fromtimestamp(registry.committed_at / 1_000_000, UTC)


@pytest.fixture
def ask(tmp_path, registry, begin):
    """Import with these requests, each with its day since the services were made, and ask after 200 days."""

    def imported(*requests, complete=True):
        log = tmp_path / "requests.jsonl"
        lines = [{"time": (begin + timedelta(days=day, hours=1)).isoformat(), **entry} for day, entry in requests]
        log.write_text("".join(json.dumps(line) + "\n" for line in lines))
        start, now = registry.committed_at - 3_600_000_000, int((begin + timedelta(days=200)).timestamp() * 1_000_000)
        covered = {"complete_from": start, "complete_until": now} if complete else {}
        import_feast(registry, tmp_path / "out", requests=[log], **covered)
        return Lineage(tmp_path / "out", clock=lambda: now)

    return imported


def test_the_registry_becomes_neutral_json_with_the_versions_of_feast(registry):
    views = registry.document["views"]
    names = {
        f"{name}@v{number}": [feature["name"] for feature in version["features"]]
        for name, view in views.items()
        for number, version in view["versions"].items()
    }
    assert names == {
        "driver_statistics@v0": ["rate", "trips"],
        "driver_statistics@v1": ["rate", "trips", "cancelled"],
        "driver_vehicle@v0": ["seats", "model"],
        "ride_fit@v0": ["fits"],
    }
    assert views["driver_statistics"]["current"] == 1
    version = views["driver_statistics"]["versions"]["1"]
    assert (version["ttl"], version["owner"]) == (30 * 86_400_000_000, "ops@rides.example")
    assert version["join_keys"] == [["driver_id", "int64"]]
    assert views["driver_vehicle"]["versions"]["0"]["ttl"] is None  # 0 is without limit
    assert registry.document["services"]["arrival_v1"]["features"] == [
        "driver_statistics@v1:rate", "driver_vehicle@v0:seats", "driver_vehicle@v0:model"
    ]  # fmt: skip


def test_references_of_feast_mean_the_current_version_or_the_one_they_name(registry):
    assert registry.resolve("driver_statistics:rate") == "driver_statistics@v1:rate"
    assert registry.resolve("driver_statistics@v0:rate") == "driver_statistics@v0:rate"
    assert registry.resolve("driver_statistics@v0:cancelled") is None
    assert registry.resolve("no_view:rate") is None


def test_on_demand_features_are_made_from_the_columns_of_their_sources(ask):
    found = set(map(str, ask().upstream("ride_fit@v0:fits").nodes))
    assert {"column:vehicles.seats", "source:vehicles", "request:ride_fit@v0.passengers"} <= found
    assert "source:statistics" not in found


def flagged(lineage):
    return {(f.rule.name, f.subject) for f in lineage.check().flagged()}


def rules_about(lineage, text):
    return {f.rule.name for f in lineage.check().flagged() if text in f.subject or text in f.message}


def test_a_declared_reader_is_no_finding_and_an_undeclared_one_is(ask):
    lineage = ask(
        (0, {"user": "arrival-server", "feature_service": "arrival_v1"}),
        (199, {"user": "arrival-server", "feature_service": "arrival_v1"}),
        (150, {"user": "kim", "features": ["driver_statistics:trips"]}),
    )
    assert rules_about(lineage, "arrival_v1") == set()
    assert rules_about(lineage, "kim") == {"unbound_principal"}
    assert rules_about(lineage, "pricing_v1") == {"declared_never_read"}


def test_a_service_that_nobody_asks_for_is_dead_where_the_log_is_complete(ask):
    lineage = ask(
        (0, {"user": "arrival-server", "feature_service": "arrival_v1"}),
        (199.9, {"user": "arrival-server", "feature_service": "arrival_v1"}),
    )
    assert "declared_never_read" in rules_about(lineage, "pricing_v1")
    assert "declared_never_read" not in rules_about(lineage, "arrival_v1")


def test_a_reader_of_an_old_version_is_found(ask):
    lineage = ask((100, {"user": "arrival-server", "features": ["driver_statistics@v0:rate"]}))
    assert "other_version" in rules_about(lineage, "arrival_v1")
    assert flagged(ask((100, {"user": "arrival-server", "features": ["driver_statistics:trips"]}))) >= {
        ("undeclared_feature", "arrival_v1 reads driver_statistics@v1")
    }


def test_nothing_is_called_dead_of_a_time_that_the_log_does_not_cover(ask):
    entry = (100, {"user": "arrival-server", "feature_service": "arrival_v1"})
    assert flagged(ask(complete=False)) == set()
    assert flagged(ask(entry, complete=False)) == set()
    assert flagged(ask(entry)) == {
        ("declared_never_read", f"pricing_v1 declares {view}") for view in ("driver_statistics@v1", "ride_fit@v0")
    }


def test_lines_that_cannot_be_understood_are_listed_and_count_as_lost(tmp_path, registry):
    log = tmp_path / "log.jsonl"
    good = {"time": "2026-12-01T00:00:00Z", "user": "a", "features": ["driver_vehicle:seats"]}
    bad = [
        {**good, "features": ["driver_vehicle:wings"]},
        {**good, "feature_service": "none", "features": None},
        {"user": "a"},
    ]
    log.write_text("\n".join([*map(json.dumps, [good, *bad]), "not json"]))
    found = import_feast(registry, tmp_path / "out", requests=[log])
    assert [line for _, line, _ in found.skipped] == [2, 3, 4, 5]
    assert "driver_vehicle:wings" in found.skipped[0][2]
    assert not Lineage(tmp_path / "out").state().usage.coverage().complete


def test_importing_again_gives_the_same_answers(ask):
    entry = (100, {"user": "kim", "features": ["driver_statistics:trips"]})
    assert flagged(ask(entry)) == flagged(ask(entry))


@pytest.mark.parametrize(("text", "message"), [("{}", "no registry"), ("x", "no JSON"), ("[]", "no registry")])
def test_a_file_that_is_no_registry_is_an_error(tmp_path, text, message):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(InvalidQuestionError, match=message):
        read_repository(tmp_path / "r.json")


def test_a_registry_with_something_missing_is_an_error():
    with pytest.raises(InvalidQuestionError, match="not as Feast writes it"):
        read_feast({"featureViews": [{"spec": {}}]})


def test_a_missing_repository_or_python_is_an_error(tmp_path):
    with pytest.raises(NotFoundError, match=r"feature_store\.yaml"):
        read_repository(tmp_path)
    (tmp_path / "feature_store.yaml").write_text("project: x\n")
    with pytest.raises(UnavailableError, match="no-such-python"):
        read_repository(tmp_path, "no-such-python")
    with pytest.raises(UnavailableError, match="No module named 'feast'"):
        read_repository(tmp_path, sys.executable)


def test_the_command_writes_a_project_that_answers(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["import", "feast", str(REGISTRY), "--out", str(tmp_path / "out"), "--format", "json"])
    assert ended.value.code in (0, None)
    answer = json.loads(capsys.readouterr().out)
    assert (answer["views"], answer["services"]) == (4, 2)
    with pytest.raises(SystemExit):
        main(["consumers", "ride_fit", "--project", str(tmp_path / "out")])
    assert "pricing_v1" in capsys.readouterr().out


REAL = """
import sys
from datetime import datetime, timezone
import pandas as pd
from feast import FeatureStore
store = FeatureStore(repo_path=sys.argv[1])
store.materialize(datetime(2025, 12, 1, tzinfo=timezone.utc), datetime(2026, 2, 1, tzinfo=timezone.utc))
rows = store.get_online_features(features=store.get_feature_service("arrival_v1"), entity_rows=[{"driver_id": 1}]).to_dict()
assert rows["rate"] == [0.5], rows
"""
DATA = """
import sys
from pathlib import Path
import pandas as pd
root = Path(sys.argv[1])
times = pd.to_datetime(["2026-01-01", "2026-01-02"], utc=True)
numbers = {"rate": [0.5, 0.7], "trips": [3, 4], "cancelled": [1, 0]}
frame = pd.DataFrame({"driver_id": [1, 2], **numbers, "event_timestamp": times, "created": times})
frame.to_parquet(root / "statistics.parquet")
cars = {"seats": [4, 6], "model": ["a", "b"]}
pd.DataFrame({"driver_id": [1, 2], **cars, "event_timestamp": times}).to_parquet(root / "vehicles.parquet")
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_registry_that_real_feast_writes_is_the_one_kept_here(tmp_path, registry):
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    from feast_env import feast_programs, feast_variables

    try:
        programs = feast_programs()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no environment for Feast: {error}")
    folder = Path(shutil.copytree(FEAST, tmp_path / "rides"))
    (folder / "data").mkdir()
    variables = {**feast_variables(), "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}

    def run(*command):
        subprocess.run(command, check=True, cwd=folder, env=variables, capture_output=True)

    definitions = folder / "definitions.py"
    run(programs / "python", "-c", DATA, "data")
    run(programs / "feast", "apply")
    trips = 'Field(name="trips", dtype=Int64)'
    definitions.write_text(definitions.read_text().replace(trips, f'{trips}, Field(name="cancelled", dtype=Int64)'))
    run(programs / "feast", "apply")
    run(programs / "python", "-c", REAL, ".")
    found = read_feast(read_repository(folder, str(programs / "python")))
    assert found.document == registry.document


def test_findings_are_repaired_as_feast_is(ask):
    """No fix names a command, or a line of a file, that a project of Feast does not have."""
    lineage = ask(
        (1, {"features": ["driver_statistics:cancelled"], "feature_service": "arrival_v1", "principal": "arrival-svc"}),
        (1, {"features": ["driver_statistics:rate"], "principal": "somebody"}),
        (1, {"features": ["driver_statistics:rate"]}),
    )
    fixes = {finding.rule.code: finding.fix for finding in lineage.check().flagged()}
    assert not [fix for fix in fixes.values() if "featurestore" in fix or "features.py" in fix or "(reads=" in fix]
    assert fixes["LN105"] == 'add driver_statistics[["cancelled"]] to its FeatureService, then `feast apply`'
    assert "feature_store.yaml" in fixes["LN101"]
    assert "then `feast apply`" in fixes["LN201"]
