"""Two versions of a view in one read: some keys get the new one, or it is compared and nobody gets it.

Which keys are moved is a matter of their digest alone, so that a key gets the same version wherever it is read, and those that are moved
stay moved when the share is raised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from featurestore.lanes import LaneColumn
from featurestore.online.codec import RowLayout, event_times, states
from featurestore.online.store import Snapshot

_DIGESTS = 1 << 64


@dataclass(slots=True)
class Seen:
    """What the reads of one view have found since somebody looked; counted in passing, by plain numbers.

    Attributes:
        rows: Rows that were asked for.
        missing: Of entities without a row.
        expired: Older than the ttl.
        newest: The first row of the latest read, and the instant t of that read; None before the first.
    """

    rows: int = 0
    missing: int = 0
    expired: int = 0
    newest: tuple[bytes, int] | None = None


class ReadView(Protocol):
    """How a view is read."""

    @property
    def key_set(self) -> int:
        """Index of the plan's key set by which it is read."""

    @property
    def layout(self) -> RowLayout:
        """How its answers are laid out."""

    def rows(self, snapshot: Snapshot, keys: Sequence[bytes], t: int) -> list[bytes]:
        """Return the row of each entity."""

    def places(self, keys: Sequence[bytes]) -> list[tuple[bytes, Sequence[bytes]]]:
        """Return (prefix of a keyspace, entity keys) of all rows that `rows` gets."""


class ReadVersion(ReadView, Protocol):
    """How one view version is read."""

    @property
    def seen(self) -> Seen:
        """What its reads have found."""


@dataclass(slots=True)
class Compared:
    """What a shadow has found since somebody looked.

    Attributes:
        rows: Rows that were compared.
        differing: Feature -> rows in which the two versions say something else.
    """

    rows: int = 0
    differing: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CanaryView:
    """A view version of which some keys get another version.

    Attributes:
        old: The version that the schema names.
        new: The other one, with the same features.
        name: The other version, ``weather@v2``.
        share: Which share of the keys gets it, from 0 to 1.
    """

    old: ReadVersion
    new: ReadVersion
    name: str
    share: float

    @property
    def key_set(self) -> int:
        """Index of the plan's key set."""
        return self.old.key_set

    @property
    def layout(self) -> RowLayout:
        """How answers are laid out."""
        return self.old.layout

    def rows(self, snapshot: Snapshot, keys: Sequence[bytes], t: int) -> list[bytes]:
        """Return the row of each entity in the version that is its own."""
        is_moved = self.moved(keys)
        staying, moving = _shared_out(keys, is_moved)
        old = iter(self.old.rows(snapshot, staying, t) if staying else ())
        rows = self.new.rows(snapshot, moving, t) if moving else []
        new = iter(laid_out(rows, self.new.layout, self.layout))
        return [next(new if moved else old) for moved in is_moved]

    def places(self, keys: Sequence[bytes]) -> list[tuple[bytes, Sequence[bytes]]]:
        """Return where the rows of both versions lie."""
        staying, moving = _shared_out(keys, self.moved(keys))
        return [*self.old.places(staying), *self.new.places(moving)]

    def moved(self, keys: Sequence[bytes]) -> list[bool]:
        """Say which keys get the other version."""
        return [is_moved(key, self.name, self.share) for key in keys]

    def moved_bits(self, keys: Sequence[bytes]) -> bytes:
        """Return the same as the answer says it: a bit for each key, the lowest of a byte first."""
        return np.packbits(self.moved(keys), bitorder="little").tobytes()


@dataclass(frozen=True, slots=True)
class ShadowView:
    """A view version that is compared with another.

    Attributes:
        old: The version that answers.
        new: The other one.
        name: The other version, ``weather@v2``.
        features: The features that are compared.
        found: What was found.
    """

    old: ReadVersion
    new: ReadVersion
    name: str
    features: tuple[str, ...]
    found: Compared = field(default_factory=Compared)

    @property
    def key_set(self) -> int:
        """Index of the plan's key set."""
        return self.old.key_set

    @property
    def layout(self) -> RowLayout:
        """How answers are laid out."""
        return self.old.layout

    def rows(self, snapshot: Snapshot, keys: Sequence[bytes], t: int) -> list[bytes]:
        """Return the row of each entity in the version that answers, and compare it with the other."""
        old, new = self.old.rows(snapshot, keys, t), self.new.rows(snapshot, keys, t)
        self.found.rows += len(keys)
        counts = differing(old, self.old.layout, new, self.new.layout, self.features)
        for name, count in counts.items():
            self.found.differing[name] = self.found.differing.get(name, 0) + count
        return old

    def places(self, keys: Sequence[bytes]) -> list[tuple[bytes, Sequence[bytes]]]:
        """Return where the rows of both versions lie."""
        return [*self.old.places(keys), *self.new.places(keys)]


def _shared_out(keys: Sequence[bytes], is_moved: Sequence[bool]) -> tuple[list[bytes], list[bytes]]:
    """Return the keys that stay and those that are moved."""
    both = list(zip(keys, is_moved, strict=True))
    return [key for key, moved in both if not moved], [key for key, moved in both if moved]


def is_moved(key: bytes, version: str, share: float) -> bool:
    """Say whether a key is among the share that gets a version; another version has other keys.

    Args:
        key: The entity key.
        version: The version, ``weather@v2``.
        share: From 0 to 1.

    >>> sum(is_moved(b"%d" % n, "weather@v2", 0.1) for n in range(10_000))
    936
    """
    salt = blake2b(version.encode(), digest_size=16).digest()
    return int.from_bytes(blake2b(key, digest_size=8, salt=salt).digest(), "big") < share * _DIGESTS


def laid_out(rows: list[bytes], old: RowLayout, new: RowLayout) -> list[bytes]:
    """Return rows in another layout of the same features."""
    if not rows or old == new:
        return rows
    columns = old.decode(rows, [slot.name for slot in new.slots])
    return new.encode(event_times(rows), columns, state=states(rows))


def differing(
    old: list[bytes], old_layout: RowLayout, new: list[bytes], new_layout: RowLayout, features: Sequence[str]
) -> dict[str, int]:
    """Return for each feature in how many rows two versions say something else: another value, or a null on one side."""
    if not old or (old == new and old_layout == new_layout):
        return dict.fromkeys(features, 0)
    pairs = zip(old_layout.decode(old, features), new_layout.decode(new, features), strict=True)
    return {name: int(_unequal(a, b).sum()) for name, (a, b) in zip(features, pairs, strict=True)}


def _unequal(a: LaneColumn, b: LaneColumn) -> NDArray[np.bool_]:
    if isinstance(a.values, list) or isinstance(b.values, list):
        values = np.fromiter(map(bytes.__ne__, a.values, b.values), np.bool_, len(a.valid))
    else:
        bits = [np.ascontiguousarray(column.values).view(np.uint8).reshape(len(column.valid), -1) for column in (a, b)]
        values = (bits[0] != bits[1]).any(axis=1)
    different: NDArray[np.bool_] = np.where(a.valid & b.valid, values, a.valid != b.valid)
    return different
