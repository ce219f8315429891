"""Bytes that no client would send: every method answers with a documented code, nothing fails unforeseen, and memory stays flat."""

import random

import psutil
import pytest

from featurestore.serving.grpc_aio import GrpcAioTransport
from featurestore.serving.status import STATUS_OF, UNIMPLEMENTED
from featurestore.testing.served import ServedProject
from featurestore.v1 import serving_pb2 as pb

DOCUMENTED = {"OK", UNIMPLEMENTED.grpc, *(status.grpc for status in STATUS_OF.values())}
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with ServedProject(tmp_path_factory.mktemp("fuzzed"), GrpcAioTransport) as project:
        project.fill()
        yield project


def seeds(project):
    """Return a request of each method that is right."""
    asked = pb.SchemaRequest(features=["weather:temp", "heat:feels"])
    schema = pb.Schema.FromString(project.call("GetSchema", asked.SerializeToString()).body)
    keys = [pb.Column(name="origin", strings=[b"JFK", b"XXX"]), pb.Column(name="bump", doubles=[1.0, 2.0])]
    row = [
        pb.Column(name="user_id", integers=[5]),
        pb.Column(name="event_timestamp", integers=[10**15]),
        pb.Column(name="score", doubles=[0.5], nulls=[0]),
    ]
    return {
        "GetSchema": asked,
        "GetOnlineFeatures": pb.ReadRequest(plan=schema.fingerprint, columns=keys),
        "GetWriteSchema": pb.WriteSchemaRequest(view="activity"),
        "Write": pb.WriteRequest(view="activity", columns=row, write_id=b"w"),
        "AdvanceClock": pb.AdvanceClockRequest(time=1),
        "GetStatus": pb.StatusRequest(),
    }


def mutated(chance, body):
    """Return a body with some of it changed, cut, doubled or made up."""
    body = bytearray(body)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(body) + 1)
        match chance.randrange(5):
            case 0:
                body[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del body[at : at + chance.randint(1, 8)]
            case 2:
                body[at:at] = body[max(0, at - 20) : at]
            case 3:
                body[at:at] = chance.randbytes(chance.randint(1, 30))
            case 4:
                body[at:at] = b"\xff\xff\xff\xff\x0f"  # a length of 4 GiB
    return bytes(body)


def fuzz(project, chance, number):
    """Send so many changed requests; returns the codes that came back."""
    right = {method: message.SerializeToString() for method, message in seeds(project).items()}
    codes = set()
    for _ in range(number):
        method = chance.choice(list(right))
        body = mutated(chance, right[method]) if chance.random() < 0.9 else chance.randbytes(chance.randrange(200))
        answer = project.call(method, body)
        assert answer.code in DOCUMENTED, (method, body, answer)
        codes.add(answer.code)
    for method, body in right.items():
        assert project.call(method, body).code == ("FAILED_PRECONDITION" if method == "AdvanceClock" else "OK")
    assert project.handlers.guard.unforeseen == 0
    return codes


@pytest.mark.parametrize("seed", range(3))
def test_fuzzed_requests_get_documented_answers(served, seed):
    codes = fuzz(served, random.Random(seed), 400)
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"} <= codes


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_fuzzed_requests_take_no_memory(served):
    chance = random.Random(1000)
    fuzz(served, chance, 5_000)
    before = psutil.Process().memory_info().rss
    fuzz(served, chance, 50_000)
    assert psutil.Process().memory_info().rss - before < 50 * MEGABYTE
