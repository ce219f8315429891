"""One credential, several workloads: nobody can say whose read it was, and none of them can lose it without the others.

Two kinds of evidence. A principal that read as consumers of different names is one, exactly. A principal that names no consumer,
whose clients read sets of features with less than half in common, on two days or more, is another: that one asks, and may be wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from lineage.findings.finding import Finding, Parameters, Rule, Verdict
from lineage.state import State
from lineage.usage import Session

SHARED_CREDENTIAL = Rule("LN110", "shared_credential", "medium", "One credential is used by several workloads.")
RULES = (SHARED_CREDENTIAL,)

LOCAL = "local:"  # in local mode a person runs many things under one name, and is meant to
LIKE = 0.5  # two clients are of one workload when they share at least this part of what either reads
DAYS = 2  # a client that was there on one day alone is a trial, not a workload


def shared_credentials(state: State, parameters: Parameters) -> Iterator[Finding]:
    """Yield one finding per principal that several workloads use.

    Args:
        state: The registry and the usage by client.
        parameters: Not used: what was read is a fact.
    """
    del parameters
    for principal, group in groupby(state.sessions, key=lambda session: session.principal):
        sessions = tuple(group)
        if principal.startswith(LOCAL):
            continue
        named = sorted({s.consumer.partition("@")[0] for s in sessions if s.consumer and s.binding == "bound"})
        unnamed = clusters([s for s in sessions if not s.consumer and s.days >= DAYS])
        if len(named) > 1:
            yield _finding(principal, f"it reads as {', '.join(named)}", sessions)
        elif len(unnamed) > 1:
            clients = "; ".join(sorted(", ".join(sorted({s.client for s in cluster})) for cluster in unnamed))
            fact = f"its clients read different features, as {len(unnamed)} workloads would ({clients})"
            yield _finding(principal, fact, tuple(s for cluster in unnamed for s in cluster))


def clusters(sessions: list[Session]) -> list[list[Session]]:
    """Group clients that read much the same: each joins every group that it is like, and so joins these groups."""
    groups: list[list[Session]] = []
    for session in sessions:
        near = [group for group in groups if any(_like(session, other) for other in group)]
        merged = [session, *(other for group in near for other in group)]
        groups = [group for group in groups if group not in near] + [merged]
    return groups


def _like(left: Session, right: Session) -> bool:
    return len(left.features & right.features) >= LIKE * len(left.features | right.features)


def _finding(principal: str, fact: str, sessions: tuple[Session, ...]) -> Finding:
    return Finding(
        rule=SHARED_CREDENTIAL,
        verdict=Verdict.FLAGGED,
        subject=f"principal:{principal} is shared",
        message=f"principal:{principal} is one credential of several workloads: {fact}.",
        evidence=tuple(session.evidence() for session in sessions),
        fix="give each program a token of its own: featurestore token create NAME --principal PRINCIPAL",
    )
