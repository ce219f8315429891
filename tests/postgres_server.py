"""A real PostgreSQL server for tests: Debian's, in a folder of its own, on a free port, gone with the process that started it."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psycopg

FAST = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "shared_buffers": "16MB",
    "max_connections": "60",
}
_numbers = count()


@dataclass(frozen=True)
class PostgresServer:
    """A running server; its owner logs in with a password."""

    port: int
    password: str

    def url(self, database: str = "postgres", *, user: str = "owner", password: str | None = None) -> str:
        return f"postgresql://{user}:{password or self.password}@127.0.0.1:{self.port}/{database}"

    def run(self, *statements: str, database: str = "postgres") -> None:
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    @contextmanager
    def database(self) -> Iterator[str]:
        """Make an empty database and drop it afterwards, whoever is connected."""
        name = f"test_{next(_numbers)}"
        self.run(f"CREATE DATABASE {name}")
        yield name
        self.run(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def started_server() -> Iterator[PostgresServer]:
    """Start a server and stop it afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # the path of a socket is short
    try:
        if os.getuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        server = PostgresServer(_free_port(), secrets.token_hex(8))
        password = folder / "password"
        password.write_text(server.password)
        password.chmod(0o644)
        arguments = ["-D", str(folder / "data"), "-U", "owner", "-E", "UTF8", "--locale=C", "--no-sync"]
        login = ["--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={password}"]
        _run("initdb", *arguments, *login)
        settings = FAST | {
            "port": str(server.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(folder),
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                _command("postgres", "-D", str(folder / "data"), *options), stderr=log, stdout=log
            )
        try:
            _wait(server, process, folder / "log")
            yield server
        finally:
            process.send_signal(signal.SIGQUIT)
            process.wait(timeout=30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _command(program: str, *arguments: str) -> list[str]:
    """Return a command as a user that the server accepts (it refuses root), stopped when this process dies."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}")) or [shutil.which(program)]
    if found[-1] is None:
        raise RuntimeError("PostgreSQL is not installed: run tests/components.sh.")
    as_user = ["--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
    return ["setpriv", *as_user, "--pdeathsig=QUIT", str(found[-1]), *arguments]


def _run(program: str, *arguments: str) -> None:
    done = subprocess.run(
        _command(program, *arguments), capture_output=True, text=True, timeout=120, cwd="/", check=False
    )
    assert done.returncode == 0, done.stderr


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(server: PostgresServer, process: subprocess.Popen[bytes], log: Path) -> None:
    while True:
        try:
            psycopg.connect(server.url(), connect_timeout=5).close()
        except psycopg.OperationalError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        else:
            return
