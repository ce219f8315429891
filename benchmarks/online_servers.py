"""The servers of the online read, each a process of its own, as somebody would start it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from feast_env import feast_programs, feast_variables
from processes import HOST, free_port, serving


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the servers of one product listen."""

    grpc: int
    http: int


@contextmanager
def our_server(project: Path, log: Path, *, transport: str = "grpc_aio") -> Iterator[Ports]:
    """Run `featurestore serve` with one worker."""
    ports = Ports(free_port(), free_port())
    listening = [f"--grpc-port={ports.grpc}", f"--http-port={ports.http}", "--workers=1", f"--transport={transport}"]
    program = Path(sys.executable).parent / "featurestore"
    with serving([program, "serve", f"--project={project}", *listening], port=ports.grpc, log=log):
        yield ports


@contextmanager
def feast_servers(repository: Path, log: Path) -> Iterator[Ports]:
    """Run Feast's HTTP server with one worker that is never replaced, and its gRPC server with eight threads."""
    ports, feast = Ports(free_port(), free_port()), [feast_programs() / "feast", "-c", repository]
    http = ["serve", "-h", HOST, "-p", str(ports.http), "-w", "1", "--max-requests", "0", "--no-access-log"]
    grpc = ["listen", "-a", f"{HOST}:{ports.grpc}", "-w", "8", "-r", "600"]
    with ExitStack() as stack:
        for command, port in ((http, ports.http), (grpc, ports.grpc)):
            at = log.with_suffix(f".{port}.log")
            stack.enter_context(serving([*feast, *command], port=port, log=at, variables=feast_variables()))
        yield ports


@contextmanager
def feast_online_store(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the settings of Feast's online store: a Redis of ours while the block lasts, or SQLite where there is none."""
    redis = shutil.which("redis-server")
    if redis is None:
        yield {"type": "sqlite", "path": str(folder / "online.db")}
        return
    port = free_port()
    memory_only = ["--save", "", "--appendonly", "no", "--dir", folder]
    with serving([redis, "--bind", HOST, "--port", str(port), *memory_only], port=port, log=folder / "redis.log"):
        yield {"type": "redis", "connection_string": f"{HOST}:{port}"}


@contextmanager
def echo_server(folder: Path, answers: Mapping[str, bytes]) -> Iterator[int]:
    """Run the echo, which answers the method /echo/NAME with the bytes of that name, and yield its port."""
    payloads = folder / "answers"
    payloads.mkdir()
    for name, answer in answers.items():
        (payloads / name).write_bytes(answer)
    port, script = free_port(), Path(__file__).parent / "echo_server.py"
    with serving([sys.executable, script, payloads, f"{HOST}:{port}"], port=port, log=folder / "echo.log"):
        yield port
