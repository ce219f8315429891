"""A server is several processes that live and die as one: killed ones come back, nothing acknowledged is lost, the end is in order."""

import os
import signal
import socket
import sqlite3
import threading

import psutil
import pytest
from running_server import NOW, children_of, client_of, eventually, server, write

from featurestore import FeatureService, FeatureStore
from featurestore.config import load_settings
from featurestore.errors import ConfigError, UnavailableError
from featurestore.flow.sockets import socket_path
from featurestore.refs import ViewRef
from featurestore.serving.authentication import JwtSettings
from featurestore.serving.local_socket import local_socket
from featurestore.serving.ports import address_of
from featurestore.serving.settings import ServeSettings, TlsFiles, serve_settings
from featurestore.serving.supervise import ports_of, running_server
from featurestore.testing.served import definitions
from featurestore.types import from_micros


def test_life_of_a_server(tmp_path):
    """Killed workers and writers are replaced, acknowledged rows stay, changes are taken up, and SIGTERM ends it in order."""
    with server(tmp_path) as (process, ready):
        store = tmp_path / "store"
        assert running_server(store)["grpc_port"] == ready["grpc_port"]
        assert socket_path(store).stat().st_mode & 0o777 == 0o600
        with client_of(ready) as client:
            assert write(client, 1).accepted == 1

            (writer,) = children_of(process, "writer_process")
            writer.kill()
            assert eventually(lambda: write(client, 2).accepted + write(client, 2).repeated) == 2

            for worker in children_of(process, "worker_process"):
                worker.kill()
            assert eventually(lambda: len(children_of(process, "worker_process")) == 2)
            rows = eventually(lambda: client.get_online_features(["activity:score"], {"user_id": [1, 2, 3]}))
            assert rows.to_dict() == {"score": [1.0, 2.0, None]}

            with FeatureStore(tmp_path) as facade:
                facade.write("activity", {"user_id": [3], "event_timestamp": [from_micros(NOW)], "score": [3.0]})
                facade.apply([*definitions(), FeatureService("another", ["activity:score"])])
            assert eventually(lambda: client.status().revision == 2)
            rows = client.get_online_features(["activity:score"], {"user_id": [3]})
            assert rows.to_dict() == {"score": [3.0]}

            spine = {"user_id": [2, 3], "event_timestamp": [from_micros(NOW)] * 2}
            training = client.get_historical_features(spine, ["activity:score"]).to_arrow()
            assert training["score"].to_pylist() == [2.0, 3.0]

            failures = drain_under_load(process, ready)
        assert process.returncode == 0
        assert [f for f in failures if "onnect" not in f and "CANCELLED" not in f] == []  # nobody was there any more
        assert not (store / "server.json").exists()
        assert not socket_path(store).exists()
        assert not list((store / "usage").glob("*.usage"))
        counted = sqlite3.connect(store / "registry.db").execute(
            "SELECT DISTINCT feature, consumer, binding FROM usage_daily WHERE outcome = 'ok'"
        )
        assert set(counted) == {("score", "stranger@1", "local")}
        with FeatureStore(tmp_path) as facade:  # the log was brought to the offline table at the end
            assert len(facade.table(facade.snapshot().freeze(ViewRef("activity"))).read()) == 3


def drain_under_load(process, ready):
    """Send SIGTERM while several threads read, and return what each says at the end.

    Calls in flight finish (the suite of transports shows it); one that comes once the drain has begun may find nobody to connect to.
    """
    failures, reads = [], []
    ended = threading.Event()

    def read():
        with client_of(ready, timeout=5.0) as client:
            while not ended.is_set():
                try:
                    reads.append(client.get_online_features(["activity:score"], {"user_id": [1]}))
                except UnavailableError as error:
                    failures.append(str(error))
                    return

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert eventually(lambda: len(reads) > 20)
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    ended.set()
    for thread in threads:
        thread.join()
    return failures


def test_processes_that_died_and_are_renewed_at_once_are_each_there_once(tmp_path):
    """SIGHUP is what somebody tries when processes die; it comes while they are being started again."""
    kinds = {"worker_process": 2, "writer_process": 1, "training_process": 1}
    with server(tmp_path) as (process, ready), client_of(ready) as client:
        for _ in range(2):
            for worker in children_of(process, "worker_process"):
                worker.kill()
            process.send_signal(signal.SIGHUP)
            assert eventually(lambda: {kind: len(children_of(process, kind)) for kind in kinds} == kinds)
        assert eventually(lambda: write(client, 1).accepted + write(client, 1).repeated) == 2
        rows = eventually(lambda: client.get_online_features(["activity:score"], {"user_id": [1]}))
        assert rows.to_dict() == {"score": [1.0]}
        assert process.poll() is None


def test_processes_end_when_their_supervisor_is_killed(tmp_path):
    """Nothing is left behind, and the next writer gets the lock."""
    with server(tmp_path) as (process, _):
        assert eventually(lambda: len(psutil.Process(process.pid).children()) == 4)
        children = psutil.Process(process.pid).children()
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
        _, alive = psutil.wait_procs(children, timeout=60)
        assert alive == []
    with FeatureStore(tmp_path) as facade:
        row = {"user_id": [3], "event_timestamp": [from_micros(NOW)], "score": [3.0]}
        assert facade.write("activity", row).accepted == 1


def test_a_server_without_authentication_stays_on_loopback(tmp_path):
    given = {"project": tmp_path, "store_dir": tmp_path / "store", "registry_url": "x"}
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.com"):
        with pytest.raises(ConfigError, match="without authentication"):
            ServeSettings(**given, host=host)
        with pytest.raises(ConfigError, match="without TLS"):
            ServeSettings(**given, host=host, auth="required")
        tls = TlsFiles(tmp_path / "c.pem", tmp_path / "k.pem")
        assert ServeSettings(**given, host=host, auth="required", tls=tls).host == host
        assert ServeSettings(**given, host=host, insecure=True).host == host
    assert ServeSettings(**given, host="localhost").auth == "none"


def test_settings_come_from_the_file_and_from_what_is_given(tmp_path):
    text = (
        '[project]\nname = "p"\n[serving]\nworkers = 3\nhttp_port = -1\nusage_seconds = 2.0\nroles = {ann = ["reader"]}\n'
        '[serving.tls]\ncertificate = "c.pem"\nkey = "k.pem"\n'
        '[serving.jwt]\nkeys = "jwks.json"\nissuer = "https://id"\naudience = "features"\n'
    )
    (tmp_path / "featurestore.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"no file .*c\.pem"):
        serve_settings(load_settings(tmp_path))
    for name in ("c.pem", "k.pem"):
        (tmp_path / name).touch()
    settings = serve_settings(load_settings(tmp_path), grpc_port=0, clock="replay")
    assert (settings.workers, settings.http_port, settings.grpc_port, settings.is_replay) == (3, None, 0, True)
    assert settings.tls == TlsFiles(tmp_path / "c.pem", tmp_path / "k.pem")
    assert settings.jwt == JwtSettings(tmp_path / "jwks.json", "https://id", "features")
    assert settings.roles == {"ann": ("reader",)}
    assert settings.usage_seconds == 2.0
    assert ServeSettings.from_json(settings.to_json()) == settings
    with pytest.raises(ConfigError, match="No clock 'lamport'"):
        serve_settings(load_settings(tmp_path), clock="lamport")


def test_a_port_that_is_taken_is_refused_and_a_free_one_is_held(tmp_path):
    """Also one that another server shares with its own workers."""
    settings = ServeSettings(project=tmp_path, store_dir=tmp_path, registry_url="x", http_port=0)
    with ports_of(settings) as bound:
        assert bound.grpc_port
        assert bound.http_port
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(("127.0.0.1", bound.grpc_port))
            listener.listen()
            again = ServeSettings(project=tmp_path, store_dir=tmp_path, registry_url="x", grpc_port=bound.grpc_port)
            with pytest.raises(UnavailableError, match="cannot be taken"), ports_of(again):
                pass


def test_a_long_path_gets_a_short_socket(tmp_path):
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    with local_socket(deep, "writer") as path:
        assert len(str(path)) < 100
        assert socket_path(deep) == path
        assert path.parent.stat().st_mode & 0o777 == 0o700
    assert not path.parent.exists()
    assert socket_path(deep) == path  # where the next one will be: those that call it need not look again
    path.parent.mkdir(mode=0o755)
    with pytest.raises(UnavailableError, match="somebody else"), local_socket(deep, "writer"):
        pass
    path.parent.rmdir()


def test_addresses():
    assert [address_of(host, 1) for host in ("127.0.0.1", "::1", "[::1]")] == ["127.0.0.1:1", "[::1]:1", "[::1]:1"]
