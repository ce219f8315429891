"""Taking turns: the threads of a process that write to a store get it in the order in which they asked."""

from __future__ import annotations

import threading
from collections import deque


class Turns:
    """A lock that goes to whoever has waited longest, so that long work in many short writes does not keep the others out.

    LMDB's own lock, like most, goes to whoever is there first, which is the one that has just released it.

    >>> turns = Turns()
    >>> with turns:
    ...     len(turns)
    1
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._queue: deque[threading.Lock] = deque()  # the first has its turn

    def __len__(self) -> int:
        """How many threads have their turn or wait for it."""
        return len(self._queue)

    def __enter__(self) -> None:
        turn = threading.Lock()
        with self._mutex:
            if self._queue:
                turn.acquire()
            self._queue.append(turn)
        turn.acquire()

    def __exit__(self, *_: object) -> None:
        with self._mutex:
            self._queue.popleft()
            if self._queue:
                self._queue[0].release()
