"""Every error class has its codes in one table, and travels to a client that raises the same class with the same text."""

import logging

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore import errors
from featurestore.client import _BY_CODE, error_of
from featurestore.errors import FeatureStoreError, InvalidArgumentError, NotFoundError
from featurestore.serving.call import Call, Reply
from featurestore.serving.status import HTTP_OF, STATUS_OF, Guard, error_reply, status_of

CLASSES = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, FeatureStoreError)]


@pytest.mark.parametrize("kind", [c for c in CLASSES if c is not FeatureStoreError])
def test_every_class_has_codes(kind):
    status = status_of(kind("x"))
    assert status.grpc in grpc.StatusCode.__members__
    assert HTTP_OF[status.grpc] == status.http
    assert status.grpc != "INTERNAL"


def test_a_gateway_code_means_one_thing():
    """One gRPC code never has two HTTP codes."""
    assert len({(s.grpc, s.http) for s in STATUS_OF.values()}) == len({s.grpc for s in STATUS_OF.values()})


def test_what_a_transport_says_by_itself_becomes_the_class_that_has_this_code():
    for code, kind in _BY_CODE.items():
        assert code is grpc.StatusCode.CANCELLED or STATUS_OF[kind].grpc == code.name


@given(
    kind=st.sampled_from(CLASSES),
    message=st.text(min_size=1, max_size=200),
    place=st.none() | st.text(min_size=1, max_size=50),
    repair=st.none() | st.text(min_size=1, max_size=50),
)
def test_an_error_survives_the_wire(kind, message, place, repair):
    """Class, text, place and repair are the same on both sides, whatever characters they have."""
    error = kind(message, place=place, repair=repair)
    reply = error_reply(error)
    assert all(value.isascii() and value.isprintable() for _, value in reply.trailers)
    code = grpc.StatusCode[reply.code]
    back = error_of(code, reply.message, dict(reply.trailers), "server")
    assert str(back) == str(error)
    assert (back.place, back.repair) == (place, repair)
    assert type(back) is kind


def test_long_texts_are_cut():
    reply = error_reply(InvalidArgumentError("x" * 100_000, place="y" * 100_000))
    assert len(reply.message) + sum(len(value) for _, value in reply.trailers) < 8192


def test_nearest_name_travels():
    reply = error_reply(NotFoundError.of("view", "wether", ["weather"]))
    error = error_of(grpc.StatusCode.NOT_FOUND, reply.message, dict(reply.trailers), "server")
    assert error.nearest == "weather"


async def test_guard_answers_what_nobody_foresaw_once_logged_and_counted(caplog):
    """Handlers of both kinds; the text of the failure stays on the server."""
    guard = Guard()

    def fail(call, body):
        raise RuntimeError("secret")

    async def fail_later(call, body):
        raise RuntimeError("secret")

    with caplog.at_level(logging.ERROR):
        replies = [guard.wrap(fail)(Call("m"), b""), await guard.wrap(fail_later)(Call("m"), b"")]
    assert [reply.code for reply in replies] == ["INTERNAL", "INTERNAL"]
    assert not any("secret" in reply.message for reply in replies)
    assert guard.unforeseen == 2
    identities = [reply.message.split()[2].strip(".") for reply in replies]
    assert [identity in record.getMessage() for identity, record in zip(identities, caplog.records, strict=True)]
    assert all(record.exc_info for record in caplog.records)


def test_guard_passes_replies_and_expected_errors():
    guard = Guard()

    def refuse(call, body):
        raise InvalidArgumentError("no", place="$.x")

    assert guard.wrap(lambda call, body: Reply(body))(Call("m"), b"b") == Reply(b"b")
    assert guard.wrap(refuse)(Call("m"), b"").code == "INVALID_ARGUMENT"
    assert guard.unforeseen == 0
