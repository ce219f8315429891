"""The suite that every online store must pass.

A backend's tests are one class and one line::

    class TestRedisStore(OnlineStoreSuite):
        factories = [open_redis_for_test]

A factory takes an empty folder and returns an open store; called again with the same folder, it returns a store with the same content.
A store whose snapshots stay as they were takes `IsolatedStoreSuite` in its place.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest

from featurestore.lanes import to_lane
from featurestore.online.codec import RowLayout
from featurestore.online.rows import put_rows
from featurestore.online.store import TABLES, Head, OnlineStore, Transaction, read_head, write_head
from featurestore.rows import CREATED, EVENT, SEQ
from featurestore.types import DType

Factory = Callable[[Path], OnlineStore]


class OnlineStoreSuite:
    """What a store promises, as tests; subclass it and give the factories."""

    factories: ClassVar[Sequence[Factory]] = ()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run every test with every factory."""
        metafunc.parametrize("factory", self.factories)

    @pytest.fixture
    def store(self, factory: Factory, tmp_path: Path) -> OnlineStore:
        """Return an empty store."""
        return factory(tmp_path)

    def test_a_value_is_what_was_put(self, store: OnlineStore) -> None:
        """Every table keeps its own values; a second put replaces the first."""
        with store.write() as transaction:
            for table in TABLES:
                transaction.put(table, b"key", b"old")
                transaction.put(table, b"key", table.encode())
        with store.read() as snapshot:
            assert [snapshot.get(table, b"key") for table in TABLES] == [table.encode() for table in TABLES]
            assert snapshot.get("rows", b"other") is None

    def test_multi_get_keeps_the_order_of_keys(self, store: OnlineStore) -> None:
        """Repeats are answered again, and a missing key is None."""
        with store.write() as transaction:
            transaction.put_many("rows", [(b"p1", b"one"), (b"p2", b"two")])
            transaction.put_many("pages", [(b"p1", b"page")])
        with store.read() as snapshot:
            assert snapshot.multi_get("rows", b"p", [b"2", b"1", b"3", b"2"]) == [b"two", b"one", None, b"two"]
            assert snapshot.multi_get("pages", b"p", [b"1", b"2"]) == [b"page", None]

    def test_scan_goes_through_a_range_in_order(self, store: OnlineStore) -> None:
        """The first key is included, the last is not."""
        names = [b"a", b"a\x00", b"a\xff", b"b", b"c"]
        with store.write() as transaction:
            for name in reversed(names):
                transaction.put("log", name, b"v" + name)
        with store.read() as snapshot:
            assert list(snapshot.scan("log", b"a\x00", b"c")) == [(name, b"v" + name) for name in names[1:4]]
            assert list(snapshot.scan("log", b"d", b"z")) == []

    def test_delete_takes_a_key_away(self, store: OnlineStore) -> None:
        """Deleting what is not there does nothing."""
        with store.write() as transaction:
            transaction.put("meta", b"key", b"value")
        with store.write() as transaction:
            transaction.delete("meta", b"key")
            transaction.delete("meta", b"never")
            assert transaction.get("meta", b"key") is None
        with store.read() as snapshot:
            assert snapshot.get("meta", b"key") is None

    def test_an_error_undoes_the_whole_write(self, store: OnlineStore) -> None:
        """Nothing of a failed transaction is there, and the next one works."""
        with pytest.raises(ZeroDivisionError):
            _fail_half_way(store)
        with store.write() as transaction:
            assert transaction.get("rows", b"key") is None

    def test_an_error_in_a_part_undoes_that_part_alone(self, store: OnlineStore) -> None:
        """What was written before it, and after it, is committed with the whole; a part sees what was written before."""
        with store.write() as transaction:
            transaction.put("rows", b"key", b"before")
            with pytest.raises(ZeroDivisionError):
                _fail_in_a_part(transaction)
            with transaction.part() as part:
                assert part.get("rows", b"key") == b"before"
                part.put_many("rows", [(b"other", b"after")])
        with store.read() as snapshot:
            assert snapshot.multi_get("rows", b"", [b"key", b"other"]) == [b"before", b"after"]

    def test_a_part_goes_with_the_whole(self, store: OnlineStore) -> None:
        """When the whole write fails, its parts are not there."""
        with pytest.raises(ZeroDivisionError):
            _fail_after_a_part(store)
        with store.read() as snapshot:
            assert snapshot.get("rows", b"key") is None

    def test_threads_write_in_the_order_in_which_they_asked(self, store: OnlineStore) -> None:
        """Long work in many short writes lets another writer in between."""
        order: list[str] = []

        def other() -> None:
            with store.write():
                order.append("other")

        thread = threading.Thread(target=other)
        with store.write():
            thread.start()
            while store.writers() < 2:
                time.sleep(0.001)
        for _ in range(3):
            with store.write():
                order.append("long work")
        thread.join()
        assert order == ["other", *["long work"] * 3]

    def test_what_was_committed_is_there_after_reopening(self, factory: Factory, tmp_path: Path) -> None:
        """A store comes back as it was left."""
        with closing(factory(tmp_path)) as store, store.write() as transaction:
            transaction.put("rows", b"key", b"value")
        with closing(factory(tmp_path)) as store, store.read() as snapshot:
            assert snapshot.get("rows", b"key") == b"value"

    def test_the_head_is_what_was_recorded(self, store: OnlineStore) -> None:
        """An empty store has the first head."""
        head = Head(last_seq=7, pushed_seq=5, clock=-1, earliest_parked=12)
        with store.read() as snapshot:
            assert read_head(snapshot) == Head()
        with store.write() as transaction:
            write_head(transaction, head)
        with store.read() as snapshot:
            assert read_head(snapshot) == head

    def test_keys_of_the_greatest_length_fit(self, store: OnlineStore) -> None:
        """A keyspace, a length, a key of 480 bytes and a page number make the longest key there is."""
        key = b"\x00\x00\x00\x01" + b"k" * 490
        with store.write() as transaction:
            transaction.put("pages", key, b"page")
        with store.read() as snapshot:
            assert snapshot.multi_get("pages", key[:4], [key[4:]]) == [b"page"]

    def test_the_greatest_row_stays_however_rows_are_delivered(self, store: OnlineStore) -> None:
        """In any order, again and again, one by one or together: what stays is the greatest (event, created, seq) of each entity."""
        layout = RowLayout.of([("value", DType("int64"))])
        rows = [(key, event, created, seq) for seq, (key, event, created) in enumerate(_TIED, 1)]
        greatest = {key: max((r for r in rows if r[0] == key), key=_order) for key, *_ in rows}
        for seed in range(12):
            draw = random.Random(seed)  # noqa: S311  # a test draws the same each time
            prefix = seed.to_bytes(4, "big")
            delivered = draw.sample(rows, len(rows)) + draw.choices(rows, k=4)
            while delivered:
                batch, delivered = delivered[:3], delivered[draw.randint(1, 3) :]
                with store.write() as transaction:
                    put_rows(transaction, prefix, layout, [row[0] for row in batch], _accepted(batch))
            with store.read() as snapshot:
                stored = snapshot.multi_get("rows", prefix, list(greatest))
            assert stored == layout.encode(
                np.array([row[1] for row in greatest.values()]),
                [to_lane(pa.array([row[3] for row in greatest.values()]), DType("int64"))],
            )

    def test_it_does_what_a_dict_does(self, store: OnlineStore) -> None:
        """Puts, deletes, scans and undone parts in random order leave what they leave in a dict."""
        draw = random.Random(7)  # noqa: S311  # likewise
        model: dict[bytes, bytes] = {}
        for step in range(60):
            undone = draw.random() < 0.2
            with suppress(ZeroDivisionError), store.write() as transaction:
                changed = dict(model)
                for _ in range(draw.randint(1, 5)):
                    name = bytes(draw.choices(b"\x00a*[\xff", k=draw.randint(1, 3)))
                    if draw.random() < 0.3:
                        transaction.delete("parked", name)
                        changed.pop(name, None)
                    else:
                        transaction.put("parked", name, str(step).encode())
                        changed[name] = str(step).encode()
                first, until = sorted([bytes([draw.randrange(256)]), bytes([draw.randrange(256)])])
                inside = sorted((k, v) for k, v in changed.items() if first <= k < until)
                assert list(transaction.scan("parked", first, until)) == inside
                if undone:
                    raise ZeroDivisionError
                model = changed
            with store.read() as snapshot:
                assert list(snapshot.scan("parked", b"", b"\xff" * 9)) == sorted(model.items())


class IsolatedStoreSuite(OnlineStoreSuite):
    """What a store promises besides whose snapshots are of one moment, however long they last."""

    def test_a_snapshot_stays_as_it_was(self, store: OnlineStore) -> None:
        """A reader neither waits for a writer nor sees half of what it does."""
        with store.write() as transaction:
            transaction.put("rows", b"key", b"before")
        with store.read() as snapshot:
            with store.write() as transaction:
                transaction.put("rows", b"key", b"after")
                assert transaction.get("rows", b"key") == b"after"
                assert snapshot.get("rows", b"key") == b"before"
            assert snapshot.get("rows", b"key") == b"before"
        with store.read() as snapshot:
            assert snapshot.get("rows", b"key") == b"after"


_TIED = [
    (b"a", 10, 5), (b"a", 10, 7), (b"a", 10, 7), (b"a", 9, 99), (b"b", -3, None), (b"b", -3, -(1 << 40)), (b"b", -4, 1 << 60),
    (b"c", 1 << 52, None), (b"c", (1 << 52) + 1, None), (b"c", 1 << 52, 1),
]  # fmt: skip


def _order(row: tuple[bytes, int, int | None, int]) -> tuple[int, float, int]:
    _, event, created, seq = row
    return event, float("-inf") if created is None else created, seq


def _accepted(rows: Sequence[tuple[bytes, int, int | None, int]]) -> pa.Table:
    instant = pa.timestamp("us", "UTC")
    _, events, created, seqs = zip(*rows, strict=True)
    columns = {EVENT: pa.array(events, instant), CREATED: pa.array(created, instant), SEQ: pa.array(seqs, pa.int64())}
    return pa.table({**columns, "value": pa.array(seqs, pa.int64())})


def _fail_in_a_part(transaction: Transaction) -> None:
    with transaction.part() as part:
        assert part.get("rows", b"key") == b"before"
        part.put("rows", b"key", b"refused")
        raise ZeroDivisionError


def _fail_after_a_part(store: OnlineStore) -> None:
    with store.write() as transaction:
        with transaction.part() as part:
            part.put("rows", b"key", b"value")
        raise ZeroDivisionError


def _fail_half_way(store: OnlineStore) -> None:
    with store.write() as transaction:
        transaction.put("rows", b"key", b"value")
        raise ZeroDivisionError
