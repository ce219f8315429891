"""How a finding is settled in a project of Feast: in its repository and by `feast apply`, not by commands of another store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby

from lineage.findings.finding import Finding

STORE = "feast"  # what an imported registry says it is of

_APPLY = "then `feast apply`"
_ADD = f"add {{features}} to its FeatureService, {_APPLY}"
_TAKE_OUT = f"take {{features}} out of its FeatureService, {_APPLY}"
_NEWER = f"let its FeatureService name the version that it shall read, {_APPLY}"
_OWN = f'FeatureService(name="NAME", features=[{{features}}], tags={{{{"principals": "WHO"}}}}), {_APPLY}'

# By the code of the rule; of a rule that is not here, the fix has no word of any store.
REPAIRS: Mapping[str, str] = {
    "LN101": "`auth:` in feature_store.yaml, so that the feature server knows who asks",
    "LN102": "name one feature service a program in the tag `principals`, " + _APPLY,
    "LN103": _OWN,
    "LN104": _OWN,
    "LN105": _ADD,
    "LN106": _ADD,
    "LN107": _OWN,
    "LN110": "give each program a principal of its own, and name it in the tag `principals` of its FeatureService",
    "LN201": _TAKE_OUT,
    "LN202": _TAKE_OUT,
    "LN301": f'owner="..." where it is defined, {_APPLY}',
    "LN305": "`feast apply`, where the source can be reached",
    "LN307": _NEWER,
    "LN309": f"take the view out of the repository, {_APPLY}",
    "LN311": "`store.create_saved_dataset(...)` of what it trains on, so that it can be found again",
    "LN422": _NEWER,
}


def as_feast_repairs(finding: Finding) -> Finding:
    """Return a finding with the repair that a user of Feast can make; one that has nothing to repair stays as it is."""
    text = REPAIRS.get(finding.rule.code)
    if not finding.fix or text is None:
        return finding
    return replace(finding, fix=text.format(features=selections(finding.features) or "its features"))


def selections(features: tuple[str, ...]) -> str:
    """Return feature references as a FeatureService of Feast lists them.

    >>> selections(("driver@v1:trips", "driver@v1:rate", "car@v0:seats"))
    'car[["seats"]], driver[["rate", "trips"]]'
    """
    pairs = sorted((ref.partition("@")[0], ref.partition(":")[2]) for ref in features)
    grouped = groupby(pairs, key=lambda pair: pair[0])
    lists = {view: ", ".join(f'"{name}"' for _, name in group) for view, group in grouped}
    return ", ".join(f"{view}[[{names}]]" for view, names in lists.items())
