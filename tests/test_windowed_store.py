"""A windowed view through the facade: what the server answered is what training gets at the same time and position."""

import math
import re
import struct
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_project import NOON

from featurestore import Aggregation, Entity, FeatureStore, FeatureView, PushSource
from featurestore.errors import InvalidArgumentError
from featurestore.online.windows import write
from featurestore.types import to_micros

DAY = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)
INSTANT = pa.timestamp("us", "UTC")
ROWS = [  # user, hours before noon, created hours before noon, payment, amount, status, shop
    (1, 30, 30, "a", 10.0, "paid", "north"),
    (1, 20, 20, "b", 0.1, "open", "south"),
    (1, 20, 2, "b", 0.2, "paid", "south"),
    (1, 5, 5, "c", None, "paid", "north"),
    (1, 4, 4, "d", -3.0, "paid", None),
    (2, 1, 1, "e", 7.5, None, "north"),
]
PAYMENTS = FeatureView(
    "payments",
    entity=Entity("user", join_keys={"user_id": "int64"}),
    source=PushSource("payments", event_timestamp="paid_at", created_timestamp="booked_at"),
    event_key={"payment_id": "string"},
    columns={"status": "string"},
    features=[
        Aggregation("amount", "sum", DAY, where="status = 'paid' AND amount > 0", name="spent"),
        Aggregation("amount", "count", DAY),
        Aggregation("amount", "last", 2 * DAY, n=3),
        Aggregation("shop", "count_distinct", 2 * DAY, dtype="string"),
        Aggregation("shop", "last", 2 * DAY, dtype="string"),
        Aggregation("shop", "first", 2 * DAY, dtype="string", n=2, where="status <> 'open'", name="shops"),
        Aggregation("shop", "max", 2 * DAY, dtype="string"),
    ],
)
EXPECTED = {
    "spent": [0.2, None, None],
    "count_amount_1d": [2, 1, 0],
    "last3_amount_2d": [[-3.0, None, 0.2], [7.5], []],
    "count_distinct_shop_2d": [2, 1, 0],
    "last_shop_2d": [None, "north", None],
    "shops": [["north", "south"], [], []],
    "max_shop_2d": ["south", "north", None],
}


@pytest.fixture
def store(tmp_path):
    (tmp_path / "featurestore.toml").write_text('[project]\nname = "windows"\n')
    with FeatureStore(tmp_path, consumer="somebody", clock=lambda: to_micros(NOON)) as opened:
        opened.apply([PAYMENTS])
        columns = list(zip(*ROWS, strict=True))
        hours = [
            pa.array([NOON - timedelta(hours=h) for h in column], pa.timestamp("us", "UTC")) for column in columns[1:3]
        ]
        names = ["user_id", "paid_at", "booked_at", "payment_id", "amount", "status", "shop"]
        opened.write("payments", pa.table([columns[0], *hours, *map(pa.array, columns[3:])], names=names))
        yield opened


def names(*features):
    return [f"payments:{name}" for name in features]


def test_serving_and_training_give_the_same(store):
    online = store.get_online_features(names(*EXPECTED), keys={"user_id": [1, 2, 3]})
    assert online.to_dict() == EXPECTED
    served = datetime.fromtimestamp(online.time / 1e6, UTC)
    spine = pa.table({"user_id": [1, 2, 3], "event_timestamp": pa.array([served] * 3, pa.timestamp("us", "UTC"))})
    for knowledge in ({"knowledge": "as_served", "position": online.position}, {"knowledge": "latest"}):
        train = store.get_historical_features(spine, names(*EXPECTED), **knowledge).to_arrow()
        assert train.select(list(EXPECTED)).to_pydict() == EXPECTED


def test_training_knows_a_correction_from_when_it_was_created(store):
    times = [NOON - timedelta(hours=h) for h in (20, 3, 2)]
    spine = pa.table({"user_id": [1] * 3, "event_timestamp": pa.array(times, pa.timestamp("us", "UTC"))})
    train = store.get_historical_features(spine, names("spent", "last3_amount_2d")).to_arrow()
    assert train["spent"].to_pylist() == [10.0, None, 0.2]
    assert train["last3_amount_2d"].to_pylist() == [[0.1, 10.0], [-3.0, None, 0.1], [-3.0, None, 0.2]]


MANY = [0.0, -0.0, 0.1, -0.3, 1e12, 5e-324, 1e308, -1e308, math.inf, -math.inf, math.nan]
LIMITS = [0, 1, -1, 7, 2**62, -(2**62), 2**63 - 1, -(2**63)]
TEXTS = ["", "a", "b", "zoë", "a" * 70]
PASSING = (None, "shop <> 'a' OR shop IS NULL", "quantity * 2 > amount")
NUMERIC = ("count", "count_distinct", "sum", "mean", "min", "max", "first", "last", "stddev")
TYPES = {"amount": "float64", "quantity": "int64", "shop": "string"}
HOUR = timedelta(hours=1)


def every(window, passing):
    """Every aggregate over a window, by the name of its feature."""
    asked = [(c, f, n) for c in TYPES for f in NUMERIC for n in ((None, 2) if f in ("first", "last") else (None,))]
    asked = [a for a in asked if a[0] != "shop" or a[1] not in ("sum", "mean", "stddev")]
    name = f"{window // HOUR}h{PASSING.index(passing)}"
    return [
        Aggregation(c, f, window, dtype=TYPES[c], n=n, where=passing, name=f"{c}_{f}{n or ''}_{name}")
        for c, f, n in asked
    ]


FIRST = [a for passing in PASSING for a in every(HOUR, passing)] + every(24 * HOUR, None)
LATER = every(90 * HOUR, PASSING[1])


def sales(features, event_key):
    return FeatureView(
        "sales",
        entity=Entity("user", join_keys={"user_id": "int64"}),
        source=PushSource("sales", event_timestamp="at", created_timestamp="made"),
        event_key=event_key,
        features=features,
    )


def drawn_sales(chance, now):
    """Rows around some instants: late, of one microsecond, at the edge of a window, corrected, and dated after now."""
    edges = [0, 1, -1] + [-h * HOUR // MICROSECOND + e for h in (1, 24, 90) for e in (-1, 0, 1)]
    near = [now + chance.choice(edges) + chance.choice((0, 0, -60_000_000, 30 * 60_000_000)) for _ in range(4)]
    count = chance.choice((1, 3, 12, 40))
    columns = {
        "user_id": [chance.choice((1, 2)) for _ in range(count)],
        "at": [chance.choice(near) for _ in range(count)],
        "made": [chance.choice((None, now, now - 5, chance.choice(near))) for _ in range(count)],
        "sale": [chance.choice("xyz") for _ in range(count)],
        "line": [chance.choice((-1, 0)) for _ in range(count)],
        "amount": [chance.choice((None, *MANY)) for _ in range(count)],
        "quantity": [chance.choice((None, *LIMITS)) for _ in range(count)],
        "shop": [chance.choice((None, *TEXTS)) for _ in range(count)],
    }
    types = {"at": INSTANT, "made": INSTANT, "line": pa.int8(), "quantity": pa.int64(), "amount": pa.float64()}
    return pa.table({name: pa.array(values, types.get(name)) for name, values in columns.items()})


def bits(value):
    """What tells values apart to the bit: NaN from NaN as well, and 0.0 from -0.0."""
    if isinstance(value, list):
        return [bits(each) for each in value]
    return struct.pack("<d", value) if isinstance(value, float) else value


def answers(read):
    """The values of a read by feature, or the error of a sum that does not fit."""
    try:
        return {name: bits(values) for name, values in read().items()}
    except InvalidArgumentError as error:
        return re.sub(r"in \d+ of \d+ windows.*", "", str(error))


def differing(store, features):
    """Return the features of which a response and training at its time and position have other bits."""
    wrong = []
    whole = [a.feature_name for a in features if (a.column, a.function) == ("quantity", "sum")]
    rest = [a.feature_name for a in features if a.feature_name not in whole]
    for chosen in (rest, *([name] for name in whole)):
        names, users = [f"sales:{name}" for name in chosen], [1, 3, 2, 1]
        head = store.get_online_features(["sales:shop_count_1h0"], keys={"user_id": users})
        spine = pa.table({"user_id": users, "event_timestamp": pa.array([head.time] * 4, INSTANT)})
        served = answers(
            lambda names=names, users=users: store.get_online_features(names, keys={"user_id": users}).to_dict()
        )
        trained = answers(
            lambda names=names, spine=spine, chosen=chosen, head=head: (
                store.get_historical_features(spine, names, knowledge="as_served", position=head.position)
                .to_arrow()
                .select(chosen)
                .to_pydict()
            )
        )
        if served != trained:
            wrong.append(
                (chosen if isinstance(served, str) else [n for n in chosen if served[n] != trained[n]], served, trained)
            )
    return wrong


def upkeep(store):
    with store.writer() as writer:
        writer.tend()


BETWEEN = {
    "nothing": lambda store: None,
    "materialize": lambda store: store.materialize("sales"),
    "materialize in full": lambda store: store.materialize("sales", full=True),
    "compact": lambda store: store.compact("sales"),
    "upkeep": upkeep,
}


@pytest.mark.parametrize("event_key", [{"sale": "string", "line": "int8"}, {"line": "int8"}])
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chance=st.randoms(use_true_random=False), limits=st.tuples(*[st.sampled_from((0, 2, 5, 512))] * 3))
def test_a_response_is_training_as_served_whatever_the_store_went_through(monkeypatch, event_key, chance, limits):
    for name, limit in zip(("INLINE_EVENTS", "RECENT_EVENTS", "PAGE_EVENTS"), limits, strict=True):
        monkeypatch.setattr(write, name, limit)
    clock, features = [to_micros(NOON)], FIRST
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "featurestore.toml").write_text('[project]\nname = "windows"\n')
        for _ in range(chance.randint(1, 3)):  # the store is closed and opened again in between
            with FeatureStore(folder, consumer="somebody", clock=lambda: clock[0]) as store:
                store.apply([sales(features, event_key)])
                for _ in range(chance.randint(1, 3)):
                    store.write("sales", drawn_sales(chance, clock[0]))
                    BETWEEN[chance.choice(list(BETWEEN))](store)
                    assert differing(store, features) == []
                    clock[0] += chance.choice((0, 1, 30 * 60_000_000, HOUR // MICROSECOND, 30 * HOUR // MICROSECOND))
                if chance.random() < 0.3:
                    features = FIRST + LATER
                    store.apply([sales(features, event_key)])
                    store.materialize("sales")
                assert differing(store, features) == []
