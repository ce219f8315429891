"""Findings work like a linter: a stable code, a verdict of three, the evidence, and how to fix it.

A finding is a function ``(State, Parameters) -> Iterator[Finding]`` in a file of its own name; `FINDINGS` is the order they run in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lineage.findings.finding import SEVERITIES, Finding, Parameters, Rule, Suppression, Verdict

if TYPE_CHECKING:
    from lineage.findings.checking import FINDINGS, RULES, Findings, check, explain, rules_of, selected

__all__ = [
    "FINDINGS",
    "RULES",
    "SEVERITIES",
    "Finding",
    "Findings",
    "Parameters",
    "Rule",
    "Suppression",
    "Verdict",
    "check",
    "explain",
    "rules_of",
    "selected",
]


def __getattr__(name: str) -> Any:
    """Load the rules where they are first asked for, so that who needs only a verdict does not wait for them."""
    if name not in __all__:
        raise AttributeError(f"module 'lineage.findings' has no attribute '{name}'")
    from lineage.findings import checking

    return getattr(checking, name)
