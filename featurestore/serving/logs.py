"""What the processes of a server log, as text or as one JSON object a line; what was asked for is in neither.

An exception that nobody foresaw is logged by its class and by where it was raised: its text may quote keys or values.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from types import TracebackType
from typing import Literal

LogStyle = Literal["text", "json"]

_TEXT = "%(asctime)s %(levelname)s %(name)s [%(process)d] %(message)s"
_Raised = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def start_logging(style: LogStyle) -> None:
    """Log to standard error from now on.

    Args:
        style: ``text``, or ``json`` with time (ISO 8601 in UTC), level, logger, process, message, and where an exception was raised.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if style == "json" else Lines(_TEXT))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)


class Lines(logging.Formatter):
    """Text, with the class and the place of an exception in the place of its text."""

    def formatException(self, ei: _Raised) -> str:  # noqa: N802  # the name that logging calls
        """Return the frames of an exception, innermost last, then its class."""
        kind, error, trace = ei
        if kind is None or error is None:
            return ""
        cause = error.__cause__
        before = f"{self.formatException((type(cause), cause, cause.__traceback__))}\nthen\n" if cause else ""
        return f"{before}{''.join(traceback.format_tb(trace))}{kind.__module__}.{kind.__qualname__}"


class JsonLines(Lines):
    """One JSON object a line.

    >>> record = logging.LogRecord("store", logging.INFO, "", 0, "%d rows", (3,), None)
    >>> record.created, record.msecs, record.process = 0, 250, 7
    >>> JsonLines().format(record)
    '{"time":"1970-01-01T00:00:00.250Z","level":"INFO","logger":"store","process":7,"message":"3 rows"}'
    """

    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"
    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        facts: dict[str, object] = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            facts["exception"] = self.formatException(record.exc_info)
        return json.dumps(facts, separators=(",", ":"))
