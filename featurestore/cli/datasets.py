"""`featurestore datasets`: saved training sets."""

from __future__ import annotations

import typer

from featurestore.cli.definitions import Kind, list_objects
from featurestore.cli.terminal import Format, Output, Project, open_store, say

app = typer.Typer(help="Saved training sets.", no_args_is_help=True)


@app.command("list")
def datasets_list(project: Project = None, output: Output = Format.table) -> None:
    """List the saved training sets."""
    list_objects(Kind.datasets, project, output)


@app.command("verify")
def datasets_verify(name: str, project: Project = None) -> None:
    """Read a saved training set again and compare the digest of its values."""
    with open_store(project) as store:
        store.dataset(name).verify()
        say(f"{name}: every value is as it was saved")
