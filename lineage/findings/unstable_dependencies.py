"""Unstable dependencies: sources that revise their history, and consumers that build on them without a pin.

Sculley et al. (2015): an input that changes by itself makes whoever reads it wrong in silence; a version that is frozen, and watched,
does not. `featurestore revisions` counts the rows of one key and event time that came again with something else. A view that knows
when each row became known (`created_timestamp`) still trains on what was known; one that does not trains on the corrected past.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from lineage.errors import CorruptRegistryError
from lineage.findings.finding import Finding, Parameters, Rule, Verdict
from lineage.instants import written
from lineage.registry import ViewVersion, view_of
from lineage.state import State

UNSTABLE = Rule("LN310", "unstable_source", "low", "A source revises its history.", default=False)
UNPINNED = Rule(
    "LN311", "unpinned_dependency", "medium", "A consumer builds on an unstable source without a pin.", default=False
)
RULES = (UNSTABLE, UNPINNED)

FILE = "revisions.json"
# One row in a hundred that changes afterwards is more than the odd correction.
RATE = 0.01

Measured = Mapping[str, Any]


def unstable_dependencies(state: State, parameters: Parameters) -> Iterator[Finding]:
    """Yield one finding per view version with a source, and one per consumer of an unstable one that nothing pins.

    Args:
        state: The registry and the usage; `featurestore revisions` must have measured the views.
        parameters: Not used: how often a source was revised is a fact.

    Raises:
        CorruptRegistryError: What was measured is not as published.
    """
    del parameters
    known = _measured(state)
    for view in state.snapshot.views.values():
        if view.source is not None and view.status != "retired":
            finding = _source_finding(view, known.get(view.ref))
            yield finding
            if finding.verdict is Verdict.FLAGGED:
                yield from _consumers(state, view, finding)


def _measured(state: State) -> Mapping[str, Measured]:
    path = state.path.parent / FILE
    if not path.is_file():
        return {}
    try:
        views: Mapping[str, Measured] = json.loads(path.read_text("utf-8"))["views"]
        return {ref: facts for ref, facts in views.items() if facts["measured_at"] <= state.now}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptRegistryError(f"'{path}' is not as published: {error!r}.", path=path) from error


def _source_finding(view: ViewVersion, measured: Measured | None) -> Finding:
    subject = f"{view.ref} from source:{view.source.name}" if view.source else view.ref
    features = tuple(feature.ref for feature in view.features)
    if measured is None:
        message = f"Nobody measured how often the rows of {view.ref} are revised."
        return Finding(
            UNSTABLE, Verdict.UNDETERMINED, subject, message, (), f"featurestore revisions {view.ref}", features
        )
    rows = sum(month["rows"] for month in measured["months"])
    revised = sum(month["revised"] for month in measured["months"])
    share = revised / rows if rows else 0.0
    when = written(measured["measured_at"])
    message = f"{revised} of {rows} rows of {view.ref} came again with something else ({share:.1%}, measured {when})."
    evidence = tuple({"type": "revisions", "view": view.ref, **month} for month in measured["months"])
    if share < RATE:
        return Finding(UNSTABLE, Verdict.CLEARED, subject, message, evidence, features=features)
    fix = "created_timestamp=... on the source, so that training sees what was known; ask its owner why it changes"
    return Finding(UNSTABLE, Verdict.FLAGGED, subject, message, evidence, fix, features)


def _consumers(state: State, view: ViewVersion, unstable: Finding) -> Iterator[Finding]:
    """Yield the consumers that declare a view without a pin: neither it knows when rows became known, nor they a saved dataset."""
    if view.source is None or view.source.created_timestamp is not None:
        return
    for key, manifest in state.snapshot.consumers.items():
        refs = tuple(sorted(ref for ref in state.declared[key] if view_of(ref) == view.ref))
        if refs and manifest.dataset not in state.snapshot.datasets:
            message = f"{key} builds on {view.ref}, whose past changes, and names no saved dataset: its training cannot be repeated."
            fix = f'store.save("NAME", ...), then dataset="NAME" in the manifest of {key}'
            yield Finding(UNPINNED, Verdict.FLAGGED, f"{key} on {view.ref}", message, unstable.evidence, fix, refs)
