"""Opening a registry: what is missing, foreign, newer or broken is said plainly; as-of reads what was true then."""

import json
import os
import sqlite3
import sys

import pytest

import lineage
from lineage import (
    CorruptRegistryError,
    InvalidQuestionError,
    Lineage,
    MissingRegistryError,
    NewerSchemaError,
    UnavailableError,
)
from lineage.errors import NotAllowedError
from lineage.log import read_change_log

DAY = 86_400_000_000


def test_a_project_without_a_registry_says_to_apply(tmp_path):
    with pytest.raises(MissingRegistryError, match="featurestore apply") as caught:
        Lineage(tmp_path).consumers()
    assert caught.value.path == tmp_path / "store" / "registry.db"


def test_a_registry_without_a_commit_says_to_apply(registry, ask):
    with pytest.raises(MissingRegistryError, match="Nothing was applied"):
        ask.consumers()


def test_a_folder_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(MissingRegistryError, match="no folder"):
        Lineage(tmp_path / "nowhere")


def test_the_project_is_found_from_a_folder_below_it(project, monkeypatch):
    below = project.folder / "notebooks" / "deep"
    below.mkdir(parents=True)
    monkeypatch.delenv("FEATURESTORE_PROJECT", raising=False)
    monkeypatch.chdir(below)
    assert Lineage().project == project.folder


def test_the_environment_names_the_project(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEATURESTORE_PROJECT", str(project.folder))
    assert Lineage().state().snapshot.project == "flights"


def test_no_project_anywhere_says_how_to_name_one(tmp_path, monkeypatch):
    monkeypatch.delenv("FEATURESTORE_PROJECT", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingRegistryError, match="--project"):
        Lineage()


def test_a_file_that_is_not_sqlite_is_refused(registry, ask):
    registry.path.write_bytes(b"PAR1" * 1000)
    with pytest.raises(CorruptRegistryError, match="is not a registry"):
        ask.consumers()


def test_a_foreign_sqlite_file_is_refused_with_what_it_lacks(registry, ask):
    registry.path.unlink()
    connection = sqlite3.connect(registry.path)
    connection.execute("CREATE TABLE commits (id INTEGER)")
    connection.close()
    with pytest.raises(CorruptRegistryError, match="no table bindings, usage_daily, usage_segments"):
        ask.consumers()


def test_a_table_with_other_columns_is_refused(registry, ask):
    registry._run("DROP TABLE commits; CREATE TABLE commits (id INTEGER)")
    with pytest.raises(CorruptRegistryError, match="not as published"):
        ask.consumers()


def test_a_newer_schema_is_refused_with_both_versions(registry, document, ask):
    registry.commit(document | {"schema_version": 2})
    with pytest.raises(NewerSchemaError, match=r"schema version 2.*up to 1") as caught:
        ask.consumers()
    assert (caught.value.found, caught.value.supported) == (2, 1)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"schema_version": "one"}',
        '{"schema_version": 0}',
        '{"schema_version": 1, "project": "p"}',
        '{"schema_version": 1, "project": "p", "entities": {}, "views": {"v": 3}, "services": {}, "consumers": {}, "datasets": {}}',
    ],
)
def test_a_document_that_is_not_as_published_is_refused_with_its_revision(registry, ask, text):
    registry.commit(text)
    with pytest.raises(CorruptRegistryError, match="Revision 1 of"):
        ask.consumers()


def test_a_locked_registry_is_unavailable(project, ask, monkeypatch):
    import lineage.registry

    def locked(*_, **__):
        error = sqlite3.OperationalError("database is locked")
        error.sqlite_errorcode = sqlite3.SQLITE_BUSY
        raise error

    monkeypatch.setattr(lineage.registry.sqlite3, "connect", locked)
    with pytest.raises(UnavailableError, match="locked"):
        ask.consumers()


def test_a_registry_one_may_not_read_is_not_allowed(project, ask, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(NotAllowedError, match="may not read"):
        ask.consumers()


def test_asking_changes_nothing(project, ask):
    before = project.path.read_bytes()
    ask.check()
    ask.impact("weather@v1")
    assert project.path.read_bytes() == before
    assert sorted(p.name for p in project.path.parent.iterdir()) == ["registry.db"]


def test_a_registry_in_wal_mode_that_is_being_written_is_read_as_committed(project, ask, document):
    writer = sqlite3.connect(project.path)
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("INSERT INTO commits VALUES (2, 0, 'alice', '', ?)", (json.dumps(document | {"project": "half"}),))
    assert ask.state().snapshot.project == "flights"
    writer.commit()
    assert ask.state().snapshot.project == "half"
    writer.close()


def test_as_of_reads_a_revision_or_a_time(registry, document, ask):
    from lineage.instants import written

    first = document["committed_at"]
    registry.commit(document)
    changed = json.loads(json.dumps(document))
    del changed["consumers"]["gate_board"]
    registry.commit(changed, when=first + 10 * DAY, revision=2)

    def known(as_of):
        state = Lineage(registry.folder, as_of=as_of, clock=lambda: first + 20 * DAY).state()
        return state.snapshot.revision, "gate_board" in state.snapshot.consumers, state.now

    assert known(None) == (2, False, first + 20 * DAY)
    assert known("1") == (1, True, first + 10 * DAY)
    assert known("2") == (2, False, first + 20 * DAY)
    assert known(written(first + 5 * DAY)) == (1, True, first + 5 * DAY)
    assert known("1d") == (2, False, first + 19 * DAY)
    with pytest.raises(MissingRegistryError, match="as of 2001-01-01"):
        known("2001-01-01")


@pytest.mark.parametrize("text", ["yesterday", "-1", "9" * 30, "3x", "2026-13-01"])
def test_an_as_of_that_is_no_time_is_a_wrong_question(project, text):
    with pytest.raises(InvalidQuestionError):
        Lineage(project.folder, as_of=text).state()


def test_public_names_are_sorted_and_all_there():
    assert sorted(lineage.__all__) == lineage.__all__ == sorted(lineage._HOMES)
    for name in lineage.__all__:
        assert getattr(lineage, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing_such"):
        lineage.nothing_such  # noqa: B018


def test_importing_lineage_loads_none_of_its_modules():
    import subprocess

    code = "import sys, lineage; print([m for m in sys.modules if m.startswith('lineage.')])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_the_change_log_takes_an_object_as_it_is_written(project):
    with sqlite3.connect(project.path) as connection:
        for object_ in ("air_port@v1", "airXport@v1", "load%@v1", "loads@v1"):
            connection.execute("INSERT INTO changes VALUES (1, 0, 'create', ?, '')", (object_,))
        found = {about: read_change_log(connection, about=about, until=2**62) for about in ("air_p", "load%", "")}
    assert [entry.object for entry in found["air_p"]] == ["air_port@v1"]
    assert [entry.object for entry in found["load%"]] == ["load%@v1"]
    assert {"airXport@v1", "loads@v1"} <= {entry.object for entry in found[""]}
