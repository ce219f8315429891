"""Aggregates: their names, their types, and what cannot be aggregated."""

from datetime import timedelta

import pytest

from featurestore.definitions import Aggregation
from featurestore.errors import DefinitionError

HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("window", "name"),
    [
        (timedelta(days=30), "sum_amount_30d"),
        (timedelta(hours=36), "sum_amount_36h"),
        (timedelta(minutes=90), "sum_amount_90m"),
        (timedelta(seconds=1), "sum_amount_1000000us"),
    ],
)
def test_a_name_is_made_of_function_column_and_window(window, name):
    assert Aggregation("amount", "sum", window).feature_name == name


def test_a_given_name_is_kept():
    assert Aggregation("amount", "sum", HOUR, name="spent").feature_name == "spent"


@pytest.mark.parametrize(
    ("function", "dtype", "result"),
    [
        ("count", "string", "int64"),
        ("count", "float64", "int64"),
        ("sum", "int8", "int64"),
        ("sum", "float32", "float64"),
        ("mean", "int64", "float64"),
        ("stddev", "int64", "float64"),
        ("min", "int16", "int16"),
        ("max", "float32", "float32"),
        ("last", "timestamp", "timestamp"),
        ("last", "string", "string"),
        ("last", "list<int64>", "list<int64>"),
        ("max", "timestamp", "timestamp"),
        ("min", "string", "string"),
        ("count_distinct", "decimal(9,2)", "int64"),
        ("first", "bool", "bool"),
    ],
)
def test_the_result_has_the_type_its_function_gives(function, dtype, result):
    assert Aggregation("amount", function, HOUR, dtype=dtype).result.name == result


@pytest.mark.parametrize(
    ("column", "function", "window", "dtype", "said"),
    [
        ("amount", "maen", HOUR, "float64", "Did you mean 'mean'"),
        ("amount", "percentile_of", HOUR, "float64", "There is: count"),
        ("amount", "sum", timedelta(0), "float64", "longer than zero"),
        ("amount", "sum", -HOUR, "float64", "longer than zero"),
        ("amount", "sum", HOUR, "string", "needs numbers, not string"),
        ("amount", "max", HOUR, "list<int64>", "does not take list<int64>"),
        ("amount", "count_distinct", HOUR, "struct<a:int8>", "does not take"),
        ("amount", "mean", HOUR, "bool", "needs numbers"),
        ("amount", "sum", HOUR, "number", "No type 'number'"),
        ("a b", "sum", HOUR, "float64", "not allowed"),
    ],
)
def test_an_impossible_aggregate_is_refused(column, function, window, dtype, said):
    with pytest.raises(DefinitionError, match=said):
        Aggregation(column, function, window, dtype=dtype)


def test_the_neutral_form_has_the_window_in_microseconds():
    assert Aggregation("amount", "sum", HOUR, dtype="int64").document() == {
        "column": "amount",
        "function": "sum",
        "dtype": "int64",
        "time_window": 3_600_000_000,
    }


def test_a_list_has_the_type_of_its_values_and_n_in_its_name():
    listed = Aggregation("amount", "last", HOUR, dtype="string", n=3)
    assert (listed.feature_name, listed.result.name) == ("last3_amount_1h", "list<string>")
    assert Aggregation("amount", "first", HOUR, dtype="list<int8>", n=1).result.name == "list<list<int8>>"
    assert listed.document()["n"] == 3


@pytest.mark.parametrize(
    ("function", "n", "said"), [("sum", 2, "has an n"), ("last", 0, "not 1 to 1000"), ("last", True, "not 1 to")]
)
def test_an_impossible_n_is_refused(function, n, said):
    with pytest.raises(DefinitionError, match=said):
        Aggregation("amount", function, HOUR, n=n)


def test_a_filter_is_a_text():
    with pytest.raises(DefinitionError, match="The filter of 'sum_amount_1h' cannot be True"):
        Aggregation("amount", "sum", HOUR, where=True)
