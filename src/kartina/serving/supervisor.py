"""Processes that are kept alive: the sampling worker, and beside it whatever a service needs. Torch-free.

    supervisor = Supervisor()
    await supervisor.start()
    engine = LocalEngine(supervisor.socket)

A kept process is started again when it dies, and stopped at the end. It holds the read end of a pipe whose write end
is here: however this process dies, the pipe closes and the kept one ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence
from pathlib import Path

import structlog

from kartina.process import command_of

log = structlog.get_logger("kartina.serving.supervisor")

BACKOFF = (0.0, 0.2, 1.0, 2.0, 5.0)  # seconds before the next start, after so many deaths in a row
STABLE = 30.0  # seconds after which a worker's death counts as the first
STOP = 5.0  # seconds a worker has to end
_MAX_PATH = 100  # of a Unix socket; the kernel's limit is 108 bytes


class Keeper:
    """One process, kept alive, that ends when its standard input does.

    `patience`: seconds that it has to end; `backoff`: before the next start, after so many deaths in a row.
    """

    def __init__(self, command: Sequence[str], *, patience: float = STOP, backoff: Sequence[float] = BACKOFF):
        self.command, self.patience, self.backoff = tuple(command), patience, tuple(backoff)
        self.starts = 0
        self._process: Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Its process id; None between two of them."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        """Start it, without waiting until it is ready."""
        self._process = await self._spawn()
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """End it: by SIGTERM, and when its time is over by SIGKILL."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), self.patience)
            except TimeoutError:
                process.kill()
                await process.wait()
        if process is not None and process.stdin is not None:
            process.stdin.close()

    async def _keep(self) -> None:
        """Start the next one whenever one dies; slower when they die young."""
        deaths = 0
        while True:
            process, since = self._process, time.monotonic()
            assert process is not None
            code = await process.wait()
            if process.stdin is not None:
                process.stdin.close()
            deaths = 0 if time.monotonic() - since > STABLE else min(deaths + 1, len(self.backoff) - 1)
            command = " ".join(self.command[2:4])
            log.error("worker_died", command=command, pid=process.pid, code=code, pause=self.backoff[deaths])
            await asyncio.sleep(self.backoff[deaths])
            try:
                self._process = await self._spawn()
            except OSError as error:  # no memory, no processes left: later, perhaps
                log.error("worker_not_started", error=str(error))

    async def _spawn(self) -> Process:
        self.starts += 1
        # Waiting threads sleep instead of spinning: on a busy machine spinning ones cost tenfold, and more.
        environment = {"OMP_WAIT_POLICY": "passive", **os.environ}
        return await asyncio.create_subprocess_exec(
            *self.command, stdin=PIPE, stdout=DEVNULL, start_new_session=True, env=environment
        )


class Supervisor(Keeper):
    """The sampling worker, kept alive, and its socket. `options` go to the worker's command line."""

    def __init__(self, options: Sequence[str] = (), *, backoff: Sequence[float] = BACKOFF):
        self._folder = _short_folder()
        self.socket = self._folder / "worker.sock"
        worker = command_of("kartina.serving.worker", "--socket", str(self.socket), "--watch-stdin", *options)
        super().__init__(worker, backoff=backoff)

    async def stop(self) -> None:
        """End the worker and its socket."""
        await super().stop()
        shutil.rmtree(self._folder, ignore_errors=True)


def _short_folder() -> Path:
    """A private folder whose path leaves room for a socket's name."""
    for root in (None, "/tmp"):
        folder = Path(tempfile.mkdtemp(prefix="kartina-", dir=root))
        if len(os.fsencode(folder / "worker.sock")) <= _MAX_PATH:
            return folder
        folder.rmdir()
    raise OSError(f"the temporary folder's path is too long for a socket: {tempfile.gettempdir()}")
