"""Entanglement: what one changed feature does to predictions, beyond what a new seed does."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression

from lineage.evaluation.data import read_data
from lineage.evaluation.entanglement import churn
from lineage.evaluation.folds import design_for
from lineage.evaluation.running import Drop, Evaluation
from lineage.evaluation.training import EstimatorTrainer, FunctionTrainer


@pytest.fixture
def asked(tmp_path):
    def make(factory, **columns):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(2000, 3))
        known = {
            "used": x[:, 0],
            "other": x[:, 1],
            "idle": x[:, 2],
            "y": x[:, 0] + x[:, 1] + 0.1 * rng.normal(size=2000),
        }
        pq.write_table(pa.table(known | columns), tmp_path / "d.parquet")
        data = read_data(str(tmp_path / "d.parquet"), label="y")
        drops = tuple(Drop(name, (name,)) for name in data.features)
        return Evaluation("m@1", data, EstimatorTrainer("t:x", factory, data), drops, design_for(data), tmp_path)

    return make


def test_a_used_feature_moves_predictions_and_an_idle_one_does_not(asked):
    found = {c.feature: c for c in churn(asked(LinearRegression))}
    assert found["used"].entangled is True
    assert found["used"].seed == 0.0
    assert found["used"].moved == pytest.approx(0.1 * np.sqrt(2 / np.pi) / np.sqrt(2), rel=0.1)
    assert found["idle"].moved < found["used"].moved / 10


def test_what_a_seed_does_alone_is_taken_away(asked):
    def forest(random_state):
        return RandomForestRegressor(n_estimators=10, max_depth=4, random_state=random_state)

    found = {c.feature: c for c in churn(asked(forest), ["idle"])}["idle"]
    assert found.seed > 0
    assert found.entangled is not True


def test_bad_input_is_said_and_nothing_is_judged(asked):
    assert "constant" in churn(asked(LinearRegression, y=np.ones(2000)), ["used"])[0].problem
    broken = asked(LinearRegression, used=pa.array([None] * 10 + [1.0] * 1990))
    assert "failed" in churn(broken, ["used"])[0].problem
    function = FunctionTrainer("t:f", lambda *_: None, broken.data)
    assert (
        "use an estimator" in churn(Evaluation("m", broken.data, function, (), broken.design, broken.folder))[0].problem
    )
