"""featurestore.toml: defaults that work, unknown keys refused with the nearest, and the project found from within."""

import pytest

from featurestore.config import find_project, load_settings
from featurestore.errors import ConfigError, NotFoundError

MINIMAL = '[project]\nname = "flights"\n'


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch):
    monkeypatch.delenv("FEATURESTORE_ENVIRONMENT", raising=False)
    monkeypatch.delenv("FEATURESTORE_PROJECT", raising=False)


@pytest.fixture
def project(tmp_path):
    def write(text=MINIMAL):
        (tmp_path / "featurestore.toml").write_text(text)
        return tmp_path

    return write


def test_a_name_is_enough(project):
    settings = load_settings(project())
    assert settings.project.name == "flights"
    assert settings.project.definitions == "features.py"
    assert settings.project.environment == "dev"
    assert settings.offline.engine == "kernel"
    assert settings.serving.auth == "none"
    assert settings.serving.host == "127.0.0.1"
    assert settings.root == project()
    assert settings.store == project() / "store"


def test_everything_can_be_said(project):
    settings = load_settings(
        project(
            '[project]\nname = "p"\ndefinitions = "defs.py"\nenvironment = "prod"\n'
            '[registry]\nurl = "postgresql://db/registry"\n'
            '[offline]\nbuckets = 4\n[serving]\ngrpc_port = 0\nauth = "required"\n[serving.tls]\ncertificate = "c.pem"\nkey = "k.pem"\n'
        )
    )
    assert (settings.project.definitions, settings.project.environment) == ("defs.py", "prod")
    assert settings.registry_url == "postgresql://db/registry"
    assert settings.offline.buckets == 4
    assert (settings.serving.grpc_port, settings.serving.auth, settings.serving.tls.key) == (0, "required", "k.pem")


def test_a_registry_path_is_relative_to_the_project(project):
    assert load_settings(project()).registry_url == str(project() / "store" / "registry.db")


def test_the_environment_can_be_named_from_outside(project, monkeypatch):
    monkeypatch.setenv("FEATURESTORE_ENVIRONMENT", "staging")
    assert load_settings(project()).project.environment == "staging"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MINIMAL + "[project.more]\na = 1\n", "more"),
        (MINIMAL + "[servng]\n", "Did you mean 'serving'"),
        (MINIMAL + "[serving]\ngrpc_prt = 1\n", "Did you mean 'grpc_port'"),
        (MINIMAL + "[offline]\nbukets = 1\n", "Did you mean 'buckets'"),
        (MINIMAL + '[serving]\ngrpc_port = "6565"\n', r"\$\.serving\.grpc_port"),
        (MINIMAL + '[serving]\nauth = "ldap"\n', "ldap"),
        (MINIMAL + '[offline]\nengine = "spark"\n', "spark"),
        ("[project]\n", "name"),
        ("", "project"),
        ("[project\n", "is not TOML"),
        ("name = flights\n", "is not TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_path_and_what_is_wrong(project, text, said):
    with pytest.raises(ConfigError, match=said) as wrong:
        load_settings(project(text))
    assert "featurestore.toml" in str(wrong.value)


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "featurestore.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not TOML"):
        load_settings(tmp_path)


def test_a_folder_without_a_file_says_how_to_make_one(tmp_path):
    with pytest.raises(NotFoundError, match="featurestore init"):
        load_settings(tmp_path)


def test_the_project_is_found_from_a_folder_within(project):
    inner = project() / "a" / "b"
    inner.mkdir(parents=True)
    assert find_project(inner) == project()
    assert find_project(project()) == project()


def test_the_current_folder_is_where_the_search_begins(project, monkeypatch):
    monkeypatch.chdir(project())
    assert find_project() == project()


def test_a_named_project_wins_over_the_current_folder(project, monkeypatch, tmp_path):
    monkeypatch.chdir(project())
    monkeypatch.setenv("FEATURESTORE_PROJECT", str(tmp_path / "elsewhere"))
    assert find_project() == tmp_path / "elsewhere"
    assert find_project(project()) == project()


def test_no_project_says_what_to_do(tmp_path):
    with pytest.raises(NotFoundError, match="featurestore init"):
        find_project(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MINIMAL + '[serving]\nauth = "tokens"\n', "There is: none, required."),
        (MINIMAL + "[serving]\ngrpc_port = 99999\n", "<= 65535"),
        (MINIMAL + "[offline]\nbuckets = 0\n", ">= 1"),
        (MINIMAL + "[offline]\nbuckets = 12\n", "power of two"),
        (MINIMAL + "[serving]\nusage_seconds = 0\n", "> 0"),
        ("", "Write at least: [project]"),
    ],
)
def test_a_value_out_of_range_says_what_may_stand_there(project, text, said):
    with pytest.raises(ConfigError) as error:
        load_settings(project(text))
    assert said in str(error.value)


def test_a_connection_is_as_in_the_file_or_as_in_the_environment(project, monkeypatch):
    settings = load_settings(project(MINIMAL + '[connections]\nwarehouse = "postgresql://reader@db/sales"\n'))
    assert settings.connection("warehouse") == "postgresql://reader@db/sales"
    monkeypatch.setenv("FEATURESTORE_CONNECTION_WAREHOUSE", "postgresql://reader@replica/sales")
    assert settings.connection("warehouse") == "postgresql://reader@replica/sales"


def test_an_unknown_connection_names_the_nearest_and_how_to_say_it(project):
    settings = load_settings(project(MINIMAL + '[connections]\nwarehouse = "postgresql://reader@db/sales"\n'))
    with pytest.raises(ConfigError, match=r"Did you mean 'warehouse'.*FEATURESTORE_CONNECTION_WAREHOSE"):
        settings.connection("warehose")
