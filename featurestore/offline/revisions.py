"""How often a source revises its history: rows of one key and event time that came again with something else.

What is measured is published beside the registry, in ``store/revisions.json``, for whoever asks how stable a dependency is.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import CorruptionError, InvalidArgumentError
from featurestore.offline.durable import write_durably
from featurestore.offline.table import OfflineTable
from featurestore.refs import ViewRef
from featurestore.registry.snapshot import ViewRecord
from featurestore.rows import EVENT

FILE = "revisions.json"
SCHEMA_VERSION = 1


class Month(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of one month of event time (UTC).

    Attributes:
        month: ``2026-05``.
        rows: How many keys and event times there are.
        revised: How many of them came again with something else.
        revisions: How often, all in all.
    """

    month: str
    rows: int
    revised: int
    revisions: int


class Revisions(msgspec.Struct, frozen=True, kw_only=True):
    """How often the history of a view version was revised.

    Attributes:
        measured_at: Microseconds since 1970 UTC.
        delta_version: Version of the table that was measured.
        months: By month of the event time, oldest first.
    """

    view: str
    measured_at: int
    delta_version: int
    months: tuple[Month, ...]

    @property
    def rows(self) -> int:
        """How many keys and event times there are."""
        return sum(month.rows for month in self.months)

    @property
    def revised(self) -> int:
        """How many of them came again with something else."""
        return sum(month.revised for month in self.months)


class _Published(msgspec.Struct, frozen=True):
    schema_version: int = SCHEMA_VERSION
    views: dict[str, Revisions] = {}


def can_be_told(record: ViewRecord) -> bool:
    """Say whether a second row of one key and event time is a revision: events without a key of their own may just be equal."""
    return record.kind == "batch" or bool(record.event_key)


def measure_revisions(ref: ViewRef, record: ViewRecord, table: OfflineTable, *, now: int) -> Revisions:
    """Count the revised rows of a view version.

    Args:
        ref: The version.
        record: Its definition.
        table: Its offline table, which must have rows; its keys and event times are read at once, some 40 bytes a row.
        now: Microseconds since 1970 UTC.

    Raises:
        InvalidArgumentError: Its events have no key, so that two of one time cannot be told from one that was revised.
        FailedPreconditionError: Nothing was ever committed.
    """
    if not can_be_told(record):
        raise InvalidArgumentError(f"The events of {ref} have no event_key: nobody can say which were revised.")
    pinned = table.pinned()
    identity = [column.name for column in (*table.schema.keys, *table.schema.event_key)] + [EVENT]
    versions = pinned.read(identity).group_by(identity).aggregate([([], "count_all")])
    facts = pa.table(
        {
            "month": pc.strftime(versions[EVENT], format="%Y-%m"),
            "revised": pc.cast(pc.greater(versions["count_all"], 1), pa.int64()),
            "revisions": pc.subtract(versions["count_all"], 1),
        }
    )
    counted = facts.group_by("month").aggregate([([], "count_all"), ("revised", "sum"), ("revisions", "sum")])
    months = tuple(
        Month(month=row["month"], rows=row["count_all"], revised=row["revised_sum"], revisions=row["revisions_sum"])
        for row in counted.sort_by("month").to_pylist()
    )
    return Revisions(view=str(ref), measured_at=now, delta_version=pinned.version, months=months)


def read_revisions(store: Path) -> dict[str, Revisions]:
    """Return what was measured, by view version; raises CorruptionError when the file is not as published."""
    path = store / FILE
    if not path.exists():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Published).views
    except msgspec.MsgspecError as error:
        raise CorruptionError(f"'{path}' is damaged: {error}.", repair="Delete it, and measure again.") from error


def publish_revisions(store: Path, measured: Revisions) -> None:
    """Put a measurement in the place of the one before."""
    views = {**read_revisions(store), measured.view: measured}
    write_durably(store / FILE, msgspec.json.format(msgspec.json.encode(_Published(views=views))))
