"""Findings: all of them, and one with its evidence."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lineage.cli.terminal import (
    NO,
    Answer,
    AsOf,
    Format,
    MinimumDays,
    Output,
    Project,
    Severity,
    Since,
    note,
    open_project,
    print_answer,
)

if TYPE_CHECKING:
    from lineage.findings import Finding, Parameters
    from lineage.project import Lineage

app = typer.Typer()


class Report(StrEnum):
    """How findings are written."""

    table = "table"
    json = "json"
    sarif = "sarif"


@app.command()
def check(
    *,
    select: Annotated[
        list[str] | None, typer.Option("--select", help="Codes, beginnings of codes, or names; ALL is every rule.")
    ] = None,
    fail_on: Annotated[Severity, typer.Option("--fail-on", help="Least severity that fails.")] = Severity.low,
    minimum_days: MinimumDays = None,
    everything: Annotated[bool, typer.Option("--all", help="Show what is cleared or suppressed, too.")] = False,
    baseline: Annotated[Path | None, typer.Option("--baseline", help="Findings of this file do not count.")] = None,
    write: Annotated[
        Path | None, typer.Option("--write-baseline", help="Write what is flagged now as a baseline.")
    ] = None,
    project: Project = None,
    as_of: AsOf = None,
    since: Since = None,
    output: Annotated[Report, typer.Option("--format", help="How the findings are written.")] = Report.table,
) -> None:
    """All findings: undeclared consumers, dead declarations, and more.

    The exit code is 1 when one is flagged with at least the severity of --fail-on and is not suppressed.
    """
    started = time.perf_counter()
    from lineage.findings import Verdict
    from lineage.policy import read_baseline, write_baseline

    lineage = open_project(project, as_of)
    settings = replace(_settings(lineage, minimum_days), baseline=read_baseline(baseline) if baseline else frozenset())
    found = lineage.check(settings, since=since, select=_rules(select))
    if write:
        write_baseline(write, {finding.id: finding.subject for finding in found.flagged()})
        note(f"note: {len(found.flagged())} findings are the baseline now, in {write}")
        return
    shown = [f for f in found.all if everything or (f.verdict is not Verdict.CLEARED and not f.suppressed)]
    failing = bool(found.flagged(at_least=fail_on.value))
    if output is Report.sarif:
        from lineage.sarif import as_sarif

        print(json.dumps(as_sarif(f for f in found.all if f.verdict is not Verdict.CLEARED), indent=2))
    else:
        payload = {"counts": found.counts, "failing": failing, "findings": [finding.document() for finding in shown]}
        summary = ", ".join(f"{count} {verdict}" for verdict, count in found.counts.items())
        text = "\n".join([*map(finding_line, shown), summary])
        print_answer("check", Answer(payload, text, found.coverage, no=failing), Format(output.value), started)
    if failing:
        raise typer.Exit(NO)


def _settings(lineage: Lineage, minimum_days: float | None) -> Parameters:
    policy = lineage.policy()
    return policy if minimum_days is None else replace(policy, minimum_days=minimum_days)


def _rules(select: list[str] | None) -> list[str]:
    from lineage.findings import RULES

    return [rule.code for rule in RULES] if select and "ALL" in select else select or []


def finding_line(finding: Finding) -> str:
    """Return a finding as a person reads it, with its fix below."""
    line = f"{finding.id} {finding.verdict} {finding.rule.severity} [{finding.rule.name}] {finding.message}"
    suppressed = f"\n    suppressed: {finding.suppressed}" if finding.suppressed else ""
    return f"{line}{suppressed}\n    fix: {finding.fix}" if finding.fix else line + suppressed


@app.command()
def explain(
    finding: Annotated[str, typer.Argument(metavar="FINDING", help="Identity of a finding, or how it begins.")],
    *,
    minimum_days: MinimumDays = None,
    project: Project = None,
    as_of: AsOf = None,
    output: Output = Format.table,
) -> None:
    """One finding with all its evidence, derived again."""
    started = time.perf_counter()
    lineage = open_project(project, as_of)
    found = lineage.explain(finding, _settings(lineage, minimum_days))
    evidence = (
        ", ".join(f"{key}={_evidence_value(key, value)}" for key, value in piece.items()) for piece in found.evidence
    )
    lines = [finding_line(found), f"    rule: {found.rule.summary}", *(f"    evidence: {piece}" for piece in evidence)]
    print_answer("explain", Answer({"finding": found.document()}, "\n".join(lines)), output, started)


def _evidence_value(key: str, value: Any) -> Any:
    from lineage.instants import written

    return written(value) if key in ("first_read", "last_read") and isinstance(value, int) else value
