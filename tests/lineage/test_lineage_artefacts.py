"""Model files say which inputs have weight, and nothing in them is run."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from lineage import InvalidQuestionError, NotFoundError
from lineage.artefacts import describe, read_artefact
from lineage.artefacts.ubj import decode_ubj

MODELS = Path(__file__).parent / "models"


class Frame:
    """The least of a table that scikit-learn takes names from."""

    def __init__(self, values, names):
        import pandas as pd

        self.table = pd.DataFrame(values, columns=names)


def fitted(model):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(200, 4))
    x[:, 1], x[:, 3] = 0, 1
    return model.fit(Frame(x, list("abcd")).table, x[:, 0] * 2 - x[:, 2])


@pytest.mark.parametrize(
    "name",
    [
        "trees.lightgbm.txt",
        "trees.xgboost.json",
        "trees.xgboost.ubj",
        "linear.xgboost.ubj",
        "trees.onnx",
        "linear.onnx",
    ],
)
def test_a_real_model_file_says_which_inputs_have_weight(name):
    found = read_artefact(MODELS / name)
    assert (found["inputs"], found["used"], found["opaque"]) == (list("abcd"), ["a", "c"], "")


@pytest.mark.parametrize("name", ["trees_matrix.onnx", "linear_matrix.onnx"])
def test_inputs_without_names_leave_it_open(name):
    found = read_artefact(MODELS / name)
    assert found["used"] == []
    assert "many columns without names" in found["opaque"]


def test_what_describe_says_in_the_program_is_read_back(tmp_path):
    forest = describe(fitted(RandomForestRegressor(3, max_depth=3, random_state=0)))
    assert set(forest["used"]) == {"a", "c"}
    path = tmp_path / "model.json"
    path.write_text(json.dumps(forest))
    assert read_artefact(path) == forest
    assert set(describe(fitted(HistGradientBoostingRegressor(max_iter=3)))["used"]) == {"a", "c"}


def test_a_pipeline_is_followed_while_its_columns_stay():
    scaled = fitted(make_pipeline(StandardScaler(), LinearRegression()))
    scaled[-1].coef_ = np.where(np.abs(scaled[-1].coef_) < 1e-9, 0, scaled[-1].coef_)
    assert describe(scaled)["used"] == ["a", "c"]
    assert "PolynomialFeatures" in describe(fitted(make_pipeline(PolynomialFeatures(), LinearRegression())))["opaque"]
    assert "KNeighborsRegressor" in describe(fitted(KNeighborsRegressor()))["opaque"]


class Bomb:
    def __reduce__(self):
        return (Path.write_text, (Path("/nonexistent/exploded"), ""))


def test_a_pickle_is_refused_unopened(tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InvalidQuestionError, match="would have to be run"):
        read_artefact(path)
    with pytest.raises(NotFoundError):
        read_artefact(tmp_path / "nothing")


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(sorted(p.name for p in MODELS.iterdir() if p.suffix in (".txt", ".ubj", ".onnx", ".json"))),
    st.data(),
)
def test_a_damaged_file_is_an_error_and_never_a_crash(tmp_path_factory, name, data):
    content = bytearray((MODELS / name).read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / name
    path.write_bytes(bytes(content[: data.draw(st.integers(1, len(content)))]))
    try:
        found = read_artefact(path)
    except InvalidQuestionError:
        return
    assert set(found["used"]) <= set(found["inputs"])


def test_ubj_is_read_as_its_page_says():
    assert decode_ubj(b"[ZTF[]{}]") == [None, True, False, [], {}]
    assert decode_ubj(b"{#i\x01i\x01aSi\x02hi") == {"a": "hi"}
    assert decode_ubj(b"D" + np.array([1.5], ">f8").tobytes()) == 1.5
    with pytest.raises(ValueError, match="there is more"):
        decode_ubj(b"ZZ")
    with pytest.raises(ValueError, match="no UBJ"):
        decode_ubj(b"[$d#I\x7f\xff\x00")
