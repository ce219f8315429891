"""The engine that asks DuckDB; values never pass through it, only keys, times and row numbers, so no type can change.

The rows of a view are first put in order of (event time, created, seq): of two rows, the greater is then the one with the greater number.

* `latest`, `as_served`: ASOF on (event time, number). A plain ASOF on the event time gets an arbitrary row among ties.
* `as_known`: the greatest row that is known at t is the running maximum of the number, by key and in order of the time from which rows are
  known, at the last row known at t: ASOF on (known from, number).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.offline.point_in_time import MATCHED, Gathered, Joined, PointInTimeRule, Spine
from featurestore.offline.relations import query, quoted, with_integer_times
from featurestore.offline.table import OfflineTable
from featurestore.rows import CREATED, EVENT, SEQ
from featurestore.types import INT64_MAX, INT64_MIN
from featurestore.windows import Events, WindowColumn

Int64Array = npt.NDArray[np.int64]

ROW, AT, KNOWN, ENTITY, IDENTITY = "__row", "__at", "__known_from", "__entity", "__identity"


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
        keys = spine.keys.column_names
        rows = _in_order(_read(table, keys, columns))
        events, asked = _events(rows, keys, rule), _asked(spine)
        event = events[EVENT].to_numpy()
        found = _greatest(asked, events, keys, rule)
        left = np.flatnonzero((found < 0) | rule.is_expired(_taken(event, found), spine.at))
        newest = found.copy()
        if rule.knowledge != "latest":
            everything = _greatest(asked.take(pa.array(left)), events, keys, PointInTimeRule(knowledge="latest"))
            newest[left] = everything
        status = rule.status(found >= 0, _taken(event, found), newest >= 0, _taken(event, newest), spine.at)
        winners = pa.array(found, mask=status != MATCHED)
        return Joined(rows.select(list(columns)).take(winners), status)

    def gather(self, table: OfflineTable, spine: Spine, rule: PointInTimeRule, columns: Sequence[str]) -> Gathered:
        """Return the events of the spine's entities, for windows to be folded over.

        Args:
            table: The view's events.
            spine: Keys and times.
            rule: From when each event is known.
            columns: Names of the aggregated columns.
        """
        keys, event_key = spine.keys.column_names, [column.name for column in table.schema.event_key]
        rows = _read(table, [*keys, *event_key], columns)
        asked, events = _asked(spine), _events(rows, [*keys, *event_key], rule)
        entities = query(_ENTITIES.format(keys=quoted(*keys)), asked=asked)
        entity = query(_ENTITY_OF_SPINE.format(on=_equal(keys, "s")), asked=asked, entities=entities)
        order = query(
            _EVENTS_BY_ENTITY.format(on=_equal(keys, "e"), by=quoted(EVENT, *event_key)),
            events=events,
            entities=entities,
        )
        sorted_rows, sorted_events = rows.take(order[ROW]), events.take(order[ROW])
        return Gathered(
            Events(
                starts=np.searchsorted(order[ENTITY].to_numpy(), np.arange(len(entities) + 1)),
                event=sorted_events[EVENT].to_numpy(),
                created=sorted_events[CREATED].to_numpy(),
                seq=sorted_events[SEQ].to_numpy(),
                known_from=sorted_events[KNOWN].to_numpy(),
                identity=order[IDENTITY].to_numpy() if event_key else np.arange(len(order)),
                columns={name: WindowColumn.from_arrow(sorted_rows[name]) for name in columns},
            ),
            entity[ENTITY].to_numpy(),
        )


# The greatest visible row: the number of the last row at which the running maximum was reached.
_SINCE_KNOWN = """
    SELECT a.__row AS row, g.greatest FROM asked a ASOF LEFT JOIN (
        SELECT {keys}, row(__known_from, __row) AS since,
            max(__row) OVER (PARTITION BY {keys} ORDER BY __known_from, __row ROWS UNBOUNDED PRECEDING) AS greatest
        FROM events
    ) g ON {on} AND row(a.__at, {last}) >= g.since """
_SINCE_EVENT = """
    SELECT a.__row AS row, g.greatest FROM asked a ASOF LEFT JOIN (
        SELECT {keys}, row(__event_timestamp, __row) AS since, __row AS greatest FROM events
    ) g ON {on} AND row(a.__at, {last}) >= g.since """
_ENTITIES = """
    SELECT {keys}, row_number() OVER () - 1 AS __entity FROM (SELECT DISTINCT {keys} FROM asked WHERE __at IS NOT NULL)"""
_ENTITY_OF_SPINE = """
    SELECT coalesce(g.__entity, -1) AS __entity
    FROM asked s LEFT JOIN entities g ON {on} AND s.__at IS NOT NULL ORDER BY s.__row"""
_EVENTS_BY_ENTITY = """
    SELECT e.__row, g.__entity, dense_rank() OVER (ORDER BY g.__entity, {by}) AS __identity
    FROM events e JOIN entities g ON {on} ORDER BY g.__entity, {by}, __created_timestamp, __seq"""


def _greatest(asked: pa.Table, events: pa.Table, keys: Sequence[str], rule: PointInTimeRule) -> Int64Array:
    """Return for each row of `asked` the number of the greatest visible row, -1 for none; the ttl is not looked at."""
    if rule.position is not None:
        events = events.filter(pc.less_equal(events[SEQ], rule.position))
    form = _SINCE_KNOWN if rule.knowledge == "as_known" else _SINCE_EVENT
    sql = form.format(keys=quoted(*keys), on=_equal(keys, "a"), last=INT64_MAX)
    found = query(sql, asked=asked.filter(pc.is_valid(asked[AT])), events=events)
    greatest = np.full(len(asked), -1, np.int64)
    position = np.searchsorted(asked[ROW].to_numpy(), found["row"].to_numpy())
    greatest[position] = found["greatest"].fill_null(-1).to_numpy()
    return greatest


def _read(table: OfflineTable, keys: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """Return keys, times, seq and other columns of a table, each once."""
    return table.read(list(dict.fromkeys([*keys, EVENT, CREATED, SEQ, *columns])))


def _asked(spine: Spine) -> pa.Table:
    """Return keys, time (null where there is none) and row number of the spine."""
    return (
        with_integer_times(spine.keys)
        .append_column(AT, pa.array(spine.at, mask=~spine.timed))
        .append_column(ROW, pa.array(np.arange(len(spine))))
    )


def _in_order(rows: pa.Table) -> pa.Table:
    """Return the rows in order of (event time, created, seq), a null created lowest."""
    times = pl.DataFrame({name: _micros(rows[name]) for name in (EVENT, CREATED, SEQ)})
    return rows.take(times.select(pl.arg_sort_by(EVENT, CREATED, SEQ)).to_series().to_arrow())


def _events(rows: pa.Table, columns: Sequence[str], rule: PointInTimeRule) -> pa.Table:
    """Return what a query needs to know of these rows: some columns, the times as integers, and each row's number."""
    event, created = _micros(rows[EVENT]), _micros(rows[CREATED])
    added = {EVENT: event, CREATED: created, KNOWN: rule.known_from(event, created), ROW: np.arange(len(rows))}
    table = with_integer_times(rows.select([*columns, SEQ]))
    for name, values in added.items():
        table = table.append_column(name, pa.array(values))
    return table


def _micros(times: pa.ChunkedArray) -> Int64Array:
    return np.asarray(pc.fill_null(times.cast(pa.int64()), INT64_MIN), np.int64)


def _taken(values: Int64Array, rows: Int64Array) -> Int64Array:
    """Return the values at these rows; where a row is -1 they say nothing."""
    return values[rows] if len(values) else np.zeros(len(rows), np.int64)


def _equal(keys: Sequence[str], left: str) -> str:
    return " AND ".join(f'{left}."{key}" = g."{key}"' for key in keys)
