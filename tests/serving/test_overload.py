"""More calls than a server can answer: it refuses the rest at once, says when to come again, and is itself again when they are gone."""

import asyncio
import os
import tempfile
import threading
import time
from pathlib import Path

import grpc
import grpc.aio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.client import Client, error_of, texts
from featurestore.errors import ResourceExhaustedError
from featurestore.serving.admission import Admission
from featurestore.serving.call import Reply
from featurestore.serving.grpc_aio import GrpcAioTransport
from featurestore.serving.native import NativeTransport, is_installed
from featurestore.testing.served import ServedProject
from featurestore.v1 import serving_pb2 as pb

MS = 1_000_000
TRANSPORTS = (GrpcAioTransport, *((NativeTransport,) if is_installed() else ()))


class Clock:
    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now


def let_pass(admission, clock, *waits):
    """Note waits in milliseconds, four in each tenth of a second."""
    for wait in waits:
        for extra in (0, 40, 400, 5):  # the quickest of an interval counts
            clock.now += 34 * MS
            admission.note((wait + extra) * MS)


def test_the_share_falls_while_even_the_quickest_waits_and_rises_again():
    clock = Clock()
    admission = Admission(clock)
    let_pass(admission, clock, *[10] * 20)
    assert admission.share == 1
    let_pass(admission, clock, 60, 60)
    assert admission.share == pytest.approx(0.64)
    clock.now += 5_000 * MS
    admission.note(5_000 * MS)  # the process stood still
    let_pass(admission, clock, *[10] * 20)
    assert admission.share == 1
    let_pass(admission, clock, 60, 60)
    assert admission.refusal().retry_after == pytest.approx(0.06)
    let_pass(admission, clock, *[5_000] * 50)
    assert admission.share == 0.05
    let_pass(admission, clock, *[10] * 20)
    assert admission.share == 1


@settings(max_examples=100)
@given(st.lists(st.integers(0, 200), max_size=60), st.integers(1, 100))
def test_the_share_is_what_is_admitted(waits, calls):
    clock = Clock()
    admission = Admission(clock)
    let_pass(admission, clock, *waits)
    assert 0.05 <= admission.share <= 1
    share = admission.share if waits and waits[-1] + 5 >= 25 else 1  # without a queue all are admitted
    admitted = sum(admission.admits() for _ in range(calls))
    assert abs(admitted - share * calls) <= 1
    assert admission.refused == calls - admitted


@pytest.mark.parametrize("make", TRANSPORTS)
def test_a_crowd_is_refused_before_it_is_read_and_calls_after_it_are_answered(make):
    """Work takes 5 ms of the one thread; whoever is refused learns when to come again, and was not worked for."""
    worked, answered, refused = [], [], []

    def work(_, body):
        worked.append(body)
        time.sleep(0.005)
        return Reply(body)

    async def idle(_, body):
        return Reply(body)

    async def run():
        admission = Admission()
        transport = make({"/s/Work": work, "/s/Idle": idle}, admission=admission)
        port = await transport.start("127.0.0.1:0")
        await asyncio.to_thread(crowd, port)
        began = time.monotonic()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            while admission.share < 1 and time.monotonic() - began < 60:
                await channel.unary_unary("/s/Idle")(b"", timeout=60)
                await asyncio.sleep(0.01)
            after = [await channel.unary_unary("/s/Work")(b"after", timeout=60) for _ in range(5)]
        await transport.drain(1)
        return after, admission

    def crowd(port):
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/s/Work")

            def come():
                while len(refused) < 50:
                    try:
                        answered.append(call(b"x", timeout=60))
                    except grpc.RpcError as error:
                        refused.append(error)

            threads = [threading.Thread(target=come) for _ in range(60)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)

    with asyncio.Runner(loop_factory=make.new_event_loop) as runner:
        after, admission = runner.run(run())
    assert after == [b"after"] * 5
    assert len(refused) >= 50
    assert len(worked) == len(answered) + 5
    assert admission.refused == len(refused)
    for error in refused:
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        told = error_of(error.code(), error.details(), texts(error.trailing_metadata()), "x")
        assert isinstance(told, ResourceExhaustedError)
        assert 0.02 <= told.retry_after <= 0.2


def test_a_client_comes_again_when_it_was_told_to(tmp_path):
    """Within its budget and its deadline; a request that is too large is not tried again."""
    with ServedProject(tmp_path, GrpcAioTransport) as project:
        project.fill()
        refusals = []

        def refuse_once(error):
            answer = project.handlers.get_online_features

            def handle(call, body):
                if not refusals:
                    refusals.append(time.monotonic())
                    raise error
                return answer(call, body)

            return handle

        for error, retried in (
            (ResourceExhaustedError("Busy.", retry_after=0.05), True),
            (ResourceExhaustedError("Large."), False),
        ):
            refusals.clear()
            handlers = {
                **project.handlers.methods(),
                "/featurestore.v1.FeatureStore/GetOnlineFeatures": project.handlers.guard.wrap(refuse_once(error)),
            }
            transport = GrpcAioTransport(handlers)
            port = project.run(transport.start("127.0.0.1:0"))
            with Client(f"127.0.0.1:{port}", timeout=20, consumer="", token="") as client:
                if retried:
                    rows = client.get_online_features(["activity:score"], {"user_id": [1001]})
                    assert rows.to_dict() == {"score": [0.25]}
                else:
                    with pytest.raises(ResourceExhaustedError, match="Large"):
                        client.get_online_features(["activity:score"], {"user_id": [1001]})
            project.run(transport.drain(0))


def test_an_asynchronous_client_comes_again_too(tmp_path):
    from featurestore.client import AsyncClient

    refusals = []

    def schema(_, body):
        if not refusals:
            refusals.append(body)
            raise ResourceExhaustedError("Busy.", retry_after=0.01)
        return Reply(pb.ServerStatus(revision=7).SerializeToString())

    async def run():
        from featurestore.serving.status import Guard

        transport = GrpcAioTransport({"/featurestore.v1.FeatureStore/GetStatus": Guard().wrap(schema)})
        port = await transport.start("127.0.0.1:0")
        async with AsyncClient(f"127.0.0.1:{port}", timeout=20, consumer="", token="") as client:
            status = await client.status()
        await transport.drain(0)
        return status.revision

    assert asyncio.run(run()) == 7


@pytest.fixture
def short_path():
    """A folder whose path leaves room for a socket's."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_a_killed_process_leaves_no_probe_behind(short_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(short_path))
    dead, alive = short_path / "featurestore-probe-99999999-x", short_path / f"featurestore-probe-{os.getpid()}-x"
    for folder in (dead, alive):
        folder.mkdir()
        (folder / "probe.sock").touch()

    async def run():
        transport = GrpcAioTransport({}, admission=Admission())
        await transport.start("127.0.0.1:0")
        there = set(short_path.iterdir())
        await transport.drain(1)
        return there

    there = asyncio.run(run())
    assert dead not in there
    assert alive in there
    assert len(there) == 2
    assert set(short_path.iterdir()) == {alive}
