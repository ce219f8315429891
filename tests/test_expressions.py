"""Expressions mean what DuckDB means, give the same for one row and for many, and say exactly which columns they read."""

import json
import math
import struct
import subprocess
import sys
from decimal import Decimal

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.errors import DefinitionError, InvalidArgumentError
from featurestore.expressions import Column, evaluate, evaluate_scalar, from_json, parse_expression, text, to_json
from featurestore.types import DType, from_arrow, from_micros, to_arrow, to_micros

COLUMNS = {
    "b": "bool",
    "c": "bool",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "j64": "int64",
    "f": "float64",
    "h": "float64",
    "g": "float32",
    "s": "string",
    "u": "string",
    "ts": "timestamp",
    "d": "date",
}
BY_KIND = {
    "bool": ["b", "c"],
    "integer": ["i8", "i16", "i32", "i64", "j64"],
    "float": ["f", "h", "g"],
    "string": ["s", "u"],
    "timestamp": ["ts"],
    "date": ["d"],
}


def integers(bits):
    edge = 1 << (bits - 1)
    return st.one_of(st.integers(-3, 3), st.sampled_from([-edge, -edge + 1, edge - 1]), st.integers(-edge, edge - 1))


FLOATS = st.one_of(
    st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -2.5, 0.49999999999999994, 127.5, -128.5, 1e300, 9.3e18, 2.675]),
    st.floats(-1000, 1000),
    st.floats(allow_nan=False),
)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4)
VALUES = {
    "bool": st.booleans(),
    **{f"int{bits}": integers(bits) for bits in (8, 16, 32, 64)},
    "float64": FLOATS,
    "float32": st.floats(width=32, allow_nan=False),
    "string": st.one_of(st.sampled_from(["", "a", "b", "Ab"]), TEXT),
    "timestamp": st.integers(to_micros("1700-01-01"), to_micros("2300-01-01")).map(from_micros),
    "date": st.dates(from_micros(-(10**16)).date(), from_micros(10**16).date()),
}
ROWS = st.lists(
    st.fixed_dictionaries({name: st.one_of(st.none(), VALUES[dtype]) for name, dtype in COLUMNS.items()}),
    min_size=1,
    max_size=5,
)


@st.composite
def expressions(draw, kind, depth):
    """SQL of a kind: bool, integer, float, number, string, timestamp or date; mostly without superfluous parentheses."""
    if kind == "number":
        kind = draw(st.sampled_from(["integer", "float"]))
    if depth == 0 or draw(st.integers(0, 5)) == 0:
        return draw(leaf(kind))

    def sub(kind):
        inner = draw(expressions(kind, depth - 1))
        return inner if inner.isidentifier() or (draw(st.integers(0, 3)) == 0 and kind != "bool") else f"({inner})"

    return draw(st.sampled_from(FORMS[kind] + FORMS["any"]))(sub, draw, kind)


@st.composite
def leaf(draw, kind):
    if draw(st.integers(0, 2)):
        return draw(st.sampled_from(BY_KIND[kind]))
    if kind == "float":
        number = draw(st.sampled_from(["0.0", "0.5", "1.5", "3.25", "1e300"]))
        return f"CAST({number} AS DOUBLE)"
    constants = {
        "bool": ["TRUE", "FALSE", "CAST(NULL AS BOOLEAN)"],
        "integer": ["0", "1", "2", "7", "100", "300", "3000000000", "CAST(NULL AS BIGINT)"],
        "string": ["''", "'a'", "'it''s'", "'Straße'"],
        "timestamp": ["CAST('2013-11-01 12:30:00' AS TIMESTAMPTZ)"],
        "date": ["CAST('2013-11-01' AS DATE)"],
    }
    return draw(st.sampled_from(constants[kind]))


COMPARABLE = st.sampled_from(["number", "string", "timestamp", "date", "bool"])
SIGN = st.sampled_from(["=", "<>", "<", "<=", ">", ">="])
FIELD = st.sampled_from(["year", "quarter", "month", "week", "day", "doy", "dow", "isodow", "hour", "minute", "second"])
INTEGER_TYPE = st.sampled_from(["TINYINT", "SMALLINT", "INTEGER", "BIGINT"])


def comparison(sub, draw, kind):
    what = draw(COMPARABLE)
    return f"{sub(what)} {draw(SIGN)} {sub(what)}"


def membership(sub, draw, kind):
    what, negated = draw(COMPARABLE), draw(st.sampled_from(["", "NOT "]))
    return f"{sub(what)} {negated}IN ({sub(what)}, {sub(what)})"


def between(sub, draw, kind):
    what, negated = draw(COMPARABLE), draw(st.sampled_from(["", "NOT "]))
    return f"({sub(what)}) {negated}BETWEEN ({sub(what)}) AND ({sub(what)})"


FORMS = {
    "any": [
        lambda sub, draw, kind: f"CASE WHEN {sub('bool')} THEN {sub(kind)} ELSE {sub(kind)} END",
        lambda sub, draw, kind: f"CASE WHEN {sub('bool')} THEN {sub(kind)} WHEN {sub('bool')} THEN {sub(kind)} END",
        lambda sub, draw, kind: f"CASE {sub('number')} WHEN {sub('number')} THEN {sub(kind)} ELSE {sub(kind)} END",
        lambda sub, draw, kind: f"COALESCE({sub(kind)}, {sub(kind)})",
        lambda sub, draw, kind: f"NULLIF({sub(kind)}, {sub(kind)})",
        lambda sub, draw, kind: f"LEAST({sub(kind)}, {sub(kind)}, {sub(kind)})",
        lambda sub, draw, kind: f"GREATEST({sub(kind)}, {sub(kind)})",
    ],
    "bool": [
        comparison,
        membership,
        between,
        lambda sub, draw, kind: f"{sub('bool')} AND {sub('bool')}",
        lambda sub, draw, kind: f"{sub('bool')} OR {sub('bool')}",
        lambda sub, draw, kind: f"NOT {sub('bool')}",
        lambda sub, draw, kind: f"({sub(draw(COMPARABLE))}) IS NULL",
        lambda sub, draw, kind: f"({sub(draw(COMPARABLE))}) IS NOT NULL",
        lambda sub, draw, kind: f"CAST({sub('number')} AS BOOLEAN)",
    ],
    "integer": [
        lambda sub, draw, kind: f"{sub('integer')} {draw(st.sampled_from(['+', '-', '*', '%']))} {sub('integer')}",
        lambda sub, draw, kind: f"({sub('integer')}) // ({sub('integer')})",
        lambda sub, draw, kind: f"-({sub('integer')})",
        lambda sub, draw, kind: f"ABS({sub('integer')})",
        lambda sub, draw, kind: f"ROUND({sub('integer')})",
        lambda sub, draw, kind: f"CAST({sub('number')} AS {draw(INTEGER_TYPE)})",
        lambda sub, draw, kind: f"CAST({sub('bool')} AS {draw(INTEGER_TYPE)})",
        lambda sub, draw, kind: f"LENGTH({sub('string')})",
        lambda sub, draw, kind: f"EXTRACT('{draw(FIELD)}' FROM {sub('timestamp')})",
        lambda sub, draw, kind: f"DATE_PART('{draw(FIELD)}', {sub('date')})",
        lambda sub, draw, kind: f"EPOCH_US({sub('timestamp')})",
    ],
    "float": [
        lambda sub, draw, kind: f"{sub('float')} {draw(st.sampled_from(['+', '-', '*', '/', '%']))} {sub('number')}",
        lambda sub, draw, kind: f"({sub('integer')}) / ({sub('number')})",
        lambda sub, draw, kind: f"{draw(st.sampled_from(['FLOOR', 'CEIL', 'SQRT']))}({sub('number')})",
        lambda sub, draw, kind: f"ROUND({sub('float')})",
        lambda sub, draw, kind: f"ROUND({sub('float')}, {draw(st.integers(-3, 4))})",
        lambda sub, draw, kind: f"ABS({sub('float')})",
        lambda sub, draw, kind: f"-({sub('float')})",
        lambda sub, draw, kind: f"CAST({sub('number')} AS {draw(st.sampled_from(['DOUBLE', 'FLOAT']))})",
        lambda sub, draw, kind: f"EPOCH({sub(draw(st.sampled_from(['timestamp', 'date'])))})",
    ],
    "string": [
        lambda sub, draw, kind: f"{sub('string')} || {sub('string')}",
        lambda sub, draw, kind: f"{draw(st.sampled_from(['UPPER', 'LOWER']))}({sub('string')})",
        lambda sub, draw, kind: f"CAST({sub(draw(st.sampled_from(['integer', 'bool'])))} AS VARCHAR)",
    ],
    "timestamp": [lambda sub, draw, kind: f"CAST({sub('date')} AS TIMESTAMPTZ)"],
    "date": [lambda sub, draw, kind: f"CAST({sub('timestamp')} AS DATE)"],
}
SQL = st.sampled_from(list(BY_KIND)).flatmap(lambda kind: expressions(kind, 3))


@pytest.fixture(scope="module")
def oracle():
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'; SET threads = 1; PRAGMA disable_optimizer")
    yield connection
    connection.close()


def table_of(rows):
    arrays = {name: pa.array([row[name] for row in rows], to_arrow(DType(dtype))) for name, dtype in COLUMNS.items()}
    return pa.table(arrays)


def plain_array(array):
    """Instants and days as integers."""
    widths = {pa.timestamp("us", tz="UTC"): pa.int64(), pa.date32(): pa.int32()}
    return array.cast(widths[array.type]) if array.type in widths else array


def columns_of(rows):
    columns = {}
    for name, dtype in COLUMNS.items():
        array = plain_array(table_of(rows)[name].combine_chunks())
        valid = np.array([value is not None for value in array.to_pylist()], np.bool_)
        filled = array.to_pylist() if dtype == "string" else array.fill_null(False if dtype == "bool" else 0)
        values = np.array(filled, object) if dtype == "string" else filled.to_numpy(zero_copy_only=False)
        columns[name] = Column(values, valid)
    return columns


def bits(value):
    """A form in which only equal values are equal: NaN is, and 0.0 and -0.0 are not."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else struct.pack("d", value)
    return (type(value), value)


def asked_of(oracle, sql, rows):
    oracle.register("requests", table_of(rows))
    try:
        result = oracle.sql(f"SELECT {sql} AS result FROM requests").to_arrow_table()["result"]
    except (duckdb.OutOfRangeException, duckdb.InvalidInputException, duckdb.ConversionException):
        return "error", None
    return [bits(value) for value in plain_array(result.combine_chunks()).to_pylist()], from_arrow(result.type).name


def vector(expression, rows):
    try:
        column = evaluate(expression, columns_of(rows), len(rows))
    except InvalidArgumentError:
        return "error"
    values = column.values.tolist()
    return [bits(value if known else None) for value, known in zip(values, column.valid.tolist(), strict=True)]


def scalar(expression, row):
    try:
        value = evaluate_scalar(expression, row)
    except InvalidArgumentError:
        return "error"
    if value is not None and expression.dtype == "timestamp":
        value = to_micros(value)
    elif value is not None and expression.dtype == "date":
        value = (value - from_micros(0).date()).days
    return bits(value)


@given(SQL, ROWS)
@settings(max_examples=100, deadline=None)
def test_duckdb_vector_scalar_and_json_form_agree(oracle, sql, rows):
    expression = parse_expression(sql, columns=COLUMNS)
    expected, dtype = asked_of(oracle, sql, rows)
    assert vector(expression, rows) == expected
    singles = [scalar(expression, row) for row in rows]
    assert singles == expected or ("error" in singles and expected == "error")
    if dtype is not None:
        assert expression.dtype == dtype
    assert from_json(json.loads(json.dumps(to_json(expression)))) == expression


@given(expressions("bool", 2), ROWS)
@settings(max_examples=40, deadline=None)
def test_three_valued_logic_agrees(oracle, sql, rows):
    sql = f"{sql} AND b OR c IS NULL AND NOT c" if sql.isidentifier() else f"({sql}) AND b OR c IS NULL AND NOT c"
    assert vector(parse_expression(sql, columns=COLUMNS), rows) == asked_of(oracle, sql, rows)[0]


NULL_ROW = dict.fromkeys(COLUMNS)
PLAIN_ROW = {
    "b": True,
    "c": False,
    "i8": -128,
    "i16": 100,
    "i32": 2,
    "i64": -(2**63),
    "j64": 2**63 - 1,
    "f": 7.5,
    "h": 0.0,
    "g": 0.1,
    "s": "Straße",
    "u": "b",
    "ts": from_micros(-1),
    "d": from_micros(10**15).date(),
}


@pytest.mark.parametrize(
    "sql",
    [
        *[
            "7 // 2",
            "-7 // 2",
            "-7 % 3",
            "7 / 2",
            "1 / 0",
            "0 / 0",
            "f / h",
            "f % h",
            "-f % 2",
            "f - -f",
            "2 - 3 - 4",
            "i32 / 2 * 3",
        ],
        *[
            "i8 + 1",
            "100 - i8",
            "1000 - i8",
            "i16 * 400",
            "i64 + j64",
            "i64 - 1",
            "j64 * 2",
            "j64 * -1",
            "i64 * -1",
            "-1 * i64",
        ],
        *[
            "i64 // -1",
            "i64 % -1",
            "i64 // 0",
            "i64 % (i32 - i32)",
            "-i8",
            "-i64",
            "abs(i8)",
            "abs(i64)",
            "i64 = -9223372036854775808",
        ],
        *[
            "g * 1.5",
            "g = 0.1",
            "g = CAST(0.1 AS DOUBLE)",
            "i64 * g",
            "j64 = g",
            "j64 < f",
            "i16 / g",
            "f * 1.5",
            "coalesce(g, i64)",
        ],
        *[
            "round(2.675 * h + 2.675, 2)",
            "round(f, -1)",
            "round(f + 0.5)",
            "round(-f)",
            "floor(-h)",
            "ceil(-0.5 * f)",
            "sqrt(-f)",
        ],
        *[
            "i8 IN (1, 1000)",
            "i8 NOT IN (1, NULL)",
            "NULL IN (1)",
            "i32 IN (2, NULL)",
            "i8 BETWEEN 0 AND 1000",
            "i32 BETWEEN NULL AND 1",
        ],
        *[
            "b AND NULL",
            "c AND NULL",
            "b OR NULL",
            "NOT NULL",
            "NOT b = c",
            "NOT b IS NULL",
            "b OR b AND NOT b",
            "NULL IS NULL",
        ],
        *[
            "CASE WHEN i32 <> 2 THEN 1 // (i32 - 2) ELSE 0 END",
            "coalesce(i32, 1 // (i32 - 2))",
            "i32 <> 2 AND 1 // (i32 - 2) = 1",
        ],
        *[
            "CASE i8 WHEN -128 THEN 'a' END",
            "if(b, 1, i64)",
            "if(c, 1, 2.5e0)",
            "ifnull(f, 1)",
            "nullif(i8, 1000)",
            "nullif(g, f)",
        ],
        *[
            "CAST(f AS INT)",
            "CAST(-f AS INT)",
            "CAST(f * 1e300 AS BIGINT)",
            "CAST(i64 AS FLOAT)",
            "CAST(f * 1e300 AS FLOAT)",
        ],
        *[
            "CAST(j64 AS DOUBLE)",
            "CAST(CAST(j64 AS DOUBLE) AS BIGINT)",
            "CAST(300 AS TINYINT)",
            "CAST(b AS VARCHAR)",
            "f::int",
        ],
        *[
            "upper(s)",
            "lower(s)",
            "length(s)",
            "s || u || s",
            "s || CAST(NULL AS VARCHAR)",
            "s < u",
            "least(s, u)",
            "greatest(NULL, s)",
            "s || 'é' = s",
        ],
        *[
            "extract(hour FROM ts)",
            "extract('epoch' FROM ts)",
            "epoch(ts)",
            "epoch_us(ts)",
            "epoch(d)",
            "date_part('week', d)",
        ],
        *[
            "ts < d",
            "ts < '2020-01-01'",
            "d >= '2001-09-09'",
            "CAST(ts AS DATE)",
            "CAST(d AS TIMESTAMPTZ)",
            "extract(doy FROM d)",
        ],
    ],
)
@pytest.mark.parametrize("rows", [[PLAIN_ROW], [NULL_ROW, PLAIN_ROW], [NULL_ROW]], ids=["plain", "mixed", "null"])
def test_corner_cases_agree(oracle, sql, rows):
    expression = parse_expression(sql, columns=COLUMNS)
    expected, dtype = asked_of(oracle, sql, rows)
    assert vector(expression, rows) == expected
    singles = [scalar(expression, row) for row in rows]
    assert singles == expected or ("error" in singles and expected == "error")
    assert dtype in (None, expression.dtype)


@given(
    st.lists(st.tuples(integers(64), integers(64)), min_size=1, max_size=8), st.sampled_from(["+", "-", "*", "//", "%"])
)
@settings(max_examples=100, deadline=None)
def test_whole_numbers_are_exact_or_refused(pairs, operator):
    """The oracle is Python, whose integers have no limit."""
    expression = parse_expression(f"a {operator} b", columns={"a": "int64", "b": "int64"})
    columns = {
        name: Column(np.array([pair[position] for pair in pairs]), np.ones(len(pairs), np.bool_))
        for position, name in enumerate("ab")
    }

    def exact(a, b):
        if operator in ("//", "%"):
            quotient = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
            return quotient if operator == "//" or not -(2**63) <= quotient < 2**63 else a - quotient * b
        return {"+": a + b, "-": a - b, "*": a * b}[operator]

    by_zero = operator in ("//", "%") and any(b == 0 for _, b in pairs)
    expected = None if by_zero else [exact(a, b) for a, b in pairs]
    if expected is None or not all(-(2**63) <= value < 2**63 for value in expected):
        with pytest.raises(InvalidArgumentError, match=r"by zero|out of range of int64"):
            evaluate(expression, columns, len(pairs))
    else:
        assert evaluate(expression, columns, len(pairs)).values.tolist() == expected


def test_every_character_has_the_case_that_duckdb_gives_it(oracle):
    characters = pa.table({"s": [chr(code) for code in range(1, 0x30000) if not 0xD800 <= code < 0xE000]})
    oracle.register("characters", characters)
    rows = oracle.sql("SELECT s, upper(s), lower(s), length(s) FROM characters").fetchall()
    assert [row for row in rows if (text.upper(row[0]), text.lower(row[0]), 1) != row[1:]] == []


@pytest.mark.parametrize(
    ("sql", "direct", "indirect"),
    [
        ("f + g * 2", {"f", "g"}, set()),
        ("CASE WHEN b THEN f ELSE g END", {"f", "g"}, {"b"}),
        ("CASE i8 WHEN 1 THEN CASE WHEN c THEN f END END", {"f"}, {"i8", "c"}),
        ("nullif(f, h)", {"f"}, {"f", "h"}),
        ("coalesce(f, CAST(i8 AS DOUBLE))", {"f", "i8"}, set()),
        ("s IN ('a', u) AND f BETWEEN 1 AND h", {"s", "u", "f", "h"}, set()),
        ("1 + 1", set(), set()),
    ],
)
def test_lineage_names_the_columns_that_are_read(sql, direct, indirect):
    expression = parse_expression(sql, columns=COLUMNS)
    assert (expression.direct_columns, expression.indirect_columns) == (direct, indirect)
    assert expression.columns == direct | indirect


@given(SQL, ROWS, st.data())
@settings(max_examples=50, deadline=None)
def test_a_column_outside_of_the_lineage_never_matters(sql, rows, data):
    expression = parse_expression(sql, columns=COLUMNS)
    others = set(COLUMNS) - expression.columns
    changed = [{**row, **{name: data.draw(VALUES[COLUMNS[name]]) for name in others}} for row in rows[:1]]
    assert [scalar(expression, row) for row in rows[:1]] == [scalar(expression, row) for row in changed]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("distnce * 2", "No column 'distnce'. Did you mean 'distance'?"),
        ("t.distance", "not supported|No column"),
        ("regexp_matches(name, 'a')", "not supported here.*LEAST, GREATEST"),
        ("sum(distance)", "'sum' is not supported here. - at `SUM\\(distance\\)`"),
        ("row_number() OVER ()", "not supported here"),
        ("(SELECT 1)", "not supported here"),
        ("distance FROM secrets", "Expected one SQL expression and nothing around it"),
        ("distance; DROP TABLE x", "Expected one SQL expression"),
        ("distance, 1", "got 2"),
        ("distance AS d", "not supported here"),
        ("distance +", "Not a SQL expression"),
        ("", "Expected one SQL expression"),
        ("name + 1", "int32 and string do not meet"),
        ("name || distance", "Expected string, got float64"),
        ("distance AND flag", "Expected bool, got float64"),
        ("flag = 1", "bool and int32 do not meet"),
        ("distance // 2", "// takes int8"),
        ("at - at", "takes int8.*got timestamp"),
        ("at > 'yesterday'", "'yesterday' is no timestamp"),
        ("a < distance < 3", "cannot be chained|No column"),
        ("distance < 2 = flag", "cannot be chained"),
        ("CAST(name AS INT)", "string cannot become int32"),
        ("CAST(distance AS INT8)", "8 bytes in SQL and 8 bits here"),
        ("CAST(distance AS HUGEINT)", "No cast to"),
        ("TRY_CAST(distance AS INT)", "not supported here"),
        ("extract('houre' FROM at)", "Did you mean 'hour'"),
        ("round(distance, flag)", "ROUND takes its number of digits"),
        ("flag IS TRUE", "IS takes NULL"),
        ("NULL", "NULL and nothing else"),
        ("99999999999999999999", "does not fit int64"),
        ("1e999", "'1e999' is no number"),
        ("price + 1", "do not meet"),
        ("(" * 3000 + "1" + ")" * 3000, "nested too deeply|Not a SQL expression"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_reason(sql, message):
    columns = {"distance": "float64", "name": "string", "flag": "bool", "at": "timestamp", "price": "decimal(12,2)"}
    with pytest.raises(DefinitionError, match=message):
        parse_expression(sql, columns=columns)


@pytest.mark.parametrize("name", ["show", "set", "comment", "describe", "count"])
def test_a_column_may_be_called_like_a_statement(name):
    assert parse_expression(f"{name} + 1", columns={name: "int64"}).columns == {name}


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"column": "a"},
        {"column": "a", "dtype": "int65"},
        {"literal": "x", "dtype": "int32"},
        {"literal": 300, "dtype": "int8"},
        {"call": "system", "arguments": []},
        {"call": "+", "arguments": [{"literal": 1, "dtype": "int32"}]},
        {"call": "+", "arguments": [{"literal": 1, "dtype": "int32"}, {"literal": 1, "dtype": "int64"}]},
        {"call": "round_to", "arguments": [{"literal": 1.0, "dtype": "float64"}, {"column": "a", "dtype": "int32"}]},
        {"cast": {"literal": "x", "dtype": "string"}, "dtype": "int32"},
        {
            "case": [[{"literal": 1, "dtype": "int32"}, {"literal": 1, "dtype": "int32"}]],
            "otherwise": {"literal": 1, "dtype": "int32"},
        },
        {"case": [1], "otherwise": {"literal": 1, "dtype": "int32"}},
        [1],
        None,
    ],
)
def test_a_tree_that_is_wrong_is_refused(tree):
    with pytest.raises(DefinitionError):
        from_json(tree)


def test_bad_request_values_are_refused_with_their_place():
    expression = parse_expression("a + b", columns={"a": "int8", "b": "int8"})
    with pytest.raises(InvalidArgumentError, match=r"Expected int8, got str 'x'. - at `\$.b`"):
        evaluate_scalar(expression, {"a": 1, "b": "x"})
    with pytest.raises(InvalidArgumentError, match="No value for column 'b'"):
        evaluate_scalar(expression, {"a": 1})
    with pytest.raises(InvalidArgumentError, match=r"`\(a \+ b\)` is out of range of int8"):
        evaluate_scalar(expression, {"a": 100, "b": 100})
    good = Column(np.array([1], np.int8), np.ones(1, np.bool_))
    wrong = Column(np.array([1.5]), np.ones(1, np.bool_))
    with pytest.raises(InvalidArgumentError, match="as NumPy int8, got float64"):
        evaluate(expression, {"a": good, "b": wrong}, 1)
    with pytest.raises(InvalidArgumentError, match="Expected 2 rows, got 1"):
        evaluate(expression, {"a": good, "b": good}, 2)
    with pytest.raises(InvalidArgumentError, match="No column 'b'"):
        evaluate(expression, {"a": good}, 1)


def test_decimals_and_bytes_pass_through_and_compare():
    columns = {"p": "decimal(12,2)", "q": "decimal(12,2)", "raw": "binary"}
    expression = parse_expression("CASE WHEN p < q AND raw IS NOT NULL THEN q ELSE p END", columns=columns)
    row = {"p": Decimal("1.50"), "q": Decimal("2.25"), "raw": b"\0"}
    valid = np.ones(1, np.bool_)
    vectors = {name: Column(np.array([value], object), valid) for name, value in row.items()}
    assert (expression.dtype, evaluate_scalar(expression, row)) == ("decimal(12,2)", Decimal("2.25"))
    assert evaluate(expression, vectors, 1).values.tolist() == [Decimal("2.25")]


def test_no_rows_give_no_rows():
    for sql in (
        "i64 * 2 + j64",
        "round(f, 2)",
        "upper(s) || u",
        "CASE WHEN b THEN ts END",
        "CAST(d AS TIMESTAMPTZ)",
        "i8 IN (1, 2)",
    ):
        expression = parse_expression(sql, columns=COLUMNS)
        assert len(evaluate(expression, columns_of([]), 0).values) == 0


def test_evaluation_needs_neither_sqlglot_nor_duckdb():
    code = (
        "import sys, json; from featurestore.expressions import from_json, evaluate_scalar;"
        "tree = json.loads(sys.argv[1]); assert evaluate_scalar(from_json(tree), {'a': 2}) == 3;"
        "assert not {'sqlglot', 'duckdb', 'pyarrow'} & set(sys.modules)"
    )
    tree = json.dumps(to_json(parse_expression("a + 1", columns={"a": "int64"})))
    subprocess.run([sys.executable, "-c", code, tree], check=True)
