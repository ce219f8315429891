"""Reads around the server: somebody opens a view's files, its source or a prediction's table without the store.

The store counts what goes through it. What went around is only seen in the logs of the database or the object store, once they are
imported (``lineage import queries``). The store's own account reads them, too: it is named in ``lineage.toml`` and left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from lineage.findings.finding import Finding, Parameters, Rule, Verdict
from lineage.imported import Access
from lineage.instants import written
from lineage.places import is_place
from lineage.readers import ANONYMOUS
from lineage.registry import ViewVersion
from lineage.state import State

READ_AROUND = Rule("LN109", "read_around_the_server", "high", "A view's rows are read without the store.")
RULES = (READ_AROUND,)

_OFFLINE = re.compile(r"(?:^|/)offline/(?P<view>\w+)/v(?P<version>\d+)(?:/|$)")


def around_the_server(state: State, parameters: Parameters) -> Iterator[Finding]:
    """Yield one finding per principal and view version whose rows it read without the store.

    Args:
        state: The registry and the imported logs.
        parameters: `store_principals` are the store's own.
    """
    found: dict[tuple[str, str], list[Access]] = {}
    for access in state.records.accesses:
        if access.principal not in parameters.store_principals:
            for view in views_read(state, access):
                found.setdefault((access.principal, view), []).append(access)
    for (principal, view), accesses in sorted(found.items()):
        yield _finding(state, principal, view, accesses)


def views_read(state: State, access: Access) -> Iterator[str]:
    """Yield the view versions whose files or source an access read; the current version alone where only the source is known."""
    if match := _OFFLINE.search(access.object):
        ref = f"{match['view']}@v{match['version']}"
        if ref in state.snapshot.views:
            yield ref
        return
    for ref, view in state.snapshot.views.items():
        current = state.snapshot.current.get(view.name) == view.version
        if (
            current
            and view.source is not None
            and any(is_place(source, access.object) for source in view.source.every())
        ):
            yield ref


def _finding(state: State, principal: str, view: str, accesses: list[Access]) -> Finding:
    reader = f"principal:{principal}" if principal else str(ANONYMOUS)
    found: ViewVersion = state.snapshot.views[view]
    objects = ", ".join(sorted({access.object for access in accesses})[:3])
    last = written(max(access.at for access in accesses))
    features = tuple(feature.ref for feature in found.features)
    return Finding(
        rule=READ_AROUND,
        verdict=Verdict.FLAGGED,
        subject=f"{reader} reads around {view}",
        message=f"{reader} read {objects} without the store (times: {len(accesses)}, last {last}), so no change of {view} asks it.",
        evidence=tuple(access.evidence() for access in accesses[:20]),
        fix="read through the store and declare it; let only the store's account open these files or tables",
        features=features,
    )
