"""Follows calls: into functions and classes of the repository with what they are handed, and up to the calls that read."""

from __future__ import annotations

import ast
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from lineage.scan import values as v
from lineage.scan.calls import Arguments, Read, reads_of, result_of
from lineage.scan.expressions import Expressions
from lineage.scan.library import call_builtin
from lineage.scan.operators import derived
from lineage.scan.parameters import Function, parameters_of
from lineage.scan.run import DEEPEST, Flow, Frame
from lineage.scan.values import (
    Atom,
    Constant,
    Entries,
    Foreign,
    Instance,
    Items,
    Kind,
    Method,
    Partial,
    Routine,
    Scope,
    Text,
    Value,
    joined,
)


@dataclass(frozen=True, slots=True)
class Sighting:
    """One name, or one unknown, that a call reads.

    Attributes:
        atom: What is read.
        file: Where the names were handed over: the read itself, or the outermost call that passed them on.
        node: The code there.
        argument: The code that gives the names, as far as it is at that place.
    """

    read: Read
    atom: Atom
    file: str
    node: ast.AST
    argument: ast.AST


class Calls(Expressions):
    """Runs what is called.

    Args:
        see: Is told of everything that is read.
    """

    def __init__(self, see: Callable[[Sighting], None]) -> None:
        super().__init__()
        self._see = see

    @abstractmethod
    def _block(self, statements: Iterable[ast.stmt], scope: Scope) -> bool: ...

    def _call(self, node: ast.Call, scope: Scope) -> Value:
        self._step()
        if isinstance(node.func, ast.Name) and node.func.id == "super" and scope.find("super") is None:
            return self._super()
        target = self.value(node.func, scope)
        arguments = self._arguments(node, scope)
        nodes = (*node.args, *(keyword.value for keyword in node.keywords))
        return joined(*(self.call(atom, arguments, node, nodes, scope.file) for atom in target))

    def _super(self) -> Value:
        instance = next((f.instance for f in reversed(self._stack) if f.instance), None)
        if instance is None:
            return (Foreign("super()"),)
        bases = tuple(base for base in instance.kind.bases if isinstance(base, (Kind, Foreign)))
        above = Kind(instance.kind.node, Scope({}, None, instance.kind.scope.file), bases)
        return (Instance(above, instance.attributes, instance.given),)

    def _arguments(self, node: ast.Call, scope: Scope) -> Arguments:
        positional: list[Value] = []
        complete = True
        for part in node.args:
            if isinstance(part, ast.Starred):
                for atom in self.value(part.value, scope)[:1]:
                    elements, known = v.elements_of(atom)
                    positional += elements
                    complete &= known
            else:
                positional.append(self.value(part, scope))
        named: dict[str, Value] = {}
        for keyword in node.keywords:
            value = self.value(keyword.value, scope)
            if keyword.arg is not None:
                named[keyword.arg] = value
                continue
            for atom in value:
                named.update({str(k): x for k, x in atom.entries.items()} if isinstance(atom, Entries) else {})
                complete &= isinstance(atom, Entries) and atom.complete
        return Arguments(positional, named, complete)

    def call(  # noqa: PLR0911 - one answer for each kind of atom
        self, target: Atom, arguments: Arguments, node: ast.AST, nodes: tuple[ast.expr, ...], file: str = ""
    ) -> Value:
        """Return what a call gives, and tell of what it reads."""
        match target:
            case Routine():
                return self._run_routine(target, arguments, node, file)
            case Kind():
                return self._instantiate(target, arguments, node, file)
            case Partial():
                merged = Arguments(
                    [*target.positional, *arguments.positional],
                    {**target.named, **arguments.named},
                    arguments.complete,
                )
                return joined(*(self.call(atom, merged, node, nodes, file) for atom in target.target))
            case Method():
                return v.call_method(target, arguments.positional, arguments.named)
            case Instance():
                inner = [a for a in self._attribute(target, "__call__") if isinstance(a, Routine)]
                return self._run_routine(inner[0], arguments, node, file) if inner else (Foreign("?()"),)
            case Foreign():
                return self._call_foreign(target, arguments, node, nodes, file)
            case _:
                return (Foreign("?()"),)

    def _call_foreign(
        self, target: Foreign, arguments: Arguments, node: ast.AST, nodes: tuple[ast.expr, ...], file: str
    ) -> Value:
        if target.path in ("getattr", "builtins.getattr") and len(arguments.positional) > 1:
            names = [a.text for a in arguments.positional[1] if isinstance(a, Text) and a.known]
            return joined(*(self._attribute(o, n) for o in arguments.positional[0] for n in names)) or (Foreign("?"),)
        if target.path in ("map", "filter") and len(arguments.positional) > 1:
            return self._mapped(target.path, arguments, node, nodes, file)
        known = call_builtin(target.path, arguments)
        if known is not None:
            return known
        if target.path.endswith("field") and "default_factory" in arguments.named:
            return joined(
                *(self.call(a, Arguments([], {}), node, (), file) for a in arguments.named["default_factory"])
            )
        for read in reads_of(target, arguments):
            self._tell(read, node, nodes, file)
        return result_of(target, arguments)

    def _mapped(self, name: str, arguments: Arguments, node: ast.AST, nodes: tuple[ast.expr, ...], file: str) -> Value:
        items = Items([])
        for atom in arguments.positional[1]:
            elements, complete = v.elements_of(atom)
            for element in elements if complete else [*elements, (derived(atom, "[]"),)]:
                results = [self.call(a, Arguments([element], {}), node, nodes, file) for a in arguments.positional[0]]
                if name == "map":
                    items.add(joined(*results))
                elif self._truth(joined(*results)) is not False:
                    items.add(element)
        return (items,)

    def _instantiate(self, kind: Kind, arguments: Arguments, node: ast.AST, file: str) -> Value:
        instance = Instance(kind, {})
        given = {id(leaf): (file, node) for leaf in _leaves(arguments)}
        for holder in (instance, kind.everyone):
            for identity, place in given.items():
                holder.given.setdefault(identity, place)
        for init in self._member(instance, kind, "__init__"):
            if isinstance(init, Routine):
                self._run_routine(init, arguments, node, file)
                return (instance,)
        names = [s.target.id for s in kind.node.body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)]
        for name, value in (*zip(names, arguments.positional, strict=False), *arguments.named.items()):
            instance.put(name, value)
        if (
            any(isinstance(base, Foreign) and base.path.endswith("Enum") for base in kind.bases)
            and arguments.positional
        ):
            return arguments.positional[0]
        return (instance,)

    def _run_routine(self, routine: Routine, arguments: Arguments, node: ast.AST, file: str) -> Value:
        if len(self._stack) >= DEEPEST:
            self.cut.add(routine.key)
            return (Foreign(f"{getattr(routine.node, 'name', 'lambda')}()"),)
        self.called.add(routine.key)
        if sum(frame.routine == routine.key for frame in self._stack) > 1:
            return (Foreign(f"{getattr(routine.node, 'name', 'lambda')}()"),)
        instance = routine.owner if isinstance(routine.owner, Instance) else None
        given = frozenset(map(id, _leaves(arguments)))
        scope = Scope(parameters_of(routine, arguments), routine.scope, routine.scope.file)
        self._stack.append(Frame(file, node, routine.key, given, instance))
        unrolled, self._unrolled = self._unrolled, 0
        try:
            return self._body(routine.node, scope)
        finally:
            self._stack.pop()
            self._unrolled = unrolled

    def _body(self, node: Function | ast.Lambda, scope: Scope) -> Value:
        if isinstance(node, ast.Lambda):
            return self.value(node.body, scope)
        flow = Flow()
        self._flows.append(flow)
        try:
            self._block(node.body, scope)
        finally:
            self._flows.pop()
        if flow.yielded:
            return (Items(flow.yielded),)
        return joined(*flow.returned) or (Constant(None),)

    # Sightings

    def _tell(self, read: Read, node: ast.AST, nodes: tuple[ast.expr, ...], file: str) -> None:
        for atom in _read_atoms(read.value):
            where_file, where = self._place(atom, file, node)
            argument = next((n for n in nodes if where is node and not isinstance(n, ast.Constant)), where)
            self._see(Sighting(read, atom, where_file, where, argument))

    def _place(self, atom: Atom, file: str, node: ast.AST) -> tuple[str, ast.AST]:
        """Return the outermost call that handed the name over, else the read itself."""
        identities = {id(leaf) for leaf in v.leaves_of((atom,))}
        for frame in self._stack:
            if not identities.isdisjoint(frame.given):
                return frame.file, frame.node
        for frame in reversed(self._stack):
            if frame.instance is not None:
                places = [frame.instance.given[i] for i in identities if i in frame.instance.given]
                if places:
                    return places[0]
        return file, node

    evaluated: ClassVar[Mapping[type[ast.expr], Callable[..., Value]]] = {
        **Expressions.evaluated,
        ast.Call: _call,
    }


def _read_atoms(value: Value) -> Iterator[Atom]:
    for atom in value:
        if isinstance(atom, Items):
            for element in atom.items:
                yield from _read_atoms(element)
            if not atom.complete:
                yield Foreign("*")
        elif not (isinstance(atom, Constant) and atom.value is None):
            yield atom


def _leaves(arguments: Arguments) -> Iterator[Text | Foreign]:
    for value in (*arguments.positional, *arguments.named.values()):
        yield from v.leaves_of(value)
