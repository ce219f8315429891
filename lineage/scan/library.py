"""What calls of the standard library give when their arguments are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product

from lineage.scan.calls import Arguments
from lineage.scan.values import (
    Constant,
    Entries,
    Foreign,
    Items,
    Partial,
    Text,
    Value,
    concatenated,
    elements_of,
    entry_key,
    extend,
    joined,
)


def call_builtin(path: str, arguments: Arguments) -> Value | None:
    """Return what a call gives; None when nothing is known of it.

    Args:
        path: What is called, such as ``functools.partial``.
        arguments: With what.
    """
    known = _KNOWN.get(path.removeprefix("builtins."))
    return known(arguments) if known else None


def _collection(arguments: Arguments) -> Value:
    items = Items([])
    extend(items, arguments.positional[:1])
    return (items,)


def _chain(arguments: Arguments) -> Value:
    items = Items([], arguments.complete)
    extend(items, arguments.positional)
    return (items,)


def _chain_all(arguments: Arguments) -> Value:
    items = Items([])
    for atom in arguments.positional[0] if arguments.positional else ():
        elements, complete = elements_of(atom)
        extend(items, elements if complete else [*elements, (Foreign("?"),)])
    return (items,)


def _dict(arguments: Arguments) -> Value:
    found = Entries({}, arguments.complete)
    for atom in arguments.positional[0] if arguments.positional else ():
        if isinstance(atom, Entries):
            found.entries.update(atom.entries)
            found.complete &= atom.complete
            continue
        pairs, complete = elements_of(atom)
        found.complete &= complete
        for key, value in filter(None, map(_pair, pairs)):
            found.entries[key] = value
    found.entries.update(arguments.named)
    return (found,)


def _pair(value: Value) -> tuple[object, Value] | None:
    if len(value) != 1 or not isinstance(value[0], Items) or len(value[0].items) != 2:
        return None
    key, held = value[0].items
    named = entry_key(key[0]) if len(key) == 1 else None
    return None if named is None else (named, held)


def _zip(arguments: Arguments) -> Value:
    columns = [elements_of(value[0]) if len(value) == 1 else ([], False) for value in arguments.positional]
    rows = zip(*(elements for elements, _ in columns), strict=False)
    return (Items([(Items(list(row)),) for row in rows], all(complete for _, complete in columns)),)


def _enumerate(arguments: Arguments) -> Value:
    elements, complete = elements_of(arguments.positional[0][0]) if arguments.positional else ([], False)
    start = next((a.value for a in arguments.find(1, ("start",)) or () if isinstance(a, Constant)), 0)
    rows: list[Value] = [(Items([(Constant(start + place),), element]),) for place, element in enumerate(elements)]
    return (Items(rows, complete),)


def _range(arguments: Arguments) -> Value:
    bounds = [value[0].value for value in arguments.positional if len(value) == 1 and isinstance(value[0], Constant)]
    if len(bounds) < len(arguments.positional) or not all(isinstance(bound, int) for bound in bounds):
        return (Foreign("range()"),)
    numbers = range(*bounds)
    return (Items([(Constant(number),) for number in numbers[:1024]], len(numbers) <= 1024),)


def _product(arguments: Arguments) -> Value:
    columns = [elements_of(value[0]) if len(value) == 1 else ([], False) for value in arguments.positional]
    size = 1
    for elements, _ in columns:
        size *= len(elements)
    complete = all(known for _, known in columns) and size <= 4096
    rows = product(*(elements for elements, _ in columns)) if size <= 4096 else ()
    return (Items([(Items(list(row)),) for row in rows], complete),)


def _text(arguments: Arguments) -> Value:
    return concatenated(arguments.positional[:1]) if arguments.positional else (Text(""),)


def _path(arguments: Arguments) -> Value:
    return concatenated(arguments.positional, Text("/")) if arguments.positional else (Text("."),)


def _same(arguments: Arguments) -> Value:
    return arguments.positional[0] if arguments.positional else (Foreign("?"),)


def _second(arguments: Arguments) -> Value:
    return arguments.positional[1] if len(arguments.positional) > 1 else (Foreign("?"),)


def _environment(arguments: Arguments) -> Value:
    return joined((Foreign("os.environ"),), *arguments.positional[1:2])


def _partial(arguments: Arguments) -> Value:
    if not arguments.positional:
        return (Foreign("partial()"),)
    return (Partial(arguments.positional[0], tuple(arguments.positional[1:]), arguments.named),)


def _default(arguments: Arguments) -> Value | None:
    return arguments.named.get("default")


_KNOWN: Mapping[str, Callable[[Arguments], Value | None]] = {
    **dict.fromkeys(
        ("list", "tuple", "set", "frozenset", "sorted", "reversed", "iter", "deque", "collections.deque"), _collection
    ),
    **dict.fromkeys(("itertools.chain", "chain"), _chain),
    **dict.fromkeys(("itertools.chain.from_iterable", "chain.from_iterable"), _chain_all),
    **dict.fromkeys(("dict", "collections.OrderedDict", "types.MappingProxyType"), _dict),
    "zip": _zip,
    "enumerate": _enumerate,
    "range": _range,
    "itertools.product": _product,
    "str": _text,
    **dict.fromkeys(("pathlib.Path", "pathlib.PurePath", "os.path.join", "pathlib.PurePosixPath"), _path),
    **dict.fromkeys(
        (
            "json.dumps",
            "sqlalchemy.text",
            "sqlalchemy.sql.text",
            "text",
            "copy.copy",
            "copy.deepcopy",
            "asyncio.run",
            "os.path.expanduser",
            "os.path.abspath",
            "textwrap.dedent",
            "inspect.cleandoc",
            "orjson.dumps",
        ),
        _same,
    ),
    **dict.fromkeys(("typing.cast", "cast"), _second),
    **dict.fromkeys(("os.environ.get", "os.getenv"), _environment),
    **dict.fromkeys(("functools.partial", "functools.partialmethod"), _partial),
    **dict.fromkeys(("dataclasses.field", "pydantic.Field"), _default),
}
