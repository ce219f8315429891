"""The manifest that settles all findings on a consumer together, so that no two of them say opposite things.

What it read undeclared comes in; what it certainly never read goes out. A reader that was moved to another version is both at
once: its line names the version that it reads now.
"""

from __future__ import annotations

from lineage.consumers import Relation, Standing
from lineage.findings.finding import Parameters
from lineage.instants import DAY
from lineage.manifests import constructor, reads_line
from lineage.registry import Consumer
from lineage.state import State

# A consumer that reads every P days had three chances after 3 P days.
CHANCES = 3


def settled_manifest(state: State, key: str, parameters: Parameters) -> str:
    """Return the manifest of a consumer as it would be with nothing to find, on one line.

    Args:
        state: The registry and the usage.
        key: The consumer; one without a manifest gets a new one.
        parameters: `minimum_days` after a declaration before it may be called never read.
    """
    manifest = state.snapshot.consumers.get(key)
    relations = state.relations_of.get(key, ())
    served = {r.feature for r in relations if r.reader.identity == "consumer" and r.calls}
    missing = served - state.declared.get(key, frozenset())
    dead = {r.feature for r in relations if manifest and is_never_read(state, manifest, r, parameters)}
    line = reads_line(state.snapshot, manifest, add=state.snapshot.outermost(missing), remove=dead)
    return constructor(key, line, kind=manifest.kind if manifest else "")


def is_never_read(state: State, manifest: Consumer, relation: Relation, parameters: Parameters) -> bool:
    """Say whether a declared feature is known never to be read, though its consumer had the chance."""
    never = relation.standing is Standing.DECLARED_NEVER_READ
    return never and not too_early(state, manifest, relation, parameters)


def too_early(state: State, manifest: Consumer, relation: Relation, parameters: Parameters) -> str:
    """Return why it is too early to call a declaration never read; empty when it is not."""
    start = max(relation.declared_since or 0, state.usage.since or 0)
    days = max(CHANCES * (manifest.cadence_days or 0), parameters.minimum_days)
    if state.now - start >= days * DAY:
        return ""
    return f"{manifest.key} has not read {relation.feature} yet; that says something after {days:g} days, not before."
