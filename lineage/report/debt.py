"""What a report on debt is made of: the findings of the debt rules, and per model what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lineage.errors import NotFoundError
from lineage.evaluation.cost import Cost, cost_of
from lineage.evaluation.evidence import Report, reports_of
from lineage.evaluation.record import FOLDER, asdict_without_losses
from lineage.evaluation.replaying import ReplayedCosts, read_costs
from lineage.findings import Finding, Parameters, Verdict, check
from lineage.registry import view_of
from lineage.state import State
from lineage.usage import Coverage

DEBT_RULES = "LN4"


@dataclass(frozen=True, slots=True)
class ModelDebt:
    """The debt of one model.

    Attributes:
        model: Its key.
        features: How many feature versions it reads.
        evaluated: What was measured of them; None when nothing was.
        costs: Feature reference -> what it costs.
        replayed: What its features cost in time; None when nobody measured it.
        findings: Findings about the model.
    """

    model: str
    features: int
    evaluated: Report | None
    costs: dict[str, Cost]
    replayed: ReplayedCosts | None
    findings: tuple[Finding, ...]

    def flagged(self) -> tuple[Finding, ...]:
        """Return the debts that count."""
        return tuple(f for f in self.findings if f.verdict is Verdict.FLAGGED and not f.suppressed)

    def of(self, kind: str) -> tuple[dict[str, Any], ...]:
        """Return the evidence of one type, of all findings."""
        return tuple(dict(piece) for f in self.findings for piece in f.evidence if piece.get("type") == kind)


@dataclass(frozen=True, slots=True)
class DebtReport:
    """The debt of a project.

    Attributes:
        project: Its name.
        at: Microseconds since 1970 UTC.
        revision: Of the registry.
        models: One per model that was asked for.
        coverage: Whether all reads were counted.
    """

    project: str
    at: int
    revision: int
    models: tuple[ModelDebt, ...]
    coverage: Coverage

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Every finding once."""
        return tuple({finding.id: finding for model in self.models for finding in model.findings}.values())

    def document(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "project": self.project,
            "at": self.at,
            "revision": self.revision,
            "models": [_model_document(model) for model in self.models],
        }


def debt_report(state: State, parameters: Parameters, model: str = "") -> DebtReport:
    """Collect the debt of a model, or of all.

    Args:
        state: The registry, the usage, and what is kept beside.
        parameters: What the project sets for its findings.
        model: Key or name of a model; empty is every model.

    Raises:
        NotFoundError: There is no such model.
    """
    snapshot = state.snapshot
    keys = [key for key, manifest in snapshot.consumers.items() if manifest.kind == "model"]
    chosen = [key for key in keys if not model or model in (key, key.partition("@")[0])]
    if model and not chosen:
        raise NotFoundError.of("model", model, keys)
    found = check(state, replace(parameters, models=frozenset(chosen)), select=[DEBT_RULES]).all
    reports = {report.model: report for report in reports_of(state)}
    models = tuple(_model(state, key, found, reports.get(key)) for key in sorted(chosen))
    return DebtReport(snapshot.project, state.now, snapshot.revision, models, state.usage.coverage())


def _model(state: State, key: str, findings: Sequence[Finding], report: Report | None) -> ModelDebt:
    manifest = state.snapshot.consumers[key]
    refs = sorted(ref for ref in manifest.features if view_of(ref) in state.snapshot.views)
    mine = tuple(finding for finding in findings if _is_about(finding, key))
    costs = {ref: cost_of(state, ref) for ref in refs}
    replayed = read_costs(state.path.parent / FOLDER.name, key)
    return ModelDebt(key, len(manifest.features), report, costs, replayed, mine)


def _is_about(finding: Finding, key: str) -> bool:
    """Say whether a finding is about a model: its subject names the key, or the model of all versions."""
    name = key.partition("@")[0]
    words = finding.subject.replace(",", " ").replace(":", " ").split()
    others = {word for word in words if word.partition("@")[0] == name}
    return key in words or name in others


def _model_document(model: ModelDebt) -> dict[str, Any]:
    report = model.evaluated
    pairs = zip(report.records, report.judgements, strict=True) if report else ()
    return {
        "model": model.model,
        "features": model.features,
        "flagged": len(model.flagged()),
        "stale": report.stale if report else "",
        "epsilon": report.records[-1].epsilon if report else None,
        "evaluated": [
            {**judgement.document(), "record": asdict_without_losses(record)["id"]} for record, judgement in pairs
        ],
        "costs": list(model.costs.values()),
        "replayed": model.replayed.document() if model.replayed else None,
        "findings": [finding.document() for finding in model.findings],
    }
