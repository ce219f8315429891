"""What a change takes from whoever reads, and who that is: promote, retire and removal refuse by this one rule."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from featurestore.types import from_micros


@dataclass(frozen=True, slots=True)
class SeenRead:
    """One feature version that somebody was seen to read.

    Attributes:
        feature: ``view@v1:feature``.
        who: The consumer, or the principal where none was named.
        last_read: Microseconds since 1970 UTC.
    """

    feature: str
    who: str
    last_read: int


@dataclass(frozen=True, slots=True)
class Taken:
    """What a change takes from its readers.

    Attributes:
        object: What it is, e.g. ``weather@v1``.
        features: Feature versions that can no longer be read, or that a reference without a version no longer means.
        named: Who is known to lose something without a look at what was read.
        kept: Consumer -> feature versions that it goes on reading, or gives up knowingly; all others lose what they read.
        cadence_days: The longest time between two reads of a consumer that declares it; 0 where none says.
        command: The command that does it, for the message.
    """

    object: str
    features: frozenset[str]
    named: tuple[str, ...] = ()
    kept: Mapping[str, Collection[str]] = field(default_factory=dict)
    cadence_days: float = 0
    command: str = ""

    def readers(self, reads: Iterable[SeenRead]) -> Iterator[str]:
        """Say who was seen to read what is taken, and when last.

        >>> taken = Taken("weather@v1", frozenset({"weather@v1:temp"}), kept={"model@1": {"weather@v1:temp"}})
        >>> list(taken.readers([SeenRead("weather@v1:temp", who, 0) for who in ("model@1", "job")]))
        ['job read it on 1970-01-01']
        """
        last: dict[str, int] = {}
        for read in reads:
            if read.feature in self.features and read.feature not in self.kept.get(read.who, ()):
                last[read.who] = max(read.last_read, last.get(read.who, read.last_read))
        for who, instant in last.items():
            yield f"{who} read it on {from_micros(instant):%Y-%m-%d}"
