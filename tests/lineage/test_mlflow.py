"""MLflow for real: model versions become consumers, manifests become tags, and both agree after a round trip."""

import json
import shutil
import warnings

import pytest
from conftest import NOW

from lineage import Lineage, NotFoundError
from lineage.cli import main
from lineage.errors import UnavailableError
from lineage.mlflow import connect_to, manifest_of_model, manifest_tags, read_models, tag_models

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mlflow
    from mlflow.entities import Dataset as LoggedDataset
    from mlflow.entities import DatasetInput
    from mlflow.models import Model, ModelSignature
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, TEMPORARILY_UNAVAILABLE
    from mlflow.types import ColSpec, Schema

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own


@pytest.fixture(scope="session")
def fresh_database(tmp_path_factory):
    """A database as MLflow makes it, which takes it seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "fresh.db"
    connect_to(f"sqlite:///{path}").search_registered_models()
    return path


@pytest.fixture
def uri(tmp_path, fresh_database):
    copied = shutil.copy(fresh_database, tmp_path / "mlflow.db")
    return f"sqlite:///{copied}"


@pytest.fixture
def client(uri, tmp_path):
    mlflow.set_tracking_uri(uri)
    made = connect_to(uri)
    made.create_experiment("flights", artifact_location=str(tmp_path / "artifacts"))
    yield made
    mlflow.set_tracking_uri(None)


@pytest.fixture
def register(client, tmp_path):
    """Register a model version from a run with these tags and datasets."""

    def make(name="delay_model", *, tags=None, datasets=(), signature=None):
        experiment = client.get_experiment_by_name("flights").experiment_id
        run = client.create_run(experiment, tags={"mlflow.user": "ada", **(tags or {})})
        client.log_metric(run.info.run_id, "auc", 0.75)
        if datasets:
            client.log_inputs(run.info.run_id, datasets=[DatasetInput(LoggedDataset(**d)) for d in datasets])
        folder = tmp_path / f"model-{run.info.run_id}"
        columns = signature and ModelSignature(Schema([ColSpec("double", column) for column in signature]))
        Model(run_id=run.info.run_id, signature=columns or None).save(folder.mkdir() or folder / "MLmodel")
        if name not in {m.name for m in client.search_registered_models()}:
            client.create_registered_model(name)
        return client.create_model_version(name, str(folder), run.info.run_id)

    return make


def saved(**profile):
    return {
        "name": "july",
        "digest": "d" * 8,
        "source_type": "featurestore",
        "source": "{}",
        "schema": "{}",
        "profile": json.dumps(profile),
    }


def manifests(client, ask):
    snapshot = ask.state().snapshot
    return {m.consumer.key: m for m in (manifest_of_model(model, snapshot) for model in read_models(client))}


def test_a_model_reads_what_the_saved_dataset_of_its_run_holds(project, ask, client, register):
    register("fresh", datasets=[saved(features={"temp": "weather@v1:temp", "seats": "plane@v1:seats"}, targets="late")])
    found = manifests(client, ask)["fresh@1"].consumer
    assert (found.reads, found.dataset, found.label) == (("weather@v1:temp", "plane@v1:seats"), "july", "late")
    assert (found.owner, dict(found.metrics), found.kind) == ("ada", {"auc": 0.75}, "model")


def test_a_dataset_of_somebody_else_says_nothing(project, ask, client, register):
    register("fresh", datasets=[saved(features={"temp": "weather@v1:temp"}) | {"source_type": "local"}])
    found = manifests(client, ask)["fresh@1"].consumer
    assert (found.reads, found.dataset) == ((), None)


def test_the_tags_of_feast_name_features_at_their_current_versions(project, ask, client, register):
    register("fresh", tags={"feast.feature_refs": "weather:temp,plane:seats,plane:wings", "feast.feature_service": "x"})
    found = manifests(client, ask)["fresh@1"]
    assert found.consumer.reads == ("weather@v2:temp", "plane@v1:seats")
    assert found.unknown == ("plane:wings",)


def test_a_tag_of_feast_that_was_cut_off_leaves_it_to_the_service(project, ask, document, client, register):
    document["services"] = {"board": {"features": ["plane@v1:seats"], "owner": ""}}
    project.commit(document, revision=2)
    register("fresh", tags={"feast.feature_refs": "weather:te...", "feast.feature_service": "board"})
    found = manifests(client, ask)["fresh@1"].consumer
    assert (found.reads, found.services) == (("plane@v1:seats",), ("board",))


def test_the_signature_is_read_without_loading_the_model(project, ask, client, register):
    register("fresh", signature=["temp", "seats"])
    (model,) = read_models(client)
    assert model.inputs == ("temp", "seats")


def test_a_model_whose_run_is_gone_is_still_a_consumer(project, ask, client, register):
    version = register("fresh", tags={"feast.feature_refs": "weather:temp"})
    client._tracking_client.store.delete_run(version.run_id)
    assert "fresh@1" in manifests(client, ask)


def test_manifests_become_tags_of_the_model_and_its_run_and_come_back(project, ask, client, register):
    version = register("delay_model")
    assert tag_models(client, ask.state().snapshot) == ("delay_model@1",)
    run = client.get_run(version.run_id)
    assert run.data.tags["featurestore.consumer"] == "delay_model@1"
    declared = ask.state().snapshot.consumers["delay_model@1"]
    assert set(manifests(client, ask)["delay_model@1"].consumer.reads) == declared.features


def test_what_a_manifest_no_longer_declares_leaves_no_tag(project, ask, document, client, register):
    version = register("delay_model")
    for name in ("featurestore.features.1", "featurestore.dataset"):
        client.set_model_version_tag("delay_model", "1", name, '["weather@v2:humid"]')
        client.set_tag(version.run_id, name, '["weather@v2:humid"]')
    client.set_tag(version.run_id, "team", "risk")
    tag_models(client, ask.state().snapshot)
    expected = set(manifest_tags(ask.state().snapshot, "delay_model@1"))
    kept = client.get_run(version.run_id).data.tags
    assert {name for name in kept if name.startswith("featurestore.")} == expected
    assert set(client.get_model_version("delay_model", "1").tags) == expected
    assert kept["team"] == "risk"
    declared = ask.state().snapshot.consumers["delay_model@1"]
    assert set(manifests(client, ask)["delay_model@1"].consumer.reads) == declared.features


def test_a_run_that_cannot_be_read_is_no_run_that_is_gone(project, ask, client, register, monkeypatch):
    register("fresh", tags={"feast.feature_refs": "weather:temp"})

    def fails(code):
        def get_run(run_id):
            raise mlflow.MlflowException("not now", error_code=code)

        monkeypatch.setattr(client, "get_run", get_run)

    fails(RESOURCE_DOES_NOT_EXIST)
    assert manifests(client, ask)["fresh@1"].consumer.reads == ()
    fails(TEMPORARILY_UNAVAILABLE)
    with pytest.raises(UnavailableError, match="not now"):
        manifests(client, ask)


def test_pages_are_read_to_the_last(client, register, monkeypatch):
    for _ in range(3):
        register("fresh")
    monkeypatch.setattr("lineage.mlflow._PAGE", 2)
    assert {model.key for model in read_models(client)} == {"fresh@1", "fresh@2", "fresh@3"}


def test_a_long_list_goes_on_in_numbered_tags(project, ask, document, client, register):
    names = [f"temp_{n}" for n in range(900)]
    document["views"]["weather"]["versions"]["1"]["features"] = [
        document["views"]["weather"]["versions"]["1"]["features"][0] | {"name": name} for name in names
    ]
    document["consumers"]["delay_model@1"]["reads"] = [f"weather@v1:{name}" for name in names]
    project.commit(document, revision=2)
    tags = manifest_tags(ask.state().snapshot, "delay_model@1")
    assert max(map(len, tags.values())) <= 5000
    assert "featurestore.features.1" in tags
    register("delay_model")
    tag_models(client, ask.state().snapshot)
    assert len(manifests(client, ask)["delay_model@1"].consumer.reads) == 900


def test_a_model_that_is_not_there_is_said(project, ask, client, register):
    register("delay_model")
    with pytest.raises(NotFoundError, match="gate_bord"):
        tag_models(client, ask.state().snapshot, keys=["gate_bord"])
    with pytest.raises(NotFoundError, match="model version in MLflow"):
        tag_models(client, ask.state().snapshot, keys=["gate_board"])


def test_after_an_import_every_question_knows_the_models(project, uri, register, capsys):
    register("fresh", datasets=[saved(features={"seats": "plane@v1:seats"})])
    for _ in range(2):
        main_or_done(["import", "mlflow", uri, "--project", str(project.folder), "--format", "json"])
        (model,) = json.loads(capsys.readouterr().out)["models"]
        assert (model["consumer"], model["reads"], model["dataset"]) == ("fresh@1", ["plane@v1:seats"], "july")
    ask = Lineage(project.folder, clock=lambda: 2 * NOW)
    assert "fresh@1" in {str(node) for node in ask.downstream("plane@v1:seats").nodes}
    hit = ask.impact("plane@v1:seats")
    assert "fresh@1" in {consumer.key for consumer in hit.consumers}
    assert ("ada", ("fresh@1",)) in {(c.owner, c.objects) for c in hit.contacts}
    standings = {r.reader.node.name: r.feature for r in ask.consumers("plane@v1:seats").relations}
    assert standings["fresh@1"] == "plane@v1:seats"


def test_the_password_of_an_address_is_not_kept(project, ask, client, register, monkeypatch):
    register("fresh", datasets=[saved(features={"seats": "plane@v1:seats"})])
    monkeypatch.setattr("lineage.mlflow.connect_to", lambda uri, *, registry_uri: client)
    main_or_done(["import", "mlflow", "http://me:secret@mlflow:5000", "--project", str(project.folder)])
    kept = ask.records.read_bytes()
    assert b"http://mlflow:5000" in kept
    assert b"secret" not in kept


def test_a_manifest_of_the_registry_counts_before_one_of_mlflow(project, ask, uri, register):
    before = ask.state().snapshot.consumers["delay_model@1"]
    register("delay_model", datasets=[saved(features={"seats": "plane@v1:seats"})])
    main_or_done(["import", "mlflow", uri, "--project", str(project.folder)])
    late = Lineage(project.folder, clock=lambda: 2 * NOW)
    assert late.state().snapshot.consumers["delay_model@1"] == before


def main_or_done(arguments):
    """Run the command line, which returns or exits with 0."""
    with pytest.raises(SystemExit) as done:
        main(arguments)
    assert not done.value.code
