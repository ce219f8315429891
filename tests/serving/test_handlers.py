"""A worker answers from one state of the registry, counts every read, and takes up changes without losing a plan."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from featurestore.audit import collect
from featurestore.definitions import Feature
from featurestore.errors import AccessDeniedError, FailedPreconditionError
from featurestore.online.reader import OnlineReader
from featurestore.serving.call import Call, monotonic_micros
from featurestore.serving.grpc_aio import GrpcAioTransport
from featurestore.serving.handlers import MAX_PLANS
from featurestore.testing.served import ServedProject, definitions
from featurestore.v1 import serving_pb2 as pb

SCHEMA = "/featurestore.v1.FeatureStore/GetSchema"
READ = "/featurestore.v1.FeatureStore/GetOnlineFeatures"


@pytest.fixture
def served(tmp_path) -> Iterator[ServedProject]:
    with ServedProject(tmp_path, GrpcAioTransport, auth="required") as project:
        project.fill()
        yield project


def usage(served):
    """Return (principal, consumer, binding, feature, outcome, calls, rows) of everything read so far."""
    served.usage.rotate()
    path = served.store.registry.sqlite_path()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        collect(served.settings.store_dir / "usage", connection)
        columns = "principal, consumer, binding, view || '@v' || version || ':' || feature, outcome, calls, entity_rows"
        return set(connection.execute(f"SELECT {columns} FROM usage_daily"))


def test_every_read_is_counted_per_feature_version_and_refused_ones_as_refused(served):
    token = served.token("svc", "reader")
    served.bind("svc", "stranger@1")
    with served.client(token=token) as client:
        client.get_online_features(["weather:temp", "activity:score"], {"origin": ["JFK"] * 3, "user_id": [1] * 3})
        client.get_online_features(["heat:feels"], {"origin": ["JFK"]}, {"bump": [1.0]})
        with pytest.raises(AccessDeniedError):
            client.get_online_features(["guarded:secret"], {"origin": ["JFK"]})
    with served.client(token=token, consumer="trusted@1") as client, pytest.raises(AccessDeniedError):
        client.get_online_features(["weather:humid"], {"origin": ["JFK"]})
    who = ("svc", "stranger@1", "bound")
    assert usage(served) == {
        (*who, "weather@v1:temp", "ok", 2, 4),
        (*who, "activity@v1:score", "ok", 1, 3),
        (*who, "heat@v1:feels", "ok", 1, 1),
        (*who, "guarded@v1:secret", "refused", 1, 0),
        (*who, "weather@v1:humid", "refused", 1, 0),
    }


def test_requests_that_are_wrong_are_not_reads(served):
    token = served.token("svc", "reader")
    with served.client(token=token) as client:
        client.get_online_features(["weather:temp"], {"origin": ["JFK"]})
    schema = served.handlers.get_schema(
        call(SCHEMA, token), pb.SchemaRequest(features=["weather:temp"]).SerializeToString()
    )
    bad = pb.ReadRequest(plan=pb.Schema.FromString(schema.body).fingerprint)
    assert served.handlers.methods()[READ](call(READ, token), bad.SerializeToString()).code == "INVALID_ARGUMENT"
    assert {calls for *_, calls, _ in usage(served)} == {1}


def test_a_change_keeps_plans_that_mean_the_same_and_forgets_the_others(served):
    token = served.token("svc", "reader")
    handlers = served.handlers
    with served.client(token=token) as client:
        client.get_online_features(["weather:temp"], {"origin": ["JFK"]})
        client.get_online_features(["activity:score"], {"user_id": [1001]})
        kept, lost = handlers.state.reads
        before = handlers.state
        served.store.apply([_with_another_score(definition) for definition in definitions()])
        served.store.promote("activity@v2", force="its readers shall be told")
        served.refresh()
        assert before.reads.keys() == {kept, lost}
        assert handlers.state.reads.keys() == {kept}
        with pytest.raises(FailedPreconditionError, match="activity@v2 was never filled"):
            client.get_online_features(["activity:score"], {"user_id": [1001]})
        assert client.get_online_features(["weather:temp"], {"origin": ["JFK"]}).to_dict() == {"temp": [40.5]}


def test_known_plans_are_answered_while_a_change_is_taken_up(served, monkeypatch):
    token = served.token("svc", "reader")
    with served.client(token=token) as client:
        client.get_online_features(["weather:temp"], {"origin": ["JFK"]})
    known, seen = set(served.handlers.state.reads), []
    prepare = OnlineReader.prepare

    def looking(reader, plan):
        seen.append(set(served.handlers.state.reads))
        return prepare(reader, plan)

    monkeypatch.setattr(OnlineReader, "prepare", looking)
    served.store.apply([_with_another_score(definition) for definition in definitions()])
    served.refresh()
    assert seen == [known]


def test_nothing_changes_when_nothing_was_committed(served):
    before = served.handlers.state
    assert served.handlers.refresh() is False
    assert served.handlers.state is before


def test_expired_work_is_not_started(served):
    token = served.token("svc", "reader")
    late = Call(SCHEMA, {"authorization": f"Bearer {token}"}, deadline=monotonic_micros() - 1)
    assert served.handlers.methods()[SCHEMA](late, b"").code == "DEADLINE_EXCEEDED"


def test_identity_is_checked_before_anything_is_parsed(served):
    """Bytes of nobody are not looked at."""
    assert served.handlers.methods()[READ](Call(READ), b"\xff\xff").code == "UNAUTHENTICATED"


def test_plans_that_are_kept_are_bounded(served, monkeypatch):
    monkeypatch.setattr("featurestore.serving.handlers.MAX_PLANS", 2)
    assert MAX_PLANS > 2
    token = served.token("svc", "reader")
    for features in (["weather:temp"], ["weather:humid"], ["weather:note"], ["weather:temp", "weather:note"]):
        request = pb.SchemaRequest(features=features).SerializeToString()
        assert served.handlers.methods()[SCHEMA](call(SCHEMA, token), request).code == "OK"
    assert len(served.handlers.state.reads) == len(served.handlers.state.asked) == 2


def test_both_a_service_and_features_are_too_much(served):
    token = served.token("svc", "reader")
    request = pb.SchemaRequest(service="delay_model", features=["weather:temp"]).SerializeToString()
    assert served.handlers.methods()[SCHEMA](call(SCHEMA, token), request).code == "INVALID_ARGUMENT"


def _with_another_score(definition):
    if definition.name != "activity":
        return definition
    return replace(definition, features=[Feature("score", "int64")])


def call(method, token):
    return Call(method, {"authorization": f"Bearer {token}"})
