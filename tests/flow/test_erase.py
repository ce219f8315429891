"""Erasure: a subject leaves every file, and everything that is not theirs stays as it was."""

import copy
import json
import os
import random
import shutil
import sqlite3
import struct
import sys
import threading
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore import (
    Aggregation,
    Entity,
    Feature,
    FeatureService,
    FeatureStore,
    FeatureView,
    InRange,
    ParquetSource,
    PushSource,
)
from featurestore.cli import main
from featurestore.errors import ErasedError, FeatureStoreError, InvalidArgumentError, NotFoundError, QuarantinedError
from featurestore.flow.erase import Places, prove
from featurestore.flow.traces import forms_of, search
from featurestore.offline.table import OfflineTable
from featurestore.online.lmdb import open_lmdb
from featurestore.online.windows import write
from featurestore.refs import ViewRef
from featurestore.subject import Subject
from featurestore.testing.projects import ScratchProject
from featurestore.types import DType, to_arrow, to_micros

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))
from test_supervise import client_of, eventually, server

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
INSTANTS = pa.timestamp("us", "UTC")

USER = Entity("user", {"user_id": "string"})
PAIR = Entity("pair", {"item": "int64", "user_id": "string"})
TYPES = {
    "whole": "int64",
    "share": "float64",
    "name": "string",
    "raw": "binary",
    "moment": "timestamp",
    "price": "decimal(30,4)",
    "words": "list<string>",
    "place": "struct<street:string,number:int64>",
    "face": "vector<float32,4>",
    "day": "date",
    "is_new": "bool",
}
FACTS = FeatureView(
    "facts",
    USER,
    ParquetSource("facts", "data/facts.parquet", event_timestamp="at", created_timestamp="made"),
    [Feature(name, dtype) for name, dtype in TYPES.items()],
)
PUSHES = FeatureView(
    "pushes",
    USER,
    PushSource("pushes", "at"),
    [Feature("score", "float64", expect=[InRange(0, 1)]), Feature("note", "string")],
)
SPEND = FeatureView(
    "spend",
    PAIR,
    PushSource("spend", "at"),
    [
        Aggregation("amount", "sum", timedelta(days=30)),
        Aggregation("label", "last", timedelta(days=30), dtype="string"),
    ],
    event_key={"payment": "string"},
)
FRIEND = PUSHES.alias("friend", join_keys={"user_id": "friend_id"})
SERVICE = FeatureService("both", [FACTS, FRIEND])


class Canary:
    """A subject whose key and values are random, so that their bytes are nowhere by chance."""

    def __init__(self, seed):
        self.chance = random.Random(seed)
        self.texts, self.patterns = [], []
        self.key = self.text()

    def text(self):
        word = f"ca{self.chance.getrandbits(64):016x}"
        self.patterns += forms_of(word)
        return word

    def binary(self):
        value = self.chance.randbytes(16)
        self.patterns += forms_of(value)
        return value

    def whole(self):
        value = self.chance.getrandbits(61) | (1 << 60)
        biased = struct.pack(">Q", value + (1 << 63))
        self.patterns += [struct.pack("<q", value), struct.pack(">q", value), biased, str(value).encode()]
        return value

    def real(self):
        value = self.chance.random()
        self.patterns += [struct.pack("<d", value), struct.pack(">d", value), repr(value).encode()]
        return value

    def moment(self):
        micros = to_micros(NOON) - 10**9 - self.chance.getrandbits(28)
        self.patterns += [struct.pack("<q", micros), struct.pack(">Q", micros + (1 << 63)), str(micros).encode()]
        return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=micros)

    def shifted(self, low):
        value = low + self.chance.random()
        self.patterns += [struct.pack("<d", value), repr(value).encode()]
        return value

    def face(self):
        value = [struct.unpack("<f", struct.pack("<f", self.chance.random()))[0] for _ in range(4)]
        self.patterns.append(struct.pack("<4f", *value))
        return value

    def fact(self, *, user=None):
        return {
            "user_id": user or self.key,
            "at": self.moment(),
            "made": self.moment(),
            "whole": self.whole(),
            "share": self.real(),
            "name": self.text(),
            "raw": self.binary(),
            "moment": self.moment(),
            "price": Decimal(self.whole()) / 10000,
            "words": [self.text(), self.text()],
            "place": {"street": self.text(), "number": self.whole()},
            "face": self.face(),
            "day": date(2026, 1, 2),
            "is_new": True,
        }


SCHEMA = pa.schema(
    [("user_id", pa.string()), ("at", INSTANTS), ("made", INSTANTS)]
    + [(name, to_arrow(DType(dtype))) for name, dtype in TYPES.items()]
)


def facts_of(*people, rows=3):
    return pa.Table.from_pylist([person.fact() for person in people for _ in range(rows)], SCHEMA)


def pushes_of(*people, low=0.0, at=None):
    return pa.table(
        {
            "at": pa.array([at or p.moment() for p in people], INSTANTS),
            "user_id": [p.key for p in people],
            "score": [p.shifted(low) if low else p.real() for p in people],
            "note": [p.text() for p in people],
        }
    )


def spend_of(*people):
    return pa.table(
        {
            "at": pa.array([p.moment() for p in people], INSTANTS),
            "user_id": [p.key for p in people],
            "item": pa.array(range(len(people)), pa.int64()),
            "amount": pa.array([p.real() for p in people]),
            "label": [p.text() for p in people],
            "payment": [p.text() for p in people],
        }
    )


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A project with a canary and two others who stay, put through every path; made once."""
    folder = tmp_path_factory.mktemp("filled")
    (folder / "featurestore.toml").write_text('[project]\nname = "erased"\n')
    (folder / "data").mkdir()
    people = Canary(1), Canary(2), Canary(3)
    with opened(folder) as store:
        fill(store, people)
    return folder, people


@pytest.fixture
def folder(filled, tmp_path):
    """A copy of that project."""
    return Path(shutil.copytree(filled[0], tmp_path / "project"))


@pytest.fixture
def people(filled):
    """Who is in it."""
    return copy.deepcopy(filled[1])


def opened(folder):
    return FeatureStore(folder, consumer="job", clock=lambda: to_micros(NOON))


def fill(store, people):
    """Put a canary through every path, beside the others."""
    canary, other, third = people
    data = store.settings.root / "data" / "facts.parquet"
    first = facts_of(*people)
    pq.write_table(first, data)
    store.apply([FACTS, PUSHES, SPEND, SERVICE])
    store.ingest("facts")
    store.write("pushes", pushes_of(*people), write_id=b"first")
    store.write("pushes", pushes_of(canary, other, at=NOON + 5 * HOUR))  # dated after now
    store.write("spend", spend_of(canary, other, canary, third))
    with pytest.raises(QuarantinedError):
        store.write("pushes", pushes_of(canary, other, low=5.0))
    with pytest.raises(QuarantinedError):
        store.write("pushes", pushes_of(canary, low=7.0))
    store.profile("facts")
    store.profile("pushes")
    save(store, "before", people)
    corrected = facts_of(canary, third, rows=1)
    pq.write_table(pa.concat_tables([first, corrected]), data)
    store.ingest("facts")
    store.compact()
    save(store, "between", people)
    store.compact("facts", buckets=4)
    store.write("pushes", pushes_of(*people))
    store.materialize()
    store.get_online_features(["facts:name"], {"user_id": [canary.key, other.key]})


def save(store, name, people):
    canary, other, third = (person.key for person in people)
    spine = pa.table(
        {
            "user_id": [canary, other, third, other],
            "friend_id": [other, canary, other, third],
            "event_timestamp": pa.array([NOON] * 4, INSTANTS),
            "label": [1, 2, 3, 4],
        }
    )
    return store.save(name, store.get_historical_features(spine, "both"))


def rows_left(store, view):
    return sorted(store.table(ViewRef.parse(view)).read().to_pylist(), key=lambda row: row["__seq"])


def places_of(found):
    return {trace.file.split("/")[1] if "/" in trace.file else trace.file for trace in found}


def test_nothing_of_a_canary_is_left_in_any_file(folder, people):
    canary = people[0]
    with opened(folder) as store:
        before = search(folder, canary.patterns).found
        assert {"offline", "online", "datasets", "quarantine", "profiles"} <= places_of(before)
        kept = {v: [r for r in rows_left(store, v) if r["user_id"] != canary.key] for v in ("facts", "pushes", "spend")}
        receipt = store.erase("user", {"user_id": [canary.key]}, reason="asked for by letter 12")
        assert kept == {view: rows_left(store, view) for view in kept}
        assert receipt.proof.rows == ()
        assert receipt.proof.found == ()
        assert receipt.proof.patterns
        again = store.ingest("facts")
        assert (again.accepted, again.erased) == (0, 4)
        (folder / "data" / "facts.parquet").unlink()
        store.get_online_features(["facts:name"], {"user_id": [people[1].key]})
        with store.writer() as writer:
            assert search(folder, canary.patterns, online=writer._store).found == ()
            assert "online" in places_of(search(folder, people[1].patterns, online=writer._store).found)
    assert search(folder, canary.patterns).found == ()
    assert {"offline", "online", "datasets", "quarantine"} <= places_of(search(folder, people[1].patterns).found)


def test_the_receipt_counts_and_names_no_key(folder, people):
    canary = people[0]
    with opened(folder) as store:
        receipt = store.erase("user", {"user_id": [canary.key]}, reason="asked")
        assert receipt.counts["offline facts@v1"] == 4
        assert receipt.counts["offline pushes@v1"] == 3
        assert receipt.counts["offline spend@v1"] == 2
        assert receipt.counts["parked"] == 1
        assert receipt.counts["quarantine"] == 2
        assert receipt.counts["online spend@v1"] >= 2
        assert receipt.datasets == {"before": 2, "between": 2}
        assert store.receipts() == [receipt]
        erasures = folder / "store" / "erasures"
        assert sorted(path.name for path in erasures.iterdir()) == ["1.json", "lock", "secret"]
        assert [(erasures / name).stat().st_mode & 0o777 for name in ("1.json", "secret")] == [0o600, 0o600]
        assert store.erase("user", {"user_id": [people[1].key, "nobody-at-all"]}).number == 2
        assert [row["user_id"] for row in rows_left(store, "pushes")] == [people[2].key] * 2


def test_a_dataset_says_what_it_lost_and_verifies_the_rest(folder, people, capsys):
    canary = people[0]
    with opened(folder) as store:
        whole = store.dataset("between").to_arrow()
        receipt = store.erase("user", {"user_id": [canary.key]})
        for name in ("before", "between"):
            dataset = store.dataset(name)
            gone = dataset.manifest.erased
            assert [(g.receipt, g.rows) for g in gone] == [(1, 2)]
            assert gone[0].digests == tuple(key.digest for key in receipt.keys)
            assert dataset.verify().erased == gone
            assert dataset.spine()["label"].to_pylist() == [3, 4]
            assert store.snapshot().document.datasets[name].rows == 2
        assert store.dataset("between").to_arrow().equals(whole.slice(2))
    with pytest.raises(SystemExit) as left:
        main(["datasets", "verify", "before", "--project", str(folder)])
    assert left.value.code == 0
    assert "2 rows were erased by receipt 1" in capsys.readouterr().err


def test_a_dataset_that_was_damaged_before_stays_damaged(folder, people):
    with opened(folder) as store:
        dataset = store.dataset("before")
        table = dataset.to_arrow()
        at = table.column_names.index("label")
        pq.write_table(table.set_column(at, "label", pa.array([1, 2, 3, 99])), dataset.directory / "data.parquet")
        store.erase("user", {"user_id": [people[0].key]})
        with pytest.raises(Exception, match="digest"):
            store.dataset("before").verify()


def test_every_version_and_every_old_file_is_reached(folder, people):
    canary = people[0]
    with opened(folder) as store:
        versions = range(store.table(ViewRef("facts")).version + 1)
        changed = FeatureView(
            "pushes", USER, PushSource("pushes", "at"), [Feature("note", "string"), Feature("score", "float32")]
        )
        store.apply([FACTS, changed, SPEND, SERVICE])
        store.promote("pushes@v2", force="test")
        store.retire("pushes@v1", force="test")
        store.erase("user", {"user_id": [canary.key]})
        assert canary.key not in [row["user_id"] for row in rows_left(store, "pushes@v1")]
        table = store.table(ViewRef("facts"))
        said = []
        for version in versions:
            old = OfflineTable(table.directory, table.schema, at_version=version)
            if old.files():
                with pytest.raises(ErasedError, match="erased by receipt 1") as raised:
                    old.read()
                said.append(raised.value)
        assert said
        assert table.version > versions[-1]


def test_an_erased_key_comes_again_only_with_a_later_time(folder, people):
    canary, other, _ = people
    with opened(folder) as store:
        store.erase("user", {"user_id": [canary.key]})
        with pytest.raises(ErasedError, match=r"1 rows of pushes@v1 .* receipt 1.*rows\[1\]"):
            store.write("pushes", pushes_of(other, canary))
        with pytest.raises(ErasedError, match="receipt 1"):
            store.write("spend", spend_of(canary))
        assert len(rows_left(store, "pushes")) == 5
        with FeatureStore(folder, clock=lambda: to_micros(NOON + 10 * HOUR)) as later:
            assert later.write("pushes", pushes_of(canary, at=NOON + 6 * HOUR)).accepted == 1
            assert later.get_online_features(["pushes:note"], {"user_id": [canary.key]}).to_rows()[0]["note"]


def test_a_training_set_from_before_is_not_saved(folder, people):
    canary, other, _ = (person.key for person in people)
    with opened(folder) as store:
        spine = {"user_id": [other], "event_timestamp": pa.array([NOON], INSTANTS)}
        read = store.get_historical_features(spine, ["facts:name"])
        store.erase("user", {"user_id": [canary]})
        with pytest.raises(ErasedError, match="receipt 1"):
            store.save("late", read)
        store.save("fresh", store.get_historical_features(spine, ["facts:name"]))
        spine["user_id"] = [canary]
        with pytest.raises(ErasedError, match=r"training set .*receipt 1"):
            store.save("none", store.get_historical_features(spine, ["facts:name"]))
        with pytest.raises(ErasedError, match=r"training set .*receipt 1"):
            store.save("none", store.stream_historical_features(pa.table(spine), ["facts:name"]))
        assert store.datasets() == ["before", "between", "fresh"]


def test_a_wrong_erasure_changes_nothing(folder, people):
    with opened(folder) as store:
        with pytest.raises(NotFoundError, match="Did you mean 'user'"):
            store.erase("usr", {"user_id": ["x"]})
        for keys in ({"user_id": []}, {"user": ["x"]}, {"user_id": [1]}, {"user_id": [None]}):
            with pytest.raises(InvalidArgumentError):
                store.erase("user", keys)
        with pytest.raises(InvalidArgumentError, match="names a key"):
            store.erase("user", {"user_id": [people[0].key]}, reason=f"{people[0].key} asked")
        assert store.receipts() == []
        assert not (folder / "store" / "erasures" / "journal.json").exists()


def test_the_command(folder, people, capsys, tmp_path):
    canary, other, third = people
    keys = tmp_path / "keys.csv"
    keys.write_text(f"user_id\n{third.key}\n")
    arguments = ["erase", "user", f"user_id={canary.key}", "--keys", str(keys), "--reason", "asked", "--format", "json"]
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--project", str(folder)])
    said = capsys.readouterr()
    assert (left.value.code, canary.key in said.out + said.err) == (0, False)
    receipt = json.loads(said.out)["receipt"]
    assert (receipt["number"], len(receipt["keys"]), receipt["proof"]["rows"]) == (1, 2, [])
    assert "not known: the sources" in said.err
    with opened(folder) as store:
        assert {row["user_id"] for row in rows_left(store, "facts")} == {other.key}


def leave_a_file(folder, canary):
    pq.write_table(facts_of(canary), folder / "store" / "offline" / "facts" / "v1" / "left.parquet", compression="zstd")


def leave_an_entry(folder, canary):
    store = open_lmdb(folder / "store" / "online")
    with store.write() as transaction:
        transaction.put("meta", b"left", canary.key.encode())
    store.close()


def leave_a_free_page(folder, canary):
    connection = sqlite3.connect(folder / "store" / "registry.db", isolation_level=None)
    connection.execute("PRAGMA secure_delete = OFF")
    connection.execute("CREATE TABLE left (key TEXT)")
    connection.execute("INSERT INTO left VALUES (?)", (canary.key,))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.execute("DROP TABLE left")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def leave_a_line(folder, canary):
    with (folder / "store" / "offline" / "facts" / "v1" / "_delta_log" / f"{99:020}.json").open("a") as file:
        file.write(json.dumps({"left": canary.key}) + "\n")


@pytest.mark.parametrize("leave", [leave_a_file, leave_an_entry, leave_a_free_page, leave_a_line])
def test_the_search_finds_what_is_left(folder, people, leave):
    canary = people[0]
    with opened(folder) as store:
        store.erase("user", {"user_id": [canary.key]})
    (folder / "data" / "facts.parquet").unlink()
    assert search(folder, canary.patterns).found == ()
    leave(folder, canary)
    assert search(folder, canary.patterns).found


def test_the_proof_finds_rows_that_are_left(tmp_path):
    view = FeatureView(
        "acts", Entity("user", {"user_id": "int64"}), PushSource("acts", "at"), [Feature("score", "float64")]
    )
    with ScratchProject(tmp_path, view, now=100) as project:
        push(project, "acts", user_id=[7, 8], at=[1, 2], score=[0.5, 0.25])
        project.writer.fold()
        (held,) = (tmp_path / "offline" / "acts" / "v1" / "recent").glob("*.parquet")
        planted = held.read_bytes()
        assert erase(project, "user", user_id=[7]).proof.rows == ()
        places = Places(tmp_path, project.writer._store, project.table, project.snapshot)
        subject = Subject.of("user", [("user_id", "int64")], pa.table({"user_id": [7]}))
        assert prove(places, subject).rows == ()
        held.write_bytes(planted)
        assert [trace.file for trace in prove(places, subject).rows] == [f"offline/acts/v1/recent/{held.name}"]


def test_the_proof_finds_any_page_of_windows_that_is_left(tmp_path, monkeypatch):
    """Event times and values lie in pages bit by bit, so nobody can search for their bytes: every page is known by its key."""
    monkeypatch.setattr(write, "INLINE_EVENTS", 2)
    monkeypatch.setattr(write, "PAGE_EVENTS", 2)
    hour = 3600 * 10**6
    view = FeatureView(
        "acts",
        PAIR,
        PushSource("acts", "at"),
        [Aggregation("score", "sum", timedelta(days=30)), Aggregation("score", "last", timedelta(days=30), n=2)],
    )
    with ScratchProject(tmp_path, view, PUSHES, now=40 * 24 * hour) as project:
        at = [hour * (900 + n // 8) + n for n in range(48)]
        for item in (1, 2):
            push(
                project, "acts", user_id=["ann", "ben"] * 24, item=[item] * 48, at=at, score=[n / 8 for n in range(48)]
            )
        before = pages_of(project)
        gone = {name: page for name, page in before.items() if b"ann" in name}
        assert len(gone) > 10
        assert erase(project, "user", user_id=["ann"]).proof.rows == ()
        assert pages_of(project) == {name: page for name, page in before.items() if b"ann" not in name}
        places = Places(tmp_path, project.writer._store, project.table, project.snapshot)
        subject = Subject.of("user", [("user_id", "string")], pa.table({"user_id": ["ann"]}))
        for name, page in gone.items():
            with project.writer._store.write() as transaction:
                transaction.put("pages", name, page)
            assert [trace.file for trace in prove(places, subject).rows] == ["online pages"]
            with project.writer._store.write() as transaction:
                transaction.delete("pages", name)
        assert prove(places, subject).rows == ()


def pages_of(project):
    with project.writer._store.read() as snapshot:
        return dict(snapshot.scan("pages", b"", b"\xff"))


def push(project, view, **columns):
    columns["at"] = pa.array(columns["at"], INSTANTS)
    return project.writer.write(ViewRef(view), pa.table(columns))


def erase(project, entity, **keys):
    return project.writer.erase(entity, pa.table(keys), principal="me", reason="", now=project.now)


KEYS = {
    "int32": st.integers(-3, 3),
    "string": st.sampled_from(["", "a", "aa", "ab", "b", "\x00", "é"]),
    "bool": st.booleans(),
    "date": st.sampled_from([date(1969, 12, 31), date(1970, 1, 1), date(2026, 1, 1)]),
}


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_exactly_the_rows_of_the_keys_go(tmp_path_factory, data):
    """Of any key types, in views that have more join keys than the entity, in whatever order; against a plain filter."""
    types = data.draw(st.lists(st.sampled_from(sorted(KEYS)), min_size=1, max_size=2))
    owner = {f"k{i}": dtype for i, dtype in enumerate(types)}
    wider = dict(reversed([*owner.items(), ("more", "string")]))
    entity, pair = Entity("owner", owner), Entity("pair", wider)
    narrow = FeatureView("narrow", entity, PushSource("narrow", "at"), [Feature("v", "int64")])
    wide = FeatureView(
        "wide", pair, PushSource("wide", "at"), [Aggregation("v", "sum", timedelta(days=1), dtype="int64")]
    )
    rows = data.draw(st.lists(st.tuples(*(KEYS[dtype] for dtype in types), KEYS["string"]), min_size=1, max_size=12))
    erased = data.draw(st.lists(st.tuples(*(KEYS[dtype] for dtype in types)), min_size=1, max_size=3))
    schema = {name: to_arrow(DType(dtype)) for name, dtype in owner.items()}
    columns = {name: pa.array([row[i] for row in rows], schema[name]) for i, name in enumerate(owner)}
    columns |= {"more": [row[-1] for row in rows], "at": list(range(len(rows))), "v": list(range(len(rows)))}
    with ScratchProject(tmp_path_factory.mktemp("p"), narrow, wide, now=10**6) as project:
        push(project, "narrow", **columns)
        push(project, "wide", **columns)
        if data.draw(st.booleans()):
            project.writer.fold()
        keys = {name: pa.array([key[i] for key in erased], schema[name]) for i, name in enumerate(owner)}
        erase(project, "owner", **keys)
        left = [i for i, row in enumerate(rows) if row[:-1] not in erased]
        for view in ("narrow", "wide"):
            table = project.table(ViewRef(view))
            assert sorted(table.read(["v"])["v"].to_pylist()) == left
        whose = list(dict.fromkeys(row[:-1] for row in rows))
        shown = [row["v"] for row in project.read(["narrow:v"], whose).to_rows()]
        assert shown == [max((i for i in left if rows[i][:-1] == key), default=None) for key in whose]
        both = list(dict.fromkeys((row[-1], *reversed(row[:-1])) for row in rows))
        sums = [next(iter(row.values())) for row in project.read(["wide:sum_v_1d"], both).to_rows()]
        wanted = [[i for i in left if (rows[i][-1], *reversed(rows[i][:-1])) == key] for key in both]
        assert [total or 0 for total in sums] == [sum(group) for group in wanted]


def test_readers_of_this_process_follow_without_a_failed_read(tmp_path):
    view = FeatureView(
        "acts", Entity("user", {"user_id": "int64"}), PushSource("acts", "at"), [Feature("score", "int64")]
    )
    with ScratchProject(tmp_path, view, now=10**9) as project:
        push(project, "acts", user_id=list(range(200)), at=list(range(200)), score=list(range(200)))
        stop, errors, seen = threading.Event(), [], []

        def read():
            while not stop.is_set():
                try:
                    seen.append(tuple(r["score"] for r in project.read(["acts:score"], [(3,), (150,)]).to_rows()))
                except FeatureStoreError as error:
                    errors.append(error)

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        for user in (3, 4, 5):
            erase(project, "user", user_id=[user])
        push(project, "acts", user_id=[150], at=[10**6], score=[1])
        last = [r["score"] for r in project.read(["acts:score"], [(3,), (150,)]).to_rows()]
        stop.set()
        for thread in threads:
            thread.join()
        assert errors == []
        assert set(seen) <= {(3, 150), (None, 150), (None, 1)}
        assert last == [None, 1]
        assert [path.name for path in (tmp_path / "online").glob("env-*")] == ["env-4"]
        mapped = {line for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line}
        assert all("env-4" in line for line in mapped)


def test_a_server_erases_while_it_is_read(tmp_path):
    """Workers go over to the new environment without a failed read, nothing holds the old one, and writes go on."""
    with server(tmp_path) as (_, ready), client_of(ready) as client, FeatureStore(tmp_path) as store:
        moments = [NOON] * 3
        client.write("activity", {"user_id": [1, 2, 3], "event_timestamp": moments, "score": [1.0, 2.0, 3.0]})
        stop, failures, seen = threading.Event(), [], []

        def read():
            with client_of(ready) as reader:
                while not stop.is_set():
                    try:
                        rows = reader.get_online_features(["activity:score"], {"user_id": [1, 2]})
                        seen.append(tuple(rows.to_dict()["score"]))
                    except FeatureStoreError as error:
                        failures.append(error)

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert eventually(lambda: len(seen) > 20)
        assert store.erase("user", {"user_id": [1]}, reason="asked").counts["offline activity@v1"] == 1
        assert eventually(lambda: set(seen[-20:]) == {(None, 2.0)})
        client.write("activity", {"user_id": [2], "event_timestamp": [NOON + HOUR], "score": [5.0]})
        assert eventually(lambda: seen[-1] == (None, 5.0))
        stop.set()
        for thread in threads:
            thread.join()
        assert failures == []
        assert set(seen) <= {(1.0, 2.0), (None, 2.0), (None, 5.0)}
        with pytest.raises(ErasedError, match="receipt 1"):
            client.write("activity", {"user_id": [1], "event_timestamp": [NOON], "score": [1.0]})
        assert eventually(lambda: not old_environments(tmp_path))


def old_environments(folder):
    """Maps of removed files of the store in any process of this machine that may be looked at."""
    found = []
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):
            found += [
                line for line in maps.read_text().splitlines() if f"{folder}/store/online" in line and "deleted" in line
            ]
    return found


def test_vacuum_keeps_what_a_dataset_lists_and_erasure_does_not(folder, people):
    canary = people[0]
    with opened(folder) as store:
        store.compact(vacuum=True)
        table = store.table(ViewRef("facts"))
        keep = {file for source in store.dataset("before").manifest.sources for file in source.files}
        hour = 7200
        for path in table.directory.glob("*/*.parquet"):
            os.utime(path, (path.stat().st_atime - hour, path.stat().st_mtime - hour))
        table.vacuum(keep=keep, older_than=timedelta(0))
        assert store.dataset("before").verify()
        store.erase("user", {"user_id": [canary.key]})
        assert not any((table.directory / file).exists() for file in keep)
        assert store.dataset("before").verify()
        assert len(pc.unique(table.read(["user_id"])["user_id"])) == 2
