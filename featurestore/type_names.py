"""The only parser of the names of types: ``int64``, ``decimal(12,2)``, ``list<T>``, ``struct<a:T,b:U>``, ``vector<T,n>``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from featurestore.errors import DefinitionError, nearest_name

INTEGERS = ("int8", "int16", "int32", "int64")
FLOATS = ("float32", "float64")
SCALARS = ("bool", *INTEGERS, *FLOATS, "string", "binary", "timestamp", "date")
NESTED = {"list": "list<T>", "struct": "struct<a:T>", "vector": "vector<T,n>"}
MAX_PRECISION = 38

_PARAMETERS = {"decimal": "decimal(p,s)"} | NESTED
_DECIMAL = re.compile(r"decimal\s*\(\s*(\d{1,2})\s*,\s*(\d{1,2})\s*\)")
_WORD = re.compile(r"[^<>,:()\s]*")
_SPACE = re.compile(r"\s*")
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_MAX_DEPTH = 16
_MAX_LENGTH = 65_536  # a row has at most 2 MiB


@dataclass(frozen=True, slots=True)
class TypeForm:
    """A name that was read.

    Attributes:
        name: Its one spelling.
        family: The name without parameters.
        parts: (name, type) of each field of a struct; of a list or vector, one with the element's type.
        length: Elements of a vector, else 0.
        digits: Precision and scale of a decimal, else zeros.
    """

    name: str
    family: str
    parts: tuple[tuple[str, str], ...] = ()
    length: int = 0
    digits: tuple[int, int] = (0, 0)


@lru_cache(maxsize=4096)
def read_type_name(name: str) -> TypeForm:
    """Read the name of a type; spaces are free. Raises DefinitionError: an unknown type, with the nearest, or what is wrong.

    >>> read_type_name("vector< float32, 128 >")
    TypeForm(name='vector<float32,128>', family='vector', parts=(('', 'float32'),), length=128, digits=(0, 0))
    """
    return _Reader(name).whole()


class _Reader:
    """Reads the name of a type from left to right."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._at = 0
        self._depth = 0

    def whole(self) -> TypeForm:
        form = self._form()
        if self._at < len(self._name):
            raise self._wrong(f"expected the end, not '{self._name[self._at :]:.20}'")
        return form

    def _form(self) -> TypeForm:
        self._skip(_SPACE)
        if match := _DECIMAL.match(self._name, self._at):
            self._at = match.end()
            self._skip(_SPACE)
            return _decimal(int(match[1]), int(match[2]))
        word = self._skip(_WORD)
        self._skip(_SPACE)
        if word in NESTED and self._name[self._at : self._at + 1] == "<":
            return self._nested(word)
        if word not in SCALARS:
            raise self._unknown(word)
        return TypeForm(word, word)

    def _nested(self, family: str) -> TypeForm:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._wrong(f"types are nested at most {_MAX_DEPTH} deep")
        self._take("<")
        form = {"list": self._list, "struct": self._struct, "vector": self._vector}[family]()
        self._take(">")
        self._depth -= 1
        return form

    def _list(self) -> TypeForm:
        element = self._form()
        return TypeForm(f"list<{element.name}>", "list", (("", element.name),))

    def _struct(self) -> TypeForm:
        fields: dict[str, str] = {}
        while not fields or self._name[self._at : self._at + 1] == ",":
            if fields:
                self._take(",")
            self._skip(_SPACE)
            name = self._skip(_WORD)
            if not _FIELD.fullmatch(name):
                raise self._wrong(f"'{name}' cannot be the name of a field")
            if name.lower() in map(str.lower, fields):
                raise self._wrong(f"field '{name}' is there twice, or differs from another in case alone")
            self._take(":")
            fields[name] = self._form().name
        spelled = ",".join(f"{name}:{dtype}" for name, dtype in fields.items())
        return TypeForm(f"struct<{spelled}>", "struct", tuple(fields.items()))

    def _vector(self) -> TypeForm:
        element = self._form().name
        if element not in INTEGERS + FLOATS:
            raise self._wrong(f"a vector has integers or floats, not {element}; a list may have anything")
        self._take(",")
        self._skip(_SPACE)
        digits = self._skip(_WORD)
        if not digits.isdecimal() or not 1 <= int(digits[:9]) <= _MAX_LENGTH:
            raise self._wrong(f"a vector has 1 to {_MAX_LENGTH} elements, not '{digits}'")
        self._skip(_SPACE)
        return TypeForm(f"vector<{element},{int(digits)}>", "vector", (("", element),), int(digits))

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._name, self._at)
        assert match is not None  # both patterns match nothing at all
        self._at = match.end()
        return match[0]

    def _take(self, mark: str) -> None:
        self._skip(_SPACE)
        if self._name[self._at : self._at + 1] != mark:
            found = f"'{self._name[self._at :]:.20}'" if self._at < len(self._name) else "the end"
            raise self._wrong(f"expected '{mark}', not {found}")
        self._at += 1
        self._skip(_SPACE)

    def _wrong(self, what: str) -> DefinitionError:
        return DefinitionError(f"'{self._name}' is not a type: {what}.")

    def _unknown(self, word: str) -> DefinitionError:
        spelled = {name: name for name in SCALARS} | _PARAMETERS
        near = word if word in spelled else nearest_name(word, spelled)
        hint = f"Did you mean '{spelled[near]}'?" if near else f"There is: {', '.join(spelled.values())}."
        return DefinitionError(f"No type '{word}'. {hint}", place=self._name if self._depth else None)


def _decimal(precision: int, scale: int) -> TypeForm:
    name = f"decimal({precision},{scale})"
    if not 1 <= precision <= MAX_PRECISION or scale > precision:
        raise DefinitionError(f"{name} needs 1 to {MAX_PRECISION} digits, and no more of them after the point.")
    return TypeForm(name, "decimal", digits=(precision, scale))
