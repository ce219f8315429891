"""Usage is counted per feature version, survives kill -9, and is folded into the registry exactly once."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore import audit
from featurestore.audit import MINUTE, UsageWriter, collect, live_reads
from featurestore.errors import ConflictError, FailedPreconditionError, InvalidArgumentError, NotFoundError

DDL = """
CREATE TABLE usage_daily (
    day TEXT, view TEXT, version INTEGER, feature TEXT, principal TEXT, consumer TEXT, binding TEXT, environment TEXT,
    mode TEXT, client TEXT, outcome TEXT, calls INTEGER, entity_rows INTEGER, first_read INTEGER, last_read INTEGER,
    PRIMARY KEY (day, view, version, feature, principal, consumer, binding, environment, mode, client, outcome)
);
CREATE TABLE usage_segments (
    worker TEXT, number INTEGER, environment TEXT, started_at INTEGER, ended_at INTEGER, closed INTEGER, dropped INTEGER,
    PRIMARY KEY (worker, number)
);
"""
START = 1383264000000000  # 2013-11-01 00:00 UTC
TEMP, HUMID, SEATS = "weather@v1:temp", "weather@v2:humid", "plane@v1:seats"


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now=START):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture
def database():
    connection = sqlite3.connect(":memory:")
    connection.executescript(DDL)
    yield connection
    connection.close()


@pytest.fixture
def clock():
    return Clock()


def writer_in(folder, clock, **settings):
    writer = UsageWriter(folder, environment="prod", clock=clock, **{"slots": 64, "worker": "w", **settings})
    writer.register_plan("p1", (TEMP,))
    writer.register_plan("p2", (TEMP, HUMID, SEATS))
    return writer


def read(writer, plan="p1", *, principal="ana", consumer="delay@3", outcome="ok", rows=1):
    writer.record(plan, principal, consumer, "bound", "10.0.0.7/python", "online", outcome, rows)


def calls(connection):
    rows = connection.execute("SELECT view, version, feature, sum(calls) FROM usage_daily GROUP BY 1, 2, 3")
    return {f"{view}@v{version}:{feature}": total for view, version, feature, total in rows}


def segments(connection):
    rows = connection.execute("SELECT number, ended_at, closed, dropped FROM usage_segments ORDER BY worker, number")
    return rows.fetchall()


def test_a_read_counts_once_for_each_feature_version_of_its_plan(tmp_path, clock, database):
    writer = writer_in(tmp_path, clock)
    read(writer, "p1", rows=5)
    clock.now += 7
    read(writer, "p2", rows=2)
    read(writer, "p2", rows=3)
    writer.close()
    report = collect(tmp_path, database)
    assert [(folded.number, folded.calls, folded.closed) for folded in report.folded] == [(0, 3, True)]
    assert calls(database) == {TEMP: 3, HUMID: 2, SEATS: 2}
    row = database.execute("SELECT * FROM usage_daily WHERE feature = 'temp'").fetchone()
    key = ("2013-11-01", "weather", 1, "temp", "ana", "delay@3", "bound", "prod", "online", "10.0.0.7/python", "ok")
    assert row == (*key, 3, 10, START, START + 7)
    assert segments(database) == [(0, START + 7, 1, 0)]
    assert list(tmp_path.iterdir()) == []


def test_an_alias_is_left_out_and_a_feature_read_in_two_roles_counts_one_call(tmp_path, clock, database):
    writer = writer_in(tmp_path, clock)
    writer.register_plan("roles", (TEMP, f"dest_weather={TEMP}"))
    read(writer, "roles")
    writer.close()
    collect(tmp_path, database)
    assert calls(database) == {TEMP: 1}


READS = st.lists(
    st.tuples(
        st.sampled_from(["read", "read", "read", "minute", "day", "rotate", "collect", "heartbeat"]),
        st.sampled_from(["p1", "p2"]),
        st.sampled_from(["ana", "bob", ""]),
        st.sampled_from(["ok", "refused"]),
        st.integers(0, 9),
    ),
    max_size=40,
)


@given(READS)
@settings(max_examples=40, deadline=None)
def test_any_mix_of_reads_rotations_and_collections_adds_up(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("usage")
    database = sqlite3.connect(":memory:")
    database.executescript(DDL)
    clock, expected, rotations = Clock(), Counter(), 0
    writer = writer_in(folder, clock)
    refs = {"p1": (TEMP,), "p2": (TEMP, HUMID, SEATS)}
    for what, plan, principal, outcome, rows in steps:
        if what == "read":
            read(writer, plan, principal=principal, outcome=outcome, rows=rows)
            for ref in refs[plan]:
                key = (audit.from_micros(clock.now).date().isoformat(), ref, principal, outcome)
                expected[key, "calls"] += 1
                expected[key, "rows"] += rows
        elif what == "rotate":
            writer.rotate()
            rotations += 1
        elif what == "collect":
            collect(folder, database)
        elif what == "heartbeat":
            writer.heartbeat()
        else:
            clock.now += MINUTE if what == "minute" else 24 * 60 * MINUTE
    writer.close()
    assert collect(folder, database).problems == ()
    found = Counter()
    query = (
        "SELECT day, view || '@v' || version || ':' || feature, principal, outcome, calls, entity_rows FROM usage_daily"
    )
    for *key, count, rows in database.execute(query):
        found[tuple(key), "calls"] += count
        found[tuple(key), "rows"] += rows
    assert found == expected
    assert [number for number, *_ in segments(database)] == list(range(rotations + 1))
    assert [closed for _, _, closed, _ in segments(database)] == [0] * rotations + [1]
    database.close()


KILLED = """
import os, signal, sys, time
from pathlib import Path
from featurestore.audit import UsageWriter
writer = UsageWriter(Path(sys.argv[1]), environment="prod", clock=lambda: time.time_ns() // 1000, worker="victim")
writer.register_plan("p", ("weather@v1:temp", "plane@v1:seats"))
for number in range(int(sys.argv[2])):
    writer.record("p", f"principal{number % 7}", "", "undeclared", "host/agent", "online", "ok", 3)
print("counted", flush=True)
time.sleep(60) if len(sys.argv) > 3 else os.kill(os.getpid(), signal.SIGKILL)
"""


def test_kill_9_loses_no_counted_read(tmp_path, database):
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path, "1234"], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"counted\n"), done.stderr
    report = collect(tmp_path, database)
    assert [(folded.calls, folded.closed) for folded in report.folded] == [(1234, True)]
    assert calls(database) == {TEMP: 1234, SEATS: 1234}
    assert database.execute("SELECT sum(entity_rows) FROM usage_daily WHERE feature = 'temp'").fetchone() == (3702,)


def test_a_segment_whose_process_lives_is_left_alone_until_it_is_gone(tmp_path, database):
    child = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path, "5", "stay"], stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline() == b"counted\n"
        assert len(collect(tmp_path, database).live) == 1
        assert calls(database) == {}
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
    collect(tmp_path, database)
    assert calls(database)[TEMP] == 5


def test_what_a_running_worker_counted_is_seen_and_stays_where_it_is(tmp_path, clock, database):
    writer = writer_in(tmp_path, clock)
    read(writer, "p2")
    clock.now += 5
    read(writer, "p1", outcome="refused", rows=0)
    read(writer, "p1", principal="bob")
    seen = {(str(r.ref), r.principal, r.outcome, r.last_read) for r in live_reads(tmp_path)}
    served = {(ref, "ana", "ok", START) for ref in (TEMP, HUMID, SEATS)}
    assert seen == served | {(TEMP, "ana", "refused", START + 5), (TEMP, "bob", "ok", START + 5)}
    assert collect(tmp_path, database).folded == ()
    writer.close()
    collect(tmp_path, database)
    assert calls(database) == {TEMP: 3, HUMID: 1, SEATS: 1}
    assert live_reads(tmp_path) == ()


def test_rotation_hands_over_while_counting_goes_on(tmp_path, clock, database):
    writer = writer_in(tmp_path, clock)
    for _ in range(3):
        read(writer)
        writer.rotate()
    read(writer)
    report = collect(tmp_path, database)
    assert (len(report.folded), len(report.live), calls(database)) == (3, 1, {TEMP: 3})
    writer.close()
    collect(tmp_path, database)
    assert calls(database) == {TEMP: 4}
    assert [number for number, *_ in segments(database)] == [0, 1, 2, 3]


def test_a_full_segment_counts_what_it_drops_and_rotation_makes_room(tmp_path, clock, database):
    writer = writer_in(tmp_path, clock, slots=2)
    for principal in ("a", "b", "c", "c", "a"):
        read(writer, principal=principal)
    assert (writer.dropped, writer.free_slots) == (2, 0)
    writer.rotate()
    assert (writer.dropped, writer.free_slots) == (0, 2)
    read(writer, principal="c")
    writer.close()
    collect(tmp_path, database)
    assert calls(database) == {TEMP: 4}
    assert [dropped for *_, dropped in segments(database)] == [2, 0]


def test_a_full_string_region_drops_too(tmp_path, clock, database):
    writer = writer_in(tmp_path, clock)
    read(writer, principal="a" * (1 << 20))
    read(writer, principal="b")
    writer.close()
    collect(tmp_path, database)
    assert calls(database) == {TEMP: 1}
    assert segments(database)[0][-1] == 1


def test_collecting_twice_counts_once(tmp_path, clock, database):
    writer = writer_in(tmp_path, clock)
    read(writer)
    writer.close()
    collect(tmp_path, database)
    assert collect(tmp_path, database).folded == ()
    assert calls(database) == {TEMP: 1}


def test_a_crash_between_commit_and_removal_counts_once(tmp_path, clock, database):
    writer = writer_in(tmp_path, clock)
    read(writer)
    writer.close()
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    collect(tmp_path, database)
    path.write_bytes(content)
    report = collect(tmp_path, database)
    assert (report.folded, report.removed, path.exists()) == ((), (path,), False)
    assert calls(database) == {TEMP: 1}


def test_a_database_that_fails_half_way_folds_nothing_and_keeps_the_file(tmp_path, clock, database):
    writer = writer_in(tmp_path, clock)
    read(writer, "p2")
    writer.close()
    database.executescript(
        "CREATE TRIGGER broken BEFORE INSERT ON usage_daily WHEN NEW.feature = 'seats'"
        " BEGIN SELECT RAISE(ABORT, 'disk full'); END"
    )
    with pytest.raises(sqlite3.IntegrityError, match="disk full"):
        collect(tmp_path, database)
    assert (calls(database), segments(database), len(list(tmp_path.iterdir()))) == ({}, [], 1)
    database.executescript("DROP TRIGGER broken")
    collect(tmp_path, database)
    assert calls(database) == {TEMP: 1, HUMID: 1, SEATS: 1}


def test_a_worker_name_used_again_is_reported_not_mixed_up(tmp_path, clock, database):
    for _ in range(2):
        writer = writer_in(tmp_path, clock)
        read(writer)
        writer.close()
        report = collect(tmp_path, database)
        clock.now += MINUTE
    assert [(problem.path.name, "worker 'w'" in problem.reason) for problem in report.problems] == [("w-0.usage", True)]
    assert calls(database) == {TEMP: 1}
    with pytest.raises(ConflictError, match="there already"):
        writer_in(tmp_path, clock)
    assert [path.name for path in tmp_path.iterdir()] == ["w-0.usage"]


def test_a_slot_that_was_being_written_is_not_there(tmp_path, clock, database):
    writer = writer_in(tmp_path, clock)
    read(writer, principal="whole")
    read(writer, principal="torn")
    writer.close()
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    used_word_of_second_slot = 4096 + 128
    assert content[used_word_of_second_slot] == 1
    content[used_word_of_second_slot] = 0
    path.write_bytes(content)
    collect(tmp_path, database)
    assert database.execute("SELECT principal, calls FROM usage_daily").fetchall() == [("whole", 1)]


@pytest.mark.parametrize(
    ("offset", "reason"),
    [
        (0, "not a usage segment"),
        (8, "its format is"),
        (16, "header is damaged"),
        (40, "header is damaged"),
        (132, "header is damaged"),
        (8 * 8, "state is unknown"),
        (4096, "neither used nor free"),
        (4096 + 24, "slot is damaged"),
        (4096 + 64 * 128 + 10, "string is damaged"),
    ],
)
def test_a_damaged_file_is_reported_kept_and_does_not_stop_the_others(tmp_path, clock, database, offset, reason):
    for worker in ("bad", "good"):
        writer = writer_in(tmp_path, clock, worker=worker)
        read(writer)
        writer.close()
    path = tmp_path / "bad-0.usage"
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x55
    path.write_bytes(content)
    (problem,) = collect(tmp_path, database).problems
    assert problem.path == path
    assert reason in problem.reason
    assert f"{path}:" in problem.reason
    assert list(tmp_path.iterdir()) == [path]
    assert calls(database) == {TEMP: 1}


@given(st.binary(max_size=9000), st.integers(0, 4200))
@settings(max_examples=60, deadline=None)
def test_no_file_makes_a_collection_fail(tmp_path_factory, content, header):
    folder = tmp_path_factory.mktemp("usage")
    writer = writer_in(folder, Clock())
    read(writer)
    writer.close()
    path = folder / "w-0.usage"
    genuine = path.read_bytes()
    path.write_bytes(genuine[:header] + content)
    database = sqlite3.connect(":memory:")
    database.executescript(DDL)
    report = collect(folder, database)
    assert len(report.problems) == 1
    assert path.exists()
    assert calls(database) == {}
    database.close()


def test_a_file_under_another_name_and_a_folder_are_reported(tmp_path, clock, database):
    writer = writer_in(tmp_path, clock)
    writer.close()
    (tmp_path / "w-0.usage").rename(tmp_path / "w-1.usage")
    (tmp_path / "x.usage").mkdir()
    reasons = [problem.reason for problem in collect(tmp_path, database).problems]
    assert len(reasons) == 2
    assert "segment 0 of worker 'w'" in reasons[0]


def test_a_heartbeat_moves_the_end_of_an_abandoned_segment(tmp_path, database):
    code = (
        "import os; from pathlib import Path; from featurestore.audit import UsageWriter; times = iter([1000, 2000, 9000]);"
        f"w = UsageWriter(Path({str(tmp_path)!r}), environment='prod', clock=lambda: next(times), worker='w');"
        "w.heartbeat(); w.heartbeat(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    collect(tmp_path, database)
    assert segments(database) == [(0, 9000, 1, 0)]


def test_threads_of_one_process_share_a_writer(tmp_path, clock, database):
    writer = writer_in(tmp_path, clock, slots=1000)
    start = threading.Barrier(8)

    def reader(number):
        start.wait()
        for step in range(100):
            read(writer, principal=f"{number}-{step}")

    threads = [threading.Thread(target=reader, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    collect(tmp_path, database)
    assert database.execute("SELECT count(*), sum(calls) FROM usage_daily").fetchone() == (800, 800)


def test_what_cannot_be_counted_is_refused(tmp_path, clock, database):
    writer = writer_in(tmp_path, clock)
    with pytest.raises(NotFoundError, match="Did you mean 'p1'"):
        read(writer, "p11")
    with pytest.raises(InvalidArgumentError, match="No mode 'onlin'"):
        writer.record("p1", "", "", "bound", "", "onlin", "ok", 1)
    with pytest.raises(InvalidArgumentError, match="names no version"):
        writer.register_plan("p3", ("weather:temp",))
    with pytest.raises(InvalidArgumentError, match="reads no feature"):
        writer.register_plan("p3", ())
    with pytest.raises(ConflictError, match="other features"):
        writer.register_plan("p1", (SEATS,))
    writer.close()
    writer.close()
    with pytest.raises(FailedPreconditionError, match="closed"):
        read(writer)
    database.execute("BEGIN")
    with pytest.raises(FailedPreconditionError, match="inside another transaction"):
        collect(tmp_path, database)
    assert collect(Path(tmp_path / "none"), sqlite3.connect(":memory:")).folded == ()


def test_texts_that_are_no_unicode_are_counted(tmp_path, clock, database):
    writer = writer_in(tmp_path, clock)
    read(writer, principal="\udcff")
    read(writer, principal="Zoë\n'); DROP TABLE")
    writer.close()
    collect(tmp_path, database)
    names = {name for (name,) in database.execute("SELECT principal FROM usage_daily")}
    assert names == {"?", "Zoë\n'); DROP TABLE"}


def test_a_clock_that_steps_back_adds_to_the_same_day(tmp_path, clock, database):
    writer = writer_in(tmp_path, clock)
    for step in (0, 3 * MINUTE, -2 * MINUTE, 1):
        clock.now += step
        read(writer)
    writer.close()
    collect(tmp_path, database)
    row = database.execute("SELECT calls, first_read, last_read FROM usage_daily").fetchone()
    assert row == (4, START, START + 3 * MINUTE)
