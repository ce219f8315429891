"""Runs statements in order: both sides of an ``if``, and a loop over known elements once for each of them."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar

from lineage.scan import values as v
from lineage.scan.calls import Arguments
from lineage.scan.following import Calls
from lineage.scan.parameters import Function
from lineage.scan.values import Constant, Foreign, Instance, Items, Kind, Routine, Scope, Value, joined


class Statements(Calls):
    """Runs blocks of code."""

    def _block(self, statements: Iterable[ast.stmt], scope: Scope) -> bool:
        """Run statements in order and say whether the block was left on the way."""
        for statement in statements:
            self._step()
            handler = self.executed.get(type(statement))
            if handler is not None and handler(self, statement, scope):
                return True
        return False

    def _expression(self, node: ast.Expr, scope: Scope) -> None:
        self.value(node.value, scope)

    # Assignments

    def _assign(self, node: ast.Assign, scope: Scope) -> None:
        value = self.value(node.value, scope)
        for target in node.targets:
            self._bind(target, value, scope)

    def _annotated(self, node: ast.AnnAssign, scope: Scope) -> None:
        if node.value is not None:
            self._bind(node.target, self.value(node.value, scope), scope)

    def _augmented(self, node: ast.AugAssign, scope: Scope) -> None:
        value = self.value(node.value, scope)
        before = self.value(node.target, scope)
        lists = [atom for atom in before if isinstance(atom, Items)]
        if isinstance(node.op, (ast.Add, ast.BitOr)) and lists:
            for items in lists:
                v.extend(items, [value])
            return
        self._bind(node.target, self._operate(node.op, before, value), scope)

    def _delete(self, node: ast.Delete, scope: Scope) -> None:
        for target in node.targets:
            if isinstance(target, ast.Name):
                scope.names.pop(target.id, None)

    def _global(self, node: ast.Global, scope: Scope) -> None:
        top = scope
        while top.parent is not None:
            top = top.parent
        for name in node.names:
            scope.names.setdefault(name, top.names.get(name) or (Foreign(name),))

    # Branches and loops

    def _if(self, node: ast.If, scope: Scope) -> bool:
        test = self.value(node.test, scope)
        truth = self._truth(test) if self._unrolled else None  # elsewhere both sides are code, whatever is known
        if truth is not None:
            return self._block(node.body if truth else node.orelse, scope)
        return self._branches([node.body, node.orelse], scope)

    def _branches(self, blocks: list[list[ast.stmt]], scope: Scope) -> bool:
        before = dict(scope.names)
        ends: list[dict[str, Value]] = []
        for block in blocks:
            scope.names = dict(before)
            if not self._block(block, scope):
                ends.append(scope.names)
        if not ends:
            scope.names = before
            return True
        scope.names = ends[0] if len(ends) == 1 else _merged(ends)
        return False

    def _for(self, node: ast.For | ast.AsyncFor, scope: Scope) -> None:
        def run() -> None:
            self._block(node.body, scope)

        before = dict(scope.names)
        self._each(node.target, self.value(node.iter, scope), scope, run)
        scope.names = _merged([before, scope.names])
        self._block(node.orelse, scope)

    def _while(self, node: ast.While, scope: Scope) -> None:
        self.value(node.test, scope)
        self._branches([node.body, []], scope)
        self._block(node.orelse, scope)

    def _try(self, node: ast.Try | ast.TryStar, scope: Scope) -> bool:
        before = dict(scope.names)
        ended = self._block([*node.body, *node.orelse], scope)
        ends = [] if ended else [scope.names]
        for handler in node.handlers:
            scope.names = _merged([before, scope.names])
            if not self._block(handler.body, scope):
                ends.append(scope.names)
        scope.names = _merged(ends) if ends else scope.names
        return self._block(node.finalbody, scope) or not ends

    def _with(self, node: ast.With | ast.AsyncWith, scope: Scope) -> bool:
        for item in node.items:
            value = self.value(item.context_expr, scope)
            if item.optional_vars is not None:
                self._bind(item.optional_vars, self._entered(value, item), scope)
        return self._block(node.body, scope)

    def _entered(self, value: Value, item: ast.withitem) -> Value:
        found: list[Value] = []
        for atom in value:
            enter = self._attribute(atom, "__enter__") if isinstance(atom, Instance) else ()
            known = [a for a in enter if isinstance(a, Routine)]
            if isinstance(atom, Items) and atom.items:  # what a generator function yields
                found.append(joined(*atom.items))
            else:
                found.append(self.call(known[0], Arguments([], {}), item.context_expr, ()) if known else (atom,))
        return joined(*found)

    def _match(self, node: ast.Match, scope: Scope) -> bool:
        subject = self.value(node.subject, scope)
        for case in node.cases:
            for pattern in ast.walk(case.pattern):
                name = getattr(pattern, "name", None)
                if isinstance(name, str):
                    scope.names[name] = subject if isinstance(pattern, ast.MatchAs) else (Foreign(name),)
        return self._branches([*(case.body for case in node.cases), []], scope)

    # Ways out

    def _return(self, node: ast.Return, scope: Scope) -> bool:
        value = self.value(node.value, scope) if node.value else (Constant(None),)
        self._flows[-1].returned.append(value)
        return True

    def _raise(self, node: ast.Raise, scope: Scope) -> bool:
        if node.exc is not None:
            self.value(node.exc, scope)
        return True

    def _leave(self, *_: object) -> bool:
        return True

    def _assert(self, node: ast.Assert, scope: Scope) -> None:
        self.value(node.test, scope)

    # Definitions

    def _define(self, node: Function, scope: Scope) -> None:
        for decorator in node.decorator_list:
            self.value(decorator, scope)
        scope.names[node.name] = (self._routine(node, scope),)

    def _class(self, node: ast.ClassDef, scope: Scope) -> None:
        bases = tuple(atom for base in node.bases for atom in self.value(base, scope))
        inner = Scope({}, scope, scope.file)
        kind = Kind(node, inner, bases)
        for statement in node.body:
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
                # A method does not see the names of its class.
                inner.names[statement.name] = (self._routine(statement, scope, kind),)
            else:
                self._block([statement], inner)
        scope.names[node.name] = (kind,)

    executed: ClassVar[Mapping[type[ast.stmt], Callable[..., bool | None]]] = {
        ast.Expr: _expression,
        ast.Assign: _assign,
        ast.AnnAssign: _annotated,
        ast.AugAssign: _augmented,
        ast.If: _if,
        ast.For: _for,
        ast.AsyncFor: _for,
        ast.While: _while,
        ast.Try: _try,
        ast.TryStar: _try,
        ast.With: _with,
        ast.AsyncWith: _with,
        ast.Match: _match,
        ast.Return: _return,
        ast.Raise: _raise,
        ast.Break: _leave,
        ast.Continue: _leave,
        ast.Assert: _assert,
        ast.Delete: _delete,
        ast.Global: _global,
        ast.FunctionDef: _define,
        ast.AsyncFunctionDef: _define,
        ast.ClassDef: _class,
    }


def _merged(ends: list[dict[str, Value]]) -> dict[str, Value]:
    first, *rest = ends
    result = dict(first)
    for names in rest:
        for name, value in names.items():
            old = result.get(name)
            if old is not value:
                result[name] = value if old is None else joined(old, value)
    return result
