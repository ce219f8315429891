"""Models that build on models: correction cascades, feedback loops, and what may be a loop through the world.

A prediction that flows into a feature, a label or a filter of what a model trains on is followed through every derivation, however long.
Versions of one model count as one: a loop most often closes over the next version.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lineage.evaluation.evidence import Report, reports_of
from lineage.evaluation.holdout import Effect, Holdout, read_holdouts
from lineage.evaluation.keys import predicted_keys, shared_keys, trained_keys
from lineage.evaluation.record import FOLDER
from lineage.findings.finding import Finding, Parameters, Rule, Verdict
from lineage.graph import Edge, Graph, Node
from lineage.registry import Consumer, ViewVersion, view_of
from lineage.state import State

LOOP = Rule("LN450", "direct_feedback_loop", "high", "A model is trained on, or reads, what it wrote.", default=False)
CASCADE = Rule("LN451", "correction_cascade", "medium", "A model builds on another model's predictions.", default=False)
HIDDEN = Rule("LN452", "hidden_loop_candidate", "info", "Models act on and read the same entities.", default=False)
AFFECTS = Rule(
    "LN453", "hidden_loop", "medium", "A holdout shows that a model acts on what another reads.", default=False
)
RULES = (LOOP, CASCADE, HIDDEN, AFFECTS)

_INDIRECT = ("derives_indirect", "derives_opaque")
_BULK = 0.5  # of a model's gain over a constant, which a score carries if it is lost without the score
_STAGES = ("calibration", "ranking", "ensemble")  # tag ``stage``: builds on predictions on purpose


@dataclass(frozen=True, slots=True)
class _Models:
    """The graph with the versions of each model as one node.

    Attributes:
        graph: Every object; a model under its name alone.
        manifests: Name of a model -> its manifests.
        onto: Model -> the models that its predictions reach without passing another model.
    """

    graph: Graph
    manifests: Mapping[str, tuple[Consumer, ...]]
    onto: Mapping[str, frozenset[str]]


def cascades(state: State, parameters: Parameters) -> Iterator[Finding]:  # noqa: ARG001 - the form of every finding
    """Yield a finding per loop, per model that builds on another, and per pair of models that share entities.

    Args:
        state: The registry and the usage.
        parameters: Nothing of it is used.
    """
    models = _collapsed(state)
    yield from _loops(models)
    yield from _cascades(state, models)
    yield from _hidden(state, models)


def _collapsed(state: State) -> _Models:
    manifests: dict[str, list[Consumer]] = {}
    for manifest in state.snapshot.consumers.values():
        manifests.setdefault(manifest.name, []).append(manifest)
    found = [edge for edge in state.graph.edges if "principal" not in (edge.upstream.kind, edge.downstream.kind)]
    edges = [Edge(_one(edge.upstream), _one(edge.downstream), edge.kind) for edge in found]
    graph = Graph([node for edge in edges for node in (edge.upstream, edge.downstream)], edges)
    is_model = {name: tuple(of) for name, of in manifests.items() if any(m.kind == "model" for m in of)}
    passed = {"source", "column", "request", "view", "feature", "service", "dataset"}
    jobs = {name for name in manifests if name not in is_model}
    onto = {name: _reached(graph, name, is_model, jobs, passed) for name in is_model}
    return _Models(graph, is_model, onto)


def _one(node: Node) -> Node:
    return Node("consumer", node.name.partition("@")[0]) if node.kind == "consumer" else node


def _reached(graph: Graph, name: str, models: Mapping[str, object], jobs: set[str], passed: set[str]) -> frozenset[str]:
    """Return the models that what one writes reaches; jobs that only carry it on are passed."""
    waiting, seen, found = [Node("consumer", name)], {name}, set()
    while waiting:
        start = waiting.pop()
        if start not in graph:
            continue
        written = [edge.downstream for edge in graph.out_of(start) if edge.kind == "produces"]
        closure = graph.downstream(written, through=passed).nodes if written else ()
        for node in closure:
            if node.kind == "consumer":
                if node.name in models:
                    found.add(node.name)
                elif node.name in jobs and node.name not in seen:
                    seen.add(node.name)
                    waiting.append(node)
    return frozenset(found)


def _model_graph(models: _Models) -> Graph:
    nodes = [Node("consumer", name) for name in models.manifests]
    pairs = ((a, b) for a, reached in models.onto.items() for b in reached)
    return Graph(nodes, [Edge(Node("consumer", a), Node("consumer", b), "produces") for a, b in pairs])


def _loops(models: _Models) -> Iterator[Finding]:
    graph = _model_graph(models)
    for component in graph.components():
        for node in component:
            ring = [edge.upstream.name for edge in graph.way_round(node)]
            if ring and node.name == min(ring):
                yield _loop(models, ring)


def _loop(models: _Models, ring: Sequence[str]) -> Finding:
    way = [edge for a, b in zip(ring, [*ring[1:], ring[0]], strict=True) for edge in _way(models.graph, a, b)]
    owners = sorted({manifest.owner for name in ring for manifest in models.manifests[name] if manifest.owner})
    kind = "a filter or key" if any(edge.kind in _INDIRECT for edge in way) else "a feature"
    if any(edge.kind == "trains_on" for edge in way):
        kind += " of what it trains on"
    text = " -> ".join([ring[0], *(str(edge.downstream) for edge in way)])
    return Finding(
        rule=LOOP,
        verdict=Verdict.FLAGGED,
        subject=f"loop of {', '.join(ring)}",
        message=f"What {ring[0]} predicts comes back to it as {kind}: {text}.",
        evidence=(
            {
                "type": "loop",
                "models": list(ring),
                "length": len(way),
                "owners": owners,
                "edges": [str(edge) for edge in way],
                "cut": str(next((edge for edge in way if edge.kind.startswith("reads")), way[-1])),
            },
        ),
        fix="train on rows that the model did not choose (a random holdout), or cut the edge named in the evidence",
        features=tuple(edge.upstream.name for edge in way if edge.kind == "reads_declared"),
    )


def _way(graph: Graph, start: str, end: str) -> tuple[Edge, ...]:
    """Return a shortest way from a model to another, or round to itself."""
    node = Node("consumer", start)
    return graph.way_round(node) if start == end else graph.path([node], [Node("consumer", end)]) or ()


def _cascades(state: State, models: _Models) -> Iterator[Finding]:
    reports = {report.model: report for report in reports_of(state)}
    feeding: dict[str, set[str]] = {name: set() for name in models.manifests}
    for a, reached in models.onto.items():
        for b in reached - {a}:
            feeding[b].add(a)
    for name, chain in sorted(_chains(models, feeding).items()):
        if feeding[name]:
            yield _cascade(models, feeding, chain, tuple(_carried(models, name, feeding[name], reports)))


def _carried(
    models: _Models, name: str, feeding: Iterable[str], reports: Mapping[str, Report]
) -> Iterator[dict[str, Any]]:
    """Yield what each score that a model reads directly brings it, where that was evaluated."""
    written = {view for a in feeding for manifest in models.manifests[a] for view in manifest.writes}
    for manifest in models.manifests[name]:
        report = reports.get(manifest.key)
        for ref in sorted(manifest.features) if report and not report.stale else ():
            judged = report.about(ref) if report and view_of(ref) in written else None
            if report and judged:
                whole = report.record_of(judged).whole_gain
                share = {"share": judged.mean / whole, "share_lower": judged.lower / whole} if whole > 0 else {}
                yield {"model": manifest.key, "score": ref, "worth": str(judged.worth), "gain": judged.mean, **share}


def _carries(carried: Sequence[Mapping[str, Any]]) -> str:
    """Say how much of a model's gain the scores carry: the bulk is more than half."""
    known = [one for one in carried if "share" in one]
    said = [f"{one['score']} alone carries {max(one['share'], 0.0):.0%} of what {one['model']} gains" for one in known]
    bulk = any(one["share_lower"] > _BULK for one in known)
    return f"{'; '.join(said)}{', the bulk of it' if bulk else ''}. " if said else ""


def _cascade(
    models: _Models, feeding: Mapping[str, set[str]], chain: Sequence[str], carried: Sequence[Mapping[str, Any]]
) -> Finding:
    name = chain[-1]
    stage = next((m.tags["stage"] for m in models.manifests[name] if m.tags.get("stage") in _STAGES), "")
    alone = _is_wrapper(models, name)
    on_purpose = stage or ("calibration" if alone else "")
    labels = {m.label for m in models.manifests[name]} - {""}
    corrected = sorted(a for a in feeding[name] if labels & {m.label for m in models.manifests[a]})
    way = _way(models.graph, chain[-2], name)
    kind = f"It corrects {corrected[0]}: both predict {min(labels)}. " if corrected else ""
    said = f" That is its purpose ({on_purpose})." if on_purpose else ""
    return Finding(
        rule=CASCADE,
        verdict=Verdict.CLEARED if on_purpose else Verdict.FLAGGED,
        subject=f"{name} builds on {', '.join(sorted(feeding[name]))}",
        message=f"{name} reads predictions, {len(chain) - 1} deep: {' -> '.join(chain)}. {kind}{_carries(carried)}".strip()
        + said,
        evidence=(
            {
                "type": "cascade",
                "chain": list(chain),
                "depth": len(chain) - 1,
                "corrects": corrected,
                "carried": [dict(one) for one in carried],
                "edges": [str(edge) for edge in way],
            },
        ),
        fix=""
        if on_purpose
        else "let the first model learn the distinction, or train a separate one; an ensemble says stage in its tags",
        features=tuple(edge.upstream.name for edge in way if edge.kind == "reads_declared"),
    )


def _chains(models: _Models, feeding: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """Return a longest chain of models that ends in each; models on one loop are no longer chain of each other."""
    loop = {node.name: place for place, ring in enumerate(_model_graph(models).components()) for node in ring}
    chains: dict[str, list[str]] = {}
    waiting = sorted(feeding)
    while waiting:
        name = waiting[-1]
        outside = [a for a in sorted(feeding[name]) if name not in loop or loop.get(a) != loop[name]]
        if missing := [a for a in outside if a not in chains]:
            waiting += missing
            continue
        waiting.pop()
        chains[name] = [*max((chains[a] for a in outside), key=len, default=[]), name]
    for name, inside in feeding.items():
        if len(chains[name]) == 1 and inside:
            chains[name] = [min(inside), name]
    return chains


def _is_wrapper(models: _Models, name: str) -> bool:
    """Say whether a model reads one prediction and nothing else."""
    written = {view for of in models.manifests.values() for manifest in of for view in manifest.writes}
    reads = {ref for manifest in models.manifests[name] for ref in manifest.features}
    return len(reads) == 1 and next(iter(reads)).partition(":")[0] in written


def _hidden(state: State, models: _Models) -> Iterator[Finding]:
    """Yield what holdouts say, and pairs without any way of data between them, of which one acts on entities that the other reads about."""
    held = {(one.acts, one.reads): one for one in read_holdouts(state.path.parent / FOLDER.name, until=state.now)}
    yield from (_held(one) for one in held.values())
    for a in sorted(models.manifests):
        written = _views(state, (view for m in models.manifests[a] for view in m.writes))
        for b in sorted(models.manifests):
            if b in models.onto[a] or a == b or (a, b) in held:
                continue
            read = _views(state, (view_of(ref) for m in models.manifests[b] for ref in m.features))
            if shared := {view.entity for view in written} & {view.entity for view in read}:
                acts = [view for view in written if view.entity in shared]
                yield _candidate(a, b, acts, _overlap(state, acts, models.manifests[b]))


def _views(state: State, refs: Iterator[str]) -> list[ViewVersion]:
    """Return the views with an entity among some references, each once."""
    found = (state.snapshot.views.get(ref) for ref in dict.fromkeys(refs))
    return [view for view in found if view is not None and view.entity]


@dataclass(frozen=True, slots=True)
class _Overlap:
    """Keys that one model predicted for, keys that another was trained on, and how many are both; None where files do not say."""

    predicted: int | None
    trained: int | None
    shared: int | None
    served: int  # rows of the shared entities that the second model was served


def _overlap(state: State, acts: Sequence[ViewVersion], readers: Sequence[Consumer]) -> _Overlap:
    predicted, trained, shared = 0, 0, 0
    known = [False, False]
    for view in acts:
        if (keys := predicted_keys(state, view)) is None:
            continue
        known[0], predicted = True, predicted + keys.num_rows
        for manifest in readers:
            if (others := trained_keys(state, manifest, view.join_keys)) is not None:
                known[1], trained, shared = True, trained + others.num_rows, shared + shared_keys(keys, others)
    return _Overlap(
        predicted if known[0] else None,
        trained if known[1] else None,
        shared if all(known) else None,
        _served(state, {view.entity for view in acts}, readers),
    )


def _served(state: State, entities: set[str | None], readers: Sequence[Consumer]) -> int:
    views = {ref for ref, view in state.snapshot.views.items() if view.entity in entities}
    reads = state.usage.reads(consumers={manifest.key for manifest in readers})
    return sum(read.entity_rows for read in reads if read.served and view_of(read.feature) in views)


def _candidate(a: str, b: str, acts: Sequence[ViewVersion], overlap: _Overlap) -> Finding:
    entities = sorted({str(view.entity) for view in acts})
    apart = overlap.shared == 0
    whole = overlap.predicted is not None and overlap.trained is not None
    if apart:
        said = f"So far no key is both: {overlap.predicted:,} were predicted for, and {b} was trained on {overlap.trained:,} others."
    elif whole:
        said = f"{overlap.shared:,} of {overlap.predicted:,} keys that it predicted for are among those that {b} was trained on."
    else:
        said = "Which keys they have in common is not known: " + (
            f"{a} has written none." if overlap.predicted is None else f"no saved dataset of {b} has them."
        )
    more = (
        ""
        if apart
        else " Whether acting on the one changes the other cannot be seen from records: only a random holdout of the first model says so."
    )
    return Finding(
        rule=HIDDEN,
        verdict=Verdict.CLEARED if apart else Verdict.UNDETERMINED,
        subject=f"{a} may act on what {b} reads",
        message=f"{a} predicts for the entity {entities[0]}, and {b} reads features of the same. {said}{more}",
        evidence=(
            {
                "type": "shared_entities",
                "acts": a,
                "reads": b,
                "entities": entities,
                "level": "L0 candidate",
                "keys_predicted": overlap.predicted,
                "keys_trained_on": overlap.trained,
                "keys_shared": overlap.shared,
                "rows_served": overlap.served,
            },
        ),
        fix=""
        if apart
        else f"leave the decisions of {a} to chance for a random part of {entities[0]}, then: lineage holdout {a} {b} FILE",
    )


def _held(holdout: Holdout) -> Finding:
    """Say what a randomised holdout showed."""
    changed = [effect for effect in holdout.effects if effect.affects]
    decided = [effect for effect in holdout.effects if not effect.problem]
    if changed:
        said = f"{holdout.acts} affects what {holdout.reads} reads: " + "; ".join(map(_said, changed))
    elif decided:
        said = f"No effect of {holdout.acts} on what {holdout.reads} reads was seen; it may be as large as the bounds: "
        said += "; ".join(map(_said, decided))
    else:
        said = f"The holdout of {holdout.acts} says nothing: {holdout.effects[0].problem}"
    return Finding(
        rule=AFFECTS,
        verdict=Verdict.FLAGGED if changed else Verdict.UNDETERMINED,
        subject=f"{holdout.acts} acts on what {holdout.reads} reads",
        message=f"{said}. The arms were made by: {holdout.randomised_by}.",
        evidence=({"type": "holdout", "level": "L3 randomised", **holdout.document()},),
        fix=f"train {holdout.reads} on rows that {holdout.acts} did not decide about, or keep the holdout"
        if changed
        else "",
    )


def _said(effect: Effect) -> str:
    return (
        f"{effect.outcome} by {effect.difference:.3g} ({effect.lower:.3g} to {effect.upper:.3g} at 95 %, p = {effect.p:.2g}, "
        f"{effect.treated:,} treated and {effect.control:,} others)"
    )
