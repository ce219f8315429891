"""The flow of an expression: what is direct and what only decides, node by node."""

from __future__ import annotations

from functools import singledispatch

from sqlglot import exp

from lineage.columns.flow import CONSTANT, Binding, Column, Flow, Relation, Scope, opaque, struct, union

# Aggregates of DuckDB that the parser does not know as such: `duckdb_functions()` where function_type is 'aggregate'.
_AGGREGATES = frozenset(
    {"approx_top_k", "arbitrary", "arg_max_null", "arg_max_nulls_last", "arg_min_null", "arg_min_nulls_last"}
    | {"bit_and", "bit_or", "bit_xor", "bitstring_agg", "entropy", "favg", "fsum", "sumkahan", "kahan_sum", "histogram"}
    | {"histogram_exact", "kurtosis_pop", "last", "listagg", "lttb", "mad", "mean", "product", "regr_sxy", "regr_syy"}
    | {"regr_avgx", "regr_avgy", "regr_count", "regr_intercept", "regr_r2", "regr_slope", "regr_sxx", "sem"}
    | {"reservoir_quantile", "sum_no_overflow", "max_by", "min_by", "argmax", "argmin", "quantile", "quantile_cont"}
    | {"quantile_disc", "count_star", "countif", "count_if", "skewness", "kurtosis", "geomean", "geometric_mean"}
    | {"string_agg", "group_concat", "approx_count_distinct", "approx_quantile", "bool_and", "bool_or", "first"}
)
_CHOOSING = ("arg_max", "arg_min", "argmax", "argmin", "max_by", "min_by")  # the second argument chooses the first
_IF = frozenset({"if", "iff"})
_QUERIES = (exp.Query, exp.Values)


@singledispatch
def flow_of(node: exp.Expr, scope: Scope) -> Flow:
    """Return where the value of an expression comes from.

    A function, known or not, is made from its arguments. Conditions decide and do not flow; so do the order and partition of a
    window, the keys that an aggregate is chosen by, and what a subquery looks at.

    Args:
        node: The expression.
        scope: What its names mean.
    """
    return _parts(node, scope)


def _parts(node: exp.Expr, scope: Scope) -> Flow:
    """Return all that the expression is made from, in whatever way."""
    return union(flow_of(child, scope) for child in node.iter_expressions()).whole()


def is_aggregate(node: exp.Expr) -> bool:
    """Say whether the expression calls an aggregate outside windows and subqueries."""
    if isinstance(node, _QUERIES):
        return False
    if isinstance(node, exp.Window):
        return any(is_aggregate(child) for child in _parts_of_window(node))
    if isinstance(node, exp.AggFunc) or (isinstance(node, exp.Anonymous) and node.name.lower() in _AGGREGATES):
        return True
    return any(is_aggregate(child) for child in node.iter_expressions())


def _parts_of_window(window: exp.Window) -> list[exp.Expr]:
    """Return all below a window but the function that it applies."""
    function = window.this
    while isinstance(function, exp.Filter | exp.IgnoreNulls | exp.RespectNulls | exp.WithinGroup):
        function = function.this
    return [*function.iter_expressions(), *(child for child in window.iter_expressions() if child is not window.this)]


def rows_made(node: exp.Expr, scope: Scope) -> Flow:
    """Return what decides how many rows the lists become that an expression unnests, outside subqueries."""
    if isinstance(node, _QUERIES):
        return CONSTANT
    if isinstance(node, exp.Explode | exp.Unnest):
        lists = node.expressions if isinstance(node, exp.Unnest) else [node.this]
        flows = (flow_of(child, scope) for child in lists if not _has_fixed_length(child))
        return union(flow for flow in flows if not flow.fields).deciding("unnest")  # a struct becomes columns, not rows
    return union(rows_made(child, scope) for child in node.iter_expressions())


def _has_fixed_length(node: exp.Expr) -> bool:
    """Say whether it is a list whose items are written one by one."""
    return isinstance(node, exp.Array) and not node.find(exp.Comprehension, exp.Query)


def _argument(node: exp.Expr, name: str, scope: Scope) -> Flow:
    """Return the flow of an argument, one or a list; nothing when it is not given."""
    value = node.args.get(name)
    nodes = value if isinstance(value, list) else [value]
    return union(flow_of(child, scope) for child in nodes if isinstance(child, exp.Expr))


@flow_of.register(exp.Column)
def _(node: exp.Column, scope: Scope) -> Flow:
    if not isinstance(node.this, exp.Star):
        return scope.find([part.name for part in node.parts])
    binding = scope.binding(node.table)
    return binding.relation.flow if binding else opaque(f"{node.sql()} is not a table of this query")


@flow_of.register(exp.Paren)
def _(node: exp.Paren, scope: Scope) -> Flow:
    return flow_of(node.this, scope)


@flow_of.register(exp.Struct)
def _(node: exp.Struct, scope: Scope) -> Flow:
    names = [field.this if isinstance(field, exp.PropertyEQ) else None for field in node.expressions]
    if not all(isinstance(name, exp.Identifier | exp.Literal) for name in names):
        return _parts(node, scope)
    return struct((field.this.name, flow_of(field.expression, scope)) for field in node.expressions)


@flow_of.register(exp.Dot)
@flow_of.register(exp.StructExtract)
def _(node: exp.Dot | exp.StructExtract, scope: Scope) -> Flow:
    return _field(flow_of(node.this, scope), node.expression, scope)


@flow_of.register(exp.Bracket)
def _(node: exp.Bracket, scope: Scope) -> Flow:
    if (item := _written_item(node)) is not None:
        return flow_of(item, scope)
    whole = flow_of(node.this, scope)
    return _field(whole, node.expressions[0], scope) if len(node.expressions) == 1 else _parts(node, scope)


def _written_item(node: exp.Bracket) -> exp.Expr | None:
    """Return the item that a number picks out of a list whose items are written one by one; None when it is not so plain."""
    number = node.expressions[0] if len(node.expressions) == 1 else None
    if isinstance(node.this, exp.Array) and _has_fixed_length(node.this) and isinstance(number, exp.Literal):
        place = int(number.name) if number.is_int else -1
        items = node.this.expressions
        return items[place] if 0 <= place < len(items) else None
    return None


def _field(whole: Flow, key: exp.Expr, scope: Scope) -> Flow:
    """Return the flow of what a key picks out of a value: a field that is named, or anything of it."""
    if isinstance(key, exp.Identifier) or (isinstance(key, exp.Literal) and key.is_string):
        return whole.field([key.name])
    return whole.whole() | flow_of(key, scope).whole()


@flow_of.register(exp.Star)
def _(node: exp.Star, scope: Scope) -> Flow:  # noqa: ARG001  # count(*) counts rows and looks at no column
    return CONSTANT if isinstance(node.parent, exp.Count) else opaque("a star inside an expression")


@flow_of.register(exp.Columns)
@flow_of.register(exp.PositionalColumn)
def _(node: exp.Expr, scope: Scope) -> Flow:  # noqa: ARG001  # whatever the scope is
    return opaque(f"columns chosen by {node.sql('duckdb')}")


@flow_of.register(exp.Grouping)
def _(node: exp.Grouping, scope: Scope) -> Flow:  # noqa: ARG001  # which keys are grouped is the query's doing
    return CONSTANT


@flow_of.register(exp.Case)
def _(node: exp.Case, scope: Scope) -> Flow:
    return (
        _argument(node, "this", scope).deciding("conditional")
        | _argument(node, "ifs", scope)
        | _argument(node, "default", scope)
    )


@flow_of.register(exp.If)
def _(node: exp.If, scope: Scope) -> Flow:
    return (
        flow_of(node.this, scope).deciding("conditional")
        | _argument(node, "true", scope)
        | _argument(node, "false", scope)
    )


@flow_of.register(exp.Nullif)
def _(node: exp.Nullif, scope: Scope) -> Flow:
    return flow_of(node.this, scope) | flow_of(node.expression, scope).deciding("conditional")


@flow_of.register(exp.ArrayFilter)
def _(node: exp.ArrayFilter, scope: Scope) -> Flow:
    return flow_of(node.this, scope) | flow_of(node.expression, scope).deciding("conditional")


@flow_of.register(exp.Comprehension)
def _(node: exp.Comprehension, scope: Scope) -> Flow:
    iterated = flow_of(node.args["iterator"], scope)
    inner = scope.inside()
    inner.bindings = [Binding("", Relation((Column(node.expression.name, iterated),)))]
    return iterated | flow_of(node.this, inner) | _argument(node, "condition", inner).deciding("conditional")


@flow_of.register(exp.Anonymous)
def _(node: exp.Anonymous, scope: Scope) -> Flow:
    name = node.name.lower()
    arguments = [flow_of(child, scope) for child in node.expressions]
    if name in _IF and arguments:
        return arguments[0].deciding("conditional") | union(arguments[1:])
    if name.startswith(_CHOOSING):
        return union(arguments[:1]) | union(arguments[1:]).deciding("sort") | scope.rows
    return union(arguments).whole() | (scope.rows if name in _AGGREGATES else CONSTANT)


@flow_of.register(exp.AggFunc)
def _(node: exp.AggFunc, scope: Scope) -> Flow:
    return _parts(node, scope) | scope.rows


@flow_of.register(exp.ArgMax)
@flow_of.register(exp.ArgMin)
def _(node: exp.ArgMax | exp.ArgMin, scope: Scope) -> Flow:
    return flow_of(node.this, scope) | flow_of(node.expression, scope).deciding("sort") | scope.rows


@flow_of.register(exp.Filter)
def _(node: exp.Filter, scope: Scope) -> Flow:
    return flow_of(node.this, scope) | flow_of(node.expression, scope).deciding("filter")


@flow_of.register(exp.Order)
def _(node: exp.Order, scope: Scope) -> Flow:
    """The order within an aggregate, and of a window."""
    return _argument(node, "this", scope) | _argument(node, "expressions", scope).deciding("sort")


@flow_of.register(exp.WithinGroup)
def _(node: exp.WithinGroup, scope: Scope) -> Flow:
    function, order = flow_of(node.this, scope), node.expression
    if function.direct:
        return function | flow_of(order, scope)
    return function | _argument(
        order, "expressions", scope
    )  # percentile_cont(0.5): the ordered values are its argument


@flow_of.register(exp.Window)
def _(node: exp.Window, scope: Scope) -> Flow:
    return flow_of(node.this, scope) | _window(node, scope)


def _window(node: exp.Expr, scope: Scope) -> Flow:
    named = scope.windows.get((node.args.get("alias") or exp.Identifier(this="")).name.lower())
    frame = node.args.get("spec")
    return (
        _argument(node, "partition_by", scope).deciding("partition")
        | _argument(node, "order", scope)
        | (_argument(frame, "start", scope) | _argument(frame, "end", scope) if frame else CONSTANT).deciding("window")
        | (_window(named, scope) if named is not None else CONSTANT)
    )


@flow_of.register(exp.Exists)
def _(node: exp.Exists, scope: Scope) -> Flow:
    if not isinstance(node.this, exp.Query):
        return union(flow_of(child, scope) for child in node.iter_expressions())
    return scope.relation_of(_existing(node.this), scope).rows.deciding("subquery")


def _existing(query: exp.Expr) -> exp.Expr:
    """Return the query without what cannot decide whether it has rows: the order, duplicates, and mere groups."""
    query = query.unnest()
    if not isinstance(query, exp.Select) or query.args.get("limit") or query.args.get("offset"):
        return query
    existing = query.copy()
    if existing.args.get("group") and not existing.args.get("having") and not existing.args.get("qualify"):
        existing.set("group", None)
        existing.set("expressions", [exp.Literal.number(1)])
    existing.set("distinct", None)
    return existing


@flow_of.register(exp.In)
def _(node: exp.In, scope: Scope) -> Flow:
    looked_up = node.args.get("query")
    others = (_argument(node, name, scope) for name in ("expressions", "unnest", "field"))
    return flow_of(node.this, scope) | union(others) | (_looked_at(looked_up, scope) if looked_up else CONSTANT)


@flow_of.register(exp.Any)
@flow_of.register(exp.All)
def _(node: exp.Any | exp.All, scope: Scope) -> Flow:
    return _looked_at(node.this, scope)


def _looked_at(node: exp.Expr, scope: Scope) -> Flow:
    inner = node.unnest()
    return flow_of(inner, scope).deciding("subquery") if isinstance(inner, _QUERIES) else flow_of(inner, scope)


@flow_of.register(exp.Query)
@flow_of.register(exp.Values)
def _(node: exp.Expr, scope: Scope) -> Flow:
    """A subquery as a value: the columns of its rows, decided by what decides the rows."""
    relation = scope.relation_of(node, scope)
    return relation.flow | relation.rows
