"""The writer: an acknowledged row is durable, numbered once, online if it is the greatest, and offline exactly once."""

import itertools
import shutil
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from featurestore import Entity, Feature, FeatureView, PushSource
from featurestore.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
)
from featurestore.refs import ViewRef
from featurestore.rows import CREATED, EVENT, SEQ
from featurestore.testing.projects import ScratchProject
from featurestore.types import from_micros, to_micros

ORIGIN = Entity("origin", {"origin": "string"})
TEMP, SKY = Feature("temp", "float64"), Feature("sky", "string")
TTL = 40


PUSHED = PushSource("weather", "at", "created")


def weather(*features, ttl=TTL, source=PUSHED):
    return FeatureView(
        "weather", ORIGIN, source, features=features or (TEMP, SKY), ttl=ttl and timedelta(microseconds=ttl)
    )


def rows(*tuples):
    """Make rows of (origin, event, created, temp, sky)."""
    columns = list(zip(*tuples, strict=True)) or [[]] * 5
    instants = pa.timestamp("us", "UTC")
    return pa.table(
        {
            "origin": pa.array(columns[0], pa.string()),
            "at": pa.array(columns[1], instants),
            "created": pa.array(columns[2], instants),
            "temp": pa.array(columns[3], pa.float64()),
            "sky": pa.array(columns[4], pa.string()),
        }
    )


WEATHER = ViewRef("weather", 1)
FEATURES = ["weather:temp", "weather:sky"]


@pytest.fixture
def project(tmp_path):
    with ScratchProject(tmp_path, weather(), now=100) as project:
        yield project


def read(project, *keys, features=FEATURES):
    rows = project.read(features, [(key,) for key in keys])
    return [tuple(row.values()) for row in rows.to_rows()]


def offline(project, *columns):
    return sorted(tuple(row.values()) for row in project.table(WEATHER).read(list(columns)).to_pylist())


def test_a_write_says_what_became_of_its_rows(project):
    batch = rows(("JFK", 90, None, 1.0, "a"), ("LGA", 150, None, 2.0, "b"), ("JFK", 90, None, 1.0, "a"))
    report = project.writer.write(WEATHER, batch)
    assert (report.accepted, report.repeated_rows, report.parked) == (2, 1, 1)
    assert (report.first_seq, report.last_seq, report.warnings) == (1, 2, ())
    assert read(project, "JFK", "LGA") == [(1.0, "a"), (None, None)]


def test_an_equal_row_is_not_accepted_again(project):
    batch = rows(("JFK", 90, None, float("nan"), None), ("JFK", 91, 95, -0.0, "a"))
    project.writer.write(WEATHER, batch)
    again = rows(("JFK", 91, 95, 0.0, "a"), ("JFK", 90, None, float("nan"), None), ("JFK", 91, 96, 0.0, "a"))
    report = project.writer.write(WEATHER, again)
    assert (report.accepted, report.repeated_rows, report.first_seq) == (1, 2, 3)


def test_a_repeated_write_id_is_answered_as_before(project):
    first = project.writer.write(WEATHER, rows(("JFK", 90, None, 1.0, "a")), write_id=b"one")
    assert project.writer.write(WEATHER, rows(("JFK", 95, None, 2.0, "b")), write_id=b"one") == first
    assert read(project, "JFK") == [(1.0, "a")]
    project.now += 8 * 86_400_000_000
    project.writer.write(WEATHER, rows(("LGA", 90, None, 1.0, "a")))
    later = project.writer.write(WEATHER, rows(("JFK", 95, None, 2.0, "b")), write_id=b"one")
    assert (later.accepted, later.first_seq) == (1, 3)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            rows(("JFK", None, None, 1.0, "a"), ("JFK", 90, None, 1.0, "a")),
            r"1 rows have a null event time.*columns.at",
        ),
        (rows((None, 90, None, 1.0, "a"), (None, 91, None, 1.0, "a")), r"2 rows have a null key \(origin\)"),
        (rows(("JFK", 90, None, 1.0, "a")).drop_columns(["temp"]), "Column 'temp' is missing"),
    ],
)
def test_a_bad_batch_is_refused_as_a_whole(project, batch, message):
    with pytest.raises(InvalidArgumentError, match=message):
        project.writer.write(WEATHER, batch)
    assert project.writer.head().last_seq == 0


def test_a_key_that_is_too_long_undoes_the_write(project):
    with pytest.raises(InvalidArgumentError, match="481 bytes"):
        project.writer.write(WEATHER, rows(("JFK", 90, None, 1.0, "a"), ("x" * 480, 90, None, 1.0, "a")))
    assert project.writer.head().last_seq == 0
    assert project.writer.fold() == 0


def test_an_unknown_view_is_named(project):
    with pytest.raises(NotFoundError, match="Did you mean 'weather'"):
        project.writer.write(ViewRef("wether"), rows())


def test_an_empty_write_accepts_nothing(project):
    report = project.writer.write(WEATHER, rows())
    assert (report.accepted, report.repeated_rows, report.first_seq) == (0, 0, 0)
    with pytest.raises(FailedPreconditionError, match="never filled online"):
        read(project, "JFK")


def test_a_row_dated_after_now_waits_until_it_is_released(project):
    project.writer.write(WEATHER, rows(("JFK", 90, None, 1.0, "a"), ("JFK", 110, None, 2.0, "b")))
    project.now = 120
    response = project.read(FEATURES, [("JFK",)])
    assert (response.to_rows()[0]["temp"], response.time) == (1.0, 109)
    assert project.writer.release().earliest_parked > 120
    response = project.read(FEATURES, [("JFK",)])
    assert (response.to_rows()[0]["temp"], response.time) == (2.0, 120)


def test_a_write_releases_what_is_due_in_the_same_commit(project):
    project.writer.write(WEATHER, rows(("JFK", 110, None, 2.0, "b")))
    project.now = 120
    project.writer.write(WEATHER, rows(("LGA", 115, None, 1.0, "a")))
    assert read(project, "JFK", "LGA") == [(2.0, "b"), (1.0, "a")]


def test_time_never_passes_backwards(project):
    project.writer.write(WEATHER, rows(("JFK", 100, None, 1.0, "a")))
    project.now = 50
    response = project.read(FEATURES, [("JFK",)])
    assert (response.time, response.to_rows()[0]["temp"]) == (100, 1.0)
    assert project.writer.write(WEATHER, rows(("JFK", 101, None, 2.0, "a"))).parked == 1


def test_late_creation_is_warned_about(project):
    day = 86_400_000_000
    report = project.writer.write(
        WEATHER, rows(("JFK", 1, 2 * day, 1.0, "a"), ("LGA", 2, 2, 1.0, "a"), ("EWR", 3, 3 * day, 1.0, "a"))
    )
    assert "backfilled_until" in report.warnings[0]


def test_the_replay_clock_only_rises(tmp_path):
    with ScratchProject(tmp_path, weather(ttl=None), now=None) as project:
        project.writer.write(WEATHER, rows(("JFK", 10, None, 1.0, "a"), ("JFK", 20, None, 2.0, "b")))
        assert project.read(FEATURES, [("JFK",)]).time == 0
        seen = []
        for time in (10, 15, 20):
            project.writer.advance_clock(time)
            response = project.read(FEATURES, [("JFK",)])
            seen.append((response.time, response.to_dict()["temp"]))
        assert seen == [(10, [1.0]), (15, [1.0]), (20, [2.0])]
        with pytest.raises(InvalidArgumentError, match="only rises"):
            project.writer.advance_clock(19)
    with ScratchProject(tmp_path, weather(ttl=None), now=None) as project:
        assert project.writer.head().clock == 20


def test_the_system_clock_cannot_be_moved(project):
    with pytest.raises(FailedPreconditionError, match="--clock replay"):
        project.writer.advance_clock(200)


def test_a_second_writer_is_refused_with_the_name_of_the_first(project):
    code = (
        "import sys; from pathlib import Path; from featurestore.flow.write import Writer; from featurestore.errors import *\n"
        "try: Writer(Path(sys.argv[1]), None, None, None)\n"
        "except UnavailableError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code, str(project.root)], capture_output=True, text=True, check=True)
    assert "writer.lock is held by process " in said.stdout


def test_reserved_numbers_are_given_once(project):
    assert project.writer.reserve(10) == 1
    assert project.writer.write(WEATHER, rows(("JFK", 90, None, 1.0, "a"))).first_seq == 11
    assert project.writer.reserve(1) == 12
    assert (project.writer.head().last_seq, project.writer.head().pushed_seq) == (12, 11)


def test_a_fold_moves_the_log_offline_once(project):
    project.writer.write(WEATHER, rows(("JFK", 90, 95, 1.0, "a"), ("LGA", 150, None, 2.0, None)))
    project.writer.write(WEATHER, rows(("JFK", 91, None, 3.0, "c")))
    assert project.writer.fold() == 3
    assert project.writer.fold() == 0
    stored = project.table(WEATHER).read().select(["origin", EVENT, CREATED, "temp", "sky", SEQ]).to_pylist()
    assert sorted(tuple(row.values()) for row in stored) == [
        ("JFK", from_micros(90), from_micros(95), 1.0, "a", 1),
        ("JFK", from_micros(91), None, 3.0, "c", 3),
        ("LGA", from_micros(150), None, 2.0, None, 2),
    ]


def test_a_fold_that_ended_before_the_log_was_trimmed_is_not_done_twice(project, tmp_path):
    project.writer.write(WEATHER, rows(("JFK", 90, None, 1.0, "a")))
    saved = tmp_path.parent / f"{tmp_path.name}-log"
    shutil.copytree(tmp_path / "online", saved)
    project.writer.fold()
    project.close()
    shutil.rmtree(tmp_path / "online")
    shutil.copytree(saved, tmp_path / "online")
    with ScratchProject(tmp_path, weather(), now=100) as project:
        project.writer.write(WEATHER, rows(("LGA", 91, None, 2.0, "b")))
        assert project.writer.fold() == 1
        assert offline(project, "origin", SEQ) == [("JFK", 1), ("LGA", 2)]


def test_materialize_fills_an_empty_store_from_the_offline_rows(project, tmp_path):
    batch = [
        ("JFK", 90, None, 1.0, "a"),
        ("JFK", 95, 96, 2.0, "b"),
        ("LGA", 99, None, None, None),
        ("EWR", 150, None, 5.0, "e"),
    ]
    project.writer.write(WEATHER, rows(*batch))
    before = project.read_bytes(FEATURES, [("JFK",), ("LGA",), ("EWR",), ("SFO",)])
    project.writer.fold()
    project.close()
    shutil.rmtree(tmp_path / "online")
    with ScratchProject(tmp_path, weather(), now=100) as project:
        with pytest.raises(FailedPreconditionError, match="featurestore materialize weather@v1"):
            read(project, "JFK")
        report = project.writer.materialize(ViewRef("weather"))
        assert (report.view, report.rows, report.changed, report.watermark) == ("weather@v1", 2, 2, 100)
        after = project.read_bytes(FEATURES, [("JFK",), ("LGA",), ("EWR",), ("SFO",)])
        assert after[:-18] == before[:-18]  # all but time and position
        assert project.writer.materialize(WEATHER).changed == 0
        assert project.writer.write(WEATHER, rows(("SFO", 99, None, 1.0, "a"))).first_seq == 5
        assert project.writer.fold() == 1


def test_materialize_never_overwrites_a_greater_row(project):
    first = project.writer.reserve(1)
    schema = project.table(WEATHER).schema.arrow()
    old = pa.table([["JFK"], [80], [None], [1.0], ["old"], [first]], names=schema.names).cast(schema)
    project.table(WEATHER).load(old)
    project.writer.write(WEATHER, rows(("JFK", 90, None, 2.0, "new")))
    with pytest.raises(FailedPreconditionError, match="never filled online"):
        read(project, "JFK")
    project.writer.materialize(WEATHER)
    assert read(project, "JFK") == [(2.0, "new")]


def test_materialize_of_nothing_says_what_to_run(project):
    with pytest.raises(FailedPreconditionError, match="featurestore ingest weather@v1"):
        project.writer.materialize(WEATHER)


def test_an_added_feature_is_filled_in_a_keyspace_of_its_own(project):
    project.writer.write(WEATHER, rows(("JFK", 90, None, 1.0, "a")))
    project.writer.fold()
    project.apply(weather(TEMP, SKY, Feature("wind", "int64")))
    wind = rows(("LGA", 95, None, 2.0, "b")).append_column("wind", pa.array([7]))
    project.writer.write(WEATHER, wind)
    assert read(project, "JFK", "LGA") == [(1.0, "a"), (2.0, "b")]
    with pytest.raises(FailedPreconditionError, match="not filled yet"):
        read(project, "JFK", features=["weather:wind"])
    project.materialize("weather")
    assert read(project, "JFK", "LGA", features=["weather:wind", "weather:temp"]) == [(None, 1.0), (7, 2.0)]


def test_rows_that_come_between_plan_and_apply_of_a_feature_keep_their_own_layout(project):
    project.writer.write(WEATHER, rows(("JFK", 90, None, 1.0, "a")))
    project.apply(weather(TEMP, SKY, Feature("wind", "int64")))  # the offline table knows no rows yet
    with pytest.raises(FailedPreconditionError, match="never filled online"):
        read(project, "JFK")
    project.materialize("weather")
    assert read(project, "JFK", features=["weather:wind", "weather:temp"]) == [(None, 1.0)]


def test_a_materialize_says_which_layout_it_filled(project):
    project.writer.write(WEATHER, rows(("JFK", 90, None, 1.0, "a")))
    assert project.writer.materialize(WEATHER).layout == 1
    project.apply(weather(TEMP, SKY, Feature("wind", "int64")))
    assert project.writer.materialize(WEATHER).layout == 2


KEYS = ("JFK", "LGA")
drawn_rows = st.tuples(
    st.sampled_from(KEYS),
    st.integers(0, 60),
    st.none() | st.integers(0, 60),
    st.none() | st.sampled_from([0.0, 1.5, -2.0]),
    st.none() | st.sampled_from(["", "clear", "é"]),
)


class Oracle:
    """What the store should say: every accepted row in a dictionary, the greatest visible one by a plain scan."""

    def __init__(self):
        self.rows = {}
        self.next_seq = itertools.count(1)

    def write(self, batch):
        for row in batch:
            if row not in self.rows:
                self.rows[row] = next(self.next_seq)

    def read(self, key, now):
        seen = [row for row in self.rows if row[0] == key and row[1] <= now]
        if not seen:
            return (None, None), "NOT_FOUND"
        best = max(seen, key=lambda row: (row[1], row[2] is not None, row[2] or 0, self.rows[row]))
        return ((None, None), "EXPIRED") if now - best[1] > TTL else (best[3:], "PRESENT")


class StoreMachine(RuleBasedStateMachine):
    """Any order of writes, repeats, clock steps, folds, materializes and restarts agrees with the dictionary."""

    @initialize()
    def start(self):
        self.root = Path(tempfile.mkdtemp())
        self.oracle = Oracle()
        self.answers = {}
        self.now = 20
        self.open()

    def open(self):
        self.project = ScratchProject(self.root, weather(), now=self.now)

    @rule(batch=st.lists(drawn_rows, min_size=1, max_size=6), write_id=st.sampled_from([b"", b"x", b"y"]))
    def write(self, batch, write_id):
        report = self.project.writer.write(WEATHER, rows(*batch), write_id=write_id)
        if write_id in self.answers:
            assert report == self.answers[write_id]
            return
        before = len(self.oracle.rows)
        self.oracle.write(batch)
        assert report.accepted == len(self.oracle.rows) - before
        assert report.repeated_rows == len(batch) - report.accepted
        if write_id:
            self.answers[write_id] = report

    @rule(step=st.integers(1, 30))
    def tick(self, step):
        self.now += step
        self.project.now = self.now
        self.project.writer.release()

    @rule()
    def fold(self):
        self.project.writer.fold()
        if self.oracle.rows:
            stored = self.project.table(WEATHER).read(["origin", EVENT, CREATED, "temp", "sky", SEQ]).to_pylist()
            assert sorted(row[SEQ] for row in stored) == sorted(self.oracle.rows.values())
            for row in stored:
                created = row[CREATED] and to_micros(row[CREATED])
                values = (row["origin"], to_micros(row[EVENT]), created, row["temp"], row["sky"])
                assert self.oracle.rows[values] == row[SEQ]

    @rule()
    def materialize(self):
        if self.oracle.rows:
            self.project.writer.materialize(WEATHER)

    @rule()
    def restart(self):
        self.project.close()
        self.open()

    @invariant()
    def every_key_reads_as_the_oracle_says(self):
        if not self.oracle.rows:
            return
        answer = self.project.read(FEATURES, [(key,) for key in (*KEYS, "SFO")])
        assert answer.time == self.now
        assert answer.position == len(self.oracle.rows)
        for i, key in enumerate((*KEYS, "SFO")):
            values, status = self.oracle.read(key, self.now)
            assert (answer.to_rows()[i]["temp"], answer.to_rows()[i]["sky"]) == values
            shown = "NULL" if status == "PRESENT" and values[0] is None else status
            assert answer.status["temp"][i] == shown

    def teardown(self):
        if hasattr(self, "project"):
            self.project.close()
            shutil.rmtree(self.root)


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(drawn_rows, min_size=1, max_size=10, unique_by=lambda row: row[:3]),
    st.randoms(use_true_random=False),
    st.integers(1, 4),
)
def test_any_order_and_batching_gives_the_same_bytes(drawn, random, size):
    answers = []
    for order in (drawn, random.sample(drawn, len(drawn))):
        with tempfile.TemporaryDirectory() as root, ScratchProject(Path(root), weather(), now=70) as project:
            step = size if order is drawn else len(drawn)
            for start in range(0, len(order), step):
                project.writer.write(WEATHER, rows(*order[start : start + step]))
            answers.append(project.read_bytes(FEATURES, [(key,) for key in KEYS]))
    assert answers[0] == answers[1]
