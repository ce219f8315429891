"""Models that build on models: correction cascades, feedback loops, and what may be a loop through the world.

A prediction that flows into a feature, a label or a filter of what a model trains on is followed through every derivation, however long.
Versions of one model count as one: a loop most often closes over the next version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lineage.findings.finding import Finding, Parameters, Rule, Verdict
from lineage.graph import Edge, Graph, Node
from lineage.registry import Consumer
from lineage.state import State

LOOP = Rule("LN450", "direct_feedback_loop", "high", "A model is trained on, or reads, what it wrote.", default=False)
CASCADE = Rule("LN451", "correction_cascade", "medium", "A model builds on another model's predictions.", default=False)
HIDDEN = Rule("LN452", "hidden_loop_candidate", "info", "Models act on and read the same entities.", default=False)
RULES = (LOOP, CASCADE, HIDDEN)

_INDIRECT = ("derives_indirect", "derives_opaque")
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
    yield from _cascades(models)
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


def _cascades(models: _Models) -> Iterator[Finding]:
    feeding: dict[str, set[str]] = {name: set() for name in models.manifests}
    for a, reached in models.onto.items():
        for b in reached - {a}:
            feeding[b].add(a)
    for name, chain in sorted(_chains(models, feeding).items()):
        if feeding[name]:
            yield _cascade(models, feeding, chain)


def _cascade(models: _Models, feeding: Mapping[str, set[str]], chain: Sequence[str]) -> Finding:
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
        message=f"{name} reads predictions, {len(chain) - 1} deep: {' -> '.join(chain)}. {kind}".strip() + said,
        evidence=(
            {
                "type": "cascade",
                "chain": list(chain),
                "depth": len(chain) - 1,
                "corrects": corrected,
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
    """Yield pairs without any way of data between them, of which one acts on entities that the other reads about."""
    for a in sorted(models.manifests):
        acts = _entities(state, (view for m in models.manifests[a] for view in m.writes))
        for b in sorted(models.manifests):
            if b in models.onto[a] or a == b:
                continue
            shared = acts & _entities(state, (ref.partition(":")[0] for m in models.manifests[b] for ref in m.features))
            if shared:
                yield _candidate(a, b, sorted(shared))


def _entities(state: State, views: Iterator[str]) -> set[str]:
    return {view.entity for ref in views if (view := state.snapshot.views.get(ref)) is not None and view.entity}


def _candidate(a: str, b: str, shared: Sequence[str]) -> Finding:
    return Finding(
        rule=HIDDEN,
        verdict=Verdict.UNDETERMINED,
        subject=f"{a} may act on what {b} reads",
        message=(
            f"{a} predicts for the entity {shared[0]}, and {b} reads features of the same. Whether acting on the one changes the other "
            "cannot be seen from records: only a random holdout of the first model says so."
        ),
        evidence=(
            {"type": "shared_entities", "acts": a, "reads": b, "entities": list(shared), "level": "L0 candidate"},
        ),
        fix=f"leave the decisions of {a} to chance for a random part of {shared[0]}, and compare the features of the two parts",
    )
