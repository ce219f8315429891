"""The online store in Redis: the suite of every store, how it is fed, and what readers see when a real server fails."""

import asyncio
import itertools
import shutil
import threading
import time
import traceback
from contextlib import closing, contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis_server import started_redis

from featurestore import Aggregation, Entity, Feature, FeatureView, ParquetSource, PushSource
from featurestore.config import load_settings
from featurestore.errors import ConfigError, DefinitionError, ErasedError, FailedPreconditionError, UnavailableError
from featurestore.flow.write import Writer
from featurestore.keys import encode_key
from featurestore.online.lmdb import LmdbStore, open_lmdb
from featurestore.online.redis import COMMIT, FED, Fed, RedisStore, decode_fed
from featurestore.online.redis_address import RedisAddress
from featurestore.online.redis_reader import RedisReader, prepare_in_redis, read_at_once
from featurestore.planning import plan_read
from featurestore.refs import ViewRef
from featurestore.registry.rollout import start_rollout
from featurestore.registry.snapshot import RegistrySnapshot
from featurestore.rows import SEQ
from featurestore.serving.metrics import MetricsFile
from featurestore.serving.writer_handlers import WriterHandlers
from featurestore.store import FeatureStore
from featurestore.testing.projects import ScratchProject
from featurestore.testing.stores import OnlineStoreSuite

user = Entity("user", join_keys={"user_id": "int64"})
prices = FeatureView(
    "prices",
    entity=user,
    source=PushSource("prices", event_timestamp="at"),
    features=[Feature("price", "float64"), Feature("name", "string")],
)
_namespaces = (f"ns{n}" for n in itertools.count())


@cache
def shared_server():
    """One server for all tests that do not break it; it goes with this process."""
    context = started_redis()
    server = context.__enter__()
    _OPENED.append(context)
    return server


_OPENED = []


@pytest.fixture(scope="module", autouse=True)
def _stop():
    yield
    shared_server.cache_clear()
    while _OPENED:
        _OPENED.pop().__exit__(None, None, None)


def open_redis(folder: Path) -> RedisStore:
    return RedisStore(shared_server().address(folder.name.replace("[", "-").replace("]", "-")))


class TestRedisStore(OnlineStoreSuite):
    factories = (open_redis,)


class RedisProject(ScratchProject):
    """A project that is read from Redis."""

    def __init__(self, root, address, *definitions, now=1_000, feeding=True):
        super().__init__(root, *definitions, now=now)
        self.address = address
        self.redis = RedisStore(address)
        self.writer.close()
        self.open_writer(feeding=feeding)

    def open_writer(self, *, feeding=True):
        self.writer = Writer(
            self.root, lambda: self.snapshot, self._clock, self.table, self.address if feeding else None
        )

    def read_bytes(self, features, keys, request=None):
        plan = plan_read(self.snapshot, features)
        encoded = [[encode_key(key, key_set.dtypes) for key in keys] for key_set in plan.key_sets]
        return read_at_once(self.redis, prepare_in_redis(plan), encoded, now=self.now)

    def read_lmdb(self, features, keys):
        return ScratchProject.read_bytes(self, features, keys)

    def close(self):
        self.redis.close()
        super().close()


@contextmanager
def project(tmp_path, *definitions, server=None, **how):
    address = (server or shared_server()).address(next(_namespaces), expire=how.pop("expire", False))
    with RedisProject(tmp_path, address, *(definitions or (prices,)), **how) as opened:
        yield opened


def table(rows):
    """(user, event, price) -> rows of the view."""
    users, events, values = zip(*rows, strict=True)
    return pa.table(
        {
            "user_id": pa.array(users, pa.int64()),
            "at": pa.array(events, pa.timestamp("us", "UTC")),
            "price": pa.array(values, pa.float64()),
            "name": pa.array([f"p{value}" for value in values]),
        }
    )


FEATURES = ["prices:price", "prices:name"]
REF = ViewRef("prices", 1)


def prices_of(opened, *users):
    return opened.read(FEATURES, [(user,) for user in users]).to_dict()["price"]


def same(opened, *users):
    """Say whether Redis answers as the project folder does, to the byte."""
    keys = [(user,) for user in users]
    return opened.read_bytes(FEATURES, keys) == opened.read_lmdb(FEATURES, keys)


def fed(opened):
    return decode_fed(opened.redis.ask("GET", opened.address.prefix("meta") + FED))


def test_accepted_rows_are_fed_in_order_and_answered_to_the_byte(tmp_path):
    with project(tmp_path) as opened:
        opened.writer.write(REF, table([(1, 10, 1.0), (2, 10, 2.0)]))
        with pytest.raises(UnavailableError, match="empty, or not filled"):
            opened.read_bytes(FEATURES, [(1,)])
        assert opened.writer.feed() == 2
        assert same(opened, 1, 2, 3)
        opened.writer.write(REF, table([(1, 20, 3.0), (2, 5, 9.0)]))
        before = opened.read(FEATURES, [(1,)])
        assert (before.to_dict()["price"], before.position) == ([1.0], 2)
        assert opened.writer.feed() == 2
        after = opened.read(FEATURES, [(1,), (2,)])
        assert (after.to_dict()["price"], after.position) == ([3.0, 2.0], 4)
        assert opened.writer.feed() == 0


def test_rows_dated_after_now_wait_in_redis_too(tmp_path):
    with project(tmp_path, now=100) as opened:
        opened.writer.write(REF, table([(1, 50, 1.0), (1, 150, 2.0), (2, 200, 3.0)]))
        opened.writer.feed()
        assert prices_of(opened, 1, 2) == [1.0, None]
        opened.now = 199
        assert opened.read(FEATURES, [(1,)]).time == 149  # nothing was released yet: never past a row that waits
        opened.writer.release()
        opened.writer.feed()
        assert prices_of(opened, 1, 2) == [2.0, None]
        assert same(opened, 1, 2)


class Crash(Exception):
    """The writer dies here."""


@contextmanager
def dying_at(store, commit, *, sent):
    """Let the writer die at a commit to Redis: before it is sent, or after it was done and before it is answered."""
    send, count = store._send, itertools.count(1)

    def crash(changes):
        if next(count) == commit:
            if sent:
                send(changes)
            raise Crash
        send(changes)

    store._send = crash
    try:
        yield
    finally:
        store._send = send


STEPS = st.one_of(
    st.tuples(
        st.just("write"),
        st.lists(st.tuples(st.integers(1, 4), st.integers(0, 60), st.floats(0, 9)), min_size=1, max_size=5),
    ),
    st.tuples(st.just("die"), st.tuples(st.integers(1, 4), st.booleans())),
    st.tuples(st.sampled_from(["feed", "fold", "materialize", "empty", "restart"]), st.none()),
    st.tuples(st.just("tick"), st.integers(1, 30)),
)


@given(st.lists(STEPS, min_size=1, max_size=14))
@settings(max_examples=40)
def test_whatever_happens_redis_ends_as_the_project_folder(tmp_path_factory, steps):
    """Writes, folds, materializes, an emptied Redis, and a writer that dies before or after any commit: fed again, all is there, once."""
    with project(tmp_path_factory.mktemp("feed"), now=20) as opened:
        opened.writer.write(REF, table([(1, 10, 0.5)]))
        for step, detail in steps:
            if step == "write":
                opened.writer.write(REF, table(detail))
            elif step == "die":
                commit, sent = detail
                with dying_at(opened.writer._feed.store, commit, sent=sent):
                    try:
                        opened.writer.feed()
                    except Crash:
                        continue
            elif step == "tick":
                opened.now += detail
                opened.writer.release()
            elif step == "empty":
                shared_server().client().flushall()
            elif step == "materialize":
                opened.writer.materialize(REF)
            elif step == "restart":
                opened.writer.close()
                opened.open_writer()
            else:
                getattr(opened.writer, step)()
        opened.writer.release()
        opened.writer.feed()
        assert same(opened, 1, 2, 3, 4, 5)
        assert opened.read(FEATURES, [(1,)]).position == opened.writer.head().pushed_seq


@pytest.mark.parametrize("folded", [False, True], ids=["from the log", "from the offline tables"])
def test_an_emptied_redis_refuses_until_it_is_filled_again(tmp_path, folded):
    with project(tmp_path) as opened:
        opened.writer.write(REF, table([(user, 10, float(user)) for user in range(1, 8)]))
        opened.writer.feed()
        if folded:
            opened.writer.fold()
        prepared = prepare_in_redis(plan_read(opened.snapshot, FEATURES))
        keys = [[encode_key((user,), prepared.plan.key_sets[0].dtypes) for user in (1, 7, 9)]]
        answer = read_at_once(opened.redis, prepared, keys, now=opened.now)
        shared_server().client().flushall()
        with pytest.raises(UnavailableError, match="empty, or not filled again yet"):
            read_at_once(opened.redis, prepared, keys, now=opened.now)
        opened.writer.feed()
        assert read_at_once(opened.redis, prepared, keys, now=opened.now) == answer


def test_an_emptying_in_the_middle_of_a_fill_is_noticed(tmp_path):
    """What was put before it is gone: the fill does not say that it is complete."""
    with project(tmp_path) as opened:
        opened.writer.write(REF, table([(1, 10, 1.0), (2, 10, 2.0)]))
        feed = opened.writer._feed
        send = feed.store._send

        def emptied(changes):
            feed.store._send = send
            send(changes)  # the record of the cursor
            shared_server().client().flushall()

        feed.store._send = emptied
        with pytest.raises(UnavailableError, match="was emptied while it was written to"):
            opened.writer.feed()
        with pytest.raises(UnavailableError):
            prices_of(opened, 1)
        opened.writer.feed()
        assert prices_of(opened, 1, 2) == [1.0, 2.0]


def test_a_redis_of_another_store_is_not_touched(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    address = shared_server().address("contested")
    with (
        RedisProject(tmp_path / "one", address, prices) as first,
        RedisProject(tmp_path / "two", address, prices) as second,
    ):
        first.writer.write(REF, table([(1, 10, 1.0)]))
        first.writer.feed()
        second.writer.write(REF, table([(1, 20, 2.0)]))
        with pytest.raises(FailedPreconditionError, match="rows of another store under 'contested'"):
            second.writer.feed()
        assert prices_of(first, 1) == [1.0]


def test_an_added_feature_is_readable_after_materialize(tmp_path):
    wider = FeatureView(
        "prices", entity=user, source=prices.source, features=[*prices.features, Feature("size", "int64")]
    )
    with project(tmp_path) as opened:
        opened.writer.write(REF, table([(1, 10, 1.0)]))
        opened.writer.feed()
        opened.writer.fold()
        opened.apply(wider)
        rows = table([(1, 20, 2.0), (2, 20, 5.0)])
        opened.writer.write(REF, rows.append_column("size", pa.array([7, None], pa.int64())))
        opened.materialize("prices")
        assert opened.read(["prices:size", "prices:price"], [(1,), (2,)]).to_dict()["size"] == [7, None]
        assert same(opened, 1, 2)


def test_an_erased_entity_is_gone_from_redis(tmp_path):
    with project(tmp_path, now=100) as opened:
        opened.writer.write(REF, table([(1, 10, 1.0), (2, 10, 2.0), (1, 500, 3.0), (2, 500, 4.0)]))
        opened.writer.feed()
        receipt = opened.writer.erase("user", pa.table({"user_id": [1]}), principal="me", reason="asked", now=100)
        assert not receipt.proof.rows
        opened.writer.feed()
        assert prices_of(opened, 1, 2) == [None, 2.0]
        opened.now = 600
        opened.writer.release()
        opened.writer.feed()
        assert prices_of(opened, 1, 2) == [None, 4.0]


def test_an_interrupted_erasure_waits_for_redis_and_writes_go_on(tmp_path, monkeypatch):
    """Redis dies when its own rows are to be erased: a new writer starts, takes all rows but those of the key, and ends it later."""
    erasing = {"entity": "user", "keys": pa.table({"user_id": [1]})}
    with started_redis() as server, project(tmp_path, server=server) as opened:
        opened.writer.write(REF, table([(1, 10, 1.0), (2, 10, 2.0)]))
        opened.writer.feed()
        with monkeypatch.context() as patch:
            patch.setattr(LmdbStore, "rewrite", lambda *_: server.kill())
            with pytest.raises(UnavailableError):
                opened.writer.erase(**erasing, principal="me", reason="asked", now=100)
        opened.writer.close()
        opened.open_writer()
        assert opened.writer.is_erasing
        assert opened.writer.write(REF, table([(3, 10, 3.0)])).accepted == 1
        with pytest.raises(ErasedError):
            opened.writer.write(REF, table([(1, 10, 1.0)]))
        with pytest.raises(UnavailableError):
            opened.writer.finish_erasure()
        server.start()
        wait_for(lambda: opened.writer.feed() is not None)
        wait_for(lambda: opened.writer.finish_erasure() is None)
        assert not opened.writer.is_erasing
        assert prices_of(opened, 1, 2, 3) == [None, 2.0, 3.0]
        assert opened.writer.write(REF, table([(1, 5_000, 9.0)])).accepted == 1


def writer_handlers(opened):
    return WriterHandlers(
        opened.writer,
        lambda: opened.snapshot,
        replay=False,
        usage_directory=opened.root,
        registry_path=None,
        metrics=MetricsFile(opened.root / "metrics"),
    )


async def test_a_server_ends_the_erasure_when_redis_is_back(tmp_path, monkeypatch):
    with started_redis() as server, project(tmp_path, server=server) as opened:
        opened.writer.write(REF, table([(1, 10, 1.0), (2, 10, 2.0)]))
        opened.writer.feed()
        with monkeypatch.context() as patch:
            patch.setattr(LmdbStore, "rewrite", lambda *_: server.kill())
            with pytest.raises(UnavailableError):
                opened.writer.erase("user", pa.table({"user_id": [1]}), principal="me", reason="asked", now=opened.now)
        server.start()
        handlers = writer_handlers(opened)
        for _ in range(200):
            await handlers.feed()
            if not opened.writer.is_erasing:
                break
            await asyncio.sleep(0.05)
        assert not opened.writer.is_erasing
        assert prices_of(opened, 1, 2) == [None, 2.0]


async def test_why_redis_is_not_fed_is_logged_once(tmp_path, caplog):
    with project(tmp_path) as opened:
        opened.writer.write(REF, table([(1, 10, 1.0)]))
        opened.redis.ask("SET", opened.address.prefix("meta") + FED, msgspec.msgpack.encode(Fed(b"other", b"run")))
        handlers = writer_handlers(opened)
        for _ in range(3):
            await handlers.feed()
        assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["Redis is not fed"]


def held(opened):
    """Return everything that Redis holds of a project."""
    client = shared_server().client()
    return {name: client.dump(name) for name in client.keys(f"{opened.address.namespace}:*")}


def go_back(opened, state):
    """Let Redis go back in time, as a failover does."""
    client = shared_server().client()
    client.delete(*client.keys(f"{opened.address.namespace}:*"))
    for name, value in state.items():
        client.restore(name, 0, value)


def load(opened, *rows):
    """Put rows into the offline table alone, as a bulk load does."""
    offline = opened.table(REF)
    fresh = offline.schema.canonical(table(rows)).rows
    first = opened.writer.reserve(len(fresh))
    offline.load(fresh.append_column(SEQ, pa.array(range(first, first + len(fresh)), pa.int64())))


@pytest.mark.parametrize("restarted", [False, True])
def test_a_redis_that_goes_back_in_time_is_brought_up_again(tmp_path, restarted):
    with project(tmp_path, now=1_000) as opened:
        opened.writer.write(REF, table([(1, 10, 1.0)]))
        opened.writer.feed()
        before = held(opened)
        load(opened, (1, 20, 7.0), (2, 20, 8.0))
        opened.writer.materialize(REF)
        assert prices_of(opened, 1, 2) == [7.0, 8.0]
        go_back(opened, before)
        if restarted:
            opened.writer.close()
            opened.open_writer()
        opened.writer.feed()
        assert prices_of(opened, 1, 2) == [7.0, 8.0]
        assert same(opened, 1, 2)


def test_a_loss_in_the_middle_of_a_materialize_is_noticed(tmp_path):
    with project(tmp_path, now=1_000) as opened:
        opened.writer.write(REF, table([(1, 10, 1.0)]))
        opened.writer.feed()
        before = held(opened)
        load(opened, (1, 20, 7.0), (2, 20, 8.0))
        store = opened.writer._feed.store
        send = store._send

        def losing(changes):
            send(changes)
            if "rows" in changes:
                go_back(opened, before)

        store._send = losing
        with pytest.raises(UnavailableError, match="was emptied"):
            opened.writer.materialize(REF)
        store._send = send
        opened.writer.feed()
        assert prices_of(opened, 1, 2) == [7.0, 8.0]


def test_a_view_whose_record_is_lost_is_readable_after_the_next_feed(tmp_path):
    other = FeatureView("more", entity=user, source=PushSource("more", event_timestamp="at"), features=prices.features)
    with project(tmp_path, prices, other) as opened:
        opened.writer.write(REF, table([(1, 10, 1.0)]))
        opened.writer.feed()
        before = held(opened)
        opened.writer.write(ViewRef("more", 1), table([(1, 10, 2.0)]))
        opened.writer.feed()
        go_back(opened, before)
        opened.writer.feed()
        assert opened.read(["more:price"], [(1,)]).to_dict()["price"] == [2.0]


def test_a_redis_that_a_lost_store_fed_is_filled_anew(tmp_path):
    """The rows of the row log that was lost are gone from Redis too; the numbers of their successors are the same."""
    with project(tmp_path) as opened:
        opened.writer.write(REF, table([(1, 10, 1.0)]))
        opened.writer.fold()
        opened.writer.write(REF, table([(2, 30, 2.0)]))
        opened.writer.feed()
        opened.writer.close()
        opened._store.close()
        shutil.rmtree(tmp_path / "online")
        opened.open_writer()
        opened._store = open_lmdb(tmp_path / "online")
        opened.writer.write(REF, table([(3, 10, 3.0)]))
        opened.writer.materialize(REF)
        assert prices_of(opened, 1, 2, 3) == [1.0, None, 3.0]


def test_no_row_is_shown_beyond_the_position(tmp_path):
    with project(tmp_path) as opened:
        opened.writer.write(REF, table([(1, 10, 1.0)]))
        opened.writer.feed()
        opened.writer.write(REF, table([(1, 20, 2.0)]))
        with dying_at(opened.writer._feed.store, 1, sent=True), pytest.raises(Crash):
            opened.writer.feed()
        rows = opened.read(FEATURES, [(1,)])
        assert (rows.to_dict()["price"], rows.position) == ([2.0], 2)


def test_a_scan_sees_every_key_of_its_range(tmp_path):
    with project(tmp_path) as opened:
        with opened.redis.write() as transaction:
            transaction.put_many("rows", [(key, b"v") for key in (b"a0", b"a1", b"a2", b"a9", b"b")])
        with opened.redis.read() as there:
            assert [key for key, _ in there.scan("rows", b"a1", b"a9")] == [b"a1", b"a2"]


def test_an_erasure_without_redis_changes_nothing(tmp_path):
    with started_redis() as server, project(tmp_path, server=server) as opened:
        opened.writer.write(REF, table([(1, 10, 1.0)]))
        opened.writer.feed()
        server.kill()
        with pytest.raises(UnavailableError):
            opened.writer.erase("user", pa.table({"user_id": [1]}), principal="me", reason="asked", now=100)
        assert opened.read_lmdb(FEATURES, [(1,)])
        server.start()
        wait_for(lambda: opened.writer.feed() is not None)
        wait_for(lambda: prices_of(opened, 1) == [1.0])


def test_rows_that_are_too_old_go_when_asked_to(tmp_path):
    now = time.time_ns() // 1000
    aging = FeatureView("prices", entity=user, source=prices.source, features=prices.features, ttl=timedelta(hours=1))
    with project(tmp_path, aging, now=now, expire=True) as opened:
        opened.writer.write(REF, table([(1, now - 1_000_000, 1.0), (2, now - 8_000_000_000, 2.0)]))
        opened.writer.feed()
        left = shared_server().client().keys(f"{opened.address.namespace}:[ro]:*")
        assert len(left) == 2  # a row and its order
        assert all(3600 <= shared_server().client().ttl(name) <= 3661 for name in left)
        assert prices_of(opened, 1, 2) == [1.0, None]


def wait_for(check, seconds=60):
    end = time.monotonic() + seconds
    while True:
        try:
            answer = check()
        except UnavailableError:
            answer = None
        if answer or time.monotonic() > end:
            assert answer
            return answer
        time.sleep(0.02)


def faulty(server, opened, answers):
    """Do what a fault leaves of reads; every answer that comes is the right one."""
    for _ in range(8):
        try:
            assert prices_of(opened, 1, 2, 3) == answers
        except UnavailableError as error:
            yield str(error)


@pytest.mark.parametrize("fault", ["killed", "paused", "slow"])
def test_a_failing_redis_is_said_and_comes_back_by_itself(tmp_path, fault):
    with started_redis("--enable-debug-command", "yes") as server, project(tmp_path, server=server) as opened:
        opened.redis.close()
        opened.redis = RedisStore(server.address(opened.address.namespace, timeout=0.1))
        opened.writer.write(REF, table([(1, 10, 1.0), (2, 10, 2.0)]))
        opened.writer.feed()
        right = [1.0, 2.0, None]
        wait_for(lambda: prices_of(opened, 1, 2, 3) == right)
        if fault == "killed":
            server.kill()
            said = list(faulty(server, opened, right))
            server.start()  # it held nothing on a disk
            wait_for(lambda: "empty, or not filled" in next(faulty(server, opened, right)))
            wait_for(lambda: opened.writer.feed() is not None)
        elif fault == "paused":
            with server.paused():
                said = list(faulty(server, opened, right))
        else:
            blocking = threading.Thread(target=lambda: server.client().execute_command("DEBUG", "SLEEP", "1.5"))
            blocking.start()
            time.sleep(0.1)
            said = list(faulty(server, opened, right))
            blocking.join()
        assert said[0].startswith(f"Redis at localhost:{server.port}/0 does not answer")
        assert "it is asked again in" in said[-1]
        assert server.password not in "".join(said)
        wait_for(lambda: prices_of(opened, 1, 2, 3) == right)
        assert same(opened, 1, 2, 3)


def test_a_redis_that_drops_keys_when_it_is_full_is_refused(tmp_path):
    with started_redis("--maxmemory-policy", "allkeys-lru") as server, project(tmp_path, server=server) as opened:
        opened.writer.write(REF, table([(1, 10, 1.0)]))
        with pytest.raises(FailedPreconditionError, match=r"maxmemory-policy allkeys-lru.*noeviction"):
            opened.writer.feed()


def test_a_full_redis_keeps_the_cursor_where_it_was(tmp_path):
    with started_redis() as server, project(tmp_path, server=server) as opened:
        opened.writer.write(REF, table([(1, 10, 1.0)]))
        opened.writer.feed()
        before = fed(opened)
        server.client().config_set("maxmemory", "1")
        opened.writer.write(REF, table([(1, 20, 2.0)]))
        with pytest.raises(UnavailableError, match="no memory left"):
            opened.writer.feed()
        assert fed(opened) == before
        assert prices_of(opened, 1) == [1.0]
        server.client().config_set("maxmemory", "0")
        opened.writer.feed()
        assert prices_of(opened, 1) == [2.0]


STAMPS = st.lists(st.binary(min_size=24, max_size=24), min_size=1, max_size=6)


@given(STAMPS, st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_the_script_orders_stamps_as_bytes_are_ordered(stamps, draw):
    """Whatever the locale of the server, and beyond 53 bits; the script alone decides here, nothing is compared before."""
    client, row, order = shared_server().client(), b"script:row", b"script:order"
    commit = client.register_script(COMMIT)
    client.delete(row, order)
    delivered = [*stamps, *stamps]
    draw.shuffle(delivered)
    for stamp in delivered:
        commit([b"script:fed", row, order], [b"*", 1, stamp, b"row of " + stamp, b""])
    assert client.mget(row, order) == [b"row of " + max(stamps), max(stamps)]


def test_a_wrong_password_is_said_and_none_is_shown(tmp_path):
    server = shared_server()
    address = RedisAddress(server.url.replace(server.password, "hunter2"), "test")
    with closing(RedisStore(address)) as store, store.read() as snapshot:
        with pytest.raises(FailedPreconditionError, match="does not let us in") as refused:
            snapshot.get("meta", b"head")
        assert "hunter2" not in f"{refused.value} {address} {address!r}"


@pytest.mark.parametrize(
    "url",
    [
        "redis://:123/abc+SECRET@cache:6379/0",
        "redis://me:123/SECRET@cache:6379/0",
        "redis://me:SECRET/x@cache:6379/0",
        "redis://me:12?SECRET@cache:6379/0",
        "redis://me:12#SECRET@cache:6379/0",
        "redis://:[SECRET@cache:6379/0",
        "unix://me:SECRET/x@/run/redis.sock",
        "redis://cache:0/0",
    ],
)
def test_a_url_that_a_password_tears_apart_is_refused_without_showing_it(url):
    with pytest.raises(ConfigError, match="percent-encode the password") as refused:
        RedisAddress(url, "test")
    assert "SECRET" not in "".join(traceback.format_exception(refused.value))


class Settled:
    """A project folder with settings of the online store."""

    def __init__(self, root, online):
        self.root = root
        (root / "featurestore.toml").write_text(f'[project]\nname = "demo"\n[online]\nstore = "redis"\n{online}\n')

    @property
    def redis(self):
        return load_settings(self.root).redis


def test_where_redis_is_comes_from_the_environment_a_file_or_the_settings(tmp_path, monkeypatch):
    monkeypatch.delenv("FEATURESTORE_REDIS_URL", raising=False)
    (tmp_path / "url").write_text("redis://me:secret@file:1/0\n")
    both = 'url = "redis://settings:1/0"\nurl_file = "url"'
    assert str(Settled(tmp_path, 'url = "redis://settings:1/0"').redis) == "Redis at settings:1/0"
    assert str(Settled(tmp_path, both).redis) == "Redis at file:1/0"
    monkeypatch.setenv("FEATURESTORE_REDIS_URL", "rediss://:secret@environment:1/0")
    assert str(Settled(tmp_path, both).redis) == "Redis at environment:1/0"
    assert Settled(tmp_path, 'namespace = "x"\nexpire = true').redis.expire


@pytest.mark.parametrize(
    ("online", "said"),
    [
        ("", "no URL of Redis"),
        ('url = "redis://:secret@host:1"', "A password does not belong into featurestore.toml"),
        ('url = "redis://host:1?password=secret"', "A password does not belong into featurestore.toml"),
        ('url = "redis://:1/secret@host:1"', "The URL of Redis cannot be read"),
        ('url_file = "missing"', "cannot be read"),
        ('url = "http://host"', "begins with none of"),
        ('url = "redis://host"\nnamespace = "a:b"', "cannot begin the keys"),
    ],
)
def test_settings_of_redis_that_cannot_be_are_refused(tmp_path, monkeypatch, online, said):
    monkeypatch.delenv("FEATURESTORE_REDIS_URL", raising=False)
    with pytest.raises(ConfigError, match=said) as refused:
        _ = Settled(tmp_path, online).redis
    assert "secret" not in str(refused.value)


def test_a_windowed_view_is_refused_at_plan_and_at_read(tmp_path):
    windowed = FeatureView(
        "spent",
        entity=user,
        source=PushSource("spent", event_timestamp="at"),
        features=[Aggregation("price", "sum", timedelta(days=1))],
        event_key={"id": "string"},
    )
    Settled(tmp_path, 'url = "redis://host:1/0"')
    with (
        FeatureStore(tmp_path) as store,
        pytest.raises(DefinitionError, match=r"spent@v1 is windowed.*retire the view"),
    ):
        store.plan([user, windowed])
    (tmp_path / "read").mkdir()
    with project(tmp_path / "read", windowed) as opened, pytest.raises(FailedPreconditionError, match="has no windows"):
        prepare_in_redis(plan_read(opened.snapshot, ["spent:sum_price_1d"]))


@contextmanager
def reading(opened, **how):
    prepared = prepare_in_redis(plan_read(opened.snapshot, FEATURES))

    def keys_of(*users):
        return [[encode_key((user,), prepared.plan.key_sets[0].dtypes) for user in users]]

    yield prepared, keys_of


async def test_many_reads_at_once_share_round_trips_and_get_their_own_answers(tmp_path):
    with project(tmp_path) as opened, reading(opened) as (prepared, keys_of):
        opened.writer.write(REF, table([(user, 10, float(user)) for user in range(200)]))
        opened.writer.feed()
        reader = RedisReader(opened.address, lambda: opened.now)
        before = shared_server().client().info("commandstats")["cmdstat_mget"]["calls"]
        wanted = [tuple((7 * n + k) % 210 for k in range(n % 9 + 1)) for n in range(300)]
        answers = await asyncio.gather(*(reader.read(prepared, keys_of(*users)) for users in wanted))
        calls = shared_server().client().info("commandstats")["cmdstat_mget"]["calls"] - before
        assert calls <= 10
        for users, answer in zip(wanted, answers, strict=True):
            assert answer == read_at_once(opened.redis, prepared, keys_of(*users), now=opened.now)
        await reader.follow()
        assert reader.head().pushed_seq == 200
        await reader.close()


async def test_a_caller_that_goes_away_takes_no_answer_of_another(tmp_path):
    """Reads are cancelled at any moment, by the hundred; what the others get is theirs."""
    with project(tmp_path) as opened, reading(opened) as (prepared, keys_of):
        opened.writer.write(REF, table([(user, 10, float(user)) for user in range(50)]))
        opened.writer.feed()
        right = [read_at_once(opened.redis, prepared, keys_of(user), now=opened.now) for user in range(50)]
        reader = RedisReader(opened.address, lambda: opened.now)
        for wave in range(40):
            tasks = [asyncio.ensure_future(reader.read(prepared, keys_of(user))) for user in range(50)]
            for _ in range(wave % 5):
                await asyncio.sleep(0)
            for doomed in tasks[wave % 3 :: 2]:
                doomed.cancel()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            for user, answer in enumerate(answers):
                assert isinstance(answer, asyncio.CancelledError) or answer == right[user]
        await reader.close()


async def test_the_event_loop_goes_on_while_redis_does_not_answer(tmp_path):
    with started_redis() as server, project(tmp_path, server=server) as opened, reading(opened) as (prepared, keys_of):
        opened.writer.write(REF, table([(1, 10, 1.0)]))
        opened.writer.feed()
        right = read_at_once(opened.redis, prepared, keys_of(1), now=opened.now)
        reader = RedisReader(server.address(opened.address.namespace, timeout=0.3), lambda: opened.now)
        assert await reader.read(prepared, keys_of(1)) == right
        turns = 0
        with server.paused():
            waiting = asyncio.ensure_future(reader.read(prepared, keys_of(1)))
            while not waiting.done():
                await asyncio.sleep(0.01)
                turns += 1
            assert isinstance(waiting.exception(), UnavailableError)
            for _ in range(5):
                with pytest.raises(UnavailableError):
                    await reader.read(prepared, keys_of(1))
        assert turns >= 3
        for _ in range(200):
            try:
                assert await reader.read(prepared, keys_of(1)) == right
                break
            except UnavailableError:
                await asyncio.sleep(0.05)
        else:
            pytest.fail("it did not come back")
        await reader.close()


async def test_no_reader_waits_for_ever_and_none_keeps_the_breaker_half_open(tmp_path):
    """Whatever goes wrong in the one try that the breaker allows, all who wait are told, and there is another try."""
    with project(tmp_path) as opened, reading(opened) as (prepared, keys_of):
        opened.writer.write(REF, table([(1, 10, 1.0)]))
        opened.writer.feed()
        reader = RedisReader(opened.address, lambda: opened.now)
        wrong = pytest.MonkeyPatch()

        async def broken(*_, **__):
            raise ZeroDivisionError

        for client in (reader._client, opened.redis._client):
            wrong.setattr(client, "execute_command", broken if client is reader._client else lambda *_: 1 // 0)
        for breaker in (reader._breaker, opened.redis._breaker):
            for _ in range(3):
                breaker.failed()
            wait_for(breaker.admits)
            breaker.failed()
        wait_for(lambda: reader._breaker.wait == opened.redis._breaker.wait == 0)
        reads = (reader.read(prepared, keys_of(1)) for _ in range(3))
        answers = await asyncio.wait_for(asyncio.gather(*reads, return_exceptions=True), 30)
        assert [type(answer) for answer in answers] == [ZeroDivisionError] * 3
        with pytest.raises(ZeroDivisionError):
            prices_of(opened, 1)
        assert reader._breaker.state == opened.redis._breaker.state == "open"
        wrong.undo()
        wait_for(lambda: prices_of(opened, 1) == [1.0])
        wait_for(lambda: reader._breaker.wait == 0)
        assert await reader.read(prepared, keys_of(1))
        await reader.close()


def test_the_embedded_store_reads_from_redis_and_materialize_fills_it(project_folder):
    with FeatureStore(project_folder) as store:
        store.apply(PROJECT)
        store.ingest("weather")
        with pytest.raises(FailedPreconditionError, match="featurestore materialize weather@v1"):
            store.get_online_features(["weather:temp"], {"origin": ["JFK"]})
        store.materialize()
        assert store.get_online_features(["weather:temp"], {"origin": ["JFK", "XXX"]}).to_dict()["temp"] == [55.5, None]
        shared_server().client().flushall()
        with pytest.raises(UnavailableError, match="featurestore materialize"):
            store.get_online_features(["weather:temp"], {"origin": ["JFK"]})
        store.materialize()
        assert store.get_online_features(["weather:temp"], {"origin": ["JFK"]}).to_dict()["temp"] == [55.5]


PROJECT = [
    FeatureView(
        "weather",
        entity=Entity("origin", join_keys={"origin": "string"}),
        source=ParquetSource("weather", "data/weather.parquet", event_timestamp="observed_at"),
        features=[Feature("temp", "float64")],
    )
]


@pytest.fixture(name="project_folder")
def _project_folder(request, monkeypatch):
    folder = request.getfixturevalue("tmp_path")
    (folder / "data").mkdir()
    at = pa.array([10, 20], pa.timestamp("us", "UTC"))
    pq.write_table(
        pa.table({"origin": ["JFK", "JFK"], "observed_at": at, "temp": [50.0, 55.5]}), folder / "data/weather.parquet"
    )
    Settled(folder, f'namespace = "{next(_namespaces)}"\ntimeout_seconds = 5.0')
    monkeypatch.setenv("FEATURESTORE_REDIS_URL", shared_server().url)
    return folder


def test_a_version_in_flight_is_read_from_redis_as_from_the_project_folder(tmp_path):
    other = FeatureView(
        "prices", entity=user, source=PushSource("others", event_timestamp="at"), features=prices.features
    )
    with project(tmp_path) as opened:
        opened.apply(other)
        for version in (1, 2):
            opened.writer.write(
                ViewRef("prices", version), table([(user, 10, user + version / 10) for user in range(40)])
            )
        opened.writer.feed()
        opened.snapshot = RegistrySnapshot(start_rollout(opened.snapshot, ViewRef("prices", 2), share=0.4).document)
        keys = [(user,) for user in range(42)]
        flying = ["prices:price", "prices:name"]
        assert opened.read_bytes(flying, keys) == opened.read_lmdb(flying, keys)
        assert set(opened.read(flying, keys).versions("price")) == {"prices@v1", "prices@v2"}


def test_a_version_in_the_shadow_that_has_no_rows_fails_no_read(tmp_path):
    other = FeatureView(
        "prices", entity=user, source=PushSource("others", event_timestamp="at"), features=prices.features
    )
    with project(tmp_path) as opened:
        opened.apply(other)
        opened.writer.write(REF, table([(1, 10, 1.0)]))
        opened.writer.feed()
        started = opened.snapshot
        opened.snapshot = RegistrySnapshot(start_rollout(started, ViewRef("prices", 2), share=None).document)
        assert plan_read(opened.snapshot, ["prices:price"]).views[0].rollout
        assert opened.read(["prices:price"], [(1,), (2,)]).to_dict()["price"] == [1.0, None]
        assert opened.read_bytes(["prices:price"], [(1,)]) == opened.read_lmdb(["prices:price"], [(1,)])
        opened.snapshot = RegistrySnapshot(start_rollout(started, ViewRef("prices", 2), share=0.5).document)
        with pytest.raises(FailedPreconditionError, match="prices@v2 was never filled"):
            opened.read(["prices:price"], [(1,)])
