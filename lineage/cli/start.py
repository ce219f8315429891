"""How a command starts: only its part of the program is built, and its plain arguments are read without pydantic.

Building every command of a program, and the pydantic that typer reads arguments with, take longer than most answers.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_args

import typer
from typer.core import TyperGroup
from typer.main import get_command

_READ_BY = "get_runtime_param"  # what typer asks of a parameter for how its words are read


@dataclass(frozen=True, slots=True)
class Part:
    """Some commands of a program.

    Attributes:
        home: The module, and its name in it: ``lineage.cli.reading:app``.
        commands: The names of its commands.
        group: The word before them; empty is none.
    """

    home: str
    commands: tuple[str, ...]
    group: str = ""

    @property
    def words(self) -> tuple[str, ...]:
        """What may stand first on a command line that means this part."""
        return (self.group,) if self.group else self.commands

    def load(self) -> typer.Typer:
        """Import it."""
        module, _, name = self.home.partition(":")
        loaded: typer.Typer = getattr(importlib.import_module(module), name)
        return loaded


def program(name: str, summary: str, parts: Sequence[Part], arguments: Sequence[str] = ()) -> typer.Typer:
    """Return a program with what a command line needs of it.

    Args:
        name: What it is called.
        summary: What its help says.
        parts: All there is, in the order of the help.
        arguments: The command line; one that begins with no command, as ``--help``, needs every part.
    """
    app = typer.Typer(
        name=name, help=summary, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
    )
    asked = [part for part in parts if arguments and arguments[0] in part.words]
    for part in asked or parts:
        app.add_typer(part.load(), name=part.group or None)
    return app


def run(app: typer.Typer, arguments: Sequence[str]) -> None:
    """Run a command line.

    Raises:
        SystemExit: Always, as typer does; what a command raises passes through.
    """
    command = get_command(app)
    for parameter in _parameters(command):
        setattr(parameter, _READ_BY, _Reader(parameter.type_descriptor, getattr(parameter, _READ_BY)))
    command(list(arguments))


def _parameters(command: Any) -> Iterator[Any]:
    """Yield the parameters of a command, and those of the commands in it."""
    yield from command.get_params(typer.Context(command))  # with --help, which is made when it is first asked for
    for inner in command.commands.values() if isinstance(command, TyperGroup) else ():
        yield from _parameters(inner)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads the words of one parameter; what is not plain is left to typer, which also knows how to refuse."""

    described: Any
    typers: Callable[[], Any]

    def __call__(self) -> _Reader:
        return self

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        try:
            return plain(self.described, value)
        except NotPlainError:
            return self.typers().coerce(value, param=param, ctx=ctx)


class NotPlainError(ValueError):
    """A value whose reading takes more than its type."""


def plain(described: Any, value: Any) -> Any:
    """Return a value of the command line in the type of its parameter.

    Args:
        described: typer's description of the parameter.
        value: A word, several, or a default.

    Raises:
        NotPlainError: It takes more than a type to read it, or it is not of that type.
    """
    info = described.parameter_info
    if described.is_tuple or described.is_file or info.parser is not None or info.clamp or not info.case_sensitive:
        raise NotPlainError
    if value is None:
        return () if described.is_list else None
    if not described.is_list:
        return _read(described.annotation, value, info)
    if isinstance(value, str):
        raise NotPlainError
    (kind,) = get_args(described.annotation)
    return [_read(kind, word, info) for word in value]


def _read(kind: Any, word: Any, info: Any) -> Any:
    if issubclass(kind, Enum):
        return word if isinstance(word, kind) else _choice(kind, word)
    if kind not in _READERS:
        raise NotPlainError
    found = word if type(word) is kind else _READERS[kind](str(word))
    if isinstance(found, Path) and not _is_plain_path(found, info):
        raise NotPlainError
    if isinstance(found, int | float) and not _is_in_range(found, info):
        raise NotPlainError
    return found


def _choice(kind: type[Enum], word: Any) -> Enum:
    for choice in kind:
        if choice.value == word:
            return choice
    raise NotPlainError


def _whole(word: str) -> int:
    if not (word.isascii() and word.isdigit()):
        raise NotPlainError
    return int(word)


def _number(word: str) -> float:
    whole, _, fraction = word.partition(".")
    _whole(whole + fraction)
    return float(word)


def _truth(word: str) -> bool:
    raise NotPlainError(word)  # a flag comes as a bool; its words, as of a variable, are typer's


_READERS: Mapping[Any, Callable[[str], Any]] = {str: str, Path: Path, int: _whole, float: _number, bool: _truth}


def _is_plain_path(path: Path, info: Any) -> bool:
    asks = info.exists or info.writable or info.resolve_path or info.allow_dash or info.path_type is not None
    return not asks and info.file_okay and info.dir_okay and (os.access(path, os.R_OK) or not path.exists())


def _is_in_range(number: float, info: Any) -> bool:
    return (info.min is None or info.min <= number) and (info.max is None or number <= info.max)
