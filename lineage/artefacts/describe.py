"""Describes a model that is in memory, in the program that has it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lineage.artefacts.artefact import artefact, opaque
from lineage.artefacts.lightgbm import parse_lightgbm
from lineage.artefacts.xgboost import parse_xgboost

# Steps of a pipeline that give out the same columns in the same order.
_SAME_COLUMNS = frozenset(
    {"StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler", "QuantileTransformer", "PowerTransformer"}
)


def describe(model: Any) -> dict[str, Any]:
    """Return what a model uses of its inputs, as JSON values.

    Args:
        model: A fitted model of scikit-learn, LightGBM or XGBoost, or a pipeline of scikit-learn that ends in one. One that is not
            understood is opaque.
    """
    kind = f"{type(model).__module__.partition('.')[0]}.{type(model).__name__}"
    booster = getattr(model, "booster_", model)
    if hasattr(booster, "model_to_string"):
        return _renamed(parse_lightgbm(booster.model_to_string()), kind)
    if hasattr(model, "get_booster") or hasattr(model, "save_raw"):
        return _renamed(_xgboost(model.get_booster() if hasattr(model, "get_booster") else model), kind)
    return _scikit(model, kind)


def _renamed(found: dict[str, Any], kind: str) -> dict[str, Any]:
    return {**found, "format": kind}


def _xgboost(booster: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.json"
        booster.save_model(str(path))
        return parse_xgboost(json.loads(path.read_text("utf-8")))


def _scikit(model: Any, kind: str) -> dict[str, Any]:
    names = [str(name) for name in getattr(model, "feature_names_in_", ())]
    steps = getattr(model, "steps", None)
    last = model
    if steps:
        strange = [type(step).__name__ for _, step in steps[:-1] if not _keeps_columns(step)]
        if strange:
            return opaque(kind, f"its step {strange[0]} changes the columns", names)
        last = steps[-1][1]
    used = _used(last)
    return (
        opaque(kind, f"{type(last).__name__} is not understood", names) if used is None else artefact(kind, names, used)
    )


def _keeps_columns(step: Any) -> bool:
    if step is None or step == "passthrough" or type(step).__name__ in _SAME_COLUMNS:
        return True
    drops_nothing = not getattr(step, "add_indicator", False) and getattr(step, "keep_empty_features", False)
    return type(step).__name__ == "SimpleImputer" and bool(drops_nothing)


def _used(model: Any) -> Iterable[int] | None:
    """Return the places that a model has weight for; None when it is not understood."""
    if hasattr(model, "coef_"):
        rows = _rows(model.coef_)
        return {place for row in rows for place, weight in enumerate(row) if weight != 0}
    if hasattr(model, "tree_"):
        return _splits(model)
    if hasattr(model, "estimators_"):
        trees = [tree for group in model.estimators_ for tree in (group if _is_sequence(group) else [group])]
        known = [_used(tree) for tree in trees]
        return None if any(found is None for found in known) else {p for found in known for p in found or ()}
    if hasattr(model, "_predictors"):  # histogram gradient boosting keeps its trees here alone
        nodes = [tree.nodes for group in model._predictors for tree in group]  # noqa: SLF001
        if getattr(model, "_preprocessor", None) is not None:  # categories come first, in another order
            return None
        return {int(place) for part in nodes for place in part["feature_idx"][part["is_leaf"] == 0]}
    return None


def _splits(model: Any) -> set[int]:
    return {int(place) for place in model.tree_.feature if place >= 0}


def _rows(weights: Any) -> Sequence[Sequence[float]]:
    values = weights.tolist()
    return values if values and isinstance(values[0], list) else [values]


def _is_sequence(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or (hasattr(value, "__len__") and not hasattr(value, "fit"))
