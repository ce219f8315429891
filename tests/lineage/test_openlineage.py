"""OpenLineage out is what the official classes accept, comes back as the same graph, and events of others join ours."""

import json
import random
import uuid
from contextlib import suppress

import pytest
from conftest import NOW, READ, RegistryFile, flights
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import column_lineage_dataset
from openlineage.client.serde import Serde
from openlineage_classes import check

from lineage import Lineage, Node
from lineage.cli import main
from lineage.instants import DAY
from lineage.openlineage import events_of, told_by

OTHER = "https://example.com/etl"
AT = "2026-05-01T00:00:00+00:00"


@pytest.fixture
def empty(tmp_path):
    """A project of the same name in which nothing is defined."""
    registry = RegistryFile(tmp_path / "empty")
    registry.commit(flights() | {"views": {}, "services": {}, "consumers": {}, "datasets": {}})
    return registry


def run(command, capsys):
    """Run the command line and return what it wrote."""
    with suppress(SystemExit):  # where nothing is wrong it just returns
        main([str(part) for part in command])
    return capsys.readouterr().out


def etl(*, fields=None, name="nightly", inputs=(("postgres://db:5432", "raw.observations"),), outputs=()):
    """Return a run event of another tool, written by the official client."""
    facet = column_lineage_dataset.ColumnLineageDatasetFacet(
        fields={
            out: column_lineage_dataset.Fields(
                inputFields=[
                    column_lineage_dataset.InputField(
                        *read, transformations=[column_lineage_dataset.Transformation(type=kind)]
                    )
                    for read, kind in reads
                ]
            )
            for out, reads in (fields or {}).items()
        }
    )
    event = RunEvent(
        eventType=RunState.COMPLETE,
        eventTime=AT,
        run=Run(runId=str(uuid.uuid5(uuid.NAMESPACE_URL, name))),
        job=Job(namespace="airflow", name=name),
        producer=OTHER,
        inputs=[InputDataset(namespace=ns, name=path) for ns, path in inputs],
        outputs=[
            OutputDataset(namespace=ns, name=path, facets={"columnLineage": facet} if fields else {})
            for ns, path in outputs
        ],
    )
    return json.loads(Serde.to_json(event))


FEEDING = {
    "fields": {
        "temp": [(("postgres://db:5432", "raw.observations", "celsius"), "DIRECT")],
        "humid": [(("postgres://db:5432", "raw.observations", "station"), "INDIRECT")],
    },
    "outputs": (("file", "/lake/data/weather.parquet"),),
}


def test_every_event_is_one_of_the_standard(project, ask):
    project.read("weather@v1:temp")
    project.read("comfort@v1:heat", reader="", principal="svc:night", binding="undeclared")
    kinds = {type(check(event)).__name__ for event in events_of(ask.state())}
    assert kinds == {"RunEvent", "JobEvent", "DatasetEvent"}


@pytest.mark.parametrize(
    "fault",
    [
        lambda e: e["dataset"].pop("namespace"),
        lambda e: e.update(colour="red"),
        lambda e: e["dataset"]["facets"]["schema"].update(columns=[]),
        lambda e: e["dataset"]["facets"]["schema"]["fields"].append({"type": "int64"}),
        lambda e: e.update(eventTime="yesterday"),
    ],
)
def test_the_checker_finds_a_planted_fault(project, ask, fault):
    event = next(e for e in events_of(ask.state()) if "schema" in e.get("dataset", {}).get("facets", {}))
    check(event)
    fault(event)
    with pytest.raises((AssertionError, KeyError, TypeError, ValueError)):
        check(event)


def test_a_view_says_its_schema_owner_and_where_its_columns_come_from(project, ask):
    datasets = {e["dataset"]["name"]: e["dataset"] for e in events_of(ask.state()) if "dataset" in e}
    facets = datasets["view/weather@v2"]["facets"]
    assert [field["name"] for field in facets["schema"]["fields"]] == ["temp", "humid"]
    assert facets["ownership"]["owners"] == [{"name": "ops@example.com", "type": "MAINTAINER"}]
    reads = facets["columnLineage"]["fields"]["temp"]["inputFields"]
    assert {(r["name"], r["field"], r["transformations"][0]["type"]) for r in reads} == {
        ("source/weather", "temp_c", "DIRECT"),
        ("source/weather", "origin", "INDIRECT"),
        ("source/weather", "event_timestamp", "INDIRECT"),
    }


def test_reads_are_one_run_for_each_reader_and_never_one_a_request(project, ask):
    project.read("weather@v1:temp")
    project.read("weather@v1:temp", when=READ + 2 * DAY)
    runs = [event for event in events_of(ask.state()) if "run" in event]
    assert len(runs) == 1
    (read,) = runs[0]["inputs"]
    assert list(read["inputFacets"]["featurestore_lineage"]["features"]) == ["weather@v1:temp"]


def test_what_is_written_comes_back_as_the_same_graph(project, ask, empty, capsys, tmp_path):
    project.read("weather@v1:temp")
    project.read("comfort@v1:heat", reader="", principal="svc:night", binding="undeclared")
    project.bind("svc:idle", "gate_board")
    file = tmp_path / "events.jsonl"
    file.write_text(run(["export", "openlineage", "--project", project.folder], capsys))
    run(["import", "openlineage", file, "--project", empty.folder], capsys)
    there, back = ask.graph(), Lineage(empty.folder, clock=lambda: NOW).graph()
    assert set(back.nodes) == set(there.nodes)
    assert set(back.edges) == set(there.edges)


def test_order_and_repeats_do_not_matter(project, ask, capsys):
    events = [
        *events_of(ask.state()),
        etl(**FEEDING),
        etl(name="dashboard", inputs=(("featurestore://flights", "view/weather@v1"),)),
    ]
    told = []
    for seed in range(5):
        shuffled = [*events, *events[:3]]
        random.Random(seed).shuffle(shuffled)
        found = told_by(enumerate(shuffled, 1), project="flights", origin="x")
        told.append((set(found.edges), set(found.nodes), set(found.events)))
    assert all(one == told[0] for one in told)
    first = ask.take_events(events, origin="a")
    graph = set(ask.graph().edges)
    assert (first.new, ask.take_events(reversed(events), origin="b").new) == (len(events), 0)
    assert set(ask.graph().edges) == graph


def test_another_tools_run_says_where_our_source_comes_from(project, ask):
    before = set(ask.graph().edges)
    ask.take_events([etl(**FEEDING)], origin="etl.jsonl")
    upstream = ask.upstream("weather@v1:temp").nodes
    assert Node("column", "postgres://db:5432/raw.observations.celsius") in upstream
    assert Node("source", "postgres://db:5432/raw.observations") in upstream
    new = {str(edge) for edge in set(ask.graph().edges) - before if edge.kind.startswith("derives")}
    assert new == {
        "column:postgres://db:5432/raw.observations.celsius -[derives]-> column:weather.temp",
        "column:postgres://db:5432/raw.observations.station -[derives_indirect]-> column:weather.humid",
    }


def test_another_tools_job_that_reads_a_view_is_hit_by_its_change(project, ask):
    reading = etl(name="dashboard", inputs=(("featurestore://flights", "view/weather@v1"),), outputs=(("bi", "board"),))
    ask.take_events([reading], origin="etl.jsonl")
    assert {"airflow/dashboard", "bi/board"} <= {node.name for node in ask.downstream("weather@v1").nodes}


def test_a_run_that_reads_a_source_of_ours_is_a_read_around_the_server(project, ask):
    ask.take_events([etl(name="copy", inputs=(("file", "/lake/data/weather.parquet"),))], origin="etl.jsonl")
    found = [f for f in ask.check(select=["LN109"]).all if "airflow/copy" in f.subject]
    assert found
    assert found[0].evidence[0]["origin"] == "etl.jsonl"


def test_what_is_no_event_is_listed_and_the_rest_is_taken(project, capsys, tmp_path):
    file = tmp_path / "events.jsonl"
    lines = [
        "{",
        "[]",
        '{"eventTime": "2026-01-01T00:00:00Z"}',
        '{"eventTime": "never", "job": {}}',
        json.dumps(etl(**FEEDING)),
    ]
    unknown = etl(name="other") | {"colour": "red"}
    unknown["job"]["facets"] = {"acme_cost": {"_producer": OTHER, "_schemaURL": OTHER, "euro": 3}}
    file.write_text("\n".join([*lines, json.dumps(unknown)]))
    answer = json.loads(run(["import", "openlineage", file, "--project", project.folder, "--format", "json"], capsys))
    assert (answer["events"], [place for place, _ in answer["skipped"]]) == (2, [1, 2, 3, 4])


def test_a_project_of_another_name_is_somebody_else(project, ask):
    events = [
        json.loads(json.dumps(event).replace("featurestore://flights", "featurestore://other"))
        for event in events_of(ask.state())
    ]
    before = set(ask.graph().edges)
    ask.take_events(events, origin="x")
    added = set(ask.graph().edges) - before
    assert added
    assert all("featurestore://other" in f"{edge.upstream}{edge.downstream}" for edge in added)
