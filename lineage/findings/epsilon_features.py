"""Epsilon-features: retrained without it, a model loses less than what its manifest calls worth having.

The answer comes from evaluation records (``lineage evaluate``). All records of one model on one dataset are one report, whose false
discovery rate is held. A record of other features than the manifest lists now says nothing about the model of now.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lineage.evaluation.evidence import Report, reports_of
from lineage.evaluation.verdicts import Judgement, Worth
from lineage.findings.finding import Finding, Parameters, Rule, Verdict
from lineage.registry import view_of
from lineage.state import State

EPSILON = Rule("LN401", "epsilon_feature", "low", "Without the feature the model is hardly worse.", default=False)
HARMFUL = Rule("LN402", "harmful_feature", "medium", "Without the feature the model is better.", default=False)
RULES = (EPSILON, HARMFUL)

_VERDICTS = {
    Worth.NEGLIGIBLE: Verdict.FLAGGED,
    Worth.HARMFUL: Verdict.FLAGGED,
    Worth.MATERIAL: Verdict.CLEARED,
    Worth.UNDETERMINED: Verdict.UNDETERMINED,
}


def epsilon_features(state: State, parameters: Parameters) -> Iterator[Finding]:  # noqa: ARG001 - the form of every finding
    """Yield one finding per evaluated feature, or group, of each model.

    Args:
        state: The registry, and the evaluation records beside it.
        parameters: Nothing of it is used.
    """
    for report in reports_of(state):
        for judgement in report.judgements:
            yield _finding(state, report, judgement)


def _finding(state: State, report: Report, judgement: Judgement) -> Finding:
    record = report.record_of(judgement)
    refs = tuple(sorted(record.dropped_refs))
    kept = _kept(state, refs)
    verdict = Verdict.UNDETERMINED if report.stale else _VERDICTS[judgement.worth]
    rule = HARMFUL if judgement.worth is Worth.HARMFUL else EPSILON
    if kept and verdict is Verdict.FLAGGED:
        verdict = Verdict.CLEARED
    return Finding(
        rule=rule,
        verdict=verdict,
        subject=f"{report.model} without {record.name}",
        message=_message(report, judgement, kept),
        evidence=(evidence_of(report, judgement),),
        fix=f"lineage removable {report.model} proves what can go together" if verdict is Verdict.FLAGGED else "",
        features=refs,
    )


def _message(report: Report, judgement: Judgement, kept: str) -> str:
    begin = f"{report.model} without {judgement.name}: {judgement.worth}"
    if report.stale:
        return f"{begin} when it was evaluated, but {report.stale}."
    keep = f" It is kept on purpose: {kept}." if kept else ""
    return f"{begin}; {judgement.reason}.{keep}"


def _kept(state: State, refs: Sequence[str]) -> str:
    """Return why somebody keeps one of the features whatever it is worth: the tag ``keep`` of its view."""
    views = (state.snapshot.views.get(view_of(ref)) for ref in refs)
    return next((view.tags["keep"] for view in views if view is not None and view.tags.get("keep")), "")


def evidence_of(report: Report, judgement: Judgement) -> dict[str, Any]:
    """Return a judgement with the record it was derived from, as one piece of evidence."""
    record = report.record_of(judgement)
    all_rows = next(iter(record.losses.values()), None)
    return {
        "type": "evaluation",
        "record": record.id,
        **judgement.document(),
        "epsilon": record.epsilon,
        "epsilon_from": record.epsilon_from,
        "dataset": record.dataset,
        "digest": record.digest,
        "trainer": record.trainer,
        "metric": record.metric,
        "rows": all_rows.rows if all_rows else 0,
        "clusters": len(all_rows.cluster_rows) if all_rows else 0,
        "stage": record.stage,
    }
