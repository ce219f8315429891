"""Who reads: consumers, recorded usage, and what a change would break."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lineage.cli.terminal import (
    NO,
    Answer,
    AsOf,
    Format,
    Object,
    Output,
    Project,
    Severity,
    Since,
    fields_of,
    open_project,
    print_answer,
    transitive_table,
)

if TYPE_CHECKING:
    from lineage.project import Lineage
    from lineage.registry import Rollout
    from lineage.usage import Reads

app = typer.Typer()


class Change(StrEnum):
    """What may happen to an object."""

    remove = "remove"
    schema = "schema"
    meaning = "meaning"
    freshness = "freshness"


@app.command()
def consumers(
    target: Annotated[str, typer.Argument(metavar="OBJECT", help="An object; default: every feature.")] = "",
    *,
    project: Project = None,
    as_of: AsOf = None,
    since: Since = None,
    output: Output = Format.table,
) -> None:
    """Who declares and who reads an object, per feature version."""
    started = time.perf_counter()
    from lineage.instants import written
    from lineage.printing import table

    found = open_project(project, as_of).consumers(target, since=since)
    rows = [
        [
            relation.feature,
            relation.reader.node,
            relation.standing,
            relation.calls,
            written(relation.last_read) if relation.last_read is not None else "-",
            relation.owner or "-",
        ]
        for relation in found.relations
    ]
    text = table(["FEATURE", "READER", "STANDING", "CALLS", "LAST READ", "OWNER"], rows)
    if found.transitive:
        text += "\n\nThrough what is made from it:\n" + transitive_table(found.transitive)
    if found.rollouts:
        text += "\n\n" + _in_flight(found.rollouts)
    relations = [{**fields_of(r), "calls": r.calls, "last_read": r.last_read} for r in found.relations]
    payload = {
        "object": target,
        "relations": relations,
        "transitive": found.transitive,
        "rollouts": found.rollouts,
    }
    print_answer("consumers", Answer(payload, text, found.coverage, others=found.others), output, started)


def _in_flight(rollouts: tuple[Rollout, ...]) -> str:
    """Say which versions are about to be read by others than those above."""
    return "\n".join(f"In flight: {rollout}" for rollout in rollouts)


class Report(StrEnum):
    """How an impact is written."""

    table = "table"
    json = "json"
    markdown = "markdown"


@app.command()
def impact(
    target: Annotated[
        str,
        typer.Argument(metavar="OBJECT", help="An object; default: all that changed since --since."),
    ] = "",
    *,
    change: Annotated[Change, typer.Option("--change", help="What would happen to it.")] = Change.remove,
    environment: Annotated[str | None, typer.Option("--environment", help="Only reads of this environment.")] = None,
    fail_on: Annotated[Severity, typer.Option("--fail-on", help="Least severity that fails.")] = Severity.info,
    project: Project = None,
    as_of: AsOf = None,
    since: Annotated[
        str | None,
        typer.Option("--since", help="With an object: only usage since then. Without: what changed since a revision."),
    ] = None,
    output: Annotated[Report, typer.Option("--format", help="How the answer is written.")] = Report.table,
) -> None:
    """What a change would break, and whom to tell.

    The exit code is 1 unless it is known that nothing is hit with at least the severity of --fail-on.
    """
    started = time.perf_counter()
    lineage = open_project(project, as_of)
    if not target:
        _impact_since(lineage, since, environment, fail_on, output, started)
        return
    found = lineage.impact(target, change=change.value, environment=environment, since=since)
    no = _fails(found.verdict, found.severity, fail_on)
    if output is Report.markdown:
        from lineage.changes import as_markdown

        print(as_markdown([(None, found)], title=f"Impact: {change.value} {target}"))
    else:
        answer = Answer(_impact_payload(found), _impact_text(found), found.coverage, others=found.others, no=no)
        print_answer("impact", answer, Format(output.value), started)
    if no:
        raise typer.Exit(NO)


def _fails(verdict: Any, severity: str, fail_on: Severity) -> bool:
    from lineage.findings import SEVERITIES

    if str(verdict) != "FLAGGED":
        return str(verdict) == "UNDETERMINED"
    return SEVERITIES.index(severity) >= SEVERITIES.index(fail_on.value)


def _impact_payload(found: Any) -> dict[str, Any]:
    return {name: value for name, value in fields_of(found).items() if name not in ("coverage", "others")}


def _impact_since(
    lineage: Lineage, since: str | None, environment: str | None, fail_on: Severity, output: Report, started: float
) -> None:
    from lineage.changes import as_markdown
    from lineage.errors import InvalidQuestionError

    if since is None:
        raise InvalidQuestionError("Nothing says what may break.", repair="Give an OBJECT, or --since REVISION.")
    found = lineage.impact_since(since, environment=environment)
    title = f"What changed from revision {found.since} to {found.until}"
    if output is Report.markdown:
        print(as_markdown(found.hits, title=title))
    else:
        hits = [{"break": broken, **_impact_payload(hit)} for broken, hit in found.hits]
        verdict, severity = found.verdict, found.severity
        payload = {"since": found.since, "until": found.until, "verdict": verdict, "severity": severity, "hits": hits}
        parts = [f"{broken.detail}\n{_impact_text(hit)}" for broken, hit in found.hits]
        text = "\n\n".join([f"{title}: {verdict}, severity {severity}", *parts])
        print_answer("impact", Answer(payload, text), Format(output.value), started)
    if _fails(found.verdict, found.severity, fail_on):
        raise typer.Exit(NO)


@app.command()
def cells(
    target: Annotated[str, typer.Argument(metavar="OBJECT", help="A feature, view or consumer; default: all.")] = "",
    *,
    project: Project = None,
    as_of: AsOf = None,
    since: Since = None,
    output: Output = Format.table,
) -> None:
    """Declared, in the code, observed: how the three agree, and what settles it."""
    started = time.perf_counter()
    from lineage.printing import table

    lineage = open_project(project, as_of)
    found = lineage.cells(target, since=since)
    rows = [
        [
            agreement.consumer,
            agreement.feature,
            agreement.cell.value + ("" if agreement.known else "?"),
            ", ".join(sorted({r.place for r in agreement.references})[:2]) or "-",
            agreement.fix or "-",
        ]
        for agreement in found
    ]
    text = table(["CONSUMER", "FEATURE", "CELL", "CODE", "FIX"], rows)
    cells_found = [{**fields_of(agreement), "fix": agreement.fix} for agreement in found]
    coverage = lineage.state(since=since).usage.coverage()
    print_answer("cells", Answer({"object": target, "cells": cells_found}, text, coverage), output, started)


def _impact_text(found: Any) -> str:
    from lineage.instants import written
    from lineage.printing import table

    parts = [f"{found.change} {found.object}: {found.verdict}, severity {found.severity}"]
    if found.live:
        headers = ["READER", "FEATURE", "ENVIRONMENT", "MODE", "CALLS", "LAST READ", "DECLARED", "OWNER"]
        rows = [
            [
                live.reader,
                live.read.feature,
                live.read.environment or "-",
                live.read.mode,
                live.read.calls,
                written(live.read.last_read),
                "yes" if live.declared else "no",
                live.owner or "-",
            ]
            for live in found.live
        ]
        parts.append("Read by:\n" + table(headers, rows))
    lists = {
        "Consumers": [consumer.key for consumer in found.consumers],
        "Views computed from it": found.views,
        "Predictions": found.predictions,
        "Services": found.services,
        "Datasets": found.datasets,
    }
    parts += [f"{title}: {', '.join(names)}" for title, names in lists.items() if names]
    if found.transitive:
        parts.append("Through predictions:\n" + transitive_table(found.transitive))
    parts += [_in_flight(found.rollouts)] if found.rollouts else []
    told = [f"Tell {contact.owner}: {', '.join(contact.objects)}" for contact in found.contacts]
    told += [f"No owner: {', '.join(found.unowned)}"] if found.unowned else []
    parts += ["\n".join(told)] if told else []
    return "\n\n".join(parts)


@app.command()
def usage(
    target: Object,
    *,
    project: Project = None,
    as_of: AsOf = None,
    since: Since = None,
    output: Output = Format.table,
) -> None:
    """The recorded reads of an object or by a reader.

    A reader is a consumer or a principal.
    """
    started = time.perf_counter()
    from lineage.instants import written
    from lineage.printing import table

    found = open_project(project, as_of).usage(target, since=since)
    headers = [
        "FEATURE",
        "PRINCIPAL",
        "CONSUMER",
        "BINDING",
        "ENVIRONMENT",
        "MODE",
        "OUTCOME",
        "CALLS",
        "ROWS",
        "LAST READ",
    ]
    rows = [[*_usage_cells(read), read.calls, read.entity_rows, written(read.last_read)] for read in found.reads]
    text = table(headers, rows)
    answer = Answer({"object": target, "reads": found.reads}, text, found.coverage, others=found.others)
    print_answer("usage", answer, output, started)


def _usage_cells(read: Reads) -> list[str]:
    named = (read.principal, read.consumer, read.binding, read.environment, read.mode, read.outcome)
    return [read.feature, *(text or "-" for text in named)]
