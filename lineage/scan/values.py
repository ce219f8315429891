"""What an expression can stand for, as far as a scan can tell: texts, collections of them, and things it cannot look into.

A `Value` is a tuple of alternatives. A text that is known in parts has a hole for each part that is not. Every text and every
unknown remembers what it was made from, so that a read can be traced to the call that handed its names over.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from itertools import product
from string import Formatter
from typing import Any, Self

HOLE = "\ufffc"  # stands in a text for a part that is not known
WIDEST = 64  # more alternatives than this are called unknown


@dataclass(frozen=True, slots=True, eq=False)
class Foreign:
    """Something the scan cannot look into: of a library, from outside, or too involved.

    Attributes:
        path: How it came about, such as ``feast.FeatureStore().get_online_features``.
        causes: The functions whose parameters it hangs on; empty when it hangs on none.
        consumer: The consumer that a store or a client was opened as; empty when the code does not say.
        root: What it was derived from; None for itself.
    """

    path: str
    causes: frozenset[int] = frozenset()
    consumer: str = ""
    root: Foreign | None = None

    def then(self, step: str) -> Foreign:
        """Return what a step from here leads to, such as ``.name`` or ``()``."""
        return Foreign((self.path + step)[-200:], self.causes, self.consumer, self.root or self)


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """A text, with a hole for each part that is not known.

    Attributes:
        file: Where it is written.
        at: Line and column it is written at, both from 1.
        made_of: What it was folded from; empty for a literal.
    """

    text: str
    file: str = ""
    at: tuple[int, int] = (0, 0)
    made_of: tuple[Text | Foreign, ...] = ()

    @property
    def leaves(self) -> tuple[Text | Foreign, ...]:
        """The literals and unknowns it goes back to."""
        return self.made_of or (self,)

    @property
    def known(self) -> bool:
        """Whether no part of it is missing."""
        return HOLE not in self.text


@dataclass(frozen=True, slots=True)
class Constant:
    """A number, a truth value, None or bytes."""

    value: Any


@dataclass(slots=True, eq=False)
class Items:
    """A list, tuple or set; a change of it is seen wherever it is held, as in Python.

    Attributes:
        complete: Whether there are no further elements.
    """

    items: list[Value]
    complete: bool = True

    def add(self, value: Value) -> None:
        """Append an element, once: the same line may be run again for another reader."""
        if len(self.items) < 4096 and not any(_same(value, old) for old in self.items):
            self.items.append(value)


@dataclass(slots=True, eq=False)
class Entries:
    """A dict by its constant keys.

    Attributes:
        complete: Whether there are no further keys.
    """

    entries: dict[Any, Value]
    complete: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Service:
    """A feature service, known by its name.

    Attributes:
        recorded: Whether the place that names it was noted already.
    """

    name: Text
    recorded: bool


@dataclass(slots=True, eq=False)
class Scope:
    """The names of a module, class or function; a name that is missing is looked for in the one around it."""

    names: dict[str, Value]
    parent: Scope | None = None
    file: str = ""

    def find(self, name: str) -> Value | None:
        """Return what a name stands for; None when nothing binds it."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Module:
    """A module of the repository."""

    scope: Scope


@dataclass(frozen=True, slots=True, eq=False)
class Routine:
    """A function, method or lambda of the repository.

    Attributes:
        defaults: Parameter -> its default.
        owner: The instance or class it is bound to; None when it is called as it is.
        home: The class it is written in; None for a function.
    """

    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    scope: Scope
    defaults: Mapping[str, Value]
    owner: Instance | Kind | None = None
    home: Kind | None = None

    @property
    def key(self) -> int:
        """Tells the function from every other, however it is bound."""
        return id(self.node)


@dataclass(slots=True, eq=False)
class Kind:
    """A class of the repository.

    Attributes:
        everyone: Stands for any instance of it: what is known of all of them.
    """

    node: ast.ClassDef
    scope: Scope
    bases: tuple[Atom, ...]
    made: bool = False
    _everyone: Instance | None = None

    @property
    def everyone(self) -> Instance:
        """Stands for any instance of it."""
        if self._everyone is None:
            self._everyone = Instance(self, {})
        return self._everyone


@dataclass(slots=True, eq=False)
class Instance:
    """An object of a class of the repository.

    Attributes:
        given: Identity of what its constructor was given -> the call that gave it, as (file, node).
    """

    kind: Kind
    attributes: dict[str, Value]
    given: dict[int, tuple[str, ast.AST]] = field(default_factory=dict)

    def put(self, name: str, value: Value) -> None:
        """Note one more thing that an attribute can be."""
        for holder in {id(self): self, id(self.kind.everyone): self.kind.everyone}.values():
            holder.attributes[name] = joined(holder.attributes.get(name, ()), value)


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """A method of a text or a collection."""

    owner: Text | Items | Entries
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Partial:
    """A callable with some arguments given, as `functools.partial` makes it."""

    target: Value
    positional: tuple[Value, ...]
    named: Mapping[str, Value]


Atom = Foreign | Text | Constant | Items | Entries | Service | Module | Routine | Kind | Instance | Method | Partial
Value = tuple[Atom, ...]


def joined(*values: Value) -> Value:
    """Return what is one of several values."""
    if len(values) == 1 and len(values[0]) <= 1:  # most often
        return values[0]
    found: dict[Any, Atom] = {}
    for value in values:
        for atom in value:
            found.setdefault(_identity(atom), atom)
    return tuple(found.values()) if len(found) <= WIDEST else (*list(found.values())[:WIDEST], Foreign("?"))


def _identity(atom: Atom) -> Any:
    match atom:
        case Text():
            return ("text", atom.text, atom.file, atom.at, tuple(map(id, atom.made_of)))
        case Constant():
            return (type(atom.value), atom.value)
        case _:
            return id(atom)


def _same(left: Value, right: Value) -> bool:
    return [_identity(atom) for atom in left] == [_identity(atom) for atom in right]


def folded(text: str, *parts: Text | Foreign) -> Text:
    """Return a text that was computed from others."""
    leaves = dict.fromkeys(leaf for part in parts for leaf in (part.leaves if isinstance(part, Text) else (part,)))
    return Text(text, made_of=tuple(leaves)[:32] or (Text(text),))


def as_text(atom: Atom) -> Text:
    """Return an atom as part of a text: what is not known is a hole."""
    match atom:
        case Text():
            return atom
        case Constant() if not isinstance(atom.value, bytes):
            return Text(str(atom.value))
        case Foreign():
            return Text(HOLE, made_of=(atom,))
        case _:
            return Text(HOLE, made_of=(Foreign("?"),))


def concatenated(parts: Iterable[Value], separator: Text | None = None) -> Value:
    """Return the texts that parts make one after the other, one for each choice of alternatives."""
    columns = [tuple(map(as_text, part)) or (Text(HOLE, made_of=(Foreign("?"),)),) for part in parts]
    count = reduce(lambda total, column: total * len(column), columns, 1)
    if count > WIDEST:
        return (Foreign("?"),)
    between = separator.text if separator else ""
    extra = (separator,) if separator else ()
    return tuple(folded(between.join(t.text for t in chosen), *chosen, *extra) for chosen in product(*columns))


def formatted(pattern: Text, positional: list[Value], named: Mapping[str, Value]) -> Value:
    """Return what ``pattern.format(...)`` is.

    >>> [t.text for t in formatted(Text("{}:{name}"), [(Text("weather"),)], {"name": (Text("temp"),)})]
    ['weather:temp']
    """
    parts: list[Value] = []
    counter = 0
    try:
        for literal, name, spec, conversion in Formatter().parse(pattern.text):
            parts.append((folded(literal, pattern),))
            if name is None:
                continue
            key, counter = (name, counter) if name else (str(counter), counter + 1)
            known = positional[int(key)] if key.isdecimal() and int(key) < len(positional) else named.get(key)
            parts.append(known if known is not None and not spec and not conversion else (Foreign(f"{{{name}}}"),))
    except ValueError:
        return (Foreign("?.format()"),)
    return concatenated(parts)


def percent(pattern: Text, value: Value) -> Value:
    """Return what ``pattern % value`` is.

    >>> [t.text for t in percent(Text("%s:temp"), (Text("weather"),))]
    ['weather:temp']
    """
    results: list[Value] = []
    for atom in value:
        queue = list(atom.items) if isinstance(atom, Items) else [(atom,)]
        named = atom.entries if isinstance(atom, Entries) else {}
        parts: list[Value] = []
        end = 0
        for match in re.finditer(r"%(?:\((\w+)\))?([sdif%])", pattern.text):
            parts.append((folded(pattern.text[end : match.start()], pattern),))
            end = match.end()
            if match[2] == "%":
                parts.append((Text("%"),))
            elif match[1]:
                parts.append(named.get(match[1], (Foreign(f"%({match[1]})"),)))
            else:
                parts.append(queue.pop(0) if queue else (Foreign("%s"),))
        results.append(concatenated([*parts, (folded(pattern.text[end:], pattern),)]))
    return joined(*results)


_PLAIN: Mapping[str, Callable[..., Any]] = {
    method.__name__: method
    for method in (
        str.strip, str.lstrip, str.rstrip, str.lower, str.upper, str.title, str.capitalize, str.casefold, str.swapcase,
        str.replace, str.removeprefix, str.removesuffix, str.split, str.rsplit, str.splitlines, str.partition,
        str.rpartition, str.startswith, str.endswith, str.isidentifier, str.isdigit, str.isupper, str.islower, str.zfill,
    )
}  # fmt: skip


def call_method(method: Method, positional: list[Value], named: Mapping[str, Value]) -> Value:
    """Return what a method of a text or a collection gives."""
    match method.owner:
        case Text() as text:
            return _call_text(text, method.name, positional, named)
        case Items() as items:
            return _call_items(items, method.name, positional)
        case Entries() as entries:
            return _call_entries(entries, method.name, positional, named)


def _call_text(text: Text, name: str, positional: list[Value], named: Mapping[str, Value]) -> Value:  # noqa: PLR0911 - one answer for each method
    if name == "format":
        return formatted(text, positional, named)
    if name == "join" and positional:
        return joined(*(_join(text, atom) for atom in positional[0]))
    if name in ("encode", "decode", "expanduser", "resolve", "as_posix", "absolute", "format_map"):
        return (text,)
    if name == "joinpath":
        return concatenated([(text,), *positional], Text("/"))
    arguments = [value[0] for value in positional if len(value) == 1 and isinstance(value[0], (Text, Constant))]
    if name not in _PLAIN or not text.known or len(arguments) < len(positional):
        return (Text(HOLE, made_of=(*text.leaves, Foreign("?"))),)
    try:
        result = _PLAIN[name](text.text, *(a.text if isinstance(a, Text) else a.value for a in arguments))
    except (TypeError, ValueError):
        return (Foreign(f"?.{name}()"),)
    sources = [text, *(argument for argument in arguments if isinstance(argument, Text))]
    if isinstance(result, bool):
        return (Constant(result),)
    if isinstance(result, str):
        return (folded(result, *sources),)
    return (Items([(folded(part, *sources),) for part in result]),)


def _join(separator: Text, atom: Atom) -> Value:
    if isinstance(atom, Items) and atom.complete:
        return concatenated(atom.items, separator)
    return (Text(HOLE, made_of=(atom if isinstance(atom, Foreign) else Foreign("?"),)),)


def _call_items(items: Items, name: str, positional: list[Value]) -> Value:
    if name in ("append", "add") and positional:
        items.add(positional[0])
        return (Constant(None),)
    if name == "insert" and len(positional) > 1:
        items.add(positional[1])
        return (Constant(None),)
    if name in ("extend", "update"):
        extend(items, positional)
        return (Constant(None),)
    if name in ("pop", "popleft"):
        return joined(*items.items) or (Foreign("?"),)
    if name in ("copy", "union"):
        copy = Items(list(items.items), items.complete)
        extend(copy, positional)
        return (copy,)
    return (Foreign(f"?.{name}()"),)


def extend(items: Items, values: Iterable[Value]) -> None:
    """Add the elements of other collections."""
    for atom in (atom for value in values for atom in value):
        elements, complete = elements_of(atom)
        for element in elements:
            items.add(element)
        if not complete:
            items.add((atom if isinstance(atom, Foreign) else Foreign("?"),))


def elements_of(atom: Atom) -> tuple[list[Value], bool]:
    """Return what iterating gives, and whether that is all."""
    match atom:
        case Items():
            return list(atom.items), atom.complete
        case Entries():
            return [(_key_atom(key),) for key in atom.entries], atom.complete
        case Text() if atom.known:
            return [(folded(letter, atom),) for letter in atom.text], True
        case _:
            return [], False


def entry_key(atom: Atom) -> Any:
    """Return what stands for an atom as the key of a dict; None when it cannot be one."""
    match atom:
        case Text() if atom.known:
            return _TextKey(atom)
        case Constant():
            return atom.value
        case _:
            return None


class _TextKey(str):
    """A text as a key; it equals the plain string and keeps where it was written."""

    __slots__ = ("atom",)
    atom: Text

    def __new__(cls, atom: Text) -> Self:
        key = super().__new__(cls, atom.text)
        key.atom = atom
        return key


def _call_entries(entries: Entries, name: str, positional: list[Value], named: Mapping[str, Value]) -> Value:  # noqa: PLR0911 - one answer for each method
    match name:
        case "keys":
            return (Items([(_key_atom(key),) for key in entries.entries], entries.complete),)
        case "values":
            return (Items(list(entries.entries.values()), entries.complete),)
        case "items":
            pairs: list[Value] = [(Items([(_key_atom(key),), value]),) for key, value in entries.entries.items()]
            return (Items(pairs, entries.complete),)
        case "get" | "pop" | "setdefault" if positional:
            fallback = positional[1] if len(positional) > 1 else (Constant(None),)
            return element(entries, positional[0], fallback)
        case "copy":
            return (Entries(dict(entries.entries), entries.complete),)
        case "update":
            for atom in positional[0] if positional else ():
                entries.entries.update(atom.entries if isinstance(atom, Entries) else {})
                entries.complete &= isinstance(atom, Entries)
            entries.entries.update(named)
            return (Constant(None),)
        case _:
            return (Foreign(f"?.{name}()"),)


def _key_atom(key: Any) -> Atom:
    return key.atom if isinstance(key, _TextKey) else Text(key) if isinstance(key, str) else Constant(key)


def element(owner: Items | Entries, index: Value, fallback: Value | None = None) -> Value:
    """Return what stands at an index or key; all there is where the index is not known."""
    if len(index) == 1 and isinstance(index[0], (Constant, Text)):
        found = _exact(owner, entry_key(index[0]))
        if found is not None:
            return found
        if owner.complete and fallback is not None:
            return fallback
    everything = owner.items if isinstance(owner, Items) else list(owner.entries.values())
    rest = fallback if fallback is not None else ()
    return joined(*everything, rest, () if owner.complete and everything else (Foreign("?[]"),))


def _exact(owner: Items | Entries, key: Any) -> Value | None:
    if isinstance(owner, Entries):
        return owner.entries.get(key)
    if owner.complete and isinstance(key, int) and -len(owner.items) <= key < len(owner.items):
        return owner.items[key]
    return None


def leaves_of(value: Value, depth: int = 4) -> Iterator[Text | Foreign]:
    """Yield the literals and unknowns a value goes back to, those in collections included."""
    for atom in value:
        match atom:
            case Text():
                yield from atom.leaves
            case Foreign():
                yield atom.root or atom
            case Service():
                yield from atom.name.leaves
            case Items() if depth:
                for inner in atom.items:
                    yield from leaves_of(inner, depth - 1)
            case Entries() if depth:
                for key, inner in atom.entries.items():
                    if isinstance(key, _TextKey):
                        yield from key.atom.leaves
                    yield from leaves_of(inner, depth - 1)
            case _:
                pass
