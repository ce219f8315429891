"""What operators, slices and comparisons make of what is known."""

from __future__ import annotations

import ast

from lineage.scan import values as v
from lineage.scan.values import Atom, Constant, Entries, Foreign, Items, Text, Value


def operate(op: ast.operator, one: Atom, other: Atom) -> Value:  # noqa: PLR0911 - one answer for each operator
    """Return what an operator makes of two atoms."""
    match op, one, other:
        case ast.Add(), Text(), _:
            return v.concatenated([(one,), (other,)])
        case ast.Add(), _, Text():
            return v.concatenated([(one,), (other,)])
        case ast.Div(), Text(), _:
            return v.concatenated([(one,), (other,)], Text("/"))
        case ast.Div(), _, Text() if isinstance(one, Foreign):
            return v.concatenated([(one,), (other,)], Text("/"))
        case ((ast.Add() | ast.BitOr()), Items(), _):
            items = Items(list(one.items), one.complete)
            v.extend(items, [(other,)])
            return (items,)
        case ast.Add(), _, Items():
            items = Items([(derived(one, "[]"),)])
            v.extend(items, [(other,)])
            return (items,)
        case ast.Sub(), Items(), Items():
            gone = {a.text for value in other.items for a in value if isinstance(a, Text)}
            kept = [x for x in one.items if not all(isinstance(a, Text) and a.text in gone for a in x)]
            return (Items(kept, one.complete),)
        case ast.BitOr(), Entries(), Entries():
            return (Entries({**one.entries, **other.entries}, one.complete and other.complete),)
        case _, Constant(), Constant():
            return (Foreign("?number"),)
        case _:
            return (derived(one if isinstance(one, Foreign) else other, "+"),)


def put(owner: Atom, index: Value, value: Value) -> None:
    """Set an element of a collection."""
    if not isinstance(owner, Entries):
        if isinstance(owner, Items):
            owner.add(value)
        return
    for atom in index:
        key = v.entry_key(atom)
        if key is None:
            owner.complete = False
        else:
            owner.entries[key] = value


def derived(atom: Atom, step: str) -> Foreign:
    """Return the unknown that a step from an atom leads to."""
    if isinstance(atom, Foreign):
        return atom.then(step)
    leaf = next((x for x in v.leaves_of((atom,)) if isinstance(x, Foreign)), None)
    return Foreign(f"?{step}", leaf.causes if leaf else frozenset(), root=leaf)


def sliced(owner: Atom, node: ast.Slice) -> Value:
    """Return a slice; all there is where its bounds are not known."""
    bounds = _bounds(node)
    if bounds is not None and isinstance(owner, Items) and owner.complete:
        return (Items(owner.items[bounds]),)
    if bounds is not None and isinstance(owner, Text) and owner.known:
        return (v.folded(owner.text[bounds], owner),)
    return (owner if isinstance(owner, Items) else derived(owner, "[:]"),)


def _bounds(node: ast.Slice) -> slice | None:
    found: list[int | None] = []
    for part in (node.lower, node.upper, node.step):
        known = ast.literal_eval(part) if isinstance(part, (ast.Constant, ast.UnaryOp)) and _is_number(part) else None
        if part is not None and not isinstance(known, int):
            return None
        found.append(known)
    return slice(*found)


def _is_number(node: ast.expr) -> bool:
    inner = node.operand if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) else node
    return isinstance(inner, ast.Constant) and isinstance(inner.value, int)


def compared(op: ast.cmpop, left: Atom, right: Atom) -> bool | None:
    """Return what a comparison gives; None when it is not known."""
    one, other = _plain(left), _plain(right)
    if one is ... or (other is ... and not isinstance(right, (Items, Entries))):
        return None
    match op:
        case ast.Eq():
            return None if other is ... else bool(one == other)
        case ast.NotEq():
            return None if other is ... else bool(one != other)
        case ast.In() | ast.NotIn():
            found = _contains(right, one)
            return None if found is None else found is isinstance(op, ast.In)
        case _:
            return None


def _contains(right: Atom, one: object) -> bool | None:
    if isinstance(right, Text) and isinstance(one, str):
        return one in right.text
    elements, complete = v.elements_of(right)
    known = [_plain(element[0]) if len(element) == 1 else ... for element in elements]
    if one in known:
        return True
    return False if complete and ... not in known else None


def _plain(atom: Atom) -> object:
    match atom:
        case Text() if atom.known:
            return atom.text
        case Constant():
            return atom.value
        case _:
            return ...
