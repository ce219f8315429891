"""A circuit breaker: a server that fails is left alone for a while, and whoever would ask it is refused at once.

After Nygard (Release It!, 2007, ch. 5; https://martinfowler.com/bliki/CircuitBreaker.html). The pause doubles with each failure and a
random part of it is waited, so that many processes do not come back together (Brooker, Exponential Backoff And Jitter,
https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Literal

State = Literal["closed", "open", "half-open"]

_CLOSED_UNTIL = 3  # failures in a row
_SHORTEST, _LONGEST = 0.05, 2.0  # seconds


class Breaker:
    """Says whether a server may be asked.

    It is closed while the server answers. After three failures in a row it is open: nobody asks. When the pause is over one caller may try,
    and the breaker is half-open until that one says how it went.

    Args:
        clock: Seconds that only rise.
        draw: Returns a random number of ``[0, 1)``.

    >>> now = 0.0
    >>> breaker = Breaker(clock=lambda: now, draw=lambda: 1.0)
    >>> for _ in range(3):
    ...     breaker.failed()
    >>> breaker.admits(), breaker.state
    (False, 'open')
    >>> now = 10.0
    >>> breaker.admits(), breaker.admits(), breaker.state
    (True, False, 'half-open')
    >>> breaker.succeeded()
    >>> breaker.admits(), breaker.state
    (True, 'closed')
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, draw: Callable[[], float] = random.random) -> None:
        self._clock, self._draw = clock, draw
        self._mutex = threading.Lock()
        self._failures = 0
        self._again = 0.0
        self._trying = False

    @property
    def state(self) -> State:
        """closed, open or half-open."""
        if self._failures < _CLOSED_UNTIL:
            return "closed"
        return "half-open" if self._trying else "open"

    @property
    def wait(self) -> float:
        """Seconds until the next try; 0 when there may be one now."""
        return max(0.0, self._again - self._clock()) if self._failures >= _CLOSED_UNTIL else 0.0

    def admits(self) -> bool:
        """Say whether the server may be asked now; who is told yes says afterwards how it went."""
        with self._mutex:
            if self._failures < _CLOSED_UNTIL:
                return True
            if self._trying or self._clock() < self._again:
                return False
            self._trying = True
            return True

    def succeeded(self) -> None:
        """Note that the server answered."""
        with self._mutex:
            self._failures, self._trying = 0, False

    def failed(self) -> None:
        """Note that it did not."""
        with self._mutex:
            self._failures += 1
            self._trying = False
            longest = min(_LONGEST, _SHORTEST * 2 ** min(self._failures, 16))
            self._again = self._clock() + longest * (0.5 + 0.5 * self._draw())
