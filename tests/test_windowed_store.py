"""A windowed view through the facade: what the server answered is what training gets at the same time and position."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from small_project import NOON

from featurestore import Aggregation, Entity, FeatureStore, FeatureView, PushSource
from featurestore.types import to_micros

DAY = timedelta(days=1)
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
