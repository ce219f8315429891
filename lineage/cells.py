"""Declared, in the code, observed: the eight ways in which the three can agree, per consumer and feature version.

What is in the code comes from scans that were imported (``lineage import scan``). A reference counts for the consumer that the code
names; else for the consumer whose manifest names its folder (``tags={"code": "services/delay"}``); else for every consumer that
names no folder.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from lineage.consumers import Relation, Standing
from lineage.graph import Node
from lineage.imported import CodeReference
from lineage.objects import resolve
from lineage.registry import feature_in, without_alias
from lineage.state import State


class Cell(StrEnum):
    """What declared, coded and observed say together."""

    HEALTHY = "healthy"
    """Declared, in the code, and read."""
    DEAD_DECLARATION = "dead_declaration"
    """Only declared."""
    DORMANT_REFERENCE = "dormant_reference"
    """Only in the code."""
    UNDECLARED_UNKNOWN_CODE = "undeclared_unknown_code"
    """Only read: by code that no scan has seen. The worst one."""
    CODED_NOT_RUNNING = "coded_not_running"
    """Declared and in the code, and not read."""
    CODE_ELSEWHERE = "code_elsewhere"
    """Declared and read, by code that no scan has seen."""
    UNDECLARED_LOCATED = "undeclared_located"
    """In the code and read, and not declared: the place is known."""
    ABSENT = "absent"
    """None of the three."""


_CELLS = {
    (True, True, True): Cell.HEALTHY,
    (True, False, False): Cell.DEAD_DECLARATION,
    (False, True, False): Cell.DORMANT_REFERENCE,
    (False, False, True): Cell.UNDECLARED_UNKNOWN_CODE,
    (True, True, False): Cell.CODED_NOT_RUNNING,
    (True, False, True): Cell.CODE_ELSEWHERE,
    (False, True, True): Cell.UNDECLARED_LOCATED,
    (False, False, False): Cell.ABSENT,
}
FIXES = {
    Cell.HEALTHY: "",
    Cell.DEAD_DECLARATION: "take it out of the manifest",
    Cell.DORMANT_REFERENCE: "delete the code, or declare its consumer",
    Cell.UNDECLARED_UNKNOWN_CODE: "find the program by its principal and client, then `lineage declare` it",
    Cell.CODED_NOT_RUNNING: "start the program, or delete its code and its manifest line",
    Cell.CODE_ELSEWHERE: "scan the repository that runs it: `lineage scan`, then `lineage import scan`",
    Cell.UNDECLARED_LOCATED: "declare it: the place in the code is known",
    Cell.ABSENT: "",
}


@dataclass(frozen=True, slots=True)
class Agreement:
    """One consumer and one feature version.

    Attributes:
        consumer: The reader; the repository in brackets when only its code is known.
        known: Whether "not read" is certain; False leaves the cells without a read open.
        references: Where it is in the code.
    """

    consumer: str
    feature: str
    cell: Cell
    known: bool
    references: tuple[CodeReference, ...] = ()

    @property
    def fix(self) -> str:
        """What settles it; empty when there is nothing to do."""
        return FIXES[self.cell]


def cell_of(*, declared: bool, coded: bool, observed: bool) -> Cell:
    """Return the name of one combination.

    >>> str(cell_of(declared=True, coded=False, observed=True))
    'code_elsewhere'
    """
    return _CELLS[declared, coded, observed]


def agreements(state: State, text: str = "") -> tuple[Agreement, ...]:
    """Return the cell of every consumer and feature version that is declared, in the code, or read.

    Args:
        state: The registry, the usage and the imported scans.
        text: A feature, view or consumer as people write it; empty is everything.

    Raises:
        NotFoundError: There is no such object.
    """
    wanted = _wanted(state, text)
    found = [
        a for a in (*_of_readers(state), *_of_code_alone(state)) if wanted is None or wanted & {a.feature, a.consumer}
    ]
    return tuple(sorted(found, key=lambda agreement: (agreement.consumer, agreement.feature)))


def _wanted(state: State, text: str) -> set[str] | None:
    if not text:
        return None
    from lineage.consumers import features_of

    target = resolve(text, state.graph)
    readers = {"consumer", "principal"}
    return {str(n) for n in target.nodes} if target.kind in readers else set(features_of(state, target.nodes))


def _of_readers(state: State) -> Iterator[Agreement]:
    grouped: dict[tuple[Node, str], list[Relation]] = {}
    for relation in state.relations:
        grouped.setdefault((relation.reader.node, relation.feature), []).append(relation)
    for (node, feature), relations in grouped.items():
        declared = feature in state.declared.get(node.name, ())
        observed = any(relation.calls for relation in relations)
        references = code_of(state, node.name, [feature])
        cell = cell_of(declared=declared, coded=bool(references), observed=observed)
        known = observed or all(r.standing is not Standing.UNDETERMINED for r in relations)
        if cell is not Cell.ABSENT:
            yield Agreement(str(node), feature, cell, known, references)


def _of_code_alone(state: State) -> Iterator[Agreement]:
    """Yield what the code names and no reader of it declares or reads."""
    taken = {relation.feature for relation in state.relations}
    alone: dict[tuple[str, str], list[CodeReference]] = {}
    for reference in state.records.references:
        for feature in features_named(state, reference):
            reader = owner_of_code(state, reference)
            known = feature in (state.declared.get(reader, frozenset()) if reader else taken)
            known = known or any(r.feature == feature and r.reader.node.name == reader for r in state.relations)
            if not known:
                alone.setdefault((reader or f"({reference.repository})", feature), []).append(reference)
    complete = state.usage.coverage().complete
    for (reader, feature), references in alone.items():
        yield Agreement(reader, feature, Cell.DORMANT_REFERENCE, complete, tuple(references))


def code_of(state: State, consumer: str, features: Collection[str]) -> tuple[CodeReference, ...]:
    """Return where the code that may be a consumer's names any of some feature versions."""
    wanted = frozenset(features)
    return tuple(
        reference
        for reference in state.records.references
        if owner_of_code(state, reference) in ("", consumer) and wanted & features_named(state, reference)
    )


def owner_of_code(state: State, reference: CodeReference) -> str:
    """Return the consumer that a place in code belongs to; empty when nothing says so."""
    if reference.consumer:
        return reference.consumer
    place = f"{reference.repository}/{reference.file}"
    folders = {
        key: manifest.tags["code"].strip("/")
        for key, manifest in state.snapshot.consumers.items()
        if manifest.tags.get("code")
    }
    inside = [key for key, folder in folders.items() if _is_in(folder, place) or _is_in(folder, reference.file)]
    return max(inside, key=lambda key: (len(folders[key]), key), default="")


def _is_in(folder: str, place: str) -> bool:
    return place == folder or place.startswith(f"{folder}/")


def features_named(state: State, reference: CodeReference) -> frozenset[str]:
    """Return the feature versions that a reference in code means; a name without a version means the current one."""
    ref = without_alias(reference.ref)
    match reference.kind:
        case "service":
            service = state.snapshot.services.get(ref)
            return frozenset(map(without_alias, service.features)) if service else frozenset()
        case "feature" | "view":
            return frozenset(_features_of_text(state, ref))
        case _:
            return frozenset()


def _features_of_text(state: State, ref: str) -> Iterable[str]:
    view, _, name = ref.partition(":")
    plain, _, number = view.partition("@v")
    version = number or state.snapshot.current.get(plain, "")
    found = state.snapshot.views.get(f"{plain}@v{version}")
    for feature in found.features if found else ():
        if not name or feature_in(feature.ref) == f"{plain}:{name}":
            yield feature.ref
