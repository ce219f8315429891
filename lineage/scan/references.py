"""What a scan finds, and what it cannot tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Confidence(StrEnum):
    """How the scan knows a name."""

    literal = "literal"
    """It is written in the call."""
    alias = "alias"
    """It is written elsewhere and passed on unchanged."""
    folded = "folded"
    """It was computed from what is written."""
    dynamic = "dynamic"
    """It is known in parts, or not at all."""


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """A place in code that reads a feature, a service or a table.

    Attributes:
        file: Path from the root of the repository, with slashes.
        line: From 1; in a notebook the line of the file, not of the cell.
        column: From 1; of a SQL statement or a setting the place of the name, else of the call.
        kind: ``feature``, ``service`` or ``table``.
        ref: The name as the code gives it.
        call: What reads it, such as ``get_online_features``; ``sql`` for a statement, ``setting`` for a configuration file.
        consumer: The consumer that the code says it runs; empty when it does not say.
        cell: Number of the notebook's cell, from 1; 0 outside of notebooks.
    """

    file: str
    line: int
    column: int
    kind: str
    ref: str
    confidence: Confidence
    call: str
    consumer: str = ""
    cell: int = 0


@dataclass(frozen=True, slots=True, order=True)
class Unresolved:
    """A read whose names the scan cannot tell.

    Attributes:
        kind: What would be read: ``feature`` (or a service) or ``table``.
        expression: The code that gives the names.
        pattern: What is known of the name, with ``*`` for the rest; ``*`` alone is nothing.
    """

    file: str
    line: int
    column: int
    kind: str
    expression: str
    pattern: str
    call: str
    cell: int = 0


@dataclass(frozen=True, slots=True, order=True)
class Unread:
    """A file that could not be read, and why."""

    file: str
    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Scan:
    """What a repository reads.

    Attributes:
        repository: Its name.
        files: How many files were looked at.
        references: Every read whose names are known, in the order of files and lines.
        unresolved: Every read whose names are not, or not all, known.
        unread: Every file that could not be read.
    """

    repository: str
    files: int
    references: tuple[Reference, ...]
    unresolved: tuple[Unresolved, ...]
    unread: tuple[Unread, ...]

    def document(self) -> dict[str, Any]:
        """Return it as JSON values, by the contract in docs/reference/code-scan.md."""
        return {
            "repository": self.repository,
            "files": self.files,
            "references": [_fields(reference) for reference in self.references],
            "unresolved": [{**_fields(found), "confidence": "dynamic"} for found in self.unresolved],
            "unread": [_fields(file) for file in self.unread],
        }


def _fields(record: Any) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, StrEnum) else value for name, value in asdict(record).items()}


_RULES = {
    "LC001": ("code_reference", "Code reads a feature, a service or a table.", "note"),
    "LC002": ("unresolved_reference", "Code reads features or tables whose names the scan cannot tell.", "warning"),
    "LC003": ("unread_file", "A file could not be scanned.", "warning"),
}


def as_sarif(scan: Scan) -> dict[str, Any]:
    """Return a scan as a SARIF 2.1.0 document, which code hosts and editors show beside the code."""
    results = [
        *(_result("LC001", r.file, r.line, r.column, f"{r.call} reads {r.kind} {r.ref}.") for r in scan.references),
        *(_result("LC002", u.file, u.line, u.column, f"{u.call} reads {u.expression}.") for u in scan.unresolved),
        *(_result("LC003", f.file, f.line, 1, f"Not scanned: {f.reason}.") for f in scan.unread),
    ]
    driver = {
        "name": "lineage",
        "informationUri": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/",
        "rules": [_rule(code) for code in _RULES],
    }
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }


def _rule(code: str) -> Mapping[str, Any]:
    name, summary, level = _RULES[code]
    return {"id": code, "name": name, "shortDescription": {"text": summary}, "defaultConfiguration": {"level": level}}


def _result(code: str, file: str, line: int, column: int, message: str) -> Mapping[str, Any]:
    region = {"startLine": max(1, line), "startColumn": max(1, column)}
    place = {"physicalLocation": {"artifactLocation": {"uri": file}, "region": region}}
    return {"ruleId": code, "level": _RULES[code][2], "message": {"text": message}, "locations": [place]}


class Findings:
    """Collects what is found, each once."""

    def __init__(self) -> None:
        self.references: dict[tuple[str, int, int, str, str], Reference] = {}
        self.unresolved: dict[tuple[str, int, int, str], Unresolved] = {}
        self.unread: dict[tuple[str, str], Unread] = {}

    def add(self, found: Iterable[Reference | Unresolved | Unread]) -> None:
        """Keep what is new; of two references that differ in confidence alone, the surer one."""
        for item in found:
            match item:
                case Reference():
                    key = (item.file, item.line, item.column, item.kind, item.ref)
                    old = self.references.get(key)
                    if old is None or _ORDER[item.confidence] < _ORDER[old.confidence]:
                        self.references[key] = item
                case Unresolved():
                    self.unresolved.setdefault((item.file, item.line, item.column, item.pattern), item)
                case Unread():
                    self.unread.setdefault((item.file, item.reason), item)


_ORDER = {confidence: place for place, confidence in enumerate(Confidence)}
