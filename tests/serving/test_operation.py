"""A server in operation: workers are replaced, clients misbehave and definitions change, and whoever reads properly notices nothing."""

import asyncio
import json
import resource
import signal
import socket
import ssl
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import SimpleNamespace

import grpc
import httpx
import psutil
import pytest
from certificates import Authority, pem, server_files
from running_server import NOW, children_of, client_of, eventually, server, write

from featurestore import FeatureService, FeatureStore
from featurestore.client import SERVICE
from featurestore.errors import FeatureStoreError
from featurestore.serving.admission import Admission
from featurestore.serving.grpc_aio import GrpcAioTransport
from featurestore.serving.worker_process import HttpServer
from featurestore.testing.served import ServedProject, definitions
from featurestore.types import from_micros

IDLE = 2000


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("operated") / "project"
    folder.mkdir()
    with server(folder) as (process, ready):
        with client_of(ready) as client:
            assert write(client, 1).accepted == 1
        yield folder, process, ready


class Readers:
    """Threads that read one row again and again, and what they got."""

    def __init__(self, ready, threads=3):
        self._ready = ready
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._read) for _ in range(threads)]
        self.count, self.wrong = 0, []

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        assert eventually(lambda: self.count > 50)
        return self

    def __exit__(self, *_):
        before = self.count
        assert eventually(lambda: self.count > before + 50 or self.wrong)
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _read(self):
        with client_of(self._ready) as client:
            while not self._end.is_set():
                try:
                    rows = client.get_online_features(["activity:score"], {"user_id": [1, 99]}).to_dict()
                except FeatureStoreError as error:
                    self.wrong.append(error)
                    return
                if rows != {"score": [1.0, None]}:
                    self.wrong.append(rows)
                self.count += 1


def pids(process):
    return {child.pid for child in children_of(process, "worker_process")}


@contextmanager
def unharmed(process, ready):
    """Check that readers notice nothing meanwhile, and that no worker had to be replaced."""
    before = pids(process)
    with Readers(ready) as readers:
        yield
    assert readers.wrong == []
    assert pids(process) == before


def test_every_process_is_replaced_and_no_call_fails(running):
    """Workers, the process for training reads, the writer: reads and writes go on, and none is done twice."""
    _, process, ready = running
    kinds = ("worker_process", "training_process", "writer_process")
    before = {child.pid for kind in kinds for child in children_of(process, kind)}
    assert len(before) >= 3  # the one for training reads may start just now
    numbers = iter(range(1000, 100_000))
    with Readers(ready) as readers, client_of(ready) as client:
        process.send_signal(signal.SIGHUP)

        def replaced():
            assert write(client, next(numbers)).accepted == 1
            now = {child.pid for kind in kinds for child in children_of(process, kind)}
            return len(now) == 4 and not now & before

        assert eventually(replaced)
        for number in numbers:
            assert write(client, number).accepted == 1
            if number % 20 == 0:
                break
        spine = {"user_id": [1], "event_timestamp": [from_micros(NOW)]}
        assert client.get_historical_features(spine, ["activity:score"]).to_arrow()["score"].to_pylist() == [1.0]
    assert readers.wrong == []
    with client_of(ready) as client:
        rows = client.get_online_features(["activity:score"], {"user_id": list(range(1000, number + 1))[-1000:]})
        assert rows.valid["score"].all()


def test_a_commit_to_the_registry_is_taken_up_between_two_reads(running):
    folder, _, ready = running
    with Readers(ready) as readers, FeatureStore(folder) as store, client_of(ready) as client:
        for name in ("first", "second"):
            store.apply([*definitions(), FeatureService(name, ["activity:score"])])
            rows = eventually(lambda name=name: read_of(client, name))
            assert rows == {"score": [1.0]}
    assert readers.wrong == []


def read_of(client, service):
    try:
        return client.get_online_features(service, {"user_id": [1]}).to_dict()
    except FeatureStoreError:
        return None


def test_top_shows_a_running_server(running):
    folder, _, ready = running
    with Readers(ready) as readers:
        pass
    looked = subprocess.run(
        [sys.executable, "-m", "featurestore", "top", "--once", "--format", "json", "--project", str(folder)],
        capture_output=True,
        check=True,
        text=True,
    )
    look = json.loads(looked.stdout)
    (line,) = [read for read in look["reads"] if read["consumer"] == "stranger@1" and read["service"] == "(features)"]
    assert line["count"] >= readers.count
    assert line["quantiles"] == sorted(line["quantiles"])
    (view,) = [view for view in look["views"] if view["view"] == "activity@v1"]
    assert view["found"] > 0
    assert view["missing"] > 0
    text = httpx.get(f"http://127.0.0.1:{ready['http_port']}/metrics").text
    for name in ("featurestore_read_seconds_count", "featurestore_commits_total", "featurestore_unfolded_rows"):
        assert name in text


def test_two_thousand_idle_connections_cost_nobody_anything(running):
    _, process, ready = running
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < IDLE + 500:
        pytest.skip(f"this machine allows {hard} open files")
    for child in children_of(process, "worker_process"):
        if child.rlimit(psutil.RLIMIT_NOFILE)[0] < IDLE + 500:
            child.rlimit(psutil.RLIMIT_NOFILE, (IDLE + 500, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, IDLE + 500), hard))
    with ExitStack() as idle, unharmed(process, ready):
        for _ in range(IDLE):
            idle.enter_context(socket.create_connection(("127.0.0.1", ready["grpc_port"])))


def test_slow_and_malformed_clients_are_alone_with_it(running):
    """Half a request that never goes on, bytes that are no HTTP, and an HTTP/2 connection that sends garbage frames."""
    _, process, ready = running
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    sent = [
        (ready["http_port"], b"POST /v1/get-online-features HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n"),
        (ready["http_port"], b"\x00\xff" * 5000),
        (ready["grpc_port"], b"GET / HTTP/1.1\r\n\r\n"),
        (ready["grpc_port"], preface + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" + b"\xff" * 200),
        (ready["grpc_port"], preface[:10]),
    ]
    with ExitStack() as stuck, unharmed(process, ready):
        for port, text in sent * 5:
            stuck.enter_context(socket.create_connection(("127.0.0.1", port))).sendall(text)


def test_huge_requests_are_refused(running):
    _, process, ready = running
    with unharmed(process, ready):
        with grpc.insecure_channel(f"127.0.0.1:{ready['grpc_port']}") as channel:
            call = channel.unary_unary(f"/{SERVICE}/GetOnlineFeatures")
            for size in (5 << 20, 20 << 20):
                with pytest.raises(grpc.RpcError) as refused:
                    call(bytes(size), timeout=60)
                assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        answer = httpx.post(
            f"http://127.0.0.1:{ready['http_port']}/v1/get-online-features",
            content=b" " * (5 << 20),
            headers={"content-type": "application/json"},
        )
        assert answer.status_code == 429


def test_a_new_certificate_is_shown_over_http(tmp_path):
    """To new connections, while old ones go on; files that do not fit together leave the old one in place."""
    authority = Authority("ours")
    files = server_files(tmp_path, authority)
    (tmp_path / "project").mkdir()
    with ServedProject(tmp_path / "project", GrpcAioTransport) as project:

        async def run():
            settings = replace(project.settings, http_port=0, tls=files)
            http = HttpServer(project.handlers, settings, SimpleNamespace(stop=asyncio.Event()), Admission())
            serving = asyncio.ensure_future(http.serve())
            await http.started()

            async def shown():
                return await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", http.port))

            context = ssl.create_default_context(cadata=pem(authority.certificate).decode())
            async with httpx.AsyncClient(verify=context, base_url=f"https://127.0.0.1:{http.port}") as client:
                assert (await client.get("/readyz")).status_code == 200
                first = await shown()
                await http.follow_certificate()
                assert await shown() == first
                key = files.key.read_bytes()
                server_files(tmp_path, authority)
                right = files.key.read_bytes()
                files.key.write_bytes(key)
                with pytest.raises(ssl.SSLError):
                    await http.follow_certificate()
                assert await shown() == first
                files.key.write_bytes(right)
                await http.follow_certificate()
                assert await shown() != first
                assert (await client.get("/readyz")).status_code == 200
            http.stop()
            await serving

        project.run(run())
