"""What the resolver computes with: flows (of one value), relations (of rows) and scopes (what a name means in a query)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from sqlglot import exp

from lineage.columns.edges import Indirect, SourceColumn


@dataclass(frozen=True, slots=True)
class Flow:
    """Where one value comes from.

    Attributes:
        direct: Columns that flow into it.
        indirect: Columns that decide it.
        opaque: Why there may be more; None when all are known.
        fields: Of a struct whose fields are known: the name of each and where its value comes from.
    """

    direct: frozenset[SourceColumn] = frozenset()
    indirect: frozenset[Indirect] = frozenset()
    opaque: str | None = None
    fields: tuple[tuple[str, Flow], ...] = ()

    def __or__(self, other: Flow) -> Flow:
        names = dict.fromkeys(name for name, _ in (*self.fields, *other.fields))
        fields = tuple((name, self.field([name]) | other.field([name])) for name in names)
        return Flow(self.direct | other.direct, self.indirect | other.indirect, self.opaque or other.opaque, fields)

    def field(self, path: Sequence[str]) -> Flow:
        """Return the flow of a field of a field..., names in any case; what is not known in parts is taken whole."""
        flow = self
        for name in path:
            flow = next((inner for known, inner in flow.fields if known.lower() == name.lower()), flow.whole())
        return flow

    def whole(self) -> Flow:
        """Return the flow of what was made of this value, where its fields are no longer known."""
        return replace(self, fields=()) if self.fields else self

    def deciding(self, reason: str) -> Flow:
        """Return the flow of what this value decides: nothing of it is direct any more."""
        return Flow(frozenset(), self.indirect | {Indirect(column, reason) for column in self.direct}, self.opaque)


CONSTANT = Flow()


def union(flows: Iterable[Flow]) -> Flow:
    """Return what several values together come from."""
    merged = CONSTANT
    for flow in flows:
        merged |= flow
    return merged


def opaque(reason: str) -> Flow:
    """Return the flow of a value of which nothing is known."""
    return Flow(opaque=reason)


def struct(fields: Iterable[tuple[str, Flow]]) -> Flow:
    """Return the flow of a struct of these fields."""
    known = tuple(fields)
    return replace(union(flow.whole() for _, flow in known), fields=known)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a relation."""

    name: str
    flow: Flow


@dataclass(frozen=True, slots=True)
class Relation:
    """Rows: their columns, and what decides which rows there are.

    Attributes:
        rows: Only indirect.
        more: Why there may be further columns that are not known; None when all are.
    """

    columns: tuple[Column, ...]
    rows: Flow = CONSTANT
    more: str | None = None

    @classmethod
    def unknown(cls, reason: str) -> Relation:
        """Return rows of which nothing is known."""
        return cls((), opaque(reason), reason)

    @property
    def flow(self) -> Flow:
        """Everything that is in its rows, as one value."""
        return union(column.flow for column in self.columns) | (opaque(self.more) if self.more else CONSTANT)

    def flow_of(self, name: str) -> Flow | None:
        """Return the flow of a column, in any case; None when there is none of that name."""
        return next((column.flow for column in self.columns if column.name.lower() == name.lower()), None)

    def renamed(self, names: Sequence[str]) -> Relation:
        """Return it with other names for its first columns, as in ``t(a, b)``."""
        kept = [column.name for column in self.columns[len(names) :]]
        columns = zip((*names, *kept), self.columns, strict=False)
        return replace(self, columns=tuple(Column(name, column.flow) for name, column in columns))

    def with_distinct_names(self) -> Relation:
        """Return it as a table in FROM: the second column of a name gets a number, as DuckDB does."""
        taken: set[str] = set()
        columns = []
        for column in self.columns:
            numbered = (column.name if number == 0 else f"{column.name}_{number}" for number in count())
            name = next(name for name in numbered if name.lower() not in taken)
            taken.add(name.lower())
            columns.append(Column(name, column.flow))
        return replace(self, columns=tuple(columns))


@dataclass(frozen=True, slots=True)
class Binding:
    """A table of FROM under the name it has there.

    Attributes:
        hidden: Columns, in lower case, that USING merged into those of a table before it.
        merged: Columns, in lower case, that USING merged with those of a table behind it.
    """

    name: str
    relation: Relation
    hidden: frozenset[str] = frozenset()
    merged: Mapping[str, Flow] = field(default_factory=dict)

    def visible(self) -> Iterator[Column]:
        """Yield the columns that ``*`` and names without a table mean."""
        for column in self.relation.columns:
            if column.name.lower() not in self.hidden:
                yield Column(column.name, self.merged.get(column.name.lower(), column.flow))


def visible_in(bindings: Iterable[Binding], name: str) -> Flow | None:
    """Return the flow of a name without a table, in any case; None when no table has it."""
    columns = (column for binding in bindings for column in binding.visible())
    return next((column.flow for column in columns if column.name.lower() == name.lower()), None)


@dataclass(slots=True)
class Scope:
    """What names mean at one place of a query; it is filled while FROM is read.

    Attributes:
        tables: Table in lower case -> relation; CTEs in front of the tables of the schemas.
        relation_of: Resolves a query inside this scope.
        parent: Scope around it, which a correlated subquery sees.
        bindings: The tables of FROM.
        aliases: Output name -> its expression, which DuckDB lets other clauses name.
        windows: Named windows.
        rows: What decides the rows that an aggregate sees.
    """

    tables: Mapping[str, Relation]
    relation_of: Callable[[exp.Expr, Scope], Relation]
    flow_of: Callable[[exp.Expr, Scope], Flow]
    parent: Scope | None = None
    bindings: list[Binding] = field(default_factory=list)
    aliases: dict[str, exp.Expr] = field(default_factory=dict)
    windows: dict[str, exp.Expr] = field(default_factory=dict)
    rows: Flow = CONSTANT

    def inside(self) -> Scope:
        """Return a scope within this one."""
        return Scope(self.tables, self.relation_of, self.flow_of, parent=self)

    def find(self, path: Sequence[str]) -> Flow:
        """Return the flow of a name as written: a column, a column of a table, a field of either, or a whole row."""
        found = self.known(path)
        return opaque(f"no column {'.'.join(path)} in the schemas") if found is None else found

    def known(self, path: Sequence[str]) -> Flow | None:
        """Return the flow of a name as written; None when neither this scope nor one around it knows it."""
        for step in (self._as_column, self._as_table_column, self._as_alias, self._as_row, self._as_unknown):
            if (flow := step(path)) is not None:
                return flow
        return self.parent.known(path) if self.parent else None

    def _as_column(self, path: Sequence[str]) -> Flow | None:
        if len(path) > 1 and self.binding(path[0]):
            return None
        flow = visible_in(self.bindings, path[0])
        if flow is None or (len(path) > 1 and not flow.fields and self._is_around(path)):
            return None
        return flow.field(path[1:])

    def _is_around(self, path: Sequence[str]) -> bool:
        """Say whether a scope around this one has the table and the column of ``table.column``: no field of a column here, then."""
        scope = self.parent
        while scope is not None:
            binding = scope.binding(path[0])
            if binding and binding.relation.flow_of(path[1]) is not None:
                return True
            scope = scope.parent
        return False

    def _as_table_column(self, path: Sequence[str]) -> Flow | None:
        """Look for ``table.column``, also behind a schema's or a catalogue's name, and with fields behind it."""
        for place in range(len(path) - 1):
            binding = self.binding(path[place])
            if binding and (flow := binding.relation.flow_of(path[place + 1])) is not None:
                return flow.field(path[place + 2 :])
            if binding and binding.relation.more:
                return opaque(binding.relation.more)
        return None

    def _as_alias(self, path: Sequence[str]) -> Flow | None:
        expression = self.aliases.pop(path[0].lower(), None)  # taken out meanwhile: an alias cannot mean itself
        if expression is None:
            return None
        try:
            return self.flow_of(expression, self).field(path[1:])
        finally:
            self.aliases[path[0].lower()] = expression

    def _as_row(self, path: Sequence[str]) -> Flow | None:
        binding = self.binding(path[0]) if len(path) == 1 else None
        if binding is None:
            return None
        more = binding.relation.more
        return struct((c.name, c.flow) for c in binding.relation.columns) | (opaque(more) if more else CONSTANT)

    def _as_unknown(self, path: Sequence[str]) -> Flow | None:
        if len(path) > 1 and self.binding(path[0]):
            return opaque(f"no column {'.'.join(path)} in the schemas")
        reasons = (binding.relation.more for binding in self.bindings if binding.relation.more)
        return next(map(opaque, reasons), None)

    def binding(self, name: str) -> Binding | None:
        """Return the table of FROM of that name; None when there is none."""
        return next((binding for binding in self.bindings if binding.name.lower() == name.lower()), None)

    def star(self) -> Iterator[Column]:
        """Yield what ``*`` means: every column once, those that USING merged at their first place."""
        for binding in self.bindings:
            yield from binding.visible()
            if binding.relation.more:
                yield Column("*", opaque(binding.relation.more))
