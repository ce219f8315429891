"""Work that threads share: parts of a table, each a task of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

THREADS = 2

_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


def in_turn(work: Callable[[_Given], _Made], given: Sequence[_Given]) -> Iterator[tuple[_Given, _Made]]:
    """Yield what becomes of each, in order; threads work a few ahead, and no more, so that little waits in memory.

    >>> list(in_turn(abs, [-1, 2]))
    [(-1, 1), (2, 2)]
    """
    if len(given) == 1:
        yield given[0], work(given[0])
        return
    waiting: deque[tuple[_Given, Future[_Made]]] = deque()
    with ThreadPoolExecutor(THREADS) as threads:
        try:
            for one in given:
                waiting.append((one, threads.submit(work, one)))
                if len(waiting) > THREADS:
                    yield _done(*waiting.popleft())
            while waiting:
                yield _done(*waiting.popleft())
        finally:
            for _, made in waiting:
                made.cancel()


def _done(one: _Given, made: Future[_Made]) -> tuple[_Given, _Made]:
    return one, made.result()
