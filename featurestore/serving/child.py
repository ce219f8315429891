"""What every process of a server has in common.

Its settings come on standard input, it says once that it is ready, and it drains when it is told to or when its parent is gone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from featurestore.errors import FeatureStoreError
from featurestore.serving.logs import start_logging
from featurestore.serving.settings import ServeSettings


class Lifeline:
    """A child's tie to its parent.

    Attributes:
        stop: Set when the child shall drain and end.
    """

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop.set)
        loop.add_signal_handler(signal.SIGINT, self.stop.set)
        loop.add_reader(sys.stdin.fileno(), self._read)

    def ready(self, **facts: Any) -> None:
        """Tell the parent that calls are answered from now on."""
        tell(**facts)

    def _read(self) -> None:
        """Notice the end of standard input: the parent is gone, however it ended."""
        if not os.read(sys.stdin.fileno(), 1024):
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            self.stop.set()


def run_child(
    body: Callable[[ServeSettings, Lifeline], Awaitable[None]],
    *,
    event_loop: Callable[[ServeSettings], Callable[[], asyncio.AbstractEventLoop]] = lambda _: asyncio.new_event_loop,
) -> None:
    """Run a process of a server until it is told to stop.

    It says that it is loaded, and waits for its settings: a process that stands by has done all that takes long.

    Args:
        body: What it does, with the settings and the tie to the parent.
        event_loop: Says what makes the event loop that it runs on.
    """
    tell(loaded=True)
    settings = ServeSettings.from_json(sys.stdin.readline())
    start_logging(settings.log)

    async def main() -> None:
        await body(settings, Lifeline())

    try:
        with asyncio.Runner(loop_factory=event_loop(settings)) as runner:
            runner.run(main())
    except FeatureStoreError as error:
        tell(error=str(error), kind=type(error).__name__)
        sys.exit(1)


def tell(**facts: Any) -> None:
    """Say something to the parent: one line of JSON."""
    print(json.dumps(facts), flush=True)  # noqa: T201  # the line is the message


async def every(seconds: float, what: str, step: Callable[[], Awaitable[object]]) -> None:
    """Do something again and again, for as long as the process lives.

    Args:
        seconds: Pause between the end of one time and the start of the next.
        what: What that is, for the log.
        step: Does it; if it fails in a way that is known (the disk is full, the registry is locked) it is tried again.
    """
    while True:
        await asyncio.sleep(seconds)
        try:
            await step()
        except (FeatureStoreError, OSError) as error:
            logging.getLogger(__name__).warning("%s failed and will be tried again: %s", what, error)
