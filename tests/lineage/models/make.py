"""Trains the models of this folder: inputs a, b, c, d of which only a and c say anything; run where the packages are installed.

pip install lightgbm xgboost onnx skl2onnx scikit-learn && python tests/lineage/models/make.py
"""

import json
from importlib.metadata import version
from pathlib import Path

import lightgbm
import numpy as np
import xgboost
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeRegressor

HERE = Path(__file__).parent
NAMES = ["a", "b", "c", "d"]
rng = np.random.default_rng(3)
x = rng.normal(size=(400, 4)).astype(np.float32)
x[:, 1] = 0  # nothing to split on
x[:, 3] = 1
y = x[:, 0] * 2 - x[:, 2]

data = lightgbm.Dataset(x, y, feature_name=NAMES)
lightgbm.train({"num_leaves": 4, "verbose": -1}, data, 3).save_model(HERE / "trees.lightgbm.txt")
matrix = xgboost.DMatrix(x, y, feature_names=NAMES)
trees = xgboost.train({"max_depth": 2}, matrix, 3)
trees.save_model(HERE / "trees.xgboost.json")
trees.save_model(HERE / "trees.xgboost.ubj")
linear = xgboost.train({"booster": "gblinear", "alpha": 0.1}, matrix, 20)
linear.save_model(HERE / "linear.xgboost.ubj")

one_column = [(name, FloatTensorType([None, 1])) for name in NAMES]
for name, model in (("trees", DecisionTreeRegressor(max_depth=3)), ("linear", LinearRegression())):
    model.fit(x, y)
    if name == "linear":
        model.coef_ = np.where(np.abs(model.coef_) < 1e-3, 0, model.coef_)
    whole = to_onnx(model, initial_types=[("x", FloatTensorType([None, 4]))])
    (HERE / f"{name}_matrix.onnx").write_bytes(whole.SerializeToString())
    import pandas as pd

    frame = pd.DataFrame(x, columns=NAMES)
    columns = make_pipeline(make_column_transformer(("passthrough", NAMES)), type(model)(**model.get_params()))
    columns.fit(frame, y)
    if name == "linear":
        last = columns[-1]
        last.coef_ = np.where(np.abs(last.coef_) < 1e-3, 0, last.coef_)
    (HERE / f"{name}.onnx").write_bytes(to_onnx(columns, initial_types=one_column).SerializeToString())

packages = ("lightgbm", "xgboost", "onnx", "skl2onnx", "scikit-learn", "numpy")
(HERE / "made_with.json").write_text(json.dumps({name: version(name) for name in packages}, indent=2) + "\n")
