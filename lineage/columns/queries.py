"""The relation of a query: its columns, and what decides which rows there are, clause by clause."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sqlglot import exp

from lineage.columns.flow import CONSTANT, Binding, Column, Flow, Relation, Scope, opaque, union, visible_in
from lineage.columns.values import flow_of, is_aggregate, rows_made


def relation_of(node: exp.Expr, outer: Scope) -> Relation:
    """Return the relation of a query.

    Args:
        node: SELECT, a set operation, VALUES, or one of these in parentheses; anything else is unknown.
        outer: The scope around it.
    """
    if node.args.get("pivots"):
        return Relation.unknown("PIVOT or UNPIVOT")
    match node:
        case exp.Select():
            return _select(node, outer)
        case exp.SetOperation():
            return _set_operation(node, outer)
        case exp.Subquery():
            return _limited(node, relation_of(node.this, _with_ctes(node, outer)), outer)
        case exp.Values():
            return _values(node, outer)
        case _:
            return Relation.unknown(f"{type(node).__name__.upper()} is not a query that can be followed")


@dataclass(frozen=True, slots=True)
class _Item:
    """One output of SELECT: an expression, or a column that a star became."""

    name: str
    node: exp.Expr | None = None
    known: Flow = CONSTANT

    def flow(self, scope: Scope) -> Flow:
        return self.known if self.node is None else flow_of(self.node, scope)

    @property
    def is_aggregate(self) -> bool:
        return self.node is not None and is_aggregate(self.node)


def _select(select: exp.Select, outer: Scope) -> Relation:
    scope = _with_ctes(select, outer)
    rows = _from(select, scope)
    if select.args.get("laterals"):
        return Relation.unknown("LATERAL VIEW")
    items = list(_items(select, scope))
    scope.aliases.update({item.name.lower(): item.node for item in items if item.node is not None})
    scope.windows.update({window.name.lower(): window for window in select.args.get("windows") or ()})
    rows |= _clause(select, "where", scope).deciding("filter")
    keys = _group_keys(select, items, scope).deciding("group")
    scope.rows = rows | keys
    rows = CONSTANT if _is_one_row(select, items) else scope.rows
    rows |= _clause(select, "having", scope).deciding("having")
    columns = tuple(Column(item.name, item.flow(scope)) for item in items)
    rows |= union(rows_made(item.node, scope) for item in items if item.node is not None)
    rows |= _clause(select, "qualify", scope).deciding("qualify")
    more = next((column.flow.opaque for column in columns if column.name == "*"), None)
    return _limited(select, _distinct(select, items, Relation(columns, rows, more), scope), scope)


def _clause(node: exp.Expr, name: str, scope: Scope) -> Flow:
    clause = node.args.get(name)
    return CONSTANT if clause is None else flow_of(clause, scope)


def _is_one_row(select: exp.Select, items: Sequence[_Item]) -> bool:
    """Say whether it aggregates everything to one row, whatever rows there are."""
    if select.args.get("group") is not None:
        return False
    clauses = [select.args.get(name) for name in ("having", "qualify", "order")]
    return select.args.get("having") is not None or any(
        [*(item.is_aggregate for item in items), *(is_aggregate(clause) for clause in clauses if clause is not None)]
    )


# --- outputs -------------------------------------------------------------------------------------------------------


def _items(select: exp.Select, scope: Scope) -> Iterator[_Item]:
    for node in select.expressions:
        inner = node.this if isinstance(node, exp.Column) else node
        if isinstance(inner, exp.Star):
            yield from _starred(node, inner, scope)
        elif isinstance(node, exp.Alias):
            yield _Item(node.alias, node.this)
        elif isinstance(node, exp.Explode) and (fields := flow_of(node.this, scope).fields):
            yield from (_Item(name, known=flow) for name, flow in fields)
        elif node.find(exp.Columns, exp.Star) and not node.find(exp.Count, exp.Query):
            yield _Item("*", known=opaque(f"columns chosen by {node.sql('duckdb')}"))
        else:
            named = isinstance(node, exp.Column | exp.Dot | exp.Subquery) and node.output_name
            yield _Item(named or node.sql("duckdb"), node)


def _starred(node: exp.Expr, star: exp.Star, scope: Scope) -> Iterator[_Item]:
    without = {column.name.lower() for column in star.args.get("except_") or ()}
    replaced = {alias.alias.lower(): alias.this for alias in star.args.get("replace") or ()}
    renamed = {alias.this.name.lower(): alias.alias for alias in star.args.get("rename") or ()}
    for column in _star_columns(node, scope):
        name = column.name.lower()
        if name in without:
            continue
        if name in replaced:
            yield _Item(renamed.get(name, column.name), replaced[name])
        else:
            yield _Item(renamed.get(name, column.name), known=column.flow)


def _star_columns(node: exp.Expr, scope: Scope) -> Iterator[Column]:
    if isinstance(node, exp.Star):
        yield from scope.star()
        return
    table = node.args["table"].name
    binding = scope.binding(table)
    if binding is None:
        flow = scope.known([part.name for part in node.parts[:-1]]) if isinstance(node, exp.Column) else None
        fields = flow.fields if flow else ()
        yield from (Column(name, inner) for name, inner in fields)
        if not fields:
            yield Column("*", opaque(f"{table}.* is not a table of this query"))
        return
    yield from binding.relation.columns
    if binding.relation.more:
        yield Column("*", opaque(binding.relation.more))


# --- grouping, duplicates, limits ----------------------------------------------------------------------------------


def _group_keys(select: exp.Select, items: Sequence[_Item], scope: Scope) -> Flow:
    group = select.args.get("group")
    if group is None:
        return CONSTANT
    if group.args.get("all"):
        return union(item.flow(scope) for item in items if not item.is_aggregate)
    keys = [key for value in group.args.values() if isinstance(value, list) for key in value]
    numbered = ((key, _number(key, items)) for key in keys)
    return union(flow_of(key, scope) if place is None else items[place].flow(scope) for key, place in numbered)


def _number(key: exp.Expr, outputs: Sequence[object]) -> int | None:
    """Return the place of the output that a key of GROUP BY or ORDER BY means by its number; None for an expression."""
    is_number = isinstance(key, exp.Literal) and key.is_int and 1 <= int(key.name) <= len(outputs)
    return int(key.name) - 1 if is_number else None


def _distinct(select: exp.Select, items: Sequence[_Item], relation: Relation, scope: Scope) -> Relation:
    distinct = select.args.get("distinct")
    if distinct is None:
        return relation
    if distinct.args.get("on") is None:
        return replace(relation, rows=relation.rows | relation.flow.deciding("distinct"))
    numbered = ((key, _number(key, items)) for key in distinct.args["on"].expressions)
    keys = [key if place is None else items[place].node or key for key, place in numbered]
    # the order decides which row of a key is left, and so all but the key
    order = union(flow for _, flow in _sort_keys(select, relation, scope)).deciding("sort")
    columns = tuple(
        column if item.node in keys else Column(column.name, column.flow | order)
        for item, column in zip(items, relation.columns, strict=True)
    )
    rows = relation.rows | union(flow_of(key, scope) for key in keys).deciding("distinct")
    return replace(relation, columns=columns, rows=rows)


def _limited(node: exp.Expr, relation: Relation, scope: Scope) -> Relation:
    """Return the rows that LIMIT and OFFSET leave: what they are ordered by decides which, and so the values, not how many.

    A column that is itself a key is decided by the keys up to it: how ties in it are broken does not change which of its values are left.
    """
    limits = [node.args[name] for name in ("limit", "offset") if node.args.get(name) is not None]
    if not limits:
        return relation
    computed = union(flow_of(limit, scope) for limit in limits).deciding("limit")
    keys = _sort_keys(node, relation, scope)
    flows = [flow.deciding("sort") for _, flow in keys]
    places = [place for place, _ in keys]
    columns = tuple(
        Column(column.name, column.flow | union(flows[: places.index(place) + 1] if place in places else flows))
        for place, column in enumerate(relation.columns)
    )
    return replace(relation, columns=columns, rows=relation.rows | computed)


def _sort_keys(node: exp.Expr, relation: Relation, scope: Scope) -> list[tuple[int | None, Flow]]:
    """Return the keys of ORDER BY: the place of the output that each is, None for another expression, and its flow."""
    order = node.args.get("order")
    keys = [key.this for key in order.expressions] if order else []
    if any(isinstance(key, exp.Var) and key.name.upper() == "ALL" for key in keys):
        return [(place, column.flow) for place, column in enumerate(relation.columns)]
    places = [_sorted_output(key, relation) for key in keys]
    return [
        (place, flow_of(key, scope) if place is None else relation.columns[place].flow)
        for place, key in zip(places, keys, strict=True)
    ]


def _sorted_output(key: exp.Expr, relation: Relation) -> int | None:
    """Return the place of the output that a key means by its name or its number; None for another expression."""
    if isinstance(key, exp.Column) and len(key.parts) == 1:
        names = [column.name.lower() for column in relation.columns]
        return names.index(key.name.lower()) if key.name.lower() in names else None
    return _number(key, relation.columns)


# --- FROM ----------------------------------------------------------------------------------------------------------


def _from(select: exp.Select, scope: Scope) -> Flow:
    """Bring the tables of FROM into the scope, and return what decides their rows."""
    origin = select.args.get("from_")
    rows = CONSTANT if origin is None else _bind(origin.this, scope)
    return rows | union(_join(join, scope) for join in select.args.get("joins") or ())


def _bind(item: exp.Expr, scope: Scope) -> Flow:
    """Bring one item of FROM into the scope: a table, or a nest of joins in parentheses."""
    if isinstance(item, exp.Subquery) and isinstance(item.this, exp.Table):
        inner = item.this
        if not item.alias:
            rows = _bind(inner, scope)
            return rows | union(_join(join, scope) for join in item.args.get("joins") or ())
    joins = item.args.get("joins") or ()
    binding = _binding(item, scope)
    scope.bindings.append(binding)
    return binding.relation.rows | union(_join(join, scope) for join in joins)


def _binding(item: exp.Expr, scope: Scope) -> Binding:
    alias = item.args.get("alias")
    names = [column.name for column in alias.args.get("columns") or ()] if alias else []
    relation = _item_of_from(item, scope).with_distinct_names().renamed(names)
    return Binding(item.alias_or_name, relation)


def _item_of_from(item: exp.Expr, scope: Scope) -> Relation:
    if item.args.get("pivots"):
        return Relation.unknown("PIVOT or UNPIVOT")
    match item:
        case exp.Table():
            return _table(item, scope)
        case exp.Unnest() | exp.Explode():
            return _unnested(item, scope)
        case exp.Lateral():
            return _item_of_from(item.this, scope)
        case exp.Subquery() if isinstance(item.this, exp.Table):
            inner = scope.inside()
            rows = _bind(item.this, inner)
            return Relation(tuple(inner.star()), rows)
        case _:
            return relation_of(item, scope)


def _table(table: exp.Table, scope: Scope) -> Relation:
    if isinstance(table.this, exp.GenerateSeries):
        flow = flow_of(table.this, scope)
        name = "range" if table.this.args.get("is_end_exclusive") else "generate_series"
        return Relation((Column(name, flow),), flow.deciding("unnest"))
    if isinstance(table.this, exp.Explode | exp.Unnest):
        return _item_of_from(table.this, scope)
    if not isinstance(table.this, exp.Identifier):
        return Relation.unknown(f"table function {table.this.sql('duckdb')}")
    parts = [part.name for part in table.parts]
    for place in range(len(parts)):
        if (relation := scope.tables.get(".".join(parts[place:]).lower())) is not None:
            return relation
    return Relation.unknown(f"no table {'.'.join(parts)} in the schemas")


def _unnested(unnest: exp.Unnest | exp.Explode, scope: Scope) -> Relation:
    lists = unnest.expressions if isinstance(unnest, exp.Unnest) else [unnest.this]
    columns = [Column("unnest", flow_of(expression, scope)) for expression in lists]
    rows = rows_made(unnest, scope)
    if unnest.args.get("offset"):
        columns.append(Column("ordinality", rows))
    return Relation(tuple(columns), rows)


def _join(join: exp.Join, scope: Scope) -> Flow:
    """Bring a joined table into the scope, and return what decides the rows of the join."""
    first = len(scope.bindings)
    rows = _bind(join.this, scope)
    kinds = {str(join.args.get(name) or "").upper() for name in ("kind", "side", "method")}
    rows |= _using(join, kinds, first, scope)
    if (condition := join.args.get("on")) is not None:
        rows |= flow_of(condition, scope).deciding("join")
    if kinds & {"SEMI", "ANTI"}:
        del scope.bindings[first:]
    if kinds >= {"ASOF", "LEFT"}:  # one row for each on the left: what decides, decides the values from the right alone
        scope.bindings[first:] = [_decided(table, rows) for table in scope.bindings[first:]]
        return CONSTANT
    return rows


def _decided(table: Binding, rows: Flow) -> Binding:
    """Return a table whose every value is decided by what decided its rows."""
    columns = tuple(Column(column.name, column.flow | rows) for column in table.relation.columns)
    return replace(table, relation=replace(table.relation, columns=columns))


def _using(join: exp.Join, kinds: set[str], first: int, scope: Scope) -> Flow:
    """Merge the columns of USING or NATURAL, and return what they decide."""
    left, right = scope.bindings[:first], scope.bindings[first:]
    names = [column.name for column in join.args.get("using") or ()]
    if "NATURAL" in kinds:
        names = [c.name for table in right for c in table.visible() if visible_in(left, c.name) is not None]
    deciding = CONSTANT
    for name in names:
        ours, theirs = _side_of(left, name), _side_of(right, name)
        deciding |= (ours | theirs).deciding("join")
        _merge(name, theirs if "RIGHT" in kinds else ours | theirs if "FULL" in kinds else ours, first, scope)
    return deciding


def _side_of(tables: Sequence[Binding], name: str) -> Flow:
    flow = visible_in(tables, name)
    return opaque(f"no column {name} on one side of a join") if flow is None else flow


def _merge(name: str, flow: Flow, first: int, scope: Scope) -> None:
    """Show the merged column in the first table before `first` that has it, and in no table from there on."""
    before = (place for place in range(first) if visible_in([scope.bindings[place]], name) is not None)
    for place in [*before][:1]:
        table = scope.bindings[place]
        scope.bindings[place] = replace(table, merged={**table.merged, name.lower(): flow})
    for place in range(first, len(scope.bindings)):
        table = scope.bindings[place]
        scope.bindings[place] = replace(table, hidden=table.hidden | {name.lower()})


# --- WITH, set operations, VALUES ----------------------------------------------------------------------------------


def _with_ctes(node: exp.Expr, outer: Scope) -> Scope:
    scope = outer.inside()
    clause = node.args.get("with_")
    if clause is None:
        return scope
    for cte in clause.expressions:
        relation = _recursive(cte, scope) if clause.args.get("recursive") else relation_of(cte.this, scope)
        scope.tables = {**scope.tables, cte.alias.lower(): _named(cte, relation)}
    return scope


def _named(cte: exp.CTE, relation: Relation) -> Relation:
    return relation.with_distinct_names().renamed(
        [column.name for column in cte.args["alias"].args.get("columns") or ()]
    )


def _recursive(cte: exp.CTE, scope: Scope) -> Relation:
    """Return the fixed point: start with what the first part gives, and go round until a round adds nothing."""
    query = cte.this
    if not isinstance(query, exp.SetOperation) or cte.alias.lower() not in _tables_in(query.expression):
        return relation_of(query, scope)
    if cte.args.get("key_expressions"):
        return Relation.unknown("a recursive query USING KEY")
    inner = _with_ctes(query, scope)
    found = relation_of(query.this, inner)
    while True:
        inner.tables = {**inner.tables, cte.alias.lower(): _named(cte, found)}
        following = _combined(query, found, relation_of(query.expression, inner))
        if following == found:
            return found
        found = following


def _tables_in(node: exp.Expr) -> set[str]:
    return {table.name.lower() for table in node.find_all(exp.Table)}


def _set_operation(operation: exp.SetOperation, outer: Scope) -> Relation:
    scope = _with_ctes(operation, outer)
    combined = _combined(operation, relation_of(operation.this, scope), relation_of(operation.expression, scope))
    return _limited(operation, combined, scope)


def _combined(operation: exp.SetOperation, left: Relation, right: Relation) -> Relation:
    if left.more or right.more:
        return Relation.unknown(left.more or right.more or "")
    columns = tuple(_aligned(operation, left, right))
    both = left.rows | right.rows
    if not isinstance(operation, exp.Union):  # the rows that are left are the left side's
        return Relation(left.columns, both | (left.flow | right.flow).deciding("set"))
    if operation.args.get("distinct"):
        both |= union(column.flow for column in columns).deciding("distinct")
    return Relation(columns, both)


def _aligned(operation: exp.SetOperation, left: Relation, right: Relation) -> Iterator[Column]:
    if not operation.args.get("by_name"):
        for ours, theirs in zip(left.columns, right.columns, strict=False):
            yield Column(ours.name, ours.flow | theirs.flow)
        return
    for column in left.columns:
        yield Column(column.name, column.flow | (right.flow_of(column.name) or CONSTANT))
    for column in right.columns:
        if left.flow_of(column.name) is None:
            yield column


def _values(values: exp.Values, outer: Scope) -> Relation:
    tuples = [row.expressions if isinstance(row, exp.Tuple) else [row] for row in values.expressions]
    columns = zip(*([flow_of(cell, outer) for cell in row] for row in tuples), strict=False)
    return Relation(tuple(Column(f"col{place}", union(flows)) for place, flows in enumerate(columns)))
