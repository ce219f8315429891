"""What differs between two datasets is found exactly: columns, meaning, keys, values, and how far each feature moved."""

import json
import math
from collections import Counter
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from small_project import NOON

from featurestore import Aggregation, Entity, Feature, FeatureStore, FeatureView, PushSource
from featurestore.cli import main
from featurestore.offline.datasets import diff_datasets, save_dataset
from featurestore.offline.training_set import TrainingReport, TrainingSet
from featurestore.planning import plan_read
from featurestore.registry.plan import plan_changes
from featurestore.registry.snapshot import Document, RegistrySnapshot

INSTANT = pa.timestamp("us", "UTC")
SENSOR = Entity("sensor", {"sensor": "int64", "site": "string"})
FEATURES = {"level": "float64", "count": "int64", "mode": "string", "seen": "timestamp", "on": "bool"}
ORDERED = ("level", "count", "seen")


def readings(ttl=None, dtypes=FEATURES, **units):
    features = [Feature(name, dtype, unit=units.get(name, "")) for name, dtype in dtypes.items()]
    return FeatureView("readings", SENSOR, PushSource("readings", "at"), features=features, ttl=ttl)


def loads(window=timedelta(hours=1)):
    features = [Aggregation("load", "sum", window, dtype="float64")]
    return FeatureView("loads", SENSOR, PushSource("loads", "at"), features=features, event_key={"id": "int64"})


def snapshot(*definitions, before=None):
    plan = plan_changes(
        before or RegistrySnapshot(Document(project="p")),
        definitions,
        check_source=lambda *_: None,
        is_filled=lambda _: True,
    )
    return RegistrySnapshot(plan.document)


PLAN = plan_read(snapshot(readings()), [f"readings:{name}" for name in FEATURES])


def table(rows, dtypes=FEATURES):
    """Rows of (sensor, site, time, level, count, mode, seen, on) as a training set has them."""
    kinds = {
        "float64": pa.float64(),
        "int64": pa.int64(),
        "string": pa.string(),
        "timestamp": INSTANT,
        "bool": pa.bool_(),
    }
    columns = [pa.int64(), pa.string(), INSTANT, *(kinds[dtype] for dtype in dtypes.values())]
    names = ["sensor", "site", "event_timestamp", *dtypes]
    values = list(zip(*rows, strict=True)) or [[]] * len(names)
    return pa.table([pa.array(v, k) for v, k in zip(values, columns, strict=True)], names=names)


def dataset(folder, name, rows, plan=PLAN, **more):
    made = rows if isinstance(rows, pa.Table) else table(rows)
    training_set = TrainingSet(made, plan, "as_known", None, "kernel", (), TrainingReport(len(made), (), ()))
    return save_dataset(name, training_set, folder, now=1, **more)


def row(sensor, time, level=1.0, count=1, mode="a", seen=5, on=True, site="x"):
    return (sensor, site, time, level, count, mode, seen, on)


def test_a_dataset_does_not_differ_from_itself(tmp_path):
    one = dataset(tmp_path, "one", [row(1, 1), row(1, 1), row(None, None, math.nan)])
    found = diff_datasets(one, dataset(tmp_path, "same", [row(1, 1), row(1, 1), row(None, None, -math.nan)]))
    assert (found.equal, found.schema, found.definitions, found.origin, found.values) == (True, (), (), (), ())
    assert (found.keys.columns, found.keys.matched) == (("sensor", "site", "event_timestamp"), 3)
    assert {(s.psi, s.ks or 0.0) for s in found.shift} == {(0.0, 0.0)}


def test_rows_are_matched_by_keys_time_and_occurrence_whatever_their_order(tmp_path):
    one = dataset(tmp_path, "one", [row(1, 1, 1.0), row(1, 1, 2.0), row(2, 1, 3.0), row(1, 2, 4.0)])
    two = dataset(tmp_path, "two", [row(2, 1, 3.0), row(3, 1, 9.0), row(1, 1, 1.0), row(1, 1, 2.5), row(1, 1, 7.0)])
    found = diff_datasets(one, two)
    assert (found.keys.matched, found.keys.added, found.keys.removed) == (3, 2, 1)
    assert [(key["sensor"], key["event_timestamp"].microsecond) for key in found.keys.examples_added] == [
        (3, 1),
        (1, 1),
    ]
    assert [(key["sensor"], key["event_timestamp"].microsecond) for key in found.keys.examples_removed] == [(1, 2)]
    (level,) = found.values
    ((key, before, after),) = level.examples
    assert (level.column, level.changed, level.greatest, key["sensor"], before, after) == ("level", 1, 0.5, 1, 2.0, 2.5)
    assert not found.equal


def test_changes_of_every_type_are_counted_and_only_numbers_have_a_greatest(tmp_path):
    one = dataset(tmp_path, "one", [row(1, 1, 1.0, 2**60, "a", 5, True), row(2, 1, None, None, None, None, None)])
    two = dataset(tmp_path, "two", [row(1, 1, math.nan, 2**60 + 1, "b", 6, False), row(2, 1, 0.0, 1, "", 1, False)])
    found = {value.column: value for value in diff_datasets(one, two).values}
    assert {name: value.changed for name, value in found.items()} == dict.fromkeys(FEATURES, 2)
    assert found["count"].greatest == 1.0, "exact, although no float64 is 2**60 + 1"
    assert [found[name].greatest for name in ("level", "mode", "seen", "on")] == [None] * 4


def test_columns_and_types_that_changed_are_listed(tmp_path):
    dtypes = {"level": "int64", "mode": "string", "fresh": "bool"}
    plan = plan_read(snapshot(readings(dtypes=dtypes)), [f"readings:{name}" for name in dtypes])
    two = dataset(tmp_path, "two", table([(1, "x", 1, 7, "a", True)], dtypes), plan)
    found = diff_datasets(dataset(tmp_path, "one", [row(1, 1)]), two)
    assert {(c.what, c.before, c.after) for c in found.schema} == {
        ("level", "float64", "int64"),
        ("count", "int64", None),
        ("seen", "timestamp", None),
        ("on", "bool", None),
        ("fresh", None, "bool"),
    }
    assert [value.column for value in found.values] == ["level"]


def test_meaning_that_changed_is_listed_by_its_field(tmp_path):
    first = snapshot(readings(), loads())
    second = snapshot(readings(ttl=timedelta(hours=1), level="m"), loads(timedelta(hours=2)), before=first)
    old = plan_read(first, ["readings@v1:level"])
    new = plan_read(second, ["readings@v2:level"])
    rows = table([row(1, 1)]).select(["sensor", "site", "event_timestamp", "level"])
    found = diff_datasets(dataset(tmp_path, "one", rows, old), dataset(tmp_path, "two", rows, new, seed=3))
    changed = {change.what: (change.before, change.after) for change in found.definitions}
    fingerprints = changed.pop("features.level.fingerprint")
    assert fingerprints[0] != fingerprints[1]
    assert changed.pop("views.readings.level.fingerprint") == fingerprints
    assert changed == {
        "features.level.ref": ("readings@v1:level", "readings@v2:level"),
        "views.readings.ttl": (None, 3_600_000_000),
        "views.readings.level.unit": ("", "m"),
    }
    assert {change.what for change in found.origin} == {"seed", "revision"} - (
        {"revision"} if old.revision == new.revision else set()
    )
    assert (found.values, found.keys.matched, found.equal) == ((), 1, False)


def test_a_window_that_changed_is_listed(tmp_path):
    first = snapshot(loads())
    second = snapshot(loads(timedelta(hours=2)), before=first)
    spine = table([row(1, 1)]).select(["sensor", "site", "event_timestamp"])
    made = []
    for name, known, ref in (("one", first, "loads@v1:sum_load_1h"), ("two", second, "loads@v2:sum_load_2h")):
        plan = plan_read(known, [ref])
        made.append(dataset(tmp_path, name, spine.append_column(plan.outputs[0].name, pa.array([1.0])), plan))
    found = diff_datasets(*made)
    assert "views.loads.sum_load_2h" in {c.what for c in found.definitions if c.before is None}
    assert {(c.what, c.before, c.after) for c in found.schema} == {
        ("sum_load_1h", "float64", None),
        ("sum_load_2h", None, "float64"),
    }


def test_owners_and_file_places_are_not_meaning(tmp_path):
    first = snapshot(readings())
    view = readings()
    second = snapshot(
        FeatureView("readings", SENSOR, view.source, features=view.features, owner="me", tags={"a": "b"}), before=first
    )
    plans = [plan_read(known, ["readings:level"]) for known in (first, second)]
    rows = table([row(1, 1)]).select(["sensor", "site", "event_timestamp", "level"])
    assert diff_datasets(*(dataset(tmp_path, f"d{n}", rows, plan) for n, plan in enumerate(plans))).equal


def test_empty_datasets_and_columns_of_nulls_say_nothing_moved(tmp_path):
    empty, nulls = dataset(tmp_path, "empty", []), dataset(tmp_path, "nulls", [row(1, 1, None, None, None, None, None)])
    for found in (diff_datasets(empty, empty), diff_datasets(empty, nulls), diff_datasets(nulls, nulls)):
        assert {(s.psi, s.ks or 0.0) for s in found.shift} == {(0.0, 0.0)}
    assert [s.before.null_rate for s in diff_datasets(nulls, empty).shift] == [1.0] * 5


def test_a_planted_shift_is_measured_as_other_programs_do(tmp_path):
    chance = np.random.default_rng(3)

    def rows(mean, share):
        drawn = zip(chance.normal(mean, 1, 500), chance.poisson(3 + mean, 500), chance.random(500) < share, strict=True)
        return [
            row(n, n, float(level) if n % 10 else None, int(count), "a" if a else "b", 1000 * int(count), bool(n % 2))
            for n, (level, count, a) in enumerate(drawn)
        ]

    before, after = rows(0.0, 0.9), rows(0.5, 0.4)
    found = {
        s.column: s for s in diff_datasets(dataset(tmp_path, "one", before), dataset(tmp_path, "two", after)).shift
    }
    for place, name in ((3, "level"), (4, "count"), (6, "seen")):
        one, two = ([r[place] for r in side if r[place] is not None] for side in (before, after))
        expected = ks_2samp(one, two, method="asymp")
        assert found[name].ks == pytest.approx(expected.statistic)
        assert found[name].p_value == pytest.approx(expected.pvalue, abs=0.02)
        assert found[name].before.quantiles == pytest.approx(np.quantile(one, (0, 0.25, 0.5, 0.75, 1)))
        assert found[name].psi > 0.1
    one, two = Counter(r[5] for r in before), Counter(r[5] for r in after)
    p, q = ([(side[c] + 0.5) / (500 + 1) for c in "ab"] for side in (one, two))
    assert found["mode"].psi == pytest.approx(sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True)))
    assert found["mode"].before.categories == (("a", one["a"] / 500), ("b", one["b"] / 500))
    assert (found["mode"].ks, found["on"].psi, found["level"].after.null_rate) == (None, 0.0, 0.1)


KEYS = st.tuples(st.integers(0, 2) | st.none(), st.integers(0, 2) | st.none())
VALUES = st.tuples(st.sampled_from([None, 0.0, 1.0, math.nan]), st.sampled_from([None, "a", "b"]))
ROWS = st.lists(st.tuples(KEYS, VALUES), max_size=8)


@settings(max_examples=30)
@given(ROWS, ROWS)
def test_keys_and_values_are_as_a_plain_loop_says(tmp_path_factory, before, after):
    def rows(drawn):
        return [row(sensor, time, level, mode=mode) for (sensor, time), (level, mode) in drawn]

    def places(drawn):
        seen = Counter()
        for key, value in drawn:
            seen[key] += 1
            yield (*key, seen[key]), value

    one, two = dict(places(before)), dict(places(after))
    folder = tmp_path_factory.mktemp("datasets")
    found = diff_datasets(dataset(folder, "one", rows(before)), dataset(folder, "two", rows(after)))
    both = one.keys() & two.keys()
    assert (found.keys.matched, found.keys.removed, found.keys.added) == (
        len(both),
        len(one.keys() - both),
        len(two.keys() - both),
    )
    changed = {value.column: value.changed for value in found.values}
    for place, name in enumerate(("level", "mode")):
        wanted = sum(repr(one[key][place]) != repr(two[key][place]) for key in both)
        assert changed.get(name, 0) == wanted


def test_the_command_tells_it_as_text_and_as_json(project, capsys):
    with FeatureStore(project) as store:
        store.apply()
        store.ingest("weather")
        spine = {"origin": ["JFK", "LGA"], "event_timestamp": [NOON, NOON]}
        store.save("one", store.get_historical_features(spine, ["weather:temp", "weather:visib"]))
        later = {"origin": ["JFK"], "observed_at": [NOON], "reported_at": [NOON], "temp": [60.0]}
        store.write("weather", later | {"visib": pa.array([3], pa.int32())})
        spine["origin"][1] = "BOS"
        store.save("two", store.get_historical_features(spine, ["weather:temp", "weather:visib"]))

    def run(*arguments):
        with pytest.raises(SystemExit) as done:
            main(["datasets", "diff", *arguments, "--project", str(project)])
        return done.value.code, capsys.readouterr().out

    code, out = run("one", "two")
    assert (code, "1 matched, 1 added, 1 removed" in out, out.splitlines()[-1]) == (0, True, "different")
    assert "origin=JFK" in out
    code, out = run("one", "two", "--format", "json", "--exit-code")
    answer = json.loads(out)
    assert (code, answer["schema_version"], answer["equal"], answer["diff"]["names"]) == (1, 1, False, ["one", "two"])
    assert answer["diff"]["values"][0]["greatest"] == 4.5
    code, out = run("one", "one", "--exit-code")
    assert (code, out.splitlines()[-1]) == (0, "equal")
