"""What a function's parameters stand for in a call of it."""

from __future__ import annotations

import ast

from lineage.scan.calls import Arguments
from lineage.scan.values import Entries, Foreign, Items, Routine, Value, joined

Function = ast.FunctionDef | ast.AsyncFunctionDef


def parameters_of(routine: Routine, arguments: Arguments) -> dict[str, Value]:
    """Return what each parameter of a function stands for when it is called so."""
    node = routine.node.args
    positional = [a.arg for a in (*node.posonlyargs, *node.args)]
    names: dict[str, Value] = {}
    queue = list(arguments.positional)
    if routine.owner is not None and positional and not is_static(routine.node):
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


def decorators(node: Function | ast.Lambda) -> list[ast.expr]:
    """Return what decorates a function."""
    return [] if isinstance(node, ast.Lambda) else node.decorator_list


def is_static(node: Function | ast.Lambda) -> bool:
    """Say whether a method gets neither its object nor its class."""
    return any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in decorators(node))


def is_class_method(node: Function | ast.Lambda) -> bool:
    """Say whether a method gets its class."""
    return any(isinstance(d, ast.Name) and d.id == "classmethod" for d in decorators(node))
