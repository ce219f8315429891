"""What is known beside the registry and the usage: logs, scans of code, and model files."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from lineage.cli import feast
from lineage.cli.terminal import Answer, Format, Output, Project, note, open_project, print_answer
from lineage.errors import InvalidQuestionError

app = typer.Typer(help="Take in what else is known: query logs, scans of code, model files.", no_args_is_help=True)
app.add_typer(feast.app)

SHOWN = 5  # how many entries that could not be read are shown


@app.command()
def queries(
    log: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines, CSV, or an S3 access log.")],
    *,
    dialect: Annotated[str | None, typer.Option("--dialect", help="Whose SQL it is, e.g. postgres.")] = None,
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """Reads of tables and files that went around the store.

    Taking the same log in twice changes nothing.
    """
    started = time.perf_counter()
    from lineage.imported import add_accesses
    from lineage.querylog import read_log

    found = read_log(log, dialect=dialect)
    new = add_accesses(open_project(project, None).records, found.accesses)
    payload = {"entries": found.entries, "accesses": len(found.accesses), "new": new, "skipped": found.skipped}
    text = f"{found.entries} entries, {len(found.accesses)} reads, {new} new, {len(found.skipped)} not understood"
    print_answer("import queries", Answer(payload, text), output, started)
    for line, reason in found.skipped[:SHOWN]:
        note(f"note: {log}:{line}: {reason}")


@app.command()
def openlineage(
    events: Annotated[Path, typer.Argument(metavar="FILE", help="OpenLineage events: JSON lines, or one array.")],
    *,
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """What other tools tell as OpenLineage events: where sources come from, and jobs that read what is ours.

    Taking the same events in twice changes nothing.
    """
    started = time.perf_counter()
    from lineage.openlineage import read_events

    taken = open_project(project, None).take_events(read_events(events), origin=str(events))
    payload = {"events": taken.events, "new": taken.new, "edges": taken.edges, "skipped": taken.skipped}
    text = f"{taken.events} events, {taken.new} new, {taken.edges} edges, {len(taken.skipped)} not understood"
    print_answer("import openlineage", Answer(payload, text), output, started)
    for place, reason in taken.skipped[:SHOWN]:
        note(f"note: {events}, event {place}: {reason}")


@app.command()
def mlflow(
    uri: Annotated[str, typer.Argument(metavar="URI", help="Tracking server, or its folder or database.")],
    *,
    registry_uri: Annotated[
        str | None, typer.Option("--registry-uri", help="Where its models are registered; default: the same.")
    ] = None,
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """Model versions of MLflow as consumers: what their tags, logged datasets and Feast's tags say that they read.

    A manifest in the registry counts before one of MLflow. Importing again takes the place of the earlier import.
    """
    started = time.perf_counter()
    from lineage.imported import put_manifests
    from lineage.manifests import constructor, reads_line
    from lineage.mlflow import connect_to, manifest_of_model, read_models
    from lineage.printing import table

    lineage = open_project(project, None)
    snapshot = lineage.state().snapshot
    found = [
        (model, manifest_of_model(model, snapshot)) for model in read_models(connect_to(uri, registry_uri=registry_uri))
    ]
    put_manifests(lineage.records, [(m.consumer, m.declared_at) for _, m in found], origin=_without_user(uri))
    models = [
        {
            "consumer": manifest.consumer.key,
            "reads": manifest.consumer.reads,
            "dataset": manifest.consumer.dataset,
            "inputs": model.inputs,
            "unknown": manifest.unknown,
            "manifest": constructor(manifest.consumer.key, reads_line(snapshot, manifest.consumer)),
        }
        for model, manifest in found
    ]
    rows = [[m.consumer.key, len(m.consumer.reads), m.consumer.dataset or "-", len(m.unknown)] for _, m in found]
    text = table(["CONSUMER", "FEATURES", "DATASET", "UNKNOWN"], rows) if rows else ""
    print_answer("import mlflow", Answer({"models": models}, text), output, started)
    for _, manifest in found:
        if not manifest.consumer.reads:
            note(f"note: nothing says what {manifest.consumer.key} reads")
        for ref in manifest.unknown[:SHOWN]:
            note(f"note: {manifest.consumer.key} reads '{ref}', which is not in the registry")


def _without_user(uri: str) -> str:
    """Return an address without the name and password in it: it is kept.

    >>> _without_user("http://me:s@cret@mlflow:5000/x"), _without_user("sqlite:////srv/a@b.db")
    ('http://mlflow:5000/x', 'sqlite:////srv/a@b.db')
    """
    return re.sub(r"://[^/?#]*@", "://", uri)


@app.command()
def scan(
    document: Annotated[Path, typer.Argument(metavar="FILE", help="JSON of `lineage scan`.")],
    *,
    repository: Annotated[str, typer.Option("--repository", help="Its name; default: the one in the file.")] = "",
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """References in code, as `lineage scan` found them; they take the place of an earlier scan of the same code."""
    started = time.perf_counter()
    from lineage.imported import replace_references

    name, references, unresolved = _scanned(document, repository)
    path = open_project(project, None).records
    kept = replace_references(path, name, references, unresolved=unresolved, at=time.time_ns() // 1000)
    payload = {"repository": name, "references": kept, "unresolved": unresolved}
    text = f"{name}: {kept} references, {unresolved} unresolved"
    print_answer("import scan", Answer(payload, text), output, started)


def _scanned(path: Path, repository: str) -> tuple[str, list[Any], int]:
    from lineage.imported import CodeReference

    try:
        document = json.loads(path.read_text("utf-8"))
        name = repository or str(document.get("repository") or path.stem)
        references = [
            CodeReference(
                repository=name,
                file=str(entry["file"]),
                line=int(entry["line"]),
                column=int(entry.get("column") or 0),
                kind=str(entry["kind"]),
                ref=str(entry["ref"]),
                confidence=str(entry.get("confidence") or ""),
                consumer=str(entry.get("consumer") or ""),
            )
            for entry in document["references"]
        ]
        return name, references, len(document.get("unresolved") or ())
    except OSError as error:
        raise InvalidQuestionError(f"'{path}' cannot be read: {error}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        repair = "Make it with `lineage scan FOLDER --format json`."
        raise InvalidQuestionError(f"'{path}' is no scan of code: {error!r}.", repair=repair) from error


@app.command()
def artefact(
    consumer: Annotated[str, typer.Argument(metavar="MODEL@V", help="The consumer that runs the model.")],
    model: Annotated[Path, typer.Argument(metavar="FILE", help="LightGBM, XGBoost, ONNX, or JSON of `describe`.")],
    *,
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """Which features a model gives weight, from its file; nothing in the file is run."""
    started = time.perf_counter()
    from lineage.artefacts import read_artefact
    from lineage.imported import put_artefact
    from lineage.manifests import manifest_of

    lineage = open_project(project, None)
    key = manifest_of(lineage.state(), consumer).key
    found = read_artefact(model)
    put_artefact(lineage.records, key, found)
    text = f"{key}: {len(found['inputs'])} inputs, {len(found['used'])} with weight" + (
        f"; opaque: {found['opaque']}" if found["opaque"] else ""
    )
    print_answer("import artefact", Answer({"consumer": key, "artefact": found}, text), output, started)


@app.command("evaluations")
def evaluations(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Key of the model that the runs are about.")],
    *,
    experiment: Annotated[str, typer.Option("--experiment", help="Name of the MLflow experiment.")],
    uri: Annotated[str, typer.Option("--uri", help="Where MLflow keeps its runs: a folder or an address.")],
    epsilon: Annotated[float, typer.Option("--epsilon", min=0, help="A gain below this is not worth its cost.")],
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """Evaluation records that were made elsewhere, from the runs of an MLflow experiment."""
    started = time.perf_counter()
    from lineage.evaluation.mlflow_runs import records_of_runs
    from lineage.evaluation.record import FOLDER, save_record

    lineage = open_project(project, None)
    found = records_of_runs(uri, experiment, model=model, epsilon=epsilon, now=lineage.now())
    for record in found:
        save_record(lineage.project / FOLDER, record)
    payload = {"records": [record.id for record in found], "problems": {r.name: r.problem for r in found if r.problem}}
    print_answer("import evaluations", Answer(payload, f"{len(found)} records"), output, started)
    for record in found:
        if record.problem:
            note(f"note: without {record.name}: {record.problem}")
