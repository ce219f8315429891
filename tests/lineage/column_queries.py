"""Queries made by a grammar, to judge column lineage on: joins, groups, windows, subqueries, unions, CTEs, stars, lateral joins.

What is made means something: a condition can be true and false, the operands of an expression are different columns, the branches of
a condition differ. An edge can then be seen to move.
"""

import random
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import count

from column_oracle import Field

_WORDS = ("ab", "cd", "ef")


def _numbers(residue: int) -> Field:
    """Numbers that are equal to those of no other column, whatever is added to them in a nudge."""
    return Field("number", tuple(float(1000 * thousand + residue) for thousand in range(6)))


def _times(hour: int) -> Field:
    return Field("time", tuple(datetime(2024, 1, day, hour) for day in range(1, 7)))


SCHEMA = {
    "a": {
        "aid": Field("text", ("i",), unique=True),
        "k": Field("text", _WORDS),
        "s": Field("text", _WORDS),
        "v": _numbers(101),
        "w": _numbers(203),
        "ts": _times(6),
    },
    "b": {
        "bid": Field("text", ("j",), unique=True),
        "k": Field("text", _WORDS),
        "s2": Field("text", _WORDS),
        "x": _numbers(317),
        "y": _numbers(431),
        "bt": _times(12),
    },
    "c": {
        "k": Field("text", _WORDS),
        "u": Field("text", _WORDS),
        "z": _numbers(577),
        "n": Field("whole", (1, 2, 3)),
    },
}
TABLES = {table: list(fields) for table, fields in SCHEMA.items()}


@dataclass(frozen=True)
class Made:
    """A column of what was made: how it is named there, its kind, whether it tells rows apart."""

    name: str
    kind: str
    unique: bool = False


@dataclass(frozen=True)
class Query:
    """A query with its number of the output that tells rows apart, or None."""

    sql: str
    columns: tuple[Made, ...]

    @property
    def anchor(self) -> int | None:
        return next((place for place, column in enumerate(self.columns) if column.unique), None)


class Grammar:
    """Makes queries of one seed."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.fresh = count()
        self.ctes: list[tuple[str, Query]] = []

    def query(self) -> Query:
        """Make a query, with what it defines first."""
        for _ in range(self.dice.choice((0, 0, 1, 1, 2))):
            self.ctes.append((self._name("cte"), self._any_query(0)))
        last = self._any_query(1)
        if not self.ctes:
            return last
        definitions = ", ".join(f"{name} AS ({query.sql})" for name, query in self.ctes)
        return Query(f"WITH {definitions} {last.sql}", last.columns)

    def _any_query(self, depth: int) -> Query:
        forms = [self._plain, self._plain, self._plain, self._grouped, self._grouped, self._total, self._union]
        forms += [self._star, self._recursive, self._set_operation, self._distinct_on, self._last_rows]
        return self.dice.choice(forms)(depth)

    def _name(self, prefix: str) -> str:
        return f"{prefix}{next(self.fresh)}"

    def _chance(self, share: float) -> bool:
        return self.dice.random() < share

    # --- FROM ----------------------------------------------------------------------------------------------------

    def _table(self, depth: int) -> tuple[str, list[Made]]:
        """Return an item of FROM and its columns, named with their table."""
        alias = self._name("t")
        if self.ctes and self._chance(0.4):
            name, query = self.dice.choice(self.ctes)
            return f"{name} AS {alias}", _under(alias, query.columns)
        if depth and self._chance(0.35):
            query = self._any_query(depth - 1)
            return f"({query.sql}) AS {alias}", _under(alias, query.columns)
        table = self.dice.choice("aaabbc")
        columns = _fields(table)
        return f"{table} AS {alias}", _under(alias, columns)

    def _from(self, depth: int) -> tuple[str, list[Made]]:
        """Return FROM and the columns that it gives."""
        form = self.dice.choice(
            ("table", "table", "table", "on", "on", "using", "lateral", "unnest", "semi", "asof", "comma")
        )
        text, columns = self._table(depth)
        if form == "table":
            return text, columns
        if form == "unnest":
            numbers = self._some(columns, "number", 2)
            if len(numbers) == 2:
                alias = self._name("u")
                listed = f"[{numbers[0].name}, {numbers[1].name}]"
                return f"{text}, unnest({listed}) AS {alias}(e)", [*_plain(columns), Made(f"{alias}.e", "number")]
            return text, columns
        if form in ("using", "asof"):
            return self._using(form)
        if form == "lateral":
            alias = self._name("l")
            inner = self.dice.choice(("x", "y"))
            keys = self._some(columns, "text", 1)
            if not keys:
                return text, columns
            lateral = f"LATERAL (SELECT max({inner}) AS m, count(*) AS c FROM b WHERE b.k = {keys[0].name})"
            return f"{text}, {lateral} AS {alias}", [
                *columns,
                Made(f"{alias}.m", "number"),
                Made(f"{alias}.c", "whole"),
            ]
        other, others = self._table(0)
        condition = self._join_condition(columns, others)
        if condition is None:
            return text, columns
        if form == "comma":
            return f"{text}, {other} WHERE {condition}", _plain(columns + others)
        if form == "semi":
            return f"{text} {self.dice.choice(('SEMI', 'ANTI'))} JOIN {other} ON {condition}", columns
        kind = self.dice.choice(("", "LEFT ", "LEFT ", "RIGHT ", "FULL "))
        return f"{text} {kind}JOIN {other} ON {condition}", _plain(columns + others)

    def _using(self, form: str) -> tuple[str, list[Made]]:
        left, right = self._name("t"), self._name("t")
        ours = _under(left, _plain([column for column in _fields("a") if column.name != "k"]))
        theirs = _under(right, _plain([column for column in _fields("b") if column.name != "k"]))
        if form == "asof":
            kind = self.dice.choice(("ASOF", "ASOF LEFT"))
            text = f"a AS {left} {kind} JOIN b AS {right} ON {left}.k = {right}.k AND {left}.ts >= {right}.bt"
            return text, [*ours, *theirs, Made(f"{left}.k", "text")]
        kind = self.dice.choice(("JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"))
        text = f"a AS {left} {kind} b AS {right} USING (k)"
        if self._chance(0.3):
            text = f"a AS {left} NATURAL {kind} b AS {right}"
        one_side = [] if kind == "JOIN" else [Made(f"{table}.k", "other") for table in (left, right)]
        return text, [*ours, *theirs, Made("k", "text"), *one_side]

    def _join_condition(self, left: list[Made], right: list[Made]) -> str | None:
        ours, theirs = self._some(left, "text", 1), self._some(right, "text", 1)
        if not ours or not theirs:
            return None
        condition = f"{ours[0].name} = {theirs[0].name}"
        right.remove(theirs[0])  # equal to the other from here on: what is made of both would not depend on both
        more = self._some(left, "number", 1), self._some(right, "number", 1)
        if all(more) and self._chance(0.25):
            condition += f" AND {more[0][0].name} < {more[1][0].name}"
        return condition

    # --- expressions ---------------------------------------------------------------------------------------------

    def _some(self, columns: list[Made], kind: str, most: int) -> list[Made]:
        """Return different columns of a kind, in any order."""
        fitting = [column for column in columns if column.kind == kind]
        return self.dice.sample(fitting, min(most, len(fitting)))

    def _value(self, columns: list[Made], kind: str) -> str | None:
        """Return an expression of a kind over the columns; None when there are none to make it of."""
        found = self._some(columns, kind, 3)
        if not found:
            return None
        first = found[0].name
        if kind == "number":
            return self._number(columns, [c.name for c in found])
        if kind == "text" and len(found) > 1:
            second = found[1].name
            forms = [first, first, f"{first} || {second}", f"coalesce(nullif({first}, 'ab'), {second})"]
            forms += [f"substring({first}, 1, 1)", f"CASE {first} WHEN 'cd' THEN {second} ELSE 'none' END"]
            return self.dice.choice(forms)
        return first

    def _number(self, columns: list[Made], found: list[str]) -> str:
        first = found[0]
        forms = [first, first, f"{first} * 2", f"6000 - {first}", f"[{first}, 5.0][1]", f"{{'p': {first}}}.p"]
        if len(found) > 1:
            second = found[1]
            forms += [f"{first} + {second}", f"greatest({first}, {second})"]
            forms += [f"list_sum(list_transform([{first}, 1.0], lambda e: e + {second}))"]
            if (condition := self._condition([c for c in columns if c.name not in found[:2]], 0)) is not None:
                forms += [f"CASE WHEN {condition} THEN {first} ELSE {second} END"] * 3
                forms += [f"if({condition}, {first}, {second})", f"coalesce(if({condition}, NULL, {first}), {second})"]
                forms += [f"sum({first}) FILTER (WHERE {condition}) OVER ()"]
        keys = self._some(columns, "text", 1)
        if keys:
            forms.append(f"(SELECT max(sub.z) FROM c AS sub WHERE sub.u = {keys[0].name} OR sub.k = {keys[0].name})")
        return self.dice.choice(forms)

    def _constant(self) -> float:
        return 1000.0 * self.dice.choice((1, 2, 3)) + 500

    def _condition(self, columns: list[Made], depth: int = 1) -> str | None:
        """Return a condition that is sometimes true."""
        forms = []
        numbers, texts = self._some(columns, "number", 2), self._some(columns, "text", 2)
        times, wholes = self._some(columns, "time", 1), self._some(columns, "whole", 1)
        if numbers:
            name = numbers[0].name
            forms += [
                f"{name} > {self._constant()}",
                f"{name} <= {self._constant()}",
                f"({name} IS NULL OR {name} > 2500)",
            ]
            forms.append(f"{name} BETWEEN 500 AND 1000 + {self._constant()}")
            if depth:
                forms.append(f"{name} > (SELECT avg(sub.z) FROM c AS sub)")
        if len(numbers) > 1:
            forms.append(f"{numbers[0].name} < {numbers[1].name}")
        if texts:
            name = texts[0].name
            forms += [f"{name} IN ('ab', 'ef')", f"{name} LIKE '%a%'", f"NOT {name} = 'ab'"]
            if depth:
                forms += [f"EXISTS (SELECT 1 FROM c AS sub WHERE sub.k = {name} AND sub.z > 1500)"]
                forms += [f"{name} IN (SELECT sub.k FROM c AS sub WHERE sub.z < 3500)"]
                forms += [f"NOT EXISTS (FROM c AS sub WHERE sub.k = {name} AND sub.u = 'ab')"]
        if times:
            forms.append(f"{times[0].name} < TIMESTAMP '2024-01-04'")
        if wholes:
            forms.append(f"{wholes[0].name} >= 2")
        if not forms:
            return None
        condition = self.dice.choice(forms)
        if depth and self._chance(0.2) and len(forms) > 4:
            other = self.dice.choice([form for form in forms if form.split()[0] not in condition] or [condition])
            condition = f"({condition} {self.dice.choice(('AND', 'OR'))} {other})"
        return condition

    def _window(self, columns: list[Made]) -> tuple[str, str] | None:
        """Return a window function and the kind of its value."""
        numbers, texts = self._some(columns, "number", 2), self._some(columns, "text", 1)
        if not numbers or not texts:
            return None
        value, over = numbers[0].name, f"PARTITION BY {texts[0].name}"
        ordered = f"{over} ORDER BY {numbers[-1].name}"
        choice = self.dice.choice((1, 2, 3, 4, 5))
        if choice == 1:
            return f"sum({value}) OVER ({over})", "number"
        if choice == 2:
            return f"lag({value}) OVER ({ordered})", "number"
        if choice == 3:
            return f"rank() OVER ({ordered})", "whole"
        if choice == 4:
            return f"max({value}) OVER ({ordered} ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)", "number"
        return f"count({value}) OVER ({over})", "whole"

    # --- SELECT --------------------------------------------------------------------------------------------------

    def _where(self, source: str, columns: list[Made], share: float) -> str:
        """Return a condition behind FROM, or nothing; a full join keeps its rows, as most conditions would make it an inner one."""
        condition = self._condition(columns) if self._chance(share) and "FULL" not in source else None
        if condition is None:
            return ""
        return f" {'AND' if ' WHERE ' in source.rpartition(')')[2] else 'WHERE'} {condition}"

    def _outputs(self, columns: list[Made], most: int) -> list[tuple[str, Made]]:
        """Return expressions with the columns that they become; what tells rows apart comes along."""
        outputs = [(c.name, Made(self._name("id"), "id", unique=True)) for c in columns if c.unique][:1]
        for _ in range(self.dice.randint(1, most)):
            kind = self.dice.choice(("number", "number", "text", "text", "time", "whole", "other"))
            if (value := self._value(columns, kind)) is not None:
                made = kind if kind != "text" or value in {column.name for column in columns} else "other"
                outputs.append((value, Made(self._name("o"), made)))
        if self._chance(0.35) and (window := self._window(columns)):
            outputs.append((window[0], Made(self._name("o"), window[1])))
        if not outputs:
            outputs.append((columns[0].name, Made(self._name("o"), columns[0].kind)))
        return outputs

    def _plain(self, depth: int) -> Query:
        source, columns = self._from(depth)
        outputs = self._outputs(columns, 3)
        sql = f"SELECT {_list(outputs)} FROM {source}"
        sql += self._where(source, columns, 0.5)
        made = tuple(column for _, column in outputs)
        if self._chance(0.15) and (window := self._window(columns)):
            limit = "= 1" if window[1] == "whole" else "> 1500"
            return Query(f"{sql} QUALIFY {window[0]} {limit}", made)
        if self._chance(0.15):
            return Query(sql.replace("SELECT ", "SELECT DISTINCT ", 1), made)
        return Query(sql, made)

    def _last_rows(self, depth: int) -> Query:
        """Return a query whose order decides: LIMIT behind a total order."""
        source, columns = self._from(depth)
        outputs = self._outputs(columns, 1)
        if outputs[0][1].unique and (numbers := self._some(columns, "number", 1)):
            keys = [numbers[0].name, outputs[0][1].name]
        else:  # one output, so that it does not matter which of two equal rows is left
            outputs = [output for output in outputs if output[1].kind != "whole"][:1] or outputs[:1]
            keys = [outputs[0][1].name]
        names = ", ".join(f"{key}{self.dice.choice(('', ' DESC'))} NULLS LAST" for key in keys)
        sql = f"SELECT {_list(outputs)} FROM {source} ORDER BY {names} LIMIT 3"
        return Query(sql, tuple(column for _, column in outputs))

    def _distinct_on(self, depth: int) -> Query:
        columns = _fields("a")
        outputs = [(c.name, replace(c, name=self._name("o"))) for c in self._some(columns, "number", 2)]
        condition = self._condition(columns) if depth else None
        where = f" WHERE {condition}" if condition else ""
        sql = f"SELECT DISTINCT ON (k) k AS kk, {_list(outputs)} FROM a{where} ORDER BY k, ts DESC NULLS LAST, aid"
        return Query(sql, (Made("kk", "text"), *(column for _, column in outputs)))

    def _grouped(self, depth: int) -> Query:
        source, columns = self._from(depth)
        keys = self._some(columns, "text", 2)[: self.dice.choice((1, 1, 2))]
        if not keys:
            return self._total(depth)
        grouped = [(key.name, Made(self._name("g"), "text")) for key in keys]
        aggregates = self._aggregates([c for c in columns if c not in keys], source)
        outputs = grouped + aggregates
        how = self.dice.choice(("names", "numbers", "all", "aliases"))
        clause = {
            "names": ", ".join(key.name for key in keys),
            "numbers": ", ".join(str(place + 1) for place in range(len(keys))),
            "all": "ALL",
            "aliases": ", ".join(made.name for _, made in grouped),
        }[how]
        sql = f"SELECT {_list(outputs)} FROM {source}"
        sql += self._where(source, columns, 0.4)
        sql += f" GROUP BY {clause}"
        if self._chance(0.25) and (numbers := self._some(columns, "number", 1)):
            sql += f" HAVING sum({numbers[0].name}) > 3500"
        return Query(sql, tuple(column for _, column in outputs))

    def _total(self, depth: int) -> Query:
        source, columns = self._from(depth)
        outputs = self._aggregates(columns, source)
        sql = f"SELECT {_list(outputs)} FROM {source}"
        sql += self._where(source, columns, 0.5)
        return Query(sql, tuple(column for _, column in outputs))

    def _aggregates(self, columns: list[Made], source: str) -> list[tuple[str, Made]]:
        numbers, texts = self._some(columns, "number", 3), self._some(columns, "text", 2)
        choices = [("count(*)", "whole")]
        for number in numbers:
            choices += [(f"{f}({number.name})", "number") for f in ("sum", "min", "max")]
            choices.append((f"count({number.name})", "whole"))
        for text in texts:
            choices += [(f"max({text.name})", "text"), (f"count(DISTINCT {text.name})", "whole")]
        if " JOIN " in source:  # where rows may be there twice: what does not mind that would not depend on the join
            choices = [
                choice for choice in choices if choice[0].startswith(("sum", "count(")) and "DISTINCT" not in choice[0]
            ]
        elif len(numbers) > 1:
            first, second = numbers[0].name, numbers[1].name
            choices += [(f"arg_max({first}, {second})", "number"), (f"sum({first} + {second})", "number")]
            choices.append((f"sum({first}) FILTER (WHERE {second} > 2500)", "number"))
            choices.append((f"sum(CASE WHEN {first} > 1500 THEN {second} ELSE 0 END)", "number"))
        chosen = self.dice.sample(choices, min(len(choices), self.dice.randint(1, 3)))
        return [(sql, Made(self._name("o"), kind)) for sql, kind in chosen]

    def _star(self, depth: int) -> Query:
        source, columns = self._table(depth)
        names = [column.name.partition(".")[2] for column in columns]
        numbers = [place for place, column in enumerate(columns) if column.kind == "number"]
        made = [replace(column, name=name) for column, name in zip(columns, names, strict=True)]
        alias = columns[0].name.partition(".")[0]
        star = self.dice.choice(("*", f"{alias}.*"))
        form = self.dice.choice(("all", "exclude", "replace", "rename"))
        if form == "exclude" and len(names) > 1:
            star += f" EXCLUDE ({names[-1]})"
            made.pop()
        elif form == "replace" and numbers:
            star += f" REPLACE ({names[numbers[0]]} * 2 AS {names[numbers[0]]})"
        elif form == "rename":
            renamed = self._name("r")
            star += f" RENAME ({names[-1]} AS {renamed})"
            made[-1] = replace(made[-1], name=renamed)
        sql = f"SELECT {star} FROM {source}"
        sql += self._where(source, columns, 0.4)
        return Query(sql, tuple(made))

    def _union(self, depth: int) -> Query:
        """Return the rows of two tables as one, of the same kinds."""
        sides = []
        names = [self._name("o"), self._name("o")]
        for _ in range(2):
            source, columns = self._from(0)
            number, text = self._value(columns, "number"), self._value(columns, "text")
            if number is None or text is None or " OVER " in number:
                return self._plain(depth)
            where = self._where(source, columns, 0.3)
            sides.append(f"SELECT {text} AS {names[0]}, {number} AS {names[1]} FROM {source}{where}")
        word = self.dice.choice(("UNION ALL", "UNION ALL", "UNION", "UNION ALL BY NAME"))
        return Query(f"{sides[0]} {word} {sides[1]}", (Made(names[0], "text"), Made(names[1], "number")))

    def _set_operation(self, depth: int) -> Query:
        word = self.dice.choice(("INTERSECT", "EXCEPT", "EXCEPT ALL"))
        left, right = self.dice.sample((("a", "k"), ("b", "k"), ("c", "k")), 2)
        name = self._name("o")
        ending = " WHERE z > 1500" if right[0] == "c" else ""
        sql = f"SELECT {left[1]} AS {name} FROM {left[0]} {word} SELECT {right[1]} FROM {right[0]}{ending}"
        return Query(sql, (Made(name, "other"),))

    def _recursive(self, depth: int) -> Query:
        """Return the steps from one table's rows along another's."""
        name = self._name("walk")
        sql = (
            f"SELECT k1, n1, w1 FROM (WITH RECURSIVE {name}(at_k, total, step) AS (SELECT k, v, 1 FROM a WHERE s = 'cd' UNION ALL "
            f"SELECT b.k, {name}.total + b.x, step + 1 FROM {name} JOIN b ON b.s2 = {name}.at_k WHERE step < 3) "
            f"SELECT at_k AS k1, total AS n1, step AS w1 FROM {name}) AS walked"
        )
        # of a recursive query DuckDB forgets that case does not count, so its texts are not compared further on
        return Query(sql, (Made("k1", "other"), Made("n1", "number"), Made("w1", "whole")))


def _fields(table: str) -> list[Made]:
    """Return the columns of a table; an identity is of a kind of its own, as it equals nothing else."""
    return [Made(name, "id" if f.unique else f.kind, f.unique) for name, f in SCHEMA[table].items()]


def _under(alias: str, columns) -> list[Made]:
    return [replace(column, name=f"{alias}.{column.name}") for column in columns]


def _plain(columns: list[Made]) -> list[Made]:
    """Return columns of joined tables: what told rows apart does so no more."""
    return [replace(column, unique=False) for column in columns]


def _list(outputs: list[tuple[str, Made]]) -> str:
    return ", ".join(f"{sql} AS {made.name}" for sql, made in outputs)


def make_query(seed: int) -> Query:
    """Make the query of a seed."""
    return Grammar(seed).query()
