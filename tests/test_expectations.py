"""Expectations: what each says of a batch, against plain Python; and what a definition refuses."""

import math
import re
import tempfile
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore import (
    Aggregation,
    Entity,
    Feature,
    FeatureView,
    Fresh,
    InRange,
    Matches,
    NoShift,
    NotNull,
    OnDemandFeatureView,
    OneOf,
    PushSource,
    RowCount,
    RowCountNear,
    Unique,
)
from featurestore.definitions.expectation import EXPECTATIONS, expectation_of
from featurestore.errors import DefinitionError, FailedPreconditionError, NotFoundError
from featurestore.offline.expectations import Batch, References, breaches
from featurestore.offline.profiles import Profile, ProfileLog, profile_values
from featurestore.offline.shift import ks, psi
from featurestore.refs import ViewRef
from featurestore.registry.plan import plan_changes
from featurestore.registry.resolution import stored_view
from featurestore.registry.snapshot import Document, RegistrySnapshot
from featurestore.rows import RowSchema
from featurestore.types import DType, to_arrow

USER = Entity("user", {"user": "int64"})
PUSHED = PushSource("readings", "at")
REF = ViewRef("readings", 1)
NOW = 10**15
NOWHERE = Path("nowhere")  # nothing is compared with what was before
drawn = settings(max_examples=30, deadline=None)


def view(feature, *expect):
    return FeatureView("readings", USER, PUSHED, features=[feature], expect=expect)


def judged(definition, values, tmp_path, *, keys=None, times=None, now=NOW, offered=None):
    """The breaches of rows with these values, by subject and expectation."""
    record = stored_view(definition)
    schema = RowSchema.of(record)
    keys = range(len(values)) if keys is None else keys
    times = [NOW - 1] * len(values) if times is None else times
    table = pa.table(
        {
            "user": pa.array(list(keys), pa.int64()),
            "at": pa.array(list(times), pa.timestamp("us", "UTC")),
            schema.values[0].source: pa.array(values, to_arrow(schema.values[0].dtype)),
        }
    )
    new = schema.canonical(table).rows
    batch = Batch.of(REF, record, new, new if offered is None else offered, now=now)
    return breaches(batch, References(tmp_path / "profiles", tmp_path / "datasets"))


def broken(expectation, dtype, values, tmp_path):
    """The rows that break one expectation of a feature: how many, and the first."""
    found = judged(view(Feature("value", dtype, expect=[expectation])), values, tmp_path)
    if not found:
        return 0, None
    return found[0].rows, found[0].examples[0].place if found[0].examples else None


def first(rows):
    return (len(rows), f"$.rows[{rows[0]}]" if rows else None)


VALUES = {
    "int8": st.integers(-5, 5),
    "int64": st.integers(-5, 5) | st.sampled_from([2**63 - 1, -(2**63)]),
    "float32": st.sampled_from([-1.5, -0.0, 0.0, 0.25, 3.0, math.nan, math.inf, -math.inf]),
    "float64": st.sampled_from([-1.5, -0.0, 0.0, 0.1, 3.0, math.nan, math.inf, -math.inf]),
    "decimal(6,2)": st.decimals(-5, 5, places=2),
    "timestamp": st.datetimes(datetime(1960, 1, 1), datetime(1980, 1, 1), timezones=st.just(UTC)),
    "date": st.dates(date(1960, 1, 1), date(1980, 1, 1)),
}
TEXTS = st.sampled_from(["", "JFK", "LGA", "jfk", "JFK\n", "É", "a.b"])
EQUAL = VALUES | {"string": TEXTS, "bool": st.booleans(), "binary": st.binary(max_size=1)}


@pytest.mark.parametrize("dtype", VALUES)
@drawn
@given(data=st.data())
def test_in_range_is_two_comparisons(dtype, data):
    values = data.draw(st.lists(st.none() | VALUES[dtype], max_size=12))
    bounds = st.none() | VALUES[dtype].filter(lambda value: not (isinstance(value, float) and not math.isfinite(value)))
    low, high = data.draw(bounds), data.draw(bounds)
    include_low, include_high = data.draw(st.booleans()), data.draw(st.booleans())
    if low is None and high is None:
        return
    if low is not None and high is not None and (low > high or (low == high and not (include_low and include_high))):
        return
    limit = InRange(low, high, include_minimum=include_low, include_maximum=include_high)

    def holds(value):
        above = low is None or value > low or (include_low and value == low)
        below = high is None or value < high or (include_high and value == high)
        return above and below

    expected = [i for i, value in enumerate(values) if value is not None and not holds(value)]
    assert broken(limit, dtype, values, NOWHERE) == first(expected)


def test_a_bound_is_taken_in_the_type_of_the_feature(tmp_path):
    """0.1 as a float32 is greater than 0.1, and still not above a maximum of 0.1."""
    assert broken(InRange(maximum=0.1), "float32", [0.1, 0.2], tmp_path) == (1, "$.rows[1]")
    assert broken(InRange(1e3, None), "int64", [999, 1000], tmp_path) == (1, "$.rows[0]")


@drawn
@given(st.lists(st.none() | st.integers(0, 3), max_size=12), st.floats(0, 1))
def test_not_null_bounds_the_share(values, share):
    nulls = [i for i, value in enumerate(values) if value is None]
    expected = first(nulls) if nulls and len(nulls) / len(values) > share else first([])
    assert broken(NotNull(max_share=share), "int64", values, NOWHERE) == expected


@pytest.mark.parametrize("dtype", [*VALUES, "string", "bool"])
@drawn
@given(data=st.data())
def test_one_of_is_membership(dtype, data):
    pool = EQUAL[dtype]
    values = data.draw(st.lists(st.none() | pool, max_size=12))
    finite = pool.filter(lambda value: not (isinstance(value, float) and not math.isfinite(value)))
    allowed = data.draw(st.lists(finite, min_size=1, max_size=4))
    expected = [i for i, value in enumerate(values) if value is not None and value not in allowed]
    assert broken(OneOf(allowed), dtype, values, NOWHERE) == first(expected)


@pytest.mark.parametrize("pattern", [r"[A-Z]{3}", r"", r"a.b", r"JFK|LGA", r"(?i)jfk", r"[^\n]*"])
@drawn
@given(values=st.lists(st.none() | TEXTS | st.text(max_size=4), max_size=12))
def test_matches_is_a_full_match(pattern, values):
    expected = [i for i, value in enumerate(values) if value is not None and not re.fullmatch(pattern, value)]
    assert broken(Matches(pattern), "string", values, NOWHERE) == first(expected)


@pytest.mark.parametrize("dtype", EQUAL)
@drawn
@given(data=st.data())
def test_unique_finds_every_repeat(dtype, data):
    pool = EQUAL[dtype]
    values = data.draw(st.lists(st.none() | pool, max_size=12))
    seen, expected = set(), []
    for i, value in enumerate(values):
        known = "nan" if isinstance(value, float) and math.isnan(value) else value
        if value is not None and known in seen:
            expected.append(i)
        seen.add(known)
    assert broken(Unique(), dtype, values, NOWHERE) == first(expected)


@drawn
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-3, 3)), max_size=12))
def test_unique_rows_have_no_key_and_time_twice(pairs):
    found = judged(
        view(Feature("value", "int64"), Unique()),
        [1] * len(pairs),
        NOWHERE,
        keys=[key for key, _ in pairs],
        times=[time for _, time in pairs],
    )
    expected = [i for i, pair in enumerate(pairs) if pair in pairs[:i]]
    assert [breach.rows for breach in found] == ([len(expected)] if expected else [])
    if expected:
        assert found[0].examples[0].keys["user"] == pairs[expected[0]][0]


@drawn
@given(st.lists(st.integers(0, 100), max_size=5), st.integers(0, 120))
def test_fresh_bounds_the_age_of_the_newest_event(times, now):
    limit = view(Feature("value", "int64"), Fresh(timedelta(microseconds=30)))
    found = judged(limit, [1] * len(times), NOWHERE, times=times, now=now)
    assert bool(found) == bool(times and now - max(times) > 30)


@drawn
@given(st.integers(0, 6), st.none() | st.integers(0, 6), st.none() | st.integers(0, 6))
def test_row_count_counts_what_was_offered(rows, low, high):
    if (low is None and high is None) or (low is not None and high is not None and low > high):
        return
    found = judged(view(Feature("value", "int64"), RowCount(low, high)), [1] * rows, NOWHERE)
    assert bool(found) == ((low is not None and rows < low) or (high is not None and rows > high))


@drawn
@given(st.lists(st.integers(0, 9), max_size=6), st.integers(0, 9), st.integers(1, 4))
def test_row_count_near_compares_with_the_median(before, rows, last):
    with tempfile.TemporaryDirectory() as folder:
        for size in before:
            ProfileLog(Path(folder) / "profiles", REF).note_rows(size)
        found = judged(view(Feature("value", "int64"), RowCountNear(0.5, 2, last=last)), [1] * rows, Path(folder))
    recent = before[-last:]
    assert bool(found) == (bool(recent) and not 0.5 * median(recent) <= rows <= 2 * median(recent))


# --- shift -----------------------------------------------------------------------------------------------------------------------------


def keep(folder, values, dtype="float64", *, version=1, taken_at=0):
    """Keep a profile of these values as that of a version."""
    found = profile_values("value", DType(dtype), [pa.chunked_array([pa.array(values, to_arrow(DType(dtype)))])])
    profile = Profile(
        view=f"readings@v{version}", delta_version=1, taken_at=taken_at, rows=found.rows, features=(found,)
    )
    ProfileLog(folder / "profiles", ViewRef("readings", version)).append(profile)


def normal(mean, rows=3000, seed=0):
    return np.random.default_rng(seed).normal(mean, 1.0, rows).tolist()


def shifted(folder, values, limit, dtype="float64"):
    return judged(view(Feature("value", dtype, expect=[limit])), values, folder)


def test_a_shift_is_found_and_chance_is_not(tmp_path):
    keep(tmp_path, normal(0))
    assert shifted(tmp_path, normal(0, seed=1), NoShift(max_psi=0.1, max_ks=0.1)) == ()
    (found,) = shifted(tmp_path, normal(1, seed=1), NoShift(max_psi=0.1, max_ks=0.1))
    assert "PSI" in found.observed
    assert "Kolmogorov-Smirnov" in found.observed
    assert found.rows == 3000


def test_the_distances_are_those_of_the_definitions(tmp_path):
    """PSI over deciles of the reference as shift.psi has it; the distance within one bin of the exact one."""
    before, after = normal(0), [*normal(0.3, seed=1), *[0.0] * 300]
    keep(tmp_path, before)
    edges = np.unique(np.quantile(before, np.arange(1, 10) / 10))
    expected = psi(*(np.bincount(np.searchsorted(edges, side), minlength=10) for side in (before, after)))
    exact = ks(np.sort(before), np.sort(after)).statistic
    (found,) = shifted(tmp_path, after, NoShift(max_psi=1e-6, max_ks=0.0))
    shown_psi, shown_ks = (float(text) for text in re.findall(r"\d\.\d{3}", found.observed))
    assert shown_psi == pytest.approx(expected, abs=0.01)
    assert exact - 0.011 <= shown_ks <= exact + 0.001


def test_text_is_compared_by_its_frequent_values(tmp_path):
    keep(tmp_path, ["a"] * 600 + ["b"] * 400, "string")
    assert shifted(tmp_path, ["a"] * 610 + ["b"] * 390, NoShift(max_psi=0.1), "string") == ()
    assert shifted(tmp_path, ["a"] * 100 + ["b"] * 900, NoShift(max_psi=0.1), "string")
    assert shifted(tmp_path, ["c"] * 1000, NoShift(max_psi=0.1), "string")


def test_without_rows_before_nothing_has_shifted(tmp_path):
    assert shifted(tmp_path, normal(0), NoShift(max_psi=0.1)) == ()


def test_few_rows_are_not_compared(tmp_path):
    keep(tmp_path, normal(0))
    assert shifted(tmp_path, [50.0] * 999, NoShift(max_psi=0.1)) == ()
    assert shifted(tmp_path, [50.0] * 999, NoShift(max_psi=0.1, min_rows=999))


def test_a_version_at_a_time_is_the_newest_profile_up_to_then(tmp_path):
    keep(tmp_path, normal(0), version=2, taken_at=1_000_000)
    keep(tmp_path, normal(9), version=2, taken_at=9_000_000)
    at = datetime(1970, 1, 1, 0, 0, 5, tzinfo=UTC)
    assert shifted(tmp_path, normal(0, seed=1), NoShift(max_psi=0.1, version=2, at=at)) == ()
    assert shifted(tmp_path, normal(0, seed=1), NoShift(max_psi=0.1, version=2))


def test_a_reference_that_is_not_there_is_said(tmp_path):
    with pytest.raises(FailedPreconditionError, match="featurestore profile readings@v7"):
        shifted(tmp_path, normal(0), NoShift(max_psi=0.1, version=7))
    with pytest.raises(NotFoundError, match="dataset 'gone'"):
        shifted(tmp_path, normal(0), NoShift(max_psi=0.1, dataset="gone"))


# --- what a definition says --------------------------------------------------------------------------------------------------------------

EVERY = [
    InRange(0, 1, include_maximum=False), InRange(Decimal("0.5"), severity="warn"), NotNull(0.02), OneOf(["a", "b"]),
    Matches(r"\d+"), Unique(), NoShift(max_psi=0.1, version=2, at=datetime(2026, 5, 1, tzinfo=UTC)),
    NoShift(max_ks=0.1, dataset="train"), Fresh(timedelta(hours=3)), RowCount(1, 9), RowCountNear(0.5, 2.0, last=3),
]  # fmt: skip


@pytest.mark.parametrize("expectation", EVERY, ids=str)
def test_an_expectation_comes_back_from_its_document(expectation):
    again = expectation_of(expectation.document())
    assert again.document() == expectation.document()
    assert str(again) == str(expectation)


def test_every_kind_is_tested():
    assert {expectation.kind for expectation in EVERY} == set(EXPECTATIONS)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (InRange, "no bound"),
        (lambda: Feature("x", "int64", expect=[InRange(2, 1)]), "Nothing lies"),
        (lambda: Feature("x", "int8", expect=[InRange(0, 300)]), "300 is not a int8"),
        (lambda: Feature("x", "int64", expect=[InRange(0.5)]), "0.5 is not a int64"),
        (lambda: Feature("x", "string", expect=[InRange(0)]), "says nothing of string"),
        (lambda: Feature("x", "float64", expect=[InRange(math.inf)]), "Leave it out"),
        (lambda: NotNull(2), "share from 0 to 1"),
        (lambda: OneOf([]), "no value"),
        (lambda: OneOf("abc"), "is no set"),
        (lambda: Feature("x", "int64", expect=[OneOf(["a"])]), "'a' is not a int64"),
        (lambda: Matches("("), "missing"),
        (lambda: Matches("(?=a)"), "Matches"),
        (lambda: Feature("x", "int64", expect=[Matches("a")]), "says nothing of int64"),
        (NoShift, "no limit"),
        (lambda: NoShift(max_psi=0.1, dataset="a", version=1), "two references"),
        (lambda: Feature("x", "string", expect=[NoShift(max_ks=0.1)]), "Kolmogorov"),
        (RowCount, "no bound"),
        (lambda: RowCountNear(3, 2), "Nothing lies"),
        (lambda: Fresh(timedelta(0)), "longer than zero"),
        (lambda: InRange(0, severity="no"), "not refuse or warn"),
        (lambda: Feature("x", "int64", expect=[RowCount(1)]), "Give it to a view"),
        (lambda: view(Feature("x", "int64"), InRange(0)), "Give it to a feature"),
        (lambda: Feature("x", "int64", expect=InRange(0)), "is not a list"),
        (lambda: Feature("x", "int64", expect=["positive"]), "An expectation of 'x'"),
        (lambda: Feature("x", "int64", expect=[InRange(0), InRange(0)]), "given twice"),
        (lambda: Feature("x", "list<int64>", expect=[Unique()]), "says nothing of list"),
        (
            lambda: OnDemandFeatureView("y", [Feature("z", "int64", expression="1", expect=[InRange(0)])]),
            "Expect it of the inputs",
        ),
    ],
)
def test_an_impossible_expectation_is_refused_where_it_is_written(make, said):
    with pytest.raises(DefinitionError, match=re.escape(said)):
        make()


def planned(definition, document=None):
    snapshot = RegistrySnapshot(document or Document(project="p"))
    return plan_changes(snapshot, [definition], check_source=lambda *_: None, is_filled=lambda _: True)


def test_an_expectation_is_no_part_of_the_meaning_and_the_plan_tells_its_change():
    plain = planned(view(Feature("value", "int64")))
    expecting = planned(view(Feature("value", "int64", expect=[InRange(0, 1)]), RowCount(1)), plain.document)
    assert list(expecting.document.views["readings"].versions) == [1]
    (change,) = expecting.changes
    assert (change.kind, change.object) == ("update", "view readings@v1")
    assert "rows: expects RowCount(minimum=1)" in change.detail
    assert "value: expects InRange(minimum=0, maximum=1)" in change.detail
    again = RegistrySnapshot.from_json(RegistrySnapshot(expecting.document).to_json())
    assert again.document == expecting.document
    dropped = planned(view(Feature("value", "int64"), RowCount(1)), expecting.document)
    assert dropped.changes[0].detail == "value: no longer InRange(minimum=0, maximum=1)"
    assert not planned(view(Feature("value", "int64"), RowCount(1)), dropped.document)


def test_a_windowed_view_expects_of_the_column_that_it_aggregates(tmp_path):
    """The column is judged once, however many aggregates expect the same."""
    expect = [InRange(0)]
    windowed = FeatureView(
        "readings", USER, PUSHED, event_key={"id": "int64"},
        features=[Aggregation("amount", f, timedelta(days=1), expect=expect) for f in ("sum", "max")],
    )  # fmt: skip
    record = stored_view(windowed)
    rows = pa.table({"user": [1, 2], "id": [1, 2], "at": pa.array([1, 2], pa.timestamp("us")), "amount": [-1.0, 2.0]})
    new = RowSchema.of(record).canonical(rows).rows
    (found,) = breaches(Batch.of(REF, record, new, new, now=NOW), References(tmp_path, tmp_path))
    assert (found.subject, found.rows, found.examples[0].keys["id"], found.examples[0].value) == ("amount", 1, 1, -1.0)


def test_all_breaches_are_told_with_at_most_five_examples(tmp_path):
    feature = Feature("value", "int64", expect=[InRange(0), NotNull(0.1), OneOf([1, 2], severity="warn")])
    found = judged(view(feature, RowCount(100)), [-1] * 7 + [None] * 3, tmp_path)
    assert [(breach.subject, breach.expectation["kind"], breach.rows, len(breach.examples)) for breach in found] == [
        ("rows", "RowCount", 10, 0),
        ("value", "InRange", 7, 5),
        ("value", "NotNull", 3, 3),
        ("value", "OneOf", 7, 5),
    ]
    assert found[1].observed == "7 of 10 rows (70.00%)"
    assert [breach.severity for breach in found] == ["refuse", "refuse", "refuse", "warn"]
