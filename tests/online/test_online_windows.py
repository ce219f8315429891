"""Windowed views online: equal, to the bit, to a plain scan over what was accepted, whatever the schedule."""

import itertools
import math
import shutil
import tempfile
from datetime import timedelta
from pathlib import Path
from random import Random as seeded

import msgspec
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore import Aggregation, Entity, Feature, FeatureView, PushSource
from featurestore.errors import CorruptionError, DefinitionError, FailedPreconditionError
from featurestore.flow import sweep
from featurestore.online import windowed_view
from featurestore.online.keyspaces import Fill, find_keyspace, record_keyspace
from featurestore.online.windows import expired_pages, read, write
from featurestore.refs import ViewRef
from featurestore.rows import SEQ
from featurestore.testing.projects import ScratchProject
from featurestore.windows.stored import BLOCK_FORM, LAST_EVENT

USER = Entity("user", {"user": "string"})
SALES = ViewRef("sales")
INSTANT = pa.timestamp("us", "UTC")
USERS = ("ann", "a", "never")
UNIT = 1440  # microseconds; two of it are the longest stretch of a page, then there are pages of 120 and of 2
WINDOWS = (8 * UNIT, 40 * UNIT)
START = 60 * UNIT
NUMERIC = ("count", "count_distinct", "sum", "mean", "min", "max", "first", "last", "stddev")
FUNCTIONS = {
    "amount": NUMERIC,
    "quantity": NUMERIC,
    "shop": ("count", "count_distinct", "min", "max", "first", "last"),
}
FILTERS = {
    None: lambda row: True,
    "shop = 'north'": lambda row: row[6] == "north",
    "shop <> 'north' OR quantity > 0": lambda row: row[6] == "south" or (row[5] or 0) > 0,
}
ASKED = [
    (column, function, window, n, where)
    for column, functions in FUNCTIONS.items()
    for function in functions
    for window in WINDOWS
    for n in ((None, 2) if function in ("first", "last") else (None,))
    for where in FILTERS
]


def asked(number, column, function, window, n, where):
    dtype = {"amount": "float64", "quantity": "int64", "shop": "string"}[column]
    name = f"f{number}" if where else None
    return Aggregation(column, function, timedelta(microseconds=window), dtype=dtype, n=n, where=where, name=name)


AGGREGATIONS = [asked(number, *wanted) for number, wanted in enumerate(ASKED)]
NAMES = [f"sales:{aggregation.feature_name}" for aggregation in AGGREGATIONS]


def sales(*, keyed=True):
    return FeatureView(
        "sales",
        USER,
        PushSource("sales", "at", "created"),
        features=AGGREGATIONS,
        event_key={"sale": "int32"} if keyed else {},
    )


def rows(batch):
    columns = list(zip(*batch, strict=True)) or [[]] * 7
    types = [pa.string(), INSTANT, INSTANT, pa.int32(), pa.float64(), pa.int64(), pa.string()]
    names = ["user", "at", "created", "sale", "amount", "quantity", "shop"]
    return pa.table([pa.array(column, kind) for column, kind in zip(columns, types, strict=True)], names=names)


class Oracle:
    """Every accepted row in a dictionary; each answer is a scan over all of them."""

    def __init__(self, *, keyed):
        self.keyed = keyed
        self.rows = {}
        self.next_seq = itertools.count(1)

    def write(self, batch):
        for row in batch:
            identity = row if self.keyed else (*row[:3], *row[4:])
            if identity not in self.rows:
                self.rows[identity] = ((row[1], -1 if row[2] is None else row[2], next(self.next_seq)), row)

    def read(self, user, now):
        versions = {}
        for order, row in self.rows.values():
            if row[0] == user and row[1] <= now:
                event = (row[1], row[3]) if self.keyed else order
                versions[event] = max(versions.get(event, (order, row)), (order, row), key=lambda pair: pair[0])
        events = sorted(versions.values(), key=lambda pair: pair[0])
        return [self.aggregate(events, *asked, now) for asked in ASKED]

    def aggregate(self, events, column, function, window, n, where, now):
        at = {"amount": 4, "quantity": 5, "shop": 6}[column]
        inside = [row[at] for _, row in events if now - window < row[1] and FILTERS[where](row)]
        if function in ("first", "last"):
            ends = inside if function == "first" else inside[::-1]
            return ends[:n] if n else next(iter(ends), None)
        values = [value for value in inside if value is not None]
        if function in ("count", "count_distinct"):
            return len(values if function == "count" else set(values))
        if len(values) < 1 + (function == "stddev"):
            return None
        if function in ("min", "max"):
            return min(values) if function == "min" else max(values)
        total = math.fsum(values) if column == "amount" else sum(values)
        if function == "sum":
            return total
        mean = float(total) / len(values) + 0.0  # a mean that underflows is 0.0, as in the oracle
        if function == "mean":
            return mean
        return math.sqrt(math.fsum((v - mean) * (v - mean) for v in values) / (len(values) - 1))


def drawn_rows(random, now, most):
    """Late, of one microsecond, future, corrected and repeated events, and some at an edge of a window or of a page."""
    at = sorted({random.randint(-60, 25) for _ in range(random.randint(1, 5))})
    return [
        (
            random.choice(USERS[:2]),
            max(0, now + UNIT * random.choice(at) + random.choice((0, 0, 0, -1, 1, 2, 60, 700))),
            random.choice((None, now, random.randint(0, now + 30))),
            random.randint(0, 2),
            random.choice((None, 0.1, -0.3, 1e12, 1e-9, 19.99, 0.0, random.uniform(-1e6, 1e6) + 0.0)),
            random.choice((None, 0, random.randint(-(10**6), 10**6))),
            random.choice((None, "north", "south")),
        )
        for _ in range(random.randint(1, most))
    ]


STEPS = (0, 1, 7 * UNIT, 8 * UNIT, 8 * UNIT + 1, 9 * UNIT, 30 * UNIT, 100 * UNIT)


def differing(project, oracle, now):
    """Return the pairs of what was read and what the plain scan says, where they are not the same to the bit."""
    answer = project.read(NAMES, [(user,) for user in USERS])
    assert answer.time == now
    got = [value for row in zip(*answer.to_dict().values(), strict=True) for value in row]
    wanted = [value for user in USERS for value in oracle.read(user, now)]
    return [pair for pair in zip(got, wanted, strict=True) if repr(pair[0]) != repr(pair[1])]


def run_schedule(root, random, *, keyed, steps, most):
    """Write and read at random; return what was read wrong, and whether a store built anew from the tables answers the same bytes."""
    oracle, now = Oracle(keyed=keyed), START
    with ScratchProject(root, sales(keyed=keyed), now=now) as project:
        for _ in range(steps):
            batch = drawn_rows(random, now, most)
            project.writer.write(SALES, rows(batch))
            oracle.write(batch)
            wrong = differing(project, oracle, now)
            near = [max(now, row[1] + window + edge) for row in batch for window in WINDOWS for edge in (-1, 0, 1)]
            project.now = now = random.choice((now + random.choice(STEPS), random.choice(near)))
            project.writer.release()
            wrong = wrong or differing(project, oracle, now)
            if wrong:
                return wrong, False
        project.writer.fold()
        before = project.read_bytes(NAMES, [(user,) for user in USERS])
        project.writer.materialize(SALES)
        again = project.read_bytes(NAMES, [(user,) for user in USERS])
    shutil.rmtree(root / "online")
    with ScratchProject(root, sales(keyed=keyed), now=now) as project:
        project.writer.materialize(SALES)
        return [], again == before == project.read_bytes(NAMES, [(user,) for user in USERS])


@pytest.fixture
def limits(monkeypatch):
    """Set how many events blocks hold before they put some below them."""

    def set_limits(inline, recent, page):
        monkeypatch.setattr(write, "INLINE_EVENTS", inline)
        monkeypatch.setattr(write, "RECENT_EVENTS", recent)
        monkeypatch.setattr(write, "PAGE_EVENTS", page)

    return set_limits


@pytest.mark.parametrize("keyed", [True, False])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(random=st.randoms(use_true_random=False), drawn=st.tuples(*[st.sampled_from((0, 1, 2, 5, 30, 512))] * 3))
def test_any_schedule_agrees_with_a_plain_scan(limits, keyed, random, drawn):
    """However soon pages are cut into shorter ones."""
    limits(*drawn)
    with tempfile.TemporaryDirectory() as folder:
        assert run_schedule(Path(folder), random, keyed=keyed, steps=random.randint(1, 6), most=12) == ([], True)


def _changed(position, change):
    """Return what plants a fault: an argument is changed on its way."""

    def plant(function):
        def faulty(*arguments):
            return function(*arguments[:position], change(arguments[position]), *arguments[position + 1 :])

        return faulty

    return plant


def _early_end(function):
    def faulty(*arguments):
        tiles = function(*arguments)
        tiles[LAST_EVENT] -= 1
        return tiles

    return faulty


def _widened(by):
    return lambda folded: folded._replace(windows=folded.windows + by)


FAULTS = {
    "a window one microsecond longer": (windowed_view, "fold_pieces", _changed(5, _widened(1))),
    "a window one microsecond shorter": (windowed_view, "fold_pieces", _changed(5, _widened(-1))),
    "the newest instant left out": (windowed_view, "fold_pieces", _changed(4, lambda t: t - 1)),
    "a cut tile taken whole": (read, "open_roots", _changed(3, lambda windows: windows + 2 * UNIT)),
    "a tile that ends too early": (write, "tiles_of", _early_end),
    "versions of one event counted twice": (write, "merge_events", _changed(4, lambda keyed: False)),
    "events dropped one microsecond early": (write, "merge_events", _changed(5, lambda oldest: oldest + 1)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_schedules_find_planted_faults(tmp_path, limits, monkeypatch, fault):
    module, name, plant = FAULTS[fault]
    monkeypatch.setattr(module, name, plant(getattr(module, name)))
    for seed in range(20):
        random = seeded(seed)
        limits(*(random.choice((0, 1, 2, 5)) for _ in range(3)))
        try:
            if run_schedule(tmp_path / str(seed), random, keyed=True, steps=4, most=12) != ([], True):
                return
        except CorruptionError:
            return
    pytest.fail(f"Nothing of it was noticed: {fault}")


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    random=st.randoms(use_true_random=False),
    size=st.integers(1, 5),
    drawn=st.tuples(*[st.sampled_from((0, 2, 512))] * 3),
)
def test_arrival_in_any_order_gives_the_same_bytes(limits, random, size, drawn):
    limits(*drawn)
    batch = list({row[:3]: row for row in drawn_rows(random, START, 12)}.values())
    answers = []
    for order in (batch, random.sample(batch, len(batch))):
        with tempfile.TemporaryDirectory() as root, ScratchProject(Path(root), sales(), now=START) as project:
            for start in range(0, len(order), size):
                project.writer.write(SALES, rows(order[start : start + size]))
            project.now = START + 15 * UNIT
            project.writer.release()
            answers.append(project.read_bytes(NAMES, [(user,) for user in USERS]))
    assert answers[0] == answers[1]


def test_the_window_is_open_at_its_start_and_closed_at_its_end(tmp_path):
    count = "count_amount_11520us"
    with ScratchProject(tmp_path, sales(), now=100 * UNIT) as project:
        edges = (92 * UNIT - 1, 92 * UNIT, 92 * UNIT + 1, 100 * UNIT, 100 * UNIT + 1)
        project.writer.write(SALES, rows([("ann", event, None, 1, 1.0, 1, "north") for event in edges]))
        assert project.read([f"sales:{count}"], [("ann",)]).to_dict() == {count: [2]}
        project.now = 100 * UNIT + 1
        project.writer.release()
        assert project.read([f"sales:{count}"], [("ann",)]).to_dict() == {count: [2]}


def stored_pages(project):
    with project.reader._store.read() as snapshot:
        return dict(snapshot.scan("pages", b"", b"\xff"))


def at(*units, user="ann"):
    return rows([(user, UNIT * unit, None, 1, 1.0, 1, "north") for unit in units])


def counted(project, *users):
    (counts,) = project.read(["sales:count_amount_57600us"], [(user,) for user in users or ("ann",)]).to_dict().values()
    return counts


def test_pages_that_no_window_reaches_go_when_their_entity_is_written(tmp_path, limits):
    limits(0, 0, 512)
    with ScratchProject(tmp_path, sales(), now=100 * UNIT) as project:
        project.writer.write(SALES, at(*range(65, 101, 5)))
        assert len(stored_pages(project)) == 1 + 8
        project.now = 139 * UNIT
        project.writer.write(SALES, at(139, 100))
        assert len(stored_pages(project)) == 1 + 2
        assert counted(project) == [2]
        project.now = 140 * UNIT
        assert counted(project) == [1]


def test_events_that_no_window_reaches_go_from_a_root_when_it_is_written(tmp_path):
    with ScratchProject(tmp_path, sales(), now=100 * UNIT) as project:
        project.writer.write(SALES, at(*range(65, 101)))
        (before,) = stored_pages(project).values()
        project.now = 139 * UNIT
        project.writer.write(SALES, at(139))
        (after,) = stored_pages(project).values()
        assert len(after) < len(before)
        assert counted(project) == [2]


def test_an_event_that_left_every_window_is_not_stored(tmp_path):
    with ScratchProject(tmp_path, sales(), now=100 * UNIT) as project:
        assert project.writer.write(SALES, at(60)).accepted == 1
        assert counted(project) == [0]
        assert not stored_pages(project)
        assert project.writer.fold() == 1


@pytest.mark.parametrize("most", [0, 512])
def test_a_materialize_counts_only_events_that_are_new_online(tmp_path, limits, most):
    limits(most, most, most)
    with ScratchProject(tmp_path, sales(), now=100 * UNIT) as project:
        project.writer.write(SALES, at(91, 92))
        report = project.writer.materialize(SALES)
        assert (report.rows, report.changed) == (2, 0)
    shutil.rmtree(tmp_path / "online")
    with ScratchProject(tmp_path, sales(), now=100 * UNIT) as project:
        report = project.writer.materialize(SALES)
        assert (report.rows, report.changed) == (2, 2)


def test_an_event_that_was_loaded_in_bulk_and_is_pushed_again_counts_once(tmp_path):
    with ScratchProject(tmp_path, sales(keyed=False), now=100 * UNIT) as project:
        table = project.table(SALES)
        canonical = table.schema.canonical(at(95)).rows
        table.load(canonical.append_column(SEQ, pa.array([project.writer.reserve(1)])))
        again = project.writer.write(SALES, at(95))
        assert (again.accepted, again.repeated_rows) == (0, 1)
        project.materialize("sales")
        assert counted(project) == [1]


def test_a_windowed_version_that_was_never_filled_is_refused(tmp_path):
    with (
        ScratchProject(tmp_path, sales(), now=100 * UNIT) as project,
        pytest.raises(FailedPreconditionError, match="sales@v1 was never filled"),
    ):
        project.read(NAMES, [("ann",)])


def test_pages_of_an_older_form_are_not_read_and_a_materialize_writes_them_anew(tmp_path):
    ref = ViewRef("sales", 1)
    with ScratchProject(tmp_path, sales(), now=100 * UNIT) as project:
        project.writer.write(SALES, at(95, 96))
        project.writer.materialize(SALES)
        with project.reader._store.write() as transaction:
            for name in stored_pages(project):
                transaction.delete("pages", name)
                transaction.put("pages", name + bytes(8), b"a page of the older form")
            older = msgspec.structs.replace(find_keyspace(transaction, ref, 1), form=0)
            record_keyspace(transaction, ref, 1, older)
        with pytest.raises(FailedPreconditionError, match="older form"):
            counted(project)
        project.writer.write(SALES, at(97))
        with pytest.raises(FailedPreconditionError, match="materialize sales@v1"):
            counted(project)
        project.writer.materialize(SALES)
        assert counted(project) == [3]
        project.writer.tend()
        assert all(b"older" not in page for page in stored_pages(project).values())


def test_a_fill_that_was_begun_in_an_older_form_is_not_gone_on_with(tmp_path):
    """Its first groups of files are in pages that nobody reads."""
    ref = ViewRef("sales", 1)
    with ScratchProject(tmp_path, sales(), now=100 * UNIT) as project:
        project.writer.write(SALES, at(95, 96))
        project.writer.materialize(SALES)
        with project.reader._store.write() as transaction:
            for name in stored_pages(project):
                transaction.delete("pages", name)
            half = Fill(None, project.table(SALES).version, 1)
            older = msgspec.structs.replace(find_keyspace(transaction, ref, 1), version=None, fill=half, form=0)
            record_keyspace(transaction, ref, 1, older)
        project.writer.materialize(SALES)
        assert counted(project) == [2]


def test_a_view_without_pages_is_not_filled_again_for_their_form(tmp_path):
    plain = FeatureView("plain", USER, PushSource("plain", "at"), features=[Feature("amount", "float64")])
    ref = ViewRef("plain", 1)
    with ScratchProject(tmp_path, plain, now=100) as project:
        project.writer.write(ref, pa.table({"user": ["ann"], "at": pa.array([1], INSTANT), "amount": [1.0]}))
        assert project.writer.materialize(ref).full
        with project.reader._store.write() as transaction:
            older = msgspec.structs.replace(find_keyspace(transaction, ref, 1), form=0)
            record_keyspace(transaction, ref, 1, older)
        assert not project.writer.materialize(ref).full


def _sized(words):
    return b"".join(word.to_bytes(8, "little", signed=True) for word in words)


HEAD_WORDS = [BLOCK_FORM, -1, -1, 0]
NO_BLOCKS = {
    "cut": b"abc",
    "one word": bytes(8),
    "nothing but zeros": bytes(72),
    "no size": _sized([0, *HEAD_WORDS, 0, 2, 0, 2]),
    "a size below nothing": _sized([-9, *HEAD_WORDS, 0, 2, 0, 2]),
    "a table past its end": _sized([9, *HEAD_WORDS, 1, 99, 0, 2]),
    "a table before its start": _sized([9, *HEAD_WORDS, 1, -3, 0, 2]),
    "events past its end": _sized([9, *HEAD_WORDS, 0, 2, 5, 99]),
}


@pytest.mark.parametrize("damage", NO_BLOCKS)
def test_bytes_that_are_no_block_are_reported(tmp_path, damage):
    with ScratchProject(tmp_path, sales(), now=100 * UNIT) as project:
        project.writer.write(SALES, at(95))
        (root,) = stored_pages(project)
        with project.reader._store.write() as transaction:
            transaction.put("pages", root, NO_BLOCKS[damage])
        with pytest.raises(CorruptionError, match="no block"):
            counted(project)
        with pytest.raises(CorruptionError, match="no block"):
            project.writer.write(SALES, at(96))


def test_a_damaged_page_is_reported_and_not_read(tmp_path, limits):
    limits(0, 0, 512)
    with ScratchProject(tmp_path, sales(), now=100 * UNIT) as project:
        project.writer.write(SALES, at(95, 98))
        root, page, _ = sorted(stored_pages(project), key=len)
        with project.reader._store.write() as transaction:
            transaction.delete("pages", page)
        with pytest.raises(CorruptionError, match="missing"):
            project.read(["sales:last2_amount_57600us"], [("ann",)])
        with project.reader._store.write() as transaction:
            transaction.put("pages", root, bytes(72))
        with pytest.raises(CorruptionError, match="no block"):
            counted(project)


def test_a_write_to_a_hot_entity_rewrites_what_it_touches_alone(tmp_path):
    with ScratchProject(tmp_path, sales(), now=100 * UNIT) as project:
        many = 3 * write.PAGE_EVENTS
        batch = [("ann", 99 * UNIT + 60 * n % 700, None, n, 1.0, 1, "north") for n in range(many)]
        project.writer.write(SALES, rows(batch))
        before = stored_pages(project)
        assert len(before) > 4
        project.writer.write(SALES, rows([("ann", 99 * UNIT, None, 9999, 1.0, 1, "north")]))
        after = stored_pages(project)
        assert sum(before.get(name) != page for name, page in after.items()) <= 4  # a root and one page of each level
        assert counted(project) == [many + 1]


def test_upkeep_leaves_a_root_that_was_written_since_it_was_looked_at(tmp_path, monkeypatch):
    """It looks beside the writer."""

    def look(*arguments, **named):
        found = expired_pages(*arguments, **named)
        project.writer.write(SALES, at(999))
        return found

    with ScratchProject(tmp_path, sales(), now=100 * UNIT) as project:
        project.writer.write(SALES, at(95))
        project.now = 1000 * UNIT
        project.writer.release()
        monkeypatch.setattr(sweep, "expired_pages", look)
        project.writer.tend()
        assert counted(project) == [1]


CENTURY = 100 * 365 * 24 * 3600 * 10**6


@pytest.mark.parametrize("window", [1, 10**6, CENTURY])
@pytest.mark.parametrize("count", [1, 2, 128, 129, 512, 513, 5000])
def test_every_size_of_an_entity_and_length_of_a_window_before_and_after_1970(tmp_path, count, window):
    """Written in three parts, the newest first or last; some events of one instant; keys repeat in the read."""
    functions = ("count", "sum", "first", "last")
    features = [
        Aggregation("amount", function, timedelta(microseconds=width), dtype="int64", name=f"{function}{width}")
        for function in functions
        for width in sorted({window, max(1, window // 7)})
    ]
    view = FeatureView("sales", USER, PushSource("sales", "at"), features=features, event_key={"sale": "int64"})
    now, random = window // 2, seeded(count)
    times = sorted(now - random.choice((0, 1, window - 1, window, random.randrange(window))) for _ in range(count))
    with ScratchProject(tmp_path, view, now=now) as project:
        for part in random.sample([slice(n, None, 3) for n in range(3)], 3):
            table = pa.table(
                {
                    "user": ["ann"] * len(times[part]),
                    "at": pa.array(times[part], INSTANT),
                    "sale": list(range(count))[part],
                    "amount": list(range(count))[part],
                }
            )
            project.writer.write(SALES, table)
        project.writer.fold()
        seqs = project.table(SALES).read(["amount", SEQ]).to_pylist()
        users = [("ann",), ("never",), ("ann",)]
        answer = project.read([f"sales:{feature.feature_name}" for feature in features], users).to_dict()
    seq = {row["amount"]: row[SEQ] for row in seqs}
    for feature in features:
        width = feature.time_window // timedelta(microseconds=1)
        inside = sorted((n for n in range(count) if times[n] > now - width), key=lambda n: (times[n], seq[n]))
        wanted = {
            "count": len(inside),
            "sum": sum(inside) if inside else None,
            "first": inside[0] if inside else None,
            "last": inside[-1] if inside else None,
        }[feature.function]
        assert answer[feature.feature_name] == [wanted, 0 if feature.function == "count" else None, wanted]


def test_event_keys_of_any_length_tell_events_apart(tmp_path):
    keys = {"sale": "string", "line": "binary"}
    asked = [Aggregation("amount", "count", timedelta(hours=1), name="count")]
    view = FeatureView("sales", USER, PushSource("sales", "at"), features=asked, event_key=keys)
    sold = [("x" * 600, b"1"), ("x" * 600, b"2"), ("x" * 600, b"1"), ("a", b"bc"), ("ab", b"c")]
    with ScratchProject(tmp_path, view, now=100) as project:
        table = {"user": ["ann"] * 5, "at": pa.array([5] * 5, INSTANT), "amount": [1.0, 2.0, 3.0, 4.0, 5.0]}
        table |= {"sale": [sale for sale, _ in sold], "line": pa.array([line for _, line in sold], pa.binary())}
        project.writer.write(SALES, pa.table(table))
        assert project.read(["sales:count"], [("ann",)]).to_dict() == {"count": [4]}


def test_a_float_is_no_event_key():
    with pytest.raises(DefinitionError, match="a key is one exact value"):
        FeatureView("sales", USER, PushSource("sales", "at"), features=AGGREGATIONS, event_key={"sale": "float64"})


@pytest.mark.parametrize("most", [1, 2, 100])
def test_upkeep_drops_pages_of_idle_entities_and_nothing_that_a_window_reaches(tmp_path, monkeypatch, limits, most):
    limits(2, 1, 1)
    monkeypatch.setattr(sweep, "PAGES_AT_ONCE", most)

    def go_round(project):
        project.writer.release()
        for _ in range(2 * len(stored_pages(project)) + 2):
            project.writer.tend()

    with ScratchProject(tmp_path, sales(), now=100 * UNIT) as project:
        for user in ("ann", "a"):
            project.writer.write(SALES, at(*range(65, 101, 5), user=user))
        pages, counts = len(stored_pages(project)), []
        for now in (125, 1000):
            project.now = now * UNIT
            before = counted(project, "ann", "a")
            go_round(project)
            assert counted(project, "ann", "a") == before
            counts.append(len(stored_pages(project)))
        assert pages > counts[0] > counts[1] == 0
