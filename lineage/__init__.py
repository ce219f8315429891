"""Lineage and feature debt: who declares and who reads every feature version, and what breaks when it changes.

Stands alone: it reads the registry's neutral JSON and the usage tables by the standard library, and imports nothing of the store.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lineage.consumers import Consumers, Relation, Standing
    from lineage.errors import (
        CorruptRegistryError,
        InvalidQuestionError,
        LineageError,
        MissingRegistryError,
        NewerSchemaError,
        NotAllowedError,
        NotFoundError,
        UnavailableError,
    )
    from lineage.findings import Finding, Findings, Parameters, Rule, Verdict
    from lineage.graph import Closure, Edge, Graph, Node
    from lineage.impact import Impact
    from lineage.log import LogEntry
    from lineage.manifests import Declaration, ManifestDiff
    from lineage.project import Lineage, ObjectUsage, find_project
    from lineage.usage import Coverage, Gap, Reads

_HOMES = {
    "Closure": "graph",
    "Consumers": "consumers",
    "CorruptRegistryError": "errors",
    "Coverage": "usage",
    "Declaration": "manifests",
    "Edge": "graph",
    "Finding": "findings",
    "Findings": "findings",
    "Gap": "usage",
    "Graph": "graph",
    "Impact": "impact",
    "InvalidQuestionError": "errors",
    "Lineage": "project",
    "LineageError": "errors",
    "LogEntry": "log",
    "ManifestDiff": "manifests",
    "MissingRegistryError": "errors",
    "NewerSchemaError": "errors",
    "Node": "graph",
    "NotAllowedError": "errors",
    "NotFoundError": "errors",
    "ObjectUsage": "project",
    "Parameters": "findings",
    "Reads": "usage",
    "Relation": "consumers",
    "Rule": "findings",
    "Standing": "consumers",
    "UnavailableError": "errors",
    "Verdict": "findings",
    "find_project": "project",
}

__all__ = [
    "Closure",
    "Consumers",
    "CorruptRegistryError",
    "Coverage",
    "Declaration",
    "Edge",
    "Finding",
    "Findings",
    "Gap",
    "Graph",
    "Impact",
    "InvalidQuestionError",
    "Lineage",
    "LineageError",
    "LogEntry",
    "ManifestDiff",
    "MissingRegistryError",
    "NewerSchemaError",
    "Node",
    "NotAllowedError",
    "NotFoundError",
    "ObjectUsage",
    "Parameters",
    "Reads",
    "Relation",
    "Rule",
    "Standing",
    "UnavailableError",
    "Verdict",
    "find_project",
]


def __getattr__(name: str) -> Any:
    """Load a public name where it is first asked for, so that `import lineage` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'lineage' has no attribute '{name}'")
    return getattr(importlib.import_module(f"lineage.{_HOMES[name]}"), name)
