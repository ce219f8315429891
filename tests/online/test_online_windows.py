"""Windowed views online: equal, to the bit, to a plain scan over what was accepted, whatever the schedule."""

import itertools
import math
import shutil
import tempfile
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore import Aggregation, Entity, FeatureView, PushSource
from featurestore.errors import FailedPreconditionError
from featurestore.flow import sweep
from featurestore.online import windows
from featurestore.refs import ViewRef
from featurestore.rows import SEQ
from featurestore.testing.projects import ScratchProject

USER = Entity("user", {"user": "string"})
SALES = ViewRef("sales")
USERS = ("ann", "a", "never")
WINDOWS = (8, 40)
NUMERIC = ("count", "count_distinct", "sum", "mean", "min", "max", "first", "last", "stddev")
FUNCTIONS = {
    "amount": NUMERIC,
    "quantity": NUMERIC,
    "shop": ("count", "count_distinct", "min", "max", "first", "last"),
}
FILTERS = {
    None: lambda row: True,
    "shop = 'north'": lambda row: row[6] == "north",
    "shop <> 'north' OR quantity > 0": lambda row: row[6] == "south" or (row[5] or 0) > 0,
}
ASKED = [
    (column, function, window, n, where)
    for column, functions in FUNCTIONS.items()
    for function in functions
    for window in WINDOWS
    for n in ((None, 2) if function in ("first", "last") else (None,))
    for where in FILTERS
]


def asked(number, column, function, window, n, where):
    dtype = {"amount": "float64", "quantity": "int64", "shop": "string"}[column]
    name = f"f{number}" if where else None
    return Aggregation(column, function, timedelta(microseconds=window), dtype=dtype, n=n, where=where, name=name)


AGGREGATIONS = [asked(number, *wanted) for number, wanted in enumerate(ASKED)]
NAMES = [f"sales:{aggregation.feature_name}" for aggregation in AGGREGATIONS]


def sales(*, keyed=True):
    return FeatureView(
        "sales",
        USER,
        PushSource("sales", "at", "created"),
        features=AGGREGATIONS,
        event_key={"sale": "int32"} if keyed else {},
    )


def rows(batch):
    columns = list(zip(*batch, strict=True)) or [[]] * 7
    instant = pa.timestamp("us", "UTC")
    types = [pa.string(), instant, instant, pa.int32(), pa.float64(), pa.int64(), pa.string()]
    names = ["user", "at", "created", "sale", "amount", "quantity", "shop"]
    return pa.table([pa.array(column, kind) for column, kind in zip(columns, types, strict=True)], names=names)


class Oracle:
    """Every accepted row in a dictionary; each answer is a scan over all of them."""

    def __init__(self, *, keyed):
        self.keyed = keyed
        self.rows = {}
        self.next_seq = itertools.count(1)

    def write(self, batch):
        for row in batch:
            identity = row if self.keyed else (*row[:3], *row[4:])
            if identity not in self.rows:
                self.rows[identity] = ((row[1], -1 if row[2] is None else row[2], next(self.next_seq)), row)

    def read(self, user, now):
        versions = {}
        for order, row in self.rows.values():
            if row[0] == user and row[1] <= now:
                event = (row[1], row[3]) if self.keyed else order
                versions[event] = max(versions.get(event, (order, row)), (order, row), key=lambda pair: pair[0])
        events = sorted(versions.values(), key=lambda pair: pair[0])
        return [self.aggregate(events, *asked, now) for asked in ASKED]

    def aggregate(self, events, column, function, window, n, where, now):
        at = {"amount": 4, "quantity": 5, "shop": 6}[column]
        inside = [row[at] for _, row in events if now - window < row[1] and FILTERS[where](row)]
        if function in ("first", "last"):
            ends = inside if function == "first" else inside[::-1]
            return ends[:n] if n else next(iter(ends), None)
        values = [value for value in inside if value is not None]
        if function in ("count", "count_distinct"):
            return len(values if function == "count" else set(values))
        if len(values) < 1 + (function == "stddev"):
            return None
        if function in ("min", "max"):
            return min(values) if function == "min" else max(values)
        total = math.fsum(values) if column == "amount" else sum(values)
        if function == "sum":
            return total
        mean = float(total) / len(values)
        if function == "mean":
            return mean
        return math.sqrt(math.fsum((v - mean) * (v - mean) for v in values) / (len(values) - 1))


def drawn_rows(now):
    return st.tuples(
        st.sampled_from(USERS[:2]),
        st.integers(max(0, now - 60), now + 25),
        st.none() | st.integers(0, now + 30),
        st.integers(0, 2),
        st.none() | st.sampled_from([0.1, -0.3, 1e12, 1e-9, 19.99, 0.0]) | st.floats(-1e6, 1e6).map(lambda v: v + 0.0),
        st.none() | st.integers(-(10**6), 10**6),
        st.sampled_from((None, "north", "south")),
    )


def check(project, oracle, now):
    answer = project.read(NAMES, [(user,) for user in USERS])
    assert answer.time == now
    columns = answer.to_dict()
    got = [list(row) for row in zip(*columns.values(), strict=True)]
    for i, user in enumerate(USERS):
        assert list(map(repr, got[i])) == list(map(repr, oracle.read(user, now)))


@pytest.mark.parametrize("keyed", [True, False])
@pytest.mark.parametrize("most", [2, 512], ids=["split", "whole"])
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_schedule_agrees_with_a_plain_scan(monkeypatch, keyed, most, data):
    """However soon pages split."""
    monkeypatch.setattr(windows, "MOST_EVENTS", most)
    oracle = Oracle(keyed=keyed)
    now = 60
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with ScratchProject(root, sales(keyed=keyed), now=now) as project:
            for _ in range(data.draw(st.integers(1, 6))):
                batch = data.draw(st.lists(drawn_rows(now), min_size=1, max_size=8))
                project.writer.write(SALES, rows(batch))
                oracle.write(batch)
                check(project, oracle, now)
                project.now = now = now + data.draw(st.sampled_from([0, 1, 7, 8, 9, 30, 100]))
                project.writer.release()
                check(project, oracle, now)
            project.writer.fold()
            before = project.read_bytes(NAMES, [(user,) for user in USERS])
            project.writer.materialize(SALES)
            assert project.read_bytes(NAMES, [(user,) for user in USERS]) == before
        shutil.rmtree(root / "online")
        with ScratchProject(root, sales(keyed=keyed), now=now) as project:
            project.writer.materialize(SALES)
            assert project.read_bytes(NAMES, [(user,) for user in USERS]) == before


@settings(max_examples=20, deadline=None)
@given(
    st.lists(drawn_rows(60), min_size=2, max_size=12, unique_by=lambda row: (row[0], row[1], row[2])),
    st.randoms(use_true_random=False),
    st.integers(1, 5),
)
def test_arrival_in_any_order_gives_the_same_bytes(batch, random, size):
    answers = []
    for order in (batch, random.sample(batch, len(batch))):
        with tempfile.TemporaryDirectory() as root, ScratchProject(Path(root), sales(), now=60) as project:
            for start in range(0, len(order), size):
                project.writer.write(SALES, rows(order[start : start + size]))
            project.now = 75
            project.writer.release()
            answers.append(project.read_bytes(NAMES, [(user,) for user in USERS]))
    assert answers[0] == answers[1]


def test_the_window_is_open_at_its_start_and_closed_at_its_end(tmp_path):
    with ScratchProject(tmp_path, sales(), now=100) as project:
        batch = [("ann", event, None, 1, 1.0, 1, "north") for event in (91, 92, 93, 100, 101)]
        project.writer.write(SALES, rows(batch))
        assert project.read(["sales:count_amount_8us"], [("ann",)]).to_dict() == {"count_amount_8us": [2]}
        project.now = 101
        project.writer.release()
        assert project.read(["sales:count_amount_8us"], [("ann",)]).to_dict() == {"count_amount_8us": [2]}


def test_pages_that_no_window_reaches_go_when_their_entity_is_written(tmp_path):
    def pages(project):
        with project.reader._store.read() as snapshot:
            return len(list(snapshot.scan("pages", b"", b"\xff")))

    with ScratchProject(tmp_path, sales(), now=100) as project:
        project.writer.write(SALES, rows([("ann", event, None, 1, 1.0, 1, "north") for event in range(65, 101, 5)]))
        assert pages(project) == 5
        project.now = 139
        project.writer.write(
            SALES, rows([("ann", 139, None, 1, 1.0, 1, "north"), ("ann", 99, None, 1, 1.0, 1, "north")])
        )
        assert pages(project) == 2
        count = project.read(["sales:count_amount_40us"], [("ann",)]).to_dict()
        assert count == {"count_amount_40us": [2]}
        project.now = 140
        assert project.read(["sales:count_amount_40us"], [("ann",)]).to_dict() == {"count_amount_40us": [1]}


def test_an_event_that_left_every_window_is_not_stored(tmp_path):
    with ScratchProject(tmp_path, sales(), now=100) as project:
        assert project.writer.write(SALES, rows([("ann", 60, None, 1, 1.0, 1, "north")])).accepted == 1
        assert project.read(["sales:count_amount_40us"], [("ann",)]).to_dict() == {"count_amount_40us": [0]}
        assert project.writer.fold() == 1


def test_a_materialize_counts_only_events_that_are_new_online(tmp_path):
    with ScratchProject(tmp_path, sales(), now=100) as project:
        project.writer.write(SALES, rows([("ann", event, None, 1, 1.0, 1, "north") for event in (91, 92)]))
        report = project.writer.materialize(SALES)
        assert (report.rows, report.changed) == (2, 0)
    shutil.rmtree(tmp_path / "online")
    with ScratchProject(tmp_path, sales(), now=100) as project:
        report = project.writer.materialize(SALES)
        assert (report.rows, report.changed) == (2, 2)


def test_an_event_that_was_loaded_in_bulk_and_is_pushed_again_counts_once(tmp_path):
    event = rows([("ann", 95, None, 1, 1.0, 1, "north")])
    with ScratchProject(tmp_path, sales(keyed=False), now=100) as project:
        table = project.table(SALES)
        canonical = table.schema.canonical(event).rows
        table.load(canonical.append_column(SEQ, pa.array([project.writer.reserve(1)])))
        again = project.writer.write(SALES, event)
        assert (again.accepted, again.repeated_rows) == (0, 1)
        project.materialize("sales")
        assert project.read(["sales:count_amount_40us"], [("ann",)]).to_dict() == {"count_amount_40us": [1]}


def test_a_windowed_version_that_was_never_filled_is_refused(tmp_path):
    with (
        ScratchProject(tmp_path, sales(), now=100) as project,
        pytest.raises(FailedPreconditionError, match="sales@v1 was never filled"),
    ):
        project.read(NAMES, [("ann",)])


def stored_pages(project):
    with project.reader._store.read() as snapshot:
        return dict(snapshot.scan("pages", b"", b"\xff"))


def test_a_hot_page_is_split_so_that_a_write_rewrites_a_leaf_alone(tmp_path):
    with ScratchProject(tmp_path, sales(), now=100) as project:
        batch = [("ann", 90 + n % 10, None, n, 1.0, 1, "north") for n in range(3 * windows.MOST_EVENTS)]
        project.writer.write(SALES, rows(batch))
        before = stored_pages(project)
        assert len(before) > 4
        project.writer.write(SALES, rows([("ann", 95, None, 9999, 1.0, 1, "north")]))
        after = stored_pages(project)
        assert sum(before.get(name) != page for name, page in after.items()) <= 2
        asked = ["sales:count_amount_8us", "sales:count_amount_40us"]
        inside = [sum(row[1] > 100 - w for row in batch) for w in WINDOWS]
        counts = project.read(asked, [("ann",)]).to_dict()
        assert [counts[f"count_amount_{w}us"] for w in WINDOWS] == [[inside[0] + 1], [inside[1] + 1]]


@pytest.mark.parametrize("most", [1, 2, 100])
def test_upkeep_drops_pages_of_idle_entities_and_nothing_that_a_window_reaches(tmp_path, monkeypatch, most):
    monkeypatch.setattr(sweep, "PAGES_AT_ONCE", most)
    asked = ["sales:count_amount_40us"], [("ann",), ("a",)]

    def go_round(project, now):
        project.now = now
        project.writer.release()
        for _ in range(2 * len(stored_pages(project)) + 2):
            project.writer.tend()

    with ScratchProject(tmp_path, sales(), now=100) as project:
        events = [(user, event, None, 1, 1.0, 1, "north") for user in ("ann", "a") for event in range(65, 101, 5)]
        project.writer.write(SALES, rows(events))
        pages, counts = len(stored_pages(project)), []
        for now in (125, 1000):
            project.now = now
            before = project.read(*asked).to_dict()
            go_round(project, now)
            assert project.read(*asked).to_dict() == before
            counts.append(len(stored_pages(project)))
        assert pages > counts[0] > counts[1] == 0
