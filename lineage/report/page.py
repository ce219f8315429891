"""A report as one HTML page: no script, nothing loaded from elsewhere, every number explained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from lineage.evaluation.cost import TimeCost
from lineage.evaluation.replaying import Replayed
from lineage.evaluation.verdicts import Judgement
from lineage.findings import Finding, Verdict
from lineage.instants import written
from lineage.registry import view_of
from lineage.report.debt import DebtReport, ModelDebt
from lineage.report.plots import Interval, curves, intervals, matrix, scatter

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1a202c;max-width:820px;margin:2em auto;padding:0 1em}
h1{font-size:1.6em}h2{margin-top:2em;border-bottom:1px solid #cbd5e0}h3{margin-top:1.6em}
table{border-collapse:collapse;font-size:13px;width:100%}
td,th{padding:4px 8px;border-bottom:1px solid #e2e8f0;text-align:left;vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums}svg{max-width:100%;height:auto}svg text{font:12px system-ui,sans-serif}
.why{color:#4a5568;font-size:13px}.FLAGGED{color:#c05621}.UNDETERMINED{color:#718096}.CLEARED{color:#2f855a}
code{background:#edf2f7;padding:0 3px;font-size:12px;overflow-wrap:anywhere}
"""
_ABOUT_GAIN = (
    "The gain of a feature is the mean loss of the model retrained without it, minus that of the model with it, on rows that neither "
    "was trained on. The bounds hold with 95 % each; dependent rows count as one, and folds that share training rows are not taken as "
    "independent. NEGLIGIBLE and MATERIAL are claims over the whole table: at most 5 % of such claims are wrong on average (Benjamini "
    "and Yekutieli). UNDETERMINED means that these rows cannot tell; it is no sign that the feature may go. The axis is a square root, "
    "so that small gains are seen."
)
_ABOUT_COST = (
    "Bytes are those of the column in the offline files of its view. A feature is cheap to keep when others of its view stay: dropping "
    "one column saves bytes, and no refresh and no round trip."
)
_ABOUT_WEEKS = (
    "Of the rows that have the older feature, the share that have the newer one. The older can only go where this is complete and the "
    "newer says the same."
)
_ABOUT_MATRIX = (
    "Dependence is between 0 and 1: rank correlation of numbers, corrected V of categories, correlation ratio of mixed pairs. It says what "
    "goes together on these rows, and nothing about what acts on what."
)


def as_html(report: DebtReport) -> str:
    """Return a report as one page."""
    head = f"<title>Debt of {escape(report.project)}</title><meta charset='utf-8'><style>{_STYLE}</style>"
    coverage = "all reads were counted" if report.coverage.complete else f"usage is {report.coverage}"
    body = [
        f"<h1>Feature debt of {escape(report.project)}</h1>",
        f"<p class='why'>As of {written(report.at)}, registry revision {report.revision}; {escape(str(coverage))}.</p>",
        _summary(report.models),
        *(part for model in report.models for part in _model(model)),
    ]
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(body)}</body></html>\n"


def _summary(models: Sequence[ModelDebt]) -> str:
    rows = [
        [
            model.model,
            model.features,
            sum(f.verdict is Verdict.FLAGGED for f in model.findings),
            sum(f.verdict is Verdict.UNDETERMINED for f in model.findings),
            ", ".join(sorted({f.rule.name for f in model.flagged()})) or "none found",
        ]
        for model in models
    ]
    return _table(["Model", "Features", "Flagged", "Undetermined", "Debts"], rows)


def _model(model: ModelDebt) -> Iterable[str]:
    yield f"<h2 id='{escape(model.model)}'>{escape(model.model)}</h2>"
    yield _findings(model.findings)
    if model.evaluated:
        yield from _gains(model)
    yield from _costs(model)
    yield from _migration(model)
    yield from _clusters(model)


def _findings(findings: Sequence[Finding]) -> str:
    shown = [f for f in findings if f.verdict is not Verdict.CLEARED]
    if not shown:
        return "<p>No debt was found.</p>"
    rows = []
    for finding in shown:
        fix = f"<br><span class='why'>fix: <code>{escape(finding.fix)}</code></span>" if finding.fix else ""
        suppressed = (
            f"<br><span class='why'>suppressed: {escape(finding.suppressed)}</span>" if finding.suppressed else ""
        )
        rows.append(
            f"<tr><td class='{finding.verdict}'>{finding.verdict}</td><td>{escape(finding.rule.name)}<br>"
            f"<span class='why'>{finding.id}</span></td><td>{escape(finding.message)}{fix}{suppressed}</td></tr>"
        )
    return f"<table><tr><th>Verdict</th><th>Rule</th><th>What and why</th></tr>{''.join(rows)}</table>"


def _gains(model: ModelDebt) -> Iterable[str]:
    report = model.evaluated
    assert report is not None
    record = report.records[-1]
    yield "<h3>What each feature is worth</h3>"
    if report.stale:
        yield f"<p class='UNDETERMINED'>This is of an earlier state: {escape(report.stale)}.</p>"
    drawn = [Interval(j.name, j.mean, j.lower, j.upper, str(j.worth)) for j in report.judgements]
    yield intervals(drawn, record.epsilon)
    yield (
        f"<p class='why'>{_ABOUT_GAIN} Loss: {escape(record.metric)}; rows of {escape(record.dataset)}; epsilon {record.epsilon:.3g} "
        f"from {escape(record.epsilon_from)}.</p>"
    )
    yield _table(
        ["Without", "Verdict", "Gain", "Lower", "Upper", "p", "p, whole report", "p, deletion list", "Why"],
        [_row(j) for j in report.judgements],
    )
    yield "<p class='why'>p is that of the claim “below epsilon”. A list of deletions goes by the last p (Holm).</p>"


def _row(judgement: Judgement) -> list[object]:
    numbers = (
        judgement.mean,
        judgement.lower,
        judgement.upper,
        judgement.p_negligible,
        judgement.q_negligible,
        judgement.deletion,
    )
    return [judgement.name, judgement.worth, *(f"{number:.3g}" for number in numbers), judgement.reason]


def _costs(model: ModelDebt) -> Iterable[str]:
    if not model.replayed and not any(cost.bytes for cost in model.costs.values()):
        return
    yield "<h3>What each feature costs</h3>"
    points = []
    for ref, cost in model.costs.items():
        judgement = model.evaluated.about(ref) if model.evaluated else None
        if judgement is not None and cost.bytes:
            points.append((ref, float(cost.bytes), judgement.mean, str(judgement.worth)))
    if points:
        yield scatter(points, across="bytes", up="gain")
    yield f"<p class='why'>{_ABOUT_COST}</p>"
    times = model.replayed.costs if model.replayed else {}
    rows = [
        [
            c.feature,
            c.bytes,
            _took(times, c.feature, "stored"),
            _took(times, c.feature, "read"),
            c.readers,
            ", ".join(c.owners),
        ]
        for c in model.costs.values()
    ]
    views = {view_of(c.feature): c for c in model.costs.values()}
    rows += [
        [
            f"{ref}, all of its {c.shared_by}",
            c.view_bytes,
            _took(times, ref, "stored"),
            _took(times, ref, "read"),
            "",
            "",
        ]
        for ref, c in sorted(views.items())
    ]
    yield _table(["Feature", "Bytes", "Stored again, ms", "Read, ms", "Readers", "Owners upstream"], rows)
    yield f"<p class='why'>{_about_times(model)}</p>"


def _took(times: Mapping[str, Replayed], name: str, what: str) -> str:
    """Return a time in milliseconds with its bounds."""
    cost: TimeCost | None = getattr(times.get(name, Replayed()), what)
    return (
        f"{cost.median_us / 1000:.3g} ({cost.low_us / 1000:.3g} to {cost.high_us / 1000:.3g})"
        if cost
        else "not measured"
    )


def _about_times(model: ModelDebt) -> str:
    if model.replayed is None:
        return f"Times are not measured: <code>lineage cost {escape(model.model)} --server ADDRESS</code>."
    reads = (
        f"reads of {model.replayed.keys} keys each from {model.replayed.server}" if model.replayed.keys else "no reads"
    )
    return escape(
        f"Times of {written(model.replayed.at)}: with and without, in pairs of random order; the median of the differences with its "
        f"95 % bounds; {reads}. Bounds on both sides of 0 mean that nothing is saved that could be measured."
    )


def _migration(model: ModelDebt) -> Iterable[str]:
    lines = {
        f"{p['older']} → {p['newer']}": p["coverage_per_week"] for p in model.of("succession") if p["coverage_per_week"]
    }
    if drawn := curves(lines):
        yield "<h3>Migration</h3>"
        yield drawn
        yield f"<p class='why'>{_ABOUT_WEEKS}</p>"


def _clusters(model: ModelDebt) -> Iterable[str]:
    groups = [piece for piece in model.of("dependence") if len(piece["columns"]) > 1]
    if not groups:
        return
    yield "<h3>Features that say the same</h3>"
    for piece in groups:
        strength = {(a, b): value for pair, value in piece["strength"].items() for a, _, b in [pair.partition(" ~ ")]}
        yield matrix(piece["columns"], strength)
        for one in piece["determined"]:
            by = " and ".join(one["by"])
            yield f"<p>{escape(one['column'])} follows from {escape(by)}: {one['share']:.1%}, at least {one['lower']:.1%}.</p>"
    yield f"<p class='why'>{_ABOUT_MATRIX}</p>"


def _table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    head = "".join(f"<th>{escape(header)}</th>" for header in headers)
    lines = ("".join(_cell(value) for value in row) for row in rows)
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _cell(value: object) -> str:
    return f"<td class='n'>{value:,}</td>" if isinstance(value, int) else f"<td>{escape(str(value))}</td>"
