"""The second model of the demo: it reads the schedule twice, a constant, two versions of weather, and its own score."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from story import run, tell

from featurestore import Entity, Feature, FeatureStore, FeatureView, Model, ParquetSource

HERE = Path(__file__).parent
DAYS = 75  # before the cut: what the second model trains on
FIRST = ["weather@v1:temp", "weather@v1:dewp", "carrier_delays:mean_arr_delay_1d"]
BUNDLE = ["schedule:sched_dep_time", "schedule:hour", "schedule:minute", "schedule:year", "weather@v1:humid"]
LATER = ["weather@v2:temp", "late_score:probability"]
EPSILON = "0.005"


def indebted_model(folder: Path, store: FeatureStore, flights: pa.Table, cut: datetime) -> None:
    """Define, train and evaluate the model, and ask for its debt."""
    shutil.copy(HERE / "late_model.py", folder)
    chosen = _recent(flights, cut)
    _write_sources(folder, chosen)
    store.apply([late_model("1", FIRST)], message="late_model 1")
    store.apply(
        [*views(), late_model("2", [*FIRST, *BUNDLE])], message="late_model 2: the schedule, before the deadline"
    )
    store.apply([newer_weather()], message="weather, for six hours")
    store.apply(
        [late_model("2", [*FIRST, *BUNDLE, *LATER])], message="late_model 2 reads the new weather, and its own score"
    )
    for view in ("schedule", "late_score", "weather@v2"):
        store.ingest(view, known_until=cut)
    reads = [*FIRST, *BUNDLE, *LATER]
    with FeatureStore(folder, consumer="late_model@2") as trainer:
        training = trainer.get_historical_features(chosen, reads, full_feature_names=True)
        dataset = trainer.save("late_training", training)
    tell(f"dataset late_training: {dataset.manifest.rows} rows, {len(reads)} features")
    run(
        folder,
        "lineage",
        "debt",
        "late_model@2",
        expect=1,
        because="nobody looked at what came in together, and it reads its own score.",
    )
    run(folder, "lineage", "evaluate", "late_model@2", "--estimator", "late_model:make", "--budget", "0.5")
    run(
        folder,
        "lineage",
        "debt",
        "late_model@2",
        "--page",
        "debt.html",
        expect=1,
        because="now it is known what it could do without.",
    )
    run(folder, "lineage", "debt", "delay_model@1", because="the first model has no such debt.")


def views() -> list[Entity | FeatureView]:
    """Return what the deadline added: the schedule as it is, and the model's own score."""
    flight = Entity("flight", join_keys={"flight_id": "string"}, description="One scheduled flight")
    schedule = FeatureView(
        "schedule",
        entity=flight,
        source=ParquetSource("schedule", "data/schedule.parquet", event_timestamp="known_at"),
        features=[Feature(name, "int64", unit="1") for name in ("sched_dep_time", "hour", "minute", "year")],
        owner="ops@airport.example",
        description="The timetable",
    )
    score = FeatureView(
        "late_score",
        entity=flight,
        source=ParquetSource("late_scores", "data/late_scores.parquet", event_timestamp="known_at"),
        features=[
            Feature("probability", "float64", unit="1", description="That the flight is late, of an earlier run")
        ],
        owner="ml@airport.example",
        description="The predictions of late_model",
    )
    return [flight, schedule, score]


def newer_weather() -> FeatureView:
    """Return weather that counts for six hours instead of four: a change of meaning, so a second version."""
    import features

    return replace(features.weather, ttl=timedelta(hours=6))


def late_model(version: str, reads: list[str]) -> Model:
    """Return the manifest; what a gain must reach to be worth a feature is in its tags."""
    return Model(
        "late_model",
        version=version,
        reads=reads,
        writes=["late_score"] if version == "2" else [],
        dataset="late_training" if version == "2" else None,
        label="late",
        owner="ml@airport.example",
        tags={"epsilon": EPSILON},
    )


def _recent(flights: pa.Table, cut: datetime) -> pa.Table:
    """Return every other flight of the last weeks before the cut whose outcome is known."""
    times = flights["event_timestamp"]
    instant = pa.timestamp("us", "UTC")
    since = pc.greater_equal(times, pa.scalar(cut - timedelta(days=DAYS), instant))
    known = pc.and_kleene(pc.less(flights["landed_at"], pa.scalar(cut, instant)), pc.is_valid(flights["late"]))
    found = flights.filter(pc.and_kleene(since, known))
    return found.take(pa.array(range(0, len(found), 2)))


def _write_sources(folder: Path, chosen: pa.Table) -> None:
    """Write the timetable, and the scores of an earlier run: a guess by the hour, known before the flight."""
    timetable = pq.read_table(
        folder / "data" / "flights.parquet", columns=["flight_id", "sched_dep_time", "minute", "year"]
    )
    table = chosen.select(["flight_id", "event_timestamp", "local_hour"]).join(timetable, "flight_id")
    day_before = pc.subtract(table["event_timestamp"], pa.scalar(timedelta(days=1)))
    hour = table["local_hour"].to_numpy().astype(np.float64)
    noise = np.random.default_rng(1).normal(0, 0.5, len(hour))
    columns = {"flight_id": table["flight_id"], "known_at": day_before.cast(pa.timestamp("us", "UTC"))}
    numbers = {name: table[name].cast(pa.int64()) for name in ("sched_dep_time", "minute", "year")}
    pq.write_table(pa.table({**columns, **numbers, "hour": table["local_hour"]}), folder / "data" / "schedule.parquet")
    score = 1 / (1 + np.exp(2.5 - hour / 12 - noise))
    pq.write_table(pa.table({**columns, "probability": score}), folder / "data" / "late_scores.parquet")
