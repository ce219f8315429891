"""Findings as SARIF 2.1.0, which code hosts and editors show beside the code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lineage.findings.finding import Finding, Rule, Verdict

_LEVELS = {"high": "error", "medium": "warning", "low": "warning", "info": "note"}
_KINDS = {Verdict.FLAGGED: "fail", Verdict.UNDETERMINED: "review", Verdict.CLEARED: "pass"}


def as_sarif(findings: Iterable[Finding], *, definitions: str = "features.py") -> dict[str, Any]:
    """Return findings as a SARIF document.

    Args:
        findings: What to report.
        definitions: The file that is named where a finding is in no scanned code.
    """
    shown = list(findings)
    rules = {finding.rule.code: finding.rule for finding in shown}
    driver = {
        "name": "lineage",
        "informationUri": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/",
        "rules": [_rule(rules[code]) for code in sorted(rules)],
    }
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": [_result(finding, definitions) for finding in shown]}],
    }


def _rule(rule: Rule) -> dict[str, Any]:
    level = _LEVELS[rule.severity]
    return {
        "id": rule.code,
        "name": rule.name,
        "shortDescription": {"text": rule.summary},
        "defaultConfiguration": {"level": level},
    }


def _result(finding: Finding, definitions: str) -> dict[str, Any]:
    flagged = finding.verdict is Verdict.FLAGGED
    fix = f"\nFix: {finding.fix}" if finding.fix else ""
    result: dict[str, Any] = {
        "ruleId": finding.rule.code,
        "kind": _KINDS[finding.verdict],
        "level": _LEVELS[finding.rule.severity] if flagged else "none",
        "message": {"text": finding.message + fix},
        "partialFingerprints": {"lineage/v1": finding.id},
        "locations": _locations(finding.evidence, definitions),
    }
    if finding.suppressed:
        result["suppressions"] = [{"kind": "external", "justification": finding.suppressed}]
    return result


def _locations(evidence: Iterable[Mapping[str, Any]], definitions: str) -> list[dict[str, Any]]:
    places = [(piece["file"], piece["line"]) for piece in evidence if piece.get("type") == "code"] or [(definitions, 1)]
    return [
        {"physicalLocation": {"artifactLocation": {"uri": file}, "region": {"startLine": max(1, line)}}}
        for file, line in dict.fromkeys(places)
    ]
