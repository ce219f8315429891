"""All findings: the order they run in, which of them count, and one of them again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from lineage.errors import InvalidQuestionError, NotFoundError
from lineage.findings.around_the_server import RULES as AROUND_RULES
from lineage.findings.around_the_server import around_the_server
from lineage.findings.bundled_features import RULES as BUNDLED_RULES
from lineage.findings.bundled_features import bundled_features
from lineage.findings.cascades import RULES as CASCADE_RULES
from lineage.findings.cascades import cascades
from lineage.findings.correlated_features import RULES as CORRELATED_RULES
from lineage.findings.correlated_features import correlated_features
from lineage.findings.declared_never_read import RULES as NEVER_READ_RULES
from lineage.findings.declared_never_read import declared_never_read
from lineage.findings.definitions import RULES as DEFINITION_RULES
from lineage.findings.definitions import definitions
from lineage.findings.dormant_references import RULES as DORMANT_RULES
from lineage.findings.dormant_references import dormant_references
from lineage.findings.epsilon_features import RULES as EPSILON_RULES
from lineage.findings.epsilon_features import epsilon_features
from lineage.findings.feast_repairs import STORE as FEAST
from lineage.findings.feast_repairs import as_feast_repairs
from lineage.findings.fetched_unused import RULES as FETCHED_RULES
from lineage.findings.fetched_unused import fetched_unused
from lineage.findings.finding import SEVERITIES, Finding, Parameters, Rule, Verdict
from lineage.findings.legacy_features import RULES as LEGACY_RULES
from lineage.findings.legacy_features import legacy_features
from lineage.findings.removable_features import RULES as REMOVABLE_RULES
from lineage.findings.removable_features import removable_features
from lineage.findings.shared_credentials import RULES as SHARED_RULES
from lineage.findings.shared_credentials import shared_credentials
from lineage.findings.undeclared_consumers import RULES as UNDECLARED_RULES
from lineage.findings.undeclared_consumers import undeclared_consumers
from lineage.findings.unstable_dependencies import RULES as UNSTABLE_RULES
from lineage.findings.unstable_dependencies import unstable_dependencies
from lineage.instants import written
from lineage.state import State
from lineage.usage import Coverage

FINDINGS: tuple[Callable[[State, Parameters], Iterator[Finding]], ...] = (
    undeclared_consumers,
    around_the_server,
    shared_credentials,
    declared_never_read,
    fetched_unused,
    dormant_references,
    definitions,
    unstable_dependencies,
    epsilon_features,
    bundled_features,
    legacy_features,
    correlated_features,
    removable_features,
    cascades,
)
_RULES_OF: Mapping[Callable[[State, Parameters], Iterator[Finding]], tuple[Rule, ...]] = {
    undeclared_consumers: UNDECLARED_RULES,
    around_the_server: AROUND_RULES,
    shared_credentials: SHARED_RULES,
    declared_never_read: NEVER_READ_RULES,
    fetched_unused: FETCHED_RULES,
    dormant_references: DORMANT_RULES,
    definitions: DEFINITION_RULES,
    unstable_dependencies: UNSTABLE_RULES,
    epsilon_features: EPSILON_RULES,
    bundled_features: BUNDLED_RULES,
    legacy_features: LEGACY_RULES,
    correlated_features: CORRELATED_RULES,
    removable_features: REMOVABLE_RULES,
    cascades: CASCADE_RULES,
}
RULES: tuple[Rule, ...] = tuple(rule for run in FINDINGS for rule in _RULES_OF[run])


@dataclass(frozen=True, slots=True)
class Findings:
    """The answers of all findings.

    Attributes:
        all: Every finding, the most severe first among the flagged, then the undetermined, then the cleared.
        coverage: Whether all reads of the window were counted.
    """

    all: tuple[Finding, ...]
    coverage: Coverage

    @property
    def counts(self) -> Mapping[str, int]:
        """Verdict -> how many."""
        counted = Counter(str(finding.verdict) for finding in self.all)
        return {str(verdict): counted[str(verdict)] for verdict in Verdict}

    def flagged(self, *, at_least: str = "info") -> tuple[Finding, ...]:
        """Return what is flagged with at least a severity and not suppressed."""
        floor = SEVERITIES.index(at_least)
        return tuple(f for f in self.all if _counts(f) and SEVERITIES.index(f.rule.severity) >= floor)


def _counts(finding: Finding) -> bool:
    return finding.verdict is Verdict.FLAGGED and not finding.suppressed


def check(state: State, parameters: Parameters | None = None, *, select: Iterable[str] = ()) -> Findings:
    """Run all findings.

    Args:
        state: The registry and the usage.
        parameters: What the project sets; None is the defaults.
        select: Codes, beginnings of codes (``LN1``) or names to keep; empty keeps what the project selects, else what runs by itself.

    Raises:
        InvalidQuestionError: `select` names no finding.
    """
    settings = parameters or Parameters()
    wanted = frozenset(selected(select, settings))
    runs = [run for run in FINDINGS if wanted.intersection(_RULES_OF[run])]
    found: Iterator[Finding] = (
        _judged(finding, settings, state.now) for run in runs for finding in run(state, settings)
    )
    if state.snapshot.store == FEAST:
        found = map(as_feast_repairs, found)
    return Findings(tuple(sorted((f for f in found if f.rule in wanted), key=_rank)), state.usage.coverage())


def _judged(finding: Finding, settings: Parameters, now: int) -> Finding:
    """Return a finding with why it does not count, if something says so."""
    if finding.verdict is not Verdict.FLAGGED:
        return finding
    if finding.id in settings.baseline:
        return replace(finding, suppressed="in the baseline")
    active = (s for s in settings.suppressions if now < s.until and s.covers(finding))
    if (suppression := next(active, None)) is None:
        return finding
    return replace(
        finding, suppressed=f"{suppression.reason} ({suppression.owner}, until {written(suppression.until)})"
    )


def explain(state: State, finding_id: str, parameters: Parameters | None = None) -> Finding:
    """Return one finding, derived again from the registry and the usage.

    Args:
        state: The registry and the usage.
        finding_id: Its identity, e.g. ``LN105-0123456789``; a beginning is enough where it is unique.
        parameters: What the project sets; None is the defaults.

    Raises:
        NotFoundError: No finding has this identity, now.
        InvalidQuestionError: Several begin so.
    """
    codes = [rule.code for rule in rules_of(finding_id) or selected((), Parameters())]
    every = {finding.id: finding for finding in check(state, parameters, select=codes).all}
    matching = [found for found in every if found.startswith(finding_id)] if finding_id else []
    if finding_id in every:
        return every[finding_id]
    if len(matching) > 1:
        raise InvalidQuestionError(f"'{finding_id}' begins several findings: {', '.join(matching[:8])}.")
    if not matching:
        raise NotFoundError.of("finding", finding_id, every)
    return every[matching[0]]


def rules_of(finding_id: str) -> tuple[Rule, ...]:
    """Return the rules that a finding may be of, given its identity or the beginning of it.

    >>> [rule.code for rule in rules_of("LN105-01")], [rule.code for rule in rules_of("LN30")][:2], rules_of("")
    (['LN105'], ['LN301', 'LN302'], ())
    """
    code = finding_id.partition("-")[0]
    return tuple(rule for rule in RULES if code and rule.code.startswith(code))


def selected(select: Iterable[str], settings: Parameters) -> tuple[Rule, ...]:
    """Return the rules that a selection means.

    Args:
        select: Codes, beginnings of codes or names; empty is what the project selects, else what runs by itself.
        settings: What the project sets.

    Raises:
        InvalidQuestionError: It names no finding.
    """
    select = tuple(select) or settings.select
    for text in select:
        if not any(_is_selected(rule, text) for rule in RULES):
            known = ", ".join(rule.code for rule in RULES)
            raise InvalidQuestionError(f"No finding '{text}'.", repair=f"There is: {known}.")
    if not select:
        return tuple(rule for rule in RULES if rule.default)
    return tuple(rule for rule in RULES if any(_is_selected(rule, text) for text in select))


def _is_selected(rule: Rule, text: str) -> bool:
    return bool(text) and (rule.code.startswith(text.upper()) or rule.name == text)


def _rank(finding: Finding) -> tuple[int, int, str, str]:
    order = (Verdict.FLAGGED, Verdict.UNDETERMINED, Verdict.CLEARED)
    return order.index(finding.verdict), -SEVERITIES.index(finding.rule.severity), finding.rule.code, finding.subject
