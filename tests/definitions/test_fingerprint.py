"""The table of meaning decides what a fingerprint sees, and nothing else does."""

from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.definitions.fingerprint import MEANING, on_demand_fingerprint, stored_fingerprint

STORED = [(part, name) for part in ("view", "source", "feature") for name in MEANING[part]]
OTHER = st.sampled_from(["owner", "tags", "description", "access", "schedule", "path", "tables", "layout", "same_as"])
values = st.none() | st.integers(-3, 3) | st.text(max_size=3)


def parts(draw_from):
    return {part: {name: draw_from[part, name] for name in MEANING[part]} for part in ("view", "source", "feature")}


meanings = st.fixed_dictionaries(dict.fromkeys(STORED, values))


@settings(max_examples=40)
@given(meanings, meanings)
def test_two_meanings_have_one_fingerprint_only_if_they_are_equal(one, other):
    assert (stored_fingerprint(**parts(one)) == stored_fingerprint(**parts(other))) == (one == other)


@settings(max_examples=40)
@given(meanings, st.sampled_from(STORED), values)
def test_every_field_of_the_table_counts(meaning, field, value):
    changed = meaning | {field: value}
    same = stored_fingerprint(**parts(meaning)) == stored_fingerprint(**parts(changed))
    assert same == (meaning[field] == value)


@settings(max_examples=40)
@given(meanings, st.sampled_from(["view", "source", "feature"]), OTHER, values)
def test_no_other_field_counts(meaning, part, name, value):
    whole = parts(meaning)
    more = whole | {part: whole[part] | {name: value}}
    assert stored_fingerprint(**whole) == stored_fingerprint(**more)


def test_a_fingerprint_never_changes_between_releases():
    view = {"join_keys": [["origin", "string"]], "ttl": 1}
    source = {"kind": "push", "name": "w", "event_timestamp": "at"}
    feature = {"name": "temp", "dtype": "float64", "unit": "degF", "column": "temp"}
    assert stored_fingerprint(view, source, feature) == "2306cfd3cfd06e992954cfc280114b60"
    assert on_demand_fingerprint(feature, ["column", "temp"], {"temp": "float64"}) == "420b0d64b9a4a5ea74ee1f8b7384ec8a"


def test_the_order_of_columns_of_an_expression_does_not_count():
    feature = {"name": "feels", "dtype": "float64"}
    assert on_demand_fingerprint(feature, [], {"a": "x", "b": "y"}) == on_demand_fingerprint(
        feature, [], {"b": "y", "a": "x"}
    )
    assert on_demand_fingerprint(feature, [], {"a": "x"}) != on_demand_fingerprint(feature, [], {"a": "y"})
