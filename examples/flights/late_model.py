"""A second model, with debt on purpose: what a deadline leaves behind. `lineage debt late_model` finds it."""

from __future__ import annotations

from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler


def make() -> Pipeline:
    """Return the untrained model."""
    return make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler(), LogisticRegression())
