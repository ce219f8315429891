"""How objects are written: ``weather``, ``weather@v1``, ``weather@v1:temp``, ``delay_model``, ``delay_model@3``, ``source:weather``.

A name without a version means every version. Where several kinds of object have the name that was written, the first kind in
`PRECEDENCE` is meant, and the answer says what else there is; ``kind:name`` always says which one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lineage.errors import NotFoundError
from lineage.graph import Graph, Node
from lineage.registry import feature_in, without_alias

PRECEDENCE = ("feature", "view", "consumer", "service", "dataset", "source", "column", "request", "principal")
_PREFIXES = {**{kind: kind for kind in PRECEDENCE}, "model": "consumer"}


@dataclass(frozen=True, slots=True)
class Target:
    """What a question is about.

    Attributes:
        text: As it was written.
        kind: The kind it was taken as.
        nodes: The nodes it means: one, or every version of a name.
        others: Other objects of that name, as they must be written.
    """

    text: str
    kind: str
    nodes: tuple[Node, ...]
    others: tuple[str, ...] = ()


def resolve(text: str, graph: Graph, *, kinds: Iterable[str] = PRECEDENCE) -> Target:
    """Find what was written.

    Args:
        text: An object as people write it.
        graph: Where to look.
        kinds: Kinds that may be meant.

    Raises:
        NotFoundError: There is no such object; it says the nearest name.

    >>> graph = Graph([Node("view", "weather@v1"), Node("source", "weather")], [])
    >>> target = resolve("weather", graph)
    >>> target.kind, target.others
    ('view', ('source:weather',))
    """
    allowed = tuple(kinds)
    prefix, _, rest = text.partition(":")
    if rest and _PREFIXES.get(prefix) in allowed and (found := _named(rest, graph, (_PREFIXES[prefix],))):
        return _target(text, found)
    found = _named(without_alias(text), graph, allowed)
    if not found:
        raise NotFoundError.of("object", text, _spellings_of(graph, allowed))
    return _target(text, found)


def with_parts(graph: Graph, target: Target) -> tuple[Node, ...]:
    """Return the nodes of a target, and of a view its features too: a view on demand is made from what they are made from.

    >>> from lineage.graph import Edge
    >>> view, feature = Node("view", "heat@v1"), Node("feature", "heat@v1:index")
    >>> graph = Graph([], [Edge(view, feature, "contains")])
    >>> [str(node) for node in with_parts(graph, resolve("heat", graph))]
    ['heat@v1', 'heat@v1:index']
    """
    if target.kind != "view":
        return target.nodes
    parts = (edge.downstream for node in target.nodes for edge in graph.out_of(node) if edge.kind == "contains")
    return tuple(dict.fromkeys((*target.nodes, *parts)))


def _target(text: str, found: dict[str, list[Node]]) -> Target:
    kind = next(kind for kind in PRECEDENCE if kind in found)
    others = (f"{other}:{without_alias(text)}" for other in PRECEDENCE if other in found and other != kind)
    return Target(text, kind, tuple(found[kind]), tuple(others))


def _named(name: str, graph: Graph, kinds: tuple[str, ...]) -> dict[str, list[Node]]:
    found: dict[str, list[Node]] = {}
    for kind in kinds:
        if nodes := [node for node in _candidates(name, graph, kind) if name in spellings(node)]:
            found[kind] = nodes
    return found


def _candidates(name: str, graph: Graph, kind: str) -> Iterator[Node]:
    """Yield the nodes of a kind that may be written so; only those that begin like it are looked at."""
    exact = Node(kind, name)
    if exact in graph:
        yield exact
        return
    match kind:
        case "feature":
            yield from graph.nodes.starting(kind, f"{name.partition(':')[0]}@v")
        case "view" | "consumer":
            yield from graph.nodes.starting(kind, f"{name.removesuffix('@*')}@")


def spellings(node: Node) -> tuple[str, ...]:
    """Return every way to write a node without its kind.

    >>> spellings(Node("feature", "weather@v1:temp"))
    ('weather@v1:temp', 'weather:temp')
    """
    match node.kind:
        case "feature":
            return node.name, feature_in(node.name)
        case "view":
            return node.name, node.name.partition("@")[0]
        case "consumer" if "@" in node.name:
            model = node.name.partition("@")[0]
            return node.name, model, f"{model}@*"
        case _:
            return (node.name,)


def completions(graph: Graph, beginning: str, *, limit: int = 50) -> list[str]:
    """Return how objects may be written that begin with a text, for a shell.

    Args:
        graph: Where to look.
        beginning: What was written so far; ``kind:`` first looks among that kind alone.
        limit: The most that is returned.

    >>> completions(Graph([Node("view", "weather@v1"), Node("source", "weather")], []), "wea")
    ['weather', 'weather@v1']
    """
    prefix, _, rest = beginning.partition(":")
    kind = _PREFIXES.get(prefix) if ":" in beginning else None
    if kind is not None and prefix not in ("view", "feature"):
        return [
            f"{prefix}:{node.name}" for node, _ in zip(graph.nodes.starting(kind, rest), range(limit), strict=False)
        ]
    found: set[str] = set()
    for kind in PRECEDENCE:
        for node in graph.nodes.starting(kind, beginning.partition(":")[0].partition("@")[0]):
            found.update(text for text in spellings(node) if text.startswith(beginning))
            if len(found) >= limit:
                return sorted(found)[:limit]
    return sorted(found)


def _spellings_of(graph: Graph, kinds: tuple[str, ...]) -> set[str]:
    plain = {spelling for node in graph.nodes if node.kind in kinds for spelling in spellings(node)}
    return plain | {str(node) for node in graph.nodes if node.kind in kinds}
