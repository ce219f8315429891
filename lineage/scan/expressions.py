"""What an expression can stand for: names and constants are followed through operators, containers, attributes and comprehensions."""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

from lineage.scan import values as v
from lineage.scan.calls import Arguments
from lineage.scan.operators import compared, derived, operate, put, sliced
from lineage.scan.parameters import Function, decorators, is_class_method, is_static
from lineage.scan.run import UNROLLED, Run
from lineage.scan.values import (
    Atom,
    Constant,
    Entries,
    Foreign,
    Instance,
    Items,
    Kind,
    Method,
    Module,
    Routine,
    Scope,
    Text,
    Value,
    joined,
)


class Expressions(Run, ABC):
    """Evaluates expressions, and binds what they give to names."""

    def __init__(self) -> None:
        super().__init__()
        self._routines: dict[str, list[Routine]] = {}
        self._defined: set[int] = set()

    @abstractmethod
    def call(
        self, target: Atom, arguments: Arguments, node: ast.AST, nodes: tuple[ast.expr, ...], file: str = ""
    ) -> Value:
        """Return what a call gives, and tell of what it reads."""

    def value(self, node: ast.expr, scope: Scope) -> Value:
        """Return what an expression can stand for, and tell of every read inside it."""
        handler = self.evaluated.get(type(node))
        if handler is not None:
            return handler(self, node, scope)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.value(child, scope)
        return (Foreign(type(node).__name__),)

    def _constant(self, node: ast.Constant, scope: Scope) -> Value:
        if isinstance(node.value, str):
            return (Text(node.value, scope.file, (node.lineno, node.col_offset)),)
        return (Constant(node.value),)

    def _name(self, node: ast.Name, scope: Scope) -> Value:
        found = scope.find(node.id)
        return found if found is not None else (Foreign(node.id),)

    # Attributes and elements

    def _get(self, node: ast.Attribute, scope: Scope) -> Value:
        return joined(*(self._attribute(owner, node.attr) for owner in self.value(node.value, scope)))

    def _attribute(self, owner: Atom, name: str) -> Value:  # noqa: PLR0911 - one answer for each kind of atom
        match owner:
            case Foreign():
                return (owner.then(f".{name}"),)
            case Module():
                return owner.scope.names.get(name) or (Foreign(name),)
            case Instance():
                return self._member(owner, owner.kind, name)
            case Kind():
                return self._member(owner, owner, name)
            case Text() if name in ("value", "parent"):  # of an enum's member; of a path
                return (owner,) if name == "value" else (Text(v.HOLE, made_of=(*owner.leaves, Foreign("parent"))),)
            case Text() | Items() | Entries():
                return (Method(owner, name),)
            case _:
                return (Foreign(f"?.{name}"),)

    def _member(self, owner: Instance | Kind, kind: Kind, name: str) -> Value:
        own = owner.attributes.get(name) if isinstance(owner, Instance) else None
        found = own or kind.scope.names.get(name)
        if found is None:
            inherited = [self._inherited(owner, base, name) for base in kind.bases]
            return next((x for x in inherited if x), (Foreign(f"{kind.node.name}().{name}"),))
        return joined(*(self._bound(atom, owner, own=own is not None) for atom in found))

    def _inherited(self, owner: Instance | Kind, base: Atom, name: str) -> Value:
        match base:
            case Kind():
                found = self._member(owner, base, name)
                return () if len(found) == 1 and isinstance(found[0], Foreign) and not base.bases else found
            case Foreign() if base.path not in ("object", "typing.Generic", "Protocol", "abc.ABC", "ABC"):
                return (base.then(f"().{name}"),)
            case _:
                return ()

    def _bound(self, atom: Atom, owner: Instance | Kind, *, own: bool) -> Value:
        if not isinstance(atom, Routine) or own or atom.home is None or is_static(atom.node):
            return (atom,)
        class_method = is_class_method(atom.node)
        if isinstance(owner, Kind) and not class_method:
            return (atom,)
        bound_to = owner.kind if class_method and isinstance(owner, Instance) else owner
        bound = Routine(atom.node, atom.scope, atom.defaults, bound_to, atom.home)
        if any(isinstance(d, ast.Name) and d.id in ("property", "cached_property") for d in decorators(atom.node)):
            return self.call(bound, Arguments([], {}), atom.node, ())
        return (bound,)

    def _subscript(self, node: ast.Subscript, scope: Scope) -> Value:
        owners = self.value(node.value, scope)
        if isinstance(node.slice, ast.Slice):
            return joined(*(sliced(owner, node.slice) for owner in owners))
        index = self.value(node.slice, scope)
        return joined(
            *(
                v.element(owner, index) if isinstance(owner, (Items, Entries)) else (derived(owner, "[]"),)
                for owner in owners
            )
        )

    # Operators

    def _joined_text(self, node: ast.JoinedStr, scope: Scope) -> Value:
        return v.concatenated([self._part(part, scope) for part in node.values])

    def _part(self, part: ast.expr, scope: Scope) -> Value:
        if not isinstance(part, ast.FormattedValue):
            return tuple(v.folded(a.text, a) if isinstance(a, Text) else a for a in self.value(part, scope))
        value = self.value(part.value, scope)
        plain = part.conversion in (-1, 115) and part.format_spec is None
        return value if plain else (Foreign("?", root=next((a for a in value if isinstance(a, Foreign)), None)),)

    def _binary(self, node: ast.BinOp, scope: Scope) -> Value:
        return self._operate(node.op, self.value(node.left, scope), self.value(node.right, scope))

    def _operate(self, op: ast.operator, left: Value, right: Value) -> Value:
        results: list[Value] = []
        for one in left:
            if isinstance(op, ast.Mod) and isinstance(one, Text):
                results.append(v.percent(one, right))
                continue
            results += [operate(op, one, other) for other in right]
        return joined(*results)

    def _either(self, node: ast.BoolOp, scope: Scope) -> Value:
        found = [self.value(part, scope) for part in node.values]
        truths = [self._truth(value) for value in found]
        if None not in truths:
            known = all(truths) if isinstance(node.op, ast.And) else any(truths)
            return (Constant(known),)
        useful = tuple(a for a in joined(*found) if not (isinstance(a, Constant) and not a.value))
        return useful or (Constant(None),)

    def _conditional(self, node: ast.IfExp, scope: Scope) -> Value:
        truth = self._truth(self.value(node.test, scope)) if self._unrolled else None
        body = () if truth is False else self.value(node.body, scope)
        return joined(body, () if truth is True else self.value(node.orelse, scope))

    def _compare(self, node: ast.Compare, scope: Scope) -> Value:
        left = self.value(node.left, scope)
        right = [self.value(part, scope) for part in node.comparators]
        if len(right) == 1 and len(left) == 1 and len(right[0]) == 1:
            known = compared(node.ops[0], left[0], right[0][0])
            if known is not None:
                return (Constant(known),)
        return (Foreign("?truth"),)

    def _not(self, node: ast.UnaryOp, scope: Scope) -> Value:
        value = self.value(node.operand, scope)
        truth = self._truth(value)
        if isinstance(node.op, ast.Not):
            return (Foreign("?truth"),) if truth is None else (Constant(not truth),)
        if isinstance(node.op, ast.USub) and len(value) == 1 and isinstance(value[0], Constant):
            return (Constant(-value[0].value),) if isinstance(value[0].value, (int, float)) else (Foreign("?"),)
        return (Foreign("?number"),)

    # Containers

    def _list(self, node: ast.List | ast.Tuple | ast.Set, scope: Scope) -> Value:
        items = Items([])
        for part in node.elts:
            if isinstance(part, ast.Starred):
                v.extend(items, [self.value(part.value, scope)])
            else:
                items.items.append(self.value(part, scope))
        return (items,)

    def _dict(self, node: ast.Dict, scope: Scope) -> Value:
        found = Entries({})
        for key, part in zip(node.keys, node.values, strict=True):
            value = self.value(part, scope)
            if key is None:
                for atom in value:
                    found.entries.update(atom.entries if isinstance(atom, Entries) else {})
                    found.complete &= isinstance(atom, Entries) and atom.complete
            else:
                put(found, self.value(key, scope), value)
        return (found,)

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp, scope: Scope) -> Value:
        items = Items([])

        def collect(inner: Scope) -> None:
            value = self.value(node.elt, inner)
            items.add(value)

        self._generate(node.generators, Scope({}, scope, scope.file), collect)
        return (items,)

    def _dict_comprehension(self, node: ast.DictComp, scope: Scope) -> Value:
        found = Entries({})

        def collect(inner: Scope) -> None:
            put(found, self.value(node.key, inner), self.value(node.value, inner))

        self._generate(node.generators, Scope({}, scope, scope.file), collect)
        return (found,)

    def _generate(self, generators: list[ast.comprehension], scope: Scope, collect: Callable[[Scope], None]) -> None:
        if not generators:
            collect(scope)
            return
        first, *rest = generators

        def run() -> None:
            self._step()
            truths = [self._truth(self.value(condition, scope)) for condition in first.ifs]
            if False not in truths:
                self._generate(rest, scope, collect)

        self._each(first.target, self.value(first.iter, scope), scope, run)

    def _each(self, target: ast.expr, value: Value, scope: Scope, run: Callable[[], None]) -> None:
        for atom in value or (Foreign("?"),):
            elements, complete = v.elements_of(atom)
            one_by_one = len(elements) <= UNROLLED
            self._unrolled += one_by_one
            for element in elements if one_by_one else [joined(*elements)]:
                self._bind(target, element, scope)
                run()
            self._unrolled -= one_by_one
            if not complete:
                kept, self._unrolled = self._unrolled, 0
                self._bind(target, (derived(atom, "[]"),), scope)
                run()
                self._unrolled = kept

    # Names that get values

    def _walrus(self, node: ast.NamedExpr, scope: Scope) -> Value:
        value = self.value(node.value, scope)
        self._bind(node.target, value, scope)
        return value

    def _bind(self, target: ast.expr, value: Value, scope: Scope) -> None:
        match target:
            case ast.Name():
                scope.names[target.id] = value
            case ast.Attribute():
                for owner in self.value(target.value, scope):
                    if isinstance(owner, Instance):
                        owner.put(target.attr, value)
                    elif isinstance(owner, Kind):
                        owner.scope.names[target.attr] = value
            case ast.Subscript():
                index = self.value(target.slice, scope)
                for owner in self.value(target.value, scope):
                    put(owner, index, value)
            case ast.Tuple() | ast.List():
                self._unpack(target.elts, value, scope)
            case ast.Starred():
                self._bind(target.value, value, scope)
            case _:
                pass

    def _unpack(self, targets: list[ast.expr], value: Value, scope: Scope) -> None:
        columns: list[list[Value]] = [[] for _ in targets]
        for atom in value:
            elements, complete = v.elements_of(atom)
            exact = complete and len(elements) == len(targets) and not any(isinstance(t, ast.Starred) for t in targets)
            for place, target in enumerate(targets):
                if exact:
                    columns[place].append(elements[place])
                elif isinstance(target, ast.Starred):
                    columns[place].append((Items(elements, complete),))
                else:
                    columns[place].append(joined(*elements) if elements else (derived(atom, "[]"),))
        for target, column in zip(targets, columns, strict=True):
            self._bind(target, joined(*column), scope)

    # Functions, and what they give back on the way

    def _inner(self, node: ast.Await | ast.Starred, scope: Scope) -> Value:
        return self.value(node.value, scope)

    def _lambda(self, node: ast.Lambda, scope: Scope) -> Value:
        return (self._routine(node, scope),)

    def _routine(self, node: Function | ast.Lambda, scope: Scope, home: Kind | None = None) -> Routine:
        positional = [*node.args.posonlyargs, *node.args.args]
        pairs = [
            *zip(positional[len(positional) - len(node.args.defaults) :], node.args.defaults, strict=True),
            *((a, d) for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if d is not None),
        ]
        routine = Routine(node, scope, {a.arg: self.value(d, scope) for a, d in pairs}, home=home)
        if id(node) not in self._defined:
            self._defined.add(id(node))
            self._routines.setdefault(scope.file, []).append(routine)
        return routine

    def _yield(self, node: ast.Yield, scope: Scope) -> Value:
        self._flows[-1].yielded.append(self.value(node.value, scope) if node.value else (Constant(None),))
        return (Foreign("yield"),)

    def _yield_from(self, node: ast.YieldFrom, scope: Scope) -> Value:
        for atom in self.value(node.value, scope):
            elements, complete = v.elements_of(atom)
            self._flows[-1].yielded += elements if complete else [*elements, (derived(atom, "[]"),)]
        return (Foreign("yield"),)

    evaluated: ClassVar[Mapping[type[ast.expr], Callable[..., Value]]] = {
        ast.Constant: _constant,
        ast.Name: _name,
        ast.Attribute: _get,
        ast.Subscript: _subscript,
        ast.JoinedStr: _joined_text,
        ast.BinOp: _binary,
        ast.BoolOp: _either,
        ast.IfExp: _conditional,
        ast.Compare: _compare,
        ast.UnaryOp: _not,
        ast.List: _list,
        ast.Tuple: _list,
        ast.Set: _list,
        ast.Dict: _dict,
        ast.ListComp: _comprehension,
        ast.SetComp: _comprehension,
        ast.GeneratorExp: _comprehension,
        ast.DictComp: _dict_comprehension,
        ast.NamedExpr: _walrus,
        ast.Await: _inner,
        ast.Starred: _inner,
        ast.Lambda: _lambda,
        ast.Yield: _yield,
        ast.YieldFrom: _yield_from,
    }
