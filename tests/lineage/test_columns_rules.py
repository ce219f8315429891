"""Which columns an output comes from: one query a rule."""

import subprocess
import sys

import pytest

from lineage.columns import (
    REASONS,
    Indirect,
    OutputColumn,
    QueryLineage,
    SourceColumn,
    compose,
    resolve,
    resolve_expression,
    resolve_window,
    with_lineage,
)
from lineage.errors import InvalidQuestionError

TABLES = {"a": ["k", "v", "s", "ts"], "b": ["k", "w", "bt"], "c": ["k", "z"], "t": ["xs", "st", "n"]}


def said(output: OutputColumn) -> str:
    """An output as one line: what flows | what decides."""
    direct, indirect = sorted(map(str, output.direct)), sorted(map(str, output.indirect))
    return f"{output.name}: {', '.join(direct)}".rstrip() + (f" | {', '.join(indirect)}" if indirect else "")


BOTH = [f"{name} | b.k (join), c.k (join)" for name in ("k: b.k", "w: b.w", "bt: b.bt", "z: c.z")]
RULES = {
    # projections and names
    "SELECT v + 1 AS x FROM a": ["x: a.v"],
    "FROM a": ["k: a.k", "v: a.v", "s: a.s", "ts: a.ts"],
    "SELECT A.V AS x FROM a": ["x: a.v"],
    "SELECT x: v, y: x || s FROM a": ["x: a.v", "y: a.s, a.v"],
    "SELECT some_function(v, s) AS x FROM a": ["x: a.s, a.v"],
    "SELECT * EXCLUDE (s, ts) REPLACE (v + 1 AS v) RENAME (k AS key) FROM a": ["key: a.k", "v: a.v"],
    "SELECT b.* FROM a, b": ["k: b.k", "w: b.w", "bt: b.bt"],
    "SELECT k_1 FROM (SELECT a.k, b.k FROM a, b)": ["k_1: b.k"],
    "SELECT y FROM (SELECT k, v FROM a) AS q(x, y)": ["y: a.v"],
    # structs and lists
    "SELECT {'p': v, 'q': s}.p AS x FROM a": ["x: a.v"],
    "SELECT st.Q AS x, st['p'] AS y FROM (SELECT {'p': v, 'q': s} AS st FROM a)": ["x: a.s", "y: a.v"],
    "SELECT struct_extract(struct_pack(p := v, q := s), 'q') AS x FROM a": ["x: a.s"],
    "SELECT q.st.p.r AS x FROM (SELECT {'p': {'r': v, 'u': k}, 'q': s} AS st FROM a) AS q": ["x: a.v"],
    "SELECT st.* FROM (SELECT {'p': v, 'q': s} AS st FROM a)": ["p: a.v", "q: a.s"],
    "SELECT unnest({'p': v, 'q': s}) FROM a": ["p: a.v", "q: a.s"],
    "SELECT (row).v AS x FROM (SELECT a AS row FROM a)": ["x: a.v"],
    "SELECT (CASE WHEN k = 'x' THEN {'p': v} ELSE {'p': s} END).p AS x FROM a": ["x: a.s, a.v | a.k (conditional)"],
    "SELECT some_function({'p': v, 'q': s}).p AS x FROM a": ["x: a.s, a.v"],
    "SELECT st.p AS x FROM t": ["x: t.st"],
    "SELECT [v, s][2] AS x, [v, s][n] AS y FROM a, t": ["x: a.s", "y: a.s, a.v, t.n"],
    # conditions decide
    "SELECT CASE WHEN k = 'x' THEN v ELSE s END AS x FROM a": ["x: a.s, a.v | a.k (conditional)"],
    "SELECT CASE k WHEN s THEN v END AS x FROM a": ["x: a.v | a.k (conditional), a.s (conditional)"],
    "SELECT if(k = 'x', v, s) AS x FROM a": ["x: a.s, a.v | a.k (conditional)"],
    "SELECT nullif(v, s) AS x FROM a": ["x: a.v | a.s (conditional)"],
    "SELECT coalesce(v, s) AS x FROM a": ["x: a.s, a.v"],
    "SELECT k = 'x' AS x FROM a": ["x: a.k"],
    "SELECT v FROM a WHERE k = 'x'": ["v: a.v | a.k (filter)"],
    "SELECT v AS x FROM a WHERE x > 1": ["x: a.v | a.v (filter)"],
    # joins
    "SELECT w FROM a JOIN b ON a.k = b.k AND v < w": ["w: b.w | a.k (join), a.v (join), b.k (join), b.w (join)"],
    "SELECT k FROM a JOIN b USING (k)": ["k: a.k | a.k (join), b.k (join)"],
    "SELECT k FROM a RIGHT JOIN b USING (k)": ["k: b.k | a.k (join), b.k (join)"],
    "SELECT k FROM a FULL JOIN b USING (k)": ["k: a.k, b.k | a.k (join), b.k (join)"],
    "SELECT * FROM b NATURAL JOIN c": BOTH,
    "SELECT c.k FROM a JOIN b USING (k) JOIN c USING (k)": ["k: c.k | a.k (join), b.k (join), c.k (join)"],
    "SELECT * FROM (b JOIN c USING (k)) AS q": BOTH,
    "SELECT v FROM a SEMI JOIN b USING (k)": ["v: a.v | a.k (join), b.k (join)"],
    "SELECT v, w FROM a ASOF JOIN b ON a.k = b.k AND ts >= bt": [
        "v: a.v | a.k (join), a.ts (join), b.bt (join), b.k (join)",
        "w: b.w | a.k (join), a.ts (join), b.bt (join), b.k (join)",
    ],
    "SELECT v, w FROM a ASOF LEFT JOIN b ON a.k = b.k AND ts >= bt": [
        "v: a.v",
        "w: b.w | a.k (join), a.ts (join), b.bt (join), b.k (join)",
    ],
    "SELECT q.w FROM a, LATERAL (SELECT w FROM b WHERE b.k = a.k) AS q": ["w: b.w | a.k (filter), b.k (filter)"],
    "SELECT count(*) AS n FROM a, b": ["n:"],
    # groups
    "SELECT k, sum(v) AS x, count(*) AS n FROM a GROUP BY k": [
        "k: a.k | a.k (group)",
        "x: a.v | a.k (group)",
        "n: | a.k (group)",
    ],
    "SELECT s AS key, max(v) AS x FROM a GROUP BY ALL": ["key: a.s | a.s (group)", "x: a.v | a.s (group)"],
    "SELECT s || k AS key, max(v) AS x FROM a GROUP BY 1": [
        "key: a.k, a.s | a.k (group), a.s (group)",
        "x: a.v | a.k (group), a.s (group)",
    ],
    "SELECT s || k AS key FROM a GROUP BY key": ["key: a.k, a.s | a.k (group), a.s (group)"],
    "SELECT max(v) AS x FROM a GROUP BY k HAVING count(s) > 1": ["x: a.v | a.k (group), a.s (having)"],
    "SELECT sum(v) AS x, 1 AS one FROM a WHERE k = 'x'": ["x: a.v | a.k (filter)", "one:"],
    "SELECT v, grouping(v) AS g FROM a GROUP BY ROLLUP (v)": ["v: a.v | a.v (group)", "g: | a.v (group)"],
    "SELECT sum(v) FILTER (WHERE s = 'x') AS x FROM a": ["x: a.v | a.s (filter)"],
    "SELECT arg_max(v, ts) AS x FROM a": ["x: a.v | a.ts (sort)"],
    "SELECT string_agg(s, ',' ORDER BY ts) AS x FROM a": ["x: a.s | a.ts (sort)"],
    "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY v) AS x FROM a": ["x: a.v"],
    # windows
    "SELECT sum(v) OVER (PARTITION BY k ORDER BY ts) AS x FROM a": ["x: a.v | a.k (partition), a.ts (sort)"],
    "SELECT lag(v) OVER q AS x FROM a WINDOW p AS (PARTITION BY k), q AS (p ORDER BY ts)": [
        "x: a.v | a.k (partition), a.ts (sort)"
    ],
    "SELECT row_number() OVER (ORDER BY ts) AS x FROM a": ["x: | a.ts (sort)"],
    "SELECT v FROM a QUALIFY row_number() OVER (PARTITION BY k ORDER BY ts) = 1": [
        "v: a.v | a.k (partition), a.ts (sort)"
    ],
    "SELECT sum(sum(v)) OVER (ORDER BY k) AS x FROM a GROUP BY k": ["x: a.v | a.k (group), a.k (sort)"],
    # duplicates, order
    "SELECT DISTINCT k, s FROM a": [
        "k: a.k | a.k (distinct), a.s (distinct)",
        "s: a.s | a.k (distinct), a.s (distinct)",
    ],
    "SELECT DISTINCT ON (k) k, v FROM a ORDER BY k, ts": [
        "k: a.k | a.k (distinct)",
        "v: a.v | a.k (distinct), a.k (sort), a.ts (sort)",
    ],
    "SELECT v FROM a ORDER BY ts": ["v: a.v"],
    "SELECT v FROM a ORDER BY ts LIMIT 3": ["v: a.v | a.ts (sort)"],
    "SELECT s AS v FROM a ORDER BY v LIMIT 3": ["v: a.s | a.s (sort)"],
    "SELECT v, s FROM a ORDER BY ALL LIMIT 3": ["v: a.v | a.v (sort)", "s: a.s | a.s (sort), a.v (sort)"],
    "SELECT v, s, k FROM a ORDER BY s, v LIMIT 3": [
        "v: a.v | a.s (sort), a.v (sort)",
        "s: a.s | a.s (sort)",
        "k: a.k | a.s (sort), a.v (sort)",
    ],
    "SELECT v, q.w FROM a, LATERAL (SELECT w FROM b ORDER BY bt LIMIT 1) AS q": ["v: a.v", "w: b.w | b.bt (sort)"],
    "SELECT v FROM a LIMIT (SELECT max(z) FROM c)": ["v: a.v | c.z (limit)"],
    # subqueries
    "SELECT (SELECT max(w) FROM b WHERE b.k = a.k) AS x FROM a": ["x: b.w | a.k (filter), b.k (filter)"],
    "SELECT v FROM a WHERE k IN (SELECT k FROM b WHERE w > 1)": ["v: a.v | a.k (filter), b.k (subquery), b.w (filter)"],
    "SELECT v FROM a WHERE EXISTS (SELECT w FROM b WHERE b.k = a.k ORDER BY bt)": [
        "v: a.v | a.k (filter), b.k (filter)"
    ],
    "SELECT v FROM a AS w WHERE EXISTS (FROM b WHERE b.k = w.k)": ["v: a.v | a.k (filter), b.k (filter)"],
    "SELECT v FROM a WHERE EXISTS (SELECT max(w) FROM b WHERE b.k = 'x')": ["v: a.v"],
    "SELECT v > ALL (SELECT z FROM c) AS x FROM a": ["x: a.v | c.z (subquery)"],
    "SELECT (SELECT k) AS x FROM a": ["x: a.k"],
    # set operations and CTEs
    "SELECT v FROM a UNION ALL SELECT w FROM b": ["v: a.v, b.w"],
    "SELECT k FROM a UNION SELECT k FROM b": ["k: a.k, b.k | a.k (distinct), b.k (distinct)"],
    "SELECT k, v FROM a UNION ALL BY NAME SELECT w AS v, bt FROM b": ["k: a.k", "v: a.v, b.w", "bt: b.bt"],
    "SELECT k FROM a EXCEPT SELECT k FROM b": ["k: a.k | a.k (set), b.k (set)"],
    "WITH q(x) AS (SELECT v FROM a WHERE k = 'x') SELECT x FROM q": ["x: a.v | a.k (filter)"],
    "WITH a AS (SELECT w AS v FROM b) SELECT v FROM a": ["v: b.w"],
    "WITH RECURSIVE r(x, n) AS (SELECT k, 1 FROM a UNION ALL SELECT b.k, n + 1 FROM r JOIN b ON b.w = r.x WHERE n < 3) "
    "SELECT x, n FROM r": [
        "x: a.k, b.k | a.k (join), b.k (join), b.w (join)",
        "n: | a.k (join), b.k (join), b.w (join)",
    ],
    "VALUES (1, 2)": ["col0:", "col1:"],
    # nested values
    "SELECT st.x.y AS p, xs[1] AS q FROM t": ["p: t.st", "q: t.xs"],
    "SELECT list_transform(xs, lambda x: x + n) AS p FROM t": ["p: t.n, t.xs"],
    "SELECT list_filter(xs, lambda x: x > n) AS p FROM t": ["p: t.xs | t.n (conditional)"],
    "SELECT [x + 1 FOR x IN xs IF x > n] AS p FROM t": ["p: t.xs | t.n (conditional), t.xs (conditional)"],
    "SELECT n, unnest(xs) AS x FROM t": ["n: t.n | t.xs (unnest)", "x: t.xs | t.xs (unnest)"],
    "SELECT n, x FROM t, unnest(xs) AS u(x)": ["n: t.n | t.xs (unnest)", "x: t.xs | t.xs (unnest)"],
    "SELECT x FROM a, unnest([v, s]) AS u(x)": ["x: a.s, a.v"],
    "SELECT c FROM c": ["c: c.k, c.z"],
    "SELECT i, v FROM a, range(3) AS r(i)": ["i:", "v: a.v"],
}


@pytest.mark.parametrize("sql", RULES)
def test_what_flows_and_what_decides(sql):
    found = resolve(sql, TABLES)
    assert found.opaque is None
    assert [said(output) for output in found.outputs] == RULES[sql]
    assert not [output.opaque for output in found.outputs if output.opaque]
    assert {edge.reason for output in found.outputs for edge in output.indirect} <= set(REASONS)


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("SELECT", "no output"),
        ("SELECT (", "cannot be read"),
        ("SELECT 1; SELECT 2", "2 statements"),
        ("", "0 statements"),
        ("DROP TABLE a", "DROP"),
        ("PIVOT a ON k USING sum(v)", "PIVOT"),
    ],
)
def test_a_query_that_cannot_be_followed_says_why(sql, reason):
    found = resolve(sql, TABLES)
    assert not found.outputs
    assert reason in (found.opaque or "")


@pytest.mark.parametrize(
    ("sql", "reasons"),
    [
        ("SELECT v, x FROM a, unknown", ["no table unknown", "no table unknown"]),
        ("SELECT nothing, v FROM a", ["no column nothing", None]),
        ("SELECT a.nothing FROM a", ["no column a.nothing"]),
        ("SELECT x FROM read_csv('x.csv')", ["table function"]),
        ("SELECT x FROM 'x.parquet'", ["no table x.parquet"]),
        ("SELECT COLUMNS('v.*') FROM a", ["COLUMNS"]),
        ("SELECT max(COLUMNS(*)) FROM a", ["COLUMNS"]),
        ("SELECT x FROM a PIVOT (sum(v) FOR k IN ('x', 'y'))", ["PIVOT"]),
        ("SELECT x FROM (UNPIVOT a ON v, s INTO NAME n VALUE x)", ["PIVOT"]),
        ("SELECT st.* FROM t", ["st.*"]),
        ("SELECT #1 FROM a", ["#1"]),
        (
            "WITH RECURSIVE r(x, n) USING KEY (x) AS (SELECT k, v FROM a UNION SELECT x, n + 1 FROM r) SELECT x FROM r",
            ["USING KEY"],
        ),
    ],
)
def test_an_output_that_cannot_be_followed_says_why(sql, reasons):
    outputs = resolve(sql, TABLES).outputs
    assert len(outputs) == len(reasons)
    for output, reason in zip(outputs, reasons, strict=True):
        assert output.opaque is None if reason is None else reason in (output.opaque or "")


def test_what_an_opaque_table_decides_is_opaque_everywhere():
    (output,) = resolve("SELECT v FROM a JOIN unknown USING (k)", TABLES).outputs
    assert output.direct == {SourceColumn("a", "v")}
    assert "unknown" in (output.opaque or "")


def test_an_unknown_dialect_is_an_invalid_question():
    with pytest.raises(InvalidQuestionError, match="no SQL dialect 'klingon'"):
        resolve("SELECT 1", {}, dialect="klingon")


def test_other_dialects_by_name():
    sql = "SELECT t.`v` AS x FROM db.a AS t WHERE t.k RLIKE 'x'"
    (output,) = resolve(sql, {"db.a": ["k", "v"]}, dialect="spark").outputs
    assert said(output) == "x: db.a.v | db.a.k (filter)"


def test_deeply_nested_sql_is_opaque_and_no_error():
    assert resolve("SELECT " + "(" * 20_000 + "1" + ")" * 20_000, {}).opaque


VIEW = resolve("SELECT k, sum(v) AS total FROM a WHERE s = 'x' GROUP BY k", TABLES)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT total + 1 AS y FROM view",
        "SELECT z FROM c JOIN view USING (k)",
        "SELECT count(*) AS n FROM view",
        "SELECT CASE WHEN total > 1 THEN 1 END AS y FROM view",
    ],
)
def test_composing_is_the_same_as_following_through(sql):
    """The lineage of a view, put into that of a query over it, is that of the query over the tables of the view."""
    at_once = resolve(sql, {**TABLES, "view": VIEW})
    outer = resolve(sql, {**TABLES, "view": ["k", "total"]})
    composed = compose(outer, {"view": VIEW})
    assert composed.tables == at_once.tables
    for made, direct in zip(composed.outputs, at_once.outputs, strict=True):
        assert (made.direct, made.sources) == (direct.direct, direct.sources)


def test_composing_with_an_opaque_view_is_opaque():
    outer = resolve("SELECT total FROM view", {"view": ["total"]})
    broken = QueryLineage((), opaque="why")
    assert compose(outer, {"view": broken}).outputs[0].opaque == "why"
    assert "view.total" in (compose(outer, {"view": QueryLineage(())}).outputs[0].opaque or "")


def test_a_models_inputs_are_followed_to_the_columns_of_the_sources():
    """Prediction <- on-demand feature <- windowed feature <- SQL source: three steps, composed."""
    source = resolve("SELECT k, ts, v * 2 AS amount FROM a WHERE s = 'x'", TABLES)
    window = resolve_window("amount", table="w", schema=source, keys=["k"], event_time="ts", name="total")
    view = QueryLineage((window,), tables=frozenset({"a"}))
    felt = resolve_expression(
        "CASE WHEN bonus > 0 THEN total END", {"view": ["total"], "request": ["bonus"]}, name="felt"
    )
    model = QueryLineage((felt,), tables=frozenset({"view", "request"}))
    (output,) = compose(model, {"view": view}).outputs
    assert said(output) == ("felt: a.v | a.k (group), a.s (filter), a.ts (window), request.bonus (conditional)")


def test_a_window_is_decided_by_keys_event_time_and_condition():
    output = resolve_window(
        "v", table="a", schema=TABLES["a"], keys=["k"], event_time="ts", condition="s = 'x'", name="total"
    )
    assert said(output) == "total: a.v | a.k (group), a.s (filter), a.ts (window)"


def test_an_expression_that_cannot_be_read_is_opaque():
    assert "cannot be read" in (resolve_expression("a +", {"t": ["a"]}).opaque or "")
    assert resolve_expression("a + nothing", {"t": ["a"]}, name="x").opaque == "no column nothing in the schemas"


def test_a_sources_lineage_is_opaque_when_other_columns_were_found():
    source = {"kind": "sql", "query": "SELECT unnest(st) FROM t", "columns": [["x", "int64"], ["y", "int64"]]}
    lineage = with_lineage(source | {"tables": {"t": "t.parquet"}, "table_columns": {"t": [["st", "struct"]]}})[
        "lineage"
    ]
    assert {name: column["direct"] for name, column in lineage.items()} == {"x": [], "y": []}
    assert "2 columns" in lineage["x"]["opaque"]


def test_an_indirect_edge_keeps_its_first_reason():
    (output,) = resolve("SELECT count(*) AS n FROM (SELECT v FROM a WHERE k = 'x') GROUP BY v", TABLES).outputs
    assert output.indirect == {
        Indirect(SourceColumn("a", "k"), "filter"),
        Indirect(SourceColumn("a", "v"), "group"),
    }


def test_questions_do_not_import_the_parser():
    script = "import sys, lineage, lineage.registry, lineage.graph, lineage.cli; print('sqlglot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
