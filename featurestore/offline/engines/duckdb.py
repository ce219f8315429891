"""The engine that asks DuckDB; values never pass through it, only keys, times and row numbers, so no type can change.

The rows of a view are put in order of (event time, created, seq) first: of two rows, the greater is then the one with the greater
number. Keys become the numbers of the spine's entities. What is left is an ASOF join on whole numbers:

* `latest`, `as_served`: the greatest number for each event time; ASOF on the event time.
* `as_known`: the running maximum of the number, by entity and in order of the time from which rows are known; ASOF on that time.

A plain ASOF on the event time alone gets an arbitrary row among ties. ASOF on a row value, over a composite key that holds a BLOB, misses
rows in DuckDB 2.0; on numbers it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.offline.point_in_time import MATCHED, Gathered, Int64Array, Joined, PointInTimeRule, Spine
from featurestore.offline.relations import query, quoted, with_integer_times
from featurestore.offline.table import OfflineTable
from featurestore.rows import CREATED, EVENT, SEQ
from featurestore.types import INT64_MIN
from featurestore.windows import Events, WindowColumn

ROW, GROUP = "__row", "__group"


class DuckDBEngine:
    """Joins by DuckDB's ASOF; the cross-check for every other engine."""

    name = "duckdb"

    def join(self, table: OfflineTable, spine: Spine, rule: PointInTimeRule, columns: Sequence[str]) -> Joined:
        """Return for each spine row the value columns of the one row that the rule gives it.

        Args:
            table: The view's rows.
            spine: Keys and times.
            rule: Which row it gets.
            columns: Names of the value columns.
        """
        rows = _read(table, spine.keys.column_names, columns)
        entity, owner = _entities(spine, rows)
        event, created, seq = (_micros(rows[name]) for name in (EVENT, CREATED, SEQ))
        order = _order(event, created, seq)
        event = event[order]
        events = pa.table(
            {
                "entity": owner[order],
                "event": event,
                "known_from": rule.known_from(event, created[order]),
                "number": np.arange(len(rows)),
            }
        )
        visible = events if rule.position is None else events.filter(pa.array(seq[order] <= rule.position))
        found = _greatest(entity, spine.at, visible, _KNOWN if rule.knowledge == "as_known" else _HAPPENED)
        lost = (found < 0) | rule.is_expired(_taken(event, found), spine.at)
        newest = np.where(lost, _greatest(np.where(lost, entity, -1), spine.at, events, _HAPPENED), found)
        status = rule.status(found >= 0, _taken(event, found), newest >= 0, _taken(event, newest), spine.at)
        winners = pa.array(_taken(order, found), mask=status != MATCHED)
        return Joined(rows.select(list(columns)).take(winners), status)

    def gather(
        self,
        table: OfflineTable,
        spine: Spine,
        rule: PointInTimeRule,
        columns: Sequence[str],
        *,
        reach: int | None = None,  # noqa: ARG002 - all events are there already
    ) -> Sequence[tuple[Int64Array, Callable[[], Gathered]]]:
        """Return all rows of the spine, and what gathers the events of their entities.

        Args:
            table: The view's events.
            spine: Keys and times.
            rule: From when each event is known.
            columns: Names of the aggregated columns.
            reach: Not looked at.
        """
        return [(np.arange(len(spine)), partial(_gather, table, spine, rule, columns))]


def _gather(table: OfflineTable, spine: Spine, rule: PointInTimeRule, columns: Sequence[str]) -> Gathered:
    event_key = [column.name for column in table.schema.event_key]
    rows = _read(table, [*spine.keys.column_names, *event_key], columns)
    entity, owner = _entities(spine, rows)
    identity = _group_of(rows, _groups(rows, event_key), event_key) if event_key else np.arange(len(rows))
    wanted = np.flatnonzero(owner >= 0)
    event, created, seq = (_micros(rows[name])[wanted] for name in (EVENT, CREATED, SEQ))
    order = _order(owner[wanted], event, *([identity[wanted]] if event_key else []), created, seq)
    owner, identity, event, created, seq = (a[order] for a in (owner[wanted], identity[wanted], event, created, seq))
    chosen = rows.select(list(columns)).take(pa.array(wanted[order]))
    events = Events(
        starts=np.searchsorted(owner, np.arange(entity.max(initial=-1) + 2)),
        event=event,
        created=created,
        seq=seq,
        known_from=rule.known_from(event, created),
        identity=_runs(owner, event, identity),
        columns={name: WindowColumn.from_arrow(chosen[name]) for name in columns},
    )
    return Gathered(events, entity)


_GREATEST = """
    SELECT a.number, g.greatest FROM asked a ASOF JOIN ({since}) g ON a.entity = g.entity AND a.at >= g.since"""
_HAPPENED = """
    SELECT entity, event AS since, max(number) AS greatest FROM events GROUP BY entity, event"""
_KNOWN = """
    SELECT entity, known_from AS since, max(max(number)) OVER (PARTITION BY entity ORDER BY known_from) AS greatest
    FROM events GROUP BY entity, known_from"""
_GROUPS = """
    SELECT {columns}, row_number() OVER () - 1 AS __group FROM (SELECT DISTINCT {columns} FROM rows)"""
_GROUP_OF = """
    SELECT r.__row, g.__group FROM rows r JOIN groups g ON {on}"""


def _greatest(entity: Int64Array, at: Int64Array, events: pa.Table, since: str) -> Int64Array:
    """Return for each read the number of the greatest row that is visible at its time, -1 for none; the ttl is not looked at."""
    reads = np.flatnonzero(entity >= 0)
    asked = pa.table({"entity": entity[reads], "at": at[reads], "number": reads})
    wanted = np.zeros(entity.max(initial=-1) + 2, np.bool_)  # the last one is what -1 points at: nobody's
    wanted[entity[reads]] = True
    asked_for = events.filter(pa.array(wanted[np.minimum(events["entity"].to_numpy(), len(wanted) - 1)]))
    found = query(_GREATEST.format(since=since), asked=asked, events=asked_for)
    greatest = np.full(len(entity), -1, np.int64)
    greatest[found["number"].to_numpy()] = found["greatest"].to_numpy()
    return greatest


def _entities(spine: Spine, rows: pa.Table) -> tuple[Int64Array, Int64Array]:
    """Number the spine's entities; return the number for each spine row and for each row, -1 where there is none."""
    keys = spine.keys.column_names
    groups = _groups(spine.keys, keys)
    return np.where(spine.timed, _group_of(spine.keys, groups, keys), -1), _group_of(rows, groups, keys)


def _groups(rows: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Number the distinct values of these columns."""
    return query(_GROUPS.format(columns=quoted(*columns)), rows=with_integer_times(rows.select(list(columns))))


def _group_of(rows: pa.Table, groups: pa.Table, columns: Sequence[str]) -> Int64Array:
    """Return the number of each row's values, -1 where there is none or a value is null."""
    on = " AND ".join(f"r.{quoted(name)} = g.{quoted(name)}" for name in columns)
    numbered = with_integer_times(rows.select(list(columns))).append_column(ROW, pa.array(np.arange(len(rows))))
    found = query(_GROUP_OF.format(on=on), rows=numbered, groups=groups)
    group = np.full(len(rows), -1, np.int64)
    group[found[ROW].to_numpy()] = found[GROUP].to_numpy()
    return group


def _read(table: OfflineTable, keys: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """Return keys, times, seq and other columns of a table, each once."""
    return table.read(list(dict.fromkeys([*keys, EVENT, CREATED, SEQ, *columns])))


def _order(*by: Int64Array) -> Int64Array:
    """Return the order of rows by these columns, the first one first."""
    frame = pl.DataFrame({str(position): column for position, column in enumerate(by)})
    return frame.select(pl.arg_sort_by(*frame.columns)).to_series().cast(pl.Int64).to_numpy()


def _runs(*columns: Int64Array) -> Int64Array:
    """Number the runs of rows that are equal in all these columns."""
    starts = np.zeros(len(columns[0]), np.bool_)
    for column in columns:
        starts[1:] |= column[1:] != column[:-1]
    return np.cumsum(starts, dtype=np.int64)


def _micros(times: pa.ChunkedArray) -> Int64Array:
    return np.asarray(pc.fill_null(times.cast(pa.int64()), INT64_MIN), np.int64)


def _taken(values: Int64Array, rows: Int64Array) -> Int64Array:
    """Return the values at these rows; where a row is -1 they say nothing."""
    return values[rows] if len(values) else np.zeros(len(rows), np.int64)
