"""A saved dataset is an input of an MLflow run, and the run leads back to it."""

import json
import warnings

import pyarrow as pa
import pytest
from small_project import NOON

from featurestore import FeatureStore
from featurestore.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mlflow
    import mlflow.data

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own


@pytest.fixture
def dataset(project):
    with FeatureStore(project, consumer="model@1") as store:
        store.apply()
        store.ingest("weather")
        spine = {"origin": ["JFK", "LGA"], "event_timestamp": [NOON, NOON], "late": [True, False], "tags": [["a"], []]}
        yield store.save("delays", store.get_historical_features(spine, ["weather:temp", "weather:visib"]), seed=3)


@pytest.fixture
def tracking(tmp_path):
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'tracking.db'}")
    experiment = mlflow.create_experiment("delays", artifact_location=str(tmp_path / "artifacts"))
    yield experiment
    mlflow.set_tracking_uri(None)


def test_a_run_records_the_dataset_and_leads_back_to_it(dataset, tracking):
    with mlflow.start_run(experiment_id=tracking) as run:
        mlflow.log_input(dataset.to_mlflow(targets="late"), context="training")
    (logged,) = mlflow.get_run(run.info.run_id).inputs.dataset_inputs
    recorded = logged.dataset
    assert (recorded.name, recorded.digest, recorded.source_type) == ("delays", dataset.manifest.digest, "featurestore")
    assert [tag.value for tag in logged.tags] == ["training"]
    profile = json.loads(recorded.profile)
    assert (profile["num_rows"], profile["targets"], profile["seed"]) == (2, "late", 3)
    assert profile["features"] == {"temp": "weather@v1:temp", "visib": "weather@v1:visib"}
    columns = {c["name"]: c["type"] for c in json.loads(recorded.schema)["mlflow_colspec"]}
    assert columns == {
        "origin": "string",
        "event_timestamp": "datetime",
        "late": "boolean",
        "tags": "array",
        "temp": "double",
        "visib": "integer",
    }
    assert json.loads(recorded.source)["sources"] == {"weather@v1": dataset.manifest.sources[0].version}
    found = mlflow.data.get_source(recorded).load()
    assert found == dataset
    assert found.verify().equal


def test_the_source_of_a_deleted_dataset_says_so(dataset):
    source = dataset.to_mlflow().source
    moved = dataset.directory.rename(dataset.directory.with_name("elsewhere"))
    with pytest.raises(NotFoundError, match="No dataset 'delays'"):
        source.load()
    assert moved.is_dir()


def test_mlflow_can_resolve_a_dataset_by_itself(dataset):
    assert mlflow.data.dataset_source_registry.resolve_dataset_source(dataset).to_dict()["name"] == "delays"


def test_a_column_that_is_not_there_is_no_target(dataset):
    with pytest.raises(InvalidArgumentError, match="no column 'lat'"):
        dataset.to_mlflow(targets="lat")


def test_without_mlflow_the_error_says_what_to_install(dataset, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "featurestore.offline.datasets.mlflow_input", None)
    with pytest.raises(FailedPreconditionError, match=r"pip install featurestore\[mlflow\]"):
        dataset.to_mlflow()
    assert isinstance(dataset.to_arrow(), pa.Table)
