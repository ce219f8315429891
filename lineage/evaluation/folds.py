"""How rows are split: forward in time, by group, or freely; and which rows depend on each other."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from lineage.evaluation.data import Data, as_numbers
from lineage.evaluation.losses import grouped_clusters

if TYPE_CHECKING:
    from numpy.typing import NDArray

KINDS = ("forward", "grouped", "plain")
FORWARD_FOLDS = 10  # they cannot be repeated with other splits, and few folds make a wide interval
_HOUR = 3_600 * 1_000_000
_BLOCKS = 60  # of equal size, where times are no instants or too close together to have days or hours


@dataclass(frozen=True, slots=True)
class Fold:
    """One split.

    Attributes:
        name: ``repeat.fold``.
        seed: What both sides are trained with.
        train: int64: numbers of the rows to train on.
        test: int64: numbers of the rows to test on.
    """

    name: str
    seed: int
    train: NDArray[Any]
    test: NDArray[Any]


@dataclass(frozen=True)
class Design:
    """How both sides are trained and tested.

    Attributes:
        kind: ``forward``: trained on what was before; ``grouped``: no group on both sides; ``plain``: any rows.
        folds: Into how many parts the rows are split.
        repeats: How often, each time otherwise and with another seed.
        seed: Of the splits and of the trainers.
    """

    kind: str
    folds: int = 5
    repeats: int = 1
    seed: int = 0


def design_for(data: Data, kind: str = "", *, seed: int = 0) -> Design:
    """Return the design for rows of this kind, or of the kind that was asked for."""
    chosen = kind or kind_for(data)
    return Design(chosen, folds=FORWARD_FOLDS if chosen == "forward" else Design.folds, seed=seed)


def kind_for(data: Data) -> str:
    """Return how rows of this kind must be split: by time where they have one, else by group, else freely."""
    return "forward" if data.time else "grouped" if data.group else "plain"


def folds_of(data: Data, design: Design) -> list[Fold]:
    """Return every split of a design, the last of a forward one with the most training rows."""
    if design.kind == "forward":
        return _forward(as_numbers(data.table[data.time]), design)
    groups = _numbers(data.table[data.group]) if design.kind == "grouped" else None
    return [fold for repeat in range(design.repeats) for fold in _free(data.table.num_rows, groups, design, repeat)]


def _forward(times: NDArray[Any], design: Design) -> list[Fold]:
    """Train on all before, test on the next part; the first half is only trained on."""
    order, bounds = forward_parts(times, 0.5, design.folds)
    return [
        Fold(f"0.{number}", design.seed, order[:start], order[start:stop])
        for number, (start, stop) in enumerate(pairwise(bounds))
        if start > 0
    ]


def forward_parts(times: NDArray[Any], first: float, parts: int) -> tuple[NDArray[Any], list[int]]:
    """Return rows in the order of time, and where equal parts of what comes after a first share begin; rows of one instant stay together.

    Args:
        times: float64 ``(rows,)``.
        first: Share of the rows that come before the first part.
        parts: How many follow; there are fewer where instants have many rows.

    Returns:
        The numbers of the rows, int64 ``(rows,)``, and the ascending beginnings of the parts with the end of the last.
    """
    import numpy as np

    order = np.argsort(times, kind="stable")
    ordered = times[order]
    wanted = np.linspace(int(len(times) * first), len(times), parts + 1).astype(np.int64)
    bounds = np.unique(np.append(np.searchsorted(ordered, ordered[wanted[:-1]], side="left"), len(times)))
    return order, bounds.tolist()


def _free(rows: int, groups: NDArray[Any] | None, design: Design, repeat: int) -> list[Fold]:
    import numpy as np

    random = np.random.default_rng([design.seed, repeat])
    size = rows if groups is None else int(groups.max()) + 1
    part = random.permutation(size) % design.folds
    of = part if groups is None else part[groups]
    return [
        Fold(f"{repeat}.{number}", design.seed + repeat, np.flatnonzero(of != number), np.flatnonzero(of == number))
        for number in range(design.folds)
    ]


def clusters_of(data: Data, design: Design) -> NDArray[Any]:
    """Return which rows depend on each other, int64 ``(rows,)``: those of a group, of a day (or hour), or each by itself."""
    import numpy as np

    if data.group:
        return grouped_clusters(_numbers(data.table[data.group]), seed=design.seed)
    if data.time:
        return grouped_clusters(_blocks(data), seed=design.seed)
    return grouped_clusters(np.arange(data.table.num_rows), seed=design.seed)


def _blocks(data: Data) -> NDArray[Any]:
    """Return the day of each row; its hour where there are few days, and equal parts of time where there are few hours."""
    import numpy as np
    import pyarrow as pa

    times = as_numbers(data.table[data.time])
    if pa.types.is_temporal(data.table.schema.field(data.time).type):
        for length in (24 * _HOUR, _HOUR):
            blocks = times // length
            if len(np.unique(blocks)) >= _BLOCKS:
                return blocks
    _, place = np.unique(times, return_inverse=True)
    return place * _BLOCKS // (int(place.max()) + 1)


def _numbers(column: Any) -> NDArray[Any]:
    """Return equal numbers for equal values, from 0; nulls are a group of their own."""
    import numpy as np

    encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    parts = encoded.chunks if hasattr(encoded, "chunks") else [encoded]
    return np.concatenate([np.asarray(part.indices) for part in parts]).astype(np.int64)
