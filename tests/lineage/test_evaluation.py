"""Evaluation: retraining without a feature, and what is said of it."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from lineage import Verdict
from lineage.cli import main
from lineage.errors import CorruptRegistryError, InvalidQuestionError, NotFoundError
from lineage.evaluation.data import read_data
from lineage.evaluation.evidence import reports_of
from lineage.evaluation.folds import Design, clusters_of, design_for, folds_of
from lineage.evaluation.record import Record, newest, read_records, save_record
from lineage.evaluation.running import Drop, Evaluation, evaluate
from lineage.evaluation.training import EstimatorTrainer, FunctionTrainer, TrainingError, imported
from lineage.evaluation.verdicts import Worth

NOW = 1_780_000_000_000_000


def rows(count=3000, *, seed=0):
    """Three useful features, a copy, a constant and noise; a number and a class to predict."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 3))
    value = x[:, 0] + 0.6 * x[:, 1] + rng.normal(size=count)
    return {
        "big": x[:, 0],
        "middle": x[:, 1],
        "noise": x[:, 2],
        "constant": np.full(count, 2013),
        "text": rng.choice(["a", "b"], count),
        "value": value,
        "late": value > 0.3,
    }


@pytest.fixture
def dataset(tmp_path):
    def write(**changed):
        path = tmp_path / "rows.parquet"
        columns = {name: column for name, column in (rows() | changed).items() if column is not None}
        pq.write_table(pa.table(columns), path)
        return str(path)

    return write


def run(path, tmp_path, *, label="value", factory=Ridge, drops=(), leave_out=("late",), **fields):
    data = read_data(
        path, label=label, leave_out=leave_out, **{k: fields.pop(k) for k in ("time", "group") if k in fields}
    )
    trainer = fields.pop("trainer", EstimatorTrainer("tests:factory", factory, data))
    asked = Evaluation(
        "delay_model@1",
        data,
        trainer,
        drops or tuple(Drop(name, (name,)) for name in data.features),
        fields.pop("design", design_for(data)),
        tmp_path / "evaluations",
        **fields,
    )
    return evaluate(asked, now=lambda: NOW)


def worths(found):
    return {judgement.name: judgement.worth for judgement in found.judgements}


def test_needed_features_are_material_and_noise_is_negligible(dataset, tmp_path):
    found = run(dataset(), tmp_path)
    assert worths(found) == {
        "big": Worth.MATERIAL,
        "middle": Worth.MATERIAL,
        "noise": Worth.NEGLIGIBLE,
        "constant": Worth.NEGLIGIBLE,
        "text": Worth.NEGLIGIBLE,
    }


def test_classes_are_judged_by_log_loss(dataset, tmp_path):
    found = run(
        dataset(text=None), tmp_path, label="late", factory=LogisticRegression, leave_out=("value",), epsilon=0.01
    )
    assert {record.metric for record in found.records} == {"log_loss"}
    assert worths(found)["big"] is Worth.MATERIAL
    assert worths(found)["noise"] is Worth.NEGLIGIBLE


def test_both_of_two_copies_are_negligible_and_the_pair_is_material(dataset, tmp_path):
    copied = rows()["big"]
    drops = (Drop("big", ("big",)), Drop("copy", ("copy",)), Drop("big + copy", ("big", "copy")))
    found = run(dataset(copy=copied), tmp_path, drops=drops)
    assert worths(found) == {"big": Worth.NEGLIGIBLE, "copy": Worth.NEGLIGIBLE, "big + copy": Worth.MATERIAL}


def test_a_feature_needed_on_a_declared_slice_is_not_negligible(dataset, tmp_path):
    rng = np.random.default_rng(3)
    inside = rng.random(3000) < 0.1
    extra = rng.normal(size=3000)
    path = dataset(extra=extra, crossed=extra * inside, inside=inside, value=rows()["value"] + 1.5 * extra * inside)
    drops = (Drop("extra", ("extra", "crossed")),)
    assert run(path, tmp_path, drops=drops, epsilon=0.4).judgements[0].worth is Worth.NEGLIGIBLE
    sliced = run(path, tmp_path, drops=drops, epsilon=0.4, slices=("inside",))
    assert sliced.judgements[0].worth is Worth.MATERIAL
    assert "inside=True" in sliced.judgements[0].reason


def test_an_undecided_feature_says_how_many_rows_would_decide(dataset, tmp_path):
    found = run(dataset(), tmp_path, drops=(Drop("noise", ("noise",)),), epsilon=1e-6)
    judgement = found.judgements[0]
    assert judgement.worth is Worth.UNDETERMINED
    assert judgement.rows_to_decide > 3000 or math.isinf(judgement.rows_to_decide)


class Failing:
    def fit(self, values, target):
        raise FloatingPointError("cannot converge")


class Shaky(Ridge):
    def fit(self, values, target):
        return super().fit(values + np.random.default_rng().normal(size=values.shape), target)


class NotANumber(Ridge):
    def predict(self, values):
        return np.full(len(values), np.nan)


@pytest.mark.parametrize(
    ("changed", "fields", "said"),
    [
        ({}, {"factory": Failing}, "failed: FloatingPointError: cannot converge"),
        ({}, {"factory": Shaky}, "not deterministic"),
        ({}, {"factory": NotANumber}, "predicted NaN"),
        ({"noise": np.r_[np.nan, rows()["noise"][1:]]}, {}, "Input X contains NaN"),
        ({"value": np.ones(3000)}, {}, "constant"),
        ({"late": np.ones(3000, bool)}, {"label": "late", "leave_out": ("value",)}, "one class alone"),
        ({"value": np.r_[np.inf, rows()["value"][1:]]}, {}, "not finite"),
        ({"value": pa.array([1.0, 2.0] * 50 + [None] * 2900)}, {}, "too little data: 100 rows"),
        ({"big": rows()["noise"] * 0, "middle": rows()["noise"] * 0}, {}, "no better than a constant"),
    ],
)
def test_bad_input_is_said_plainly_and_nothing_is_judged(dataset, tmp_path, changed, fields, said):
    found = run(dataset(**changed), tmp_path, **fields)
    assert set(worths(found).values()) == {Worth.UNDETERMINED}
    assert said in found.judgements[0].reason


def test_rows_of_one_instant_decide_nothing(dataset, tmp_path):
    found = run(dataset(at=pa.array(np.zeros(3000, int), pa.timestamp("us", "UTC"))), tmp_path)
    assert {j.reason for j in found.judgements} == {
        "no row is later than another by 'at', so there is no split forward in time"
    }


def test_few_independent_groups_decide_nothing(dataset, tmp_path):
    found = run(dataset(customer=np.arange(3000) % 10), tmp_path, group="customer")
    assert {j.reason for j in found.judgements} == {"only 10 independent groups of rows; at least 20 are needed"}


def test_a_train_function_gets_no_label_and_no_dropped_feature(dataset, tmp_path):
    seen = []

    def mean(train, test, *, label, seed):
        seen.append((train.column_names, test.column_names, seed))
        value = train[label].to_numpy()
        weights = np.polyfit(train["big"].to_numpy(), value, 1) if "big" in train.column_names else [0, value.mean()]
        return (
            np.polyval(weights, test["big"].to_numpy())
            if "big" in test.column_names
            else np.full(len(test), weights[1])
        )

    data = read_data(dataset(), label="value", leave_out=("late",))
    found = run(dataset(), tmp_path, trainer=FunctionTrainer("t:mean", mean, data), drops=(Drop("big", ("big",)),))
    assert worths(found) == {"big": Worth.MATERIAL}
    assert all("value" not in test for _, test, _ in seen)
    assert any("big" not in train for train, _, _ in seen)


def ones(rows, columns=None):
    return np.ones(rows if columns is None else (rows, columns))


@pytest.mark.parametrize(
    ("label", "answer", "said"),
    [
        ("late", lambda rows: np.linspace(-1, 5, rows), "probabilities are from 0 to 1"),
        ("late", lambda rows: ones(rows, 2), "do not sum to 1"),
        ("late", lambda rows: ones(rows, 3) / 3, "no probabilities of 2 classes"),
        ("three", lambda rows: np.arange(rows) % 3, "no probabilities of 3 classes"),
        ("value", lambda rows: ["much"] * rows, "no number"),
        ("value", lambda rows: ones(rows, 2), "2 numbers for a row"),
        ("value", lambda rows: 1.0, "shape ()"),
    ],
)
def test_predictions_of_the_wrong_form_are_no_losses(dataset, label, answer, said):
    data = read_data(dataset(three=[*rows()["text"].tolist()[:-1], "c"]), label=label)
    trainer = FunctionTrainer("t:wrong", lambda train, test, *, label, seed: answer(len(test)), data)
    with pytest.raises(TrainingError, match=re.escape(said)):
        trainer.losses(("big",), folds_of(data, Design("plain"))[0])


def test_probabilities_are_taken_as_two_columns_or_as_those_of_the_second_class(dataset):
    data = read_data(dataset(), label="late")
    fold = folds_of(data, Design("plain"))[0]
    chance = np.random.default_rng(5).random(len(fold.test)).astype(np.float32)
    expected = -np.log(np.where(data.target()[fold.test] == 1, chance, 1 - chance))
    for answer in (chance, np.column_stack([1 - chance, chance])):
        trainer = FunctionTrainer("t:two", lambda train, test, *, label, seed, answer=answer: answer, data)
        assert trainer.losses(("big",), fold) == pytest.approx(expected, abs=1e-6)


def test_an_edited_factory_is_another_experiment(dataset, tmp_path, monkeypatch):
    data = read_data(dataset(), label="value", leave_out=("late",))
    monkeypatch.syspath_prepend(tmp_path)
    source = "from sklearn.linear_model import Ridge\ndef make():\n    return Ridge().set_params(alpha={})\n"
    found = []
    for name, text in (("first", "1"), ("second", "1 * 1"), ("third", "1")):
        (tmp_path / f"edited_{name}.py").write_text(source.format(text))
        found.append(EstimatorTrainer("m:make", imported(f"edited_{name}:make", tmp_path), data).parameters)
    assert found[0] != found[1]
    assert found[0] == found[2]


def test_the_newest_record_decides_what_is_compared(project, ask):
    def record(dropped, at, digest):
        return Record(
            "m@1", (dropped,), ("a", "b"), "d", digest, "y", "squared_error", "t:t", at, problem="too little data"
        )

    for made in (record("a", 1, "old"), record("b", 2, "old"), record("a", 3, "new")):
        save_record(project.folder / "store" / "evaluations", made)
    (report,) = reports_of(ask.state())
    assert [(one.dropped, one.digest) for one in report.records] == [(("a",), "new")]


def test_forward_folds_never_train_on_what_came_later(dataset):
    times = pa.array(
        np.sort(np.random.default_rng(1).integers(0, 400, 3000)) * 86_400_000_000, pa.timestamp("us", "UTC")
    )
    data = read_data(dataset(at=times), label="value")
    values = data.table["at"].cast(pa.int64()).to_numpy()
    folds = folds_of(data, design_for(data))
    assert len(folds) == 10
    assert all(values[fold.train].max() < values[fold.test].min() for fold in folds)
    assert sum(len(fold.test) for fold in folds) >= 1500
    assert len(np.unique(clusters_of(data, design_for(data)))) == len(np.unique(values))


def test_grouped_folds_keep_a_group_on_one_side(dataset):
    customer = np.random.default_rng(2).integers(0, 300, 3000)
    data = read_data(dataset(customer=customer), label="value", group="customer")
    for fold in folds_of(data, Design("grouped", repeats=2)):
        assert not set(customer[fold.train]) & set(customer[fold.test])
    assert data.features == ("big", "middle", "noise", "constant", "text", "late")


def test_a_record_is_kept_whole_and_read_back(dataset, tmp_path):
    found = run(dataset(), tmp_path, slices=("text",))
    kept = newest(read_records(tmp_path / "evaluations"))
    assert {record.dropped for record in found.records} == {dropped for _, dropped in kept}
    record = kept["delay_model@1", ("noise",)]
    assert (record.stage, record.design["kind"], record.label) == ("confirmed", "plain", "value")
    assert record.parameters["class"] == "Ridge"
    assert record.losses["all"].rows == 3000
    assert set(record.losses) == {"all", "text=a", "text=b"}
    assert run(dataset(), tmp_path, slices=("text",)).judgements == found.judgements


def test_a_damaged_record_is_named(dataset, tmp_path):
    run(dataset(), tmp_path, drops=(Drop("noise", ("noise",)),))
    path = next((tmp_path / "evaluations").glob("*.json"))
    path.write_text("{")
    with pytest.raises(CorruptRegistryError, match=path.name):
        read_records(tmp_path / "evaluations")


def test_a_small_budget_screens_first_and_says_what_was_not_confirmed(dataset, tmp_path):
    class Slow(Ridge):
        def fit(self, values, target):
            time.sleep(0.02)
            return super().fit(values, target)

    found = run(dataset(), tmp_path, factory=Slow, budget=0.4)
    stages = {record.name: record.stage for record in found.records}
    assert stages["big"] == "screened"
    assert worths(found)["big"] is Worth.MATERIAL
    undecided = [j for j in found.judgements if j.worth is Worth.UNDETERMINED]
    assert all(worth is not Worth.NEGLIGIBLE for name, worth in worths(found).items() if stages[name] == "screened")
    assert undecided
    assert any("not confirmed" in note for note in found.notes)
    again = run(dataset(), tmp_path, factory=Slow, budget=60)
    assert again.reused > 0
    assert Worth.UNDETERMINED not in worths(again).values()


SLOW = """
import os
import time
from sklearn.linear_model import Ridge

class Slow(Ridge):
    def fit(self, values, target):
        time.sleep(float(os.environ.get("SLOW_FIT", "0")))
        return super().fit(values, target)
"""


def test_a_killed_evaluation_goes_on_where_it_was(project, dataset, capsys):
    (project.folder / "slow_model.py").write_text(SLOW)
    asked = ["evaluate", "delay_model@1", "--dataset", dataset(), "--label", "value", "--leave-out", "late"]
    asked += ["--estimator", "slow_model:Slow", "--project", str(project.folder), "--format", "json"]
    fits = project.folder / "store" / "evaluations" / "fits"
    process = subprocess.Popen(
        [sys.executable, "-m", "lineage.cli", *asked],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"SLOW_FIT": "0.05"},
    )
    deadline = time.monotonic() + 60
    while len(list(fits.glob("*.npz"))) < 12 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    kept = len(list(fits.glob("*.npz")))
    assert kept >= 12
    with pytest.raises(SystemExit) as caught:
        main(asked)
    assert not caught.value.code
    answer = json.loads(capsys.readouterr().out)
    assert answer["reused"] >= kept - 1
    assert {j["name"]: j["worth"] for j in answer["judgements"]}["big"] == "MATERIAL"
    assert not list(fits.glob("*.npz"))


def test_the_command_fills_in_what_the_manifest_says(project, dataset, capsys):
    asked = ["evaluate", "delay_model@1", "--estimator", "sklearn.linear_model:Ridge", "--project", str(project.folder)]
    with pytest.raises(SystemExit) as caught:
        main([*asked, "--label", "value"])
    assert caught.value.code == 4
    assert "No dataset 'delay_training'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main([*asked, "--dataset", dataset(), "--label", "value", "--leave-out", "late", "--drop", "big + nois"])
    assert caught.value.code == 4
    assert "Did you mean 'noise'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main([*asked, "--dataset", dataset(), "--label", "value", "--leave-out", "late", "--epsilon", "0.03"])
    assert not caught.value.code
    assert "NEGLIGIBLE" in capsys.readouterr().out


def test_an_epsilon_feature_is_a_finding_with_its_record(project, ask, dataset, capsys):
    asked = ["evaluate", "delay_model@1", "--estimator", "sklearn.linear_model:Ridge", "--project", str(project.folder)]
    with pytest.raises(SystemExit):
        main([*asked, "--dataset", dataset(), "--label", "value", "--leave-out", "late"])
    capsys.readouterr()
    ask = type(ask)(project.folder)
    found = {f.subject.partition(" without ")[2]: f for f in ask.check(select=["LN4"]).all}
    assert found["noise"].verdict is Verdict.FLAGGED
    assert found["big"].verdict is Verdict.CLEARED
    evidence = ask.explain(found["noise"].id).evidence[0]
    assert evidence["type"] == "evaluation"
    assert (project.folder / "store" / "evaluations" / f"{evidence['record']}.json").is_file()


@pytest.mark.parametrize("path", ["nothing", "no.such.module:x", "json:nothing", "json:__name__"])
def test_an_import_path_that_names_nothing_is_refused(path):
    with pytest.raises(InvalidQuestionError):
        imported(path)


def test_an_unknown_column_is_refused_with_the_nearest(dataset):
    with pytest.raises(NotFoundError, match="Did you mean 'value'"):
        read_data(dataset(), label="valu")
