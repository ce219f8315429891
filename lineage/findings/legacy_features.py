"""Legacy features: a newer one has taken the place, says the same wherever it is needed, and the older is still paid for.

Nothing less will do. Where the newer one is missing on some rows, or does not explain the older one, the answer is "superseded, not yet
redundant", with the rows that still need the older. Pins to an old version are told apart: they need no statistics.
"""

from __future__ import annotations

from collections.abc import Iterator

from lineage.evaluation.data import Data
from lineage.evaluation.evidence import Report, data_of, reports_of
from lineage.evaluation.succession import Succession, succession
from lineage.evaluation.verdicts import Worth
from lineage.findings.finding import Finding, Parameters, Rule, Verdict
from lineage.findings.histories import commits_of
from lineage.graph import Graph, Node
from lineage.instants import DAY, written
from lineage.registry import Consumer, Snapshot, feature_in, view_of
from lineage.state import State

LEGACY = Rule(
    "LN420", "legacy_feature", "medium", "A newer feature says the same; the older is still paid for.", default=False
)
SUPERSEDED = Rule(
    "LN421", "superseded_not_redundant", "info", "A newer feature exists; some rows need the older.", default=False
)
STALE = Rule("LN422", "stale_version", "low", "A manifest stays with an old version.", default=False)
RULES = (LEGACY, SUPERSEDED, STALE)

_SHARED = 0.5  # of the source columns of two features, so that one may have followed the other
_DUPLICATE = 0.99  # explained both ways: copies, of which the older is proposed


def legacy_features(state: State, parameters: Parameters) -> Iterator[Finding]:
    """Yield a finding per older feature with a successor that one model reads, and per pin to an old version.

    Args:
        state: The registry with its history, the saved datasets and the evaluation records.
        parameters: `pinned_days` that a manifest may stay with an old version, and the `models` whose rows are looked at.
    """
    reports = {report.model: report for report in reports_of(state)}
    for manifest in state.snapshot.consumers.values():
        looked_at = manifest.kind == "model" and parameters.looks_at(manifest.key)
        pairs = tuple(successors(state, manifest)) if looked_at else ()
        if pairs and (data := data_of(state, manifest)) is not None:
            yield from _legacy(state, manifest, pairs, data, reports.get(manifest.key))
    yield from _stale_pins(state, parameters.pinned_days * DAY)


def successors(state: State, manifest: Consumer) -> Iterator[tuple[str, str, str]]:
    """Yield (older, newer, why) of the features that one model reads: said in a tag, a later version, or later and of the same source."""
    reads = sorted(manifest.features)
    for newer in reads:
        for older in reads:
            if older != newer and (why := _follows(state, older, newer)):
                yield older, newer, why


def _follows(state: State, older: str, newer: str) -> str:
    views = state.snapshot.views
    old, new = views.get(view_of(older)), views.get(view_of(newer))
    if old is None or new is None:
        return ""
    told = {part.strip() for part in new.tags.get("supersedes", "").split(",")} - {""}
    if told & {older, feature_in(older), f"{newer.partition(':')[2]}={feature_in(older)}"}:
        return "the registry says so"
    if feature_in(older) == feature_in(newer) and old.version < new.version:
        return "a later version of it"
    later = old.created_revision < new.created_revision and old.entity == new.entity
    return "later, and of the same source columns" if later and _jaccard(state.graph, older, newer) >= _SHARED else ""


def _jaccard(graph: Graph, one: str, other: str) -> float:
    sets = [
        {node for node in graph.upstream((Node("feature", ref),)).nodes if node.kind == "column"}
        for ref in (one, other)
        if Node("feature", ref) in graph
    ]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1]) if len(sets) == 2 and sets[0] | sets[1] else 0.0


def _legacy(
    state: State, manifest: Consumer, pairs: tuple[tuple[str, str, str], ...], data: Data, report: Report | None
) -> Iterator[Finding]:
    columns = {ref: column for column, ref in data.refs.items()}
    for older, newer, why in pairs:
        if older not in columns or newer not in columns:
            continue
        found = succession(data, columns[older], columns[newer])
        if why.startswith("later, and") and not found.redundant:
            continue  # of one source and made later is no succession unless it says the same
        yield _finding(state, manifest, (older, newer, why), found, report)


def _finding(
    state: State, manifest: Consumer, pair: tuple[str, str, str], found: Succession, report: Report | None
) -> Finding:
    older, newer, why = pair
    rule, verdict, said = _verdict(state, pair, found, report)
    explains = (
        f"{newer} explains {found.share:.1%} of {older} (at least {min(found.lower, found.within_lower):.1%}, trends taken away)"
        if found.measured
        else "Too few rows have both, or the older is constant there"
    )
    both_ways = "; they are copies" if min(found.share, found.backward) >= _DUPLICATE else ""
    return Finding(
        rule=rule,
        verdict=verdict,
        subject=f"{manifest.key} reads {older} beside {newer}",
        message=f"{newer} follows {older} ({why}). {explains}{both_ways}, and is there for {found.coverage:.1%} of its rows. {said}",
        evidence=(
            {
                "type": "succession",
                "older": older,
                "newer": newer,
                "why": why,
                "explained": found.share,
                "explained_lower": found.lower,
                "explained_within": found.within,
                "explained_within_lower": found.within_lower,
                "explained_backward": found.backward,
                "coverage": found.coverage,
                "measured": found.measured,
                "coverage_per_week": dict(found.weekly),
            },
        ),
        fix=f"take {older} out of reads of {manifest.key}" if (rule, verdict) == (LEGACY, Verdict.FLAGGED) else "",
        features=(older,),
    )


def _verdict(
    state: State, pair: tuple[str, str, str], found: Succession, report: Report | None
) -> tuple[Rule, Verdict, str]:
    older, newer, _ = pair
    start, end = Node("feature", older), Node("feature", newer)
    if start in state.graph and end in state.graph and state.graph.path((start,), (end,)) is not None:
        return LEGACY, Verdict.CLEARED, "The newer is computed from the older, which therefore cannot go."
    if not found.measured:
        return SUPERSEDED, Verdict.UNDETERMINED, "Superseded; whether it is redundant was not measured."
    if not (found.complete and found.redundant):
        why = "the newer does not say the same" if found.complete else f"it is needed where {newer} is null"
        return SUPERSEDED, Verdict.FLAGGED, f"Superseded, not yet redundant: {why}."
    judgement = report.about(older) if report and not report.stale else None
    if judgement is None or judgement.worth is Worth.UNDETERMINED:
        return (
            LEGACY,
            Verdict.UNDETERMINED,
            f"Whether the model loses without it was not decided: lineage evaluate --drop {older}.",
        )
    if judgement.worth is Worth.MATERIAL:
        return LEGACY, Verdict.CLEARED, "The model still gains by it."
    return (
        LEGACY,
        Verdict.FLAGGED,
        f"The model gains nothing by it ({judgement.reason}), and it is still declared and paid for.",
    )


def _stale_pins(state: State, allowed: float) -> Iterator[Finding]:
    made = {snapshot.revision: snapshot.committed_at for snapshot in commits_of(state)}
    for manifest in state.snapshot.consumers.values():
        for view in sorted({view_of(ref) for ref in manifest.features}):
            yield from _stale_pin(state.snapshot, manifest, view, made, state.now - allowed)


def _stale_pin(
    snapshot: Snapshot, manifest: Consumer, ref: str, made: dict[int, int], before: float
) -> Iterator[Finding]:
    pinned = snapshot.views.get(ref)
    if pinned is None:
        return
    later = [
        v
        for v in snapshot.views.values()
        if v.name == pinned.name and v.version > pinned.version and v.status == "live"
    ]
    since = [(made[v.created_revision], v.ref) for v in later if v.created_revision in made]
    if not since or min(since)[0] >= before:
        return
    at, newer = min(since)
    features = tuple(sorted(f for f in manifest.features if view_of(f) == ref))
    yield Finding(
        rule=STALE,
        verdict=Verdict.FLAGGED,
        subject=f"{manifest.key} stays with {ref}",
        message=f"{manifest.key} reads {ref}, and {newer} has been there since {written(at)[:10]}.",
        evidence=({"type": "version", "pinned": ref, "newer": newer, "since": at},),
        fix=f"featurestore promote {pinned.name} --move {manifest.key}",
        features=features,
    )
