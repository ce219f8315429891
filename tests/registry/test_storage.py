"""The registry database, SQLite or a real PostgreSQL: serializable commits, hashed tokens, clear words about what is not one."""

import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from featurestore.errors import (
    ConfigError,
    ConflictError,
    CorruptionError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from featurestore.registry.snapshot import Document, EntityRecord
from featurestore.registry.storage import LoggedChange, open_registry


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store" / "registry.db"


@pytest.fixture(scope="module")
def server_database(request):
    """A database of the PostgreSQL server, which is started when the first test asks for it."""
    server = request.getfixturevalue("postgres")
    with server.database() as name:
        yield server, name


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, path):
    """Where a new registry can be made: a file, or an empty database."""
    if request.param == "sqlite":
        return str(path)
    server, name = request.getfixturevalue("server_database")
    server.run("DROP SCHEMA public CASCADE", "CREATE SCHEMA public", database=name)
    return server.url(name)


@pytest.fixture
def registry(url):
    with open_registry(url, project="flights") as opened:
        yield opened


def document(name="origin"):
    return Document(project="flights", entities={name: EntityRecord(join_keys=(("id", "int64"),))})


def commit(registry, name="origin", expected=0):
    line = LoggedChange("create", f"entity {name}")
    return registry.commit(document(name), expected_revision=expected, log=[line], principal="ann", now=1)


def test_a_new_registry_is_made_with_its_folder(path):
    with open_registry(path) as registry:
        assert registry.sqlite_path() == path
    assert path.is_file()


def test_a_new_registry_is_empty(registry):
    assert registry.revision() == 0
    assert registry.snapshot().document == Document(project="flights")
    assert registry.log() == []


def test_a_commit_is_there_after_opening_again(url):
    with open_registry(url, project="flights") as registry:
        done = commit(registry)
    with open_registry(url) as registry:
        assert registry.snapshot().document == done.document
        assert registry.snapshot().document.project == "flights"


def test_a_snapshot_is_kept_until_somebody_commits(url, registry):
    first = registry.snapshot()
    assert registry.snapshot() is first
    with open_registry(url) as other:
        commit(other)
    assert registry.snapshot().revision == 1


def test_of_eight_threads_that_commit_from_one_revision_exactly_one_wins(url, registry):
    start = threading.Barrier(8)

    def race(n):
        with open_registry(url) as own:
            start.wait()
            try:
                return commit(own, f"e{n}")
            except ConflictError:
                return None

    with ThreadPoolExecutor(8) as pool:
        won = [snapshot for snapshot in pool.map(race, range(8)) if snapshot is not None]
    assert len(won) == 1
    assert registry.revision() == 1
    assert registry.snapshot().document == won[0].document
    assert len(registry.log()) == 1


def test_of_eight_threads_that_share_a_registry_exactly_one_wins(registry):
    start = threading.Barrier(8)

    def race(n):
        start.wait()
        try:
            return commit(registry, f"e{n}")
        except ConflictError:
            return None

    with ThreadPoolExecutor(8) as pool:
        assert sum(snapshot is not None for snapshot in pool.map(race, range(8))) == 1
    assert registry.revision() == 1


PROCESS = """
import sys
from featurestore.errors import ConflictError
from featurestore.registry.snapshot import Document
from featurestore.registry.storage import open_registry
print("ready", flush=True)
sys.stdin.readline()
with open_registry(sys.argv[1], project=sys.argv[2]) as registry:
    try:
        registry.commit(Document(project=sys.argv[2]), expected_revision=0, log=[], principal="p", now=1)
        print("won")
    except ConflictError:
        print("stale")
"""


def test_two_processes_that_open_a_new_project_at_once_make_one_registry(url):
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, url, f"p{n}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(2)
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60) for process in started]
    assert sorted(out for out, _ in answers) == ["stale\n", "won\n"], [error for _, error in answers]
    with open_registry(url) as registry:
        assert registry.revision() == 1


def test_many_threads_that_open_a_new_project_at_once_all_get_it(url):
    start = threading.Barrier(6)

    def opened(_):
        start.wait()
        with open_registry(url) as registry:
            return registry.revision()

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(opened, range(6))) == [0] * 6


@pytest.mark.parametrize(
    "change",
    [
        commit,
        lambda other: other.create_token("t", principal="svc", roles=frozenset({"reader"}), now=1),
        lambda other: other.bind("svc", "m@1", now=1),
    ],
    ids=["commit", "token", "binding"],
)
def test_the_change_counter_sees_what_another_connection_commits(url, registry, change):
    before = registry.change_counter()
    assert registry.change_counter() == before
    with open_registry(url) as other:
        change(other)
    assert registry.change_counter() != before


def test_the_change_counter_sees_what_the_same_registry_commits(registry):
    before = registry.change_counter()
    commit(registry)
    assert registry.change_counter() != before


def test_a_failed_commit_leaves_the_change_counter_and_the_log_alone(url, registry):
    commit(registry)
    before = registry.change_counter()
    with open_registry(url) as other, pytest.raises(ConflictError):
        commit(other, "late")
    assert registry.change_counter() == before
    assert [line.object for _, line in registry.log()] == ["entity origin"]


def test_a_token_is_stored_hashed_and_never_as_its_secret(path):
    registry = open_registry(path)
    secret = registry.create_token("ci", principal="svc-ci", roles=frozenset({"reader", "writer"}), now=5, expires_at=9)
    token = registry.credentials().token(secret)
    assert (token.name, token.principal, token.roles, token.created_at) == ("ci", "svc-ci", {"reader", "writer"}, 5)
    assert registry.credentials().token(secret + "x") is None
    registry.close()
    written = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert b"svc-ci" in written
    assert secret.encode() not in written
    assert secret.removeprefix("fst_").encode() not in written


def test_secrets_are_never_the_same(registry):
    made = {registry.create_token(f"t{n}", principal="p", roles=frozenset({"reader"}), now=1) for n in range(20)}
    assert len(made) == len(registry.credentials().tokens) == 20
    assert min(map(len, made)) >= 40


def test_a_token_counts_until_it_expires_or_is_revoked(registry):
    secret = registry.create_token("ci", principal="p", roles=frozenset({"reader"}), now=5, expires_at=9)
    assert [registry.credentials().token(secret).is_valid(now) for now in (5, 8, 9)] == [True, True, False]
    registry.revoke_token("ci", now=6)
    assert registry.credentials().token(secret).revoked_at == 6
    assert not registry.credentials().token(secret).is_valid(5)


def test_a_token_name_is_given_once(registry):
    registry.create_token("ci", principal="p", roles=frozenset({"reader"}), now=1)
    with pytest.raises(InvalidArgumentError, match="token 'ci' already"):
        registry.create_token("ci", principal="q", roles=frozenset({"admin"}), now=2)
    assert [token.principal for token in registry.credentials().tokens.values()] == ["p"]


@pytest.mark.parametrize("roles", [frozenset({"root"}), frozenset({"reader", "root"}), frozenset()])
def test_an_unknown_role_is_refused(registry, roles):
    with pytest.raises(InvalidArgumentError, match="There is: admin, reader, writer"):
        registry.create_token("ci", principal="p", roles=roles, now=1)
    assert registry.credentials().tokens == {}


def test_revoking_an_unknown_token_names_the_nearest(registry):
    registry.create_token("nightly", principal="p", roles=frozenset({"reader"}), now=1)
    with pytest.raises(NotFoundError, match="Did you mean 'nightly'"):
        registry.revoke_token("nighty", now=2)


def test_bindings_are_kept_once_and_taken_back(registry):
    for consumer in ("m@*", "job", "m@*"):
        registry.bind("svc", consumer, now=1)
    assert registry.credentials().bindings == {"svc": ("job", "m@*")}
    registry.unbind("svc", "job")
    assert registry.credentials().bindings == {"svc": ("m@*",)}
    with pytest.raises(NotFoundError, match="binding 'job'"):
        registry.unbind("svc", "job")


@pytest.mark.parametrize(
    "content", [b"PAR1" + b"\0" * 5000, b"not a database at all, but long enough" * 200, b"\xff" * 100]
)
def test_a_file_that_is_no_database_is_corruption(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(CorruptionError, match=r"registry\.db is not a registry database"):
        open_registry(path)
    assert path.read_bytes() == content


def test_a_database_of_something_else_is_refused_and_left_alone(path):
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()
    with pytest.raises(CorruptionError, match=r"database of something else: it has table 'songs'"):
        open_registry(path)
    connection = sqlite3.connect(path)
    assert [name for (name,) in connection.execute("SELECT name FROM sqlite_master")] == ["songs"]
    connection.close()


def test_a_newer_format_is_refused(path):
    open_registry(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0999'")
    connection.close()
    with pytest.raises(CorruptionError, match=r"format 0999.*Upgrade featurestore"):
        open_registry(path)


@pytest.mark.parametrize("text", ["", "{", '{"project": 5}', "[]", '{"project": "p", "views": {"w": {}}}'])
def test_a_damaged_document_is_corruption(path, text):
    with open_registry(path) as registry:
        commit(registry)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE commits SET document = ?", (text,))
    connection.close()
    with open_registry(path) as registry, pytest.raises(CorruptionError, match="damaged"):
        registry.snapshot()


def test_a_document_of_a_newer_schema_is_refused(path):
    with open_registry(path) as registry:
        commit(registry)
    newer = msgspec.json.encode({"schema_version": 2, "project": "p"}).decode()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE commits SET document = ?", (newer,))
    connection.close()
    with open_registry(path) as registry, pytest.raises(CorruptionError, match="schema_version 2"):
        registry.snapshot()


@pytest.mark.parametrize(
    "change",
    [
        lambda other: other.revoke_token("known", now=3),
        lambda other: other.unbind("ann", "known"),
        lambda other: other.bind("ann", "m@1", now=3),
    ],
    ids=["revoke", "unbind", "bind"],
)
def test_the_change_counter_sees_credentials_change(url, registry, change):
    """A server goes by it: it would accept a revoked token until the next commit."""
    registry.create_token("known", principal="ann", roles=frozenset({"reader"}), now=1)
    registry.bind("ann", "known", now=1)
    before = registry.change_counter()
    with open_registry(url) as other:
        change(other)
    assert registry.change_counter() != before


def test_binding_at_once_from_many_threads_binds_once(url, registry):
    start = threading.Barrier(6)

    def bind(_):
        with open_registry(url) as own:
            start.wait()
            own.bind("ann", "m@1", now=1)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(bind, range(6)))
    assert registry.credentials().bindings == {"ann": ("m@1",)}


def test_many_writers_that_plan_again_lose_nothing(url, registry):
    """Each of four threads adds six entities, planning again whenever somebody was faster; every one is there."""

    def add(thread):
        with open_registry(url, project="flights") as own:
            for n in range(6):
                while True:
                    known = own.snapshot()
                    entities = {**known.document.entities, f"e{thread}_{n}": EntityRecord(join_keys=(("id", "int64"),))}
                    new = msgspec.structs.replace(known.document, entities=entities)
                    try:
                        own.commit(new, expected_revision=known.revision, log=[], principal="ann", now=1)
                    except ConflictError:
                        continue
                    break

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(4)))
    assert registry.revision() == 24
    assert set(registry.snapshot().document.entities) == {f"e{thread}_{n}" for thread in range(4) for n in range(6)}


def test_only_an_sqlite_registry_has_a_path(server_database):
    server, name = server_database
    server.run("DROP SCHEMA public CASCADE", "CREATE SCHEMA public", database=name)
    with open_registry(server.url(name)) as registry, pytest.raises(InvalidArgumentError, match="SQLite"):
        registry.sqlite_path()


def test_a_database_of_something_else_on_a_server_is_refused_and_left_alone(server_database):
    server, name = server_database
    server.run("DROP SCHEMA public CASCADE", "CREATE SCHEMA public", "CREATE TABLE songs (title text)", database=name)
    with pytest.raises(CorruptionError, match="database of something else: it has table 'songs'") as refused:
        open_registry(server.url(name))
    assert server.password not in str(refused.value)


def test_a_server_that_does_not_answer_is_said_without_the_password(server_database):
    server, name = server_database
    for url in (
        server.url(name).replace(f":{server.port}", ":1"),
        server.url(name, password="s3cr3t"),
        server.url("no"),
    ):
        with pytest.raises(
            UnavailableError, match=r"The registry postgresql://owner:\*\*\*@127.0.0.1:\d+/\w+ does not answer"
        ) as gone:
            open_registry(url)
        assert server.password not in str(gone.value)
        assert "s3cr3t" not in str(gone.value)


def test_a_server_that_goes_away_is_said_and_comes_back(server_database):
    server, name = server_database
    server.run("DROP SCHEMA public CASCADE", "CREATE SCHEMA public", database=name)
    with open_registry(server.url(name)) as registry:
        commit(registry)
        server.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        assert registry.revision() == 1


def test_a_registry_whose_driver_is_missing_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(
        ConfigError, match=r"driver 'psycopg' is not installed. Run `pip install 'featurestore\[postgres\]'`"
    ):
        open_registry("postgresql://ann@localhost/registry")


@pytest.mark.parametrize(
    "url",
    ["nosuch://ann@localhost/registry", "postgresql+nosuch://ann@db/registry", "postgresql://ann@db:port/registry"],
)
def test_a_url_that_is_not_known_is_a_config_error(url):
    with pytest.raises(ConfigError, match="URL of the registry") as wrong:
        open_registry(url)
    assert wrong.value.place == "registry.url"
