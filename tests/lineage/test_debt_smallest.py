"""The smallest part that suffices: the answer of a search through all sets."""

from itertools import chain, combinations

from hypothesis import given
from hypothesis import strategies as st

from lineage.evaluation.smallest import MOST_ANSWERS, Search

NAMES = list("abcdefg")


def subsets(names):
    return map(frozenset, chain.from_iterable(combinations(names, size) for size in range(1, len(names) + 1)))


@st.composite
def monotone(draw):
    """Costs that only grow: each group that is wholly gone adds its own."""
    groups = draw(st.lists(st.tuples(st.frozensets(st.sampled_from(NAMES), min_size=1), st.integers(1, 3)), max_size=8))
    return lambda gone: sum(cost for group, cost in groups if group <= gone)


@given(
    monotone(), st.integers(0, 4), st.sets(st.frozensets(st.sampled_from(NAMES), min_size=2, max_size=2), max_size=2)
)
def test_the_answers_are_the_largest_sets_that_can_go(cost, limit, copies):
    search = Search(NAMES, cost, limit, list(copies))
    search.run()
    can = [gone for gone in subsets(NAMES) if cost(gone) <= limit and not any(pair <= gone for pair in copies)]
    largest = max(map(len, can), default=0)
    best = {gone for gone in can if len(gone) == largest}
    assert set(search.answers) <= best
    assert len(search.answers) == min(len(best), MOST_ANSWERS)


def test_few_sets_are_tried():
    tried = []

    def cost(gone):
        tried.append(gone)
        return 2.0 * len(gone & set("abcde"))

    search = Search(list("abcdefghij"), cost, 1.0)
    search.run()
    assert set(search.answers) == {frozenset("fghij")}
    assert len(tried) <= 12


def test_without_time_nothing_is_claimed():
    search = Search(NAMES, lambda _: 0.0, 1.0)
    search.run(more=lambda: False)
    assert search.answers == {}
