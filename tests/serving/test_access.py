"""Deny by default: every RPC and route declares its permission, and a call without the right identity gets nowhere."""

import time

import pytest

from featurestore.errors import AccessDeniedError, NotFoundError, UnauthenticatedError
from featurestore.planning import plan_read
from featurestore.registry.credentials import Credentials, Token, digest
from featurestore.registry.plan import plan_changes
from featurestore.registry.snapshot import Document, RegistrySnapshot
from featurestore.serving.access import METHODS, PUBLIC, ROUTES, RPCS, SERVICE, Gate
from featurestore.serving.authentication import Authenticator
from featurestore.serving.call import Call
from featurestore.testing.served import definitions
from featurestore.v1 import serving_pb2

READ, WRITE, CLOCK = (f"/{SERVICE}/{name}" for name in ("GetOnlineFeatures", "Write", "AdvanceClock"))
FOREVER = Token("t", "svc", frozenset({"reader"}), created_at=0)


@pytest.fixture(scope="module")
def snapshot():
    empty = RegistrySnapshot(Document(project="suite"))
    plan = plan_changes(empty, definitions(), check_source=lambda *_: None, is_filled=lambda _: False)
    return RegistrySnapshot(plan.document)


def gate(snapshot, *, bindings=(), token=FOREVER):
    credentials = Credentials({digest("secret"): token}, {"svc": tuple(bindings)})
    return Gate(Authenticator(credentials, local=False), snapshot, environment="dev")


def call(method=READ, *, secret="secret", consumer=""):
    return Call(method, {"authorization": f"Bearer {secret}", "featurestore-consumer": consumer})


def test_every_rpc_declares_its_permission():
    """An RPC that is added to the contract without a permission fails here."""
    service = serving_pb2.DESCRIPTOR.services_by_name["FeatureStore"]
    assert {f"/{service.full_name}/{method.name}" for method in service.methods} == set(RPCS)
    assert set(ROUTES.values()) == {method.name for method in service.methods if not method.client_streaming}


def test_public_methods_are_health_reflection_and_the_description_alone():
    assert {m for m, permission in METHODS.items() if permission == "public"} == set(PUBLIC)
    assert all(m.startswith(("/grpc.health.", "/grpc.reflection.", "GET /")) for m in PUBLIC)


def test_a_method_without_permission_is_refused_to_everybody(snapshot):
    with pytest.raises(AccessDeniedError, match="declares no permission"):
        Gate(Authenticator(Credentials(), local=True), snapshot, environment="dev").admit(Call(f"/{SERVICE}/New"))


@pytest.mark.parametrize("method", [m for m in METHODS if METHODS[m] != "public"])
def test_no_method_answers_without_a_token(snapshot, method):
    with pytest.raises(UnauthenticatedError):
        gate(snapshot).admit(Call(method))


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic secret", "secret", "Bearer other"])
def test_malformed_and_unknown_tokens_are_refused(snapshot, header):
    with pytest.raises(UnauthenticatedError):
        gate(snapshot).admit(Call(READ, {"authorization": header}))


@pytest.mark.parametrize("change", [{"expires_at": 1}, {"revoked_at": 1}])
def test_tokens_that_ended_are_refused(snapshot, change):
    ended = Token("t", "svc", frozenset({"reader"}), created_at=0, **change)
    with pytest.raises(UnauthenticatedError, match=r"expired|revoked"):
        gate(snapshot, token=ended).admit(call())


def test_a_token_that_ends_while_the_server_runs_is_refused_from_then_on(snapshot, monkeypatch):
    now = time.time_ns() // 1000
    ends = gate(snapshot, token=Token("t", "svc", frozenset({"reader"}), created_at=0, expires_at=now + 10**9))
    assert ends.admit(call()).principal.name == "svc"
    monkeypatch.setattr(time, "time_ns", lambda: (now + 10**9) * 1000)
    with pytest.raises(UnauthenticatedError, match="expired"):
        ends.admit(call())


@pytest.mark.parametrize(
    ("role", "allowed"), [("reader", {READ}), ("writer", {WRITE}), ("admin", {READ, WRITE, CLOCK})]
)
def test_roles(snapshot, role, allowed):
    has_role = gate(snapshot, token=Token("t", "svc", frozenset({role}), created_at=0))
    for method in (READ, WRITE, CLOCK):
        if method in allowed:
            assert has_role.admit(call(method)).principal.name == "svc"
        else:
            with pytest.raises(AccessDeniedError):
                has_role.admit(call(method))


@pytest.mark.parametrize(
    ("bindings", "named", "consumer", "binding"),
    [
        (["trusted@1"], "trusted@1", "trusted@1", "bound"),
        (["trusted@*"], "trusted@1", "trusted@1", "bound"),
        (["trusted@1"], "", "trusted@1", "bound"),
        (["trusted@1", "stranger@1"], "", "", "ambiguous"),
        (["trusted@*"], "", "", "ambiguous"),
        ([], "", "", "undeclared"),
    ],
)
def test_the_consumer_that_is_recorded(snapshot, bindings, named, consumer, binding):
    caller = gate(snapshot, bindings=bindings).admit(call(consumer=named))
    assert (caller.identity.consumer, caller.identity.binding, caller.refusal) == (consumer, binding, None)


def test_a_consumer_that_is_not_bound_is_refused_and_recorded_without_it(snapshot):
    caller = gate(snapshot, bindings=["trusted@1"]).admit(call(consumer="stranger@1"))
    assert isinstance(caller.refusal, AccessDeniedError)
    assert "featurestore token bind svc stranger@1" in str(caller.refusal)
    assert caller.identity.consumer != "stranger@1"
    assert isinstance(gate(snapshot).admit(call(consumer="stranger@2")).refusal, NotFoundError)


def test_local_mode_is_the_os_user_who_may_name_any_consumer(snapshot):
    caller = Gate(Authenticator(Credentials(), local=True), snapshot, environment="dev").admit(
        Call(CLOCK, {"featurestore-consumer": "notebook"})
    )
    assert caller.principal.name.startswith("local:")
    assert (caller.identity.consumer, caller.identity.binding) == ("notebook", "local")


def test_another_version_than_the_declared_one_is_undeclared_and_an_expired_manifest_declares_nothing(snapshot):
    trusted = gate(snapshot, bindings=["trusted@1"])
    plan = plan_read(snapshot, ["guarded@v1:secret"])
    assert trusted.decide(trusted.admit(call()), plan).refusal is None
    stranger = gate(snapshot, bindings=["stranger@1"])
    refusal = stranger.decide(stranger.admit(call()), plan).refusal
    assert "guarded@v1:secret" in str(refusal)
    assert "featurestore apply" in str(refusal)


def test_what_is_kept_of_callers_is_bounded(snapshot, monkeypatch):
    monkeypatch.setattr("featurestore.serving.access._MAX_CALLERS", 10)
    bounded = gate(snapshot, bindings=["trusted@*"])
    for number in range(50):
        bounded.admit(call(consumer=f"trusted@{number}"))
    assert len(bounded._callers) == 10
