"""The selection language: which objects a question is about.

    weather@v1:temp              an object, as everywhere
    +weather@v1:temp             it and what it is made from;  weather@v1:temp+  and what breaks
    2+weather@v1:temp+1          at most two edges up, one down
    view:weather.temp            kind:name; a feature may be written with a dot
    owner:risk  kind:feature  status:deprecated  tag:team=risk
    +delay_model@3 and kind:source and not owner:platform
    (owner:a or owner:b) and kind:view

An owner matches in whole, or up to its ``@``. ``and`` binds closer than ``or``, ``not`` closest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lineage.errors import InvalidQuestionError
from lineage.graph import Graph, Node
from lineage.impact import owner_of
from lineage.objects import resolve
from lineage.registry import view_of
from lineage.state import State

_TOKEN = re.compile(r"\s*(\(|\)|[^\s()]+)")
_TERM = re.compile(r"(?P<up>\d*\+)?(?P<object>[^+].*?)(?P<down>\+\d*)?")
_DEEPEST = 50  # brackets and `not` in each other
_WORDS = frozenset({"and", "or", "not", ")"})


def select(state: State, text: str) -> tuple[Node, ...]:
    """Return the objects that a selection means, sorted.

    Args:
        state: The registry and the usage.
        text: A selection as described above.

    Raises:
        InvalidQuestionError: It cannot be read; says where.
        NotFoundError: It names an object that is not there.
    """
    parser = _Parser(state, tuple(match[1] for match in _TOKEN.finditer(text)), text)
    return tuple(sorted(parser.parse()))


@dataclass(slots=True)
class _Parser:
    """Reads a selection from left to right; each step returns the nodes of what it has read."""

    state: State
    tokens: tuple[str, ...]
    text: str
    at: int = 0
    depth: int = 0

    def parse(self) -> frozenset[Node]:
        found = self._either()
        if self.at < len(self.tokens):
            raise self._wrong(f"'{self.tokens[self.at]}' is not expected")
        return found

    def _either(self) -> frozenset[Node]:
        found = self._both()
        while self._take("or"):
            found |= self._both()
        return found

    def _both(self) -> frozenset[Node]:
        found = self._one()
        while self._take("and"):
            found &= self._one()
        return found

    def _one(self) -> frozenset[Node]:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self._wrong(f"it is nested more than {_DEEPEST} times")
        found = self._inner()
        self.depth -= 1
        return found

    def _inner(self) -> frozenset[Node]:
        if self._take("not"):
            return frozenset(self.state.graph.nodes) - self._one()
        if self._take("("):
            found = self._either()
            if not self._take(")"):
                raise self._wrong("a ')' is missing")
            return found
        if self.at >= len(self.tokens) or self.tokens[self.at] in _WORDS:
            raise self._wrong("an object is missing")
        self.at += 1
        return frozenset(_term(self.state, self.tokens[self.at - 1]))

    def _take(self, word: str) -> bool:
        there = self.at < len(self.tokens) and self.tokens[self.at] == word
        self.at += there
        return there

    def _wrong(self, reason: str) -> InvalidQuestionError:
        return InvalidQuestionError(
            f"The selection '{self.text}' cannot be read: {reason}, at word {self.at + 1}.",
            repair="Write for example: +weather@v1:temp+ and owner:risk",
        )


def _term(state: State, text: str) -> Iterator[Node]:
    match = _TERM.fullmatch(text)
    if match is None:
        raise InvalidQuestionError(f"'{text}' is no object.", repair="Write weather@v1:temp, owner:risk or +weather+.")
    found = tuple(_named(state, match["object"]))
    yield from found
    if match["up"]:
        yield from state.graph.upstream(found, depth=_depth(match["up"][:-1])).nodes
    if match["down"]:
        yield from state.graph.downstream(found, depth=_depth(match["down"][1:])).nodes


def _depth(digits: str) -> int | None:
    return int(digits) if digits else None


def _named(state: State, text: str) -> Iterator[Node]:
    word, _, value = text.partition(":")
    filters: dict[str, Callable[[Node], bool]] = {
        "owner": lambda node: _owns(owner_of(state, node), value),
        "kind": lambda node: node.kind == value,
        "status": lambda node: (
            _view(node) in state.snapshot.views and state.snapshot.views[_view(node)].status == value
        ),
        "tag": lambda node: _is_tagged(state, node, value),
    }
    if value and word in filters:
        yield from filter(filters[word], state.graph.nodes)
        return
    if word in ("view", "feature") and "." in value and not _is_there(state.graph, word, value):
        text = value.replace(".", ":", 1)
    yield from resolve(text, state.graph).nodes


def _is_there(graph: Graph, kind: str, name: str) -> bool:
    return graph.nodes.find(Node(kind, name)) is not None


def _view(node: Node) -> str:
    return view_of(node.name) if node.kind in ("view", "feature") else ""


def _owns(owner: str, value: str) -> bool:
    return bool(owner) and value in (owner, owner.partition("@")[0])


def _is_tagged(state: State, node: Node, value: str) -> bool:
    key, _, wanted = value.partition("=")
    view = state.snapshot.views.get(_view(node))
    consumer = state.snapshot.consumers.get(node.name) if node.kind == "consumer" else None
    tags = view.tags if view else consumer.tags if consumer else {}
    return key in tags and (not wanted or tags[key] == wanted)
