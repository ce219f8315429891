"""Manifests: written from observed reads, and compared."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from lineage.cli.terminal import Answer, AsOf, Format, Output, Project, Since, fields_of, open_project, print_answer

app = typer.Typer()


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
    found = open_project(project, as_of).declare(reader, since=since)
    payload = {"consumer": found.key, "reads": found.reads, "text": found.text}
    print_answer("declare", Answer(payload, found.text, found.coverage), output, started)


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
    found = open_project(project, as_of).diff(before, after)
    print_answer("diff", Answer(fields_of(found), _diff_text(found)), output, started)


def _diff_text(found: Any) -> str:
    lines = [f"{found.before} -> {found.after}"]
    lines += [f"+ {ref}" for ref in found.added]
    lines += [f"- {ref}" for ref in found.removed]
    lines += [f"~ {old} -> {new}" for old, new in found.versions]
    lines += [f"    {ref}: {what}" for ref, what in found.definitions]
    lines += [f"+ source:{name}" for name in found.sources_added]
    lines += [f"- source:{name}" for name in found.sources_removed]
    lines += [f"dataset {old} -> {new}" for old, new in [tuple(map(_dataset_text, found.datasets))] if old != new]
    lines += [f"{name} {_number(old)} -> {_number(new)}" for name, (old, new) in found.metrics.items() if old != new]
    lines += [f"{name} {old or '-'} -> {new or '-'}" for name, (old, new) in found.settings.items()]
    lines += [f"unused in {found.after}: {ref}" for ref in found.unused]
    return "\n".join(lines)


def _dataset_text(dataset: Any) -> str:
    return f"{dataset.name} ({dataset.rows} rows, {dataset.digest[:12]})" if dataset else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
