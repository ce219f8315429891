"""Writes that share a commit: each is answered by itself, in its order, after everything is durable; the queue before them is bounded."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore import Entity, Feature, FeatureView, PushSource
from featurestore.definitions.expectation import InRange
from featurestore.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    FeatureStoreError,
    InvalidArgumentError,
    NotFoundError,
    QuarantinedError,
    ResourceExhaustedError,
)
from featurestore.flow.write import Write
from featurestore.refs import ViewRef
from featurestore.rows import SEQ
from featurestore.serving.call import Call
from featurestore.serving.metrics import MetricsFile, read_metrics
from featurestore.serving.write_queue import WriteQueue
from featurestore.serving.writer_handlers import WriterHandlers
from featurestore.testing.projects import ScratchProject
from featurestore.v1 import serving_pb2 as pb
from featurestore.v1 import writer_pb2 as wire

NOW = 1_000
SENSOR = Entity("sensor", {"sensor": "int64"})
READINGS = FeatureView("readings", SENSOR, PushSource("readings", "at"), [Feature("value", "int64")])
CHECKED = FeatureView(
    "checked",
    SENSOR,
    PushSource("checked", "at"),
    [Feature("value", "int64", expect=[InRange(0, 100)])],
)


@pytest.fixture
def project(tmp_path):
    with ScratchProject(tmp_path, READINGS, CHECKED, now=NOW) as project:
        yield project


def rows(*tuples):
    """Make rows of (sensor, event time, value)."""
    columns = list(zip(*tuples, strict=True)) or [[]] * 3
    return pa.table(
        {
            "sensor": pa.array(columns[0], pa.int64()),
            "at": pa.array(columns[1], pa.timestamp("us", "UTC")),
            "value": pa.array(columns[2], pa.int64()),
        }
    )


def write(view, *tuples, **more):
    return Write(ViewRef(view), rows(*tuples), **more)


def online(project, view="readings", sensors=(1, 2, 3)):
    return project.read([f"{view}:value"], [(s,) for s in sensors]).to_dict()["value"]


def logged(project, view="readings"):
    """Return what the offline table holds after a fold: (seq, sensor, value)."""
    project.writer.fold()
    table = project.table(ViewRef(view))
    stored = table.read(["sensor", "value", SEQ]).to_pylist() if table.exists else []
    return sorted((row[SEQ], row["sensor"], row["value"]) for row in stored)


def test_each_write_is_answered_by_itself_and_numbered_in_order(project):
    first, second, third = project.writer.write_all(
        [write("readings", (1, 10, 1), (2, 10, 2)), write("checked", (1, 10, 5)), write("readings", (1, 11, 3))]
    )
    assert [(r.accepted, r.first_seq, r.last_seq) for r in (first, second, third)] == [(2, 1, 2), (1, 3, 3), (1, 4, 4)]
    assert project.writer.head().last_seq == 4
    assert online(project) == [3, 2, None]
    assert logged(project) == [(1, 1, 1), (2, 2, 2), (4, 1, 3)]


def test_a_refused_write_undoes_itself_alone(project):
    """The same rows come again in the group and are new then, since nothing of the refused write is remembered."""
    answers = project.writer.write_all(
        [
            write("checked", (1, 10, 7)),
            write("checked", (2, 10, 8), (3, 10, 500), write_id=b"a"),
            write("nowhere", (1, 10, 7)),
            write("checked", (2, 10, 8), write_id=b"a"),
            write("checked", (2, 10, 8)),
        ]
    )
    assert [type(answer).__name__ for answer in answers] == [
        "WriteReport",
        QuarantinedError.__name__,
        NotFoundError.__name__,
        "WriteReport",
        "WriteReport",
    ]
    assert [answers[i].accepted for i in (0, 3, 4)] == [1, 1, 0]
    assert answers[4].repeated_rows == 1
    assert online(project, "checked") == [7, 8, None]
    assert logged(project, "checked") == [(1, 1, 7), (2, 2, 8)]


def test_a_write_id_is_known_within_the_group(project):
    first, again = project.writer.write_all([write("readings", (1, 10, 1), write_id=b"x")] * 2)
    assert (first.accepted, first) == (1, again)


def test_after_a_refused_part_no_other_of_its_stream_is_done(project):
    answers = project.writer.write_all(
        [
            write("checked", (1, 10, 1), stream=7),
            write("checked", (1, 11, 999), stream=7),
            write("checked", (1, 12, 3), stream=7),
            write("checked", (2, 10, 4), stream=8),
        ]
    )
    assert [isinstance(answer, FeatureStoreError) for answer in answers] == [False, True, True, False]
    assert isinstance(answers[2], FailedPreconditionError)
    assert online(project, "checked") == [1, 4, None]


def test_what_cannot_be_committed_together_is_tried_alone(project, monkeypatch):
    """A write that makes the whole commit fail in a way nobody foresaw does so for itself alone."""
    from featurestore.flow import apply as module

    def failing(transaction, view, table, *, now):
        if -1 in table["sensor"].to_pylist():
            raise ResourceExhaustedError("The disk is full.")
        return apply_rows(transaction, view, table, now=now)

    apply_rows = module.apply_rows
    monkeypatch.setattr(module, "apply_rows", failing)
    good, bad, other = project.writer.write_all(
        [write("readings", (1, 10, 1)), write("readings", (-1, 10, 2)), write("readings", (2, 10, 3))]
    )
    assert isinstance(bad, ResourceExhaustedError)
    assert (good.accepted, other.accepted) == (1, 1)
    assert logged(project) == [(1, 1, 1), (2, 2, 3)]


WRITES = st.lists(
    st.tuples(
        st.sampled_from(["readings", "checked"]),
        st.lists(st.tuples(st.integers(1, 3), st.integers(1, 1010), st.integers(0, 110)), min_size=1, max_size=3),
        st.sampled_from([b"", b"", b"1", b"2"]),
    ),
    max_size=8,
)


@settings(max_examples=15, deadline=None)
@given(WRITES)
def test_together_is_as_one_after_the_other(tmp_path_factory, writes):
    """Answers, online values and the log are the same, whether writes share a commit or each has its own."""
    given = [write(view, *tuples, write_id=write_id) for view, tuples, write_id in writes]
    found = []
    for together in (True, False):
        with ScratchProject(tmp_path_factory.mktemp("p"), READINGS, CHECKED, now=NOW) as project:
            answers = (
                project.writer.write_all(given)
                if together
                else [answer for one in given for answer in project.writer.write_all([one])]
            )
            told = [type(a).__name__ if isinstance(a, FeatureStoreError) else a for a in answers]
            views = ("readings", "checked")
            filled = {w.ref.view for w, a in zip(given, answers, strict=True) if not isinstance(a, FeatureStoreError)}
            shown = [online(project, view) if view in filled else None for view in views]
            found.append((told, project.writer.head(), [logged(project, view) for view in views], shown))
    assert found[0] == found[1]


# --- the queue ---------------------------------------------------------------------------------------------------------------------------


class Held:
    """A commit that waits until it is let go, and says what it was given."""

    def __init__(self, project):
        self.writer, self.go, self.groups = project.writer, threading.Event(), []

    def __call__(self, writes):
        self.groups.append(len(writes))
        assert self.go.wait(20)
        return self.writer.write_all(writes)


def queue_of(project, held, **limits):
    return WriteQueue(held, ThreadPoolExecutor(1), MetricsFile(project.root / "metrics"), **limits)


def decode(body):
    """A body is ``sensor value``; one that is not is refused."""
    sensor, _, value = body.decode().partition(" ")
    if not value:
        raise InvalidArgumentError(f"No value in '{sensor}'.")
    return write("checked", (int(sensor), 10 + int(value), int(value)))


async def parts(*bodies):
    for body in bodies:
        yield body


def test_what_comes_during_a_commit_shares_the_next(project):
    async def run():
        held = Held(project)
        queue = queue_of(project, held)
        writes = [asyncio.ensure_future(queue.write(Call(""), b"1 %d" % i, decode)) for i in range(20)]
        await asyncio.sleep(0.05)
        assert len(held.groups) == 1
        held.go.set()
        reports = await asyncio.gather(*writes)
        return held.groups, reports

    groups, reports = asyncio.run(run())
    assert len(groups) <= 2
    assert sum(groups) == 20
    assert [report.first_seq for report in reports] == list(range(1, 21))
    found = read_metrics(project.root / "metrics")
    assert found["featurestore_accepted_rows_total", ()].value == 20
    assert found["featurestore_commits_total", ()].value == len(groups)
    assert found["featurestore_queued_writes", ()].value == 0


def test_beyond_its_bounds_the_queue_refuses_and_says_when_to_come_again(project):
    async def run():
        held = Held(project)
        queue = queue_of(project, held, max_writes=3)
        writes = [asyncio.ensure_future(queue.write(Call(""), b"1 %d" % i, decode)) for i in range(10)]
        await asyncio.sleep(0.05)
        refused = [task for task in writes if task.done()]
        held.go.set()
        answers = await asyncio.gather(*writes, return_exceptions=True)
        again = await queue.write(Call(""), b"2 1", decode)
        return refused, answers, again

    refused, answers, again = asyncio.run(run())
    errors = [answer for answer in answers if isinstance(answer, ResourceExhaustedError)]
    assert len(refused) == len(errors) > 0
    assert all(error.retry_after > 0 for error in errors)
    assert sum(answer.accepted for answer in answers if answer not in errors) == 10 - len(errors)
    assert again.accepted == 1


def test_large_requests_are_refused_by_their_weight_and_one_always_fits(project):
    async def run():
        held = Held(project)
        queue = queue_of(project, held, max_bytes=10)
        first = asyncio.ensure_future(queue.write(Call(""), b"1 " + b"0" * 50 + b"1", decode))
        await asyncio.sleep(0.02)  # it is being committed
        second = asyncio.ensure_future(queue.write(Call(""), b"2 " + b"0" * 50 + b"1", decode))
        await asyncio.sleep(0.02)
        with pytest.raises(ResourceExhaustedError):
            await queue.write(Call(""), b"3 1", decode)
        held.go.set()
        return await asyncio.gather(first, second)

    assert [report.accepted for report in asyncio.run(run())] == [1, 1]


def test_a_stream_is_answered_in_order_and_ends_at_the_first_refusal(project):
    async def run(*bodies):
        held = Held(project)
        held.go.set()
        queue = queue_of(project, held)
        answers = []
        try:
            async for report in queue.write_stream(Call(""), parts(*bodies), decode):
                answers.append(report.last_seq)
        except FeatureStoreError as error:
            answers.append(type(error))
        await queue.close()
        return answers

    assert asyncio.run(run(*(b"1 %d" % i for i in range(80)))) == list(range(1, 81))
    assert asyncio.run(run(b"2 1", b"2 999", b"2 3", b"2")) == [81, QuarantinedError]
    assert asyncio.run(run(b"2 4", b"2", b"2 5")) == [82, InvalidArgumentError]
    assert online(project, "checked") == [79, 4, None]
    assert [value for _, sensor, value in logged(project, "checked") if sensor == 2] == [1, 4]


def test_a_stream_waits_for_room_instead_of_being_refused(project):
    async def run():
        held = Held(project)
        queue = queue_of(project, held, max_writes=2)
        taken = []

        async def bodies():
            for i in range(30):
                taken.append(i)
                yield b"1 %d" % i

        async def collect():
            return [report.last_seq async for report in queue.write_stream(Call(""), bodies(), decode)]

        collecting = asyncio.ensure_future(collect())
        await asyncio.sleep(0.05)
        waiting = len(taken)
        held.go.set()
        return waiting, await collecting

    waiting, answers = asyncio.run(run())
    assert waiting <= 5
    assert answers == list(range(1, 31))


def test_a_write_whose_deadline_passes_in_the_queue_is_not_done(project):
    async def run():
        held = Held(project)
        queue = queue_of(project, held)
        first = asyncio.ensure_future(queue.write(Call(""), b"1 1", decode))
        await asyncio.sleep(0.02)
        late = asyncio.ensure_future(queue.write(Call("", deadline=0), b"2 1", decode))
        gone = asyncio.ensure_future(queue.write(Call(""), b"3 1", decode))
        await asyncio.sleep(0.02)
        gone.cancel()
        held.go.set()
        await first
        with pytest.raises(DeadlineExceededError):
            await late
        await queue.close()

    asyncio.run(run())
    assert online(project, "checked") == [1, None, None]


def test_an_unforeseen_failure_reaches_every_caller_and_the_queue_goes_on(project):
    calls = []

    def failing(writes):
        calls.append(len(writes))
        if len(calls) == 1:
            raise ZeroDivisionError
        return project.writer.write_all(writes)

    async def run():
        queue = queue_of(project, failing)
        first, second = await asyncio.gather(
            *(queue.write(Call(""), b"1 %d" % i, decode) for i in range(2)), return_exceptions=True
        )
        assert [type(first), type(second)] == [ZeroDivisionError] * 2
        return await queue.write(Call(""), b"1 3", decode)

    assert asyncio.run(run()).accepted == 1


def test_a_write_does_not_wait_for_the_end_of_a_materialize(project, monkeypatch):
    """It comes between two steps of it, in the online store and in time; the steps are shorter while somebody writes."""
    from featurestore.flow import materialize as module

    project.writer.write(ViewRef("readings"), rows(*((sensor, 10, sensor) for sensor in range(100))))
    steps, store = [], project.writer._store
    under_way, loop = asyncio.Event(), None

    def step(transaction, view, table, *, now):
        steps.append(len(table))
        loop.call_soon_threadsafe(under_way.set)
        while len(steps) == 1 and store.writers() < 2:  # until the write waits
            time.sleep(0.001)
        return apply_rows(transaction, view, table, now=now)

    apply_rows = module.apply_rows
    monkeypatch.setattr(module, "apply_rows", step)
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 20)
    monkeypatch.setattr(module, "_ROWS_BESIDE_WRITES", 5)
    handlers = WriterHandlers(
        project.writer,
        lambda: project.snapshot,
        replay=False,
        usage_directory=project.root,
        registry_path=None,
        metrics=MetricsFile(project.root / "metrics"),
    )
    methods = handlers.methods()

    async def run():
        nonlocal loop
        loop = asyncio.get_running_loop()
        materialize = wire.MaterializeRequest(view="readings@v1", full=True).SerializeToString()
        columns = [
            pb.Column(name="sensor", integers=[1]),
            pb.Column(name="at", integers=[20]),
            pb.Column(name="value", integers=[77]),
        ]
        body = pb.WriteRequest(view="readings", columns=columns).SerializeToString()
        write_method = methods["/featurestore.v1.Writer/Write"]
        filling = asyncio.ensure_future(methods["/featurestore.v1.Writer/Materialize"](Call(""), materialize))
        await under_way.wait()
        writing = asyncio.ensure_future(write_method(Call(""), body))
        written = await writing
        return written, await filling

    written, filled = asyncio.run(run())
    assert (written.code, filled.code) == ("OK", "OK")
    assert online(project) == [77, 2, 3]
    assert sum(steps) == 100
    assert 5 in steps
    assert 20 in steps
