"""Who reads, what it may say it runs, and what happens to a read that nobody declared."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.definitions import Entity, Feature, FeatureService, FeatureView, Job, Model, PushSource
from featurestore.errors import AccessDeniedError
from featurestore.identity import Identity, Principal, check_declared, identify, undeclared_refs
from featurestore.planning import plan_read
from featurestore.registry.credentials import Credentials
from featurestore.registry.plan import plan_changes
from featurestore.registry.snapshot import Document, RegistrySnapshot
from featurestore.types import from_micros

READER = frozenset({"reader"})
EXPIRY = 1_000_000


def credentials(*consumers):
    return Credentials(bindings={"svc": consumers} if consumers else {})


@pytest.mark.parametrize(
    ("bound_to", "named", "consumer", "binding"),
    [
        (("delay@3",), "delay@3", "delay@3", "bound"),
        (("delay@3",), "", "delay@3", "bound"),
        (("delay@*",), "delay@7", "delay@7", "bound"),
        (("delay@*",), "", "", "ambiguous"),
        (("delay@3", "nightly"), "", "", "ambiguous"),
        (("delay@3", "nightly"), "nightly", "nightly", "bound"),
        ((), "", "", "undeclared"),
    ],
)
def test_a_consumer_is_established_from_bindings_and_the_name_given(bound_to, named, consumer, binding):
    found = identify(Principal("svc", READER), named, credentials(*bound_to))
    assert found == Identity("svc", consumer, binding)


@pytest.mark.parametrize("bound_to", [(), ("delay@3",), ("delayed@*",), ("del@*",), ("delay@33",), ("delay",)])
def test_a_consumer_that_is_not_bound_is_refused_with_the_command(bound_to):
    with pytest.raises(AccessDeniedError, match="token bind svc delay@4"):
        identify(Principal("svc", READER), "delay@4", credentials(*bound_to))


def test_bindings_of_another_principal_do_not_count():
    with pytest.raises(AccessDeniedError):
        identify(Principal("other", READER), "delay@3", credentials("delay@3"))
    assert identify(Principal("other", READER), "", credentials("delay@3")).binding == "undeclared"


def test_the_local_user_may_name_any_consumer():
    local = Principal("local:ann", READER, local=True)
    assert identify(local, "delay@3", credentials()) == Identity("local:ann", "delay@3", "local")
    assert identify(local, "", credentials()) == Identity("local:ann", "", "undeclared")


def test_nobody_is_anonymous_and_may_name_nobody():
    nobody = Principal("", frozenset())
    assert identify(nobody, "", credentials()).binding == "anonymous"
    with pytest.raises(AccessDeniedError):
        identify(nobody, "delay@3", credentials("delay@3"))


@given(st.text("ab@*1", max_size=6), st.lists(st.text("ab@*1", min_size=1, max_size=6), max_size=3))
def test_a_remote_principal_never_runs_what_no_binding_names(named, bound_to):
    try:
        found = identify(Principal("svc", READER), named, credentials(*bound_to))
    except AccessDeniedError:
        return
    models = {binding[:-2] for binding in bound_to if binding.endswith("@*")}
    assert found.consumer == "" or found.consumer in bound_to or found.consumer.partition("@")[0] in models


@pytest.mark.parametrize(
    ("roles", "may"),
    [((), set()), (("reader",), {"reader"}), (("writer",), {"writer"}), (("admin",), {"reader", "writer", "admin"})],
)
def test_a_principal_may_do_what_its_roles_say(roles, may):
    principal = Principal("svc", frozenset(roles))
    assert {role for role in ("reader", "writer", "admin") if principal.may(role)} == may


def registered(access):
    origin = Entity("origin", {"origin": "string"})
    weather = FeatureView(
        "weather", origin, PushSource("w"), [Feature("temp", "float64"), Feature("humid", "float64")], access=access
    )
    free = FeatureView("free", origin, PushSource("f"), [Feature("gust", "float64")])
    definitions = [
        weather,
        free,
        FeatureService("s", [weather]),
        Model("declared", ["s"]),
        Model("partly", ["weather:temp"]),
        Job("expired", ["s"], expires_at=from_micros(EXPIRY)),
        Job("in_prod", ["s"], environment="prod"),
    ]
    empty = RegistrySnapshot(Document(project="p"))
    plan = plan_changes(empty, definitions, check_source=lambda name, record: None, is_filled=lambda ref: True)
    return RegistrySnapshot(msgspec.structs.replace(plan.document, revision=1))


def who(consumer):
    return Identity("svc", consumer, "bound" if consumer else "undeclared")


FEATURES = ["weather:temp", "weather:humid", "free:gust"]


@pytest.mark.parametrize(
    ("consumer", "undeclared"),
    [
        ("declared@1", ("free@v1:gust",)),
        ("partly@1", ("weather@v1:humid", "free@v1:gust")),
        ("declared@2", ("weather@v1:temp", "weather@v1:humid", "free@v1:gust")),
        ("", ("weather@v1:temp", "weather@v1:humid", "free@v1:gust")),
    ],
)
def test_what_a_manifest_does_not_name_is_undeclared(consumer, undeclared):
    snapshot = registered("observe")
    assert (
        undeclared_refs(snapshot, plan_read(snapshot, FEATURES), who(consumer), environment="dev", now=0) == undeclared
    )


def test_an_expired_manifest_declares_nothing():
    snapshot = registered("observe")
    plan = plan_read(snapshot, ["weather:temp"])
    assert undeclared_refs(snapshot, plan, who("expired"), environment="dev", now=EXPIRY - 1) == ()
    assert undeclared_refs(snapshot, plan, who("expired"), environment="dev", now=EXPIRY) == ("weather@v1:temp",)


def test_a_manifest_for_another_environment_declares_nothing_here():
    snapshot = registered("enforce")
    plan = plan_read(snapshot, ["weather:temp"])
    assert check_declared(snapshot, plan, who("in_prod"), environment="prod", now=0) == ()
    with pytest.raises(AccessDeniedError, match=r"weather@v1:temp in 'dev'.*is for 'prod': widen its environment"):
        check_declared(snapshot, plan, who("in_prod"), environment="dev", now=0)


def test_observe_only_counts():
    snapshot = registered("observe")
    assert check_declared(snapshot, plan_read(snapshot, FEATURES), who(""), environment="dev", now=0) == ()


def test_warn_tells_the_caller_which_references():
    snapshot = registered("warn")
    warnings = check_declared(snapshot, plan_read(snapshot, FEATURES), who("partly@1"), environment="dev", now=0)
    assert warnings == ("weather@v1:humid is read undeclared",)


def test_enforce_refuses_the_whole_read_and_says_how_to_declare_it():
    snapshot = registered("enforce")
    with pytest.raises(AccessDeniedError) as refused:
        check_declared(snapshot, plan_read(snapshot, FEATURES), who("partly@1"), environment="dev", now=0)
    assert "Consumer 'partly@1' does not declare weather@v1:humid." in str(refused.value)
    assert "Add 'weather@v1:humid' to reads of 'partly@1', then `featurestore apply`." in str(refused.value)


def test_enforce_names_the_principal_when_there_is_no_consumer():
    snapshot = registered("enforce")
    with pytest.raises(AccessDeniedError, match=r"Principal 'svc' does not declare.*lineage declare svc"):
        check_declared(snapshot, plan_read(snapshot, ["weather:temp"]), who(""), environment="dev", now=0)


def test_enforce_lets_a_declared_read_pass():
    snapshot = registered("enforce")
    assert check_declared(snapshot, plan_read(snapshot, FEATURES), who("declared@1"), environment="dev", now=0) == ()
