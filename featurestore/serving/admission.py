"""How much a process takes on: all that comes, until calls wait in a standing queue; then a share of it, which is learnt.

One late call tells nothing; that even the quickest of a tenth of a second had to wait means that more comes than goes out (Nichols and
Jacobson, Controlling Queue Delay, ACM Queue 10(5), 2012). The share then falls by a factor, and otherwise rises by steps (Chiu and Jain,
Analysis of the Increase and Decrease Algorithms, Computer Networks and ISDN Systems 17, 1989). What is not taken on is refused before its
body is read, with the time after which to come again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from featurestore.errors import ResourceExhaustedError

TARGET = 50_000_000  # nanoseconds that a call may wait before it is looked at
_INTERVAL, _NOTES = 100_000_000, 4
_SOONEST, _LATEST = (
    20_000_000,
    200_000_000,
)  # who is sent away longer than it takes to answer the others leaves the process idle
_FACTOR, _STEP, _LEAST = 0.8, 0.05, 0.05


class Admission:
    """What one process takes on; it belongs to one event loop.

    Args:
        clock: Monotonic nanoseconds.

    Attributes:
        share: Of the calls that come, how many are taken on, 0.05 to 1.
        refused: How many were not.

    >>> admission = Admission()
    >>> admission.share = 0.5
    >>> admission.note(60_000_000)
    >>> [admission.admits() for _ in range(4)]
    [False, True, False, True]
    """

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.share = 1.0
        self.refused = 0
        self._credit = 0.0
        self._clock = clock
        self._noted: list[int] = []
        self._began = 0
        self._waited = self._last = 0

    def admits(self) -> bool:
        """Say whether there is time for one more call; calls are refused evenly, not in bursts, and only while there is a queue."""
        if not self.is_crowded:
            return True
        self._credit += self.share
        if self._credit < 1.0:
            self.refused += 1
            return False
        self._credit -= 1.0
        return True

    @property
    def is_crowded(self) -> bool:
        """Whether some calls are refused, until the next note."""
        return self.share < 1.0 and self._last >= TARGET // 2

    @property
    def says(self) -> tuple[float, int]:
        """What a refusal says now: the share that is taken on, and how long calls wait, nanoseconds."""
        return self.share, self._waited

    def refusal(self) -> ResourceExhaustedError:
        """Return the error of a call that was not taken on."""
        return ResourceExhaustedError(
            f"Calls wait {self._waited / 1e6:.0f} ms for this server, which takes on {self.share:.0%} of them now.",
            repair="Try again a little later.",
            retry_after=min(max(self._waited, _SOONEST), _LATEST) / 1e9,
        )

    def note(self, waited: int) -> None:
        """Note how long something waited for its turn, nanoseconds; to be called several times in a tenth of a second.

        An interval begins with a note and has a few, so that one pause of the process, however long, is not taken for a queue.
        """
        now, self._last = self._clock(), waited
        if not self._noted:
            self._began = now
        self._noted.append(waited)
        if len(self._noted) >= _NOTES and now - self._began >= _INTERVAL:
            self._adapt(min(self._noted))
            self._noted.clear()

    def _adapt(self, quickest: int) -> None:
        self._waited = quickest
        if quickest > TARGET:
            self.share = max(_LEAST, self.share * _FACTOR)
        elif quickest < TARGET // 2:
            self.share = min(1.0, self.share / _FACTOR + _STEP)  # there is time to spare: soon all is taken on again
        else:
            self.share = min(1.0, self.share + _STEP)
