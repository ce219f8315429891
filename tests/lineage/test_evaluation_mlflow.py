"""Evaluation records from runs of MLflow."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lineage.errors import InvalidQuestionError
from lineage.evaluation.mlflow_runs import records_of_runs
from lineage.evaluation.running import judge_records
from lineage.evaluation.verdicts import Worth

pytest.importorskip("mlflow")


@pytest.fixture
def tracked(tmp_path, monkeypatch):
    """Log runs with their losses; return the address."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    uri = (tmp_path / "mlruns").as_uri()
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("ablations", artifact_location=(tmp_path / "artefacts").as_uri())
    fold = np.arange(3000) % 5
    base = np.random.default_rng(0).chisquare(1, 3000)

    def log(dropped, more=0.0, *, rows=None, alpha="1", losses=True):
        run = client.create_run(experiment, tags={"lineage.dropped": dropped, "lineage.metric": "squared_error"})
        client.log_param(run.info.run_id, "alpha", alpha)
        if losses:
            loss = base + more * np.random.default_rng(1).normal(1, 1, 3000)
            columns = {"row": np.arange(3000) if rows is None else rows, "fold": fold, "trained": np.full(3000, 2400)}
            pq.write_table(pa.table({**columns, "loss": loss}), tmp_path / "losses.parquet")
            client.log_artifact(run.info.run_id, str(tmp_path / "losses.parquet"))
        client.set_terminated(run.info.run_id)

    return uri, log


def read(uri):
    records = records_of_runs(uri, "ablations", model="delay_model@1", epsilon=0.05, now=1)
    return {j.name: j for j in judge_records(records, 0.05)}


def test_pairs_of_runs_are_judged_as_own_records_are(tracked):
    uri, log = tracked
    log("")
    log("temp", 0.5)
    log("humid", 0.0)
    log("a, b", 0.4)
    found = read(uri)
    assert {name: j.worth for name, j in found.items()} == {
        "temp": Worth.MATERIAL,
        "humid": Worth.NEGLIGIBLE,
        "a + b": Worth.MATERIAL,
    }


def test_runs_that_are_no_pair_are_undetermined_with_the_reason(tracked):
    uri, log = tracked
    log("")
    log("temp", 0.5, alpha="2")
    log("humid", rows=np.arange(3000) + 1)
    log("seats", losses=False)
    found = read(uri)
    assert {j.worth for j in found.values()} == {Worth.UNDETERMINED}
    assert "parameter alpha" in found["temp"].reason
    assert "other rows" in found["humid"].reason
    assert "no artefact" in found["seats"].reason


def test_runs_of_every_page_are_read(tracked, monkeypatch):
    from mlflow.tracking import MlflowClient

    whole = MlflowClient.search_runs
    monkeypatch.setattr(MlflowClient, "search_runs", lambda *args, **named: whole(*args, **named, max_results=1))
    uri, log = tracked
    log("")
    log("temp", 0.5)
    log("humid", 0.0)
    assert set(read(uri)) == {"temp", "humid"}


def test_without_a_run_of_everything_nothing_is_read(tracked):
    uri, log = tracked
    log("temp", 0.5)
    with pytest.raises(InvalidQuestionError, match="trained with everything"):
        read(uri)
