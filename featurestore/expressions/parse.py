"""SQL text to a typed tree. sqlglot reads the text; everything it knows and we do not compute exactly is refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any, NoReturn

from featurestore.errors import DefinitionError, NotFoundError
from featurestore.expressions.tree import (
    BITS,
    FLOATS,
    FUNCTIONS,
    INTEGERS,
    NUMBERS,
    TIME_FIELDS,
    TIMES,
    Expression,
    Literal,
    call,
    case,
    cast,
    column,
    in_range,
    literal,
)
from featurestore.types import EPOCH_DAY, to_micros

SUPPORTED = (
    "+ - * / // %, = <> < <= > >=, AND OR NOT, IS [NOT] NULL, IN (...), BETWEEN, CASE, IF, COALESCE, NULLIF, LEAST, GREATEST, CAST, "
    f"ABS, FLOOR, CEIL, ROUND, SQRT, ||, LOWER, UPPER, LENGTH, EXTRACT({' | '.join(TIME_FIELDS)} | epoch FROM ...), EPOCH, EPOCH_US"
)
_NULL = "null"  # the type of a bare NULL until its neighbours give it one
_SQL_TYPES = {
    "BOOLEAN": "bool",
    "TINYINT": "int8",
    "SMALLINT": "int16",
    "INT": "int32",
    "BIGINT": "int64",
    "FLOAT": "float32",
    "DOUBLE": "float64",
    "TEXT": "string",
    "VARCHAR": "string",
    "TIMESTAMP": "timestamp",
    "TIMESTAMPTZ": "timestamp",
    "DATE": "date",
}
_AMBIGUOUS_INT8 = re.compile(r"(?:\bas\s+|::\s*)int8\b", re.IGNORECASE)


def parse_expression(sql: str, *, columns: Mapping[str, str]) -> Expression:
    """Read one SQL scalar expression and check its types.

    Args:
        sql: The expression, e.g. ``distance / nullif(air_time, 0)``.
        columns: The columns it may read: name to type name.

    Raises:
        DefinitionError: It is no SQL, reads an unknown column, calls something that is not supported, or mixes types.

    >>> from featurestore.expressions import evaluate_scalar
    >>> speed = parse_expression("distance / nullif(air_time, 0) * 60", columns={"distance": "float64", "air_time": "int64"})
    >>> speed.dtype, sorted(speed.columns), evaluate_scalar(speed, {"distance": 400.0, "air_time": 60})
    ('float64', ['air_time', 'distance'], 400.0)
    """
    if _AMBIGUOUS_INT8.search(sql):
        raise DefinitionError("INT8 has 8 bytes in SQL and 8 bits here.", place=sql, repair="Write BIGINT or TINYINT.")
    try:
        expression = _Parser(columns).expression(_select_list(sql))
    except RecursionError:
        raise DefinitionError("The expression is nested too deeply.", place=f"{sql:.80}...") from None
    if expression.dtype == _NULL:
        raise DefinitionError("The expression is NULL and nothing else.", place=sql, repair="Write CAST(NULL AS type).")
    return expression


def _select_list(sql: str) -> Any:
    """Return sqlglot's tree of the only expression in the text."""
    import sqlglot
    from sqlglot.errors import SqlglotError

    try:
        # Behind SELECT a column may be called like a statement: `show`, `set`, `comment`.
        statements = sqlglot.parse(f"SELECT {sql}\n", read="duckdb")
    except SqlglotError as error:
        facts = (getattr(error, "errors", None) or [{}])[0]
        reason = facts.get("description") or "it cannot be read"
        raise DefinitionError(f"Not a SQL expression: {reason.rstrip('.')}.", place=sql) from None
    select = statements[0] if len(statements) == 1 else None
    if select is None or type(select).__name__ != "Select" or _set_arguments(select) != {"expressions"}:
        raise DefinitionError("Expected one SQL expression and nothing around it.", place=sql)
    if len(select.expressions) != 1:
        raise DefinitionError(f"Expected one SQL expression, got {len(select.expressions)}.", place=sql)
    return select.expressions[0]


def _set_arguments(node: Any) -> set[str]:
    return {name for name, value in node.args.items() if value is not None and value is not False and value != []}


class _Parser:
    """One method for each kind of sqlglot node that we take; `_NODES` is the table."""

    def __init__(self, columns: Mapping[str, str]) -> None:
        self._columns = columns

    def expression(self, node: Any) -> Expression:
        kind = type(node).__name__
        handler, known = _NODES.get(kind, (None, frozenset[str]()))
        unknown = _set_arguments(node) - known - {"this", "expression", "expressions"}
        if handler is None or unknown:
            name = getattr(node, "name", "") if kind == "Anonymous" else node.key if hasattr(node, "key") else kind
            raise DefinitionError(
                f"'{name}' is not supported here.", place=_sql(node), repair=f"There is: {SUPPORTED}."
            )
        return handler(self, node)

    def all(self, nodes: Iterable[Any]) -> list[Expression]:
        return [self.expression(node) for node in nodes]

    def paren(self, node: Any) -> Expression:
        return self.expression(node.this)

    def column(self, node: Any) -> Expression:
        if node.name not in self._columns or type(node.this).__name__ != "Identifier":
            error = NotFoundError.of("column", node.name, self._columns)
            raise DefinitionError(error.message, place=_sql(node))
        return column(node.name, self._columns[node.name])

    def literal(self, node: Any) -> Expression:
        return literal(node.this, "string") if node.is_string else _number(node.this, node)

    def boolean(self, node: Any) -> Expression:
        return literal(bool(node.this), "bool")

    def null(self, _: Any) -> Expression:
        return Literal(None, _NULL)

    def negate(self, node: Any) -> Expression:
        if type(node.this).__name__ == "Literal" and not node.this.is_string:
            return _number(f"-{node.this.this}", node)
        return call("negate", self.expression(node.this))

    def arithmetic(self, node: Any) -> Expression:
        function = _OPERATORS[type(node).__name__]
        arguments = unify(self.all((node.this, node.expression)), node)
        if function == "/" and arguments[0].dtype in INTEGERS:
            arguments = [convert(argument, "float64", node) for argument in arguments]
        return self.checked(node, function, arguments)

    def comparison(self, node: Any) -> Expression:
        if any(type(side).__name__ in _COMPARISONS for side in (node.this, node.expression)):
            raise DefinitionError("Comparisons cannot be chained.", place=_sql(node), repair="Join them with AND.")
        return self.compared(
            _OPERATORS[type(node).__name__], self.expression(node.this), self.expression(node.expression), node
        )

    def compared(self, function: str, left: Expression, right: Expression, node: Any) -> Expression:
        return self.checked(node, function, unify([left, right], node))

    def logic(self, node: Any) -> Expression:
        arguments = [convert(argument, "bool", node) for argument in self.all((node.this, node.expression))]
        return self.checked(node, _OPERATORS[type(node).__name__], arguments)

    def negation(self, node: Any) -> Expression:
        return self.checked(node, "not", [convert(self.expression(node.this), "bool", node)])

    def is_null(self, node: Any) -> Expression:
        if type(node.expression).__name__ != "Null":
            raise DefinitionError("IS takes NULL or NOT NULL only.", place=_sql(node), repair="Compare with = instead.")
        operand = self.expression(node.this)
        return call("is_null", literal(None, "bool") if operand.dtype == _NULL else operand)

    def contained(self, node: Any) -> Expression:
        return self.checked(node, "in", unify(self.all((node.this, *node.expressions)), node))

    def between(self, node: Any) -> Expression:
        operand = self.expression(node.this)
        low, high = self.all((node.args["low"], node.args["high"]))
        # One common type for all three, as the comparison of an int8 with 1000 must not depend on the other end.
        operand, low, high = unify([operand, low, high], node)
        return call("and", call(">=", operand, low), call("<=", operand, high))

    def case(self, node: Any) -> Expression:
        subject = self.expression(node.this) if node.this is not None else None
        conditions = []
        for branch in node.args["ifs"]:
            condition = self.expression(branch.this)
            conditions.append(condition if subject is None else self.compared("=", subject, condition, branch))
        results = self.all(branch.args["true"] for branch in node.args["ifs"])
        return _choose(conditions, results, self.otherwise(node.args.get("default")), node)

    def condition(self, node: Any) -> Expression:
        result = self.expression(node.args["true"])
        return _choose([self.expression(node.this)], [result], self.otherwise(node.args.get("false")), node)

    def otherwise(self, node: Any) -> Expression:
        return Literal(None, _NULL) if node is None else self.expression(node)

    def null_if(self, node: Any) -> Expression:
        value, other = self.all((node.this, node.expression))
        equal = self.compared("=", value, other, node)
        return _choose([equal], [Literal(None, _NULL)], value, node)

    def choice(self, node: Any) -> Expression:
        arguments = unify(self.all((node.this, *node.expressions)), node)
        return self.checked(node, type(node).__name__.lower(), arguments)

    def rounding(self, node: Any) -> Expression:
        operand = self.expression(node.this)
        return self.checked(node, type(node).__name__.lower(), [convert(operand, _float_for(operand), node)])

    def round(self, node: Any) -> Expression:
        operand, digits = self.expression(node.this), node.args.get("decimals")
        if digits is None:
            return self.checked(node, "round", [operand])
        return self.checked(node, "round_to", [operand, self.expression(digits)])

    def root(self, node: Any) -> Expression:
        return self.checked(node, "sqrt", [convert(self.expression(node.this), "float64", node)])

    def function(self, node: Any) -> Expression:
        return self.checked(node, type(node).__name__.lower(), [self.expression(node.this)])

    def cast(self, node: Any) -> Expression:
        name = node.args["to"].this.name
        target = _SQL_TYPES.get(name)
        if target is None or node.args["to"].expressions:
            raise DefinitionError(
                f"No cast to {_sql(node.args['to'])}.", place=_sql(node), repair=f"There is: {', '.join(_SQL_TYPES)}."
            )
        operand = self.expression(node.this)
        if operand.dtype == _NULL:
            return cast(Literal(None, target), target)
        if isinstance(operand, Literal) and operand.dtype == "string" and target in TIMES:
            return convert(operand, target, node)
        return cast(operand, target) if isinstance(operand, Literal) or operand.dtype != target else operand

    def concatenation(self, node: Any) -> Expression:
        arguments = [convert(argument, "string", node) for argument in self.all((node.this, node.expression))]
        return self.checked(node, "||", arguments)

    def extract(self, node: Any) -> Expression:
        return self.time_field(node.this.name.lower(), self.expression(node.expression), node)

    def epoch(self, node: Any) -> Expression:
        return self.time_field("epoch", self.expression(node.this), node)

    def anonymous(self, node: Any) -> Expression:
        name, arguments = node.name.lower(), node.expressions
        if name == "epoch_us" and len(arguments) == 1:
            return self.checked(node, "epoch_us", [convert(self.expression(arguments[0]), "timestamp", node)])
        if name == "date_part" and len(arguments) == 2 and arguments[0].is_string:
            return self.time_field(arguments[0].name.lower(), self.expression(arguments[1]), node)
        raise DefinitionError(
            f"'{node.name}' is not supported here.", place=_sql(node), repair=f"There is: {SUPPORTED}."
        )

    def time_field(self, name: str, operand: Expression, node: Any) -> Expression:
        if name not in (*TIME_FIELDS, "epoch"):
            error = NotFoundError.of("field of a time", name, (*TIME_FIELDS, "epoch"))
            raise DefinitionError(error.message, place=_sql(node))
        return self.checked(node, name if name == "epoch" else f"extract_{name}", [operand])

    def checked(self, node: Any, function: str, arguments: Sequence[Expression]) -> Expression:
        takes = FUNCTIONS[function].takes
        typed = [
            convert(argument, takes[-1], node) if argument.dtype == _NULL and takes else argument
            for argument in arguments
        ]
        try:
            return call(function, *typed)
        except DefinitionError as error:
            raise DefinitionError(error.message, place=_sql(node), repair=error.repair) from None


def _choose(
    conditions: Sequence[Expression], results: Sequence[Expression], otherwise: Expression, node: Any
) -> Expression:
    *typed, last = unify([*results, otherwise], node)
    return case(tuple(zip((convert(c, "bool", node) for c in conditions), typed, strict=True)), last)


def unify(arguments: Sequence[Expression], node: Any) -> list[Expression]:
    """Convert the arguments to the one type in which they meet; constants give way to columns."""
    target = _meeting_type([argument for argument in arguments if argument.dtype != _NULL], node)
    return [convert(argument, target, node) for argument in arguments]


def _meeting_type(arguments: Sequence[Expression], node: Any) -> str:
    dtypes = {argument.dtype for argument in arguments}
    fixed = {argument.dtype for argument in arguments if not isinstance(argument, Literal)}
    if dtypes <= set(NUMBERS):
        return _meeting_number(arguments, fixed) if dtypes else _NULL
    if len(dtypes) == 1:
        return next(iter(dtypes))
    temporal = dtypes & set(TIMES)
    if temporal and not fixed - set(TIMES) and dtypes <= {*TIMES, "string"}:
        return "timestamp" if "timestamp" in temporal else "date"
    raise DefinitionError(f"{' and '.join(sorted(dtypes))} do not meet.", place=_sql(node), repair="Write a CAST.")


def _meeting_number(arguments: Sequence[Expression], fixed: set[str]) -> str:
    wide = max(fixed, key=NUMBERS.index) if fixed else None
    for argument in arguments:
        if isinstance(argument, Literal) and not (wide and _gives_way(argument, wide)):
            wide = max(wide or argument.dtype, argument.dtype, key=NUMBERS.index)
    return wide or _NULL


def _gives_way(constant: Literal, dtype: str) -> bool:
    if constant.dtype in FLOATS:
        return dtype in FLOATS
    return dtype in FLOATS or in_range(int(constant.value or 0), dtype)


def convert(argument: Expression, dtype: str, node: Any) -> Expression:
    """Return the argument in another type, where that needs no CAST in the text."""
    if argument.dtype == dtype:
        return argument
    if isinstance(argument, Literal):
        return _constant(argument, dtype, node)
    if (argument.dtype in NUMBERS and dtype in NUMBERS) or (argument.dtype == "date" and dtype == "timestamp"):
        return cast(argument, dtype)
    return _refuse_type(argument, dtype, node)


def _constant(constant: Literal, dtype: str, node: Any) -> Expression:
    value = constant.value
    if value is None:
        return Literal(None, dtype)
    if constant.dtype == "string" and dtype in TIMES:
        return literal(_instant(str(value), dtype, node), dtype)
    if constant.dtype in INTEGERS and dtype == "float64":
        return literal(float(value), dtype)
    if constant.dtype in INTEGERS and dtype in BITS:
        return literal(value, dtype)
    if (constant.dtype in NUMBERS and dtype in NUMBERS) or (constant.dtype == "date" and dtype == "timestamp"):
        return cast(constant, dtype)
    return _refuse_type(constant, dtype, node)


def _refuse_type(argument: Expression, dtype: str, node: Any) -> NoReturn:
    raise DefinitionError(f"Expected {dtype}, got {argument.dtype}.", place=_sql(node), repair="Write a CAST.")


def _instant(text: str, dtype: str, node: Any) -> int:
    try:
        if dtype == "timestamp":
            return to_micros(datetime.fromisoformat(text))
        return (date.fromisoformat(text) - EPOCH_DAY).days
    except ValueError:
        raise DefinitionError(f"'{text}' is no {dtype}.", place=_sql(node), repair="Write it as 2013-11-01.") from None


def _number(text: str, node: Any) -> Literal:
    if text.lstrip("-").isdigit():
        value = int(text)
        dtype = next((name for name in ("int32", "int64") if in_range(value, name)), None)
        if dtype is None:
            raise DefinitionError(f"{text} does not fit int64.", place=_sql(node))
        return literal(value, dtype)
    try:
        return literal(float(text), "float64")
    except ValueError:
        raise DefinitionError(f"'{text}' is no number.", place=_sql(node)) from None


def _float_for(operand: Expression) -> str:
    return operand.dtype if operand.dtype in FLOATS else "float64"


def _sql(node: Any) -> str:
    return str(node.sql(dialect="duckdb"))


_OPERATORS = {
    "Add": "+",
    "Sub": "-",
    "Mul": "*",
    "Div": "/",
    "IntDiv": "//",
    "Mod": "%",
    "EQ": "=",
    "NEQ": "<>",
    "LT": "<",
    "LTE": "<=",
    "GT": ">",
    "GTE": ">=",
    "And": "and",
    "Or": "or",
}
_COMPARISONS = ("EQ", "NEQ", "LT", "LTE", "GT", "GTE")
_Handler = Callable[[_Parser, Any], Expression]
_NODES: dict[str, tuple[_Handler, frozenset[str]]] = {
    "Paren": (_Parser.paren, frozenset()),
    "Column": (_Parser.column, frozenset()),
    "Literal": (_Parser.literal, frozenset({"is_string"})),
    "Boolean": (_Parser.boolean, frozenset()),
    "Null": (_Parser.null, frozenset()),
    "Neg": (_Parser.negate, frozenset()),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "IntDiv", "Mod"), (_Parser.arithmetic, frozenset[str]())),
    **dict.fromkeys(_COMPARISONS, (_Parser.comparison, frozenset[str]())),
    **dict.fromkeys(("And", "Or"), (_Parser.logic, frozenset[str]())),
    "Not": (_Parser.negation, frozenset()),
    "Is": (_Parser.is_null, frozenset()),
    "In": (_Parser.contained, frozenset()),
    "Between": (_Parser.between, frozenset({"low", "high"})),
    "Case": (_Parser.case, frozenset({"ifs", "default"})),
    "If": (_Parser.condition, frozenset({"true", "false"})),
    "Nullif": (_Parser.null_if, frozenset()),
    "Coalesce": (_Parser.choice, frozenset()),
    **dict.fromkeys(("Least", "Greatest"), (_Parser.choice, frozenset({"ignore_nulls"}))),
    **dict.fromkeys(("Floor", "Ceil"), (_Parser.rounding, frozenset[str]())),
    "Round": (_Parser.round, frozenset({"decimals"})),
    "Sqrt": (_Parser.root, frozenset()),
    **dict.fromkeys(("Abs", "Lower", "Upper", "Length"), (_Parser.function, frozenset[str]())),
    "Cast": (_Parser.cast, frozenset({"to"})),
    "DPipe": (_Parser.concatenation, frozenset({"safe"})),
    "Extract": (_Parser.extract, frozenset()),
    "TimeToUnix": (_Parser.epoch, frozenset()),
    "Anonymous": (_Parser.anonymous, frozenset()),
}
