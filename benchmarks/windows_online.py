"""Windows online: reads, writes and the first load, for entities with few events and with many.

A read computes five windows from ten minutes to thirty days, six aggregates each. Beside it stands what no read of this store can do
without: a snapshot and the get of each entity's root. Before anything is timed, an answer must be NumPy's over the same events.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
import pyarrow as pa
from measuring import Claim, Effort, in_turn, seconds_of
from tables import DAY, HOUR, instants

from featurestore import Aggregation, Entity, FeatureView, PushSource
from featurestore.decoding import decode
from featurestore.flow.apply import WrittenView, apply_rows
from featurestore.keys import encode_key
from featurestore.online.keyspaces import open_keyspace, record_keyspace
from featurestore.online.lmdb import LmdbStore, open_lmdb
from featurestore.online.reader import OnlineReader, PreparedRead, schema_message
from featurestore.online.windows import compile_kernels
from featurestore.online.windows.layout import entity_name
from featurestore.planning import plan_read
from featurestore.refs import ViewRef
from featurestore.registry.plan import plan_changes
from featurestore.registry.snapshot import Document, RegistrySnapshot
from featurestore.rows import SEQ
from featurestore.types import DType

READ, ROOTS, WRITE, BUILD = "windowed read", "get of the roots alone", "write", "first load"
WINDOWS = {"10m": HOUR // 6, "1h": HOUR, "1d": DAY, "7d": 7 * DAY, "30d": 30 * DAY}
FUNCTIONS = ("count", "sum", "mean", "min", "max", "last")
NAMES = [f"payments:{function}_amount_{window}" for window in WINDOWS for function in FUNCTIONS]
KEY_COUNTS = (1, 10, 100)
EVENTS_A_DAY = {1: 20_000, 100: 500, 10_000: 4}  # of one entity -> how many entities

_NOW = 1_700_000_000_000_000 // DAY * DAY + 13 * HOUR + 1_234_567
_ROWS_AT_ONCE = 50_000
_WRITTEN_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class _Setting:
    """A store of one windowed view."""

    store: LmdbStore
    view: WrittenView
    reader: OnlineReader
    prepared: PreparedRead
    keys: list[bytes]


def measure(effort: Effort) -> list[Claim]:
    """Measure entities with 1, 100 and 10,000 events a day, with an event key and without."""
    compile_kernels()
    return [
        claim
        for rate, entities in EVENTS_A_DAY.items()
        for keyed in (True, False)
        for claim in _claims(rate, max(2, entities // 100) if effort.small else entities, effort, keyed=keyed)
    ]


def _claims(rate: int, entities: int, effort: Effort, *, keyed: bool) -> list[Claim]:
    days = 1 if effort.small and rate > 100 else 30
    count = rate * days * entities
    user = np.repeat(np.arange(entities), rate * days)
    random = np.random.default_rng(1)
    at = random.integers(_NOW - days * DAY, _NOW, count)
    amount = np.round(random.lognormal(3, 1.5, count), 2)
    name = f"{rate:,} events a day, {'with' if keyed else 'without'} event key"
    with ExitStack() as stack:
        setting = _open(stack, entities, keyed=keyed)
        rows = _rows(setting.view, user, at, amount, first=1)
        builds = [seconds_of(lambda: _load(setting, rows)) for _ in range(1)]
        _demand_right(setting, at[user == 0], amount[user == 0])
        claims = [
            Claim(
                f"Windows online, first load of {count:,} events: {name}", "s", {BUILD: builds}, _size(setting, count)
            )
        ]
        claims += [_reads(setting, asked, name, effort) for asked in KEY_COUNTS] if keyed else []
        claims.append(_writes(setting, count + 1, name, effort))
    return claims


def _open(stack: ExitStack, entities: int, *, keyed: bool) -> _Setting:
    aggregations = [
        Aggregation("amount", function, timedelta(microseconds=window))
        for window in WINDOWS.values()
        for function in FUNCTIONS
    ]
    key = {"payment_id": "int64"} if keyed else {}
    user = Entity("user", {"user": "int64"})
    definition = FeatureView("payments", user, PushSource("payments", "at"), aggregations, event_key=key)
    plan = plan_changes(
        RegistrySnapshot(Document(project="bench")),
        [definition],
        check_source=lambda *_: None,
        is_filled=lambda _: False,
    )
    registry = RegistrySnapshot(plan.document)
    view = WrittenView.of(registry, ViewRef("payments"))
    store = open_lmdb(Path(stack.enter_context(TemporaryDirectory())) / "online")
    stack.callback(store.close)
    with store.write() as transaction:
        keyspace = open_keyspace(transaction, view.ref, 1)
        record_keyspace(transaction, view.ref, 1, msgspec.structs.replace(keyspace, filled=True))
    reader = OnlineReader(store, lambda: _NOW)
    keys = [encode_key((n,), [DType("int64")]) for n in range(entities)]
    return _Setting(store, view, reader, reader.prepare(plan_read(registry, NAMES)), keys)


def _rows(view: WrittenView, user: np.ndarray, at: np.ndarray, amount: np.ndarray, *, first: int) -> pa.Table:
    seq = np.arange(first, first + len(user))
    table = pa.table({"user": user, "at": instants(at), "payment_id": seq, "amount": amount})
    return view.schema.canonical(table).rows.append_column(SEQ, pa.array(seq))


def _load(setting: _Setting, rows: pa.Table) -> None:
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        with setting.store.write() as transaction:
            apply_rows(transaction, setting.view, rows.slice(start, _ROWS_AT_ONCE), now=_NOW)


def _demand_right(setting: _Setting, at: np.ndarray, amount: np.ndarray) -> None:
    answer = decode(schema_message(setting.prepared.plan), setting.reader.read(setting.prepared, [setting.keys[:1]]))
    found = answer.to_dict()
    for window, length in WINDOWS.items():
        inside = amount[(at > _NOW - length) & (at <= _NOW)]
        total = math.fsum(inside) if len(inside) else None
        if found[f"count_amount_{window}"] != [len(inside)] or found[f"sum_amount_{window}"] != [total]:
            raise RuntimeError(f"The window of {window} holds {found}, not {len(inside)} events that sum to {total}.")


def _size(setting: _Setting, count: int) -> dict[str, str]:
    with setting.store.read() as snapshot:
        sizes = [len(name) + len(block) for name, block in snapshot.scan("pages", b"", b"\xff" * 8)]
    return {BUILD: f"{sum(sizes) / count:.1f} bytes an event, {len(sizes) / len(setting.keys):.1f} keys an entity"}


def _reads(setting: _Setting, asked: int, name: str, effort: Effort) -> Claim:
    repeats = 5 if effort.small else {1: 2000, 10: 400, 100: 60}[asked]
    random = np.random.default_rng(asked)
    batches = [[setting.keys[n] for n in random.integers(0, len(setting.keys), asked)] for _ in range(repeats)]
    (view,) = setting.prepared.views
    prefix = view.places(batches[0])[0][0]
    roots = [list(map(entity_name, batch)) for batch in batches]

    def read_roots() -> None:
        for names in roots:
            with setting.store.read() as snapshot:
                b"".join([root or b"" for root in snapshot.multi_get("pages", prefix, names)])

    def read_windows() -> None:
        for batch in batches:
            setting.reader.read(setting.prepared, [batch])

    runs = in_turn({READ: _each(read_windows, repeats), ROOTS: _each(read_roots, repeats)}, effort.rounds)
    return Claim(f"Windows online, read of {asked} entities x {len(NAMES)} aggregates: {name}", "s", runs)


def _writes(setting: _Setting, first: int, name: str, effort: Effort) -> Claim:
    random, number = np.random.default_rng(3), first

    def write(at: Callable[[], np.ndarray]) -> float:
        nonlocal number
        user = np.sort(random.integers(0, len(setting.keys), _WRITTEN_AT_ONCE))
        rows = _rows(setting.view, user, at(), random.lognormal(3, 1.5, len(user)), first=number)
        number += len(user)
        with setting.store.write() as transaction:
            return seconds_of(lambda: apply_rows(transaction, setting.view, rows, now=_NOW)) / len(user)

    runs = in_turn(
        {
            f"{WRITE}, in order": lambda: write(
                lambda: np.sort(_NOW - random.integers(0, HOUR // 60, _WRITTEN_AT_ONCE))
            ),
            f"{WRITE}, 1 h to 5 d late": lambda: write(lambda: _NOW - random.integers(HOUR, 5 * DAY, _WRITTEN_AT_ONCE)),
        },
        max(effort.rounds, 3),
    )
    return Claim(
        f"Windows online, one of {_WRITTEN_AT_ONCE:,} events in a transaction, without its sync: {name}", "s", runs
    )


def _each(work: Callable[[], None], times: int) -> Callable[[], float]:
    return lambda: seconds_of(work) / times
