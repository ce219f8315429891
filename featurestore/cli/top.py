"""`featurestore top`: a running server in the terminal."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.cli.terminal import Format, Output, Project, print_json

if TYPE_CHECKING:
    from featurestore.serving.top import Look

app = typer.Typer()


@app.command()
def top(
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, and print it.")] = False,
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """Show who reads what, how fast, and how old it is, live; Ctrl-C ends it."""
    from rich.console import Console
    from rich.live import Live

    from featurestore.config import find_project, load_settings
    from featurestore.serving.top import looks

    seen = looks(load_settings(project or find_project()).store / "metrics", seconds)
    if output is Format.json:
        print_json(asdict(next(seen)))
    elif once:
        Console().print(_drawn(next(seen)))
    else:
        with Live(screen=False, auto_refresh=False) as live:
            for look in seen:
                live.update(_drawn(look), refresh=True)


def _drawn(look: Look) -> Any:
    from rich.console import Group
    from rich.table import Table

    reads = Table("SERVICE", "CONSUMER", "READS", "A SECOND", "P50 us", "P90", "P99", "P99.9", box=None)
    for read in look.reads:
        shown = ["-" if math.isnan(q) else f"{q:.0f}" for q in read.quantiles]
        reads.add_row(read.service, read.consumer, str(read.count), f"{read.rate:.0f}", *shown)
    views = Table("VIEW", "FOUND", "MISSING", "EXPIRED", "LAG s", box=None)
    for view in look.views:
        lag = "-" if view.lag is None else f"{view.lag:.1f}"
        views.add_row(view.view, str(view.found), str(view.missing), str(view.expired), lag)
    return Group(reads, "", views)
