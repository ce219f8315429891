"""What reading a feature costs, measured by `lineage cost` on a server that runs."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from running_server import NOW, client_of, server, write

from featurestore import FeatureStore, Model
from lineage import Lineage
from lineage.cli import main
from lineage.report import as_html, debt_report

READS = ["activity:score", "weather:temp", "weather:humid"]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("costly") / "project"
    folder.mkdir()
    with server(folder) as (_, ready):
        with client_of(ready) as client:
            write(client, 1)
            rows = {"origin": ["JFK"], "event_timestamp": [NOW], "temp": [1.0], "humid": [2], "note": ["x"]}
            client.write("weather", rows)
        with FeatureStore(folder) as store:
            store.apply([Model("reader", version="1", reads=READS, dataset="rows", label="late")])
        dataset = folder / "store" / "datasets" / "rows"
        dataset.mkdir(parents=True)
        pq.write_table(pa.table({"user_id": [1, 2], "origin": ["JFK", "LGA"]}), dataset / "data.parquet")
        (dataset / "manifest.json").write_text("{}")
        yield folder, f"http://127.0.0.1:{ready['http_port']}"


def cost(capsys, folder, *options):
    with pytest.raises(SystemExit) as stopped:
        main(["cost", "reader@1", "--project", str(folder), "--rounds", "20", *options])
    return stopped.value.code or 0, capsys.readouterr()


def test_reads_are_replayed_with_and_without_each_feature_and_each_view(running, capsys):
    folder, address = running
    code, said = cost(capsys, folder, "--server", address, "--format", "json")
    assert code == 0
    costs = json.loads(said.out)["costs"]
    assert set(costs) == {"activity@v1", "weather@v1", "activity@v1:score", "weather@v1:temp", "weather@v1:humid"}
    for name, one in costs.items():
        assert one["read"]["rounds"] == 20, name
        assert one["read"]["low_us"] <= one["read"]["median_us"] <= one["read"]["high_us"]


def test_the_report_shows_what_was_measured(running, capsys):
    folder, address = running
    cost(capsys, folder, "--server", address)
    lineage = Lineage(folder)
    page = as_html(debt_report(lineage.state(), lineage.policy(), "reader@1"))
    assert f"reads of 2 keys each from {address}" in page
    assert "weather@v1, all of its 3" in page


def test_a_server_that_is_not_there_is_unavailable(running, capsys):
    code, said = cost(capsys, running[0], "--server", "http://127.0.0.1:9")
    assert code == 6
    assert "does not answer" in said.err


def test_what_the_server_refuses_is_said(running, capsys):
    folder, address = running
    code, said = cost(capsys, folder, "--server", f"{address}/nowhere")
    assert code == 5
    assert "refused the read (404)" in said.err
