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
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore.definitions.window import FUNCTIONS
from featurestore.offline.engines import Engine
from featurestore.offline.point_in_time import STATUSES, Spine
from featurestore.offline.relations import with_integer_times
from featurestore.offline.table import OfflineTable
from featurestore.registry.snapshot import AggregationRecord
from featurestore.rows import CREATED, EVENT, SEQ
from featurestore.testing.strategies import JoinCase, arrow_column, join_cases
from featurestore.windows import fold_windows

WINDOWS = (1, 3, 10, 2**62)
_SETTINGS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors]
)


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
    @given(case=join_cases(), buckets=st.sampled_from((1, 3, 16)), data=st.data())
    def test_join_agrees_with_the_oracle(
        self, engine: Engine, case: JoinCase, buckets: int, data: st.DataObject
    ) -> None:
        """Every spine row, in its order, gets the row that the rule says, to the bit, and the status that the rule says."""
        rows = _plain_rows(case)
        expected = self.oracle.join(
            case.spine, rows, [key.name for key in case.schema.keys], ttl=case.rule.ttl, **_knowledge(case)
        )
        columns = [*(column.name for column in case.schema.values), SEQ]
        with _stored(case, buckets, split=data.draw(st.integers(0, len(rows)))) as table:
            joined = engine.join(table, _spine(case), case.rule, columns)
        number = {row["seq"]: position for position, row in enumerate(rows)}
        winners = pa.array([None if row is None else number[row["seq"]] for row, _ in expected], pa.int64())
        assert [status for _, status in expected] == [STATUSES[status] for status in joined.status]
        assert _bits(case.rows.select(columns).take(winners)) == _bits(joined.table)

    @_SETTINGS
    @given(case=join_cases(event_key=True), data=st.data())
    def test_windows_agree_with_the_oracle(self, engine: Engine, case: JoinCase, data: st.DataObject) -> None:
        """The events that an engine gathers, folded, give the oracle's aggregates."""
        counted = data.draw(st.sampled_from(case.schema.values))
        rows, window = _plain_rows(case), data.draw(st.sampled_from(WINDOWS))
        functions = FUNCTIONS if counted.dtype.name == "float64" else ("count",)
        asked = [
            AggregationRecord(column=counted.name, function=f, dtype="float64", time_window=window) for f in functions
        ]
        spine, rule = _spine(case), case.rule
        with _stored(case, 3, split=data.draw(st.integers(0, len(rows)))) as table:
            gathered = engine.gather(table, spine, rule, [counted.name])
        known_at = spine.at if rule.knowledge == "as_known" else None
        folded = fold_windows(
            gathered.events, asked, entity=gathered.entity, at=spine.at, known_at=known_at, position=rule.position
        )
        for aggregation, column in zip(asked, folded, strict=True):
            expected = self.oracle.fold(
                case.spine, rows, [key.name for key in case.schema.keys], [key.name for key in case.schema.event_key],
                counted.name, aggregation.function, window, **_knowledge(case),
            )  # fmt: skip
            got = [
                value if ok else None for value, ok in zip(column.values.tolist(), column.valid.tolist(), strict=True)
            ]
            assert [repr(value) for value in expected] == [repr(value) for value in got]


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
def _stored(case: JoinCase, buckets: int, *, split: int) -> Iterator[OfflineTable]:
    """Store the rows: the first `split` of them in bulk, the rest as a recent run."""
    with TemporaryDirectory() as folder:
        table = OfflineTable(Path(folder), case.schema, buckets=buckets)
        table.load(case.rows.slice(0, split))
        table.append(case.rows.slice(split), fold=1)
        yield table


def _bits(table: pa.Table) -> list[pa.ChunkedArray]:
    """Return columns that are equal when every bit is: a NaN equals itself, and -0.0 is not 0.0."""
    widths = {pa.float64(): pa.int64(), pa.float32(): pa.int32()}
    return [
        column.combine_chunks().view(widths.get(column.type, column.type)).to_pylist()
        if column.type in widths
        else with_integer_times(pa.table({"": column})).column(0).to_pylist()
        for column in table.columns
    ]
