"""The local executor: a worker takes a job, runs it in a child process, and keeps its lease.

    worker ──claim──► table
      │  └─beat─►       ▲
      └─► child ────────┘   progress, events, what to go on from, the end: fenced writes

One worker runs one job at a time. The child dies with its worker (its standard input closes), a worker notices at once
when its child has died, and when both die the lease runs out: in each case the job goes on elsewhere. A worker that
cannot renew a lease ends its child before another one can have the job.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence

import structlog

from kartina.errors import NotFoundError, StorageError
from kartina.jobs.table import LEASE, Job, Jobs, clean, sweep

log = structlog.get_logger("kartina.jobs")

POLL = 0.5  # seconds between looks for a job
GRACE = 10.0  # seconds that a job has to stop when it is asked to


class Worker:
    """Takes and runs jobs, one after the other. `command` starts a child: see `jobs.child`."""

    def __init__(
        self,
        jobs: Jobs,
        command: Sequence[str],
        *,
        lease: float = LEASE,
        poll: float = POLL,
        grace: float = GRACE,
        kinds: Sequence[str] = (),
        without: Sequence[str] = (),
    ):
        self.jobs, self.command = jobs, tuple(command)
        self.lease, self.poll, self.grace = lease, poll, grace
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"
        self.kinds, self.without = tuple(kinds), tuple(without)  # of jobs: only these, not those
        self._stop = threading.Event()

    def stop(self) -> None:
        """End as soon as the job has stopped; it goes back to the queue. From any thread or signal handler."""
        self._stop.set()

    def run(self, until_idle: bool = False) -> None:
        """Work until `stop`, or until no job is left that is not at its end."""
        sweep(self.jobs)
        while not self._stop.is_set():
            try:
                job = self.jobs.claim(self.owner, self.lease, kinds=self.kinds, without=self.without)
                if job is not None:
                    self._work(job)
                elif until_idle and not self.jobs.unfinished():
                    return
                else:
                    self._stop.wait(self.poll)
            except StorageError as error:  # the database is away, locked or full: it may come back
                log.error("database_unavailable", error=str(error))
                self._stop.wait(self.lease)

    def _work(self, job: Job) -> None:
        """Run one attempt to its end, whatever that is."""
        words = ["--job", str(job.id), "--owner", self.owner, "--attempt", str(job.attempt)]
        try:
            child = subprocess.Popen([*self.command, *words], stdin=subprocess.PIPE, start_new_session=True)
        except OSError as error:  # no memory, no processes left
            self.jobs.fail(job.lease, "worker_died", f"its process could not be started: {error}", again=True)
            return
        try:
            asked = self._keep(job, child)
        finally:
            _end(child)
        if child.returncode != 0 and not self._give_up(job, child.returncode, asked):
            log.warning("job_lost", job=job.id, attempt=job.attempt, code=child.returncode)
        with contextlib.suppress(NotFoundError):  # it was deleted as soon as it had ended
            clean(self.jobs.get(job.id))

    def _give_up(self, job: Job, code: int, asked: bool) -> bool:
        """Say what became of an attempt whose child could not; False when the job was no longer ours."""
        if asked:  # it did not stop in time
            return self.jobs.release(job.lease)
        return self.jobs.fail(job.lease, "worker_died", f"its process ended with {_code(code)}", again=True)

    def _keep(self, job: Job, child: subprocess.Popen[bytes]) -> bool:
        """Renew the lease until the child has ended, or is to be ended; says whether it was asked to stop.

        It is to be ended when it does not stop when asked, and when its lease is lost or cannot be renewed.
        """
        renewed, asked = time.monotonic(), 0.0
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(min(self.lease / 4, self.poll))
                return bool(asked)
            now = time.monotonic()
            stop = self._stop.is_set()
            if now - renewed > self.lease / 4:
                try:
                    status = self.jobs.beat(job.lease, self.lease)
                except StorageError as error:
                    log.error("heartbeat_failed", job=job.id, error=str(error))
                    if now - renewed > 0.8 * self.lease:
                        return bool(asked)
                else:
                    if status is None:
                        self._let_finish(job, child)
                        return bool(asked)
                    renewed = now
                    stop = stop or status == "canceling"
            if stop and not asked:
                asked = now
                _ask(child)
            if asked and now - asked > self.grace:
                return True

    def _let_finish(self, job: Job, child: subprocess.Popen[bytes]) -> None:
        """The job is no longer ours: because the child has ended it, and is about to end too, or has lost it."""
        try:
            now = self.jobs.get(job.id)
            over = now.finished and now.attempt == job.attempt
        except NotFoundError:
            over = True  # and was deleted since
        if over:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(self.grace)


def _ask(child: subprocess.Popen[bytes]) -> None:
    """Ask a child to stop."""
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(b"stop\n")
        child.stdin.flush()


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill a child that is still there, with its own children, and wait for it."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        child.stdin.close()


def _code(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
