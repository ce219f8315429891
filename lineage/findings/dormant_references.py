"""Dormant references: code that names features which it neither declares nor reads, or declares and never ran.

What is in the code comes from an imported scan. A reference alone is no debt yet; it becomes one when somebody runs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from lineage.cells import FIXES, Agreement, Cell, agreements
from lineage.findings.finding import Finding, Parameters, Rule, Verdict
from lineage.registry import view_of
from lineage.state import State

DORMANT_REFERENCE = Rule(
    "LN203", "dormant_reference", "info", "Code names features that it neither declares nor reads."
)
CODED_NOT_RUNNING = Rule("LN204", "coded_not_running", "info", "Features are declared and in the code, and not read.")
RULES = (DORMANT_REFERENCE, CODED_NOT_RUNNING)

_RULE_OF = {Cell.DORMANT_REFERENCE: DORMANT_REFERENCE, Cell.CODED_NOT_RUNNING: CODED_NOT_RUNNING}


def dormant_references(state: State, parameters: Parameters) -> Iterator[Finding]:
    """Yield one finding per consumer (or repository), view version and kind.

    Args:
        state: The registry, the usage and the imported scans.
        parameters: Not used.
    """
    del parameters
    if not state.records.references:
        return
    found = [a for a in agreements(state) if a.cell in _RULE_OF]
    found.sort(key=_group)
    for (_, consumer, view), group in groupby(found, key=_group):
        yield _finding(consumer, view, list(group))


def _group(agreement: Agreement) -> tuple[str, str, str]:
    return agreement.cell.value, agreement.consumer, view_of(agreement.feature)


def _finding(consumer: str, view: str, group: list[Agreement]) -> Finding:
    cell = group[0].cell
    features = tuple(agreement.feature for agreement in group)
    places = sorted({reference.place for agreement in group for reference in agreement.references})
    names = ", ".join(feature.partition(":")[2] for feature in features)
    known = all(agreement.known for agreement in group)
    said = "is declared and in the code, and was not read" if cell is Cell.CODED_NOT_RUNNING else "is only in the code"
    doubt = "" if known else "; reads may have been missed"
    return Finding(
        rule=_RULE_OF[cell],
        verdict=Verdict.FLAGGED if known else Verdict.UNDETERMINED,
        subject=f"{consumer} names {view}",
        message=f"{view}: {names} {said}, at {', '.join(places[:3])}{doubt}.",
        evidence=tuple(reference.evidence() for agreement in group for reference in agreement.references),
        fix=FIXES[cell],
        features=features,
    )
