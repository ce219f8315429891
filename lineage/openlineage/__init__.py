"""OpenLineage, out and in: what the store knows as events that other tools read, and what their events tell about the store."""

from __future__ import annotations

from lineage.openlineage.export import events_of
from lineage.openlineage.reading import Told, read_events, told_by

__all__ = ["Told", "events_of", "read_events", "told_by"]
