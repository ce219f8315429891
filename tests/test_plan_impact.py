"""Before a change: the plan of the store names who was seen to read what changes, and whom to tell."""

import json

import pytest
from small_project import FEATURES

from featurestore import FeatureStore
from featurestore.cli import main


@pytest.fixture
def changed(project):
    """The small project with a reader of weather@v1, and a file that changes weather's meaning."""
    with FeatureStore(project, consumer="model@1") as store:
        store.apply()
        store.ingest("weather")
        store.materialize()
        store.get_online_features(["weather@v1:temp"], {"origin": ["JFK"]})
    (project / "features.py").write_text(FEATURES.replace('unit="degF"', 'unit="degC"'))
    return project


def test_a_plan_names_live_readers_and_whom_to_tell(changed, capsys):
    with pytest.raises(SystemExit):
        main(["plan", "--project", str(changed)])
    assert "impact       view weather: seen to read it model@1 (weather@v1, " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["plan", "--project", str(changed), "--format", "json"])
    found = json.loads(capsys.readouterr().out)
    assert found["impact"]["weather"]["live"][0].startswith("model@1 (weather@v1")


def test_a_plan_of_something_new_has_no_impact(project, capsys):
    with pytest.raises(SystemExit):
        main(["plan", "--project", str(project)])
    assert "impact" not in capsys.readouterr().out
