"""A whole server in processes of its own, as `featurestore serve` runs it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from featurestore import FeatureStore
from featurestore.client import Client
from featurestore.errors import UnavailableError
from featurestore.testing.served import definitions

SERVE = """
import sys
from featurestore.config import load_settings
from featurestore.refs import ViewRef
from featurestore.serving.settings import serve_settings
from featurestore.serving.supervise import serve
serve(serve_settings(load_settings(sys.argv[1]), grpc_port=0, http_port=0, workers=2))
"""
NOW = 1_704_067_200_000_000


@contextmanager
def server(
    folder: Path, transport: str = "grpc_aio", settings: str = ""
) -> Iterator[tuple[subprocess.Popen[str], dict]]:
    """Start a server of a project and wait until it says that it is ready."""
    serving = f'[serving]\ntransport = "{transport}"\nstream_port = 0\n'
    (folder / "featurestore.toml").write_text(f'[project]\nname = "served"\n{serving}{settings}')
    with FeatureStore(folder) as store:
        store.apply(definitions())
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(folder)], stdout=subprocess.PIPE, text=True, env=_with_bytecode(folder)
    )
    children = []
    try:
        ready = json.loads(process.stdout.readline())
        children = psutil.Process(process.pid).children()
        yield process, ready
    finally:
        for leftover in (*children, psutil.Process(process.pid) if process.poll() is None else None):
            if leftover is not None and leftover.is_running():
                leftover.kill()
        process.wait(30)
        process.stdout.close()


def _with_bytecode(folder):
    """The processes share their compiled modules, so that each later one starts sooner."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(folder.parent.parent / "bytecode")}


def client_of(ready, timeout=20.0):
    return Client(f"127.0.0.1:{ready['grpc_port']}", timeout=timeout, consumer="stranger@1", token="")


def children_of(process, module):
    found = []
    for child in psutil.Process(process.pid).children():
        with suppress(psutil.NoSuchProcess):  # it ends just now
            found += [child] if any(module in part for part in child.cmdline()) else []
    return found


def eventually(check, seconds=60):
    """Return the first true answer; a busy machine may take its time."""
    end = time.monotonic() + seconds
    while True:
        try:
            answer = check()
        except (UnavailableError, psutil.NoSuchProcess):
            answer = None
        if answer or time.monotonic() > end:
            return answer
        time.sleep(0.1)


def write(client, number, **more):
    return client.write("activity", {"user_id": [number], "event_timestamp": [NOW], "score": [float(number)]}, **more)
