"""PSI, Kolmogorov-Smirnov and quantiles against their definitions, and against SciPy and NumPy."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from featurestore.offline.shift import bin_counts, bin_edges, ks, psi, quantiles

numbers = st.lists(
    st.sampled_from([-2.5, -1.0, 0.0, 0.5, 1.0, 3.0, 7.0]) | st.floats(-1e6, 1e6), min_size=1, max_size=40
)
counts = st.lists(st.integers(0, 1000), min_size=2, max_size=12)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # SciPy's p-value of very few values
@settings(max_examples=50, deadline=None)
@given(numbers, numbers)
def test_the_distance_is_that_of_the_definition_and_of_scipy(a, b):
    found = ks(np.sort(a), np.sort(b))
    at = [*a, *b]
    expected = max(abs(sum(x <= t for x in a) / len(a) - sum(x <= t for x in b) / len(b)) for t in at)
    assert found.statistic == pytest.approx(expected, abs=1e-12)
    assert found.statistic == pytest.approx(stats.ks_2samp(a, b, method="asymp").statistic, abs=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.02, 0.1, 0.5])
def test_the_p_value_is_kolmogorovs_limit(shift):
    chance = np.random.default_rng(5)
    a, b = np.sort(chance.normal(size=800)), np.sort(chance.normal(size=1200) + shift)
    found = ks(a, b)
    root = math.sqrt(800 * 1200 / 2000)
    assert found.p_value == pytest.approx(special.kolmogorov((root + 0.12 + 0.11 / root) * found.statistic), abs=1e-9)
    assert found.p_value == pytest.approx(stats.ks_2samp(a, b, method="asymp").pvalue, abs=0.02)


@settings(max_examples=50, deadline=None)
@given(numbers, st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_quantiles_are_those_of_numpy(values, probabilities):
    np.testing.assert_allclose(
        quantiles(np.sort(values), probabilities), np.quantile(values, probabilities), rtol=1e-9, atol=1e-9
    )


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_psi_is_the_sum_of_its_definition(data):
    before = data.draw(counts)
    after = data.draw(st.lists(st.integers(0, 1000), min_size=len(before), max_size=len(before)))
    if not sum(before) or not sum(after):
        assert psi(before, after) == 0
        return
    half = 0.5 * len(before)
    p = [(n + 0.5) / (sum(before) + half) for n in before]
    q = [(n + 0.5) / (sum(after) + half) for n in after]
    assert psi(before, after) == pytest.approx(sum((y - x) * math.log(y / x) for x, y in zip(p, q, strict=True)))
    assert psi(before, after) == pytest.approx(psi(after, before))


def test_psi_refuses_other_bins():
    with pytest.raises(ValueError, match="the same bins"):
        psi([1, 2], [1, 2, 3])


@settings(max_examples=50, deadline=None)
@given(numbers, numbers, st.integers(2, 12))
def test_bins_hold_what_lies_above_one_bound_and_up_to_the_next(reference, values, bins):
    edges = bin_edges(np.sort(reference), bins)
    assert len(edges) < bins
    expected = Counter(sum(edge < value for edge in edges) for value in values)
    assert bin_counts(np.array(values), edges).tolist() == [expected[i] for i in range(len(edges) + 1)]


def test_nothing_has_moved_where_there_is_nothing():
    assert ks(np.array([]), np.array([1.0])).statistic == 0
    assert np.isnan(quantiles(np.array([]))).all()
    assert bin_counts(np.array([]), bin_edges(np.array([]))).tolist() == [0]
