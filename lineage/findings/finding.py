"""What every finding looks like."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """The three answers; "not known" is never "no"."""

    FLAGGED = "FLAGGED"
    CLEARED = "CLEARED"
    UNDETERMINED = "UNDETERMINED"


SEVERITIES = ("info", "low", "medium", "high")


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of finding.

    Attributes:
        code: Stable, e.g. ``LN101``.
        name: Stable, e.g. ``anonymous_read``.
        severity: One of SEVERITIES.
        summary: One sentence for people.
    """

    code: str
    name: str
    severity: str
    summary: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One debt, or the answer that it is none, with the evidence.

    Attributes:
        rule: What kind it is.
        verdict: The answer.
        subject: What it is about; with the code it makes the identity.
        message: The fact in one sentence.
        evidence: Usage rows, gaps and edges that it rests on.
        fix: The command, or the line of features.py, that settles it; empty when there is nothing to do.
    """

    rule: Rule
    verdict: Verdict
    subject: str
    message: str
    evidence: tuple[Mapping[str, Any], ...] = ()
    fix: str = ""

    @property
    def id(self) -> str:
        """A stable identity: the code and a hash of code and subject."""
        digest = hashlib.sha256(f"{self.rule.code}\n{self.subject}".encode()).hexdigest()
        return f"{self.rule.code}-{digest[:10]}"

    def document(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "id": self.id,
            "code": self.rule.code,
            "name": self.rule.name,
            "severity": self.rule.severity,
            "verdict": str(self.verdict),
            "subject": self.subject,
            "message": self.message,
            "evidence": [dict(piece) for piece in self.evidence],
            "fix": self.fix,
        }


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a project may set for its findings.

    Attributes:
        minimum_days: A declaration is called never read only after this many days; 0 is at once.
    """

    minimum_days: float = 0.0
