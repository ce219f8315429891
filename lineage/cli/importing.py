"""What is known beside the registry and the usage: logs, scans of code, and model files."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from lineage.cli.terminal import Answer, Format, Output, Project, note, open_project, print_answer
from lineage.errors import InvalidQuestionError

app = typer.Typer(help="Take in what else is known: query logs, scans of code, model files.", no_args_is_help=True)

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
