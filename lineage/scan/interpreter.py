"""Runs Python code on what is known of it: constants are followed through names, calls and imports to the calls that read.

Every statement is run in order, both sides of an ``if``, and a loop over known elements once for each of them. A call of a function
of the repository runs its body with what the call hands over, so that a wrapper counts where it is used. What comes from outside
stays unknown and is reported where it is read. Nothing of the code is executed.

The parts, each of which builds on the one before: `run` (limits and the calls being followed), `expressions`, `following` (calls),
`blocks` (statements), and here files and their imports.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import ClassVar

from lineage.scan.blocks import Statements
from lineage.scan.files import Modules
from lineage.scan.following import Sighting
from lineage.scan.parameters import is_class_method, is_static
from lineage.scan.run import Flow, Frame
from lineage.scan.values import Foreign, Module, Routine, Scope, Value


class Interpreter(Statements):
    """Runs the modules of a repository.

    Args:
        parse: Returns the parsed module of a file, or None when it cannot be parsed.
        modules: Finds the file that an import means.
        see: Is told of everything that is read.
    """

    def __init__(
        self, parse: Callable[[str], ast.Module | None], modules: Modules, see: Callable[[Sighting], None]
    ) -> None:
        super().__init__(see)
        self._parse, self._modules = parse, modules
        self._loaded: dict[str, Scope] = {}

    def run(self, file: str) -> None:
        """Run a file from its top, and what it imports.

        Raises:
            TooInvolvedError: It takes too many steps.
        """
        self._begin()
        self._load(file)

    def run_functions(self, file: str) -> None:
        """Run each function and method of a file by itself, with unknown arguments.

        Raises:
            TooInvolvedError: It takes too many steps.
        """
        self._begin()
        place = 0
        routines = self._routines.get(file, [])
        while place < len(routines):  # a function that is run may define others
            self._run_alone(routines[place])
            place += 1

    def _run_alone(self, routine: Routine) -> None:
        node = routine.node
        owner = routine.home.everyone if routine.home else None
        cause = frozenset({routine.key})
        arguments = node.args
        known = dict(routine.defaults)
        named = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        scope = Scope({}, routine.scope, routine.scope.file)
        for place, name in enumerate(named):
            if place == 0 and owner is not None and not is_static(node):
                scope.names[name] = (routine.home,) if routine.home and is_class_method(node) else (owner,)
            else:
                scope.names[name] = known.get(name) or (Foreign(name, cause),)
        for extra in (arguments.vararg, arguments.kwarg):
            if extra:
                scope.names[extra.arg] = (Foreign(extra.arg, cause),)
        self._stack.append(Frame(scope.file, node, routine.key, frozenset(), owner))
        try:
            self._body(node, scope)
        finally:
            self._stack.pop()

    def _load(self, file: str) -> Scope:
        if file not in self._loaded:
            scope = self._loaded[file] = Scope({"__name__": (Foreign("__name__"),)}, None, file)
            tree = self._parse(file)
            if tree is not None:
                stack, self._stack = self._stack, []
                unrolled, self._unrolled = self._unrolled, 0
                self._flows.append(Flow())
                try:
                    self._block(tree.body, scope)
                finally:
                    self._flows.pop()
                    self._stack, self._unrolled = stack, unrolled
        return self._loaded[file]

    def _import(self, node: ast.Import, scope: Scope) -> None:
        for alias in node.names:
            if alias.asname:
                scope.names[alias.asname] = self._module(alias.name, scope.file)
            else:
                first = alias.name.partition(".")[0]
                self._module(alias.name, scope.file)
                scope.names[first] = self._module(first, scope.file)

    def _import_from(self, node: ast.ImportFrom, scope: Scope) -> None:
        dotted = node.module or ""
        file = self._modules.find(dotted, scope.file, node.level) if dotted or node.level else None
        found = self._load(file) if file else None
        for alias in node.names:
            if alias.name == "*":
                scope.names.update({} if found is None else {k: x for k, x in found.names.items() if k[0] != "_"})
                continue
            inner = self._modules.find(f"{dotted}.{alias.name}".lstrip("."), scope.file, node.level)
            value = found.names.get(alias.name) if found else None
            if value is None:
                value = (Module(self._load(inner)),) if inner else (Foreign(f"{dotted}.{alias.name}".lstrip(".")),)
            scope.names[alias.asname or alias.name] = value

    def _module(self, dotted: str, importer: str) -> Value:
        file = self._modules.find(dotted, importer)
        return (Module(self._load(file)),) if file else (Foreign(dotted),)

    executed: ClassVar[Mapping[type[ast.stmt], Callable[..., bool | None]]] = {
        **Statements.executed,
        ast.Import: _import,
        ast.ImportFrom: _import_from,
    }
