"""Runs Python code on what is known of it: constants are followed through names, calls and imports to the calls that read.

Every statement is run in order, both sides of an ``if``, and a loop over known elements once for each of them. A call of a function
of the repository runs its body with what the call hands over, so that a wrapper counts where it is used. What comes from outside
stays unknown and is reported where it is read. Nothing of the code is executed.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from lineage.scan import values as v
from lineage.scan.calls import Arguments, Read, reads_of, result_of
from lineage.scan.files import Modules
from lineage.scan.library import call_builtin
from lineage.scan.operators import compared, derived, operate, put, sliced
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
    Partial,
    Routine,
    Scope,
    Text,
    Value,
    joined,
)

DEEPEST = 5  # calls inside calls
STEPS = 20_000  # statements and calls of one file, functions it calls included
UNROLLED = 256  # elements of a loop that are run one by one
_Function = ast.FunctionDef | ast.AsyncFunctionDef


class TooInvolvedError(Exception):
    """A file takes more steps than a scan gives it."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A call that is being followed.

    Attributes:
        given: Identity of what its arguments go back to.
        instance: The object whose method it is; None without.
    """

    file: str
    node: ast.AST
    routine: int
    given: frozenset[int]
    instance: Instance | None


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


@dataclass(slots=True)
class _Flow:
    """What the function that is being run gave back so far."""

    returned: list[Value] = field(default_factory=list)
    yielded: list[Value] = field(default_factory=list)


class Interpreter:
    """Runs the modules of a repository.

    Args:
        parse: Returns the parsed module of a file, or None when it cannot be parsed.
        modules: Finds the file that an import means.
        see: Is told of everything that is read.
    """

    def __init__(
        self, parse: Callable[[str], ast.Module | None], modules: Modules, see: Callable[[Sighting], None]
    ) -> None:
        self._parse, self._modules, self._see = parse, modules, see
        self._loaded: dict[str, Scope] = {}
        self._routines: dict[str, list[Routine]] = {}
        self._kinds: dict[str, list[Kind]] = {}
        self._seen: set[int] = set()
        self.called: set[int] = set()
        self.cut: set[int] = set()  # functions with a call that was too deep to be followed
        self._stack: list[Frame] = []
        self._flows: list[_Flow] = [_Flow()]
        self._unrolled = 0
        self._steps = 0

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

    def _begin(self) -> None:
        """Start anew, whatever the file before left when it was given up."""
        self._steps, self._unrolled = 0, 0
        self._stack, self._flows = [], [_Flow()]

    def _run_alone(self, routine: Routine) -> None:
        node = routine.node
        owner = routine.home.everyone if routine.home else None
        cause = frozenset({routine.key})
        arguments = node.args
        known = dict(routine.defaults)
        named = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        scope = Scope({}, routine.scope, routine.scope.file)
        for place, name in enumerate(named):
            if place == 0 and owner is not None and not _is_static(node):
                scope.names[name] = (routine.home,) if routine.home and _is_class_method(node) else (owner,)
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

    # Modules

    def _load(self, file: str) -> Scope:
        if file not in self._loaded:
            scope = self._loaded[file] = Scope({"__name__": (Foreign("__name__"),)}, None, file)
            tree = self._parse(file)
            if tree is not None:
                stack, self._stack = self._stack, []
                unrolled, self._unrolled = self._unrolled, 0
                self._flows.append(_Flow())
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

    # Statements

    def _block(self, statements: Iterable[ast.stmt], scope: Scope) -> bool:
        """Run statements in order and say whether the block was left on the way."""
        for statement in statements:
            self._step()
            handler = self._statements.get(type(statement))
            if handler is not None and handler(self, statement, scope):
                return True
        return False

    def _step(self) -> None:
        self._steps += 1
        if self._steps > STEPS:
            raise TooInvolvedError

    def _expression(self, node: ast.Expr, scope: Scope) -> None:
        self.value(node.value, scope)

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

    def _if(self, node: ast.If, scope: Scope) -> bool:
        test = self.value(node.test, scope)
        truth = self._truth(test) if self._unrolled else None  # elsewhere both sides are code, whatever is known
        if truth is not None:
            return self._block(node.body if truth else node.orelse, scope)
        return self._branches([node.body, node.orelse], scope)

    def _truth(self, value: Value) -> bool | None:
        """Inside a loop over known elements a condition that is known picks the elements."""
        if len(value) == 1 and isinstance(value[0], Constant) and isinstance(value[0].value, bool):
            return value[0].value
        return None

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

    def _define(self, node: _Function, scope: Scope) -> None:
        for decorator in node.decorator_list:
            self.value(decorator, scope)
        scope.names[node.name] = (self._routine(node, scope),)

    def _routine(self, node: _Function | ast.Lambda, scope: Scope, home: Kind | None = None) -> Routine:
        positional = [*node.args.posonlyargs, *node.args.args]
        pairs = [
            *zip(positional[len(positional) - len(node.args.defaults) :], node.args.defaults, strict=True),
            *((a, d) for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if d is not None),
        ]
        routine = Routine(node, scope, {a.arg: self.value(d, scope) for a, d in pairs}, home=home)
        if id(node) not in self._seen:
            self._seen.add(id(node))
            self._routines.setdefault(scope.file, []).append(routine)
        return routine

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

    # Expressions

    def value(self, node: ast.expr, scope: Scope) -> Value:
        """Return what an expression can stand for, and tell of every read inside it."""
        handler = self._expressions.get(type(node))
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
        if not isinstance(atom, Routine) or own or atom.home is None or _is_static(atom.node):
            return (atom,)
        class_method = _is_class_method(atom.node)
        if isinstance(owner, Kind) and not class_method:
            return (atom,)
        bound_to = owner.kind if class_method and isinstance(owner, Instance) else owner
        bound = Routine(atom.node, atom.scope, atom.defaults, bound_to, atom.home)
        if any(isinstance(d, ast.Name) and d.id in ("property", "cached_property") for d in _decorators(atom.node)):
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

    def _walrus(self, node: ast.NamedExpr, scope: Scope) -> Value:
        value = self.value(node.value, scope)
        self._bind(node.target, value, scope)
        return value

    def _inner(self, node: ast.Await | ast.Starred, scope: Scope) -> Value:
        return self.value(node.value, scope)

    def _lambda(self, node: ast.Lambda, scope: Scope) -> Value:
        return (self._routine(node, scope),)

    def _yield(self, node: ast.Yield, scope: Scope) -> Value:
        self._flows[-1].yielded.append(self.value(node.value, scope) if node.value else (Constant(None),))
        return (Foreign("yield"),)

    def _yield_from(self, node: ast.YieldFrom, scope: Scope) -> Value:
        for atom in self.value(node.value, scope):
            elements, complete = v.elements_of(atom)
            self._flows[-1].yielded += elements if complete else [*elements, (derived(atom, "[]"),)]
        return (Foreign("yield"),)

    # Calls

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
        scope = Scope(_parameters(routine, arguments), routine.scope, routine.scope.file)
        self._stack.append(Frame(file, node, routine.key, given, instance))
        unrolled, self._unrolled = self._unrolled, 0
        try:
            return self._body(routine.node, scope)
        finally:
            self._stack.pop()
            self._unrolled = unrolled

    def _body(self, node: _Function | ast.Lambda, scope: Scope) -> Value:
        if isinstance(node, ast.Lambda):
            return self.value(node.body, scope)
        flow = _Flow()
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

    _statements: ClassVar[Mapping[type[ast.stmt], Callable[..., bool | None]]] = {
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
        ast.Import: _import,
        ast.ImportFrom: _import_from,
    }
    _expressions: ClassVar[Mapping[type[ast.expr], Callable[..., Value]]] = {
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


def _parameters(routine: Routine, arguments: Arguments) -> dict[str, Value]:
    node = routine.node.args
    positional = [a.arg for a in (*node.posonlyargs, *node.args)]
    names: dict[str, Value] = {}
    queue = list(arguments.positional)
    if routine.owner is not None and positional and not _is_static(routine.node):
        names[positional.pop(0)] = (routine.owner,)
    for name in positional:
        if queue:
            names[name] = queue.pop(0)
    named = dict(arguments.named)
    for name in (*positional, *(a.arg for a in node.kwonlyargs)):
        if name in named:
            names[name] = named.pop(name)
        elif name not in names:
            fallback = routine.defaults.get(name)
            unknown: Value = (Foreign(name),)
            names[name] = unknown if fallback is None else fallback if arguments.complete else joined(fallback, unknown)
    if node.vararg:
        names[node.vararg.arg] = (Items(queue, arguments.complete),)
    if node.kwarg:
        names[node.kwarg.arg] = (Entries(dict(named.items()), arguments.complete),)
    return names


def _merged(ends: list[dict[str, Value]]) -> dict[str, Value]:
    first, *rest = ends
    result = dict(first)
    for names in rest:
        for name, value in names.items():
            old = result.get(name)
            if old is not value:
                result[name] = value if old is None else joined(old, value)
    return result


def _decorators(node: _Function | ast.Lambda) -> list[ast.expr]:
    return [] if isinstance(node, ast.Lambda) else node.decorator_list


def _is_static(node: _Function | ast.Lambda) -> bool:
    return any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in _decorators(node))


def _is_class_method(node: _Function | ast.Lambda) -> bool:
    return any(isinstance(d, ast.Name) and d.id == "classmethod" for d in _decorators(node))
