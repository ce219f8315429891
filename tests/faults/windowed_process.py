"""A writer of a windowed view for a process of its own: every event changes the root, pages at all levels, and tiles."""

import itertools
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import pyarrow as pa

from featurestore import Aggregation, Entity, FeatureView, PushSource
from featurestore.online.windows import write
from featurestore.refs import ViewRef
from featurestore.testing.projects import ScratchProject

WINDOW = timedelta(seconds=4)
NOW = 10**12
SENSORS = 5
SIGNALS = FeatureView(
    "signals",
    Entity("sensor", {"sensor": "int64"}),
    PushSource("signals", "at"),
    features=[
        Aggregation("batch", function, WINDOW, dtype="int64", name=function) for function in ("count", "sum", "max")
    ]
    + [Aggregation("batch", "last", WINDOW, dtype="int64", n=1000, name="all")],
    event_key={"number": "int64"},
)


def shorten_pages() -> None:
    """Let blocks hold few events, so that most writes cut pages."""
    write.INLINE_EVENTS, write.RECENT_EVENTS, write.PAGE_EVENTS = 4, 2, 3


def batch_rows(batch: int) -> pa.Table:
    """One event for each sensor, somewhere in the window."""
    return pa.table(
        {
            "at": pa.array([NOW - batch * 7919 % 4_000_000] * SENSORS, pa.timestamp("us", "UTC")),
            "sensor": list(range(SENSORS)),
            "batch": [batch] * SENSORS,
            "number": [batch] * SENSORS,
        }
    )


def write_signals(folder: str, first: int, acknowledged: Connection) -> None:
    """Write batch after batch, each acknowledged by its number; folds and fills come in between. Runs until it is killed."""
    shorten_pages()
    with ScratchProject(Path(folder), SIGNALS, now=NOW) as project:
        for batch in itertools.count(first):
            project.writer.write(ViewRef("signals"), batch_rows(batch))
            acknowledged.send_bytes(batch.to_bytes(8, "big"))
            if batch % 23 == 0:
                project.writer.materialize(ViewRef("signals"), full=batch % 2 == 0)
