"""Promote, retire and removal refuse by one rule while somebody reads what they take, unless a reason is given and kept."""

import json

import pytest
from small_project import FEATURES, NOON

from featurestore import FeatureStore
from featurestore.cli import main as command
from featurestore.errors import DefinitionError, FailedPreconditionError, NotFoundError

CHANGED = FEATURES.replace('unit="degF"', 'unit="degC"')


@pytest.fixture
def store(project):
    """A filled project whose weather has a second version with another unit of `temp`; model@1 declares the first."""
    with FeatureStore(project) as opened:
        opened.apply()
        opened.ingest("weather")
        opened.materialize()
        (project / "features.py").write_text(CHANGED)
        opened.apply()
        yield opened


def read(project, consumer, *features):
    with FeatureStore(project, consumer=consumer) as reader:
        reader.get_online_features(list(features), {"origin": ["JFK"]})


def main(arguments):
    with pytest.raises(SystemExit) as done:
        command(arguments)
    return done.value.code


def log_of(store):
    return [(change.kind, change.object, change.detail) for _, change in store.registry.log()]


def test_a_reader_without_a_declaration_keeps_the_current_version(store, project):
    read(project, "adhoc_job", "weather:temp")
    with pytest.raises(
        FailedPreconditionError, match=r"weather@v1 is still read: adhoc_job read it on .*--force REASON"
    ):
        store.promote("weather@v2")
    assert store.snapshot().document.views["weather"].current == 1


def test_a_reader_that_is_frozen_to_the_old_version_does_not_stop_a_promotion(store, project):
    read(project, "model@1", "weather:temp", "weather:visib")
    store.promote("weather@v2")
    assert store.snapshot().document.views["weather"].current == 2


def test_a_reader_of_a_feature_that_means_the_same_does_not_stop_a_promotion(store, project):
    read(project, "adhoc_job", "weather:visib")
    store.promote("weather@v2")
    assert store.snapshot().document.views["weather"].current == 2


def test_a_consumer_that_is_moved_through_a_service_must_be_named(store):
    with pytest.raises(FailedPreconditionError, match=r"model@1 would be moved.*--move model_features --move model@1"):
        store.promote("weather@v2", move=["model_features"])
    store.promote("weather@v2", move=["model_features", "model@1"])
    assert store.snapshot().consumer("model@1").reads[0] == "weather@v2:temp"


def test_a_forced_promotion_is_recorded_with_its_reason_and_whom_it_hits(store, project):
    read(project, "adhoc_job", "weather:temp")
    store.promote("weather@v2", force="told them")
    kind, what, detail = log_of(store)[-1]
    assert (kind, what) == ("force", "weather@v1")
    assert detail.startswith("told them; adhoc_job read it on ")


def test_a_reason_that_is_not_needed_leaves_no_line(store):
    store.promote("weather@v2", force="to be sure")
    assert "force" not in [kind for kind, *_ in log_of(store)]


def test_a_view_that_leaves_the_file_goes_only_when_it_is_said(store, project):
    (project / "features.py").write_text(CHANGED.split("comfort = ")[0])
    plan = store.plan()
    assert not plan
    assert plan.notes[0].startswith("view comfort is not in the file any more and stays; `featurestore apply --remove")
    with pytest.raises(FailedPreconditionError, match="comfort is still read: service model_features selects it"):
        store.apply(remove=["comfort"])
    store.apply(remove=["comfort"], force="nobody calls it")
    assert store.snapshot().document.views["comfort"].versions[1].status == "retired"
    assert [line[:2] for line in log_of(store)[-2:]] == [("retired", "view comfort@v1"), ("force", "comfort")]


def test_a_view_that_nobody_names_or_reads_is_removed(project):
    with FeatureStore(project) as store:
        store.apply()
        (project / "features.py").write_text(FEATURES.replace('"payments"', '"other"'))
        store.apply(remove=["payments"])
        assert store.snapshot().document.views["payments"].versions[1].status == "retired"
        assert "force" not in [kind for kind, *_ in log_of(store)]


def test_what_is_read_stays_though_the_file_lost_it(project):
    with FeatureStore(project) as store:
        store.apply()
        store.write("payments", {"user_id": [1], "payment_id": ["a"], "paid_at": [NOON], "amount": [2.5]})
        with FeatureStore(project, consumer="adhoc_job") as reader:
            reader.get_online_features(["payments:sum_amount_30000d"], {"user_id": [1]})
        (project / "features.py").write_text(FEATURES.replace('"payments"', '"other"'))
        with pytest.raises(FailedPreconditionError, match="payments is still read: adhoc_job read it on"):
            store.apply(remove=["payments"])


def test_a_view_that_is_still_defined_is_not_removed(store):
    with pytest.raises(DefinitionError, match="still defined"):
        store.plan(remove=["weather"])
    with pytest.raises(NotFoundError, match="wether"):
        store.plan(remove=["wether"])


def test_the_command_refuses_says_why_and_its_log_shows_what_was_forced(store, project, capsys):
    read(project, "adhoc_job", "weather:temp")
    asked = ["promote", "weather@v2", "--project", str(project)]
    assert main(asked) != 0
    assert "adhoc_job read it on" in capsys.readouterr().err
    assert main([*asked, "--force", "told them"]) == 0
    capsys.readouterr()
    assert main(["log", "weather@v1", "--project", str(project), "--format", "json"]) == 0
    (*_, line) = json.loads(capsys.readouterr().out)["rows"]
    assert (line["kind"], line["object"], line["principal"].partition(":")[0]) == ("force", "weather@v1", "local")
    assert line["detail"].startswith("told them; adhoc_job")
    assert [entry.kind for entry in store.lineage.log("weather@v1") if entry.forced] == ["force"]
