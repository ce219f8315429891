"""The `featurestore` command: answers, exit codes, and errors that say what to do."""

import json

import pytest
from small_project import FEATURES

from featurestore.cli import main


@pytest.fixture
def run(project, capsys, monkeypatch):
    """Run the command in the project's folder; return (exit code, standard output, standard error)."""
    monkeypatch.chdir(project)

    def command(*arguments):
        with pytest.raises(SystemExit) as done:
            main(list(arguments))
        captured = capsys.readouterr()
        return done.value.code, captured.out, captured.err

    return command


def test_the_main_job_from_the_command_line(run, project):
    code, out, err = run("plan")
    assert (code, "create       view weather@v1" in out, "Run `featurestore apply`" in err) == (0, True, True)
    assert run("apply", "-m", "first")[0] == 0
    assert run("ingest")[1].split()[-7:] == ["3", "3", "0", "0", "0", "0", "0"]
    assert run("materialize")[0] == 0
    code, out, _ = run("get", "model_features", "-k", "origin=JFK", "-r", "bonus=1.5", "--format", "json")
    answer = json.loads(out)
    assert (code, answer["features"]["felt"], answer["statuses"]["felt"]) == (0, [57.0], ["PRESENT"])
    (project / "spine.csv").write_text("origin,event_timestamp\nJFK,2026-05-01T12:00:00Z\n")
    code, out, err = run("training-set", "spine.csv", "weather:temp", "--out", "train.parquet", "--save", "first")
    assert (code, json.loads(out)["rows"], "matched" in err) == (0, 1, True)
    assert (project / "train.parquet").exists()
    assert run("datasets", "verify", "first")[0] == 0
    assert run("doctor")[0] == 0


def test_a_second_apply_has_nothing_to_do(run):
    run("apply")
    assert "Nothing to do" in run("plan")[1]


def test_json_carries_its_schema_version(run):
    run("apply")
    for command in (["plan"], ["list"], ["list", "services"], ["search", "temp"], ["token", "list"]):
        assert json.loads(run(*command, "--format", "json")[1])["schema_version"] == 1
    assert json.loads(run("show", "weather@v1")[1])["view"] == "weather@v1"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["get", "weather:tmep", "-k", "origin=JFK"], 4, "Did you mean 'weather@v1:temp'"),
        (["get", "model_featurs"], 4, "Did you mean 'model_features'"),
        (["get", "weather:temp", "-k", "orign=JFK"], 4, "Did you mean 'origin'"),
        (["get", "weather:temp", "-k", "origin"], 2, "is not column=value"),
        (["get", "weather:temp", "-k", "origin=JFK"], 1, "featurestore materialize weather"),
        (["get", "payments:sum_amount_30000d", "-k", "user_id=1001.7"], 2, "is not int64"),
        (["ingest", "payments"], 1, "featurestore write payments@v1"),
        (["show", "wether"], 4, "Did you mean 'weather'"),
        (["promote", "weather@v7"], 4, "weather@v1"),
        (["retire", "weather@v1"], 1, "model@1 declares it"),
        (["token", "bind", "svc", "modle@1"], 4, "Did you mean 'model@1'"),
        (["token", "revoke", "nobody"], 4, "No token"),
        (["datasets", "verify", "none"], 4, "No dataset 'none'"),
        (["write", "payments", "rows.parquet"], 4, "No file"),
        (["replay", "--since", "2026-01-01", "--until", "2026-01-02"], 1, "system clock"),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_what_goes_wrong_is_said_with_its_repair(run, arguments, code, said):
    run("apply")
    found, _, err = run(*arguments)
    assert (found, said in err) == (code, True), err
    assert "Traceback" not in err


def test_an_impossible_definition_exits_with_3(run, project):
    (project / "features.py").write_text(FEATURES.replace("weather.parquet", "wether.parquet"))
    code, _, err = run("plan")
    assert (code, "Did you mean 'data/weather.parquet'" in err) == (3, True)


def test_an_unknown_setting_exits_with_3(run, project):
    (project / "featurestore.toml").write_text('[project]\nname = "x"\n[serving]\nworker = 2\n')
    code, _, err = run("plan")
    assert (code, "Did you mean 'workers'" in err) == (3, True)


def test_no_project_exits_with_4(run, tmp_path, monkeypatch):
    empty = tmp_path / "elsewhere"
    empty.mkdir()
    monkeypatch.chdir(empty)
    monkeypatch.setenv("FEATURESTORE_PROJECT", str(empty))
    code, _, err = run("plan")
    assert (code, "featurestore init" in err) == (4, True)


def test_init_makes_a_project_once(run, tmp_path, monkeypatch):
    assert run("init", "fresh")[0] == 0
    assert sorted(path.name for path in (tmp_path / "fresh").iterdir()) == ["features.py", "featurestore.toml"]
    assert run("init", "fresh")[0] == 2


def test_a_token_is_shown_once_and_listed_without_its_secret(run):
    run("apply")
    code, secret, _ = run("token", "create", "svc", "--principal", "svc-model", "--role", "reader")
    run("token", "bind", "svc-model", "model@1")
    listed = run("token", "list")[1]
    assert (code, secret.startswith("fst_")) == (0, True)
    assert "svc-model" in listed
    assert "model@1" in listed
    assert secret.strip() not in listed


@pytest.mark.parametrize(
    ("line", "said"),
    [("1 / 0", "ZeroDivisionError: division by zero"), ("open('/nonexistent')", "No such file")],
)
def test_an_unforeseen_error_of_features_py_names_its_line_and_shows_no_traceback(run, project, line, said):
    path = project / "features.py"
    path.write_text(f"{FEATURES}\n{line}\n")
    code, _, err = run("plan")
    assert (code in (1, 3), said in err, "Traceback" in err) == (True, True, False)
    assert f"{path}:{len(path.read_text().splitlines())}" in err


def test_a_registry_driver_that_is_not_there_is_no_traceback(run, project):
    (project / "featurestore.toml").write_text('[project]\nname = "p"\n[registry]\nurl = "nosuch://x/y"\n')
    code, _, err = run("list")
    assert (code != 0, "nosuch" in err, "Traceback" in err) == (True, True, False)


def test_get_tells_a_view_from_a_service_and_names_options_as_they_are_written(run):
    run("apply")
    code, _, err = run("get", "weather", "-k", "origin=JFK")
    assert (code, "'weather' is a view" in err, "weather:temp" in err) == (2, True, True)


def test_a_consumer_that_is_not_registered_is_noted(run):
    run("apply")
    assert (
        "no consumer 'nobody@1' is registered"
        in run("get", "weather:temp", "-k", "origin=JFK", "--consumer", "nobody@1")[2]
    )


def test_doctor_finds_files_that_are_missing_or_cut(run, project):
    run("apply")
    run("ingest", "weather")
    first = next((project / "store" / "offline" / "weather").rglob("*.parquet"))
    whole = first.read_bytes()
    first.write_bytes(whole[:50])
    code, out, _ = run("doctor")
    assert (code, "has 50 bytes" in out, first.name in out) == (1, True, True)
    first.unlink()
    code, out, _ = run("doctor")
    assert (code, "is missing" in out, first.name in out) == (1, True, True)
    first.write_bytes(b"0" * len(whole))
    code, out, _ = run("doctor")
    assert (code, "is damaged" in out, first.name in out) == (1, True, True)


def test_two_features_of_a_name_are_told_the_option_and_not_the_argument(run, project):
    run("apply")
    path = project / "features.py"
    path.write_text(path.read_text().replace('unit="degF"', 'unit="degC"'))
    run("apply")
    code, _, err = run("get", "weather@v1:temp", "weather@v2:temp", "-k", "origin=JFK")
    assert (code, "Ask with --full-feature-names." in err) == (2, True)


def test_a_port_that_cannot_be_is_a_usage_error(run):
    assert run("serve", "--grpc-port", "99999")[0] == 2
