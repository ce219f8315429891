"""Correlated features: groups of a model's inputs that say much the same, and which of them it could do without.

What depends on what cannot be told from one set of rows: nothing here says which feature causes anything. It says what is computed from
what (from the lineage), which is there, and which is negligible given the rest (from evaluations).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lineage.evaluation.data import Data
from lineage.evaluation.dependence import Dependence, Determined, Hindsight, dependence_of, hindsight
from lineage.evaluation.evidence import Report, data_of, reports_of
from lineage.evaluation.verdicts import Worth
from lineage.findings.finding import Finding, Parameters, Rule, Verdict
from lineage.graph import Node
from lineage.registry import Consumer
from lineage.state import State

CORRELATED = Rule("LN430", "correlated_features", "low", "Inputs of a model say the same.", default=False)
DEAD = Rule("LN431", "dead_column", "low", "An input of a model has one value, or hardly any.", default=False)
HINDSIGHT = Rule("LN432", "after_the_fact", "high", "An input seems known only once the outcome is.", default=False)
RULES = (CORRELATED, DEAD, HINDSIGHT)

_USELESS = (Worth.NEGLIGIBLE, Worth.HARMFUL)


def correlated_features(state: State, parameters: Parameters) -> Iterator[Finding]:
    """Yield a finding per group of dependent inputs of each model, and per input that never changes.

    Args:
        state: The registry, the saved datasets and the evaluation records.
        parameters: The `models` that are looked at.
    """
    reports = {report.model: report for report in reports_of(state)}
    for manifest in state.snapshot.consumers.values():
        if manifest.kind != "model" or not parameters.looks_at(manifest.key):
            continue
        if (data := data_of(state, manifest)) is None or not data.features:
            continue
        found = dependence_of(data)
        for cluster in found.clusters:
            yield _finding(state, manifest, data, found, cluster, reports.get(manifest.key))
        yield from _dead(manifest, data, found)
        yield from (_too_late(manifest, data, one) for one in hindsight(data))


def _finding(
    state: State, manifest: Consumer, data: Data, found: Dependence, cluster: Sequence[str], report: Report | None
) -> Finding:
    refs = [data.refs.get(column, column) for column in cluster]
    judgements = [report.about(ref) if report and not report.stale else None for ref in refs]
    useless = [ref for ref, j in zip(refs, judgements, strict=True) if j is not None and j.worth in _USELESS]
    if useless:
        verdict, said = (
            Verdict.FLAGGED,
            f"Given the others, {' and '.join(useless)} {'bring' if len(useless) > 1 else 'brings'} next to nothing.",
        )
    elif any(j is None or j.worth is Worth.UNDETERMINED for j in judgements):
        verdict, said = Verdict.UNDETERMINED, "Which of them the model needs was not decided: lineage evaluate."
    else:
        verdict, said = Verdict.CLEARED, "The model gains by each of them."
    ways = [one for one in found.determined if one.column in cluster]
    together = " ".join(_determination(data, one) for one in ways)
    weakest = min(found.between(a, b) for a in cluster for b in cluster if a != b)
    return Finding(
        rule=CORRELATED,
        verdict=verdict,
        subject=f"{manifest.key} reads {', '.join(sorted(refs))}",
        message=f"{', '.join(sorted(refs))} depend on each other. {together} {said}".replace("  ", " "),
        evidence=(
            {
                "type": "dependence",
                "columns": list(cluster),
                "weakest_pair": weakest,
                "strength": {f"{a} ~ {b}": found.between(a, b) for a in cluster for b in cluster if a < b},
                "determined": [
                    {"column": o.column, "by": list(o.by), "share": o.share, "lower": o.lower} for o in ways
                ],
                "lineage": _ancestry(state, refs),
                "readers": _readers(state, refs),
                "negligible": useless,
                "null_together": [list(group) for group in found.null_together if set(group) & set(cluster)],
            },
        ),
        fix=f"lineage removable {manifest.key}" if verdict is Verdict.FLAGGED else "",
        features=tuple(sorted(refs)),
    )


def _determination(data: Data, one: Determined) -> str:
    by = " and ".join(data.refs.get(column, column) for column in one.by)
    return f"{data.refs.get(one.column, one.column)} follows from {by} ({one.share:.1%}, at least {one.lower:.1%})."


def _ancestry(state: State, refs: Sequence[str]) -> list[str]:
    """Return what the lineage knows of each pair: one computed from the other, of one source, or no known way."""
    known = [ref for ref in refs if Node("feature", ref) in state.graph]
    up = {ref: set(state.graph.upstream((Node("feature", ref),)).nodes) for ref in known}
    found = []
    for place, a in enumerate(known):
        for b in known[:place]:
            if Node("feature", b) in up[a]:
                found.append(f"{a} is computed from {b}")
            elif Node("feature", a) in up[b]:
                found.append(f"{b} is computed from {a}")
            elif {n for n in up[a] & up[b] if n.kind in ("source", "column")}:
                found.append(f"{a} and {b} are of one source")
            else:
                found.append(f"no known way between {a} and {b}")
    return found


def _readers(state: State, refs: Sequence[str]) -> list[str]:
    return sorted({relation.reader.node.name for relation in state.relations if relation.feature in refs})


def _dead(manifest: Consumer, data: Data, found: Dependence) -> Iterator[Finding]:
    said = dict.fromkeys(found.constant, "has one value alone")
    said |= {column: f"is null in {share:.1%} of the rows" for column, share in found.empty.items()}
    for column, what in sorted(said.items()):
        ref = data.refs.get(column, column)
        yield Finding(
            rule=DEAD,
            verdict=Verdict.FLAGGED,
            subject=f"{manifest.key} reads {ref}",
            message=f"{ref} {what} in {data.name}, so {manifest.key} can hardly learn from it.",
            evidence=({"type": "column", "column": column, "dataset": data.name, "digest": data.digest},),
            fix=f"take {ref} out of reads of {manifest.key}, or find out why it is so",
            features=(ref,),
        )


_SIGNS = {
    "missing with the label": "{ref} is null where {label} is not known yet (correlation {strength:.2f})",
    "says the label": "{ref} says at least {strength:.1%} of {label} by itself",
}


def _too_late(manifest: Consumer, data: Data, one: Hindsight) -> Finding:
    ref = data.refs.get(one.column, one.column)
    said = _SIGNS[one.sign].format(ref=ref, label=data.label, strength=one.strength)
    return Finding(
        rule=HINDSIGHT,
        verdict=Verdict.FLAGGED,
        subject=f"{manifest.key} reads {ref} after the fact",
        message=f"{said} in {data.name}: it seems to become known with the outcome, too late for {manifest.key} to predict by.",
        evidence=(
            {
                "type": "hindsight",
                "column": one.column,
                "sign": one.sign,
                "strength": one.strength,
                "digest": data.digest,
            },
        ),
        fix=f"say when {ref} became known (created_timestamp of its source), or take it out of reads of {manifest.key}",
        features=(ref,),
    )
