"""Questions about the graph: what an object is made from, what breaks, the way between two, and the whole."""

from __future__ import annotations

import json
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lineage.cli.terminal import (
    NO,
    Answer,
    AsOf,
    Depth,
    Format,
    Object,
    Output,
    Project,
    Since,
    elapsed,
    note,
    open_project,
    print_answer,
)

app = typer.Typer()


class Drawing(StrEnum):
    """How a graph is written."""

    json = "json"
    dot = "dot"
    mermaid = "mermaid"
    openlineage = "openlineage"
    mlflow = "mlflow"


@app.command()
def upstream(
    target: Object,
    *,
    project: Project = None,
    as_of: AsOf = None,
    depth: Depth = None,
    output: Output = Format.table,
) -> None:
    """What an object is made from."""
    _closure("upstream", target, project=project, as_of=as_of, depth=depth, output=output)


@app.command()
def downstream(
    target: Object,
    *,
    project: Project = None,
    as_of: AsOf = None,
    depth: Depth = None,
    output: Output = Format.table,
) -> None:
    """What breaks when an object changes."""
    _closure("downstream", target, project=project, as_of=as_of, depth=depth, output=output)


def _closure(
    command: str, text: str, *, project: Path | None, as_of: str | None, depth: int | None, output: Format
) -> None:
    started = time.perf_counter()
    from lineage.objects import resolve, with_parts
    from lineage.printing import table

    lineage = open_project(project, as_of)
    graph = lineage.graph()
    about = resolve(text, graph)
    up = command == "upstream"
    closure = (
        graph.upstream(with_parts(graph, about), depth=depth) if up else graph.downstream(about.nodes, depth=depth)
    )
    rows = [[distance, node.kind, node] for node, distance in closure.distances.items()]
    nodes = [{"object": node, "kind": node.kind, "distance": distance} for node, distance in closure.distances.items()]
    payload = {"object": text, "nodes": nodes}
    shown = table(["DISTANCE", "KIND", "OBJECT"], rows)
    print_answer(command, Answer(payload, shown, lineage.coverage(), closure.truncated, about.others), output, started)


@app.command()
def path(
    start: Annotated[str, typer.Argument(metavar="A", help="The object upstream.")],
    end: Annotated[str, typer.Argument(metavar="B", help="The object downstream.")],
    *,
    project: Project = None,
    as_of: AsOf = None,
    output: Output = Format.table,
) -> None:
    """A shortest way from A downstream to B.

    The exit code is 1 when there is none.
    """
    started = time.perf_counter()
    from lineage.objects import resolve

    graph = open_project(project, as_of).graph()
    origins, goals = resolve(start, graph).nodes, resolve(end, graph).nodes
    edges = graph.path(origins, goals)
    payload = {"start": start, "end": end, "found": edges is not None, "edges": edges or ()}
    print_answer("path", Answer(payload, "\n".join(map(str, edges or ())), no=edges is None), output, started)
    if edges is None:
        backward = graph.path(goals, origins) is not None
        note(f"No way from {start} downstream to {end}." + (" There is one the other way." if backward else ""))
        raise typer.Exit(NO)


@app.command()
def export(
    form: Annotated[Drawing | None, typer.Argument(help="The same as --format.")] = None,
    *,
    project: Project = None,
    as_of: AsOf = None,
    output: Annotated[Drawing, typer.Option("--format", help="How the graph is written.")] = Drawing.json,
    uri: Annotated[str, typer.Option("--uri", help="With mlflow: the server whose models are tagged.")] = "",
) -> None:
    """Write the whole graph.

    openlineage writes one event a line, with schemas, owners, column lineage and reads; mlflow writes manifests as tags of model
    versions and their runs.
    """
    started = time.perf_counter()
    from lineage.drawing import as_document, as_dot, as_mermaid
    from lineage.printing import document

    lineage = open_project(project, as_of)
    state = lineage.state()
    match form or output:
        case Drawing.openlineage:
            for event in lineage.openlineage():
                print(json.dumps(event))
        case Drawing.mlflow:
            from lineage.mlflow import connect_to, tag_models

            written = tag_models(connect_to(uri), state.snapshot)
            print_answer("export mlflow", Answer({"consumers": written}, "\n".join(written)), Format.table, started)
        case Drawing.dot:
            print(as_dot(state.graph))
        case Drawing.mermaid:
            print(as_mermaid(state.graph))
        case Drawing.json:
            payload, coverage = as_document(state.graph), state.usage.coverage()
            print(document("export", payload, elapsed_ms=elapsed(started), coverage=coverage, truncated=False))


@app.command()
def select(
    selection: Annotated[str, typer.Argument(metavar="SELECTION", help="+weather@v1:temp+ and owner:risk")],
    *,
    project: Project = None,
    as_of: AsOf = None,
    output: Output = Format.table,
) -> None:
    """The objects that a selection means, with their owners."""
    started = time.perf_counter()
    from lineage.impact import owner_of
    from lineage.printing import table
    from lineage.selection import select as selected

    state = open_project(project, as_of).state()
    found = [(node, node.kind, owner_of(state, node)) for node in selected(state, selection)]
    text = table(["KIND", "OBJECT", "OWNER"], [[kind, node, owner or "-"] for node, kind, owner in found])
    nodes = [{"object": node, "kind": kind, "owner": owner} for node, kind, owner in found]
    print_answer("select", Answer({"selection": selection, "nodes": nodes}, text), output, started)


@app.command()
def changes(
    before: Annotated[str, typer.Argument(metavar="BEFORE", help="An ISO time, or how long ago (7d).")],
    after: Annotated[str, typer.Argument(metavar="AFTER", help="The same; default: now.")] = "",
    *,
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """The edges that came and those that went between two instants."""
    started = time.perf_counter()
    came, went = open_project(project, None).changes(before, after)
    text = "\n".join([*(f"+ {edge}" for edge in came), *(f"- {edge}" for edge in went)])
    print_answer("changes", Answer({"came": came, "went": went}, text), output, started)


@app.command()
def log(
    about: Annotated[str, typer.Argument(metavar="OBJECT", help="Only lines about this; default: all.")] = "",
    *,
    since: Since = None,
    project: Project = None,
    output: Output = Format.table,
) -> None:
    """Who committed what, when and why, and what was forced although somebody read it."""
    started = time.perf_counter()
    from lineage.instants import written
    from lineage.printing import table

    found = open_project(project, None).log(about, since=since)
    rows = [
        [entry.revision, written(entry.committed_at), entry.principal, entry.kind, entry.object, entry.detail]
        for entry in found
    ]
    text = table(["REVISION", "TIME", "PRINCIPAL", "KIND", "OBJECT", "DETAIL"], rows) if rows else ""
    print_answer("log", Answer({"object": about, "entries": found}, text), output, started)


@app.command()
def cycles(
    *,
    project: Project = None,
    as_of: AsOf = None,
    output: Output = Format.table,
) -> None:
    """What depends on itself: every group of objects on cycles, each with one way round."""
    started = time.perf_counter()
    graph = open_project(project, as_of).graph()
    found = [(group, graph.way_round(group[0])) for group in graph.components()]
    text = "\n".join(" -> ".join(str(edge.upstream) for edge in way) + f" -> {way[0].upstream}" for _, way in found)
    payload = {"cycles": [{"nodes": group, "way": way} for group, way in found]}
    print_answer("cycles", Answer(payload, text), output, started)
