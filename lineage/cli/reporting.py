"""The report on debt."""

from __future__ import annotations

import json
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lineage.cli.checking import finding_line
from lineage.cli.evaluating import shown, yield_cores
from lineage.cli.terminal import NO, Answer, AsOf, Format, Project, Severity, note, open_project, print_answer

if TYPE_CHECKING:
    from lineage.report import DebtReport, ModelDebt

app = typer.Typer()


class Form(StrEnum):
    """How a report is written."""

    table = "table"
    json = "json"
    sarif = "sarif"
    html = "html"


@app.command()
def debt(
    model: Annotated[
        str, typer.Argument(metavar="[MODEL]", help="A model, with or without version; default: all.")
    ] = "",
    *,
    fail_on: Annotated[Severity, typer.Option("--fail-on", help="Least severity that fails.")] = Severity.low,
    out: Annotated[Path | None, typer.Option("--out", help="Write it into this file.")] = None,
    page: Annotated[Path | None, typer.Option("--page", help="Also write it as a page into this file.")] = None,
    project: Project = None,
    as_of: AsOf = None,
    output: Annotated[Form, typer.Option("--format", help="How the report is written.")] = Form.table,
) -> None:
    """The debt of a model, or of all: what it could do without, and what it depends on that it should not.

    Legacy, bundled, epsilon and correlated features, cascades and loops. The exit code is 1 when one is flagged with at least the severity
    of --fail-on and is not suppressed.
    """
    started = time.perf_counter()
    yield_cores()
    from lineage.report import as_html, debt_report
    from lineage.sarif import as_sarif

    lineage = open_project(project, as_of)
    found = debt_report(lineage.state(), lineage.policy(), model)
    failing = _fails(found, fail_on.value)
    if page is not None:
        _write(page, as_html(found))
    if output is Form.html:
        _write(out, as_html(found))
    elif output is Form.sarif:
        shown = [f for f in found.findings if str(f.verdict) != "CLEARED"]
        _write(out, json.dumps(as_sarif(shown), indent=2) + "\n")
    else:
        answer = Answer(found.document(), _text(found), found.coverage, no=failing)
        print_answer("debt", answer, Format(output.value), started)
    if failing:
        raise typer.Exit(NO)


def _fails(found: DebtReport, floor: str) -> bool:
    from lineage.findings import SEVERITIES

    flagged = [finding for model in found.models for finding in model.flagged()]
    return any(SEVERITIES.index(f.rule.severity) >= SEVERITIES.index(floor) for f in flagged)


def _write(out: Path | None, text: str) -> None:
    if out is None:
        print(text, end="")
        return
    out.write_text(text, "utf-8")
    note(f"note: written to {out}")


def _text(found: DebtReport) -> str:
    return "\n\n".join("\n".join(_model_lines(model)) for model in found.models) or "there is no model"


def _model_lines(model: ModelDebt) -> list[str]:
    from lineage.printing import table

    flagged = model.flagged()
    undetermined = sum(str(f.verdict) == "UNDETERMINED" for f in model.findings)
    lines = [f"{model.model}: {model.features} features, {len(flagged)} debts flagged, {undetermined} undetermined"]
    lines += [f"  {line}" for finding in flagged for line in finding_line(finding).splitlines()]
    report = model.evaluated
    if report:
        rows = [
            [j.name, j.worth, shown(j.mean), f"{shown(j.lower)} .. {shown(j.upper)}", j.reason]
            for j in sorted(report.judgements, key=lambda j: (str(j.worth), -(j.mean if j.mean > 0 else 0.0)))
        ]
        lines.append(
            f"  worth of each, epsilon {report.records[-1].epsilon:.3g}"
            + (f"; stale: {report.stale}" if report.stale else "")
        )
        lines += [
            f"  {line}" for line in table(["WITHOUT", "VERDICT", "GAIN", "95 % BOUNDS", "WHY"], rows).splitlines()
        ]
    else:
        lines.append(f"  nothing was evaluated: lineage evaluate {model.model} --estimator module:factory")
    return lines
