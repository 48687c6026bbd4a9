"""Promise 7, the jobs' side: what a killed worker had is claimed again in time, whatever else the machine does."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from kartina.jobs.table import LEASE, Jobs
from kartina.storage.database import Database
from tests import tiny

TOY = Path(__file__).parent / "toy.py"
TRAIN = """
import sys
from pathlib import Path
from kartina.training.loop import train
from kartina.training.run import Run
train(Run.open(Path(sys.argv[1])), lambda progress: None)
"""
WORKERS = 4


@contextmanager
def trainings(home: Path) -> Iterator[None]:
    """A training that never ends for each core."""
    running = []
    for _ in range(os.cpu_count() or 1):
        run = tiny.run("vae", home, n=10**9)
        running.append(subprocess.Popen([sys.executable, "-c", TRAIN, str(run.path)]))
    try:
        yield
        assert all(process.poll() is None for process in running), "they still train"
    finally:
        for process in running:
            process.kill()
            process.wait()


def start() -> subprocess.Popen[bytes]:
    command = [sys.executable, str(TOY), "work", "--lease", str(LEASE)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_workers_job_is_claimed_within_ten_seconds_while_trainings_take_every_core(
    database: Database, url: str, home: Path, monkeypatch: pytest.MonkeyPatch, kills: int = 50
) -> None:
    """Workers die with their children at random moments, a hundred over both databases; each job that one had goes on
    elsewhere in less than 10 s."""
    monkeypatch.setenv("KARTINA_DATABASE", url)
    jobs, rng, took = Jobs(database), random.Random(kills), list[float]()
    lost: dict[int, tuple[int, float]] = {}  # job -> (its attempt, when its worker was killed)
    workers = [start() for _ in range(WORKERS)]
    ids = [jobs.submit("toy", {"n": 10_000, "pause": 0.1}, max_tries=100_000).id for _ in range(WORKERS)]

    def look() -> None:
        for id in list(lost):
            attempt, at = lost[id]
            if jobs.get(id).attempt > attempt:
                took.append(time.monotonic() - at)
                del lost[id]

    try:
        with trainings(home):
            deadline = time.monotonic() + 1500
            while len(took) < kills:
                assert time.monotonic() < deadline
                look()
                found = [jobs.get(id) for id in ids]
                # What dies three times without getting on may be what kills its workers: it waits longer, and longer.
                running = {job.owner: job for job in found if job.status == "running" and job.tries < 2}
                victims = [(w, job) for w in workers for owner, job in running.items() if f":{w.pid}:" in (owner or "")]
                if victims and len(took) + len(lost) < kills and rng.random() < 0.1:
                    victim, job = rng.choice(victims)
                    if job.id not in lost:
                        for child in psutil.Process(victim.pid).children():
                            child.send_signal(signal.SIGKILL)
                        victim.kill()
                        victim.wait()
                        lost[job.id] = job.attempt, time.monotonic()
                        workers[workers.index(victim)] = start()
                time.sleep(0.05)
    finally:
        for process in workers:
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children():
                    child.kill()
            process.kill()
            process.wait()
    took.sort()
    print(f"\n{len(took)} kills: claimed again after p50 {took[len(took) // 2]:.1f} s, at most {took[-1]:.1f} s")
    assert took[-1] < 10
