"""Commands that bring rows into the store and keep it in order."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from featurestore.cli.terminal import (
    Format,
    Output,
    Project,
    View,
    Views,
    open_store,
    print_json,
    print_rows,
    pulled_views,
    say,
)
from featurestore.errors import InvalidArgumentError

app = typer.Typer()


@app.command()
def ingest(
    views: Views = None,
    known_until: Annotated[str | None, typer.Option(help="Only what was known at this ISO time (UTC).")] = None,
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """Pull views' sources into the offline store; rows that are there already are not taken again."""
    with open_store(project) as store:
        reports = [store.ingest(view, known_until=known_until) for view in views or pulled_views(store)]
        headers = ("VIEW", "READ", "ACCEPTED", "REPEATED", "LATER", "NULL TIMES", "NULL KEYS")
        fields = ("view", "read", "accepted", "repeated", "later", "null_events", "null_keys")
        print_rows(headers, [[getattr(r, field) for field in fields] for r in reports], output, command="ingest")
        for warning in (warning for report in reports for warning in report.warnings):
            say(f"warning: {warning}")


@app.command()
def write(
    view: View,
    file: Annotated[Path, typer.Argument(help="Parquet, CSV or JSON lines, with the source's column names.")],
    project: Project = None,
) -> None:
    """Accept rows of a view; when this returns they are durable and visible."""
    from featurestore.offline.files import read_table

    with open_store(project) as store:
        report = store.write(view, read_table(file))
        print_json(
            {"view": view, "accepted": report.accepted, "repeated": report.repeated_rows, "parked": report.parked}
        )


@app.command()
def materialize(
    view: Annotated[str | None, typer.Argument(help="A view; default: every view that has rows.")] = None,
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """Bring the latest rows to the online store."""
    with open_store(project) as store:
        rows = [(report.view, report.rows, report.changed) for report in store.materialize(view)]
        print_rows(("VIEW", "ROWS", "NEW ONLINE"), rows, output, command="materialize")


@app.command()
def replay(
    views: Views = None,
    since: Annotated[str, typer.Option(help="Start after this ISO time (UTC).")] = "",
    until: Annotated[str, typer.Option(help="Stop at this ISO time (UTC).")] = "",
    step_minutes: Annotated[int, typer.Option(min=1, help="Minutes of replay time between stops of the clock.")] = 60,
    project: Project = None,
) -> None:
    """Play history through the store: each row enters by write when it became known, and the clock follows."""
    from featurestore.types import from_micros, to_micros

    if not since or not until:
        raise InvalidArgumentError("A replay needs --since and --until.")
    first, last, step = to_micros(since), to_micros(until), timedelta(minutes=step_minutes) // timedelta(microseconds=1)
    moments = [*range(first + step, last, step), last]
    with open_store(project) as store:
        for moment, rows in store.replay(views or pulled_views(store), since=first, moments=moments):
            say(f"{from_micros(moment):%Y-%m-%d %H:%M}Z  {rows} rows")
