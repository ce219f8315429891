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
        default: Whether it runs when nothing is selected.
    """

    code: str
    name: str
    severity: str
    summary: str
    default: bool = True


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
        features: The feature versions it is about; empty when it is about no single ones.
        suppressed: Why it does not count, and until when; empty when it counts.
    """

    rule: Rule
    verdict: Verdict
    subject: str
    message: str
    evidence: tuple[Mapping[str, Any], ...] = ()
    fix: str = ""
    features: tuple[str, ...] = ()
    suppressed: str = ""

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
            "features": list(self.features),
            "suppressed": self.suppressed,
        }


@dataclass(frozen=True, slots=True)
class Suppression:
    """A finding that does not count for a while.

    Attributes:
        finding: Its identity; empty where `rule` and `subject` say which.
        rule: Code of the rule.
        subject: What it is about; ``*`` stands for anything.
        reason: Why it does not count.
        owner: Who answers for that.
        until: From this instant on it counts again, in microseconds since 1970 UTC.
    """

    finding: str
    rule: str
    subject: str
    reason: str
    owner: str
    until: int

    def covers(self, finding: Finding) -> bool:
        """Say whether this is about a finding."""
        from fnmatch import fnmatchcase

        if self.finding:
            return finding.id == self.finding
        return finding.rule.code == self.rule and fnmatchcase(finding.subject, self.subject)


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a project may set for its findings.

    Attributes:
        minimum_days: A declaration is called never read only after this many days; 0 is at once.
        store_principals: Accounts of the store itself in imported logs.
        select: Codes, beginnings of codes, or names of the rules to run; empty runs those that run by themselves.
        suppressions: Findings that do not count for a while.
        baseline: Identities of findings that were there before anybody checked; they do not count.
        pinned_days: A manifest may stay with an old version for so many days.
        models: Keys of the models whose rows are looked at; empty is all.
    """

    minimum_days: float = 0.0
    store_principals: frozenset[str] = frozenset()
    select: tuple[str, ...] = ()
    suppressions: tuple[Suppression, ...] = ()
    baseline: frozenset[str] = frozenset()
    pinned_days: float = 30.0
    models: frozenset[str] = frozenset()

    def looks_at(self, model: str) -> bool:
        """Say whether the rows of a model are looked at."""
        return not self.models or model in self.models
