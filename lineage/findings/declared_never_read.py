"""Declared and never read: a manifest lists features that its consumer does not use.

Such a line keeps a feature alive for nobody. It is only called dead when the consumer had the chance to read (three times its
cadence), all reads since the declaration were counted, and none of them may have been this consumer's without saying so. One
finding is about one consumer and one view version; its evidence has the verdict of each feature.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from lineage.consumers import Relation, Standing, unattributed_reads
from lineage.findings.finding import Finding, Parameters, Rule, Verdict
from lineage.findings.settling import settled_manifest, too_early
from lineage.instants import written
from lineage.registry import Consumer, feature_in, view_of
from lineage.state import State

DECLARED_NEVER_READ = Rule("LN201", "declared_never_read", "low", "A manifest lists features that are never read.")
RULES = (DECLARED_NEVER_READ,)

_ORDER = (Verdict.FLAGGED, Verdict.UNDETERMINED, Verdict.CLEARED)


@dataclass(frozen=True, slots=True)
class _Answer:
    """The answer for one feature."""

    relation: Relation
    verdict: Verdict
    message: str
    evidence: tuple[dict[str, object], ...]


def declared_never_read(state: State, parameters: Parameters) -> Iterator[Finding]:
    """Yield one finding per consumer and view version that it declares.

    Args:
        state: The registry and the usage.
        parameters: `minimum_days` after the declaration before anything is called dead.
    """
    declared = [relation for relation in state.relations if relation.declared_since is not None]
    declared.sort(key=lambda relation: (relation.reader.node, relation.feature))
    for (node, view), group in groupby(declared, key=lambda r: (r.reader.node, view_of(r.feature))):
        manifest = state.snapshot.consumers[node.name]
        answers = [_answer(state, manifest, relation, parameters) for relation in group]
        yield _finding(state, manifest, view, answers, parameters)


def _finding(state: State, manifest: Consumer, view: str, answers: list[_Answer], parameters: Parameters) -> Finding:
    verdict = min((answer.verdict for answer in answers), key=_ORDER.index)
    shown = [answer for answer in answers if answer.verdict is verdict]
    return Finding(
        rule=DECLARED_NEVER_READ,
        verdict=verdict,
        subject=f"{manifest.key} declares {view}",
        message=_message(state, manifest, view, shown),
        evidence=(*map(_declaration, answers), *(piece for answer in answers for piece in answer.evidence)),
        fix=settled_manifest(state, manifest.key, parameters) if verdict is Verdict.FLAGGED else "",
        features=tuple(answer.relation.feature for answer in shown),
    )


def _declaration(answer: _Answer) -> dict[str, object]:
    relation = answer.relation
    return {
        "type": "declaration",
        "feature": relation.feature,
        "since": relation.declared_since,
        "verdict": str(answer.verdict),
    }


def _message(state: State, manifest: Consumer, view: str, shown: list[_Answer]) -> str:
    """Return the sentence of the only feature, or one that lists all of the verdict."""
    if len(shown) == 1:
        return shown[0].message
    names = ", ".join(answer.relation.feature.partition(":")[2] for answer in shown)
    since = written(min(answer.relation.declared_since or 0 for answer in shown))
    match shown[0].verdict:
        case Verdict.CLEARED:
            return f"{manifest.key} reads what it declares of {view}: {names}."
        case Verdict.FLAGGED:
            instead = _instead(state, manifest, [answer.relation for answer in shown])
            return f"{manifest.key} declares {view}: {names} since {since} and never read them{instead}; every read since was counted."
        case _:
            return f"It cannot be said whether {manifest.key} reads {view}: {names}. {shown[0].message}"


def _answer(state: State, manifest: Consumer, relation: Relation, parameters: Parameters) -> _Answer:
    reads = tuple(read.evidence() for read in relation.reads)
    if relation.standing is Standing.HEALTHY:
        message = f"{manifest.key} reads {relation.feature} (calls: {relation.calls})."
        return _Answer(relation, Verdict.CLEARED, message, reads)
    if reason := too_early(state, manifest, relation, parameters):
        return _Answer(relation, Verdict.UNDETERMINED, reason, reads)
    if relation.standing is Standing.UNDETERMINED:
        return _undetermined(state, manifest, relation)
    attempts = " (attempts were refused)" if relation.reads else ""
    instead = _instead(state, manifest, [relation])
    since = written(relation.declared_since or 0)
    fact = f"{manifest.key} declares {relation.feature} since {since} and never read it{attempts}{instead}"
    message = f"{fact}; every read since was counted."
    return _Answer(relation, Verdict.FLAGGED, message, reads)


def _instead(state: State, manifest: Consumer, relations: list[Relation]) -> str:
    """Say which other version the consumer reads in place of what it declares; empty when it reads none."""
    names = {feature_in(relation.feature) for relation in relations}
    served = (r.feature for r in state.relations_of.get(manifest.key, ()) if r.calls)
    others = sorted({view_of(ref) for ref in served if feature_in(ref) in names and ref not in manifest.features})
    return f" (it reads {', '.join(others)} instead)" if others else ""


def _undetermined(state: State, manifest: Consumer, relation: Relation) -> _Answer:
    since = max(relation.declared_since or 0, state.usage.since or 0)
    gaps = state.usage.coverage(since=since, environment=manifest.environment).gaps
    strangers = unattributed_reads(state, manifest, relation.feature, since)
    reasons = [
        *map(str, gaps),
        *({f"{read.principal or 'anonymous'} reads it and may be {manifest.key}" for read in strangers}),
    ]
    message = f"No read of {relation.feature} by {manifest.key} was counted, and it may have happened: {'; '.join(sorted(reasons))}."
    evidence = (*(gap.evidence() for gap in gaps), *(read.evidence() for read in strangers))
    return _Answer(relation, Verdict.UNDETERMINED, message, evidence)
