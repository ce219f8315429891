"""Versions in flight: a share of the keys reads another version, or it is compared; no read fails, and none is mixed."""

import json
import sqlite3
import threading
from collections import Counter
from contextlib import closing, contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient
from typer.testing import CliRunner

from featurestore import Entity, Feature, FeatureService, FeatureStore, FeatureView, PushSource
from featurestore.cli import commands
from featurestore.errors import FailedPreconditionError, FeatureStoreError, InvalidArgumentError, NotFoundError
from featurestore.online.rollout import is_moved
from featurestore.registry.rollout import shown
from featurestore.serving.grpc_aio import GrpcAioTransport
from featurestore.serving.http import http_app
from featurestore.serving.metrics import read_metrics
from featurestore.serving.read_metrics import COMPARED, DIFFERING
from featurestore.testing.served import ServedProject
from featurestore.types import from_micros

NOW = 1_704_067_200_000_000
USERS = list(range(1, 101))
user = Entity("user", {"user_id": "int64"})


def view(source, *features):
    return FeatureView(
        "profile", user, PushSource(source), list(features or (Feature("score", "float64"), Feature("city", "string")))
    )


FIRST, SECOND = (
    view("one"),
    view("two", Feature("city", "string"), Feature("score", "float64"), Feature("age", "int64")),
)
selection = FeatureService("selection", [FIRST])


def fill(store, version, sign):
    """Write through a store or a client."""
    rows = {
        "user_id": USERS,
        "event_timestamp": [from_micros(NOW)] * len(USERS),
        "score": [sign * float(n) for n in USERS],
        "city": [f"{version} {n}" for n in USERS],
    }
    store.write(f"profile@{version}", rows if version == "v1" else {**rows, "age": USERS})


@contextmanager
def two_versions(folder):
    """A store with two versions of a view: what is a score in one is its negative in the other."""
    folder.mkdir(exist_ok=True)
    (folder / "featurestore.toml").write_text('[project]\nname = "flying"\n')
    with FeatureStore(folder, consumer="job@1") as store:
        store.apply([FIRST, selection])
        fill(store, "v1", 1)
        store.apply([SECOND])
        fill(store, "v2", -1)
        yield store


def apply_served(served, client, *, sign):
    """Register and fill both versions of a server's project."""
    for definitions, version, score in (([FIRST, selection], "v1", 1), ([SECOND], "v2", sign)):
        served.store.apply(definitions)
        served.handlers.refresh()
        fill(client, version, score)


def got(rows, features=("profile:score",)):
    """Return user -> version that it got, after a look that all its values are of that version."""
    versions = rows.versions("score")
    for number, version, score in zip(USERS, versions, rows.to_dict()["score"], strict=True):
        assert score == (number if version == "profile@v1" else -number)
    if "city" in rows.columns:
        for number, version, city in zip(USERS, versions, rows.to_dict()["city"], strict=True):
            assert city == f"{version.removeprefix('profile@')} {number}"
    return dict(zip(USERS, versions, strict=True))


def read(store, features=("profile:score", "profile:city")):
    return got(
        store.get_online_features(list(features) if not isinstance(features, str) else features, {"user_id": USERS})
    )


@given(st.lists(st.binary(min_size=1), min_size=1, max_size=50), st.floats(0, 1), st.floats(0, 1))
def test_keys_that_are_moved_stay_moved_when_the_share_is_raised(keys, one, other):
    low, high = sorted([one, other])
    for key in keys:
        assert is_moved(key, "weather@v2", low) <= is_moved(key, "weather@v2", high)
        assert not is_moved(key, "weather@v2", 0.0)
        assert is_moved(key, "weather@v2", 1.0)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_the_share_is_respected(share):
    """Within five standard deviations of a fair draw; two versions move different keys."""
    keys = [b"entity %d" % n for n in range(20_000)]
    moved = [is_moved(key, "weather@v2", share) for key in keys]
    assert abs(sum(moved) - share * len(keys)) < 5 * (len(keys) * share * (1 - share)) ** 0.5
    assert moved != [is_moved(key, "weather@v3", share) for key in keys]


def test_a_canary_grows_and_rolls_back(tmp_path):
    """Each key says which version it got and has the values of that; whoever names a version gets it."""
    with two_versions(tmp_path) as store:
        before = read(store)
        assert set(before.values()) == {"profile@v1"}
        moved = set()
        for share in (0.0, 0.1, 0.4, 1.0):
            store.roll_out("profile@v2", share=share)
            now = {number for number, version in read(store).items() if version == "profile@v2"}
            assert moved <= now
            moved = now
            assert set(read(store, ["profile@v1:score"]).values()) == {"profile@v1"}
            assert set(read(store, ["profile@v2:score"]).values()) == {"profile@v2"}
            assert set(read(store, "selection").values()) == {"profile@v1"}
        assert moved == set(USERS)
        store.promote("profile@v1")
        assert read(store) == before
        assert store.snapshot().document.views["profile"].rollout is None


def test_a_service_takes_part_when_it_is_named_and_moves_with_the_promotion(tmp_path):
    with two_versions(tmp_path) as store:
        store.roll_out("profile@v2", share=0.5, move=["selection"])
        assert read(store, "selection") == read(store)
        assert set(read(store).values()) == {"profile@v1", "profile@v2"}
        store.promote("profile@v2", force="the test says so")
        assert set(read(store, "selection").values()) == set(read(store).values()) == {"profile@v2"}
        assert store.snapshot().service("selection").features == ("profile@v2:score", "profile@v2:city")


def test_usage_counts_each_version_for_the_keys_that_got_it(tmp_path):
    with two_versions(tmp_path) as store:
        store.roll_out("profile@v2", share=0.3)
        versions = Counter(read(store).values())
        store.collect_usage()
        with closing(sqlite3.connect(store.registry.sqlite_path())) as registry:
            counted = registry.execute(
                "SELECT view || '@v' || version, sum(entity_rows) FROM usage_daily WHERE feature = 'score' GROUP BY 1"
            ).fetchall()
        assert dict(counted) == versions


def test_a_shadow_answers_the_old_and_counts_what_differs(tmp_path):
    with ServedProject(tmp_path, GrpcAioTransport) as served, served.client() as client:
        store = served.store
        apply_served(served, client, sign=1)
        store.roll_out("profile@v2", share=None)
        served.handlers.refresh()
        rows = client.get_online_features(["profile:score", "profile:city"], {"user_id": [*USERS, 999]})
        assert set(rows.versions("score")) == {"profile@v1"}
        assert rows.to_dict()["city"] == [*(f"v1 {n}" for n in USERS), None]
        served.handlers.collect_metrics()
        metrics = read_metrics(tmp_path / "store" / "metrics")
        labels = (("view", "profile@v1"), ("other", "profile@v2"))
        assert metrics[COMPARED, labels].value == 101
        assert metrics[DIFFERING, (*labels, ("feature", "score"))].value == 0
        assert metrics[DIFFERING, (*labels, ("feature", "city"))].value == 100


def test_no_read_fails_or_is_mixed_while_versions_go_up_and_back(tmp_path):
    """A client reads on and on, by server, while a canary begins, grows, ends in a promotion and is rolled back."""
    with ServedProject(tmp_path, GrpcAioTransport) as served, served.client() as client:
        store = served.store
        apply_served(served, client, sign=-1)
        seen, stop, failed = [], threading.Event(), []

        def reading():
            try:
                while not stop.is_set():
                    rows = client.get_online_features(["profile:score", "profile:city"], {"user_id": USERS})
                    seen.append(frozenset(Counter(got(rows).values()).items()))
            except (FeatureStoreError, AssertionError) as error:
                failed.append(error)

        thread = threading.Thread(target=reading)
        thread.start()
        steps = [
            lambda: store.roll_out("profile@v2", share=0.2),
            lambda: store.roll_out("profile@v2", share=0.7),
            lambda: store.promote("profile@v2", force="go"),
            lambda: store.roll_out("profile@v1", share=None),
            lambda: store.promote("profile@v1", force="back"),
        ]
        try:
            for step in steps:
                step()
                served.handlers.refresh()
                count = len(seen)
                while len(seen) < count + 3 and not failed:
                    stop.wait(0.01)
        finally:
            stop.set()
            thread.join()
        assert not failed
        assert len(set(seen)) >= 4


def test_what_cannot_answer_in_the_place_of_another_is_refused(tmp_path):
    with two_versions(tmp_path) as store:
        with pytest.raises(FailedPreconditionError, match="is current already"):
            store.roll_out("profile@v1", share=0.1)
        with pytest.raises(InvalidArgumentError, match="no share"):
            store.roll_out("profile@v2", share=1.5)
        with pytest.raises(NotFoundError, match="selection"):
            store.roll_out("profile@v2", share=0.1, move=["selektion"])
        other = view("three", Feature("score", "int64"))
        store.apply([other])
        with pytest.raises(FailedPreconditionError, match=r"profile@v3 has 'score' as int64.*--shadow"):
            store.roll_out("profile@v3", share=0.1)
        with pytest.raises(FailedPreconditionError, match="never filled online"):
            store.roll_out("profile@v3", share=None)


def test_promoting_what_is_current_commits_nothing(tmp_path):
    with two_versions(tmp_path) as store:
        revision = store.snapshot().revision
        assert not store.promote("profile@v1")
        assert store.snapshot().revision == revision


def test_the_state_is_in_the_registry_and_its_change_log(tmp_path):
    with two_versions(tmp_path) as store:
        store.roll_out("profile@v2", share=0.25, move=["selection"])
        rollout = store.snapshot().document.views["profile"].rollout
        assert shown(rollout) == "v2: 25% of keys, with selection"
        assert not store.roll_out("profile@v2", share=0.25, move=["selection"])
        kinds = [change.kind for _, change in store.registry.history() if change.object == "view profile@v2"]
        assert "canary" in kinds


def test_the_commands_begin_a_rollout_and_show_it(tmp_path):
    with two_versions(tmp_path):
        pass
    run = CliRunner().invoke

    def listed():
        views = json.loads(run(commands(), ["list", "--project", str(tmp_path), "--format", "json"]).stdout)
        return [row["read_as"] for row in views["rows"]]

    assert run(commands(), ["promote", "profile@v2", "--canary", "10%", "--project", str(tmp_path)]).exit_code == 0
    assert listed() == ["current", "10% of keys"]
    assert run(commands(), ["promote", "profile@v2", "--shadow", "--project", str(tmp_path)]).exit_code == 0
    assert listed() == ["current", "compared in the shadow"]
    assert run(commands(), ["promote", "profile@v1", "--project", str(tmp_path)]).exit_code == 0
    assert listed() == ["current", ""]


def test_json_says_which_version_each_key_got(tmp_path):
    with ServedProject(tmp_path, GrpcAioTransport) as served, served.client() as client:
        apply_served(served, client, sign=-1)
        handlers = served.handlers
        metrics = handlers.guard.wrap(handlers.metrics)
        app = http_app(handlers.methods(), handlers.guard, served.settings, metrics=metrics, is_ready=lambda: True)
        asked = {"features": ["profile:score"], "keys": {"user_id": USERS}}

        def posted():
            return TestClient(app, base_url="http://127.0.0.1").post("/v1/get-online-features", json=asked).json()

        assert "versions" not in posted()
        served.store.roll_out("profile@v2", share=0.4)
        handlers.refresh()
        body = posted()
        assert body["versions"] == {"score": list(read(served.store, ["profile:score"]).values())}
        signs = {"profile@v1": 1, "profile@v2": -1}
        right = [signs[version] * number for version, number in zip(body["versions"]["score"], USERS, strict=True)]
        assert body["features"]["score"] == right
