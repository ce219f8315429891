"""The flights example from end to end: define, train, serve, replay a day, and see who reads what.

Run it with `make demo` or `featurestore demo`. It leaves a project folder to explore. Read it from top to bottom, and change it.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from debt import indebted_model
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from story import fresh_folder, progress, run, step, tell
from threadpoolctl import threadpool_limits

from featurestore import FeatureStore, Model
from featurestore.client import Client
from featurestore.flow.replay import ServedTarget, replay

HERE = Path(__file__).parent
MINUTE = 60_000_000  # times are microseconds since 1970, UTC
SCORING = 5 * MINUTE  # every five minutes the flights that leave next are scored
PATIENCE = 10.0  # seconds for a call: a busy laptop is no reason to stop

CUT = datetime(2013, 12, 16, 5, tzinfo=UTC)  # midnight in New York; what is known later, training must not see
END = datetime(2013, 12, 17, 11, tzinfo=UTC)  # the last flight of the 16th has landed
REPLAYED = ["weather", "origin_traffic", "carrier_delays", "route_history"]
KEYS = ["origin", "tailnum", "carrier", "dest"]
REQUEST = ["distance", "block_minutes", "local_hour"]
SETTINGS = """\
[project]
name = "flights"
environment = "demo"

[serving]
auth = "required"
usage_seconds = 2.0
"""


def main(folder: Path) -> None:
    """Run the example in a folder."""
    begun = time.monotonic()
    with step(
        "1. A project is a folder",
        "featurestore.toml holds the settings, features.py says what the features mean.",
        f"Everything the store writes lies under {folder}/store; no server and no account is needed.",
    ):
        make_project(folder)

    with FeatureStore(folder, consumer="delay_model@1") as store:
        with step(
            "2. plan shows what would happen, apply commits it",
            "Each feature gets a fingerprint of its meaning. Change a unit, a ttl or a window, and a new version",
            "appears beside the old one; who reads the old one keeps reading it.",
        ):
            run(folder, "featurestore", "plan")
            plan = store.apply(message="first features")
            tell(f"applied as revision {plan.base_revision + 1}")

        with step(
            "3. ingest loads what was known before the cut",
            f"The cut is {CUT:%Y-%m-%d %H:%M}Z. A flight's delay is known once it has landed, a weather report an hour",
            "after its observation; rows that became known later are counted and left out.",
        ):
            for view in ["plane", *REPLAYED]:
                report = store.ingest(view, known_until=CUT)
                tell(f"{report.view:<18} {report.accepted:>7} rows accepted, {report.later:>6} known only later")

        flights = read_flights(folder)
        with step(
            "4. Train on a point-in-time-correct training set",
            "Every flight whose outcome was known before the cut, joined with what was known at the last full five",
            "minutes before its departure. One row per flight, in order; rows from the future cannot get in.",
        ):
            known = pc.less_equal(flights["landed_at"], pa.scalar(CUT, pa.timestamp("us", "UTC")))
            spine = flights.filter(pc.and_kleene(known, pc.is_valid(flights["late"])))
            training = store.get_historical_features(spine, "delay_features")
            tell(training.report)
            model, auc = train(training.to_arrow())
            tell(f"ROC AUC on the last two weeks before the cut: {auc:.3f}")

        with step(
            "5. Save the dataset, register the model",
            "The dataset keeps its definitions, files and a digest of its values. The model's manifest says what it",
            "reads and writes; from now on the store can tell a declared read from an undeclared one.",
        ):
            dataset = store.save("delay_training", training)
            tell(f"dataset delay_training: {dataset.manifest.rows} rows, digest {dataset.manifest.digest[:16]}")
            store.apply([delay_model(auc)], message="delay_model 1")
            run(folder, "featurestore", "list", "consumers")
            tokens = issue_tokens(store)

        with server(folder) as address:
            progress(f"  serving on {address}")
            with step(
                "6. Replay a day that training never saw, through the real server",
                "Its clock is the replay clock. Each row enters by write when it became known; each flight is scored at the",
                "last full five minutes before it departs, over gRPC, by a client that is bound to delay_model@1.",
            ):
                day = flights_of_the_day(flights)
                online, scores = replay_day(store, address, tokens, day, model)

            with step(
                "7. Training and serving agree, bit for bit",
                "The same flights at the same instants, joined offline from what the server wrote. Every value, every",
                "null and every score must be equal; the demo stops here if one is not.",
            ):
                compare(store, day, online, scores, model)

            with step(
                "8. Two more readers",
                "gate_planner declares three features and reads two. A dashboard that nobody declared reads weather with",
                "a token of its own.",
            ):
                read_as_others(address, tokens, day)
                store.collect_usage()
                wait_for_usage(folder)

            with step(
                "9. Who reads what, and what would a change break?",
                "Declared is what manifests say, observed is what the server counted per feature version.",
                "`check` finds the difference, with its evidence and the command that repairs it.",
            ):
                run(folder, "lineage", "consumers", "weather")
                run(
                    folder,
                    "lineage",
                    "impact",
                    "weather",
                    expect=1,
                    because="a change would break somebody; a CI job stops here.",
                )
                run(
                    folder,
                    "lineage",
                    "check",
                    expect=1,
                    because="this is the expected answer; there is debt to look at.",
                )

            with step(
                "10. Enforce: the undeclared reader is refused",
                "One word in features.py changes weather from observe to enforce. That is not a change of meaning, so",
                "no version appears; the server sees the commit within a second.",
            ):
                enforce_weather(folder, store)
                refused_dashboard(address, tokens)

        with step(
            "11. A second model in debt",
            "It was made before a deadline: the schedule twice over, a constant, two versions of weather, its own score.",
            "`debt` says what the history and the graph show; `evaluate` retrains without each feature and says what it is worth.",
        ):
            indebted_model(folder, store, flights, CUT)

    print(f"\nDone in {time.monotonic() - begun:.0f} s. Explore {folder}:")
    print(f"  cd {folder}")
    print("  lineage check; lineage impact plane; lineage upstream delay_model@1; lineage explain <id>")
    print("  featurestore get weather:wind_speed -k origin=JFK --consumer gate_planner   # weather asks who reads now")
    print("  edit features.py (say, the ttl of weather), then: featurestore plan; featurestore apply")
    print("  featurestore ingest weather@v3; featurestore materialize weather@v3; featurestore show weather@v3")
    print("  featurestore serve --clock replay   # then GET /v1/status, /openapi.json")


def make_project(folder: Path) -> None:
    """Copy the definitions and the data beside a featurestore.toml."""
    fresh_folder(folder, mark=".made-by-demo")
    (folder / "featurestore.toml").write_text(SETTINGS)
    shutil.copy(HERE / "features.py", folder)
    shutil.copytree(HERE / "data", folder / "data", ignore=shutil.ignore_patterns("*.py", "*.md"))


def read_flights(folder: Path) -> pa.Table:
    """Return all flights with a tail number: keys, request data, the time of scoring, and the label."""
    flights = pq.read_table(folder / "data" / "flights.parquet")
    flights = flights.filter(pc.is_valid(flights["tailnum"]))
    departure = flights["scheduled_departure"].cast(pa.int64())
    block = pc.subtract(flights["scheduled_arrival"].cast(pa.int64()), departure)
    late = pc.greater(flights["arr_delay"].cast(pa.int32()), 15)
    return pa.table(
        {
            **{name: flights[name] for name in ["flight_id", *KEYS]},
            "event_timestamp": pa.array(last_scoring(departure.to_numpy()), pa.timestamp("us", "UTC")),
            "distance": flights["distance"].cast(pa.float64()),
            "block_minutes": pc.divide(block.cast(pa.float64()), float(MINUTE)),
            "local_hour": flights["hour"].cast(pa.int64()),
            "landed_at": flights["landed_at"],
            "late": late,
        }
    )


def last_scoring(departure: np.ndarray) -> np.ndarray:
    """Return when flights are scored: the last full five minutes before they depart."""
    return (departure - 1) // SCORING * SCORING


def feature_names(columns: list[str]) -> list[str]:
    """Return the names of the features among a training set's columns."""
    return [
        name for name in columns if name not in {"flight_id", *KEYS, *REQUEST, "event_timestamp", "landed_at", "late"}
    ]


def matrix(columns: dict[str, np.ndarray], valid: dict[str, np.ndarray]) -> np.ndarray:
    """Return features as a float64 matrix, one row per flight, NaN for null."""
    return np.column_stack([np.where(valid[name], columns[name].astype(np.float64), np.nan) for name in columns])


def arrow_columns(table: pa.Table) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the features of a training set as NumPy arrays, and where they are not null."""
    names = feature_names(table.column_names)
    valid = {name: table[name].is_valid().to_numpy() for name in names}
    filled = {name: table[name].fill_null(False if pa.types.is_boolean(table[name].type) else 0) for name in names}
    return {name: column.to_numpy() for name, column in filled.items()}, valid


def train(table: pa.Table) -> tuple[HistGradientBoostingClassifier, float]:
    """Fit on everything but the last two weeks, and measure on these."""
    features = matrix(*arrow_columns(table))
    late = table["late"].to_numpy(zero_copy_only=False).astype(bool)
    times = table["event_timestamp"].cast(pa.int64()).to_numpy()
    last_weeks = times >= int(CUT.timestamp() * 1e6) - 14 * 24 * 60 * MINUTE
    model = HistGradientBoostingClassifier(max_iter=60, learning_rate=0.15, random_state=7)
    model.fit(features[~last_weeks], late[~last_weeks])
    return model, float(roc_auc_score(late[last_weeks], model.predict_proba(features[last_weeks])[:, 1]))


def delay_model(auc: float) -> Model:
    """Return the manifest of the model."""
    return Model(
        "delay_model",
        version="1",
        reads=["delay_features"],
        writes=["delay_score"],
        dataset="delay_training",
        label="late",
        metrics={"roc_auc": round(auc, 4)},
        owner="ml@airport.example",
    )


def issue_tokens(store: FeatureStore) -> dict[str, str]:
    """Give each program a token of its own, and bind two of them to the consumers they run."""
    now = time.time_ns() // 1000
    roles = {
        "svc-feed": {"admin"},
        "svc-delay": {"reader", "writer"},
        "svc-gates": {"reader"},
        "svc-dashboard": {"reader"},
    }
    store.registry.bind("svc-delay", "delay_model@1", now=now)
    store.registry.bind("svc-gates", "gate_planner", now=now)
    return {
        principal: store.registry.create_token(principal, principal=principal, roles=frozenset(allowed), now=now)
        for principal, allowed in roles.items()
    }


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Run the server as a process of its own, on free ports and the replay clock, and stop it gracefully."""
    command = [
        sys.executable,
        "-m",
        "featurestore",
        "serve",
        "--clock",
        "replay",
        "--grpc-port",
        "0",
        "--http-port",
        "0",
    ]
    state = folder / "store" / "server.json"
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen([*command, "--project", str(folder)], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 60
            while not state.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"The server did not start; see {folder / 'server.log'}.")
                time.sleep(0.05)
            ports = json.loads(state.read_text())
            yield f"{ports['host']}:{ports['grpc_port']}"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


def flights_of_the_day(flights: pa.Table) -> pa.Table:
    """Return the flights that are scored during the replay, in order of time."""
    time_of = flights["event_timestamp"]
    instant = pa.timestamp("us", "UTC")
    chosen = pc.and_(
        pc.greater_equal(time_of, pa.scalar(CUT, instant)),
        pc.less(time_of, pa.scalar(datetime(2013, 12, 17, 5, tzinfo=UTC), instant)),
    )
    return flights.filter(chosen).sort_by("event_timestamp")


def replay_day(
    store: FeatureStore, address: str, tokens: dict[str, str], day: pa.Table, model: HistGradientBoostingClassifier
) -> tuple[list, np.ndarray]:
    """Write every row when it became known, and score every flight just before it departs."""
    cut, end = (int(instant.timestamp() * 1e6) for instant in (CUT, END))
    times = day["event_timestamp"].cast(pa.int64()).to_numpy()
    answers, scores = [], np.empty(len(day))
    with (
        Client(address, timeout=PATIENCE, token=tokens["svc-feed"]) as feed,
        Client(address, timeout=PATIENCE, token=tokens["svc-delay"], consumer="delay_model@1") as scorer,
        threadpool_limits(1),  # for a handful of rows, waking more threads costs more than it saves
    ):
        feed.advance_clock(cut)
        store.materialize()
        feeds = store.feeds(REPLAYED, since=cut, until=end)
        written = 0
        for moment, rows in replay(ServedTarget(feed), feeds, [*np.unique(times).tolist(), end]):
            written += rows
            due = day.filter(pa.array(times == moment))
            if not len(due):
                continue
            answer = scorer.get_online_features(
                "delay_features",
                keys={name: due[name].to_pylist() for name in KEYS},
                request={name: due[name].to_pylist() for name in REQUEST},
            )
            names = feature_names(list(answer.columns))
            features = matrix({n: answer.columns[n] for n in names}, {n: answer.valid[n] for n in names})
            score = model.predict_proba(features)[:, 1]
            scorer.write(
                "delay_score",
                {
                    "flight_id": due["flight_id"].to_pylist(),
                    "scored_at": [moment] * len(due),
                    "probability": score.tolist(),
                },
            )
            answers.append(answer)
            scores[times == moment] = score
            if len(answers) % 50 == 0:
                progress(f"  {datetime.fromtimestamp(moment / 1e6, UTC):%H:%M}Z  {written} rows in")
    tell(f"{written} rows written as they became known, {len(day)} flights scored in {len(answers)} reads")
    return answers, scores


def compare(
    store: FeatureStore, day: pa.Table, answers: list, scores: np.ndarray, model: HistGradientBoostingClassifier
) -> None:
    """Join the same flights offline and compare every bit."""
    offline, valid = arrow_columns(store.get_historical_features(day, "delay_features").to_arrow())
    values = different = 0
    for name, expected in offline.items():
        served = np.concatenate([answer.columns[name] for answer in answers])
        present = np.concatenate([answer.valid[name] for answer in answers])
        same_bits = served[present].astype(expected.dtype).tobytes() == expected[valid[name]].tobytes()
        different += int((present != valid[name]).sum()) + (not same_bits)
        values += len(expected)
    assert different == 0, f"{different} columns or nulls differ between training and serving"
    assert model.predict_proba(matrix(offline, valid))[:, 1].tobytes() == scores.tobytes(), "a score differs"
    known = pc.is_valid(day["late"]).to_numpy()
    late = day["late"].fill_null(False).to_numpy(zero_copy_only=False).astype(bool)
    tell(f"{values} values and {len(scores)} scores compared: 0 differ")
    tell(f"ROC AUC of the served scores on this day: {roc_auc_score(late[known], scores[known]):.3f}")


def read_as_others(address: str, tokens: dict[str, str], day: pa.Table) -> None:
    """Read as a declared consumer that needs less than it declares, and as one that nobody declared."""
    with Client(address, timeout=PATIENCE, token=tokens["svc-gates"], consumer="gate_planner") as gates:
        flights = day["flight_id"].to_pylist()[:100]
        found = gates.get_online_features(["delay_score:probability"], keys={"flight_id": flights})
        gates.get_online_features(["origin_traffic:departures_6h"], keys={"origin": ["EWR", "JFK", "LGA"]})
        likeliest = int(found.columns["probability"].argmax())
        tell(f"gate_planner: of {len(flights)} flights {flights[likeliest]} is the likeliest to be late")
    with Client(address, timeout=PATIENCE, token=tokens["svc-dashboard"]) as dashboard:
        rows = dashboard.get_online_features(["weather:temp", "weather:visib"], keys={"origin": ["EWR", "JFK", "LGA"]})
        tell(f"the dashboard, which nobody declared: {rows.to_dict()}, {rows.status['temp'].tolist()}")


def wait_for_usage(folder: Path) -> None:
    """Wait until the server has folded the last reads into daily usage."""
    for _ in range(100):
        found = subprocess.run(
            [sys.executable, "-m", "lineage.cli", "usage", "weather@v1:visib", "--format", "json"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if "svc-dashboard" in found.stdout:
            return
        time.sleep(0.2)
    raise SystemExit("The server did not report its usage.")


def enforce_weather(folder: Path, store: FeatureStore) -> None:
    """Change the access mode of weather in the project's features.py, and apply."""
    path = folder / "features.py"
    text = path.read_text()
    path.write_text(
        text.replace("    ttl=timedelta(hours=4),\n", '    ttl=timedelta(hours=4),\n    access="enforce",\n')
    )
    for change in store.apply(message="weather is for declared readers").changes:
        tell(f"{change.kind} {change.object} ({change.detail})")


def refused_dashboard(address: str, tokens: dict[str, str]) -> None:
    """Read weather as the dashboard until the server has seen the commit, and show the refusal."""
    with Client(address, timeout=PATIENCE, token=tokens["svc-dashboard"]) as dashboard:
        for _ in range(50):
            try:
                dashboard.get_online_features(["weather:temp"], keys={"origin": ["JFK"]})
            except PermissionError as error:
                tell(f"PERMISSION_DENIED: {error}")
                return
            time.sleep(0.1)
    raise SystemExit("The undeclared reader was not refused.")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo-project").resolve())
