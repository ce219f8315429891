"""The conformance suite of join engines: random cases against an oracle, which every engine must agree with to the bit.

    @pytest.mark.parametrize("engine", [MyEngine()])
    class TestMyEngine(EngineConformance):
        oracle = my_oracle

The oracle is the rule written down a second time, sharing no code with the package; this project's own is tests/oracle.py. It is a
module or an object with two functions:

* ``join(spine, rows, names, *, ttl, knowledge, position, backfilled_until)``: for each spine row (row or None, status)
* ``fold(spine, rows, names, event_key, column, function, window, *, knowledge, position, backfilled_until)``: for each spine row a value

`spine` holds (key, time) pairs. A row is a dict with the key columns (`names`), the event key columns, ``event``, ``created`` and
``seq``, and its values; times are int microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore.lanes import to_lane
from featurestore.offline.engines import Engine
from featurestore.offline.point_in_time import STATUSES, Gathered, Int64Array, PointInTimeRule, Spine
from featurestore.offline.relations import with_integer_times
from featurestore.offline.table import OfflineTable
from featurestore.registry.snapshot import AggregationRecord
from featurestore.rows import CREATED, EVENT, SEQ
from featurestore.testing.strategies import JoinCase, arrow_column, join_cases
from featurestore.types import from_arrow
from featurestore.windows import WindowColumn, fold_windows

WINDOWS = (1, 3, 10, 2**62)
FOLDED = ("count", "sum", "mean", "min", "max", "first", "last", "stddev")
_SETTINGS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors]
)
_CUTS = st.lists(st.floats(0, 1), min_size=1, max_size=2)


class Oracle(Protocol):
    """The right answers."""

    @property
    def join(self) -> Callable[..., Sequence[tuple[Any, str]]]:
        """For each spine row the row it gets, or None, and its status."""

    @property
    def fold(self) -> Callable[..., Sequence[Any]]:
        """For each spine row the aggregate of its window."""


class EngineConformance:
    """Tests that an engine must pass; parametrise a subclass by `engine` and give it an oracle."""

    oracle: ClassVar[Oracle]

    @_SETTINGS
    @given(case=join_cases(), buckets=st.sampled_from((1, 4, 16)), cuts=_CUTS)
    def test_join_agrees_with_the_oracle(
        self, engine: Engine, case: JoinCase, buckets: int, cuts: Sequence[float]
    ) -> None:
        """Every spine row, in its order, gets the row that the rule says, to the bit, and the status that the rule says."""
        check_join(engine, self.oracle, case, buckets=buckets, cuts=cuts)

    @_SETTINGS
    @given(case=join_cases(event_key=True), cuts=_CUTS, data=st.data())
    def test_windows_agree_with_the_oracle(
        self, engine: Engine, case: JoinCase, cuts: Sequence[float], data: st.DataObject
    ) -> None:
        """The events that an engine gathers, folded, give the oracle's aggregates."""
        counted = data.draw(st.sampled_from(case.schema.values))
        rows, window = _plain_rows(case), data.draw(st.sampled_from(WINDOWS))
        functions = FOLDED if counted.dtype.name == "float64" else ("count",)
        asked = [
            AggregationRecord(column=counted.name, function=f, dtype="float64", time_window=window) for f in functions
        ]
        spine, rule = _spine(case), case.rule
        with _stored(case, 4, cuts) as table:
            parts = [
                (places, gather()) for places, gather in engine.gather(table, spine, rule, [counted.name], reach=window)
            ]
        assert sorted(np.concatenate([places for places, _ in parts]).tolist()) == list(range(len(spine)))
        for aggregation in asked:
            got: list[Any] = [None] * len(spine)
            for places, gathered in parts:
                for place, value in zip(
                    places.tolist(), _folded(gathered, aggregation, spine, places, rule), strict=True
                ):
                    got[place] = value
            expected = self.oracle.fold(
                case.spine, rows, [key.name for key in case.schema.keys], [key.name for key in case.schema.event_key],
                counted.name, aggregation.function, window, **_knowledge(case),
            )  # fmt: skip
            assert [repr(value) for value in expected] == [repr(value) for value in got]


def check_join(
    engine: Engine, oracle: Oracle, case: JoinCase, *, buckets: int = 4, cuts: Sequence[float] = (0.5,)
) -> None:
    """Demand that an engine gives every spine row of a case the oracle's row, to the bit, and its status.

    Args:
        engine: The engine.
        oracle: The right answers.
        case: Rows, spine and rule.
        buckets: Number of buckets that the rows are stored in.
        cuts: Where the rows part, as fractions of them; all but the last part are loads, the last comes as two small appends.

    Raises:
        AssertionError: It does not.
    """
    rows = _plain_rows(case)
    expected = oracle.join(
        case.spine, rows, [key.name for key in case.schema.keys], ttl=case.rule.ttl, **_knowledge(case)
    )
    columns = [*(column.name for column in case.schema.values), SEQ]
    with _stored(case, buckets, cuts) as table:
        joined = engine.join(table, _spine(case), case.rule, columns)
    number = {row["seq"]: position for position, row in enumerate(rows)}
    winners = pa.array([None if row is None else number[row["seq"]] for row, _ in expected], pa.int64())
    assert [status for _, status in expected] == [STATUSES[status] for status in joined.status]
    assert joined.table.column_names == columns
    assert _bits(case.rows.select(columns).take(winners)) == _bits(joined.table)


def _folded(
    gathered: Gathered, aggregation: AggregationRecord, spine: Spine, rows: Int64Array, rule: PointInTimeRule
) -> list[Any]:
    """Fold one aggregate over what was gathered for these rows of the spine."""
    at = spine.at[rows]
    known_at = at if rule.knowledge == "as_known" else None
    (column,) = fold_windows(
        gathered.events, [aggregation], entity=gathered.entity, at=at, known_at=known_at, position=rule.position
    )
    assert isinstance(column, WindowColumn)
    return [value if ok else None for value, ok in zip(column.values.tolist(), column.valid.tolist(), strict=True)]


def _knowledge(case: JoinCase) -> dict[str, Any]:
    rule = case.rule
    return {"knowledge": rule.knowledge, "position": rule.position, "backfilled_until": rule.backfilled_until}


def _plain_rows(case: JoinCase) -> list[dict[str, Any]]:
    plain = with_integer_times(case.rows).rename_columns({EVENT: "event", CREATED: "created", SEQ: "seq"})
    rows: list[dict[str, Any]] = plain.to_pylist()
    return rows


def _spine(case: JoinCase) -> Spine:
    columns = {
        column.name: arrow_column(column.dtype, [key[i] for key, _ in case.spine])
        for i, column in enumerate(case.schema.keys)
    }
    times = [time for _, time in case.spine]
    timed = np.array([time is not None for time in times], np.bool_)
    return Spine(pa.table(columns), np.array([time or 0 for time in times], np.int64), timed)


@contextmanager
def _stored(case: JoinCase, buckets: int, cuts: Sequence[float]) -> Iterator[OfflineTable]:
    """Store the rows in parts: every one but the last in bulk, so that a bucket has several files, the last as a recent run of two."""
    count = len(case.rows)
    edges = [0, *sorted(int(cut * count) for cut in cuts), count]
    *loads, recent = (case.rows.slice(start, stop - start) for start, stop in pairwise(edges))
    with TemporaryDirectory() as folder:
        table = OfflineTable(Path(folder), case.schema, buckets=buckets)
        for load in loads:
            table.load(load)
        table.append(recent.slice(0, len(recent) // 2), fold=1)
        table.append(recent.slice(len(recent) // 2), fold=2)
        yield table


def _bits(table: pa.Table) -> list[list[Any]]:
    """Return columns that are equal when every bit is: a NaN equals itself, and -0.0 is not 0.0."""
    return [_column_bits(column) for column in table.columns]


def _column_bits(column: pa.ChunkedArray) -> list[Any]:
    widths = {pa.float64(): pa.int64(), pa.float32(): pa.int32()}
    if column.type in widths:
        return column.combine_chunks().view(widths[column.type]).to_pylist()  # type: ignore[no-any-return]  # Arrow is untyped
    if pa.types.is_nested(column.type):
        lane = to_lane(column, from_arrow(column.type))
        return [bytes(value) if ok else None for value, ok in zip(lane.values, lane.valid.tolist(), strict=True)]
    return with_integer_times(pa.table({"": column})).column(0).to_pylist()  # type: ignore[no-any-return]  # likewise
