"""The suite that every transport must pass.

A transport's tests are one class and one line::

    class TestTransports(TransportSuite):
        transports = (GrpcAioTransport, AnotherTransport)

A transport is a class that is made with handlers by method path, and has `name`, `supports`, `start` and `drain` (see `served.Transport`);
it runs the tests of what it supports. Clients are
grpcio's own, so that what is tested is what users see.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeVar

import grpc
import pyarrow as pa
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from featurestore.client import SERVICE, AsyncClient
from featurestore.errors import (
    AccessDeniedError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
)
from featurestore.serving.settings import MAX_KEYS, MAX_REQUEST_BYTES
from featurestore.testing.served import ECHO, ServedProject, Transport
from featurestore.v1 import serving_pb2 as pb

_WEATHER = "weather@v1:temp"


_Test = TypeVar("_Test", bound=Callable[..., None])


def needs(feature: str) -> Callable[[_Test], _Test]:
    """Say of a test that it is for transports which support something besides unary calls."""

    def marked(test: _Test) -> _Test:
        test.needs = feature  # type: ignore[attr-defined]  # read when tests are generated
        return test

    return marked


class TransportSuite:
    """What a transport promises, as tests; subclass it and give the transports."""

    transports: ClassVar[Sequence[type[Transport]]] = ()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run every test with every transport."""
        if "transport" in metafunc.fixturenames:
            needed = getattr(metafunc.function, "needs", "unary")
            able = [transport for transport in self.transports if needed in transport.supports]
            metafunc.parametrize("transport", able, ids=[transport.name for transport in able], scope="class")

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, transport: type[Transport], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedProject]:
        """Return a filled project that is served in local mode."""
        with ServedProject(tmp_path_factory.mktemp("local"), transport) as served:
            served.fill()
            yield served

    @pytest.fixture(scope="class")
    @classmethod
    def guarded(cls, transport: type[Transport], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedProject]:
        """Return a filled project that wants tokens."""
        with ServedProject(tmp_path_factory.mktemp("guarded"), transport, auth="required") as served:
            served.fill()
            yield served

    # --- every method --------------------------------------------------------------------------------------------

    def test_read(self, server: ServedProject) -> None:
        """A read gives one row per key, in the caller's order, with exact types and the state of each value."""
        with server.client() as client:
            rows = client.get_online_features("delay_model", {"origin": ["EWR", "JFK", "XXX", "LGA", "JFK"]})
        assert rows.to_dict() == {
            "temp": [None, 40.5, None, None, 40.5],
            "humid": [-(2**63), 60, None, None, 60],
            "note": ["Schnee \N{SNOWFLAKE}", "clear", None, None, "clear"],
        }
        assert rows.status["temp"].tolist() == ["NULL", "PRESENT", "NOT_FOUND", "EXPIRED", "PRESENT"]

    def test_read_of_several_entities_and_request_data(self, server: ServedProject) -> None:
        """Views with other keys, and features computed from request data, come in one answer."""
        features = ["activity:score", "traffic:delays", "heat:feels"]
        keys = {"user_id": [-1, 1001], "origin": ["JFK", "JFK"], "dest": ["LAX", "BOS"]}
        with server.client() as client:
            rows = client.get_online_features(features, keys, {"bump": [1.0, None]})
        assert rows.to_dict() == {"score": [0.5, 0.25], "delays": [7, None], "feels": [41.5, None]}

    def test_write_is_visible_when_it_returns(self, server: ServedProject) -> None:
        """Acknowledged means readable; a repeat is counted and not accepted again."""
        row = {"user_id": [7], "event_timestamp": ["2024-01-01T00:00:00"], "score": [3.0]}
        with server.client() as client:
            with pytest.raises(InvalidArgumentError, match="Expected timestamp, got str"):
                client.write("activity", row)
            row["event_timestamp"] = [1_704_067_200_000_000]
            first, second = client.write("activity@v1", row), client.write("activity", row)
            rows = client.get_online_features(["activity:score"], {"user_id": [7]})
        assert (first.accepted, second.accepted, second.repeated) == (1, 0, 1)
        assert rows.to_dict() == {"score": [3.0]}
        assert rows.position >= first.last_seq > 0

    def test_status(self, server: ServedProject) -> None:
        """The server says which project it serves, at which revision and time."""
        with server.client() as client:
            status = client.status()
        assert (status.project, status.revision, status.replay) == ("suite", 1, False)

    def test_clock_of_a_system_store_is_not_moved(self, server: ServedProject) -> None:
        """AdvanceClock is for replay alone, and says how to get there."""
        with server.client() as client, pytest.raises(FailedPreconditionError, match="--clock replay"):
            client.advance_clock(1)

    def test_replay_clock(self, transport: type[Transport], tmp_path_factory: pytest.TempPathFactory) -> None:
        """The replay clock makes rows visible as it passes them, ages them, and only rises."""
        with (
            ServedProject(tmp_path_factory.mktemp("replay"), transport, clock="replay") as served,
            served.client() as c,
        ):
            moments = ["2013-11-01T10:00:00", "2013-11-01T11:00:00", "2013-11-02T11:00:00.000001"]
            assert c.advance_clock(moments[0]) == c.status().time
            times = [1_383_303_600_000_000]
            c.write(
                "weather", {"origin": ["JFK"], "event_timestamp": times, "temp": [1.0], "humid": [1], "note": ["a"]}
            )
            seen = [_statuses(c, "JFK")]
            for moment in moments[1:]:
                c.advance_clock(moment)
                seen.append(_statuses(c, "JFK"))
            assert seen == ["NOT_FOUND", "PRESENT", "EXPIRED"]
            with pytest.raises(InvalidArgumentError, match="only rises"):
                c.advance_clock(moments[0])

    def test_async_client(self, server: ServedProject) -> None:
        """The asynchronous client gives the same answers and errors."""

        async def use() -> None:
            async with AsyncClient(server.target, timeout=20, token="", consumer="") as client:
                rows = await client.get_online_features([_WEATHER], {"origin": ["JFK"]})
                assert rows.to_dict() == {"temp": [40.5]}
                assert (await client.status()).project == "suite"
                with pytest.raises(NotFoundError, match="Did you mean 'weather'"):
                    await client.get_online_features(["wether:temp"], {"origin": ["JFK"]})

        asyncio.run(use())

    # --- streams -------------------------------------------------------------------------------------------------

    def test_stream_of_reads(self, server: ServedProject) -> None:
        """More keys than one read may have come in parts, in order, each with the answer of a single read."""
        keys = {"origin": ["JFK", "XXX", "EWR"] * 1000}
        with server.client() as client:
            parts = list(client.stream_online_features("delay_model", keys, rows=700))
            single = client.get_online_features("delay_model", {"origin": keys["origin"][:3]}).to_dict()
        assert [len(part) for part in parts] == [700, 700, 700, 700, 200]
        joined = [part.to_dict() for part in parts]
        assert all([v for part in joined for v in part[name]] == values * 1000 for name, values in single.items())

    def test_stream_of_writes(self, server: ServedProject) -> None:
        """Each part is acknowledged in its turn, when it is readable; a refused part ends the stream, and those before it stay."""
        rows = [
            {"user_id": [9], "event_timestamp": [1_704_067_200_000_000 + i], "score": [float(i)]} for i in range(50)
        ]
        with server.client() as client:
            answers = client.stream_write("activity", iter(rows))
            assert next(answers).accepted == 1
            assert sum(answer.accepted for answer in answers) == 49
            assert client.get_online_features(["activity:score"], {"user_id": [9]}).to_dict() == {"score": [49.0]}
            refused = client.stream_write(
                "activity", [{**rows[0], "user_id": [10]}, {**rows[0], "event_timestamp": [None]}]
            )
            assert next(refused).accepted == 1
            with pytest.raises(InvalidArgumentError, match="null event time"):
                next(refused)
            assert client.get_online_features(["activity:score"], {"user_id": [10]}).to_dict() == {"score": [0.0]}

    def test_streams_of_the_async_client(self, server: ServedProject) -> None:
        """The asynchronous client streams reads and writes likewise."""
        row = {"user_id": [11], "event_timestamp": [1_704_067_200_000_000], "score": [2.0]}

        async def use() -> None:
            async with AsyncClient(server.target, timeout=20, token="", consumer="") as client:
                assert [written.accepted async for written in client.stream_write("activity", [row, row])] == [1, 0]
                read = client.stream_online_features(["activity:score"], {"user_id": [11] * 5}, rows=2)
                assert [len(rows) async for rows in read] == [2, 2, 1]

        asyncio.run(use())

    def test_training_read(self, server: ServedProject) -> None:
        """A training set comes as Arrow: a row for each of the spine's, in its order, equal to what the store itself reads."""
        hour = 3_600_000_000
        now = pa.scalar(int(time.time() * 1e6), pa.int64())
        times = pa.array([now.as_py() - hour // 2, now.as_py() - 2 * hour, None] * 40_000, pa.timestamp("us"))
        spine = pa.table({"origin": ["JFK", "EWR", "XXX"] * 40_000, "event_timestamp": times, "row": range(120_000)})
        server.fold()
        expected = server.store.get_historical_features(spine, "delay_model")
        with server.client() as client:
            training = client.get_historical_features(spine, "delay_model")
            assert training.to_arrow().equals(expected.to_arrow())
            report = training.report
            assert (report["rows"], report["views"][0]["matched"]) == (120_000, 40_000)
            raw = b"".join(client.get_historical_features(_ipc(spine), ["weather:temp"], knowledge="latest").ipc())
            assert pa.ipc.open_stream(raw).read_all().column_names == [*spine.column_names, "temp"]
            empty = client.get_historical_features(spine.slice(0, 0), "delay_model").to_arrow()
            assert empty.schema == expected.to_arrow().schema

    def test_asynchronous_training_read(self, server: ServedProject) -> None:
        """The asynchronous client gets the same set, whole or batch by batch, and the loop does other things meanwhile."""
        spine = pa.table(
            {"origin": ["JFK", "XXX"] * 60_000, "event_timestamp": [datetime(2024, 1, 1, tzinfo=UTC)] * 120_000}
        )
        server.fold()
        expected = server.store.get_historical_features(spine, "delay_model").to_arrow()

        async def use() -> None:
            async with AsyncClient(server.target, timeout=20.0, token="", consumer="") as client:
                training = client.get_historical_features(spine, "delay_model")
                assert (await training.to_arrow()).equals(expected)
                assert training.report["rows"] == training.rows == 120_000
                training, status = client.get_historical_features(spine, "delay_model", timeout=60), None
                batches = []
                async for batch in training.batches():
                    batches.append(batch)
                    status = status or await client.status()
                assert pa.Table.from_batches(batches).equals(expected)
                assert training.report["views"]
                with pytest.raises(NotFoundError, match="Did you mean 'weather'"):
                    await client.get_historical_features(spine, ["wether:temp"]).to_arrow()
                with pytest.raises(DeadlineExceededError):
                    await client.get_historical_features(spine, "delay_model", timeout=0.001).to_arrow()

        asyncio.run(use())

    def test_training_read_that_cannot_be_answered(self, server: ServedProject) -> None:
        """What is wrong with a training read is said as the store itself says it."""
        spine = {"origin": ["JFK"], "event_timestamp": [datetime(2024, 1, 1, tzinfo=UTC)]}
        server.fold()
        bad: list[tuple[Any, Any, type[Exception], str]] = [
            (
                {"orgin": ["JFK"]} | {"event_timestamp": spine["event_timestamp"]},
                [_WEATHER],
                InvalidArgumentError,
                "Did you mean 'orgin'",
            ),
            (spine, ["wether:temp"], NotFoundError, "Did you mean 'weather'"),
            (spine, ["idle:nothing"], FailedPreconditionError, "never filled"),
            (b"no stream at all", [_WEATHER], InvalidArgumentError, "not an Arrow IPC stream"),
            (_ipc(pa.table(spine))[:-20], [_WEATHER], InvalidArgumentError, "not an Arrow IPC stream"),
        ]
        with server.client() as client:
            for given, features, error, message in bad:
                with pytest.raises(error, match=message):
                    client.get_historical_features(given, features).to_arrow()

    def test_training_reads_are_counted(self, guarded: ServedProject) -> None:
        """A training read counts its rows under the caller's consumer, and a view under `enforce` refuses strangers."""
        token = guarded.token("trainer", "reader")
        guarded.bind("trainer", "stranger@1")
        guarded.fold()
        spine = {"origin": ["JFK"] * 3, "event_timestamp": [datetime(2024, 1, 1, tzinfo=UTC)] * 3}
        with guarded.client(token=token) as client:
            client.get_historical_features(spine, "delay_model").to_arrow()
            with pytest.raises(AccessDeniedError, match="guarded@v1:secret"):
                client.get_historical_features(spine, ["guarded:secret"]).to_arrow()
        counted = guarded.usage_of("stranger@1")
        assert ("weather@v1:temp", "offline", "ok", 3) in counted
        assert ("guarded@v1:secret", "offline", "refused", 0) in counted

    def test_stream_needs_permission(self, guarded: ServedProject) -> None:
        """A stream is refused before anything of it is looked at, like a call."""
        with guarded.client() as client, pytest.raises(UnauthenticatedError):
            next(client._stream("StreamWrite", iter(())))  # noqa: SLF001  # what a stranger's client would send
        reader = guarded.token("only_reader", "reader")
        with guarded.client(token=reader) as client, pytest.raises(AccessDeniedError, match="writer"):
            next(client._stream("StreamWrite", iter(())))  # noqa: SLF001  # likewise

    @needs("streams")
    def test_unread_stream_does_not_disturb_others(self, server: ServedProject) -> None:
        """A stream whose answers nobody reads holds back itself alone: other calls on its connection are answered."""
        schema = pb.Schema.FromString(
            server.call("GetSchema", pb.SchemaRequest(features=["weather:note"]).SerializeToString()).body
        )
        body = pb.ReadRequest(
            plan=schema.fingerprint, columns=[pb.Column(name="origin", strings=[b"EWR"] * MAX_KEYS)]
        ).SerializeToString()
        sent = itertools.count()
        stub: Any = server.channel.stream_stream(f"/{SERVICE}/StreamOnlineFeatures")
        unread = stub(iter(lambda: (next(sent), body)[1], None), timeout=60)
        next(unread)
        for _ in range(50):
            assert server.call("GetStatus").code == "OK"
        held = next(sent)
        assert server.call("GetStatus").code == "OK"
        unread.cancel()
        assert held < 20_000  # it stopped somewhere: nothing is made ahead without end

    # --- requests that cannot be answered ------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("features", "nearest"),
        [
            ("delay_modle", "delay_model"),
            (["wether:temp"], "weather"),
            (["weather@v2:temp"], "weather@v1"),
            (["weather:tmep"], "weather@v1:temp"),
        ],
        ids=["service", "view", "version", "feature"],
    )
    def test_unknown_name(self, server: ServedProject, features: str | list[str], nearest: str) -> None:
        """An unknown name is NOT_FOUND and says the nearest one, in the message and as a fact."""
        with server.client() as client, pytest.raises(NotFoundError) as caught:
            client.get_online_features(features, {"origin": ["JFK"]})
        assert f"Did you mean '{nearest}'?" in str(caught.value)
        assert caught.value.nearest == nearest

    def test_unknown_view_to_write(self, server: ServedProject) -> None:
        """Writing to an unknown view is NOT_FOUND as well."""
        body = pb.WriteRequest(view="wether").SerializeToString()
        answer = server.call("Write", body)
        assert (answer.code, answer.trailers["fs-nearest"]) == ("NOT_FOUND", "weather")

    @pytest.mark.parametrize(
        ("columns", "place"),
        [
            ([pb.Column(name="user_id", doubles=[1001.7])], "$.keys.user_id[0]"),
            ([pb.Column(name="user_id", strings=[b"1001"])], "$.keys.user_id[0]"),
            ([pb.Column(name="user", integers=[1001])], "$.keys.user_id"),
            ([pb.Column(name="user_id", integers=[1001, 0], nulls=[1])], "$.keys.user_id[1]"),
        ],
        ids=["1001.7 for int64", "text for int64", "missing", "null"],
    )
    def test_bad_keys(self, server: ServedProject, columns: list[pb.Column], place: str) -> None:
        """A key of another type, a missing and a null one are INVALID_ARGUMENT, with the place."""
        answer = server.call("GetOnlineFeatures", _request(server, ["activity:score"], columns))
        assert (answer.code, answer.trailers["fs-place"]) == ("INVALID_ARGUMENT", place)
        assert f"`{place}`" in answer.message

    def test_ragged_keys(self, server: ServedProject) -> None:
        """Columns of different lengths are INVALID_ARGUMENT."""
        columns = [pb.Column(name="origin", strings=[b"JFK", b"LGA"]), pb.Column(name="dest", strings=[b"LAX"])]
        answer = server.call("GetOnlineFeatures", _request(server, ["traffic:delays"], columns))
        assert answer.code == "INVALID_ARGUMENT"
        assert "origin has 2, dest has 1" in answer.message

    def test_bad_rows(self, server: ServedProject) -> None:
        """A column of a write that is missing, unknown, of another type, or null where it must not be, is refused."""
        row = {"user_id": [1], "event_timestamp": [1], "score": [1.0]}
        bad: list[tuple[dict[str, Any], str]] = [
            ({"user_id": [1.5]}, r"\$\.columns\.user_id\[0\]"),
            ({"event_timestamp": [None]}, "null event time"),
            ({"scores": [1.0]}, r"Did you mean 'score'\?"),
            ({"score": [1.0, 2.0]}, r"\$\.columns\.score"),
        ]
        with server.client() as client:
            for change, message in bad:
                with pytest.raises(InvalidArgumentError, match=message):
                    client.write("activity", {**row, **change})

    @pytest.mark.parametrize("method", ["GetSchema", "GetOnlineFeatures", "GetWriteSchema", "Write", "AdvanceClock"])
    def test_malformed_bytes(self, server: ServedProject, method: str) -> None:
        """Bytes that are no message are INVALID_ARGUMENT, not a failure of the server."""
        answer = server.call(method, b"\xff\xff\xff\xff")
        assert (answer.code, answer.trailers["fs-error"]) == ("INVALID_ARGUMENT", "InvalidArgumentError")

    def test_too_large(self, server: ServedProject) -> None:
        """A request over the limit is refused with the limit, and one far over it is refused too."""
        answer = server.call("GetOnlineFeatures", b"\x00" * (MAX_REQUEST_BYTES + 1))
        assert answer.code == "RESOURCE_EXHAUSTED"
        assert str(MAX_REQUEST_BYTES) in answer.message
        assert server.call("GetOnlineFeatures", b"\x00" * (4 * MAX_REQUEST_BYTES)).code == "RESOURCE_EXHAUSTED"
        assert server.call("GetStatus").code == "OK"

    def test_too_many_keys(self, server: ServedProject) -> None:
        """A read of more keys than allowed says how many are."""
        with server.client() as client:
            assert len(client.get_online_features([_WEATHER], {"origin": ["JFK"] * MAX_KEYS})) == MAX_KEYS
            with pytest.raises(ResourceExhaustedError, match="at most 1000"):
                client.get_online_features([_WEATHER], {"origin": ["JFK"] * (MAX_KEYS + 1)})

    def test_view_that_was_never_filled(self, server: ServedProject) -> None:
        """Reading it is FAILED_PRECONDITION and names the command, never nulls."""
        with server.client() as client, pytest.raises(FailedPreconditionError, match="featurestore write idle@v1"):
            client.get_online_features(["idle:nothing"], {"origin": ["JFK"]})

    def test_unknown_plan(self, server: ServedProject) -> None:
        """A plan the server does not know is FAILED_PRECONDITION, marked so that clients fetch its schema again."""
        answer = server.call("GetOnlineFeatures", pb.ReadRequest(plan=b"x" * 16).SerializeToString())
        assert (answer.code, answer.trailers["fs-error"]) == ("FAILED_PRECONDITION", "StaleSchemaError")

    def test_client_refreshes_a_stale_schema_by_itself(self, server: ServedProject) -> None:
        """A server that forgot the plan, as a restarted one has, costs the caller nothing."""
        with server.client() as client:
            client.get_online_features([_WEATHER], {"origin": ["JFK"]})
            server.handlers.state.reads.clear()
            server.handlers.state.asked.clear()
            assert client.get_online_features([_WEATHER], {"origin": ["JFK"]}).to_dict() == {"temp": [40.5]}

    def test_internal_error(self, server: ServedProject) -> None:
        """What nobody foresaw is INTERNAL with an id; what it was stays in the log, and is counted."""
        before = server.handlers.guard.unforeseen
        answer = server.call("Fail", b"password", service=ECHO)
        assert answer.code == "INTERNAL"
        assert "password" not in answer.message
        assert server.handlers.guard.unforeseen == before + 1

    def test_unknown_method(self, server: ServedProject) -> None:
        """A method or service that is not there is UNIMPLEMENTED."""
        assert server.call("GetEverything").code == "UNIMPLEMENTED"
        assert server.call("GetSchema", service="featurestore.v2.FeatureStore").code == "UNIMPLEMENTED"

    # --- identity ------------------------------------------------------------------------------------------------

    def test_tokens(self, guarded: ServedProject) -> None:
        """Without a token, with an unknown, expired or revoked one the call is UNAUTHENTICATED."""
        live = guarded.token("live", "reader")
        assert _read_code(guarded, live) == "OK"
        guarded.store.registry.revoke_token("live", now=1)
        guarded.refresh()
        for secret in ("", "nonsense", live, guarded.token("late", "reader", expires_at=1)):
            assert _read_code(guarded, secret) == "UNAUTHENTICATED"

    def test_roles(self, guarded: ServedProject) -> None:
        """A role that lacks the method is PERMISSION_DENIED; admin has them all."""
        reader, writer, admin = (guarded.token(f"a-{role}", role) for role in ("reader", "writer", "admin"))
        row = {"user_id": [1], "event_timestamp": [1], "score": [1.0]}
        with guarded.client(token=reader) as client, pytest.raises(AccessDeniedError, match="role writer"):
            client.write("activity", row)
        with guarded.client(token=writer) as client, pytest.raises(AccessDeniedError, match="role reader"):
            client.get_online_features([_WEATHER], {"origin": ["JFK"]})
        with guarded.client(token=writer) as client, pytest.raises(AccessDeniedError, match="role admin"):
            client.advance_clock(1)
        with guarded.client(token=admin) as client:
            assert client.write("activity", row).accepted + client.write("activity", row).repeated == 2
            assert len(client.get_online_features([_WEATHER], {"origin": ["JFK"]})) == 1

    def test_consumer_must_be_bound(self, guarded: ServedProject) -> None:
        """A consumer is accepted from a principal bound to it, by name or by model; an unknown one says the nearest."""
        token = guarded.token("svc", "reader")
        guarded.bind("svc", "trusted@*")
        assert _read_as(guarded, token, "trusted@1") == 1
        with pytest.raises(AccessDeniedError, match=r"featurestore token bind svc stranger@1"):
            _read_as(guarded, token, "stranger@1")
        with pytest.raises(NotFoundError, match=r"Did you mean 'stranger@1'"):
            _read_as(guarded, token, "strangr@1")

    def test_access_modes(self, guarded: ServedProject) -> None:
        """An undeclared read of a view under `warn` is answered with a warning, under `enforce` refused with the repair."""
        token = guarded.token("undeclared", "reader")
        with guarded.client(token=token) as client:
            with pytest.warns(UserWarning, match="watched@v1:seen"):
                assert client.get_online_features(["watched:seen"], {"origin": ["JFK"]}).to_dict() == {"seen": [True]}
            with pytest.raises(AccessDeniedError, match="guarded@v1:secret"):
                client.get_online_features([_WEATHER, "guarded:secret"], {"origin": ["JFK"]})
        declared = guarded.token("declared", "reader")
        guarded.bind("declared", "trusted@1")
        with guarded.client(token=declared) as client:
            assert client.get_online_features(["guarded:secret"], {"origin": ["JFK"]}).to_dict() == {"secret": [1.5]}

    def test_client_without_token_gets_the_error_class(self, guarded: ServedProject) -> None:
        """The client raises the class that the server raised, with its repair."""
        with guarded.client() as client, pytest.raises(UnauthenticatedError) as caught:
            client.status()
        assert "featurestore token create" in (caught.value.repair or "")

    # --- what a transport carries --------------------------------------------------------------------------------

    @pytest.mark.parametrize("method", ["Echo", "EchoLater"])
    @pytest.mark.parametrize("size", [1, 16_384, 3_000_000])
    def test_bytes_pass_unchanged(self, server: ServedProject, method: str, size: int) -> None:
        """Requests and answers of any size within the limits arrive as they were sent, from handlers of both kinds."""
        body = bytes(range(256)) * (size // 256 + 1)
        answer = server.call(method, body, service=ECHO)
        assert answer.body == body
        assert answer.trailers["fs-body-size"] == str(len(body))

    def test_an_empty_answer(self, server: ServedProject) -> None:
        """An empty request is a request, and an empty error message is one."""
        assert server.call("Sleep", b"0", service=ECHO).code == "OK"

    def test_metadata_peer_and_deadline_reach_the_handler(self, server: ServedProject) -> None:
        """Handlers see metadata by lower-case name, the caller's host, and how long the caller waits."""
        answer = server.call("Echo", service=ECHO, metadata={"featurestore-consumer": "delay_model@3"})
        facts = json.loads(answer.body)
        assert facts["metadata"]["featurestore-consumer"] == "delay_model@3"
        assert facts["metadata"]["user-agent"].startswith("grpc-python/")
        assert facts["peer"] == "127.0.0.1"
        assert 0 < facts["remaining"] < 21  # a transport may round up

    def test_error_text_of_any_alphabet(self, server: ServedProject) -> None:
        """A message and its facts survive with characters that headers cannot carry."""
        with server.client() as client, pytest.raises(NotFoundError, match="Wetter_für_%_\N{SNOWFLAKE}"):
            client.get_online_features("Wetter_für_%_\N{SNOWFLAKE}", {})

    def test_compressed_request(self, server: ServedProject) -> None:
        """A request compressed by gzip is read like any other."""
        stub: Any = server.channel.unary_unary(f"/{ECHO}/Echo")
        assert stub(b"a" * 100_000, compression=grpc.Compression.Gzip, timeout=20) == b"a" * 100_000

    # --- time and isolation --------------------------------------------------------------------------------------

    def test_deadline(self, server: ServedProject) -> None:
        """A call that takes too long is DEADLINE_EXCEEDED, and the connection stays in use."""
        assert server.call("Sleep", b"30", service=ECHO, timeout=0.2).code == "DEADLINE_EXCEEDED"
        assert server.call("GetStatus").code == "OK"

    def test_cancelled_calls_do_not_disturb_others(self, server: ServedProject) -> None:
        """Hundreds of cancelled calls on a connection leave the calls beside them alone."""
        sleep: Any = server.channel.unary_unary(f"/{ECHO}/Sleep")
        bystander = sleep.future(b"1", timeout=20)
        for _ in range(400):
            sleep.future(b"30", timeout=20).cancel()
        assert server.call("GetStatus").code == "OK"
        assert float(bystander.result()) > 0

    def test_missed_deadlines_do_not_disturb_others(self, server: ServedProject) -> None:
        """Hundreds of deadlines missed on a connection leave the calls beside them alone."""
        sleep: Any = server.channel.unary_unary(f"/{ECHO}/Sleep")
        bystander = sleep.future(b"1.5", timeout=20)
        late = [sleep.future(b"30", timeout=0.05) for _ in range(300)]
        assert {call.code() for call in late} == {grpc.StatusCode.DEADLINE_EXCEEDED}
        assert float(bystander.result()) > 0

    def test_many_calls_at_once(self, server: ServedProject) -> None:
        """More calls at once than a connection has streams are all answered, each with its own answer."""
        stub: Any = server.channel.unary_unary(f"/{ECHO}/EchoLater")
        calls = [(str(i).encode(), stub.future(str(i).encode(), timeout=20)) for i in range(1, 400)]
        assert all(call.result() == body for body, call in calls)

    def test_reads_while_the_registry_changes(self, server: ServedProject) -> None:
        """Reads go on while another state takes the place of the one they began with."""
        done = threading.Event()

        def read() -> int:
            count = 0
            with server.client() as client:
                while not done.is_set() or not count:
                    assert client.get_online_features([_WEATHER], {"origin": ["JFK"]}).to_dict() == {"temp": [40.5]}
                    count += 1
            return count

        with ThreadPoolExecutor(2) as pool:
            readers = [pool.submit(read) for _ in range(2)]
            for number in range(5):
                server.store.registry.bind("somebody", f"model@{number}", now=1)
                server.refresh()
            done.set()
            assert all(reader.result(timeout=60) for reader in readers)

    # --- health, reflection, end ---------------------------------------------------------------------------------

    @pytest.mark.parametrize("service", ["", SERVICE])
    def test_health(self, server: ServedProject, service: str) -> None:
        """Check answers SERVING for the server and for the service, Watch begins with it; no token is needed."""
        stub: Any = health_pb2_grpc.HealthStub(server.channel)
        request = health_pb2.HealthCheckRequest(service=service)
        assert stub.Check(request, timeout=20).status == health_pb2.HealthCheckResponse.SERVING
        watch = stub.Watch(request, timeout=20)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()

    def test_health_of_an_unknown_service(self, server: ServedProject) -> None:
        """Check of a service that is not there is NOT_FOUND."""
        stub: Any = health_pb2_grpc.HealthStub(server.channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="other"), timeout=20)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    @needs("reflection")
    def test_reflection(self, server: ServedProject) -> None:
        """Reflection lists the service and gives its description."""
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(server.channel)
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
        ]
        listed, described = stub.ServerReflectionInfo(iter(asked), timeout=20)
        assert SERVICE in {service.name for service in listed.list_services_response.service}
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(file)
            for file in described.file_descriptor_response.file_descriptor_proto
        ]
        methods = {m.name for file in files for service in file.service for m in service.method}
        assert "GetOnlineFeatures" in methods

    def test_drain(self, transport: type[Transport], tmp_path_factory: pytest.TempPathFactory) -> None:
        """Draining lets a call in flight finish, says NOT_SERVING to those who watch, and takes no new connections."""
        with ServedProject(tmp_path_factory.mktemp("drain"), transport) as served:
            stub: Any = health_pb2_grpc.HealthStub(served.channel)
            watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=20)
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            sleep: Any = served.channel.unary_unary(f"/{ECHO}/Sleep")
            flying = sleep.future(b"1", timeout=20)
            served.call("GetStatus")  # by now the call before it is at the server
            drained = threading.Thread(target=served.drain, args=(10.0,))
            drained.start()
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watch.cancel()
            assert float(flying.result()) > 0
            drained.join()
            with served.client(timeout=1.0) as late, pytest.raises(UnavailableError):
                late.status()


def _ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _request(server: ServedProject, features: list[str], columns: list[pb.Column]) -> bytes:
    schema = pb.Schema.FromString(
        server.call("GetSchema", pb.SchemaRequest(features=features).SerializeToString()).body
    )
    return pb.ReadRequest(plan=schema.fingerprint, columns=columns).SerializeToString()


def _read_code(server: ServedProject, token: str) -> str:
    body = pb.SchemaRequest(features=[_WEATHER]).SerializeToString()
    return server.call("GetSchema", body, metadata={"authorization": f"Bearer {token}"} if token else {}).code


def _read_as(server: ServedProject, token: str, consumer: str) -> int:
    with server.client(token=token, consumer=consumer) as client:
        return len(client.get_online_features([_WEATHER], {"origin": ["JFK"]}))


def _statuses(client: Any, origin: str) -> str:
    status: str = client.get_online_features([_WEATHER], {"origin": [origin]}).status["temp"][0]
    return status
