"""Taking over an installation of Feast."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from lineage.cli.terminal import Answer, Format, Output, note, print_answer

app = typer.Typer()
SHOWN = 5  # how many entries that could not be read are shown


@app.command()
def feast(
    repository: Annotated[
        Path, typer.Argument(metavar="REPO", help="The folder of feature_store.yaml, or JSON of its registry.")
    ],
    *,
    out: Annotated[Path, typer.Option("--out", help="Project folder to write.")] = Path("feast-lineage"),
    python: Annotated[str, typer.Option("--python", help="The Python that Feast is installed in.")] = "python",
    usage: Annotated[
        list[Path] | None, typer.Option("--usage", help="Log of feature requests, JSON lines; may be repeated.")
    ] = None,
    complete_from: Annotated[
        str | None, typer.Option("--complete-from", help="Since when the logs hold every request; default: first line.")
    ] = None,
    complete_until: Annotated[
        str | None, typer.Option("--complete-until", help="Until when; default: last line.")
    ] = None,
    output: Output = Format.table,
) -> None:
    """A project for all `lineage` commands, out of the registry of Feast and logs of who asked for what.

    Neither the repository nor its definitions are run or changed.
    """
    started = time.perf_counter()
    from lineage.feast import import_feast, read_feast, read_repository
    from lineage.instants import instant

    now = time.time_ns() // 1000
    start, end = (instant(text, now=now) if text else None for text in (complete_from, complete_until))
    registry = read_feast(read_repository(repository, python))
    found = import_feast(registry, out, requests=usage or (), complete_from=start, complete_until=end)
    payload = {
        "folder": str(found.folder),
        "views": found.views,
        "services": found.services,
        "requests": found.requests,
        "skipped": found.skipped,
    }
    text = f"{found.folder}: {found.views} view versions, {found.services} feature services, {found.requests} rows of usage"
    print_answer("import feast", Answer(payload, text), output, started)
    for file, line, reason in found.skipped[:SHOWN]:
        note(f"note: {file}:{line}: {reason}")
    note(f"note: ask it with `lineage consumers --project {found.folder}`, or `lineage check --project {found.folder}`")
