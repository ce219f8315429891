"""Debts among the inputs of a model: legacy, correlated, dead and removable features, on saved datasets."""

import copy
import json
import re
from xml.etree import ElementTree as ET

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import DECLARED, NOW, consumer, feature, flights, source, version
from sklearn.linear_model import Ridge
from sklearn.metrics import adjusted_rand_score

from lineage import Lineage, Verdict
from lineage.cli import main
from lineage.evaluation.data import read_data
from lineage.evaluation.dependence import dependence_of, pair_strength
from lineage.evaluation.folds import design_for
from lineage.evaluation.removal import copies_of, removable
from lineage.evaluation.running import Drop, Evaluation
from lineage.evaluation.succession import succession
from lineage.evaluation.training import EstimatorTrainer

DAY = 86_400_000_000
ROWS = 2000


def table(path, **columns):
    pq.write_table(pa.table(columns), path)
    return read_data(str(path), label="y", time="at" if "at" in columns else "")


def days(count=ROWS, rows_a_day=20):
    return pa.array(np.arange(count) // rows_a_day * DAY, pa.timestamp("us", "UTC"))


class TestDependence:
    @pytest.mark.parametrize("seed", range(3))
    def test_blocks_of_correlated_columns_are_found(self, tmp_path, seed):
        rng = np.random.default_rng(seed)
        shared = rng.normal(size=(ROWS, 4))
        truth, columns = [], {}
        for block, size in enumerate([1, 2, 3, 4]):
            for member in range(size):
                columns[f"b{block}_{member}"] = np.sqrt(0.9) * shared[:, block] + np.sqrt(0.1) * rng.normal(size=ROWS)
                truth.append(block)
        found = dependence_of(table(tmp_path / "d.parquet", **columns, y=rng.normal(size=ROWS)))
        label = {name: place for place, group in enumerate(found.clusters) for name in group}
        told = [label.get(name, 100 + place) for place, name in enumerate(columns)]
        assert adjusted_rand_score(truth, told) >= 0.9

    def test_a_column_that_two_others_determine_joins_them(self, tmp_path):
        rng = np.random.default_rng(4)
        hour, minute = rng.integers(5, 23, ROWS), rng.integers(0, 60, ROWS)
        found = dependence_of(
            table(
                tmp_path / "d.parquet",
                hour=hour,
                minute=minute,
                sched_dep_time=100 * hour + minute,
                other=rng.normal(size=ROWS),
                y=rng.normal(size=ROWS),
            )
        )
        assert {frozenset(group) for group in found.clusters} == {frozenset({"hour", "minute", "sched_dep_time"})}
        assert all(one.lower > 0.95 for one in found.determined)

    def test_what_never_changes_and_what_is_hardly_there_is_named(self, tmp_path):
        rng = np.random.default_rng(5)
        speed = np.where(np.arange(ROWS) % 200 == 0, 1.0, np.nan) * rng.normal(size=ROWS)
        columns = {"year": np.full(ROWS, 2013), "speed": pa.array(speed, from_pandas=True), "z": rng.normal(size=ROWS)}
        found = dependence_of(table(tmp_path / "d.parquet", **columns, y=rng.normal(size=ROWS)))
        assert found.constant == ("year",)
        assert found.empty == {"speed": pytest.approx(0.995)}

    def test_independent_columns_of_any_type_have_no_strength(self):
        rng = np.random.default_rng(6)
        number, letter, other = rng.normal(size=ROWS), rng.integers(0, 8, ROWS) * 1.0, rng.integers(0, 5, ROWS) * 1.0
        assert pair_strength(number, rng.normal(size=ROWS), False, False) < 0.1
        assert pair_strength(letter, other, True, True) < 0.1
        assert pair_strength(letter, number, True, False) < 0.1

    def test_the_same_columns_of_any_type_have_full_strength(self):
        rng = np.random.default_rng(7)
        number, letter = rng.normal(size=ROWS), rng.integers(0, 8, ROWS) * 1.0
        assert pair_strength(number, np.exp(number), False, False) == pytest.approx(1.0)
        assert pair_strength(letter, (letter + 3) % 8, True, True) == pytest.approx(1.0, abs=1e-3)
        assert pair_strength(letter, letter * 2, True, False) == pytest.approx(1.0, abs=0.02)


class TestSuccession:
    def test_a_newer_column_that_says_the_same_is_one(self, tmp_path):
        rng = np.random.default_rng(1)
        newer = rng.normal(size=ROWS)
        data = table(
            tmp_path / "d.parquet", older=np.tanh(newer) + 0.01 * rng.normal(size=ROWS), newer=newer, y=newer, at=days()
        )
        found = succession(data, "older", "newer")
        assert found.redundant
        assert found.complete

    def test_two_trends_are_none(self, tmp_path):
        rng = np.random.default_rng(2)
        trend = np.linspace(0, 50, ROWS)
        columns = {"older": trend + rng.normal(size=ROWS), "newer": trend + rng.normal(size=ROWS)}
        found = succession(table(tmp_path / "d.parquet", **columns, y=trend, at=days()), "older", "newer")
        assert found.lower > 0.95
        assert not found.redundant

    def test_a_newer_column_that_is_missing_somewhere_is_incomplete_and_the_weeks_show_it(self, tmp_path):
        newer = np.random.default_rng(3).normal(size=ROWS)
        there = np.arange(ROWS) > ROWS // 2
        partly = pa.array(np.where(there, newer, np.nan), from_pandas=True)
        data = table(tmp_path / "d.parquet", older=newer * 2, newer=partly, y=newer, at=days())
        found = succession(data, "older", "newer")
        assert found.redundant
        assert not found.complete
        weeks = list(found.weekly.values())
        assert (weeks[0], weeks[-1]) == (0.0, 1.0)

    @pytest.mark.parametrize("older", [np.arange(80.0), np.ones(ROWS)])
    def test_few_rows_or_a_constant_measure_nothing(self, tmp_path, older):
        data = table(tmp_path / "d.parquet", older=older, newer=older, y=np.arange(len(older)))
        assert not succession(data, "older", "newer").measured


def asked(data, tmp_path, **fields):
    drops = tuple(Drop(name, (name,)) for name in data.features)
    trainer = EstimatorTrainer("t:Ridge", Ridge, data)
    return Evaluation("delay_model@1", data, trainer, drops, design_for(data), tmp_path / "evaluations", **fields)


class TestRemovable:
    def group(self, tmp_path, **columns):
        data = table(tmp_path / "d.parquet", **columns)
        return removable(asked(data, tmp_path, epsilon=0.05), now=lambda: NOW)

    def test_two_copies_never_go_both(self, tmp_path):
        rng = np.random.default_rng(1)
        needed, idle = rng.normal(size=(2, 4000))
        columns = {
            "one": needed,
            "two": needed * 2 + 1,
            "idle": idle,
            "same_idle": idle,
            "noise": rng.normal(size=4000),
        }
        found = self.group(tmp_path, **columns, y=needed + rng.normal(size=4000))
        gone = {drop.name for drop in found.proposed}
        assert found.removable
        assert len(gone & {"one", "two"}) == 1
        assert len(gone & {"idle", "same_idle"}) == 1
        assert "noise" in gone
        assert len(found.kept_copies) == 2

    def test_small_gains_that_add_up_do_not_go_together(self, tmp_path):
        rng = np.random.default_rng(2)
        small = {f"s{k}": rng.normal(size=6000) for k in range(8)}
        target = sum(0.14 * column for column in small.values()) + rng.normal(size=6000)
        found = self.group(tmp_path, **small, y=target)
        joint = 0.14**2 * len(found.proposed)
        assert len(found.proposed) < 8
        assert not (found.removable and joint >= 0.05)

    def test_rows_of_the_test_had_no_say_in_the_proposal(self, tmp_path):
        from lineage.evaluation.removal import _parts

        rng = np.random.default_rng(3)
        for columns in ({}, {"at": days()}):
            data = table(tmp_path / "d.parquet", x=rng.normal(size=ROWS), y=rng.normal(size=ROWS), **columns)
            search, tested = _parts(data, design_for(data))
            seen = set(search.train.tolist()) | set(search.test.tolist())
            assert all(not seen & set(fold.test.tolist()) for fold in tested)
            assert all(not set(fold.train.tolist()) & set(fold.test.tolist()) for fold in tested)

    def test_rows_of_one_instant_are_never_trained_and_tested_on(self, tmp_path):
        from lineage.evaluation.removal import _parts

        instants = np.sort(np.random.default_rng(3).integers(0, 37, ROWS))
        at = pa.array(instants * DAY, pa.timestamp("us", "UTC"))
        data = table(tmp_path / "d.parquet", x=np.arange(ROWS), y=np.arange(ROWS), at=at)
        search, tested = _parts(data, design_for(data))
        assert all(instants[fold.train].max() < instants[fold.test].min() for fold in [search, *tested])
        assert instants[search.test].max() < instants[tested[0].test].min()

    def test_rows_of_too_few_instants_propose_nothing(self, tmp_path):
        at = pa.array((np.arange(ROWS) > ROWS * 0.8) * DAY, pa.timestamp("us", "UTC"))
        found = self.group(tmp_path, x=np.arange(ROWS), y=np.arange(ROWS), at=at)
        assert (found.proposed, "too few instants" in found.problem) == ((), True)

    def test_copies_are_equal_up_to_scale_with_nulls_in_the_same_rows(self, tmp_path):
        x = np.random.default_rng(4).normal(size=500)
        hole = pa.array(np.where(np.arange(500) < 5, np.nan, x), from_pandas=True)
        data = table(tmp_path / "d.parquet", x=x, scaled=-3 * x, cubed=x**3, hole=hole, noise=x + 0.1, y=x)
        drops = [Drop(name, (name,)) for name in data.features]
        assert copies_of(data, drops)["x"] == {"scaled", "cubed", "noise"}
        assert copies_of(data, drops)["hole"] == frozenset()


def saved(registry, name, refs, **columns):
    """Save a dataset as the store does: rows and a manifest."""
    folder = registry.path.parent / "datasets" / name
    folder.mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / "data.parquet")
    manifest = {
        "name": name,
        "saved_at": DECLARED,
        "digest": "ab12",
        "timestamp": "event_timestamp",
        "data": "data.parquet",
        "features": [{"name": column, "ref": ref} for column, ref in refs.items()],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def indebted(registry):
    """A model that reads an old and a new version of temp, a copy and a constant; two versions of weather, a month apart."""
    refs = {
        "temp": "weather@v1:temp",
        "temp_c": "weather@v2:temp",
        "humid": "weather@v2:humid",
        "seats": "plane@v1:seats",
    }
    first = copy.deepcopy(flights())
    del first["views"]["weather"]["versions"]["2"]
    first["views"]["weather"]["current"] = 1
    registry.commit(first, when=DECLARED - 60 * DAY)
    document = copy.deepcopy(flights())
    document["views"]["weather"]["versions"]["2"]["created_revision"] = 2
    document["consumers"] |= consumer(
        "delay_model@1",
        reads=list(refs.values()),
        dataset="delay_training",
        label="late_minutes",
        tags={"epsilon": "0.05"},
    )
    registry.commit(document, when=DECLARED, revision=2)
    registry.segment()
    rng = np.random.default_rng(8)
    celsius, humid = rng.normal(size=(2, 4000))
    saved(
        registry,
        "delay_training",
        refs,
        event_timestamp=days(4000, 40),
        temp=celsius * 9 / 5 + 32,
        temp_c=celsius,
        humid=humid,
        seats=np.full(4000, 150),
        late_minutes=celsius + humid + rng.normal(size=4000),
    )
    return registry


@pytest.fixture
def run(registry, capsys):
    def run_command(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([*arguments, "--project", str(registry.folder)])
        return caught.value.code or 0, capsys.readouterr()

    return run_command


def findings(registry, code):
    return {f.subject: f for f in Lineage(registry.folder, clock=lambda: NOW * 2).check(select=[code]).all}


def test_a_redundant_older_version_is_undetermined_until_it_was_evaluated_and_then_legacy(indebted, run):
    subject = "delay_model@1 reads weather@v1:temp beside weather@v2:temp"
    assert findings(indebted, "LN420")[subject].verdict is Verdict.UNDETERMINED
    code, captured = run("evaluate", "delay_model", "--estimator", "sklearn.linear_model:Ridge")
    assert code == 0, captured.err
    found = findings(indebted, "LN420")[subject]
    assert found.verdict is Verdict.FLAGGED
    assert found.evidence[0]["coverage"] == 1.0
    assert findings(indebted, "LN431")["delay_model@1 reads plane@v1:seats"].verdict is Verdict.FLAGGED
    correlated = findings(indebted, "LN430")["delay_model@1 reads weather@v1:temp, weather@v2:temp"]
    assert correlated.verdict is Verdict.FLAGGED
    assert not any(word in json.dumps(correlated.document()).lower() for word in ("cause", "causal", "because"))


def test_an_older_version_that_is_still_needed_on_some_rows_is_superseded_and_not_redundant(indebted, run):
    path = indebted.path.parent / "datasets" / "delay_training" / "data.parquet"
    rows = pq.read_table(path)
    newer = np.where(np.arange(len(rows)) % 10 == 0, np.nan, rows["temp_c"].to_numpy())
    place = rows.column_names.index("temp_c")
    pq.write_table(rows.set_column(place, "temp_c", pa.array(newer, from_pandas=True)), path)
    found = findings(indebted, "LN421")["delay_model@1 reads weather@v1:temp beside weather@v2:temp"]
    assert found.verdict is Verdict.FLAGGED
    assert "not yet redundant" in found.message
    assert not findings(indebted, "LN420")


def test_removable_gives_the_list_the_proof_and_the_plan(indebted, run):
    code, captured = run("removable", "delay_model", "--estimator", "sklearn.linear_model:Ridge", "--format", "json")
    answer = json.loads(captured.out)
    assert (code, answer["removable"]) == (0, True)
    gone = set(answer["group"])
    assert "plane@v1:seats" in gone
    assert len(gone & {"weather@v1:temp", "weather@v2:temp"}) == 1
    assert "weather@v2:humid" not in gone
    assert "reads=[" in answer["plan"]["steps"][0]
    assert answer["judgement"]["p_negligible"] <= 0.05
    found = next(iter(findings(indebted, "LN440").values()))
    assert found.verdict is Verdict.FLAGGED


def test_an_evaluation_of_other_features_than_the_manifest_lists_says_nothing(indebted, run):
    assert run("evaluate", "delay_model", "--estimator", "sklearn.linear_model:Ridge")[0] == 0
    assert {f.verdict for f in findings(indebted, "LN401").values()} > {Verdict.FLAGGED}
    document = copy.deepcopy(flights())
    document["views"]["extra"] = {"current": 1, "versions": {"1": version(feature("x"), made_from=source("x"))}}
    document["consumers"]["delay_model@1"]["reads"] = ["weather@v1:temp", "extra@v1:x"]
    indebted.commit(document, when=NOW, revision=3)
    assert {f.verdict for f in findings(indebted, "LN401").values()} == {Verdict.UNDETERMINED}


def test_a_view_that_is_kept_on_purpose_is_not_flagged(indebted, run):
    assert run("evaluate", "delay_model", "--estimator", "sklearn.linear_model:Ridge")[0] == 0
    assert findings(indebted, "LN401")["delay_model@1 without seats"].verdict is Verdict.FLAGGED
    document = json.loads(json.dumps(flights()))
    document["views"]["plane"]["versions"]["1"]["tags"] = {"keep": "the regulator asks for it"}
    reads = ["weather@v1:temp", "weather@v2:temp", "weather@v2:humid", "plane@v1:seats"]
    document["consumers"] |= consumer("delay_model@1", reads=reads, dataset="delay_training", label="late_minutes")
    indebted.commit(document, when=NOW, revision=3)
    assert findings(indebted, "LN401")["delay_model@1 without seats"].verdict is Verdict.CLEARED


def test_the_report_is_one_page_that_loads_nothing_and_explains_each_number(indebted, run, tmp_path):
    assert run("evaluate", "delay_model", "--estimator", "sklearn.linear_model:Ridge")[0] == 0
    path = tmp_path / "debt.html"
    code, _ = run("debt", "delay_model", "--format", "html", "--out", str(path))
    page = path.read_text()
    assert code == 1
    body = page.partition("<body>")[2].rpartition("</body>")[0].replace("<br>", "<br/>")
    ET.fromstring(f"<b>{body}</b>")
    assert page.count("<svg") >= 3
    assert not re.search(r"(?:src|href)=|<script|@import|url\(", page)
    for text in ("NEGLIGIBLE", "weather@v1:temp", "Benjamini", "Migration", "epsilon 0.05"):
        assert text in page


def test_a_name_is_never_taken_as_markup(indebted, run):
    from lineage.report.plots import Interval, curves, intervals, matrix, scatter

    bad = "<script>alert(1)</script>"
    drawn = [
        intervals([Interval(bad, 0.1, 0.0, 0.2, "MATERIAL")], 0.1),
        scatter([(bad, 1.0, 2.0, "MATERIAL")], across="bytes", up="gain"),
        curves({bad: {"2026-01-01": 0.5, "2026-01-08": 1.0}}),
        matrix([bad, "b"], {(bad, "b"): 0.5}),
    ]
    for text in drawn:
        ET.fromstring(text)
        assert "<script" not in text


def test_the_report_is_also_text_json_and_sarif(indebted, run):
    assert run("evaluate", "delay_model", "--estimator", "sklearn.linear_model:Ridge")[0] == 0
    code, captured = run("debt")
    assert code == 1
    assert "delay_model@1: 4 features" in captured.out
    document = json.loads(run("debt", "--format", "json")[1].out)
    assert {j["name"]: j["worth"] for j in document["models"][0]["evaluated"]}["humid"] == "MATERIAL"
    sarif = json.loads(run("debt", "--format", "sarif")[1].out)
    assert {"LN401", "LN420", "LN431"} <= {result["ruleId"] for result in sarif["runs"][0]["results"]}
    assert run("debt", "nobody")[0] == 4


def test_a_report_without_any_evaluation_says_how_to_make_one(project, run):
    code, captured = run("debt")
    assert "lineage evaluate delay_model@1" in captured.out
    assert code in (0, 1)


def test_a_successor_that_could_not_be_measured_is_undetermined(indebted):
    path = indebted.path.parent / "datasets" / "delay_training" / "data.parquet"
    pq.write_table(pq.read_table(path).slice(0, 80), path)
    found = findings(indebted, "LN421")["delay_model@1 reads weather@v1:temp beside weather@v2:temp"]
    assert found.verdict is Verdict.UNDETERMINED
    assert "explains" not in found.message


def test_names_of_points_lie_inside_of_the_plot_and_over_no_other():
    import re

    from lineage.report.plots import WIDTH, scatter

    points = [
        (f"weather@v1:feature_{place}", 100.0 + place % 3, 0.001 * (place // 6), "MATERIAL") for place in range(12)
    ]
    drawn = re.findall(
        r'<text x="([\d.-]+)" y="([\d.-]+)" text-anchor="(\w+)"[^>]*>(weather[^<]*)<',
        scatter(points, across="b", up="g"),
    )
    assert len(drawn) == 12
    boxes = []
    for x, y, anchor, name in drawn:
        wide = 7.0 * len(name)
        boxes.append((float(x) - (wide if anchor == "end" else 0), wide, float(y)))
    assert all(start >= 0 and start + wide <= WIDTH for start, wide, _ in boxes)
    apart = [
        abs(y - other_y) >= 11.9 or start + wide <= other or other + other_wide <= start
        for place, (start, wide, y) in enumerate(boxes)
        for other, other_wide, other_y in boxes[:place]
    ]
    assert all(apart)
