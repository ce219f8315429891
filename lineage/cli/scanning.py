"""What code reads: the scan of a repository."""

from __future__ import annotations

import json
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lineage.cli.terminal import Answer, Format, note, open_project, print_answer

if TYPE_CHECKING:
    from lineage.scan import Scan

app = typer.Typer()


class Report(StrEnum):
    """How a scan is written."""

    table = "table"
    json = "json"
    sarif = "sarif"


@app.command()
def scan(
    repository: Annotated[Path, typer.Argument(metavar="REPO", help="A folder, or one file.")],
    *,
    name: Annotated[str, typer.Option("--name", help="Name of the repository; default: of the folder.")] = "",
    tests: Annotated[bool, typer.Option("--tests", help="Test code counts too.")] = False,
    exclude: Annotated[list[str] | None, typer.Option("--exclude", help="Paths to leave out; may be repeated.")] = None,
    project: Annotated[
        Path | None, typer.Option("--project", help="Also take it in for this project's findings.")
    ] = None,
    output: Annotated[Report, typer.Option("--format", help="How the answer is written.")] = Report.table,
) -> None:
    """Reads of features, feature services and tables in Python, notebooks, SQL and configuration files.

    Nothing of the code is run. What cannot be told is listed.
    """
    started = time.perf_counter()
    from lineage.scan import as_sarif
    from lineage.scan import scan as scan_repository

    found = scan_repository(repository, tests=tests, exclude=exclude or (), repository=name)
    if project is not None:
        _take_in(found, project)
    if output is Report.sarif:
        print(json.dumps(as_sarif(found), indent=2))
    else:
        print_answer("scan", Answer(found.document(), _text(found)), Format(output.value), started)
    for file in found.unread:
        note(f"note: {file.file}:{file.line}: {file.reason}")


def _take_in(found: Scan, project: Path) -> None:
    from dataclasses import fields

    from lineage.imported import CodeReference, replace_references

    names = [field.name for field in fields(CodeReference) if field.name != "repository"]
    references = [
        CodeReference(found.repository, **{name: getattr(r, name) for name in names}) for r in found.references
    ]
    records = open_project(project, None).records
    replace_references(
        records, found.repository, references, unresolved=len(found.unresolved), at=time.time_ns() // 1000
    )


def _text(found: Scan) -> str:
    from lineage.printing import table

    known = [[f"{r.file}:{r.line}", r.kind, r.ref, str(r.confidence), r.call] for r in found.references]
    unknown = [[f"{u.file}:{u.line}", u.kind, u.pattern, "dynamic", u.expression] for u in found.unresolved]
    counts = f"{found.files} files, {len(known)} references, {len(unknown)} unresolved, {len(found.unread)} unread"
    rows = [*known, *unknown]
    return "\n".join([table(["PLACE", "KIND", "REF", "KNOWN BY", "READ BY"], rows), counts] if rows else [counts])
