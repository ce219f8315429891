"""The server: one writer process, one for training reads, and N workers, started fresh and never forked, kept alive, and drained in order.

Workers share the port; the supervisor holds it bound, so that it stays the server's while a worker is replaced. At the end workers finish
the calls in flight first, the writer last: it brings its log offline and collects the usage that the workers left.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featurestore import errors
from featurestore.errors import FeatureStoreError, UnavailableError
from featurestore.flow.clock_mark import set_clock
from featurestore.serving.child import tell
from featurestore.serving.logs import start_logging
from featurestore.serving.metrics import clear_metrics
from featurestore.serving.ports import ports_of
from featurestore.serving.settings import METRICS, ServeSettings, is_loopback

LOG = logging.getLogger(__name__)
SERVER_FILE = "server.json"

WRITER, TRAINING, WORKER = (f"featurestore.serving.{name}_process" for name in ("writer", "training", "worker"))

_START_SECONDS = 60.0
_GRACE_SECONDS = 5.0  # beyond the drain time, before a process is killed
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
_STEADY_SECONDS = 30.0  # a process that lived this long did not fail because of how it was started


def serve(settings: ServeSettings) -> None:
    """Serve until SIGTERM or SIGINT; prints one line of JSON when calls are answered.

    Args:
        settings: What to serve and where.

    Raises:
        UnavailableError: A port is taken, or another process is the store's writer.
        ConfigError: A setting cannot be served safely.
    """
    start_logging(settings.log)
    if not is_loopback(settings.host) and settings.tls is None:
        LOG.warning("everything travels over %s in plain text: set [serving.tls]", settings.host)
    set_clock(settings.store_dir, settings.clock)
    clear_metrics(settings.store_dir / METRICS)
    with ports_of(settings) as bound:
        asyncio.run(Supervisor(bound).run())


class Supervisor:
    """Keeps the processes of one server.

    Args:
        settings: With ports that are bound already.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._stop, self._renew = asyncio.Event(), asyncio.Event()
        self._failed: FeatureStoreError | None = None

    async def run(self) -> None:
        """Start everything, say so, replace the processes one by one at SIGHUP, and drain at SIGTERM.

        Raises:
            FeatureStoreError: A process could not be started; what it said.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._renew.set)
        writer = _Kept(WRITER, self._settings, alone=True)
        workers = [_Kept(WORKER, self._settings) for _ in range(self._settings.workers)]
        training = _Kept(TRAINING, self._settings, alone=True)
        readers = [training, *workers]
        try:
            await self._start(writer, workers)
            with self._announced():
                async with asyncio.TaskGroup() as tasks:
                    keepers = [tasks.create_task(kept.keep()) for kept in (writer, *readers)]
                    keepers.append(tasks.create_task(self._keep_new((*workers, training, writer))))
                    await self._stop.wait()
                    for keeper in keepers:
                        keeper.cancel()
        finally:
            await asyncio.gather(*(reader.drain() for reader in readers))
            await writer.drain()

    async def _start(self, writer: _Kept, workers: Sequence[_Kept]) -> None:
        """Start all at once; the first time the writer comes first, since it makes the store that the others open.

        The process for training reads is started when these have the machine no more; training reads wait for it.
        """
        first = [] if (self._settings.store_dir / "online" / "CURRENT").exists() else [writer]
        for kept in first:
            await kept.start()
        rest = [kept for kept in (writer, *workers) if kept not in first]
        ends = await asyncio.gather(*(kept.start() for kept in rest), return_exceptions=True)
        for error in ends:
            if error is not None:
                raise error

    async def _keep_new(self, processes: Sequence[_Kept]) -> None:
        """Replace the processes one by one whenever that is asked for; one whose successor does not start goes on."""
        while True:
            await self._renew.wait()
            self._renew.clear()
            LOG.info("replacing %d processes one by one", len(processes))
            for process in processes:
                try:
                    await process.renew()
                except FeatureStoreError as error:
                    LOG.error("a new process did not start: %s", error)  # noqa: TRY400  # as below
            LOG.info("the processes were replaced")

    @contextmanager
    def _announced(self) -> Iterator[None]:
        """Say where the server is, on standard output and in the store's folder."""
        at = self._settings
        facts = {"host": at.host, "grpc_port": at.grpc_port, "http_port": at.http_port, "clock": at.clock}
        path = at.store_dir / SERVER_FILE
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps({**facts, "pid": os.getpid()}) + "\n")
        draft.replace(path)
        tell(ready=True, **facts, workers=at.workers)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@dataclass(eq=False)
class _Kept:
    """One process that is started again whenever it ends by itself.

    Attributes:
        module: What it runs.
        settings: What it gets.
        alone: Whether two of its kind cannot be at work at once, since they would have the same socket or lock.
    """

    module: str
    settings: ServeSettings
    alone: bool = False
    process: asyncio.subprocess.Process | None = None
    began: float = 0.0
    pause: float = _FIRST_PAUSE
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)  # held by whoever starts a process in the place of another

    async def start(self) -> None:
        """Start the process and wait until it is ready; raises what it says went wrong."""
        async with self.turn:
            await self._put(await self._load())

    async def _put(self, process: asyncio.subprocess.Process) -> None:
        self.process, self.began = process, asyncio.get_running_loop().time()
        await self._begin(process)

    async def _load(self) -> asyncio.subprocess.Process:
        """Start a process and let it load its modules; it does nothing yet."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self.module,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C at the terminal is the supervisor's to handle
        )
        await self._said(process)
        return process

    async def _begin(self, process: asyncio.subprocess.Process) -> None:
        """Give a process its settings, and wait until it is ready."""
        _pipe(process.stdin).write(f"{self.settings.to_json()}\n".encode())
        await self._said(process)

    async def _said(self, process: asyncio.subprocess.Process) -> None:
        """Wait for the next thing that a process says; raises what it says went wrong, after its end."""
        try:
            line = await asyncio.wait_for(_pipe(process.stdout).readline(), _START_SECONDS)
            self._check(line)
        except TimeoutError as error:
            _kill(process)
            raise UnavailableError(f"{self.module} did not start within {_START_SECONDS:.0f} s.") from error
        except BaseException:
            _kill(process)
            raise

    def _check(self, line: bytes) -> None:
        if not line:
            raise UnavailableError(f"{self.module} ended while it started (its log says why).")
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            raise _error(said)

    async def keep(self) -> None:
        """Start the process if it was not, and again whenever it ends, after a pause that grows while it does not stay up."""
        loop = asyncio.get_running_loop()
        while True:
            process = self.process
            if process is not None:
                code = await process.wait()
                if process is not self.process:  # it was replaced
                    continue
                if loop.time() - self.began > _STEADY_SECONDS:
                    self.pause = _FIRST_PAUSE
                LOG.error("%s ended with code %s; starting it again in %.1f s", self.module, code, self.pause)
                await self._rest()
            await self._start_again(process)
            if self.process is None:
                await self._rest()

    async def _rest(self) -> None:
        await asyncio.sleep(self.pause)
        self.pause = min(2 * self.pause, _LONGEST_PAUSE)

    async def _start_again(self, ended: asyncio.subprocess.Process | None) -> None:
        """Start the process unless another has taken its place; one that fails has said why, and is tried again."""
        async with self.turn:
            if self.process is not ended:
                return
            try:
                await self._put(await self._load())
            except FeatureStoreError as error:
                LOG.error("%s", error)  # noqa: TRY400  # the process logged its own traceback

    async def renew(self) -> None:
        """Put another process in the place of this one, which is drained; raises as `start`.

        The other is ready before that; one that must be alone is loaded, and begins when this one has ended.
        """
        async with self.turn:
            old, fresh = self.process, await self._load()
            if not self.alone:
                await self._begin(fresh)
            self.process, self.began = fresh, asyncio.get_running_loop().time()
            await self._drained(old)
            if self.alone:
                await self._begin(fresh)

    async def drain(self) -> None:
        """Ask the process to finish its calls and end; one that does not is killed."""
        await self._drained(self.process)

    async def _drained(self, process: asyncio.subprocess.Process | None) -> None:
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), self.settings.drain_seconds + _GRACE_SECONDS)
        except TimeoutError:
            LOG.warning("%s did not end in time and is killed", self.module)
            process.kill()
            await process.wait()


def running_server(store_directory: Path) -> dict[str, Any] | None:
    """Return where the store's server is (host, grpc_port, http_port, clock, pid), or None when none has said so."""
    path = store_directory / SERVER_FILE
    if not path.exists():
        return None
    facts: dict[str, Any] = json.loads(path.read_text())
    return facts


def _pipe(stream: Any) -> Any:
    assert stream is not None
    return stream


def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()


def _error(said: dict[str, Any]) -> FeatureStoreError:
    kind = getattr(errors, said.get("kind", ""), FeatureStoreError)
    return kind(said["error"]) if issubclass(kind, FeatureStoreError) else FeatureStoreError(said["error"])
