"""Promise 7, the jobs' side: what a killed worker had is claimed again in time, whatever else the machine does."""

from __future__ import annotations

import os
import random
import select
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
from kartina.jobs.worker import POLL
from kartina.storage.database import Database, open_database
from tests import tiny
from tests.service import Service

TOY = Path(__file__).parent / "toy.py"
TRAIN = """
import sys
from pathlib import Path
from kartina.training.loop import train
from kartina.training.run import Run
train(Run.open(Path(sys.argv[1])), lambda progress: None)
"""
JOBS, WORKERS = 4, 8


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
    """A worker as a service has it; it says when it has started."""
    command = [sys.executable, str(TOY), "work", "--lease", str(LEASE), "--poll", str(POLL), "--greet"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def started(worker: subprocess.Popen[bytes]) -> bool:
    return bool(select.select([worker.stdout], [], [], 0)[0])


def kill(worker: subprocess.Popen[bytes]) -> None:
    worker.kill()
    worker.wait()
    assert worker.stdout is not None
    worker.stdout.close()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_workers_job_is_claimed_within_ten_seconds_while_trainings_take_every_core(
    database: Database, url: str, home: Path, monkeypatch: pytest.MonkeyPatch, kills: int = 50
) -> None:
    """Workers die with their children at random moments, a hundred over both databases; each job that one had goes on
    in less than 10 s with one that lives: how long a new one takes to start says nothing about the claim."""
    monkeypatch.setenv("KARTINA_DATABASE", url)
    jobs, rng, took = Jobs(database), random.Random(kills), list[float]()
    lost: dict[int, tuple[int, float]] = {}  # job -> (its attempt, when its worker was killed)
    workers = [start() for _ in range(WORKERS)]
    ids = [jobs.submit("toy", {"n": 10_000, "pause": 0.1}, max_tries=100_000).id for _ in range(JOBS)]

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
                running = [job for job in found if job.status == "running"]
                has = {worker: job for worker in workers for job in running if f":{worker.pid}:" in (job.owner or "")}
                idle = [worker for worker in workers if started(worker) and worker not in has]
                # What dies three times without getting on may be what kills its workers: it waits longer, and longer.
                victims = [(worker, job) for worker, job in has.items() if job.id not in lost and job.tries < 2]
                if victims and len(lost) < min(len(idle), kills - len(took)) and rng.random() < 0.1:
                    victim, job = rng.choice(victims)
                    for child in psutil.Process(victim.pid).children():
                        child.send_signal(signal.SIGKILL)
                    kill(victim)
                    lost[job.id] = job.attempt, time.monotonic()
                    workers[workers.index(victim)] = start()
                time.sleep(0.05)
    finally:
        for process in workers:
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children():
                    child.kill()
            kill(process)
    took.sort()
    print(f"\n{len(took)} kills: claimed again after p50 {took[len(took) // 2]:.1f} s, at most {took[-1]:.1f} s")
    assert took[-1] < 10


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_services_next_worker_claims_what_the_killed_one_had_within_ten_seconds(home: Path, kills: int = 3) -> None:
    """A service has one worker for trainings: the next one has to start, too, while trainings take every core."""
    service, took = Service(home), list[float]()
    body = {"preset": "vae-32-cpu", "data": "digits", "images": 10**7, "settings": {"width": 8, "threads": 1}}
    try:
        with service.environment(), trainings(home):
            jobs = Jobs(open_database())
            for _ in range(kills):
                id = int(service.client.post("/v1/runs", json=body).json()["id"])
                worker, deadline = None, time.monotonic() + 60
                while worker is None:
                    assert time.monotonic() < deadline
                    owner = jobs.get(id).owner or ""
                    children = psutil.Process(service.process.pid).children()
                    worker = next((child for child in children if f":{child.pid}:" in owner), None)
                    time.sleep(0.1)
                time.sleep(3)  # its child is at work, and the lease renewed
                attempt = jobs.get(id).attempt
                for process in (*worker.children(recursive=True), worker):
                    process.kill()
                killed = time.monotonic()
                while jobs.get(id).attempt == attempt:
                    assert time.monotonic() < killed + 10
                    time.sleep(0.05)
                took.append(time.monotonic() - killed)
                service.client.post(f"/v1/jobs/{id}/cancel")
    finally:
        service.stop(signal.SIGKILL)
    print(f"\na service's worker, {kills} kills: claimed again after {', '.join(f'{t:.1f}' for t in sorted(took))} s")
