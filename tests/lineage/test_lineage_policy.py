"""What a project sets: suppressions that end, a baseline, SARIF, selections, and the impact of what changed since a revision."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import at

from lineage import InvalidQuestionError, NotFoundError
from lineage.cli import main
from lineage.errors import InvalidPolicyError

SUPPRESS = """
[[suppress]]
rule = "LN105"
subject = "delay_model@*"
reason = "moves next week"
owner = "ml@example.com"
until = {until}
"""


@pytest.fixture
def run(registry, capsys):
    def run_command(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([*arguments, "--project", str(registry.folder)])
        captured = capsys.readouterr()
        return caught.value.code or 0, captured.out, captured.err

    return run_command


@pytest.fixture
def undeclared(project):
    project.read("comfort@v1:heat")
    return project


def policy(project, text):
    (project.folder / "lineage.toml").write_text(text)


@pytest.mark.parametrize(
    ("until", "counts"), [("2026-06-01", False), ("2026-05-31", True), ('"2026-05-31T23:59:59Z"', True)]
)
def test_a_suppressed_finding_counts_again_after_its_last_day(undeclared, ask, until, counts):
    policy(undeclared, SUPPRESS.format(until=until))
    found = ask.check(select=["LN105"])
    assert bool(found.flagged()) is counts
    (finding,) = [f for f in found.all if f.rule.code == "LN105"]
    assert bool(finding.suppressed) is not counts
    assert counts or "moves next week (ml@example.com, until 2026-06-02" in finding.suppressed


def test_one_identity_can_be_suppressed_and_no_other(undeclared, ask):
    undeclared.read("weather@v2:temp")
    heat = next(f for f in ask.check(select=["LN105"]).flagged())
    policy(
        undeclared,
        SUPPRESS.format(until="2027-01-01").replace(
            'rule = "LN105"\nsubject = "delay_model@*"', f'finding = "{heat.id}"'
        ),
    )
    assert {f.rule.code for f in ask.check(select=["LN1"]).flagged()} == {"LN106"}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("selct = []", "no setting 'selct'"),
        ("minimum_days = true", "minimum_days is True"),
        ("[[suppress]]\nrule = 'LN105'\nsubject = '*'\nowner = 'x'\nuntil = 2026-01-01", "no reason in suppression 1"),
        ("[[suppress]]\nrule = 'LN105'\nsubject = '*'\nreason = 'r'\nowner = 'x'", "no until"),
        ("[[suppress]]\nreason = 'r'\nowner = 'x'\nuntil = 2026-01-01", "Nothing says what"),
        ("[[suppress]]\nrule = 'LN105'\nsubject = '*'\nreason = 'r'\nowner = 'x'\nuntil = 'soon'", "until is 'soon'"),
        ("= 3", "no TOML"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(project, run, text, match):
    policy(project, text)
    code, _, err = run("check")
    assert code == 3
    assert match in err


def test_the_rules_and_days_of_a_policy_hold_unless_the_command_says_else(project, run):
    policy(project, 'select = ["LN2"]\nminimum_days = 100000')
    found = json.loads(run("check", "--format", "json")[1])["findings"]
    assert {f["code"] for f in found} == {"LN201"}
    assert {f["verdict"] for f in found} == {"UNDETERMINED"}
    assert run("check", "--minimum-days", "0")[0] == 1
    assert run("check", "--select", "LN1")[0] == 0


def test_with_a_baseline_only_what_is_new_counts(undeclared, run, tmp_path):
    path = tmp_path / "baseline.json"
    assert run("check", "--baseline", str(path))[0] == 3
    assert run("check", "--write-baseline", str(path))[0] == 0
    assert run("check", "--baseline", str(path))[0] == 0
    undeclared.read("weather@v2:temp")
    code, out, _ = run("check", "--baseline", str(path))
    assert code == 1
    assert "LN106" in out
    assert "LN105" not in out
    path.write_text("{}")
    assert run("check", "--baseline", str(path))[0] == 3


def test_sarif_names_rules_fingerprints_and_suppressions(undeclared, run):
    policy(undeclared, SUPPRESS.format(until="2100-01-01"))
    undeclared.read("weather@v2:temp")
    code, out, _ = run("check", "--format", "sarif")
    document = json.loads(out)
    (sarif,) = document["runs"]
    assert (code, document["version"]) == (1, "2.1.0")
    results = {result["ruleId"]: result for result in sarif["results"]}
    assert results["LN105"]["suppressions"][0]["justification"].startswith("moves next week")
    assert "suppressions" not in results["LN106"]
    assert {rule["id"] for rule in sarif["tool"]["driver"]["rules"]} >= set(results)
    for result in sarif["results"]:
        assert result["partialFingerprints"]["lineage/v1"].startswith(result["ruleId"])
        assert result["locations"][0]["physicalLocation"]["region"]["startLine"] >= 1


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ("weather@v1:temp", {"weather@v1:temp"}),
        ("view:weather.temp", {"weather@v1:temp", "weather@v2:temp"}),
        ("+delay_model@1 and kind:source", {"source:weather", "source:planes"}),
        (
            "source:planes+1",
            {
                "source:planes",
                "plane@v1",
                "column:planes.seats",
                "column:planes.tailnum",
                "column:planes.event_timestamp",
            },
        ),
        ("owner:fleet and kind:view", {"plane@v1"}),
        ("plane@v1:seats+ and not kind:feature and owner:gates@example.com", {"gate_board"}),
        ("(owner:gates or owner:fleet) and kind:consumer", {"gate_board"}),
        ("status:deprecated", set()),
        ("tag:team=risk", {"plane@v1", "plane@v1:seats"}),
    ],
)
def test_selections(registry, document, ask, selection, expected):
    document["views"]["plane"]["versions"]["1"]["tags"] = {"team": "risk"}
    registry.commit(document)
    assert set(map(str, ask.select(selection))) == expected


@pytest.mark.parametrize("selection", ["", "and", "weather and", "(weather", "weather weather", "+"])
def test_a_selection_that_cannot_be_read_says_where(project, ask, selection):
    with pytest.raises(InvalidQuestionError):
        ask.select(selection)
    with pytest.raises(NotFoundError, match="Did you mean"):
        ask.select("+wether@v1")


def test_names_are_completed(project, monkeypatch):
    from lineage.cli.terminal import complete_object

    monkeypatch.setenv("FEATURESTORE_PROJECT", str(project.folder))
    assert complete_object("weather@v1:") == ["weather@v1:humid", "weather@v1:temp"]
    assert complete_object("source:") == ["source:delay_score", "source:planes", "source:weather"]
    monkeypatch.setenv("FEATURESTORE_PROJECT", "/nowhere")
    assert complete_object("w") == []


def changed(document):
    """The flights document with a break of every kind: a unit, a meaning, a feature that is gone, a status, a ttl."""
    weather = document["views"]["weather"]
    second = weather["versions"]["2"]
    third = json.loads(json.dumps(second))
    third["features"] = [third["features"][0] | {"unit": "degC", "fingerprint": "other"}]
    weather["versions"]["3"], weather["current"] = third, 3
    plane = document["views"]["plane"]
    plane["versions"]["2"] = json.loads(json.dumps(plane["versions"]["1"])) | {"ttl": 3_600_000_000}
    score = document["views"]["delay_score"]
    score["versions"]["2"] = json.loads(json.dumps(score["versions"]["1"]))
    score["versions"]["2"]["features"][0]["fingerprint"] = "other"
    score["versions"]["1"]["status"] = "deprecated"
    return document


def test_what_changed_since_a_revision_and_whom_it_hits(project, document, ask, run):
    project.commit(changed(document), revision=2, when=at("2026-04-01"))
    project.read("plane@v1:seats")
    found = ask.impact_since("1")
    kinds = {(broken.object, broken.kind) for broken, _ in found.hits}
    assert kinds == {
        ("weather@v2:temp", "schema"),
        ("weather@v2:humid", "remove"),
        ("plane@v1", "freshness"),
        ("delay_score@v1:score", "meaning"),
        ("delay_score@v1", "remove"),
    }
    assert found.severity == "medium"
    hits = {broken.object: hit for broken, hit in found.hits}
    assert [str(live.reader) for live in hits["plane@v1"].live] == ["delay_model@1"]
    code, out, _ = run("impact", "--since", "1", "--format", "markdown")
    assert code == 1
    assert (
        "| **freshness** `plane@v1`: ttl unlimited -> 1 h in plane@v2 | medium | `delay_model@1` (prod, 2026-05-20)"
        in out
    )
    assert "gates@example.com" in out
    assert run("impact", "--since", "1", "--fail-on", "high")[0] == 0
    assert json.loads(run("impact", "--since", "1", "--format", "json")[1])["severity"] == "medium"


def test_nothing_changed_is_a_yes_and_no_question_is_an_error(project, run):
    code, out, _ = run("impact", "--since", "1", "--format", "markdown")
    assert (code, "Nothing changed" in out) == (0, True)
    assert run("impact")[0] == 2


def test_a_gap_fails_the_gate_whatever_its_severity(project, run):
    project.segment("w2", 3)
    assert run("impact", "weather@v2", "--fail-on", "high")[0] == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_a_registry_in_wal_mode_is_read_in_a_folder_that_is_read_only(project):
    """Another user, who may read everything and write nothing, asks; SQLite cannot make its files beside the registry."""
    connection = sqlite3.connect(project.path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    folder = Path(tempfile.mkdtemp())
    try:
        shutil.copytree(project.folder, folder / "project")
        folder.chmod(0o755)
        lines = [
            "import os, sys, sqlite3",
            "from lineage.project import Lineage",
            "os.setgid(65534); os.setuid(65534)",
            "path = sys.argv[1] + '/store/registry.db'",
            "try: sqlite3.connect(f'file:{path}?mode=ro', uri=True).execute('SELECT 1 FROM commits')",
            "except sqlite3.OperationalError: print('not as it is')",
            "print(len(Lineage(sys.argv[1]).consumers().relations))",
        ]
        command = [sys.executable, "-c", "\n".join(lines), str(folder / "project")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.stderr, done.stdout) == ("", "not as it is\n4\n")
    finally:
        shutil.rmtree(folder)


def test_the_policy_error_keeps_its_file(project, ask):
    policy(project, "x = 1")
    with pytest.raises(InvalidPolicyError) as caught:
        ask.check()
    assert caught.value.path == project.folder / "lineage.toml"


def test_two_versions_of_a_model_differ_by_what_they_read_how_it_is_defined_and_what_is_unused(project, document, ask):
    weather = document["views"]["weather"]["versions"]
    weather["2"]["features"][0] |= {"unit": "degC", "fingerprint": "other"}
    weather["2"]["ttl"] = 7_200_000_000
    model = document["consumers"]["delay_model@1"]
    document["consumers"]["delay_model@2"] = model | {
        "version": "2",
        "reads": ["weather@v2:temp", "plane@v1:seats"],
        "services": [],
    }
    project.commit(document, revision=2)
    project.read("weather@v2:temp", "delay_model@2")
    found = ask.diff("delay_model@1", "delay_model@2")
    assert found.versions == (("weather@v1:temp", "weather@v2:temp"),)
    assert {what for _, what in found.definitions} == {
        "unit - -> degC",
        "columns temp -> temp_c",
        "ttl - -> 2 h",
    }
    assert found.removed == ("weather@v1:humid",)
    assert found.unused == ("plane@v1:seats",)
    same = ask.diff("delay_model@2", "delay_model@2")
    assert (same.definitions, same.settings, same.added, same.removed, same.versions) == ((), {}, (), (), ())


def test_the_hook_and_the_step_for_ci_run_as_they_are_shown(undeclared, tmp_path):
    """The commands of the page on CI, with a real shell: they fail on a finding and write what the host shows."""
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "check-in-ci.md").read_text("utf-8")
    hook, step = page.split("```sh\n")[1].split("```")[0], page.split("```sh\n")[2].split("```")[0]
    programs = Path(sys.executable).parent
    settings = os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "FEATURESTORE_PROJECT": str(undeclared.folder),
        "BASE_REVISION": "1",
    }
    for script, code in ((hook, 1), (step, 1)):
        done = subprocess.run(
            ["sh", "-e", "-c", script], cwd=tmp_path, env=settings, capture_output=True, text=True, check=False
        )
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert json.loads((tmp_path / "lineage.sarif").read_text())["runs"]
    assert (tmp_path / "impact.md").read_text().startswith("### What changed from revision 1")


def test_a_scan_of_code_goes_into_the_findings_as_it_is_written(project, ask, run, tmp_path):
    code = tmp_path / "shop"
    code.mkdir()
    (code / "serve.py").write_text(
        'from featurestore import FeatureStore\nstore = FeatureStore(".", consumer="delay_model@1")\n'
        'store.get_online_features(features=["comfort@v1:heat"], keys={})\n'
    )
    project.read("comfort@v1:heat")
    (tmp_path / "scan.json").write_text(json.dumps(scan_of(code)))
    assert run("import", "scan", str(tmp_path / "scan.json"))[0] == 0
    (finding,) = ask.check(select=["LN105"]).flagged()
    assert "It is in the code at serve.py:3." in finding.message


def scan_of(folder):
    done = subprocess.run(
        [sys.executable, "-m", "lineage.cli", "scan", str(folder), "--format", "json"],
        capture_output=True,
        text=True,
        check=False,
    )
    return json.loads(done.stdout)
