"""Column lineage against what moves when input values change; the whole of it is `benchmarks/column_lineage.py`."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import column_queries
import pytest
import tpch
from column_oracle import MEASURES, Seen, Verdict, Watch, judge, watch_and_judge
from hypothesis import given, settings
from hypothesis import strategies as st

from lineage.columns import QueryLineage, SourceColumn, resolve

PROMISED = {"direct precision": 0.99, "direct recall": 0.99, "indirect precision": 0.97, "indirect recall": 0.97}
SEEDS = range(1000, 1012)


def judged(seed: int, *, most: int) -> Verdict:
    query = column_queries.make_query(seed)
    found = resolve(query.sql, column_queries.TABLES)
    return watch_and_judge(
        query.sql, found, column_queries.SCHEMA, rows=10, anchor=query.anchor, seed=seed, least=2, most=most
    )


def misses(verdict: Verdict) -> list[str]:
    return [f"{name}: {miss}" for name in MEASURES for miss in verdict.tallies[name].wrong]


def test_queries_made_by_the_grammar():
    verdict = Verdict()
    for seed in SEEDS:
        verdict += judged(seed, most=60)
    assert not verdict.opaque
    assert verdict.tallies["direct recall"].judged > 15
    assert verdict.tallies["indirect recall"].judged > 40
    for name in MEASURES:
        assert verdict.tallies[name].rate >= PROMISED[name], misses(verdict)


@pytest.mark.parametrize("number", [1, 6, 13, 15, 22])
def test_queries_of_tpch(number):
    sql = tpch.QUERIES[number]
    verdict = watch_and_judge(
        sql, resolve(sql, tpch.TABLES), tpch.SCHEMA, rows=tpch.ROWS, seed=number, least=2, most=60
    )
    assert not verdict.opaque
    assert not misses(verdict)


@pytest.mark.parametrize("number", tpch.QUERIES)
def test_every_query_of_tpch_is_followed(number):
    found = resolve(tpch.QUERIES[number], tpch.TABLES)
    assert found.opaque is None
    assert not [output.opaque for output in found.outputs if output.opaque]


@given(st.integers(min_value=0))
@settings(max_examples=100, deadline=None)
def test_every_query_of_the_grammar_is_followed_to_columns_that_exist(seed):
    query = column_queries.make_query(seed)
    found = resolve(query.sql, column_queries.TABLES)
    assert found.opaque is None
    assert [output.name for output in found.outputs] == [column.name for column in query.columns]
    known = {SourceColumn(table, column) for table, columns in column_queries.TABLES.items() for column in columns}
    for output in found.outputs:
        assert output.opaque is None
        assert output.sources <= known
        assert found.rows <= output.indirect


BEYOND_THE_GRAMMAR = [
    "SELECT aid, v FROM a QUALIFY row_number() OVER (PARTITION BY k ORDER BY ts, aid) = 1",
    "SELECT aid, first_value(v) OVER (PARTITION BY k ORDER BY w, aid) AS o FROM a",
    "SELECT k, s, sum(v) AS o FROM a GROUP BY GROUPING SETS ((k, s), (k), ())",
    "SELECT aid, st.q AS o FROM (SELECT aid, {'p': v, 'q': w} AS st FROM a)",
    "SELECT aid, st.* FROM (SELECT aid, {'p': v, 'q': w} AS st FROM a)",
    "SELECT aid, unnest({'p': v, 'q': w}) FROM a",
    "SELECT aid, [v, w][2] AS o FROM a",
    "SELECT aid, list_transform([v, w], lambda e: e * 2) AS o FROM a",
    "SELECT v, w FROM a ORDER BY w NULLS LAST, aid LIMIT 3",
    "SELECT aid, q.x FROM a, LATERAL (SELECT x FROM b WHERE b.k = a.k ORDER BY y DESC NULLS LAST, bid LIMIT 1) AS q",
    "SELECT aid, x.v AS o FROM a AS x WHERE EXISTS (FROM b WHERE b.k = x.k)",
    "SELECT aid, v FROM a WHERE (k, s) IN (SELECT k, s2 FROM b WHERE x > 1500)",
]


@pytest.mark.parametrize("sql", BEYOND_THE_GRAMMAR)
def test_forms_that_the_grammar_does_not_make(sql):
    found = resolve(sql, column_queries.TABLES)
    anchor = next((place for place, output in enumerate(found.outputs) if output.name == "aid"), None)
    verdict = watch_and_judge(sql, found, column_queries.SCHEMA, rows=10, anchor=anchor, seed=3, least=2, most=60)
    assert not verdict.opaque
    assert not misses(verdict)


# --- the judge finds faults --------------------------------------------------------------------------------------

JOINED = """
    SELECT a.aid AS id, a.k AS ak, a.v + b.x AS total, CASE WHEN a.s = 'ab' THEN a.w ELSE 0 END AS chosen,
           sum(b.y) OVER (PARTITION BY b.s2) AS summed
    FROM a JOIN b ON a.k = b.k WHERE a.ts < TIMESTAMP '2024-01-04'"""
QUERIES = {
    "joined": JOINED,
    "grouped": "SELECT k, max(v) AS most, count(w) AS n FROM a WHERE s <> 'ab' GROUP BY k",
}


@cache
def seen_of(name: str) -> tuple[QueryLineage, Seen]:
    """What is claimed of a query, and what was seen to move; every column is changed in as many databases."""
    found = resolve(QUERIES[name], column_queries.TABLES)
    return found, Watch(QUERIES[name], column_queries.SCHEMA, rows=10, seed=7).watch(found, least=12, most=30)


def verdict_of(name: str, broken: Callable[[QueryLineage], QueryLineage]) -> Verdict:
    found, seen = seen_of(name)
    return judge(broken(found), seen, column_queries.SCHEMA, QUERIES[name])


def without_reason(found: QueryLineage, reason: str) -> QueryLineage:
    """A resolver that forgets one kind of decision."""
    outputs = (
        replace(out, indirect=frozenset(edge for edge in out.indirect if edge.reason != reason))
        for out in found.outputs
    )
    return replace(found, outputs=tuple(outputs))


def with_direct(found: QueryLineage, name: str, columns: list[SourceColumn]) -> QueryLineage:
    """A resolver that is wrong about what flows into one output."""
    outputs = (replace(out, direct=frozenset(columns)) if out.name == name else out for out in found.outputs)
    return replace(found, outputs=tuple(outputs))


def decisions_that_flow(found: QueryLineage) -> QueryLineage:
    """A resolver that calls everything direct."""
    outputs = (replace(out, direct=out.sources) for out in found.outputs)
    return replace(found, outputs=tuple(outputs))


def flows_that_decide(found: QueryLineage) -> QueryLineage:
    """A resolver that forgets what flows."""
    return replace(found, outputs=tuple(replace(out, direct=frozenset()) for out in found.outputs))


@pytest.mark.parametrize("name", QUERIES)
def test_what_is_right_is_found_right(name):
    verdict = verdict_of(name, lambda found: found)
    assert not misses(verdict)
    assert all(verdict.tallies[measure].judged for measure in MEASURES)


def one_filter_more(found: QueryLineage) -> QueryLineage:
    """A resolver that takes a table's column for a filter."""
    unread = resolve("SELECT 1 AS x FROM a WHERE ts IS NULL", column_queries.TABLES).rows
    return replace(found, outputs=tuple(replace(out, indirect=out.indirect | unread) for out in found.outputs))


A, B = partial(SourceColumn, "a"), partial(SourceColumn, "b")
FAULTS = {
    "join keys are dropped": ("joined", partial(without_reason, reason="join"), "indirect recall"),
    "filters are dropped": ("joined", partial(without_reason, reason="filter"), "indirect recall"),
    "conditions are dropped": ("joined", partial(without_reason, reason="conditional"), "indirect recall"),
    "partitions are dropped": ("joined", partial(without_reason, reason="partition"), "indirect recall"),
    "group keys are dropped": ("grouped", partial(without_reason, reason="group"), "indirect recall"),
    "the other side of a join": ("joined", partial(with_direct, name="ak", columns=[B("k")]), "direct precision"),
    "not this side of a join": ("joined", partial(with_direct, name="ak", columns=[B("k")]), "direct recall"),
    "one operand is missing": ("joined", partial(with_direct, name="total", columns=[A("v")]), "direct recall"),
    "a condition flows": ("joined", partial(with_direct, name="chosen", columns=[A("w"), A("s")]), "direct precision"),
    "everything is direct": ("grouped", decisions_that_flow, "direct precision"),
    "nothing is direct": ("grouped", flows_that_decide, "direct recall"),
    "a filter that is none": ("grouped", one_filter_more, "indirect precision"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault):
    name, broken, measure = FAULTS[fault]
    assert verdict_of(name, broken).tallies[measure].rate < PROMISED[measure]
