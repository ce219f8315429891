"""Evaluation records from MLflow runs: one run with everything, and one for each thing it was trained without.

A run takes part when it has the tag ``lineage.dropped``: the columns it was trained without, joined by commas; empty for the run with
all of them. Its artefact ``losses.parquet`` has one row per tested row: ``row`` (the same number in every run), ``fold``, ``trained``
(rows trained on), ``loss``, and ``cluster`` where rows depend on each other. Without losses per row nothing can be decided.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lineage.errors import InvalidQuestionError, UnavailableError
from lineage.evaluation.losses import PairedLosses, TestedFold, grouped_clusters, paired
from lineage.evaluation.record import ALL_ROWS, Record
from lineage.mlflow import pages_of

DROPPED = "lineage.dropped"
LOSSES = "losses.parquet"


def records_of_runs(uri: str, experiment: str, *, model: str, epsilon: float, now: int) -> tuple[Record, ...]:
    """Read the evaluation records of an MLflow experiment.

    Args:
        uri: Where MLflow keeps its runs: a folder or an address.
        experiment: Its name.
        model: Key of the model that the runs are about.
        epsilon: A gain below this is not worth its cost.
        now: Microseconds since 1970 UTC.

    Raises:
        InvalidQuestionError: There is no such experiment, or none of its runs has everything.
        UnavailableError: MLflow is not installed, or does not answer.
    """
    try:
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise UnavailableError("MLflow is not installed.", repair="pip install 'featurestore[mlflow]'") from error
    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        raise InvalidQuestionError(f"There is no MLflow experiment '{experiment}' at '{uri}'.")
    every: Iterator[Any] = pages_of(lambda token: client.search_runs([found.experiment_id], page_token=token))
    runs = [run for run in every if DROPPED in run.data.tags]
    full = next((run for run in runs if not run.data.tags[DROPPED].strip()), None)
    if full is None:
        raise InvalidQuestionError(
            f"No run of '{experiment}' was trained with everything.", repair=f"Tag one with an empty {DROPPED}."
        )
    return tuple(_records(client, runs, full, Record(
        model=model, dropped=(), features=(), dataset=experiment, digest="", label="", metric=full.data.tags.get("lineage.metric", ""),
        trainer=f"mlflow:{full.info.run_id}", created_at=now, parameters=dict(full.data.params), epsilon=epsilon,
        epsilon_from="the command line", stage="imported",
    )))  # fmt: skip


def _records(client: Any, runs: Sequence[Any], full: Any, template: Record) -> Iterator[Record]:
    everything = _losses(client, full)
    names = {name.strip() for run in runs for name in run.data.tags[DROPPED].split(",")} - {""}
    features = tuple(sorted(names | set(filter(None, full.data.tags.get("lineage.features", "").split(",")))))
    digest = _digest(full)
    for run in runs:
        dropped = tuple(sorted(filter(None, (name.strip() for name in run.data.tags[DROPPED].split(",")))))
        if dropped:
            record = replace(template, dropped=dropped, features=features, digest=digest)
            losses, problem = _paired(everything, _losses(client, run))
            yield replace(record, problem=problem or _differs(full, run), losses={ALL_ROWS: losses} if losses else {})


def _losses(client: Any, run: Any) -> Any:
    """Return the table of losses of a run; None when it has none."""
    import pyarrow.parquet as pq

    if LOSSES not in {Path(artefact.path).name for artefact in client.list_artifacts(run.info.run_id)}:
        return None
    return pq.read_table(client.download_artifacts(run.info.run_id, LOSSES)).sort_by(
        [("fold", "ascending"), ("row", "ascending")]
    )


def _digest(run: Any) -> str:
    inputs = getattr(getattr(run, "inputs", None), "dataset_inputs", None) or ()
    return next((entry.dataset.digest for entry in inputs), "") or hashlib.sha256(run.info.run_id.encode()).hexdigest()


def _differs(full: Any, run: Any) -> str:
    """Return what else than the dropped features the two runs differ in; empty when nothing does."""
    changed = sorted(set(full.data.params.items()) ^ set(run.data.params.items()))
    return (
        f"the runs also differ in the parameter {changed[0][0]}, so it is not known what made the difference"
        if changed
        else ""
    )


def _paired(everything: Any, without: Any) -> tuple[PairedLosses | None, str]:
    import numpy as np

    if everything is None or without is None:
        return None, f"a run has no artefact {LOSSES}: without losses per row nothing can be decided"
    same = all(everything[name].equals(without[name]) for name in ("row", "fold", "trained"))
    if not same:
        return None, "the runs were tested on other rows or folds, so their losses are no pairs"
    rows, places = np.unique(everything["row"].to_numpy(), return_inverse=True)
    keys = np.empty(len(rows), object)
    keys[places] = (everything["cluster"] if "cluster" in everything.column_names else everything["row"]).to_pylist()
    clusters = grouped_clusters(keys.astype(str) if "cluster" in everything.column_names else np.arange(len(rows)))
    of, trained = everything["fold"].to_numpy(), everything["trained"].to_numpy()
    before, after = everything["loss"].to_numpy(), without["loss"].to_numpy()
    folds = [
        TestedFold(places[of == name], int(trained[of == name][0]), before[of == name], after[of == name])
        for name in np.unique(of)
    ]
    return paired(folds, clusters, repeats=max(1, round(len(places) / len(rows)))), ""
