"""Debts that the history and the graph show exactly: bundles, stale pins, cascades, loops."""

import copy

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import DECLARED, NOW, consumer, feature, flights, source, version
from deltalake import write_deltalake
from sklearn.linear_model import LinearRegression

from lineage import Lineage, Verdict
from lineage.evaluation.data import read_data
from lineage.evaluation.folds import design_for
from lineage.evaluation.record import FOLDER, Record, save_record
from lineage.evaluation.replaying import STORED_ROUNDS, read_costs, replay_costs, save_costs
from lineage.evaluation.running import Drop, Evaluation, evaluate
from lineage.evaluation.training import EstimatorTrainer

DAY = 86_400_000_000


def flagged(folder, *codes, now=NOW):
    ask = Lineage(folder, clock=lambda: now)
    return {f.subject: f for f in ask.check(select=list(codes)).all if f.verdict is Verdict.FLAGGED}


def with_reads(reads, key="delay_model@1", **fields):
    document = copy.deepcopy(flights())
    document["consumers"] |= consumer(key, reads=reads, dataset="delay_training", label="late", **fields)
    return document


def evaluated(registry, without, *, features, model="delay_model@1", saved_at=DECLARED, problem=""):
    record = Record(
        model, tuple(sorted(without)), tuple(sorted(features)), "d", "ab12", "late", "log_loss", "x:y",
        created_at=NOW - DAY, dataset_saved_at=saved_at, problem=problem,
    )  # fmt: skip
    save_record(registry.path.parent / "evaluations", record)


ONE, THREE = ["weather@v1:temp"], ["weather@v1:temp", "weather@v1:humid", "plane@v1:seats"]
BUNDLE = "delay_model since revision 2: plane:seats, weather:humid"


@pytest.fixture
def bundled(registry):
    registry.commit(with_reads(ONE), when=DECLARED)
    registry.commit(with_reads(THREE), when=DECLARED + DAY, revision=2)
    return registry


def test_two_features_of_one_commit_that_nobody_evaluated_are_a_bundle(bundled):
    found = flagged(bundled.folder, "LN410")
    assert set(found) == {BUNDLE}
    assert found[BUNDLE].evidence[0]["score"] == 1.0


def test_the_fix_names_the_latest_version_by_its_number(registry):
    registry.commit(with_reads(ONE), when=DECLARED)
    document = with_reads(THREE, "delay_model@9")
    document["consumers"] |= consumer("delay_model@10", reads=THREE, dataset="delay_training", label="late")
    registry.commit(document, when=DECLARED + DAY, revision=2)
    found = flagged(registry.folder, "LN410")[BUNDLE]
    assert found.fix.startswith("lineage evaluate delay_model@10 ")


@pytest.mark.parametrize(
    ("without", "fields", "is_bundle"),
    [
        (["weather@v1:humid"], {}, False),
        (["plane@v1:seats", "weather@v1:humid"], {}, True),  # all of it says nothing of a part
        (["weather@v1:temp"], {}, True),  # not of the bundle
        (["weather@v1:humid", "weather@v1:temp"], {}, True),  # more than the bundle
        (["weather@v1:humid"], {"problem": "the trainer failed"}, True),
        (["weather@v1:humid"], {"saved_at": DECLARED - 100 * DAY}, True),  # rows of long before
        (["weather@v1:humid"], {"model": "other@1"}, True),
        (
            ["weather@v1:humid"],
            {"features": ["weather@v1:temp", "weather@v1:humid"]},
            True,
        ),  # not beside the rest of it
    ],
)
def test_a_bundle_is_settled_by_an_evaluation_of_a_part_of_it(bundled, without, fields, is_bundle):
    evaluated(bundled, without, **{"features": THREE} | fields)
    assert (BUNDLE in flagged(bundled.folder, "LN410")) is is_bundle


def test_first_features_new_versions_and_other_names_are_no_bundle(registry):
    registry.commit(with_reads(THREE), when=DECLARED)
    later = with_reads(["weather@v2:temp", "weather@v2:humid", "plane@v1:places"])
    later["views"]["plane"]["versions"]["1"]["features"] = [feature("places") | {"fingerprint": "fp-seats"}]
    registry.commit(later, when=DECLARED + DAY, revision=2)
    assert flagged(registry.folder, "LN410") == {}


def test_the_first_features_are_told_apart(project):
    found = Lineage(project.folder, clock=lambda: NOW).check(select=["LN411"]).all
    assert [f.verdict for f in found] == [Verdict.UNDETERMINED]
    assert flagged(project.folder, "LN410") == {}


def test_a_declared_group_counts_as_one(registry):
    tags = {"group.weather_and_plane": "weather:humid, plane:seats"}
    registry.commit(with_reads(ONE), when=DECLARED)
    registry.commit(with_reads(THREE, tags=tags), when=DECLARED + DAY, revision=2)
    assert flagged(registry.folder, "LN410") == {}


def test_what_was_taken_out_again_is_no_bundle_and_what_came_back_is_one(registry):
    registry.commit(with_reads(ONE), when=DECLARED)
    registry.commit(with_reads(THREE), when=DECLARED + DAY, revision=2)
    registry.commit(with_reads(ONE), when=DECLARED + 2 * DAY, revision=3)
    assert flagged(registry.folder, "LN410") == {}
    registry.commit(with_reads(THREE), when=DECLARED + 3 * DAY, revision=4)
    assert set(flagged(registry.folder, "LN410")) == {BUNDLE.replace("revision 2", "revision 4")}


def test_a_pin_to_an_old_version_is_stale_after_a_month(registry):
    registry.commit(flights(), when=NOW - 40 * DAY)
    assert set(flagged(registry.folder, "LN422")) == {"delay_model@1 stays with weather@v1"}
    registry._run("UPDATE commits SET committed_at = " + str(NOW - 20 * DAY))
    assert flagged(registry.folder, "LN422") == {}


def models(**chains):
    """A project of models; ``b="a"`` means that b reads what a writes, several separated by blanks."""
    document = copy.deepcopy(flights())
    document["consumers"] = {}
    for name, reads in chains.items():
        score = f"{name}_score"
        made_from = source(score, kind="push")
        document["views"][score] = {"current": 1, "versions": {"1": version(feature("score"), made_from=made_from)}}
        refs = [f"{other}_score@v1:score" for other in reads.split()]
        tags = {"stage": "ensemble"} if name.startswith("ensemble") else {}
        document["consumers"] |= consumer(
            f"{name}@1", reads=["weather@v1:temp", *refs], writes=[f"{score}@v1"], tags=tags, label=f"label_{name}"
        )
    return document


def test_a_chain_of_models_is_a_cascade_with_its_depth(registry):
    registry.commit(models(a="", b="a", c="b", d="c", lonely=""))
    found = flagged(registry.folder, "LN451")
    assert {f.evidence[0]["depth"] for f in found.values()} == {1, 2, 3}
    assert found["d builds on c"].evidence[0]["chain"] == ["a", "b", "c", "d"]
    assert set(flagged(registry.folder, "LN450")) == set()


def test_only_the_next_model_is_built_upon(registry):
    registry.commit(models(a="", b="a", c="b"))
    assert set(flagged(registry.folder, "LN451")) == {"b builds on a", "c builds on b"}


def test_an_ensemble_that_says_so_is_none(registry):
    registry.commit(models(a="", b="", ensemble="a b"))
    assert flagged(registry.folder, "LN451") == {}


def test_a_wrapper_of_one_prediction_is_a_calibration(registry):
    document = models(a="", b="")
    document["consumers"]["b@1"]["reads"] = ["a_score@v1:score"]
    registry.commit(document)
    assert flagged(registry.folder, "LN451") == {}


def test_a_shared_source_is_no_cascade(registry):
    registry.commit(models(a="", b="", c=""))
    assert flagged(registry.folder, "LN451", "LN450") == {}


def test_models_of_one_label_correct_each_other(registry):
    document = models(a="", b="a")
    document["consumers"]["b@1"]["label"] = "label_a"
    registry.commit(document)
    assert flagged(registry.folder, "LN451")["b builds on a"].evidence[0]["corrects"] == ["a"]


@pytest.mark.parametrize(
    ("chains", "rings"),
    [
        ({"a": "a"}, {"loop of a"}),
        ({"a": "b", "b": "a"}, {"loop of a, b"}),
        ({"a": "c", "b": "a", "c": "b"}, {"loop of a, b, c"}),
        ({"a": "b", "b": "a", "c": "d", "d": "c", "e": "a"}, {"loop of a, b", "loop of c, d"}),
        ({"a": "", "b": "a"}, set()),
    ],
)
def test_loops_are_found_whatever_their_length(registry, chains, rings):
    registry.commit(models(**chains))
    assert set(flagged(registry.folder, "LN450")) == rings


def test_a_loop_closes_over_versions_of_a_model(registry):
    document = models(a="", b="a")
    document["consumers"] |= consumer("a@2", reads=["b_score@v1:score"], writes=["a_score@v1"])
    registry.commit(document)
    assert set(flagged(registry.folder, "LN450")) == {"loop of a, b"}


def test_a_loop_through_a_computed_feature_and_a_job_is_found(registry):
    document = models(a="")
    document["views"]["report"] = {
        "current": 1,
        "versions": {"1": version(feature("late"), made_from=source("r", kind="push"))},
    }
    document["consumers"] |= consumer("reporter", kind="job", reads=["a_score@v1:score"], writes=["report@v1"])
    document["consumers"]["a@1"]["reads"].append("report@v1:late")
    registry.commit(document)
    assert set(flagged(registry.folder, "LN450")) == {"loop of a"}


def test_a_dashboard_closes_no_loop(registry):
    document = models(a="")
    document["consumers"] |= consumer("board", kind="dashboard", reads=["a_score@v1:score"])
    registry.commit(document)
    assert flagged(registry.folder, "LN450") == {}


def test_a_loop_that_was_never_whole_at_one_time_is_none(registry):
    registry.commit(models(a="b", b=""), when=DECLARED)
    registry.commit(models(a="", b="a"), when=DECLARED + DAY, revision=2)
    assert flagged(registry.folder, "LN450") == {}


def test_shared_entities_are_a_candidate_and_never_flagged(registry):
    registry.commit(models(a="", b=""))
    found = Lineage(registry.folder, clock=lambda: NOW).check(select=["LN452"]).all
    assert {f.verdict for f in found} == {Verdict.UNDETERMINED}
    assert {f.subject for f in found} == {"a may act on what b reads", "b may act on what a reads"}


def rows_of(registry, view, *keys):
    write_rows(registry, view, pa.table({"origin": list(keys), "score": [0.5] * len(keys)}))


def write_rows(registry, view, rows):
    """Write a view's offline rows as the store does: Parquet named by a Delta log."""
    write_deltalake(registry.path.parent / "offline" / view / "v1", rows)


def saved_dataset(registry, name, **columns):
    folder = registry.path.parent / "datasets" / name
    folder.mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / "data.parquet")
    (folder / "manifest.json").write_text("{}")


@pytest.mark.parametrize(
    ("trained", "verdict", "said"),
    [
        ({"origin": ["JFK", "LGA"]}, Verdict.UNDETERMINED, "1 of 2 keys"),
        ({"origin": ["LGA"]}, Verdict.CLEARED, "So far no key is both"),
        ({"dest": ["JFK"]}, Verdict.UNDETERMINED, "no saved dataset of b has them"),
        (None, Verdict.UNDETERMINED, "no saved dataset of b has them"),
    ],
)
def test_what_keys_two_models_share_is_counted(registry, trained, verdict, said):
    document = models(a="", b="")
    document["consumers"]["b@1"]["dataset"] = "rows"
    registry.commit(document)
    rows_of(registry, "a_score", "JFK", "EWR")
    if trained:
        saved_dataset(registry, "rows", **trained)
    found = {f.subject: f for f in Lineage(registry.folder, clock=lambda: NOW).check(select=["LN452"]).all}
    finding = found["a may act on what b reads"]
    assert finding.verdict is verdict
    assert said in finding.message
    assert "b has written none" in found["b may act on what a reads"].message


def test_storing_a_column_again_and_the_whole_view_is_measured(registry):
    registry.commit(flights())
    numbers = pa.array(range(200_000), pa.int64())
    rows = pa.table({"origin": pa.array(["JFK"] * 200_000), "temp": numbers, "humid": pa.nulls(200_000, pa.int64())})
    write_rows(registry, "weather", rows)
    state = Lineage(registry.folder, clock=lambda: NOW).state()
    found = replay_costs(state, state.snapshot.consumers["delay_model@1"], now=NOW)
    whole, temp = found.costs["weather@v1"].stored, found.costs["weather@v1:temp"].stored
    assert (whole.rounds, temp.rounds) == (STORED_ROUNDS, STORED_ROUNDS)
    assert whole.low_us > 0
    assert found.costs["weather@v1:temp"].read is None
    save_costs(registry.folder / FOLDER, found)
    assert read_costs(registry.folder / FOLDER, "delay_model@1") == found
    assert read_costs(registry.folder / FOLDER, "other@1") is None


@pytest.mark.parametrize(("weight", "bulk"), [(1.0, True), (0.2, False)])
def test_how_much_of_a_model_the_score_carries_is_said(registry, weight, bulk):
    registry.commit(models(a="", b="a"))
    rng = np.random.default_rng(1)
    columns = {"weather@v1:temp": rng.normal(size=2000), "a_score@v1:score": rng.normal(size=2000)}
    target = 0.3 * columns["weather@v1:temp"] + weight * columns["a_score@v1:score"] + 0.1 * rng.normal(size=2000)
    path = registry.folder / "rows.parquet"
    pq.write_table(pa.table({**columns, "label_b": target}), path)
    data = read_data(str(path), label="label_b")
    drops = tuple(Drop(name, (name,)) for name in data.features)
    trainer = EstimatorTrainer("t:ols", LinearRegression, data)
    evaluate(Evaluation("b@1", data, trainer, drops, design_for(data), registry.folder / FOLDER), now=lambda: NOW - DAY)
    found = flagged(registry.folder, "LN451")["b builds on a"]
    (carried,) = found.evidence[0]["carried"]
    assert carried["share"] == pytest.approx(weight**2 / (weight**2 + 0.09), abs=0.05)
    assert ("the bulk of it" in found.message) is bulk
