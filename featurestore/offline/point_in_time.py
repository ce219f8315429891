"""The point-in-time rule as data, without I/O: which row of a view a spine row gets.

For each spine row: the row with the greatest (event time, created, seq) among those of its entity that are visible, if it is not older
than the ttl. A row is visible at t when its event time is not after t, and

* `as_known`: it was known at t: created not after t. A row without a created time, or with an event time up to `backfilled_until`,
  counts as known at its event time.
* `latest`: always.
* `as_served`: the server had applied it: its seq is not beyond the position.

The ttl comes last: the visible row with the greatest event time is the youngest, so when it is expired, all are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.errors import InvalidArgumentError
from featurestore.types import INT64_MIN
from featurestore.windows import Events

Knowledge = Literal["as_known", "latest", "as_served"]
KNOWLEDGE: tuple[Knowledge, ...] = ("as_known", "latest", "as_served")

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

MATCHED, MISSING, EXPIRED, NOT_YET_KNOWN = range(4)
STATUSES = ("matched", "missing", "expired", "not_yet_known")


@dataclass(frozen=True, slots=True)
class PointInTimeRule:
    """Which rows of a view a spine row may get.

    Args:
        ttl: How long a row counts after its event time, both ends included, in microseconds; None is for ever, 0 the same instant.
        knowledge: ``as_known``, ``latest`` or ``as_served``.
        position: For ``as_served``: the last seq that the server had applied; None elsewhere.
        backfilled_until: Rows with an event time up to this instant (microseconds) are known at it; None for no such rows.

    Raises:
        InvalidArgumentError: Unknown knowledge, or a position that is missing or not wanted.

    >>> PointInTimeRule(ttl=None, knowledge="as_served")
    Traceback (most recent call last):
    featurestore.errors.InvalidArgumentError: Knowledge 'as_served' needs a position.
    """

    ttl: int | None = None
    knowledge: Knowledge = "as_known"
    position: int | None = None
    backfilled_until: int | None = None

    def __post_init__(self) -> None:
        if self.knowledge not in KNOWLEDGE:
            raise InvalidArgumentError(f"No knowledge '{self.knowledge}'. There is: {', '.join(KNOWLEDGE)}.")
        if (self.knowledge == "as_served") != (self.position is not None):
            need = "needs a" if self.position is None else "takes no"
            raise InvalidArgumentError(f"Knowledge '{self.knowledge}' {need} position.")

    def known_from(self, event: Int64Array, created: Int64Array) -> Int64Array:
        """Return the time from which each row is known; `created` is INT64_MIN where there is none.

        >>> PointInTimeRule(backfilled_until=5).known_from(np.array([4, 6]), np.array([9, 9])).tolist()
        [4, 9]
        """
        known = np.maximum(event, created)
        return known if self.backfilled_until is None else np.where(event <= self.backfilled_until, event, known)

    def is_expired(self, event: Int64Array, at: Int64Array) -> BoolArray:
        """Say which of these event times, none after `at`, are older than the ttl.

        >>> PointInTimeRule(ttl=3).is_expired(np.array([7, 6]), np.array([10, 10])).tolist()
        [False, True]
        """
        return np.zeros(len(at), np.bool_) if self.ttl is None else np.asarray(event < before(at, self.ttl))

    def status(
        self, found: BoolArray, event: Int64Array, present: BoolArray, newest: Int64Array, at: Int64Array
    ) -> npt.NDArray[np.int8]:
        """Say for each spine row what became of it.

        Args:
            found: Whether there is a visible row.
            event: Event time of the greatest visible row.
            present: Whether there is any row with an event time up to `at`, visible or not.
            newest: The greatest event time of those.
            at: The spine's times.

        Returns:
            MATCHED; EXPIRED when every row up to `at` is older than the ttl; NOT_YET_KNOWN when one is not, but is not visible;
            MISSING when there is none.
        """
        matched = found & ~self.is_expired(event, at)
        expired = present & self.is_expired(newest, at)
        return np.select(
            [matched, expired, present], [np.int8(MATCHED), np.int8(EXPIRED), np.int8(NOT_YET_KNOWN)], np.int8(MISSING)
        )


def before(at: Int64Array, span: int) -> Int64Array:
    """Return the times so many microseconds earlier, and the beginning of time where they would lie before it.

    >>> before(np.array([10, INT64_MIN + 2]), 3).tolist() == [7, INT64_MIN]
    True
    """
    return np.where(at < INT64_MIN + span, INT64_MIN, at - span)  # the wrapped difference is not taken


@dataclass(frozen=True, slots=True)
class Spine:
    """The spine as one view sees it.

    Attributes:
        keys: One column for each join key of the view, under its name and in its type.
        at: int64 microseconds since 1970 UTC; where `timed` is False it says nothing.
        timed: False where the spine's time is null: such a row matches nothing.
        orders: Number of buckets -> what an engine found out about this spine; shared by views with the same keys.
    """

    keys: pa.Table
    at: Int64Array
    timed: BoolArray
    orders: dict[int, Any] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.at)


@dataclass(frozen=True, slots=True)
class Joined:
    """What an engine returns for one view.

    Attributes:
        table: One row for each spine row, in its order: the columns asked for, null where nothing matched.
        status: int8 for each spine row: MATCHED, MISSING, EXPIRED or NOT_YET_KNOWN.
    """

    table: pa.Table
    status: npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Gathered:
    """The events of a spine's entities.

    Attributes:
        events: Ready for `fold_windows`.
        entity: int64 for each spine row: the index of its entity in `events`, -1 where key or time is null.
    """

    events: Events
    entity: Int64Array
