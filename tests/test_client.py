"""The client packs exactly, says where a value is wrong before it calls, repeats little, and imports nothing heavy."""

import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
import pytest

from featurestore.client import AsyncClient, Client, ReadShape, _Dialogue, _RetryBudget, pack_columns
from featurestore.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    ResourceExhaustedError,
    StaleSchemaError,
    UnavailableError,
)
from featurestore.types import DType
from featurestore.v1 import serving_pb2 as pb

SCHEMA = pb.Schema(
    fingerprint=b"f" * 16,
    key_sets=[
        pb.KeySet(entity="route", fields=[pb.KeyField(column="origin", dtype="string")]),
        pb.KeySet(
            entity="user",
            fields=[pb.KeyField(column="origin", dtype="string"), pb.KeyField(column="user_id", dtype="int64")],
        ),
    ],
    request=[pb.KeyField(column="bump", dtype="float64")],
)
SHAPE = ReadShape.of(SCHEMA)


def columns_of(body):
    return {c.name: c for c in pb.ReadRequest.FromString(body).columns}


def test_a_key_column_of_two_key_sets_is_sent_once_and_request_data_may_be_null():
    body = SHAPE.pack({"origin": ["JFK", "LGA"], "user_id": [1, -1]}, {"bump": [None, 1.5]})
    columns = columns_of(body)
    assert list(columns) == ["origin", "user_id", "bump"]
    assert list(columns["origin"].strings) == [b"JFK", b"LGA"]
    assert list(columns["user_id"].integers) == [1, -1]
    assert (list(columns["bump"].doubles), list(columns["bump"].nulls)) == ([0.0, 1.5], [0])


def test_arrays_are_columns():
    pa = pytest.importorskip("pyarrow")
    keys = {"origin": pa.array(["JFK", "LGA"]), "user_id": np.array([1, 2])}
    columns = columns_of(SHAPE.pack(keys, {"bump": (1.0, 2)}))
    assert list(columns["user_id"].integers) == [1, 2]
    assert list(columns["bump"].doubles) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("keys", "request_data", "message"),
    [
        ({"orign": ["JFK"], "user_id": [1]}, {"bump": [1.0]}, r"You sent 'orign'\. - at `\$\.keys\.origin`"),
        ({"origin": ["JFK"], "user_id": [1], "x": [1]}, {"bump": [1.0]}, r"not asked for.* - at `\$\.keys\.x`"),
        ({"origin": ["JFK"], "user_id": [1001.7]}, {"bump": [1.0]}, r"got float 1001.7. - at `\$\.keys\.user_id\[0\]`"),
        ({"origin": ["JFK"], "user_id": [None]}, {"bump": [1.0]}, r"null. - at `\$\.keys\.user_id\[0\]`"),
        ({"origin": ["JFK", "LGA"], "user_id": [1]}, {"bump": [1.0]}, r"has 1\. - at `\$\.keys\.user_id`"),
        ({"origin": "JFK", "user_id": [1]}, {"bump": [1.0]}, r"Expected a list of values, got str 'JFK'"),
        ({"origin": ["JFK"], "user_id": [1]}, {}, r"Column 'bump' is missing\. - at `\$\.request\.bump`"),
        ({"origin": ["JFK"], "user_id": [1]}, {"bump": [1.0, 2.0]}, r"has 2\. - at `\$\.request\.bump`"),
    ],
)
def test_a_wrong_request_is_refused_before_any_call_with_its_place(keys, request_data, message):
    with pytest.raises(InvalidArgumentError, match=message):
        SHAPE.pack(keys, request_data)


@pytest.mark.parametrize(
    ("dtype", "value", "lane", "sent"),
    [
        ("timestamp", datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), "integers", 1_000_000),
        ("date", date(1970, 1, 2), "integers", 1),
        ("bool", True, "integers", 1),
        ("decimal(5,2)", Decimal("1.5"), "strings", b"1.50"),
        ("binary", b"\x00", "strings", b"\x00"),
    ],
)
def test_each_type_travels_in_its_lane(dtype, value, lane, sent):
    (column,) = pack_columns([("c", DType.of(dtype))], {"c": [None, value]}, place="$.c", nullable=True)
    assert list(getattr(column, lane))[1] == sent
    assert list(column.nulls) == [0]


def dialogue():
    return _Dialogue("server:1", consumer="delay_model@3", token="secret", timeout=5.0)


def test_schema_is_asked_for_once_and_again_when_it_is_stale():
    talk = dialogue()
    schema = pb.Schema(fingerprint=b"1" * 16, key_sets=[SCHEMA.key_sets[0]]).SerializeToString()
    answer = pb.ReadResponse(time=7, position=9).SerializeToString()

    def read():
        return talk.read("svc", {"origin": ["JFK"]}, {}, full=False)

    first = read()
    assert next(first).method == "GetSchema"
    assert first.send(schema).method == "GetOnlineFeatures"
    assert finish(first, answer).time == 7
    second = read()
    assert next(second).method == "GetOnlineFeatures"
    for _ in range(3):  # the registry may change again before the read
        assert second.throw(StaleSchemaError("old")).method == "GetSchema"
        assert second.send(schema).method == "GetOnlineFeatures"
    with pytest.raises(StaleSchemaError):
        second.throw(StaleSchemaError("old for ever"))


def test_what_no_server_answered_is_repeated_once_unless_it_is_a_write_without_an_id():
    talk = dialogue()
    read = talk.status()
    assert not next(read).wait
    assert read.throw(UnavailableError("gone")).wait
    with pytest.raises(UnavailableError, match="gone"):
        read.throw(DeadlineExceededError("waited"))
    write = talk.write("v", {"a": [1]}, b"")
    next(write)
    fields = pb.WriteSchema(view="v@v1", columns=[pb.KeyField(column="a", dtype="int64")])
    assert write.send(fields.SerializeToString()).method == "Write"
    with pytest.raises(UnavailableError):
        write.throw(UnavailableError("gone"))
    write = talk.write("v", {"a": [1]}, b"id")
    sent = next(write)
    again = write.throw(UnavailableError("gone"))
    assert (again.method, again.body, again.wait) == ("Write", sent.body, True)


@pytest.mark.parametrize("error", [DeadlineExceededError("late"), ResourceExhaustedError("busy")])
def test_what_would_make_it_worse_is_not_repeated(error):
    read = dialogue().status()
    next(read)
    with pytest.raises(type(error)):
        read.throw(error)


def test_the_retry_budget_allows_one_repeat_in_ten_in_the_long_run():
    budget = _RetryBudget()
    repeats = 0
    for _ in range(1000):
        budget.earn()
        repeats += budget.spend()
    assert 100 <= repeats <= 111


def test_identity_comes_from_arguments_or_the_environment(monkeypatch):
    assert dict(dialogue().metadata) == {"featurestore-consumer": "delay_model@3", "authorization": "Bearer secret"}
    monkeypatch.setenv("FEATURESTORE_CONSUMER", "job")
    monkeypatch.setenv("FEATURESTORE_TOKEN", "t")
    named = _Dialogue("s", consumer=None, token=None, timeout=1)
    assert dict(named.metadata) == {"featurestore-consumer": "job", "authorization": "Bearer t"}
    assert _Dialogue("s", consumer="", token="", timeout=1).metadata == ()


def test_no_server():
    with Client("127.0.0.1:1", timeout=0.5) as client, pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1"):
        client.status()


async def test_no_server_async():
    async with AsyncClient("127.0.0.1:1", timeout=0.5) as client:
        with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1"):
            await client.status()


def test_the_client_imports_nothing_heavy():
    """The client also ships as a small wheel: grpcio, protobuf, numpy and no more."""
    heavy = "{'pyarrow', 'pandas', 'duckdb', 'polars', 'numba', 'lmdb', 'sqlalchemy', 'fastapi', 'msgspec', 'networkx'}"
    code = f"import sys, featurestore.client; print({heavy} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def finish(exchange, answer):
    try:
        exchange.send(answer)
    except StopIteration as end:
        return end.value
    raise AssertionError("the exchange asked for more")
