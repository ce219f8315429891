"""What flows into an on-demand feature and what only decides it, read off the tree that the registry keeps."""

import random

import pytest

from featurestore.expressions import parse_expression, to_json
from lineage.columns import resolve_expression
from lineage.graph import Node
from lineage.trees import names_in_tree

COLUMNS = {"a": "float64", "b": "float64", "c": "float64", "d": "float64"}


def made(rng, depth=3):
    """Return the text of a numeric expression."""
    if depth == 0:
        return rng.choice([*COLUMNS, "1.5", "2.0"])
    one, two, three = (made(rng, depth - 1) for _ in range(3))
    return rng.choice(
        [
            f"({one} + {two})",
            f"({one} * {two})",
            f"coalesce({one}, {two})",
            f"greatest({one}, {two})",
            f"CASE WHEN {one} > {two} THEN {three} END",
            f"CASE WHEN {one} > 1 THEN {two} ELSE {three} END",
            f"abs({one})",
        ]
    )


@pytest.mark.parametrize("seed", range(60))
def test_the_tree_says_what_the_text_says(seed):
    sql = made(random.Random(seed))
    names = names_in_tree(to_json(parse_expression(sql, columns=COLUMNS)))
    said = resolve_expression(sql, {"t": list(COLUMNS)})
    assert said.opaque is None
    assert names.direct == {column.column for column in said.direct}
    assert names.deciding == {indirect.column.column for indirect in said.indirect}


def test_what_is_no_node_is_refused():
    with pytest.raises(ValueError, match="no node"):
        names_in_tree({"call": "+"})


def test_a_condition_only_decides(project, ask, document):
    view = document["views"]["comfort"]["versions"]["1"]
    types = {"temp": "float64", "humid": "float64", "distance": "float64"}
    sql = "CASE WHEN humid > 1 THEN temp END"
    view["features"][0]["expression"] = {"sql": sql, "tree": to_json(parse_expression(sql, columns=types))}
    project.commit(document, revision=2)
    into = {(str(e.upstream), e.kind) for e in ask.graph().edges if e.downstream == Node("feature", "comfort@v1:heat")}
    assert into == {
        ("comfort@v1", "contains"),
        ("weather@v1:temp", "derives"),
        ("weather@v1:humid", "derives_indirect"),
    }


def test_a_view_on_demand_is_made_from_what_its_features_are_made_from(project, ask):
    found = {str(node) for node in ask.upstream("comfort").nodes}
    assert {"weather@v1:temp", "request:comfort@v1.distance", "column:weather.temp", "source:weather"} <= found
