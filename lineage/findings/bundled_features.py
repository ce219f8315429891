"""Bundled features: two and more came into a model at once, and nobody looked at any of them by itself.

A matter of records, not of statistics: a change set of the registry's history, and whether an evaluation since then left out some of it
and not all of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from lineage.evaluation.evidence import records_of
from lineage.evaluation.record import Record
from lineage.findings.finding import Finding, Parameters, Rule, Verdict
from lineage.findings.histories import ChangeSet, change_sets
from lineage.instants import DAY, written
from lineage.registry import Snapshot, feature_in
from lineage.state import State

BUNDLED = Rule(
    "LN410", "bundled_features", "medium", "Features came in together, none evaluated by itself.", default=False
)
# The first features of a model are no bundle: they had to begin with something. It is only not known what they are worth.
INITIAL = Rule("LN411", "initial_features", "info", "The first features of a model, none evaluated.", default=False)
RULES = (BUNDLED, INITIAL)

OLDEST = 90 * DAY  # rows that were saved longer before a change say nothing about it


def bundled_features(state: State, parameters: Parameters) -> Iterator[Finding]:  # noqa: ARG001 - the form of every finding
    """Yield one finding per change that added two or more features which the model still reads.

    Args:
        state: The registry's history, and the evaluation records beside it.
        parameters: Nothing of it is used.
    """
    records = records_of(state)
    last: dict[tuple[str, frozenset[str]], ChangeSet] = {}
    for change in change_sets(state):
        present = _present(state.snapshot, change)
        if len(present) >= 2:
            last[change.model, frozenset().union(*present)] = change
    for (model, features), change in last.items():
        mine = [r for r in records if r.model.partition("@")[0] == model]
        yield _finding(state.snapshot, change, _present(state.snapshot, change), features, mine)


def _present(snapshot: Snapshot, change: ChangeSet) -> tuple[frozenset[str], ...]:
    """Return the units of a change that the model still reads."""
    reads = {
        feature_in(ref)
        for manifest in snapshot.consumers.values()
        if manifest.kind == "model" and manifest.name == change.model
        for ref in manifest.features
    }
    return tuple(unit & reads for unit in change.units if unit & reads)


def _finding(
    snapshot: Snapshot,
    change: ChangeSet,
    units: Sequence[frozenset[str]],
    features: frozenset[str],
    records: Sequence[Record],
) -> Finding:
    parts = [(record, part) for record in records if (part := _part(record, change, features))]
    looked_at = frozenset().union(*(part for _, part in parts)) if parts else frozenset()
    missing = [unit for unit in units if not unit & looked_at]
    verdict = Verdict.CLEARED if parts else Verdict.UNDETERMINED if change.initial else Verdict.FLAGGED
    names = ", ".join(sorted(features))
    came = f"came into {change.model} with revision {change.revision} ({written(change.committed_at)[:10]})"
    said = f"{len(features) - sum(map(len, missing))} of {len(features)} were looked at by themselves or in part"
    never = "no evaluation since left out some of them and not all"
    return Finding(
        rule=INITIAL if change.initial else BUNDLED,
        verdict=verdict,
        subject=f"{change.model} since revision {change.revision}: {names}",
        message=f"{names} {came}; {said if parts else never}.",
        evidence=(
            {
                "type": "change",
                "revision": change.revision,
                "committed_at": change.committed_at,
                "added": sorted(features),
                "units": [sorted(unit) for unit in units],
                "never_looked_at": sorted(name for unit in missing for name in unit),
                "score": sum(map(len, missing)) / len(features),
            },
            *({"type": "evaluation", "record": record.id, "without": sorted(part)} for record, part in parts),
        ),
        fix="" if parts else f"lineage evaluate {_key(snapshot, change)} --drop {' --drop '.join(sorted(features))}",
        features=tuple(sorted(features)),
    )


def _key(snapshot: Snapshot, change: ChangeSet) -> str:
    keys = [key for key, manifest in snapshot.consumers.items() if manifest.name == change.model]
    return max(keys, key=lambda key: [int(number) for number in re.findall(r"\d+", key)], default=change.model)


def _part(record: Record, change: ChangeSet, features: frozenset[str]) -> frozenset[str]:
    """Return what an evaluation left out of a bundle, if that is some of it and not all, on rows of that time; else nothing."""
    without = frozenset(map(feature_in, record.dropped_refs))
    everything = frozenset(map(feature_in, record.feature_refs))
    rows_of = record.dataset_saved_at or record.created_at
    fits = without and without < features and features <= everything and rows_of >= change.committed_at - OLDEST
    return without if fits and not record.problem else frozenset()
