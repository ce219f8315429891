"""Declared and never read: a manifest lists a feature that its consumer does not use.

Such a line keeps a feature alive for nobody. It is only called dead when the consumer had the chance to read (three times its
cadence), all reads since the declaration were counted, and none of them may have been this consumer's without saying so.
"""

from __future__ import annotations

from collections.abc import Iterator

from lineage.consumers import Relation, Standing, relations, unattributed_reads
from lineage.findings.finding import Finding, Parameters, Rule, Verdict
from lineage.instants import DAY, written
from lineage.manifests import constructor, reads_line
from lineage.registry import Consumer
from lineage.state import State

DECLARED_NEVER_READ = Rule("LN201", "declared_never_read", "low", "A manifest lists a feature that is never read.")
RULES = (DECLARED_NEVER_READ,)

# A consumer that reads every P days had three chances after 3 P days.
CHANCES = 3


def declared_never_read(state: State, parameters: Parameters) -> Iterator[Finding]:
    """Yield one finding per consumer and feature version that it declares.

    Args:
        state: The registry and the usage.
        parameters: `minimum_days` after the declaration before anything is called dead.
    """
    for relation in relations(state):
        if relation.declared_since is not None:
            yield _finding(state, relation, parameters)


def _finding(state: State, relation: Relation, parameters: Parameters) -> Finding:
    manifest = state.snapshot.consumers[relation.reader.node.name]
    subject = f"{manifest.key} declares {relation.feature}"
    if relation.standing is Standing.HEALTHY:
        message = f"{manifest.key} reads {relation.feature} (calls: {relation.calls})."
        evidence = tuple(read.evidence() for read in relation.reads)
        return Finding(DECLARED_NEVER_READ, Verdict.CLEARED, subject, message, evidence)
    if reason := _too_early(state, manifest, relation, parameters):
        return Finding(
            DECLARED_NEVER_READ, Verdict.UNDETERMINED, subject, reason, tuple(r.evidence() for r in relation.reads)
        )
    if relation.standing is Standing.UNDETERMINED:
        return _undetermined(state, manifest, relation, subject)
    line = reads_line(state.snapshot, manifest, remove=[relation.feature])
    return Finding(
        DECLARED_NEVER_READ,
        Verdict.FLAGGED,
        subject,
        f"{_unread(manifest, relation)}; every read since was counted.",
        tuple(read.evidence() for read in relation.reads),
        constructor(manifest.key, line, kind=manifest.kind),
    )


def _unread(manifest: Consumer, relation: Relation) -> str:
    attempts = " (attempts were refused)" if relation.reads else ""
    return f"{manifest.key} declares {relation.feature} since {written(relation.declared_since or 0)} and never read it{attempts}"


def _too_early(state: State, manifest: Consumer, relation: Relation, parameters: Parameters) -> str:
    """Return why it is too early to say; empty when it is not."""
    start = max(relation.declared_since or 0, state.usage.since or 0)
    days = max(CHANCES * (manifest.cadence_days or 0), parameters.minimum_days)
    if state.now - start >= days * DAY:
        return ""
    return f"{manifest.key} has not read {relation.feature} yet; that says something after {days:g} days, not before."


def _undetermined(state: State, manifest: Consumer, relation: Relation, subject: str) -> Finding:
    since = max(relation.declared_since or 0, state.usage.since or 0)
    gaps = state.usage.coverage(since=since, environment=manifest.environment).gaps
    strangers = unattributed_reads(state, manifest, relation.feature, since)
    reasons = [
        *map(str, gaps),
        *({f"{read.principal or 'anonymous'} reads it and may be {manifest.key}" for read in strangers}),
    ]
    return Finding(
        DECLARED_NEVER_READ,
        Verdict.UNDETERMINED,
        subject,
        f"No read of {relation.feature} by {manifest.key} was counted, and it may have happened: {'; '.join(sorted(reasons))}.",
        (*(gap.evidence() for gap in gaps), *(read.evidence() for read in strangers)),
    )
