"""Every kind of undeclared consumer beyond the plain ones: around the store, shared credentials, unused inputs, code, predictions."""

import json
import sqlite3

import pytest

from lineage import Verdict
from lineage.cells import Cell, cell_of
from lineage.cli import main
from lineage.findings import RULES, Parameters
from lineage.querylog import read_log, tables_read

DECLARED = ["weather@v1:temp", "weather@v1:humid", "plane@v1:seats"]


def flagged(ask, code, **options):
    return [f for f in ask.check(select=[code], **options).all if f.verdict is Verdict.FLAGGED]


@pytest.fixture
def run(registry, capsys):
    def run_command(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([*arguments, "--project", str(registry.folder)])
        return caught.value.code or 0, capsys.readouterr()

    return run_command


LOGS = {
    "queries.jsonl": "\n".join(
        [
            json.dumps(
                {"time": "2026-05-01T10:00:00Z", "user": "bi", "statement": "SELECT temp FROM 'data/weather.parquet'"}
            ),
            json.dumps(
                {
                    "time": "2026-05-01T10:00:00Z",
                    "user": "svc-store",
                    "statement": "SELECT * FROM 'data/planes.parquet'",
                }
            ),
            "not json",
            json.dumps({"time": "2026-05-01T10:00:00Z", "user": "bi", "statement": "SELECT FROM WHERE ("}),
        ]
    ),
    "queries.csv": "query_start,usename,query\n2026-05-01 10:00:00+00,bi,\"select w.temp, 1 from 'data/weather.parquet' w\"\n",
    "s3.log": (
        "79a5 lake [01/May/2026:10:00:00 +0000] 192.0.2.3 arn:aws:iam::1:user/bi 3E57 REST.GET.OBJECT "
        'project/store/offline/weather/v1/part-0.parquet "GET /x" 200 - 1 1 7 - "-" "agent"\n'
        '79a5 lake [01/May/2026:10:00:00 +0000] 192.0.2.3 - 3E58 REST.PUT.OBJECT project/store/offline/plane/v1/a "PUT" 200 -\n'
    ),
}


@pytest.mark.parametrize(
    ("name", "reader", "view"),
    [
        ("queries.jsonl", "principal:bi", "weather@v2"),
        ("queries.csv", "principal:bi", "weather@v2"),
        ("s3.log", "principal:arn:aws:iam::1:user/bi", "weather@v1"),
    ],
)
def test_reads_around_the_store_are_found_in_imported_logs(project, ask, run, tmp_path, name, reader, view):
    log = tmp_path / name
    log.write_text(LOGS[name])
    assert run("import", "queries", str(log))[0] == 0
    first = {f.subject for f in flagged(ask, "LN109", parameters=Parameters(store_principals=frozenset({"svc-store"})))}
    assert first == {f"{reader} reads around {view}"}
    code, captured = run("import", "queries", str(log), "--format", "json")
    assert (code, json.loads(captured.out)["new"]) == (0, 0)


def test_entries_that_are_not_understood_are_counted_and_shown(project, run, tmp_path):
    log = tmp_path / "queries.jsonl"
    log.write_text(LOGS["queries.jsonl"])
    assert [line for line, _ in read_log(log).skipped] == [3, 4]
    assert "queries.jsonl:4" in run("import", "queries", str(log))[1].err
    log.write_text("hello\nworld\n")
    assert run("import", "queries", str(log))[0] == 2


def test_a_postgres_table_is_its_source_whatever_schema_is_written(registry, document, ask, run, tmp_path):
    plane = document["views"]["plane"]["versions"]["1"]
    plane["source"] = plane["source"] | {"kind": "postgres", "path": "fleet.planes"}
    registry.commit(document)
    log = tmp_path / "q.csv"
    log.write_text(
        "time,user,statement\n2026-05-01,bi,select seats from planes\n2026-05-01,x,select 1 from other.planes\n"
    )
    run("import", "queries", str(log))
    assert [f.subject for f in flagged(ask, "LN109")] == ["principal:bi reads around plane@v1"]


def test_what_a_statement_names_itself_and_what_it_writes_is_no_read():
    assert tables_read("WITH t AS (SELECT * FROM a) SELECT * FROM t") == {"a"}
    assert tables_read("INSERT INTO b SELECT * FROM a") == {"a"}
    assert tables_read("CREATE TABLE b AS SELECT * FROM read_parquet('x/y.parquet')") == {"x/y.parquet"}
    assert tables_read("SELECT * FROM a WHERE x IN (SELECT y FROM s.b)") == {"a", "s.b"}


def test_a_principal_that_reads_as_two_consumers_is_shared(project, ask):
    project.read("weather@v1:temp", principal="svc")
    project.read("delay_score@v1:score", "gate_board", principal="svc")
    (finding,) = flagged(ask, "LN110")
    assert finding.subject == "principal:svc is shared"
    assert "it reads as delay_model, gate_board" in finding.message


def test_versions_of_one_model_and_rotated_credentials_are_not_shared(project, ask):
    project.read("weather@v1:temp", "delay_model@1", principal="svc")
    project.read("weather@v1:temp", "delay_model@2", principal="svc")
    project.read("weather@v1:temp", "delay_model@1", principal="svc-rotated")
    assert flagged(ask, "LN110") == []


@pytest.mark.parametrize(("days", "count"), [(["2026-05-01", "2026-05-02"], 1), (["2026-05-01"], 0)])
def test_clients_that_read_different_features_for_days_are_several_workloads(project, ask, days, count):
    from conftest import at

    for day in days:
        for client, refs in (("host-a", DECLARED[:2]), ("host-b", DECLARED[2:]), ("host-c", DECLARED[:2])):
            for ref in refs:
                project.read(ref, "", principal="svc", binding="undeclared", client=client, when=at(day))
    found = flagged(ask, "LN110")
    assert len(found) == count
    assert all("as 2 workloads would (host-a, host-c; host-b)" in f.message for f in found)


def artefact(project, run, tmp_path, **fields):
    path = tmp_path / "model.json"
    path.write_text(json.dumps({"schema_version": 1, "format": "x", "inputs": [], "used": [], "opaque": ""} | fields))
    assert run("import", "artefact", "delay_model@1", str(path))[0] == 0


def test_a_feature_without_weight_is_fetched_for_nothing(project, ask, run, tmp_path):
    artefact(project, run, tmp_path, inputs=["temp", "weather__humid", "seats"], used=["temp", "seats"])
    (finding,) = flagged(ask, "LN202")
    assert finding.features == ("weather@v1:humid",)
    assert finding.fix == 'Model("delay_model", version="1", reads=["weather@v1:temp", "plane@v1:seats"])'
    artefact(project, run, tmp_path, inputs=["temp", "humid", "seats"], used=["temp", "seats", "humid"])
    assert [f.verdict for f in ask.check(select=["LN202"]).all] == [Verdict.CLEARED]


def test_a_declared_feature_that_is_no_input_is_unused_unless_an_input_is_unknown(project, ask, run, tmp_path):
    artefact(project, run, tmp_path, inputs=["temp", "humid"], used=["temp", "humid"])
    assert [f.features for f in flagged(ask, "LN202")] == [("plane@v1:seats",)]
    artefact(project, run, tmp_path, inputs=["temp", "humid", "scaled_seats"], used=["temp", "humid"])
    assert flagged(ask, "LN202") == []


@pytest.mark.parametrize("fields", [{"opaque": "why"}, {"inputs": ["f0", "f1"], "used": ["f0"]}, {}])
def test_what_a_model_does_not_say_is_left_open(project, ask, run, tmp_path, fields):
    artefact(project, run, tmp_path, **fields)
    assert [f.verdict for f in ask.check(select=["LN202"]).all] == [Verdict.UNDETERMINED]


def scan(run, tmp_path, *references, repository="shop", unresolved=()):
    path = tmp_path / "scan.json"
    entries = [{"line": 3, "column": 1, "confidence": "literal", **reference} for reference in references]
    path.write_text(json.dumps({"repository": repository, "references": entries, "unresolved": list(unresolved)}))
    assert run("import", "scan", str(path))[0] == 0


def cell(ask, consumer, feature):
    (found,) = [a for a in ask.cells() if (a.consumer, a.feature) == (consumer, feature)]
    return found.cell


def test_all_eight_cells_have_a_name_of_their_own():
    flags = [False, True]
    assert {cell_of(declared=d, coded=c, observed=o) for d in flags for c in flags for o in flags} == set(Cell)


def test_declared_coded_and_observed_give_the_named_cells(project, document, ask, run, tmp_path):
    for key in ("delay_model@1", "gate_board"):
        document["consumers"][key]["tags"] = {"code": key.partition("@")[0]}
    project.commit(document, revision=2)
    project.read("weather@v1:temp")
    project.read("weather@v1:humid")
    project.read("comfort@v1:heat")
    project.read("weather@v2:temp")
    scan(
        run,
        tmp_path,
        {"file": "delay_model/serve.py", "kind": "feature", "ref": "weather@v1:temp"},
        {"file": "delay_model/serve.py", "kind": "feature", "ref": "plane:seats"},
        {"file": "delay_model/serve.py", "kind": "feature", "ref": "comfort@v1:heat"},
        {"file": "delay_model/old.py", "kind": "feature", "ref": "comfort@v1:damp"},
        {"file": "delay_model/old.py", "kind": "service", "ref": "nothing"},
    )
    assert cell(ask, "delay_model@1", "weather@v1:temp") is Cell.HEALTHY
    assert cell(ask, "delay_model@1", "weather@v1:humid") is Cell.CODE_ELSEWHERE
    assert cell(ask, "delay_model@1", "plane@v1:seats") is Cell.CODED_NOT_RUNNING
    assert cell(ask, "delay_model@1", "comfort@v1:heat") is Cell.UNDECLARED_LOCATED
    assert cell(ask, "delay_model@1", "weather@v2:temp") is Cell.UNDECLARED_UNKNOWN_CODE
    assert cell(ask, "delay_model@1", "comfort@v1:damp") is Cell.DORMANT_REFERENCE
    assert cell(ask, "gate_board", "delay_score@v1:score") is Cell.DEAD_DECLARATION
    (finding,) = flagged(ask, "LN105")
    assert "It is in the code at delay_model/serve.py:3." in finding.message
    assert {f.features for f in flagged(ask, "LN203")} == {("comfort@v1:damp",)}
    assert {f.features for f in flagged(ask, "LN204")} == {("plane@v1:seats",)}


def test_a_new_scan_takes_the_place_of_the_one_before(project, ask, run, tmp_path):
    scan(run, tmp_path, {"file": "a.py", "kind": "feature", "ref": "comfort@v1:damp"})
    assert flagged(ask, "LN203")
    scan(run, tmp_path)
    assert flagged(ask, "LN203") == []


def test_after_a_promote_both_findings_give_one_line(project, ask):
    """A reader that follows `current` reads v2 while its manifest says v1: the two findings on it agree."""
    for ref in ("weather@v2:temp", "weather@v2:humid", "plane@v1:seats"):
        project.read(ref)
    both = [*flagged(ask, "LN106"), *flagged(ask, "LN201")]
    model = [f for f in both if f.subject.startswith("delay_model@1")]
    assert {f.rule.code for f in model} == {"LN106", "LN201"}
    assert {f.fix for f in model} == {
        'Model("delay_model", version="1", reads=["plane@v1:seats", "weather@v2:humid", "weather@v2:temp"])'
    }
    assert "it reads weather@v2 instead" in next(f for f in model if f.rule.code == "LN201").message


def test_one_finding_for_a_reader_and_a_view_whatever_the_number_of_features(registry, document, ask):
    names = [f"f{number:02}" for number in range(36)]
    plane = document["views"]["plane"]["versions"]["1"]
    plane["features"] = [plane["features"][0] | {"name": name, "column": name} for name in names]
    document["consumers"], document["services"], document["datasets"] = {}, {}, {}
    registry.commit(document)
    registry.segment()
    for name in names:
        registry.read(f"plane@v1:{name}", "", principal="svc", binding="undeclared")
    (finding,) = flagged(ask, "LN103")
    assert len(finding.features) == len(finding.evidence) == 36


def test_definition_rules_run_when_they_are_selected(project, ask):
    assert {f.rule.code for f in ask.check().all}.isdisjoint({rule.code for rule in RULES if not rule.default})
    found = {(f.rule.name, f.subject) for f in flagged(ask, "LN3")}
    assert ("no_unit", "weather@v1") in found
    assert ("dead_view", "comfort@v1") in found
    assert ("dead_view", "weather@v1") not in found
    project.segment("w2", 3)
    assert not flagged(ask, "LN309")


def test_a_damaged_file_of_imports_is_an_error_with_its_name(project, run):
    project.path.with_name("lineage.db").write_text("no database " * 100)
    code, captured = run("check")
    assert code == 3
    assert "lineage.db" in captured.err


def test_imports_of_another_table_layout_are_refused(project, run):
    connection = sqlite3.connect(project.path.with_name("lineage.db"))
    connection.execute("CREATE TABLE accesses (x)")
    connection.close()
    assert run("check")[0] == 3
