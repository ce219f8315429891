"""A real Redis for tests: Debian's, in a folder of its own, on a free port, gone with the process that started it."""

from __future__ import annotations

import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import redis

from featurestore.online.redis_address import RedisAddress


@dataclass
class RedisServer:
    """A server that can be killed, paused and started again, empty each time."""

    folder: Path
    options: tuple[str, ...] = ()
    scheme: str = "redis"
    port: int = 0
    password: str = field(default_factory=lambda: secrets.token_hex(8))
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://:{self.password}@localhost:{self.port}/0"

    def address(self, namespace: str = "test", **how) -> RedisAddress:
        return RedisAddress(self.url, namespace, **{"timeout": 2.0, **how})

    def client(self, **how) -> redis.Redis:
        return redis.Redis.from_url(self.url, **how)

    def start(self) -> None:
        found = shutil.which("redis-server")
        if found is None:
            raise RuntimeError("Redis is not installed: run tests/components.sh.")
        self.port = self.port or _free_port()
        listening = ["--port", "0", "--tls-port"] if self.scheme == "rediss" else ["--port"]
        listening += [str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""]
        command = ["setpriv", "--pdeathsig=KILL", found, *listening, "--requirepass", self.password, *self.options]
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self._wait()

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(30)
            self.process = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def _wait(self) -> None:
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert self.process.poll() is None, (self.folder / "log").read_text()
                time.sleep(0.02)
            else:
                return


@contextmanager
def started_redis(*options: str, scheme: str = "redis") -> Iterator[RedisServer]:
    """Start a server and stop it afterwards."""
    with tempfile.TemporaryDirectory(prefix="redis-", dir="/tmp") as folder:
        server = RedisServer(Path(folder), options, scheme)
        server.start()
        try:
            yield server
        finally:
            server.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
