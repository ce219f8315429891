"""The typed tree of an expression: five kinds of node, the functions they may call, and their form as plain data.

A tree is complete in itself: each conversion is a ``Cast`` node, the arguments of a call have exactly the types its function takes, and
``call`` and ``case`` refuse anything else, so that a tree read back from the registry cannot be wrong in type either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from featurestore.errors import DefinitionError, NotFoundError
from featurestore.types import DType

INTEGERS = ("int8", "int16", "int32", "int64")
FLOATS = ("float32", "float64")
NUMBERS = INTEGERS + FLOATS
TIMES = ("timestamp", "date")
TIME_FIELDS = ("year", "quarter", "month", "week", "day", "doy", "dow", "isodow", "hour", "minute", "second")
BITS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}


class Expression:
    """One node of a tree, and everything below it."""

    __slots__ = ()
    dtype: str

    @property
    def direct_columns(self) -> frozenset[str]:
        """Columns whose values flow into the result."""
        raise NotImplementedError

    @property
    def indirect_columns(self) -> frozenset[str]:
        """Columns that decide which value is taken: the conditions of CASE and what NULLIF compares with."""
        raise NotImplementedError

    @property
    def columns(self) -> frozenset[str]:
        """Every column that the expression reads."""
        return self.direct_columns | self.indirect_columns


@dataclass(frozen=True, slots=True)
class ColumnRef(Expression):
    """The value of a column."""

    name: str
    dtype: str

    @property
    def direct_columns(self) -> frozenset[str]:
        """The column itself."""
        return frozenset((self.name,))

    @property
    def indirect_columns(self) -> frozenset[str]:
        """None."""
        return frozenset()

    def __str__(self) -> str:
        return self.name if self.name.isidentifier() else '"' + self.name.replace('"', '""') + '"'


@dataclass(frozen=True, slots=True)
class Literal(Expression):
    """A constant: None (NULL), bool, int, float or str; an instant in microseconds and a date in days since 1970."""

    value: bool | int | float | str | None
    dtype: str

    @property
    def direct_columns(self) -> frozenset[str]:
        """None."""
        return frozenset()

    @property
    def indirect_columns(self) -> frozenset[str]:
        """None."""
        return frozenset()

    def __str__(self) -> str:
        if isinstance(self.value, str):
            return "'" + self.value.replace("'", "''") + "'"
        return "NULL" if self.value is None else str(self.value).lower()


@dataclass(frozen=True, slots=True)
class Cast(Expression):
    """A value converted to another type."""

    operand: Expression
    dtype: str

    @property
    def direct_columns(self) -> frozenset[str]:
        """Those of the operand."""
        return self.operand.direct_columns

    @property
    def indirect_columns(self) -> frozenset[str]:
        """Those of the operand."""
        return self.operand.indirect_columns

    def __str__(self) -> str:
        return f"CAST({self.operand} AS {self.dtype})"


@dataclass(frozen=True, slots=True)
class Call(Expression):
    """A function or operator of `FUNCTIONS` and its arguments; made by `call`, which checks them."""

    function: str
    arguments: tuple[Expression, ...]
    dtype: str

    @property
    def direct_columns(self) -> frozenset[str]:
        """Those of all arguments."""
        return frozenset().union(*(argument.direct_columns for argument in self.arguments))

    @property
    def indirect_columns(self) -> frozenset[str]:
        """Those of all arguments."""
        return frozenset().union(*(argument.indirect_columns for argument in self.arguments))

    def __str__(self) -> str:
        texts = [str(argument) for argument in self.arguments]
        if self.function == "is_null":
            return f"({texts[0]} IS NULL)"
        if len(texts) == 2 and (not self.function.isalpha() or self.function in ("and", "or")):
            return f"({texts[0]} {self.function.upper()} {texts[1]})"
        return f"{self.function.upper()}({', '.join(texts)})"


@dataclass(frozen=True, slots=True)
class Case(Expression):
    """The result of the first branch whose condition is true, else `otherwise`; made by `case`, which checks the types."""

    branches: tuple[tuple[Expression, Expression], ...]
    otherwise: Expression
    dtype: str

    @property
    def direct_columns(self) -> frozenset[str]:
        """Those of the results."""
        results = [result.direct_columns for _, result in self.branches]
        return self.otherwise.direct_columns.union(*results)

    @property
    def indirect_columns(self) -> frozenset[str]:
        """Those of the conditions."""
        inner = [result.indirect_columns for _, result in self.branches]
        return self.otherwise.indirect_columns.union(*(condition.columns for condition, _ in self.branches), *inner)

    def __str__(self) -> str:
        branches = " ".join(f"WHEN {condition} THEN {result}" for condition, result in self.branches)
        return f"CASE {branches} ELSE {self.otherwise} END"


@dataclass(frozen=True, slots=True)
class Signature:
    """What a function takes and gives.

    Attributes:
        takes: The types of its arguments, which all have the same one; empty for any type.
        gives: The type of its result; empty for that of its arguments.
        least: Fewest arguments.
        most: Most arguments, or None for no limit.
    """

    takes: tuple[str, ...]
    gives: str
    least: int
    most: int | None


def _binary(names: str, takes: tuple[str, ...], gives: str = "") -> dict[str, Signature]:
    return {name: Signature(takes, gives, 2, 2) for name in names.split()}


def _unary(names: str, takes: tuple[str, ...], gives: str = "") -> dict[str, Signature]:
    return {name: Signature(takes, gives, 1, 1) for name in names.split()}


FUNCTIONS: dict[str, Signature] = {
    **_binary("+ - * %", NUMBERS),
    **_binary("/", FLOATS),
    **_binary("//", INTEGERS),
    **_binary("= <> < <= > >=", (), "bool"),
    **_binary("and or", ("bool",)),
    **_binary("||", ("string",)),
    **_unary("not", ("bool",)),
    **_unary("is_null", (), "bool"),
    **_unary("negate abs", NUMBERS),
    **_unary("floor ceil", FLOATS),
    **_unary("round", NUMBERS),
    **_unary("sqrt", ("float64",)),
    **_unary("lower upper", ("string",)),
    **_unary("length", ("string",), "int64"),
    **{f"extract_{field}": Signature(TIMES, "int64", 1, 1) for field in TIME_FIELDS},
    **_unary("epoch", TIMES, "float64"),
    **_unary("epoch_us", ("timestamp",), "int64"),
    "round_to": Signature(FLOATS, "", 2, 2),
    "in": Signature((), "bool", 2, None),
    "coalesce": Signature((), "", 1, None),
    "least": Signature((), "", 1, None),
    "greatest": Signature((), "", 1, None),
}

CASTS: dict[str, tuple[str, ...]] = {
    "bool": ("bool", *NUMBERS, "string"),
    **dict.fromkeys(INTEGERS, ("bool", *NUMBERS, "string")),
    **dict.fromkeys(FLOATS, ("bool", *NUMBERS)),
    "timestamp": ("timestamp", "date"),
    "date": ("date", "timestamp"),
}


def column(name: str, dtype: str) -> ColumnRef:
    """Read a column of that type."""
    return ColumnRef(name, DType.of(dtype).name)


def literal(value: Any, dtype: str) -> Literal:
    """Make a constant; raises DefinitionError when the value is none of that type."""
    kinds: dict[str, type] = {"bool": bool, **dict.fromkeys(FLOATS, float), "string": str}
    kind = kinds.get(dtype, int if dtype in INTEGERS + TIMES else type(None))
    fits = value is None or (type(value) is kind and (type(value) is not int or in_range(value, dtype)))
    if not fits or (isinstance(value, float) and not math.isfinite(value)):
        raise DefinitionError(f"{value!r} is no constant of type {dtype}.")
    return Literal(value, DType.of(dtype).name)


def cast(operand: Expression, dtype: str) -> Cast:
    """Convert a value; raises DefinitionError where there is no exact rule for it."""
    target = DType.of(dtype).name
    if target != operand.dtype and target not in CASTS.get(operand.dtype, ()):
        possible = ", ".join(CASTS.get(operand.dtype, ())) or "nothing"
        raise DefinitionError(f"{operand.dtype} cannot become {target}; it can become {possible}.", place=str(operand))
    return Cast(operand, target)


def call(function: str, *arguments: Expression) -> Call:
    """Call a function; raises DefinitionError when it does not take these arguments."""
    signature = FUNCTIONS.get(function)
    if signature is None:
        raise DefinitionError(str(NotFoundError.of("function", function, FUNCTIONS)))
    if len(arguments) < signature.least or (signature.most is not None and len(arguments) > signature.most):
        raise DefinitionError(f"{function} does not take {len(arguments)} arguments.")
    dtypes = [argument.dtype for argument in arguments]
    if function == "round_to":
        _check_digits(arguments[1])
        dtypes.pop()
    if len(set(dtypes)) > 1 or (signature.takes and dtypes[0] not in signature.takes):
        takes = ", ".join(signature.takes) or "values of one type"
        raise DefinitionError(
            f"{function} takes {takes}, got {', '.join(dtypes)}.",
            place=" ".join(map(str, arguments)),
            repair="Write a CAST.",
        )
    return Call(function, arguments, signature.gives or dtypes[0])


def case(branches: tuple[tuple[Expression, Expression], ...], otherwise: Expression) -> Case:
    """Choose between values; raises DefinitionError when conditions are not bool or results differ in type."""
    for condition, result in branches:
        if condition.dtype != "bool":
            raise DefinitionError(f"A condition must be bool, not {condition.dtype}.", place=str(condition))
        if result.dtype != otherwise.dtype:
            raise DefinitionError(f"CASE gives {result.dtype} and {otherwise.dtype}.", place=str(result))
    return Case(branches, otherwise, otherwise.dtype)


def in_range(value: int, dtype: str) -> bool:
    """Whether a whole number fits a type (instants have 64 bits, dates 32).

    >>> in_range(127, "int8"), in_range(128, "int8")
    (True, False)
    """
    limit = 1 << (BITS.get(dtype, 32 if dtype == "date" else 64) - 1)
    return -limit <= value < limit


def to_json(expression: Expression) -> dict[str, Any]:
    """Return the tree as dicts, lists, strings, numbers and None.

    >>> to_json(call("+", column("a", "int64"), literal(1, "int64")))["call"]
    '+'
    """
    match expression:
        case ColumnRef(name, dtype):
            return {"column": name, "dtype": dtype}
        case Literal(value, dtype):
            return {"literal": value, "dtype": dtype}
        case Cast(operand, dtype):
            return {"cast": to_json(operand), "dtype": dtype}
        case Call(function, arguments, _):
            return {"call": function, "arguments": [to_json(argument) for argument in arguments]}
        case Case(branches, otherwise, _):
            pairs = [[to_json(condition), to_json(result)] for condition, result in branches]
            return {"case": pairs, "otherwise": to_json(otherwise)}
    raise TypeError(f"{expression!r} is no expression")


def from_json(tree: Mapping[str, Any]) -> Expression:
    """Build the expression of a tree that `to_json` made.

    Raises:
        DefinitionError: It is no such tree, names an unknown function, or its types do not fit together.
    """
    readers: dict[str, Callable[[Any], Expression]] = {
        "column": lambda node: column(node["column"], node["dtype"]),
        "literal": lambda node: _literal_from_json(node["literal"], node["dtype"]),
        "cast": lambda node: cast(from_json(node["cast"]), node["dtype"]),
        "call": lambda node: call(node["call"], *map(from_json, node["arguments"])),
        "case": lambda node: case(
            tuple((from_json(condition), from_json(result)) for condition, result in node["case"]),
            from_json(node["otherwise"]),
        ),
    }
    try:
        kind = next(kind for kind in readers if kind in tree)
        return readers[kind](tree)
    except DefinitionError:
        raise
    except (StopIteration, KeyError, TypeError, ValueError, AttributeError):
        raise DefinitionError(f"Not the tree of an expression: {tree!r:.200}.") from None


def _literal_from_json(value: Any, dtype: str) -> Literal:
    # JSON of some writers has 1 for 1.0.
    return literal(float(value) if dtype in FLOATS and type(value) is int else value, dtype)


def _check_digits(digits: Expression) -> None:
    if not (isinstance(digits, Literal) and digits.dtype in INTEGERS and isinstance(digits.value, int)):
        raise DefinitionError("ROUND takes its number of digits as a whole number.", place=str(digits))
