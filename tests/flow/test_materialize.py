"""Materialize: what is online is what was accepted, however the rows came, however often it was done, and wherever it was stopped."""

import itertools
import shutil
import tempfile
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from featurestore import Aggregation, Entity, Feature, FeatureView, PushSource
from featurestore.errors import FailedPreconditionError
from featurestore.flow import materialize as flow_materialize
from featurestore.flow.ingest import ingesting
from featurestore.offline.delta import sum_up
from featurestore.refs import ViewRef
from featurestore.rows import SEQ
from featurestore.testing.projects import ScratchProject

ORIGIN = Entity("origin", {"origin": "string"})
TEMP, WIND = Feature("temp", "float64"), Feature("wind", "int64")
SOURCE = PushSource("weather", "at", "created")
WEATHER = ViewRef("weather", 1)


def weather(*features):
    return FeatureView("weather", ORIGIN, SOURCE, features=features or (TEMP,))


def rows(*tuples):
    """Make rows of (origin, event, created, temp)."""
    columns = list(zip(*tuples, strict=True)) or [[]] * 4
    instants = pa.timestamp("us", "UTC")
    types = {"origin": pa.string(), "at": instants, "created": instants, "temp": pa.float64()}
    return pa.table({name: pa.array(c, t) for (name, t), c in zip(types.items(), columns, strict=True)})


def load(project, *tuples, view=WEATHER, batch=None):
    """Accept rows in bulk, as an ingest does; return how many were new."""
    table = project.table(view)
    fresh = table.new_rows(table.schema.canonical(rows(*tuples) if batch is None else batch).rows)
    first = project.writer.reserve(len(fresh))
    table.load(fresh.append_column(SEQ, pa.array(range(first, first + len(fresh)), pa.int64())))
    return len(fresh)


@pytest.fixture
def project(tmp_path):
    with ScratchProject(tmp_path, weather(), now=100) as project:
        yield project


def temps(project, *keys):
    return project.read(["weather:temp"], [(key,) for key in keys]).to_dict()["temp"]


def test_late_and_corrected_rows_are_brought_online_whatever_their_event_times(project):
    load(project, ("JFK", 90, 91, 1.0), ("LGA", 80, 81, 2.0))
    first = project.writer.materialize(WEATHER)
    assert (first.rows, first.changed, first.full) == (2, 2, True)
    load(project, ("JFK", 90, 95, 1.5), ("EWR", 10, 96, 3.0), ("LGA", 70, 97, 9.0))
    second = project.writer.materialize(WEATHER)
    assert (second.rows, second.changed, second.full) == (3, 2, False)
    assert temps(project, "JFK", "LGA", "EWR") == [1.5, 2.0, 3.0]
    third = project.writer.materialize(WEATHER)
    assert (third.rows, third.changed, third.version) == (0, 0, second.version)


def test_a_full_materialize_reads_everything_again_and_changes_nothing(project):
    load(project, ("JFK", 90, 91, 1.0), ("LGA", 80, 81, 2.0))
    project.writer.materialize(WEATHER)
    report = project.writer.materialize(WEATHER, full=True)
    assert (report.rows, report.changed, report.full) == (2, 0, True)


def test_a_compaction_in_between_hides_nothing_and_reads_nothing_again(project):
    load(project, ("JFK", 90, 91, 1.0))
    project.writer.materialize(WEATHER)
    load(project, ("LGA", 80, 81, 2.0))
    project.table(WEATHER).compact(buckets=1)
    report = project.writer.materialize(WEATHER)
    assert (report.rows, report.changed, report.full) == (1, 1, False)
    project.table(WEATHER).compact(buckets=2)
    assert project.writer.materialize(WEATHER).rows == 0
    assert temps(project, "JFK", "LGA") == [1.0, 2.0]


@pytest.mark.parametrize("gone", ["file", "commit"])
def test_what_is_no_longer_known_is_read_in_full(project, gone):
    load(project, ("JFK", 90, 91, 1.0))
    project.writer.materialize(WEATHER)
    load(project, ("LGA", 80, 81, 2.0))
    table = project.table(WEATHER)
    added = [file for file in table.files() if file.rows and "LGA" in table.read(files=[file])["origin"].to_pylist()]
    version = table.version
    table.compact(buckets=1)
    if gone == "file":
        added[0].path.unlink()
    else:
        sum_up(table.directory)
        (table.directory / "_delta_log" / f"{version:020}.json").unlink()
    report = project.writer.materialize(WEATHER)
    assert (report.full, report.changed) == (True, 1)
    assert temps(project, "JFK", "LGA") == [1.0, 2.0]


def test_rows_dated_after_now_are_parked_until_they_come_due(project):
    load(project, ("JFK", 90, 91, 1.0), ("JFK", 120, 91, 2.0), ("LGA", 120, 91, 3.0), ("JFK", 130, 91, 4.0))
    report = project.writer.materialize(WEATHER)
    assert (report.rows, report.changed, report.parked) == (1, 1, 3)
    assert project.writer.head().earliest_parked == 120
    project.now = 125
    answer = project.read(["weather:temp"], [("JFK",), ("LGA",)])
    assert (answer.to_dict()["temp"], answer.time) == ([1.0, None], 119)
    project.writer.release()
    assert temps(project, "JFK", "LGA") == [2.0, 3.0]
    assert project.writer.materialize(WEATHER, full=True).parked == 1
    project.now = 130
    project.writer.release()
    assert temps(project, "JFK", "LGA") == [4.0, 3.0]


def test_a_pushed_row_that_was_loaded_is_repeated_and_becomes_visible(project):
    load(project, ("JFK", 90, 91, 1.0), ("LGA", 130, 91, 2.0))
    project.writer.write(WEATHER, rows(("EWR", 50, None, 5.0)))
    project.writer.materialize(WEATHER)
    load(project, ("JFK", 95, 96, 1.5))
    report = project.writer.write(WEATHER, rows(("JFK", 95, 96, 1.5), ("JFK", 96, 96, 1.6), ("LGA", 130, 91, 2.0)))
    assert (report.accepted, report.repeated_rows) == (1, 2)
    assert temps(project, "JFK") == [1.6]
    again = project.writer.write(WEATHER, rows(("JFK", 95, 96, 1.5)))
    assert (again.accepted, again.repeated_rows) == (0, 1)
    project.writer.fold()
    assert len(project.table(WEATHER).read()) == 5


def test_a_loaded_row_that_is_pushed_before_a_materialize_is_online_at_once(project):
    project.writer.write(WEATHER, rows(("JFK", 50, None, 0.0)))
    load(project, ("JFK", 90, 91, 1.0))
    assert temps(project, "JFK") == [0.0]
    assert project.writer.write(WEATHER, rows(("JFK", 90, 91, 1.0))).repeated_rows == 1
    assert temps(project, "JFK") == [1.0]


def test_a_first_push_during_a_first_ingest_does_not_make_the_version_readable(project):
    with ingesting(project.table(WEATHER).directory):
        project.writer.write(WEATHER, rows(("JFK", 95, None, 2.0)))
        load(project, ("LGA", 90, None, 1.0))
    with pytest.raises(FailedPreconditionError, match="featurestore materialize"):
        temps(project, "LGA")
    project.writer.materialize(WEATHER)
    assert temps(project, "JFK", "LGA") == [2.0, 1.0]


def stop_after(monkeypatch, groups):
    """Let a materialize die when it has brought so many groups online."""
    real, done = flow_materialize._bring, []

    def bring(*arguments):
        if len(done) == groups:
            raise KeyboardInterrupt
        done.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(flow_materialize, "_bring", bring)
    return done


KEYS = [f"K{n}" for n in range(12)]


@pytest.mark.parametrize("stopped_after", [1, 2, 3])
def test_a_materialize_that_was_stopped_goes_on_where_it_was(project, monkeypatch, stopped_after):
    load(project, *[(key, 90, 91, float(n)) for n, key in enumerate(KEYS)])
    with monkeypatch.context() as patch:
        stop_after(patch, stopped_after)
        with pytest.raises(KeyboardInterrupt):
            project.writer.materialize(WEATHER)
    with pytest.raises(FailedPreconditionError, match="never filled online"):
        temps(project, *KEYS)
    project.table(WEATHER).compact(buckets=1)
    load(project, ("NEW", 90, 91, 99.0))
    with monkeypatch.context() as patch:
        done = stop_after(patch, 99)
        report = project.writer.materialize(WEATHER)
    assert len(done) == 4 - stopped_after + 1, "the groups that are left, and the one that came since"
    assert temps(project, *KEYS, "NEW") == [*map(float, range(12)), 99.0]
    assert project.writer.materialize(WEATHER).rows == 0
    assert report.version == project.table(WEATHER).version


def test_an_added_feature_is_filled_in_full_beside_the_old_layout(project):
    load(project, ("JFK", 90, 91, 1.0))
    project.writer.materialize(WEATHER)
    project.apply(weather(TEMP, WIND))
    load(project, ("LGA", 80, 81, 2.0), batch=rows(("LGA", 80, 81, 2.0)).append_column("wind", pa.array([7])))
    report = project.writer.materialize(WEATHER)
    assert (report.full, report.layout) == (True, 2)
    project.materialize("weather")
    answer = project.read(["weather:temp", "weather:wind"], [("JFK",), ("LGA",)]).to_dict()
    assert answer == {"temp": [1.0, 2.0], "wind": [None, 7]}


def test_late_events_of_a_window_are_brought_online_once(tmp_path):
    day = timedelta(microseconds=40)
    sales = FeatureView(
        "sales", ORIGIN, PushSource("sales", "at", "created"),
        features=[Aggregation("temp", "count", day), Aggregation("temp", "sum", day)], event_key={"id": "int64"},
    )  # fmt: skip
    view = ViewRef("sales", 1)

    def events(*facts):
        return rows(*[fact[:4] for fact in facts]).append_column("id", pa.array([fact[4] for fact in facts]))

    with ScratchProject(tmp_path, sales, now=100) as project:
        load(project, view=view, batch=events(("JFK", 90, None, 1.0, 1), ("JFK", 20, None, 5.0, 2)))
        assert (project.writer.materialize(view).rows, project.writer.materialize(view).rows) == (1, 0)
        load(project, view=view, batch=events(("JFK", 70, None, 2.0, 3), ("JFK", 110, None, 4.0, 4)))
        report = project.writer.materialize(view)
        assert (report.rows, report.changed, report.parked, report.full) == (1, 1, 1, False)
        read = ["sales:count_temp_40us", "sales:sum_temp_40us"]
        assert [*project.read(read, [("JFK",)]).to_rows()[0].values()] == [2, 3.0]
        project.now = 112
        project.writer.release()
        assert [*project.read(read, [("JFK",)]).to_rows()[0].values()] == [2, 5.0]


class MaterializeMachine(RuleBasedStateMachine):
    """Any order of loads, pushes, folds, compactions, clock steps, stops and restarts agrees with a dictionary of accepted rows."""

    drawn = st.lists(
        st.tuples(
            st.sampled_from(["JFK", "LGA"]), st.integers(0, 60), st.none() | st.integers(0, 60), st.sampled_from([1.0, 2.0])
        ),
        min_size=1,
        max_size=5,
    )  # fmt: skip

    @initialize()
    def start(self):
        self.root = Path(tempfile.mkdtemp())
        self.accepted, self.online = {}, set()
        self.seq = itertools.count(1)
        self.now, self.filled, self.pushed_first = 20, False, False
        self.project = ScratchProject(self.root, weather(), now=self.now)

    def accept(self, batch):
        fresh = [row for row in dict.fromkeys(batch) if row not in self.accepted]
        self.accepted.update(zip(fresh, self.seq, strict=False))
        return len(fresh)

    @rule(batch=drawn)
    def push(self, batch):
        self.filled = self.filled or not self.accepted
        assert self.project.writer.write(WEATHER, rows(*batch)).accepted == self.accept(batch)
        self.online.update(batch)

    @rule(batch=drawn)
    def load(self, batch):
        self.project.writer.fold()
        assert load(self.project, *batch) == self.accept(batch)

    @rule(step=st.integers(1, 25))
    def tick(self, step):
        self.now += step
        self.project.now = self.now
        self.project.writer.release()

    @rule(buckets=st.sampled_from([None, 1, 2, 8]))
    def compact(self, buckets):
        self.project.writer.fold()
        if self.accepted:
            self.project.table(WEATHER).compact(buckets=buckets)

    @rule(full=st.booleans())
    def materialize(self, full):
        if self.accepted:
            self.project.writer.materialize(WEATHER, full=full)
            self.online, self.filled = set(self.accepted), True

    @rule(groups=st.integers(0, 3))
    def stop_a_materialize(self, groups):
        if self.filled and self.accepted:
            with pytest.MonkeyPatch.context() as patch:
                stop_after(patch, groups)
                try:
                    self.project.writer.materialize(WEATHER)
                    self.online = set(self.accepted)
                except KeyboardInterrupt:
                    self.online = None

    @rule()
    def restart(self):
        self.project.close()
        self.project = ScratchProject(self.root, weather(), now=self.now)

    def greatest(self, seen, key):
        due = [row for row in seen if row[0] == key and row[1] <= self.now]
        order = lambda row: (row[1], row[2] is not None, row[2] or 0, self.accepted[row])  # noqa: E731
        return max(due, key=order)[3] if due else None

    @invariant()
    def what_is_online_is_the_greatest_row_that_came_so_far(self):
        if not self.filled:
            return
        if self.online is None:
            self.project.writer.materialize(WEATHER)
            self.online = set(self.accepted)
        assert temps(self.project, "JFK", "LGA") == [self.greatest(self.online, key) for key in ("JFK", "LGA")]

    def teardown(self):
        if hasattr(self, "project"):
            self.project.close()
            shutil.rmtree(self.root)


TestMaterializeMachine = MaterializeMachine.TestCase
TestMaterializeMachine.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)
