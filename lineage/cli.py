"""The `lineage` command: answers on standard output, notes on standard error.

Exit codes: 0 done, 1 the answer is no, 2 usage, 3 a registry that is not as published, 4 not found, 5 not allowed, 6 unavailable,
130 interrupted. What answers is imported where it is needed, so that `--help` is quick.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lineage.errors import (
    CorruptRegistryError,
    InvalidQuestionError,
    LineageError,
    NotAllowedError,
    NotFoundError,
    UnavailableError,
)

if TYPE_CHECKING:
    from lineage.consumers import Transitive
    from lineage.findings import Finding
    from lineage.project import Lineage
    from lineage.usage import Coverage, Reads

EXIT_CODES: Mapping[type[LineageError], int] = {
    InvalidQuestionError: 2,
    CorruptRegistryError: 3,
    NotFoundError: 4,
    NotAllowedError: 5,
    UnavailableError: 6,
}
NO = 1

app = typer.Typer(
    name="lineage",
    help="Who reads every feature, and what breaks when it changes.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class Format(StrEnum):
    """How an answer is written."""

    table = "table"
    json = "json"


class Drawing(StrEnum):
    """How a graph is written."""

    json = "json"
    dot = "dot"
    mermaid = "mermaid"


class Change(StrEnum):
    """What may happen to an object."""

    remove = "remove"
    schema = "schema"
    meaning = "meaning"
    freshness = "freshness"


class Severity(StrEnum):
    """How much a finding matters."""

    info = "info"
    low = "low"
    medium = "medium"
    high = "high"


Project = Annotated[
    Path | None, typer.Option("--project", help="Project folder; default: FEATURESTORE_PROJECT, or here and above.")
]
AsOf = Annotated[str | None, typer.Option("--as-of", help="A revision, an ISO time, or how long ago (7d).")]
Since = Annotated[str | None, typer.Option("--since", help="Only usage since an ISO time, or how long ago (30d).")]
Depth = Annotated[
    int | None, typer.Option("--depth", min=1, help="Greatest number of edges to follow; default: no limit.")
]
Output = Annotated[Format, typer.Option("--format", help="How the answer is written.")]
Object = Annotated[
    str, typer.Argument(metavar="OBJECT", help="weather, weather@v1:temp, delay_model@3, source:weather, ...")
]
MinimumDays = Annotated[
    float, typer.Option("--minimum-days", min=0, help="Days before a declaration may be called never read.")
]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer in both forms.

    Attributes:
        payload: What JSON holds beside the envelope.
        text: What a person reads.
        coverage: Whether all reads were counted; None when the answer does not rest on usage.
        others: Other objects of the name that was asked for.
        no: Whether the answer is no.
    """

    payload: Mapping[str, Any]
    text: str
    coverage: Coverage | None = None
    truncated: bool = False
    others: tuple[str, ...] = ()
    no: bool = False


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

    found = _open(project, as_of).consumers(target, since=since)
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
        text += "\n\nThrough what is made from it:\n" + _transitive_table(found.transitive)
    relations = [{**_fields(r), "calls": r.calls, "last_read": r.last_read} for r in found.relations]
    payload = {"object": target, "relations": relations, "transitive": found.transitive}
    _print("consumers", Answer(payload, text, found.coverage, others=found.others), output, started)


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
    from lineage.objects import resolve
    from lineage.printing import table

    state = _open(project, as_of).state()
    about = resolve(text, state.graph)
    walk = state.graph.upstream if command == "upstream" else state.graph.downstream
    closure = walk(about.nodes, depth=depth)
    rows = [[distance, node.kind, node] for node, distance in closure.distances.items()]
    nodes = [{"object": node, "kind": node.kind, "distance": distance} for node, distance in closure.distances.items()]
    payload = {"object": text, "nodes": nodes}
    shown = table(["DISTANCE", "KIND", "OBJECT"], rows)
    _print(command, Answer(payload, shown, state.usage.coverage(), closure.truncated, about.others), output, started)


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

    graph = _open(project, as_of).graph()
    origins, goals = resolve(start, graph).nodes, resolve(end, graph).nodes
    edges = graph.path(origins, goals)
    payload = {"start": start, "end": end, "found": edges is not None, "edges": edges or ()}
    _print("path", Answer(payload, "\n".join(map(str, edges or ())), no=edges is None), output, started)
    if edges is None:
        backward = graph.path(goals, origins) is not None
        _note(f"No way from {start} downstream to {end}." + (" There is one the other way." if backward else ""))
        raise typer.Exit(NO)


@app.command()
def impact(
    target: Object,
    *,
    change: Annotated[Change, typer.Option("--change", help="What would happen to it.")] = Change.remove,
    environment: Annotated[str | None, typer.Option("--environment", help="Only reads of this environment.")] = None,
    project: Project = None,
    as_of: AsOf = None,
    since: Since = None,
    output: Output = Format.table,
) -> None:
    """What a change would break, and whom to tell.

    The exit code is 1 unless it is known that nothing can be hit.
    """
    started = time.perf_counter()
    found = _open(project, as_of).impact(target, change=change.value, environment=environment, since=since)
    payload = {name: value for name, value in _fields(found).items() if name not in ("coverage", "others")}
    no = str(found.verdict) != "CLEARED"
    _print("impact", Answer(payload, _impact_text(found), found.coverage, others=found.others, no=no), output, started)
    if no:
        raise typer.Exit(NO)


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
        parts.append("Through predictions:\n" + _transitive_table(found.transitive))
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

    found = _open(project, as_of).usage(target, since=since)
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
    _print("usage", answer, output, started)


def _usage_cells(read: Reads) -> list[str]:
    named = (read.principal, read.consumer, read.binding, read.environment, read.mode, read.outcome)
    return [read.feature, *(text or "-" for text in named)]


@app.command()
def check(
    *,
    select: Annotated[list[str] | None, typer.Option("--select", help="Codes, beginnings of codes, or names.")] = None,
    fail_on: Annotated[Severity, typer.Option("--fail-on", help="Least severity that fails.")] = Severity.low,
    minimum_days: MinimumDays = 0.0,
    everything: Annotated[bool, typer.Option("--all", help="Show what is cleared, too.")] = False,
    project: Project = None,
    as_of: AsOf = None,
    since: Since = None,
    output: Output = Format.table,
) -> None:
    """All findings: undeclared consumers, dead declarations.

    The exit code is 1 when one is flagged with at least the severity of --fail-on.
    """
    started = time.perf_counter()
    from lineage.findings import Parameters, Verdict

    found = _open(project, as_of).check(Parameters(minimum_days=minimum_days), since=since, select=select or ())
    shown = [finding for finding in found.all if everything or finding.verdict is not Verdict.CLEARED]
    failing = bool(found.flagged(at_least=fail_on.value))
    payload = {"counts": found.counts, "failing": failing, "findings": [finding.document() for finding in shown]}
    summary = ", ".join(f"{count} {verdict}" for verdict, count in found.counts.items())
    text = "\n".join([*map(_finding_line, shown), summary])
    _print("check", Answer(payload, text, found.coverage, no=failing), output, started)
    if failing:
        raise typer.Exit(NO)


def _finding_line(finding: Finding) -> str:
    line = f"{finding.id} {finding.verdict} {finding.rule.severity} [{finding.rule.name}] {finding.message}"
    return f"{line}\n    fix: {finding.fix}" if finding.fix else line


@app.command()
def explain(
    finding: Annotated[str, typer.Argument(metavar="FINDING", help="Identity of a finding, or how it begins.")],
    *,
    minimum_days: MinimumDays = 0.0,
    project: Project = None,
    as_of: AsOf = None,
    output: Output = Format.table,
) -> None:
    """One finding with all its evidence, derived again."""
    started = time.perf_counter()
    from lineage.findings import Parameters

    lineage = _open(project, as_of)
    found = lineage.explain(finding, Parameters(minimum_days=minimum_days))
    evidence = (
        ", ".join(f"{key}={_evidence_value(key, value)}" for key, value in piece.items()) for piece in found.evidence
    )
    lines = [_finding_line(found), f"    rule: {found.rule.summary}", *(f"    evidence: {piece}" for piece in evidence)]
    _print("explain", Answer({"finding": found.document()}, "\n".join(lines)), output, started)


def _evidence_value(key: str, value: Any) -> Any:
    from lineage.instants import written

    return written(value) if key in ("first_read", "last_read") and isinstance(value, int) else value


@app.command()
def declare(
    reader: Annotated[str, typer.Argument(metavar="CONSUMER", help="A consumer, or a principal.")],
    *,
    project: Project = None,
    as_of: AsOf = None,
    since: Since = None,
    output: Output = Format.table,
) -> None:
    """Write a manifest from observed reads, for review.

    It is Python for features.py.
    """
    started = time.perf_counter()
    found = _open(project, as_of).declare(reader, since=since)
    payload = {"consumer": found.key, "reads": found.reads, "text": found.text}
    _print("declare", Answer(payload, found.text, found.coverage), output, started)


@app.command()
def diff(
    before: Annotated[str, typer.Argument(metavar="MODEL@A", help="A consumer, e.g. delay_model@1.")],
    after: Annotated[str, typer.Argument(metavar="MODEL@B", help="Another, e.g. delay_model@2.")],
    *,
    project: Project = None,
    as_of: AsOf = None,
    output: Output = Format.table,
) -> None:
    """What differs between two versions of a model.

    Features, versions, sources, datasets, metrics and settings; any two consumers can be compared.
    """
    started = time.perf_counter()
    found = _open(project, as_of).diff(before, after)
    _print("diff", Answer(_fields(found), _diff_text(found)), output, started)


def _diff_text(found: Any) -> str:
    lines = [f"{found.before} -> {found.after}"]
    lines += [f"+ {ref}" for ref in found.added]
    lines += [f"- {ref}" for ref in found.removed]
    lines += [f"~ {old} -> {new}" for old, new in found.versions]
    lines += [f"+ source:{name}" for name in found.sources_added]
    lines += [f"- source:{name}" for name in found.sources_removed]
    lines += [f"dataset {old} -> {new}" for old, new in [tuple(map(_dataset_text, found.datasets))] if old != new]
    lines += [f"{name} {_number(old)} -> {_number(new)}" for name, (old, new) in found.metrics.items() if old != new]
    lines += [f"{name} {old or '-'} -> {new or '-'}" for name, (old, new) in found.settings.items()]
    return "\n".join(lines)


def _dataset_text(dataset: Any) -> str:
    return f"{dataset.name} ({dataset.rows} rows, {dataset.digest[:12]})" if dataset else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


@app.command()
def export(
    *,
    project: Project = None,
    as_of: AsOf = None,
    output: Annotated[Drawing, typer.Option("--format", help="How the graph is written.")] = Drawing.json,
) -> None:
    """Write the whole graph."""
    started = time.perf_counter()
    from lineage.drawing import as_document, as_dot, as_mermaid
    from lineage.printing import document

    state = _open(project, as_of).state()
    match output:
        case Drawing.dot:
            print(as_dot(state.graph))
        case Drawing.mermaid:
            print(as_mermaid(state.graph))
        case Drawing.json:
            payload, coverage = as_document(state.graph), state.usage.coverage()
            print(document("export", payload, elapsed_ms=_elapsed(started), coverage=coverage, truncated=False))


def _open(project: Path | None, as_of: str | None) -> Lineage:
    from lineage.project import Lineage

    return Lineage(project, as_of=as_of)


def _print(command: str, answer: Answer, output: Format, started: float) -> None:
    from lineage.printing import document

    if output is Format.json:
        payload = {**answer.payload, "others": answer.others}
        elapsed = _elapsed(started)
        print(document(command, payload, elapsed_ms=elapsed, coverage=answer.coverage, truncated=answer.truncated))
        return
    if answer.text:
        print(answer.text)
    if answer.others:
        _note(f"note: there is also {', '.join(answer.others)}")
    if answer.truncated:
        _note("note: cut off at --depth; there is more")
    if answer.coverage is not None and not answer.coverage.complete:
        _note(f"note: usage is {answer.coverage}")


def _transitive_table(found: tuple[Transitive, ...]) -> str:
    from lineage.printing import table

    rows = [[t.reader, t.owner or "-", " -> ".join(str(edge.downstream) for edge in t.path)] for t in found]
    return table(["READER", "OWNER", "WAY"], rows)


def _fields(record: Any) -> dict[str, Any]:
    from dataclasses import fields

    return {field.name: getattr(record, field.name) for field in fields(record)}


def _elapsed(started: float) -> float:
    return (time.perf_counter() - started) * 1000


def _note(text: str) -> None:
    print(text, file=sys.stderr)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: Without the program's name; None is what the process was started with.

    Raises:
        SystemExit: Always, with the exit code.
    """
    try:
        app(arguments)
    except LineageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
