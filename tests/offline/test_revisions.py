"""How often a source revises its history is counted exactly, published, and judged."""

from collections import Counter
from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_project import FEATURES, NOON

from featurestore import FeatureStore
from featurestore.cli import main
from featurestore.errors import CorruptionError, FailedPreconditionError
from featurestore.offline.revisions import read_revisions
from lineage import Verdict


def history(rows):
    """Return a weather file: (airport, day, temperature) in the order they became known."""
    return pa.table(
        {
            "origin": [origin for origin, _, _ in rows],
            "observed_at": pa.array([NOON + timedelta(days=day) for _, day, _ in rows], pa.timestamp("us", "UTC")),
            "reported_at": pa.array(
                [NOON + timedelta(days=day, minutes=n + 1) for n, (_, day, _) in enumerate(rows)],
                pa.timestamp("us", "UTC"),
            ),
            "temp": [float(temp) for *_, temp in rows],
            "visib": pa.array([10] * len(rows), pa.int32()),
        }
    )


def measured(project, rows):
    pq.write_table(history(rows), project / "data" / "weather.parquet")
    with FeatureStore(project) as store:
        store.apply()
        store.ingest("weather")
        (found,) = store.revisions("weather")
        return found


def test_a_row_that_came_again_is_counted_in_its_month(project):
    found = measured(project, [("JFK", 0, 1), ("JFK", 0, 2), ("JFK", 0, 3), ("LGA", 0, 1), ("JFK", 40, 1)])
    assert [(m.month, m.rows, m.revised, m.revisions) for m in found.months] == [
        ("2026-05", 2, 1, 2),
        ("2026-06", 1, 0, 0),
    ]


@settings(max_examples=8)
@given(st.lists(st.tuples(st.sampled_from("AB"), st.integers(0, 2)), min_size=1, max_size=12))
def test_it_is_what_a_plain_count_says(tmp_path_factory, places):
    project = tmp_path_factory.mktemp("revised")
    (project / "featurestore.toml").write_text('[project]\nname = "small"\n')
    (project / "features.py").write_text(FEATURES)
    (project / "data").mkdir()
    found = measured(project, [(origin, day, n) for n, (origin, day) in enumerate(places)])
    counts = Counter(places)
    assert (found.rows, found.revised) == (len(counts), sum(n > 1 for n in counts.values()))
    assert sum(m.revisions for m in found.months) == len(places) - len(counts)


def test_a_source_that_revises_its_past_is_flagged_with_its_months(project):
    with FeatureStore(project) as store:
        store.apply()
        (before,) = (f for f in store.lineage.check(select=["LN310"]).all if f.subject.startswith("weather@v1"))
        assert before.verdict is Verdict.UNDETERMINED
    measured(project, [("JFK", day, n) for n, day in enumerate([0, 0, 1, 2])])
    with FeatureStore(project) as store:
        (found,) = (f for f in store.lineage.check(select=["LN310"]).all if f.subject.startswith("weather@v1"))
        assert (found.verdict, found.message[:10]) == (Verdict.FLAGGED, "1 of 3 row")
        assert found.evidence[0]["revised"] == 1
        assert not store.lineage.check(select=["LN311"]).all  # it knows when each row became known: that is a pin


def test_a_consumer_of_a_changing_past_that_nothing_pins_is_flagged(project):
    features = (project / "features.py").read_text().replace(', created_timestamp="reported_at"', "")
    (project / "features.py").write_text(features)
    measured(project, [("JFK", 0, 1), ("JFK", 0, 2)])
    with FeatureStore(project) as store:
        (found,) = store.lineage.check(select=["LN311"]).all
        assert (found.subject, found.verdict) == ("model@1 on weather@v1", Verdict.FLAGGED)


def test_a_view_without_rows_is_said_and_a_damaged_file_too(project):
    with FeatureStore(project) as store:
        store.apply()
        with pytest.raises(FailedPreconditionError):
            store.revisions("weather")
        assert store.revisions() == []
        (store.settings.store / "revisions.json").write_text("{")
        with pytest.raises(CorruptionError, match="damaged"):
            read_revisions(store.settings.store)


def test_the_command_shows_the_share_of_each_month(project, capsys):
    measured(project, [("JFK", 0, 1), ("JFK", 0, 2)])
    with pytest.raises(SystemExit) as done:
        main(["revisions", "weather", "--project", str(project)])
    assert done.value.code == 0
    assert "100.00%" in capsys.readouterr().out
