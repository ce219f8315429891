"""What a project sets for its findings: ``lineage.toml`` beside ``featurestore.toml``, checked in and reviewed.

    select = ["LN1", "LN2", "LN3"]        # rules to run; default: those that run by themselves
    minimum_days = 14                     # before a declaration may be called never read
    store_principals = ["svc-store"]      # the store's own accounts in imported logs
    pinned_days = 30                      # that a manifest may stay with an old version

    [[suppress]]
    finding = "LN103-8c0c520a01"          # an identity, or rule = "LN103" and subject = "principal:svc-*"
    reason = "moves to a token of its own in the next release"
    owner = "platform@airport.example"
    until = 2026-12-31

A suppression without a reason, an owner and an end is refused: it would be forgotten.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from lineage.errors import InvalidPolicyError
from lineage.findings.finding import Parameters, Suppression

POLICY = "lineage.toml"
_KEYS = frozenset({"select", "minimum_days", "store_principals", "suppress", "pinned_days"})
_SUPPRESS_KEYS = frozenset({"finding", "rule", "subject", "reason", "owner", "until"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BASELINE_VERSION = 1


def read_policy(folder: Path) -> Parameters:
    """Read what a project sets for its findings; the defaults where there is no ``lineage.toml``.

    Args:
        folder: The project folder.

    Raises:
        InvalidPolicyError: The file is not as described above; says where.
    """
    path = folder / POLICY
    if not path.is_file():
        return Parameters()
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidPolicyError(f"'{path}' is no TOML: {error}.", path=path) from error
    _check_keys(document, _KEYS, path, "")
    suppressions = tuple(
        _suppression(entry, path, place) for place, entry in enumerate(document.get("suppress", ()), 1)
    )
    return Parameters(
        minimum_days=_typed(document, "minimum_days", (int, float), 0.0, path),
        store_principals=frozenset(_typed(document, "store_principals", (list,), [], path)),
        select=tuple(_typed(document, "select", (list,), [], path)),
        suppressions=suppressions,
        pinned_days=float(_typed(document, "pinned_days", (int, float), 30.0, path)),
    )


def _typed(document: Mapping[str, Any], key: str, types: tuple[type, ...], default: Any, path: Path) -> Any:
    value = document.get(key, default)
    if not isinstance(value, types) or isinstance(value, bool):
        raise InvalidPolicyError(
            f"{key} is {value!r} in '{path}'.", path=path, repair="See docs/reference/findings.md."
        )
    return value


def _check_keys(document: Mapping[str, Any], known: frozenset[str], path: Path, where: str) -> None:
    if unknown := sorted(set(document) - known):
        there = ", ".join(sorted(known))
        raise InvalidPolicyError(
            f"'{path}' has no setting '{unknown[0]}'{where}.", path=path, repair=f"There is: {there}."
        )


def _suppression(entry: Mapping[str, Any], path: Path, place: int) -> Suppression:
    where = f" in suppression {place}"
    _check_keys(entry, _SUPPRESS_KEYS, path, where)
    for key in ("reason", "owner", "until"):
        if not entry.get(key):
            raise InvalidPolicyError(f"There is no {key}{where} of '{path}'.", path=path, repair=f"Give {key} = ...")
    if not entry.get("finding") and not (entry.get("rule") and entry.get("subject")):
        repair = 'Give finding = "LN103-...", or rule and subject.'
        raise InvalidPolicyError(f"Nothing says what is suppressed{where} of '{path}'.", path=path, repair=repair)
    return Suppression(
        finding=entry.get("finding", ""),
        rule=entry.get("rule", ""),
        subject=entry.get("subject", ""),
        reason=entry["reason"],
        owner=entry["owner"],
        until=_end(entry["until"], path, where),
    )


def _end(value: Any, path: Path, where: str) -> int:
    """Return the end of the last day that counts, or the instant itself, in microseconds since 1970 UTC."""
    if isinstance(value, str):
        with suppress(ValueError):
            value = datetime.fromisoformat(value) if "T" in value else date.fromisoformat(value)
    if isinstance(value, datetime):
        return ((value if value.tzinfo else value.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)
    if isinstance(value, date):
        end = datetime(value.year, value.month, value.day, tzinfo=UTC) + timedelta(days=1)
        return (end - _EPOCH) // timedelta(microseconds=1)
    raise InvalidPolicyError(f"until is {value!r}{where} of '{path}'.", path=path, repair="Give a day: 2026-12-31.")


def read_baseline(path: Path) -> frozenset[str]:
    """Read the identities of the findings that were there when a project began to check.

    Args:
        path: As `write_baseline` wrote it.

    Raises:
        InvalidPolicyError: There is no such file, or it is no baseline.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
        if document["schema_version"] > BASELINE_VERSION:
            raise InvalidPolicyError(f"The baseline '{path}' is of a newer version.", path=path)
        return frozenset(entry["id"] for entry in document["findings"])
    except FileNotFoundError:
        repair = f"Make one: lineage check --write-baseline {path}"
        raise InvalidPolicyError(f"There is no baseline '{path}'.", path=path, repair=repair) from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise InvalidPolicyError(f"'{path}' is no baseline: {error!r}.", path=path) from error


def write_baseline(path: Path, findings: Mapping[str, str]) -> None:
    """Write a baseline: identity -> subject, sorted, so that a change of it can be reviewed."""
    entries = [{"id": identity, "subject": subject} for identity, subject in sorted(findings.items())]
    path.write_text(json.dumps({"schema_version": BASELINE_VERSION, "findings": entries}, indent=2) + "\n", "utf-8")
