"""What removing features would mean: the lines to change, who else reads them, and what is saved."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from lineage.evaluation.cost import Cost, cost_of
from lineage.manifests import reads_line
from lineage.registry import view_of
from lineage.state import State


@dataclass(frozen=True, slots=True)
class RemovalPlan:
    """The way features go.

    Attributes:
        steps: What to do, in order.
        readers: Feature -> others that declare or read it: for them it stays.
        costs: What each feature costs.
        bytes: What is saved in offline files, of the features that nobody else reads.
        views: Views that lose their last feature, so that their refresh and their round trip go, too.
    """

    steps: tuple[str, ...]
    readers: dict[str, tuple[str, ...]]
    costs: tuple[Cost, ...]
    bytes: int
    views: tuple[str, ...]


def removal_plan(state: State, model: str, refs: Collection[str]) -> RemovalPlan:
    """Plan to take features out of a model, and out of the store where nobody else reads them.

    Args:
        state: The registry and the usage.
        model: Key of the model.
        refs: Feature references.
    """
    manifest = state.snapshot.consumers[model]
    known = sorted(ref for ref in refs if view_of(ref) in state.snapshot.views)
    readers = {ref: _others(state, model, ref) for ref in known}
    free = frozenset(ref for ref in known if not readers[ref])
    views = tuple(
        ref
        for ref in sorted({view_of(ref) for ref in free})
        if {f.ref for f in state.snapshot.views[ref].features} <= free
    )
    costs = tuple(cost_of(state, ref) for ref in known)
    return RemovalPlan(
        steps=tuple(_steps(state, model, known, free, views, reads_line(state.snapshot, manifest, remove=known))),
        readers={ref: others for ref, others in readers.items() if others},
        costs=costs,
        bytes=sum(cost.bytes for cost in costs if cost.feature in free),
        views=views,
    )


def _others(state: State, model: str, ref: str) -> tuple[str, ...]:
    reading = {relation.reader.node.name for relation in state.relations if relation.feature == ref}
    computed = {name for name, view in state.snapshot.views.items() if ref in view.inputs}
    return tuple(sorted((reading - {model}) | computed))


def _steps(
    state: State, model: str, refs: Collection[str], free: Collection[str], views: Collection[str], line: str
) -> list[str]:
    steps = [
        f"features.py: the manifest of {model} becomes {line}" if refs else "leave the columns out of the next training"
    ]
    steps.append(f"train the next version of {model} without them, and let it take the traffic over gradually")
    steps += [f"featurestore retire {view}" for view in views]
    for view in sorted({view_of(ref) for ref in free} - set(views)):
        names = ", ".join(ref.partition(":")[2] for ref in sorted(free) if view_of(ref) == view)
        steps.append(
            f"features.py: take {names} out of the view {state.snapshot.views[view].name}: nobody else reads them"
        )
    return steps
