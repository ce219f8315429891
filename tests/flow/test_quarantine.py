"""Quarantine: a batch that breaks an expectation is kept out as a whole, durably, once, until somebody decides with a reason."""

import asyncio
import json
import multiprocessing
import random
import sys
import time
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_project import FEATURES

from featurestore import Feature, FeatureStore, FeatureView, InRange, RowCountNear
from featurestore.cli import main
from featurestore.errors import (
    CorruptionError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    QuarantinedError,
    UnavailableError,
)
from featurestore.flow import quarantine as flow_quarantine
from featurestore.flow.quarantine import Quarantine, drop, release
from featurestore.refs import ViewRef
from featurestore.rows import SEQ
from featurestore.serving.call import Call
from featurestore.serving.metrics import MetricsFile
from featurestore.serving.writer_handlers import WriterHandlers
from featurestore.testing.projects import ScratchProject
from featurestore.v1 import serving_pb2 as pb
from featurestore.v1 import writer_pb2 as wire

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))
from quarantine_process import NOW, READINGS, SENSORS, batch_rows, write_batches

REF = ViewRef("readings", 1)
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["featurestore.testing.projects", "featurestore.offline.delta", "pandas"])


@pytest.fixture
def project(tmp_path):
    with ScratchProject(tmp_path, READINGS, now=NOW) as project:
        yield project


def held_in(project):
    return Quarantine(project.root / "quarantine").batches()


def write(project, batch, **options):
    return project.writer.write(REF, batch_rows(batch), **options)


def hold(project, batch=1):
    with pytest.raises(QuarantinedError) as raised:
        write(project, batch)
    held = next(held for held in held_in(project) if held.id in raised.value.place)
    return held, raised.value


def resubmit(project, held):
    return lambda rows: project.writer.write(REF, rows, released=held.id).accepted


def stored(project):
    project.writer.fold()
    table = project.table(REF)
    return sorted(table.read(["value"])["value"].to_pylist()) if table.exists else []


def test_nothing_of_a_failing_batch_is_accepted_and_all_of_it_is_kept(project):
    held, error = hold(project)
    assert stored(project) == []
    assert project.writer.head().last_seq == 0
    assert held.rows().select(["at", "sensor", "value"]).equals(batch_rows(1))
    assert (held.state, held.report.view, held.report.way, held.report.rows) == (
        "held",
        "readings@v1",
        "write",
        SENSORS,
    )
    (breach,) = held.report.breaches
    assert (breach.subject, breach.rows, breach.examples[0].place) == ("value", 1, f"$.rows[{SENSORS - 1}]")
    assert (breach.examples[0].keys["sensor"], breach.examples[0].value) == (SENSORS - 1, -1)
    assert f"featurestore quarantine release {held.id}" in str(error)
    assert error.place == str(held.directory / "report.json")
    assert write(project, 2).first_seq == 1, "no number was given away"


def test_the_same_batch_is_held_once(project):
    first, _ = hold(project)
    again, _ = hold(project)
    other, _ = hold(project, 3)
    assert first.id == again.id != other.id
    assert len(held_in(project)) == 2
    assert [decision.kind for decision in again.history] == ["hold"]


def test_a_released_batch_is_accepted_and_the_reason_is_kept(project):
    held, _ = hold(project)
    assert release(held, reason="checked", principal="ann", now=NOW, submit=resubmit(project, held)) == SENSORS
    assert stored(project) == [-1, 1, 1, 1, 1]
    last = held.history[-1]
    assert (held.state, last.reason, last.principal, last.accepted) == ("released", "checked", "ann", SENSORS)
    assert not (held.directory / "batch.parquet").exists()
    assert write(project, 1).repeated_rows == SENSORS, "its rows are known: nothing is left to refuse"
    with pytest.raises(FailedPreconditionError, match="released: checked"):
        release(held, reason="again", principal="ann", now=NOW, submit=resubmit(project, held))


def test_a_release_waives_what_the_report_names_and_nothing_else(project):
    held, _ = hold(project)
    project.apply(
        FeatureView(
            "readings",
            READINGS.entity,
            READINGS.source,
            [Feature("value", "int64", expect=[InRange(0), InRange(None, 0)])],
        )
    )
    with pytest.raises(QuarantinedError, match="maximum=0"):
        release(held, reason="checked", principal="ann", now=NOW, submit=resubmit(project, held))
    (again,) = held_in(project)
    assert len(again.report.breaches) == 1
    assert stored(project) == []


def test_a_release_that_was_interrupted_can_be_run_again(project):
    held, _ = hold(project)

    def half(rows):
        resubmit(project, held)(rows.slice(0, 2))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        release(held, reason="checked", principal="ann", now=NOW, submit=half)
    assert held.state == "releasing"
    with pytest.raises(FailedPreconditionError, match="interrupted"):
        drop(held, reason="no", principal="ann", now=NOW)
    assert release(held, reason="checked", principal="ann", now=NOW, submit=resubmit(project, held)) == SENSORS - 2
    assert stored(project) == [-1, 1, 1, 1, 1]


def test_a_dropped_batch_leaves_its_record_and_is_held_again_when_it_comes_again(project):
    held, _ = hold(project)
    drop(held, reason="sensor was broken", principal="ann", now=NOW)
    assert (held.state, held.history[-1].reason) == ("dropped", "sensor was broken")
    assert not (held.directory / "batch.parquet").exists()
    with pytest.raises(FailedPreconditionError, match="sensor was broken"):
        release(held, reason="x", principal="ann", now=NOW, submit=resubmit(project, held))
    again, _ = hold(project)
    assert [decision.kind for decision in again.history] == ["hold", "drop", "hold"]
    assert again.rows().num_rows == SENSORS


@pytest.mark.parametrize("reason", ["", "  "])
def test_a_decision_needs_a_reason(project, reason):
    held, _ = hold(project)
    with pytest.raises(InvalidArgumentError, match="reason"):
        drop(held, reason=reason, principal="ann", now=NOW)
    with pytest.raises(InvalidArgumentError, match="reason"):
        release(held, reason=reason, principal="ann", now=NOW, submit=resubmit(project, held))
    assert held.state == "held"


def test_a_batch_is_found_by_the_beginning_of_its_id(project):
    held, _ = hold(project)
    found = Quarantine(project.root / "quarantine")
    assert found.batch(held.id[:4]).id == held.id
    with pytest.raises(NotFoundError, match="quarantine list"):
        found.batch("zz")
    with pytest.raises(NotFoundError):
        found.batch("")


def test_a_warning_lets_the_batch_pass(project):
    project.apply(
        FeatureView(
            "readings",
            READINGS.entity,
            READINGS.source,
            [Feature("value", "int64", expect=[InRange(0, severity="warn")])],
        )
    )
    report = write(project, 1)
    assert report.accepted == SENSORS
    assert "readings@v1 value: InRange(severity='warn', minimum=0) - 1 of 5 rows" in report.warnings[0]
    assert held_in(project) == []


def test_rows_that_are_stored_already_are_not_judged_again(project):
    project.apply(FeatureView("readings", READINGS.entity, READINGS.source, [Feature("value", "int64")]))
    write(project, 1)
    project.apply(READINGS)
    assert write(project, 1).repeated_rows == SENSORS


def test_sizes_are_noted_and_compared(project):
    project.apply(
        FeatureView(
            "readings", READINGS.entity, READINGS.source, [Feature("value", "int64")], expect=[RowCountNear(0.5)]
        )
    )
    for batch in (2, 4, 6):
        write(project, batch)
    with pytest.raises(QuarantinedError, match="median of the 3 batches before is 5"):
        project.writer.write(REF, batch_rows(8).slice(0, 2))
    assert write(project, 10).accepted == SENSORS


def test_a_full_disk_accepts_nothing_and_says_so(project, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(flow_quarantine, "_write_rows", full)
    with pytest.raises(UnavailableError, match=r"cannot be quarantined.*Nothing of it was accepted"):
        write(project, 1)
    monkeypatch.undo()
    assert held_in(project) == []
    assert list((project.root / "quarantine").iterdir()) == []
    assert stored(project) == []


def test_a_damaged_batch_is_named_and_never_accepted(project):
    held, _ = hold(project)
    path = held.directory / "batch.parquet"
    content = bytearray(path.read_bytes())
    content[40] ^= 255
    path.write_bytes(content)
    with pytest.raises(CorruptionError, match=r"batch\.parquet"):
        release(held, reason="x", principal="ann", now=NOW, submit=resubmit(project, held))
    assert (held.state, stored(project)) == ("held", [])


def test_a_refused_push_is_an_invalid_argument_with_its_facts(project):
    handlers = WriterHandlers(
        project.writer,
        lambda: project.snapshot,
        replay=False,
        usage_directory=project.root,
        registry_path=None,
        metrics=MetricsFile(project.root / "metrics"),
    )
    rows = batch_rows(1)
    instants = rows["at"].cast(pa.int64()).to_pylist()
    columns = [
        pb.Column(name="at", integers=instants),
        pb.Column(name="sensor", integers=rows["sensor"].to_pylist()),
        pb.Column(name="value", integers=rows["value"].to_pylist()),
    ]
    methods = handlers.methods()
    write_method = methods["/featurestore.v1.Writer/Write"]
    reply = asyncio.run(write_method(Call(""), pb.WriteRequest(view="readings", columns=columns).SerializeToString()))
    (held,) = held_in(project)
    facts = dict(reply.trailers)
    assert (reply.code, facts["fs-error"]) == ("INVALID_ARGUMENT", "QuarantinedError")
    assert facts["fs-place"] == str(held.directory / "report.json")
    assert held.id in facts["fs-repair"]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows)
    request = wire.WriteTableRequest(view="readings", rows=sink.getvalue().to_pybytes(), released=held.id)
    reply = asyncio.run(methods["/featurestore.v1.Writer/WriteTable"](Call(""), request.SerializeToString()))
    assert (reply.code, pb.WriteReply.FromString(reply.body).accepted) == ("OK", SENSORS)


# --- kill -9 -----------------------------------------------------------------------------------------------------------------------------


def kill_while_it_writes(folder, first, delay):
    """Run the writer until it said something, kill it after a delay, and return the batches whose fate it knew."""
    said, saying = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=write_batches, args=(str(folder), first, saying))
    process.start()
    saying.close()
    known = [said.recv_bytes()]
    time.sleep(delay)
    process.kill()
    with suppress(EOFError):
        while True:
            known.append(said.recv_bytes())
    process.join()
    return [int.from_bytes(batch, "big") for batch in known]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(2))
def test_a_batch_is_accepted_or_held_or_not_there_at_all(tmp_path, seed):
    chance = random.Random(seed)
    known = []
    for _ in range(5):
        known += kill_while_it_writes(tmp_path, max(known, default=0) + 2, chance.uniform(0, 0.15))
        with ScratchProject(tmp_path, READINGS, now=NOW) as project:
            project.writer.fold()
            rows = project.table(REF).read(["sensor", "value", SEQ]).to_pylist() if project.table(REF).exists else []
            held = {abs(min(h.rows()["value"].to_pylist())): h for h in held_in(project)}
        accepted = {row["value"] for row in rows}
        assert all(batch % 2 == 0 for batch in accepted)
        assert len(rows) == SENSORS * len(accepted), "a batch is accepted as a whole"
        assert {batch for batch in known if batch % 2 == 0} <= accepted
        assert {batch for batch in known if batch % 2} <= set(held)
        assert all(h.rows().num_rows == SENSORS and h.report.breaches for h in held.values())


# --- ingest, the facade and the commands -------------------------------------------------------------------------------------------------


@pytest.fixture
def run(project_folder, capsys, monkeypatch):
    monkeypatch.chdir(project_folder)

    def command(*arguments):
        with pytest.raises(SystemExit) as done:
            main(list(arguments))
        captured = capsys.readouterr()
        return done.value.code, captured.out, captured.err

    return command


@pytest.fixture
def project_folder(tmp_path):
    (tmp_path / "featurestore.toml").write_text('[project]\nname = "small"\n')
    (tmp_path / "data").mkdir()
    expecting = FEATURES.replace('unit="degF")', 'unit="degF", expect=[NotNull(0.5), InRange(-50, 150)])')
    (tmp_path / "features.py").write_text(expecting.replace("import (", "import (InRange, NotNull,"))
    source(tmp_path, [50.0, 400.0, None])
    return tmp_path


def source(folder, temps):
    hours = [3_600_000_000 * hour for hour in range(len(temps))]
    instants = pa.array(hours, pa.timestamp("us", "UTC"))
    rows = {"origin": ["JFK"] * len(temps), "observed_at": instants, "reported_at": instants}
    rows |= {"temp": pa.array(temps, pa.float64()), "visib": pa.array([1] * len(temps), pa.int32())}
    pq.write_table(pa.table(rows), folder / "data" / "weather.parquet")


def test_a_failing_ingest_from_the_command_line(run, project_folder):
    """Exit 1 and a report; a source that is pulled again is held once; a release accepts; another bad row is another batch."""
    assert run("apply")[0] == 0
    code, _, err = run("ingest", "weather")
    assert (code, "3 rows of weather@v1 are in quarantine, none was accepted" in err) == (1, True)
    assert run("ingest", "weather")[0] == 1
    (listed,) = json.loads(run("quarantine", "list", "--format", "json")[1])["rows"]
    assert (listed["view"], listed["way"], listed["rows"], listed["state"]) == ("weather@v1", "ingest", 3, "held")
    shown = json.loads(run("quarantine", "show", listed["id"][:6])[1])
    assert (shown["breaches"][0]["examples"][0]["place"], shown["state"]) == ("$.rows[1]", "held")
    assert run("quarantine", "release", listed["id"], "--reason", " ")[0] == 2
    code, _, err = run("quarantine", "release", listed["id"], "--reason", "a hot day")
    assert (code, "3 of 3 rows accepted" in err) == (0, True)
    assert run("quarantine", "release", listed["id"], "--reason", "again")[0] == 1
    assert run("quarantine", "drop", "ffff0", "--reason", "x")[0] == 4
    assert run("quarantine", "drop", listed["id"])[0] == 2
    code, out, _ = run("ingest", "weather", "--format", "json")
    assert (code, json.loads(out)["rows"][0]["repeated"]) == (0, 3)
    source(project_folder, [50.0, 400.0, None, 500.0, 20.0])
    assert run("ingest", "weather")[0] == 1
    (listed,) = json.loads(run("quarantine", "list", "--format", "json")[1])["rows"]
    assert listed["rows"] == 2, "rows that are stored are not judged again"
    assert run("quarantine", "drop", listed["id"], "--reason", "typing error")[0] == 0
    assert run("quarantine", "list")[1].strip() == "nothing"
    states = [row["state"] for row in json.loads(run("quarantine", "list", "--all", "--format", "json")[1])["rows"]]
    assert states == ["released", "dropped"]


def test_a_release_keeps_the_write_id(project_folder):
    """Whoever repeats the write afterwards is answered as if it had been accepted at once."""
    with FeatureStore(project_folder) as store:
        store.apply()
        rows = {"origin": ["JFK"], "observed_at": [1], "reported_at": [1], "temp": [999.0], "visib": [1]}
        instants = pa.array([1], pa.timestamp("us", "UTC"))
        rows |= {"observed_at": instants, "reported_at": instants, "visib": pa.array([1], pa.int32())}
        with pytest.raises(QuarantinedError):
            store.write("weather", rows, write_id=b"one")
        (held,) = store.quarantined()
        assert store.release(held.id, reason="true") == 1
        assert store.write("weather", rows, write_id=b"one").accepted == 1
        assert store.quarantined_batch(held.id).history[-1].principal.startswith("local:")
