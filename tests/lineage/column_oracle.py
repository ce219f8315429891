"""What column lineage is judged by: one source column is changed, and the output columns that move are noted.

No parser is asked. The data is made so that a change can be of two kinds:

- a **nudge** is invisible to whatever decides, and visible in whatever flows. Texts are compared without case (NOCASE), so a nudge
  swaps capitals and small letters; numbers are far apart and never equal in two columns, so a nudge adds a trifle that grows with
  the number; times lie at noon, and a nudge adds microseconds. Equality, order, groups, joins and conditions stay as they were;
  values differ.
- a **redraw** replaces some or all values of the column, nulls included; anything may move.

Counts, ranks, comparisons and other whole or truth-valued outputs, and whole-numbered source columns, cannot carry a nudge ("coarse").

How edges are judged (an output moves when the bag of its values differs, or, where the query has an anchor, which is an output that
holds the identity of a row and did not move itself, when the bag of pairs (anchor, value) differs):

- direct recall: a pair that moves by a nudge, with as many rows as before, must have a direct edge.
- direct precision: a direct edge must be seen to move by a nudge; a coarse one by a redraw that keeps the number of rows.
- indirect recall: a pair that moves by redraws but by no nudge must have an indirect edge (a coarse one, any edge); and when the
  number of rows differs, the column must have an indirect edge to every output.
- indirect precision: an edge that is indirect and not direct must be seen to move. A pair that is both counts when the number of rows
  was seen to differ, and is not judged otherwise.

Columns without an edge are redrawn for `least` databases; those with an edge that was not seen yet, for `most`.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import duckdb

from lineage.columns import QueryLineage, SourceColumn

_COARSE = ("BIGINT", "INTEGER", "HUGEINT", "BOOLEAN", "UBIGINT", "SMALLINT", "UHUGEINT")
_TYPES = {"text": "VARCHAR COLLATE NOCASE", "number": "DOUBLE", "time": "TIMESTAMP", "whole": "INTEGER"}


@dataclass(frozen=True)
class Field:
    """A column of the generated data: its kind, and the values it is drawn from; `unique` numbers them instead."""

    kind: str
    domain: tuple = ()
    unique: bool = False
    nulls: float = 0.12

    def draw(self, dice: random.Random, row: int):
        if self.unique:
            return f"{self.domain[0]}{row}x"
        return None if dice.random() < self.nulls else dice.choice(self.domain)

    def nudged(self, value):
        match value:
            case None:
                return None
            case str():
                return value.swapcase()
            case float():
                return value + (abs(value) // 1000 + 1) / 1024
            case datetime():
                return value + timedelta(microseconds=1 + value.day)
            case _:
                return value


Database = dict[str, dict[str, list]]
Schema = Mapping[str, Mapping[str, Field]]


@dataclass
class Tally:
    """Edges that were right, and all that were judged."""

    right: int = 0
    judged: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, what: str, *, right: bool) -> None:
        self.judged += 1
        self.right += right
        if not right:
            self.wrong.append(what)

    @property
    def rate(self) -> float:
        return self.right / self.judged if self.judged else 1.0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.right + other.right, self.judged + other.judged, [*self.wrong, *other.wrong])


MEASURES = ("direct precision", "direct recall", "indirect precision", "indirect recall")


@dataclass
class Verdict:
    """The four rates of one or many queries, and how many outputs were opaque."""

    tallies: dict[str, Tally] = field(default_factory=lambda: {name: Tally() for name in MEASURES})
    opaque: list[str] = field(default_factory=list)
    outputs: int = 0

    def __add__(self, other: "Verdict") -> "Verdict":
        tallies = {name: self.tallies[name] + other.tallies[name] for name in MEASURES}
        return Verdict(tallies, [*self.opaque, *other.opaque], self.outputs + other.outputs)


@dataclass
class Seen:
    """What the perturbations of one query showed, by (source column, number of the output)."""

    names: tuple[str, ...] = ()
    coarse: tuple[bool, ...] = ()
    flowed: set = field(default_factory=set)
    moved: set = field(default_factory=set)
    kept: set = field(default_factory=set)  # moved while the number of rows stayed
    resized: set = field(default_factory=set)  # source columns that changed the number of rows

    def is_coarse(self, pair, schema: Schema) -> bool:
        source, output = pair
        return self.coarse[output] or schema[source.table][source.column].kind == "whole"

    def flows(self, pair, schema: Schema) -> bool:
        return pair in self.flowed or (self.is_coarse(pair, schema) and pair in self.kept)


class Watch:
    """Watches one query over random databases.

    Args:
        sql: The query.
        schema: The tables, with how their columns are drawn.
        rows: Rows in each table.
        anchor: Number of the output that holds the identity of a row; None when there is none.
        seed: Of all chance.
    """

    def __init__(self, sql: str, schema: Schema, *, rows: int, anchor: int | None = None, seed: int = 0) -> None:
        self.sql, self.schema, self.rows, self.anchor = sql, schema, rows, anchor
        self.dice = random.Random(seed)
        self.connection = duckdb.connect()
        self.connection.execute("SET threads = 1")
        # with these on, changing a value can change the order in which rows are read, and so what a tie gives
        self.connection.execute("SET disabled_optimizers = 'statistics_propagation,join_order,build_side_probe_side'")
        for table, columns in schema.items():
            types = ", ".join(f'"{name}" {_TYPES[field.kind]}' for name, field in columns.items())
            self.connection.execute(f"CREATE TABLE {table} ({types})")
        self.seen = Seen()

    def watch(self, lineage: QueryLineage, *, least: int, most: int) -> Seen:
        """Redraw and nudge until every edge that is claimed was seen, or `most` databases are through."""
        for number in range(most):
            changes = [
                (column, change)
                for column in self._columns()
                for change, unseen in ((self._nudge, self._unseen_flow), (self._redraw, self._unseen))
                if number < least or unseen(column, lineage)
            ]
            if not changes:
                break
            self._one_database(changes)
        return self.seen

    def _columns(self) -> Iterator[SourceColumn]:
        for table, columns in self.schema.items():
            for column in columns:
                yield SourceColumn(table, column)

    def _unseen(self, column: SourceColumn, lineage: QueryLineage) -> bool:
        outputs = enumerate(lineage.outputs[: len(self.seen.names)])
        unmoved = any(
            column in output.sources and (column, number) not in self.seen.moved for number, output in outputs
        )
        return unmoved or self._unseen_flow(column, lineage)

    def _unseen_flow(self, column: SourceColumn, lineage: QueryLineage) -> bool:
        outputs = enumerate(lineage.outputs[: len(self.seen.names)])
        return any(column in output.direct and not self.seen.flows((column, n), self.schema) for n, output in outputs)

    def _one_database(self, changes: Iterable[tuple]) -> None:
        data, before = self._telling_database()
        for column, change in changes:
            self._changed(column, change, data, before)

    def _telling_database(self) -> tuple[Database, list[tuple]]:
        """Return a database and the query's rows; if chance allows, one in which the query finds something."""
        for _ in range(8):
            data = {
                table: {name: [f.draw(self.dice, row) for row in range(self.rows)] for name, f in fields.items()}
                for table, fields in self.schema.items()
            }
            for table in data:
                self._fill(table, data)
            before = self._result()
            if any(value for row in before for value in row):
                break
        return data, before

    def _changed(self, column: SourceColumn, change, data: Database, before: list[tuple]) -> None:
        spec = self.schema[column.table][column.column]
        old = data[column.table][column.column]
        self.connection.execute("BEGIN")
        self._fill(column.table, {column.table: {**data[column.table], column.column: change(spec, old)}})
        after = self._result()
        self.connection.execute("ROLLBACK")
        if len(before) != len(after):
            self.seen.resized.add(column)
        for output in self._moved(before, after, anchor=None if spec.unique else self.anchor):
            self.seen.moved.add((column, output))
            if len(before) == len(after):
                self.seen.kept.add((column, output))
                if change == self._nudge:
                    self.seen.flowed.add((column, output))

    def _nudge(self, spec: Field, old: list) -> list:
        return [spec.nudged(value) for value in old]

    def _redraw(self, spec: Field, old: list) -> list:
        share = self.dice.choice((0.15, 0.4, 1.0))
        if spec.unique:
            return self.dice.sample(old, len(old))
        nulls = self.dice.random() < 0.25
        return [value if self.dice.random() > share else None if nulls else spec.draw(self.dice, 0) for value in old]

    def _fill(self, table: str, data: Database) -> None:
        rows = list(zip(*data[table].values(), strict=True))
        self.connection.execute(f"TRUNCATE {table}")
        self.connection.execute(f"INSERT INTO {table} VALUES {', '.join(map(_literal, rows))}")

    def _result(self) -> list[tuple]:
        found = self.connection.execute(self.sql)
        if not self.seen.names:
            self.seen.names = tuple(name for name, *_ in found.description)
            self.seen.coarse = tuple(str(kind) in _COARSE for _, kind, *_ in found.description)
        return found.fetchall()

    def _moved(self, before: list[tuple], after: list[tuple], *, anchor: int | None) -> Iterator[int]:
        anchored = anchor is not None and _bag(before, anchor) == _bag(after, anchor)
        for output in range(len(self.seen.names)):
            if (anchored and _bag(before, anchor, output) != _bag(after, anchor, output)) or (
                _bag(before, output) != _bag(after, output)
            ):
                yield output


def _literal(row: tuple) -> str:
    return f"({', '.join('NULL' if v is None else repr(v if isinstance(v, float) else str(v)) for v in row)})"


def _bag(rows: list[tuple], *outputs: int) -> Counter:
    return Counter(tuple(repr(row[output]) for output in outputs) for row in rows)


def judge(lineage: QueryLineage, seen: Seen, schema: Schema, sql: str) -> Verdict:
    """Compare claimed edges with what was seen, by the rules at the top of this module."""
    verdict = Verdict(outputs=len(seen.names))
    if lineage.opaque or len(lineage.outputs) != len(seen.names):
        verdict.opaque.append(f"{lineage.opaque or 'other outputs'}: {sql}")
        return verdict
    sources = [SourceColumn(table, column) for table, columns in schema.items() for column in columns]
    for number, output in enumerate(lineage.outputs):
        if output.opaque:
            verdict.opaque.append(f"{output.name}: {output.opaque}: {sql}")
            continue
        indirect = {edge.column for edge in output.indirect}
        for source in sources:
            _judge_pair((source, number), source in output.direct, source in indirect, schema, seen, verdict, sql)
    return verdict


def _judge_pair(pair, direct: bool, indirect: bool, schema: Schema, seen: Seen, verdict: Verdict, sql: str) -> None:
    what = f"{pair[0]} -> {seen.names[pair[1]]}: {sql}"
    tallies, flowed = verdict.tallies, pair in seen.flowed
    if direct:
        tallies["direct precision"].add(what, right=seen.flows(pair, schema))
    if flowed:
        tallies["direct recall"].add(what, right=direct)
    if pair[0] in seen.resized:
        tallies["indirect recall"].add(f"[rows] {what}", right=indirect)
    elif pair in seen.moved and not flowed:
        tallies["indirect recall"].add(what, right=indirect or (direct and seen.is_coarse(pair, schema)))
    if indirect and not direct:
        tallies["indirect precision"].add(what, right=pair in seen.moved)
    elif indirect and pair[0] in seen.resized:
        tallies["indirect precision"].add(what, right=True)


def watch_and_judge(
    sql: str,
    lineage: QueryLineage,
    schema: Schema,
    *,
    rows: int,
    anchor: int | None = None,
    seed: int = 0,
    least: int = 5,
    most: int = 60,
) -> Verdict:
    """Judge the lineage of one query by changing its input."""
    read = {table: fields for table, fields in schema.items() if re.search(rf"\b{table}\b", sql)}
    seen = Watch(sql, read, rows=rows, anchor=anchor, seed=seed).watch(lineage, least=least, most=most)
    return judge(lineage, seen, read, sql)
