"""Upkeep of the offline tables: compaction when reads gain from it or when it is asked for, vacuum when it is asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from featurestore.flow.fold import Tables
from featurestore.offline.datasets.manifest import Manifest
from featurestore.offline.table import CompactReport, OfflineTable
from featurestore.refs import ViewRef


@dataclass(frozen=True, slots=True)
class UpkeepReport:
    """What was done to the offline table of a view version.

    Attributes:
        view: The view version.
        rows: Rows that were written anew.
        files_before: Live files before.
        files: Live files after.
        buckets: Number of hash buckets after.
        removed: Files that left the disk.
    """

    view: str
    rows: int
    files_before: int
    files: int
    buckets: int
    removed: int = 0

    @classmethod
    def of(cls, view: ViewRef, report: CompactReport, *, removed: int = 0) -> UpkeepReport:
        """Return the report of a compaction and a vacuum."""
        return cls(str(view), report.rows, report.files_before, report.files, report.buckets, removed)


def compact_view(
    view: ViewRef, table: OfflineTable, *, buckets: int | None = None, keep: Collection[str] | None = None
) -> UpkeepReport:
    """Compact the table of a view version, and clean up after it if told to.

    Args:
        view: The view version.
        table: Its table, which has rows.
        buckets: Number of hash buckets from now on; see `OfflineTable.compact`.
        keep: Paths that a vacuum leaves alone; None does not vacuum.
    """
    report = table.compact(buckets=buckets)
    removed = [] if keep is None else table.vacuum(keep=keep)
    return UpkeepReport.of(view, report, removed=len(removed))


def tend_views(views: Iterable[ViewRef], tables: Tables) -> list[UpkeepReport]:
    """Compact the tables whose reads gain from it; returns what was done, nothing for those that are in order.

    Args:
        views: View versions that are stored; they need not have rows.
        tables: Gives the offline table of a view version.
    """
    tended = ((view, tables(view).tend()) for view in views)
    return [UpkeepReport.of(view, report) for view, report in tended if report is not None]


def files_of_datasets(datasets: Path, table: OfflineTable) -> set[str]:
    """Return the files of a table that saved datasets list, relative to its folder.

    Args:
        datasets: Folder of all datasets, in the store's folder.
        table: The table.

    Raises:
        CorruptionError: A manifest cannot be read, so that what it lists is not known.
    """
    listed: set[str] = set()
    for path in datasets.glob("*/manifest.json"):
        manifest = Manifest.from_json(path.read_bytes(), place=str(path))
        for source in manifest.sources:
            if source.is_of(table.directory, datasets.parent):
                listed.update(source.files)
    return listed
