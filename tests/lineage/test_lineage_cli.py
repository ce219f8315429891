"""The command line: exit codes, streams, JSON, and what it must not import."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from lineage.cli import commands, main

GOLDEN = Path(__file__).parent / "golden"
AS_OF = "2026-06-01T00:00:00Z"
HEAVY = {
    "numpy",
    "grpc",
    "pyarrow",
    "duckdb",
    "polars",
    "numba",
    "networkx",
    "sqlalchemy",
    "fastapi",
    "sqlglot",
    "rich",
}


@pytest.fixture
def run(registry, capsys):
    """Run a command on the project; return exit code, standard output and standard error."""

    def run_command(*arguments, project=registry.folder, as_of=AS_OF):
        when = ["--as-of", as_of] if as_of else []
        with pytest.raises(SystemExit) as caught:
            main([*arguments, "--project", str(project), *when])
        captured = capsys.readouterr()
        return caught.value.code or 0, captured.out, captured.err

    return run_command


@pytest.fixture
def busy(project):
    """The flights project with reads of every kind."""
    project.bind("svc", "delay_model@1")
    project.read("weather@v1:temp", calls=12)
    project.read("comfort@v1:heat", calls=3)
    project.read("delay_score@v1:score", "", principal="dave", binding="undeclared", calls=2)
    return project


COMMANDS = {
    "consumers": (["consumers", "weather@v1:temp"], 0),
    "upstream": (["upstream", "weather@v1:temp"], 0),
    "downstream": (["downstream", "plane@v1:seats", "--depth", "2"], 0),
    "path": (["path", "source:planes", "gate_board"], 0),
    "impact": (["impact", "plane@v1:seats"], 1),
    "usage": (["usage", "delay_model@1"], 0),
    "check": (["check"], 1),
    "declare": (["declare", "delay_model@1"], 0),
    "diff": (["diff", "delay_model@1", "delay_model@1"], 0),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_json_is_as_published(busy, run, command):
    arguments, expected_code = COMMANDS[command]
    code, out, _ = run(*arguments, "--format", "json")
    answer = json.loads(out)
    assert answer["elapsed_ms"] >= 0
    answer["elapsed_ms"] = 0
    assert code == expected_code
    assert answer == json.loads((GOLDEN / f"{command}.json").read_text())


@pytest.mark.parametrize("command", COMMANDS)
def test_text_is_as_published(busy, run, command):
    arguments, expected_code = COMMANDS[command]
    code, out, _ = run(*arguments)
    assert code == expected_code
    assert out == (GOLDEN / f"{command}.txt").read_text()


def test_export_writes_three_forms(busy, run):
    graph = json.loads(run("export")[1])
    ids = {node["id"] for node in graph["nodes"]}
    assert {"feature:weather@v1:temp", "consumer:delay_model@1", "principal:dave"} <= ids
    assert all(edge["upstream"] in ids and edge["downstream"] in ids for edge in graph["edges"])
    assert run("export", "--format", "dot")[1].startswith("digraph lineage {")
    mermaid = run("export", "--format", "mermaid")[1]
    assert mermaid.startswith("flowchart LR\n")
    assert mermaid.count("-->") == len(graph["edges"])


def test_explain_shows_one_finding_with_its_evidence(busy, run):
    findings = json.loads(run("check", "--format", "json")[1])["findings"]
    chosen = next(finding for finding in findings if finding["code"] == "LN107")
    code, out, _ = run("explain", chosen["id"])
    assert code == 0
    assert "evidence: type=usage, feature=delay_score@v1:score, principal=dave" in out
    assert re.search(r"last_read=\d{4}-\d\d-\d\dT", out)
    assert json.loads(run("explain", chosen["id"], "--format", "json")[1])["finding"] == chosen


def test_check_fails_from_the_severity_that_was_asked_for(project, run):
    for ref in ("weather@v1:temp", "weather@v1:humid"):
        project.read(ref)
    project.read("delay_score@v1:score", "gate_board", principal="board")
    assert run("check")[0] == 1
    assert run("check", "--fail-on", "medium")[0] == 0
    assert run("check", "--select", "LN1")[0] == 0
    assert run("check", "--minimum-days", "1000")[0] == 0


def test_undetermined_does_not_fail_a_check_and_is_shown(project, run):
    project.segment("w2", 5, start="2026-05-01", end="2026-05-02")
    code, out, err = run("check", "--fail-on", "info")
    assert code == 0
    assert "LN100" in out
    assert "usage is incomplete: segments 0 to 4 of worker w2 are missing" in err


def test_what_is_cleared_is_shown_when_asked_for(project, run):
    assert "CLEARED medium" not in run("check")[1]
    assert "CLEARED medium" in run("check", "--all")[1]


def test_no_way_is_a_no_and_says_whether_there_is_one_back(project, run):
    code, out, err = run("path", "gate_board", "source:planes")
    assert (code, out) == (1, "")
    assert "There is one the other way" in err
    assert json.loads(run("path", "gate_board", "source:planes", "--format", "json")[1])["found"] is False


def test_impact_on_nothing_is_a_yes(project, run):
    assert run("impact", "weather@v2")[0] == 0


def test_an_ambiguous_name_says_what_else_there_is(project, run):
    code, _, err = run("consumers", "weather")
    assert code == 0
    assert "there is also source:weather" in err


def test_a_cut_answer_says_so(busy, run):
    _, out, err = run("downstream", "source:weather", "--depth", "1")
    assert "cut off" in err
    assert "cut off" not in out
    assert json.loads(run("downstream", "source:weather", "--depth", "1", "--format", "json")[1])["truncated"] is True


def test_exit_codes_of_errors(project, run, document, tmp_path, monkeypatch):
    assert run("consumers", "--nonsense")[0] == 2
    assert run("impact", "weather", "--change", "rename")[0] == 2
    assert run("check", "--select", "LN999")[0] == 2
    assert run("check", as_of="yesterday")[0] == 2
    code, out, err = run("consumers", "wether@v1")
    assert (code, out) == (4, "")
    assert err == "error: No object 'wether@v1'. Did you mean 'weather@v1'?\n"
    assert run("explain", "LN999-0")[0] == 4
    assert run("consumers", project=tmp_path / "nowhere")[0] == 4
    monkeypatch.setattr("os.access", lambda path, *_, **__: not str(path).endswith("registry.db"))
    assert run("consumers")[0] == 5
    monkeypatch.undo()
    project.commit(document | {"schema_version": 9}, revision=2)
    assert run("consumers")[0] == 3
    project.path.write_bytes(b"nonsense" * 500)
    code, _, err = run("consumers")
    assert code == 3
    assert "Traceback" not in err


def test_an_interrupt_is_130(project, run, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("lineage.project.find_project", interrupted)
    assert run("consumers")[0] == 130


def loaded(*arguments):
    """Run a command in a new process; return the names of the modules it imported."""
    code = (
        "import sys\nfrom lineage.cli import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout, done.stderr
    return set(done.stderr.splitlines()[-1].split())


def test_help_imports_nothing_heavy():
    assert loaded("--help").isdisjoint(HEAVY | {"featurestore"})


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["consumers"], "reading"),
        (["impact", "weather"], "reading"),
        (["usage", "weather"], "reading"),
        (["upstream", "delay_model@1", "--depth", "2"], "walking"),
        (["check"], "checking"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_question_loads_its_part_and_no_other(busy, arguments, part):
    names = loaded(*arguments, "--project", str(busy.folder))
    parts = {name.removeprefix("lineage.cli.") for name in names if name.startswith("lineage.cli.")}
    assert parts == {"start", "terminal", part}
    assert names.isdisjoint(HEAVY | {"pydantic", "asyncio", "featurestore"})
    assert ("lineage.findings.checking" in names) == (part == "checking")


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    names = set(get_command(commands()).commands)
    expected = "consumers upstream downstream path impact usage check explain declare diff export"
    assert names >= set(expected.split())
    assert all(f"  {name} " in shown for name in names)


def test_a_version_in_flight_is_named_where_its_view_is_asked_about(project, document, run):
    rollout = {"to": 2, "kind": "canary", "share": 0.1, "moves": ["delay"]}
    views = document["views"] | {"weather": document["views"]["weather"] | {"rollout": rollout}}
    project.commit(document | {"views": views}, revision=2)
    said = "In flight: weather@v2 is read by 10 % of the keys, with delay"
    for command in (["consumers", "weather@v1:temp"], ["consumers"], ["impact", "weather@v1:temp"]):
        assert said in run(*command, as_of=None)[1]
        asked = json.loads(run(*command, "--format", "json", as_of=None)[1])
        assert asked["rollouts"] == [{"view": "weather@v2", **{k: rollout[k] for k in ("kind", "share", "moves")}}]
    assert "In flight" not in run("consumers", "plane@v1:seats", as_of=None)[1]
