"""Removable features: a group that a model can lose together, proved on rows that did not choose it (``lineage removable``)."""

from __future__ import annotations

from collections.abc import Iterator

from lineage.evaluation.evidence import records_of
from lineage.evaluation.plan import removal_plan
from lineage.evaluation.record import Record
from lineage.evaluation.verdicts import Worth
from lineage.findings.finding import Finding, Parameters, Rule, Verdict
from lineage.state import State

REMOVABLE = Rule("LN440", "removable_features", "medium", "A group of features can go together.", default=False)
RULES = (REMOVABLE,)


def removable_features(state: State, parameters: Parameters) -> Iterator[Finding]:  # noqa: ARG001 - the form of every finding
    """Yield one finding per model whose newest group was tested.

    Args:
        state: The registry, and the evaluation records beside it.
        parameters: Nothing of it is used.
    """
    tested = {record.model: record for record in records_of(state) if record.stage == "group"}
    for model, record in tested.items():
        if model in state.snapshot.consumers:
            yield _finding(state, record)


def _finding(state: State, record: Record) -> Finding:
    from lineage.evaluation.running import judge_records

    judgement = judge_records([record], record.epsilon)[0]
    manifest = state.snapshot.consumers[record.model]
    refs = tuple(sorted(record.dropped_refs))
    still = tuple(ref for ref in refs if not record.refs or ref in manifest.features)
    gone = judgement.worth in (Worth.NEGLIGIBLE, Worth.HARMFUL)
    verdict = (
        Verdict.FLAGGED
        if gone and still
        else Verdict.CLEARED
        if not still or judgement.worth is Worth.MATERIAL
        else Verdict.UNDETERMINED
    )
    plan = removal_plan(state, record.model, still)
    saved = f" Nobody else reads what takes {plan.bytes:,} bytes." if plan.bytes else ""
    return Finding(
        rule=REMOVABLE,
        verdict=verdict,
        subject=f"{record.model} without {', '.join(refs)}",
        message=f"{record.model} without {record.name}, all together, on rows that did not choose them: {judgement.reason}.{saved}",
        evidence=(
            {
                "type": "evaluation",
                "record": record.id,
                **judgement.document(),
                "epsilon": record.epsilon,
                "stage": record.stage,
            },
            {
                "type": "plan",
                "steps": list(plan.steps),
                "readers": {r: list(o) for r, o in plan.readers.items()},
                "bytes": plan.bytes,
            },
        ),
        fix=plan.steps[0] if verdict is Verdict.FLAGGED else "",
        features=refs,
    )
