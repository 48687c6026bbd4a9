"""What a handler sees of the job that it runs.

def handler(job: Context, spec: dict) -> dict:
    done = job.saved.get("done", 0)             # where the last attempt got to
    for i in range(done, spec["n"]):
        job.check()                             # raises Interrupted when it shall stop
        ...
        job.save({"done": i + 1})               # the next attempt goes on from here
        job.progress((i + 1) / spec["n"], f"{i + 1} of {spec['n']}")
    (job.folder / "out.txt").write_text(...)    # committed with the result, or never seen
    return {"n": spec["n"]}                     # the result, as JSON
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import structlog

from kartina.errors import StorageError, disk_errors
from kartina.files import make_folder
from kartina.jobs.table import KEPT, Job, Jobs, Lease, Progress

log = structlog.get_logger("kartina.jobs")

PROGRESS_EVERY = 0.5  # seconds


class Interrupted(Exception):
    """The job shall stop: it is being canceled, or its worker is stopping. What was saved stays."""


class Lost(Exception):
    """The job is no longer this process's: another worker has it."""


class Context:
    """A job, as its handler sees it. Methods may be called from any thread."""

    def __init__(self, jobs: Jobs, job: Job, lease: Lease):
        self.id, self.attempt, self.created_at = job.id, lease.attempt, job.created_at
        self.caller = job.caller  # whose the job is, and what it makes
        self.database = jobs.database
        self._jobs, self._job, self._lease = jobs, job, lease
        self._saved = dict(job.saved)
        self._asked = threading.Event()
        self._told = 0.0  # when progress was last written
        self._shown: Progress | None = None

    @property
    def saved(self) -> dict[str, Any]:
        """What this attempt or an earlier one has last saved; empty at first."""
        return dict(self._saved)

    def save(self, saved: Mapping[str, Any]) -> None:
        """Write down where the next attempt shall go on. Raises Lost, StorageError."""
        if not self._jobs.save(self._lease, saved):
            raise Lost
        self._saved = dict(saved)

    @property
    def kept(self) -> Path:
        """A folder that every attempt finds again, made when it is first asked for; it goes with the job."""
        path = self._job.folder / KEPT
        with disk_errors("make the job's folder"):
            make_folder(path)
        return path

    @property
    def folder(self) -> Path:
        """This attempt's folder, made when it is first asked for; another attempt never sees it."""
        path = self._job.folder / self._lease.output
        with disk_errors("make the job's folder"):
            make_folder(path)
        return path

    def start_afresh(self) -> None:
        """Remove what lies in the attempt's place (of a job of that number in another database)."""
        shutil.rmtree(self._job.folder / self._lease.output, ignore_errors=True)

    @property
    def output(self) -> str | None:
        """The folder's name, when there is anything in it."""
        path = self._job.folder / self._lease.output
        return self._lease.output if path.is_dir() and any(path.iterdir()) else None

    def progress(self, value: float, text: str = "", *, step: int | None = None, steps: int | None = None) -> None:
        """Say how far the job is, 0..1. Written now and then; nothing is lost with what is not."""
        now = time.monotonic()
        shown = Progress(value=min(max(value, 0.0), 1.0), text=text, step=step, steps=steps)
        if now - self._told < PROGRESS_EVERY or shown == self._shown:
            return
        self._told, self._shown = now, shown
        self._quietly(lambda: self._jobs.progress(self._lease, shown))

    def log(self, text: str, level: str = "info") -> None:
        """Add a line to the job's log."""
        self._quietly(lambda: self._jobs.log(self._lease, text, level))

    def _quietly(self, write: Callable[[], bool]) -> None:
        """A write that the job can do without; one that is refused ends the job as soon as it looks."""
        try:
            if not write():
                self._asked.set()
        except StorageError as error:
            log.warning("not_written", job=self.id, error=str(error))

    def cancelled(self) -> bool:
        """Whether the job shall stop (canceled, or its worker is stopping): save, and raise Interrupted."""
        return self._asked.is_set()

    def check(self) -> None:
        """Raises Interrupted when the job shall stop."""
        if self.cancelled():
            raise Interrupted

    def interrupt(self) -> None:
        """Ask the handler to stop."""
        self._asked.set()
