"""Workers and their children as real processes: ends of every kind, and kill -9 at random points."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from kartina.jobs.table import Job, Jobs
from kartina.storage.database import Database
from kartina.storage.tables import job_events
from kartina.storage.tables import jobs as table
from tests.databases import sqlite_first
from tests.waiting import wait

TOY = Path(__file__).parent / "toy.py"
slow = partial(pytest.param, marks=pytest.mark.slow)


@pytest.fixture
def jobs(database: Database, url: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    monkeypatch.setenv("KARTINA_DATABASE", url)
    return Jobs(database)


@contextmanager
def worker(*options: str) -> Iterator[subprocess.Popen[str]]:
    """A worker process; killed at the end, with its child, when it is still there."""
    process = subprocess.Popen([sys.executable, TOY, "work", *options], stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children():
                child.kill()
        process.kill()
        process.communicate()


def drain(*options: str) -> None:
    """Let a worker work until nothing is left."""
    with worker("--until-idle", *options) as process:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


def output(job: Job) -> str:
    assert job.output is not None
    assert [p.name for p in job.folder.iterdir()] == [job.output], "other attempts' files are gone"
    assert [p.name for p in (job.folder / job.output).iterdir()] == ["out.txt"]
    return (job.folder / job.output / "out.txt").read_text()


def cleaned(job: Job) -> bool:
    """Whether the job is at its end, and only the committed attempt's files are left."""
    return job.finished and [p.name for p in job.folder.iterdir()] == [job.output]


def logged(jobs: Jobs, id: int) -> list[str]:
    return [event.data["text"] for event in jobs.events(id) if event.event == "log"]


@sqlite_first
def test_jobs_run_in_their_order(jobs: Jobs) -> None:
    ids = [jobs.submit("toy", {"n": 3}).id for _ in range(2)]
    drain()
    first, second = (jobs.get(id) for id in ids)
    for job in (first, second):
        assert (job.status, job.attempt, job.result) == ("succeeded", 1, {"counted": [0, 1, 2]})
        assert output(job) == f"job {job.id} attempt 1: [0, 1, 2]"
        assert logged(jobs, job.id) == ["counted 0", "counted 1", "counted 2"]
    assert first.completed_at is not None and second.started_at is not None
    assert first.completed_at <= second.started_at


ENDS = [  # trouble, status, attempts, code, says
    ("input", "failed", 1, "data", "Found no number"),
    ("bug", "failed", 1, "error", "RuntimeError: a toy that breaks"),
    ("nan", "failed", 1, "error", "JSON compliant"),
    ("once", "succeeded", 2, None, ""),
    ("die once", "succeeded", 2, None, ""),
    ("die", "failed", 3, "worker_died", "exit code 9"),
]


@sqlite_first
def test_ends(jobs: Jobs) -> None:
    """One worker meets them all, and outlives them."""
    ids = [jobs.submit("toy", {"n": 2, "trouble": trouble}).id for trouble, *_ in ENDS]
    drain()
    for id, (trouble, status, attempts, code, says) in zip(ids, ENDS, strict=True):
        job = jobs.get(id)
        assert (job.status, job.attempt) == (status, attempts), trouble
        if code is not None:
            assert job.error is not None and job.error.code == code and says in job.error.message, trouble
            assert not job.folder.exists() or not list(job.folder.iterdir()), trouble
        if trouble == "bug":
            assert "Traceback" in logged(jobs, id)[-1] and "toy.py" in logged(jobs, id)[-1]


@sqlite_first
def test_an_unknown_kind_fails_in_words(jobs: Jobs) -> None:
    id = jobs.submit("tooy", {}).id
    drain()
    job = jobs.get(id)
    assert job.status == "failed" and job.error is not None and "Did you mean 'toy'?" in job.error.message


@sqlite_first
def test_a_job_that_is_deleted_as_soon_as_it_has_ended_takes_no_worker_with_it(jobs: Jobs) -> None:
    with worker() as process:
        for _ in range(3):
            id = jobs.submit("toy", {"n": 1}).id
            wait(lambda id=id: jobs.get(id).finished)
            jobs.delete(id)  # its process has yet to end
        last = jobs.submit("toy", {"n": 1}).id
        wait(lambda: jobs.get(last).finished)
        assert process.poll() is None


@pytest.mark.parametrize(
    ("url", "deaf"),
    [("sqlite", False), ("sqlite", True), slow("postgresql", False), slow("postgresql", True)],
    indirect=["url"],
)
def test_cancel_ends_a_running_job(jobs: Jobs, deaf: bool) -> None:
    """In its own time, or after some grace by a kill; the worker goes on with the next."""
    trouble = {"trouble": "deaf"} if deaf else {}
    id = jobs.submit("toy", {"n": 10_000, **trouble}).id
    with worker("--grace", "0.5"):
        wait(lambda: jobs.get(id).saved)
        jobs.cancel(id)
        wait(lambda: jobs.get(id).finished)
        assert jobs.get(id).status == "canceled"
        after = jobs.submit("toy", {"n": 1}).id
        wait(lambda: jobs.get(after).finished)
    wait(lambda: not list(jobs.get(id).folder.iterdir()))
    before = len(logged(jobs, id))
    jobs.resume(id)
    with worker():
        wait(lambda: jobs.get(id).attempt == 2 and len(logged(jobs, id)) > before + 2)
    assert logged(jobs, id)[:3] == ["counted 0", "counted 1", "counted 2"], "and never again from 0"
    assert len(set(logged(jobs, id))) == len(logged(jobs, id))


@sqlite_first
def test_a_worker_that_is_stopped_gives_its_job_back(jobs: Jobs) -> None:
    id = jobs.submit("toy", {"n": 10_000}).id
    with worker() as process:
        wait(lambda: jobs.get(id).saved)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    job = jobs.get(id)
    assert (job.status, job.owner, job.tries) == ("queued", None, 0) and job.saved["counted"]


@pytest.mark.parametrize(
    ("url", "victim"),
    [
        slow("sqlite", "worker"),
        slow("sqlite", "child"),
        ("sqlite", "both"),
        slow("postgresql", "worker"),
        slow("postgresql", "child"),
        slow("postgresql", "both"),
    ],
    indirect=["url"],
)
def test_a_killed_ones_job_goes_on_elsewhere_from_what_it_saved(jobs: Jobs, victim: str) -> None:
    id = jobs.submit("toy", {"n": 60}).id
    with worker(), worker():
        wait(lambda: jobs.get(id).saved.get("counted"))
        owner = int((jobs.get(id).owner or "").split(":")[1])
        (child,) = psutil.Process(owner).children()
        for pid in {"worker": [owner], "child": [child.pid], "both": [owner, child.pid]}[victim]:
            os.kill(pid, signal.SIGKILL)
        wait(lambda: jobs.get(id).attempt == 2, 10)  # the lease is 2 s
        wait(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
        wait(lambda: cleaned(jobs.get(id)))
    job = jobs.get(id)
    assert job.status == "succeeded" and output(job) == f"job {id} attempt 2: {list(range(60))}"
    texts = logged(jobs, id)
    assert len(texts) <= 61, "one number at most was counted twice"


def locked(database: Database) -> bool:
    """Whether an SQLite database is locked by a writer."""
    if database.engine.dialect.name != "sqlite":
        return False
    connection = sqlite3.connect(str(database.engine.url.database), timeout=0.1, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
        return False
    except sqlite3.OperationalError:
        return True
    finally:
        connection.close()


@pytest.mark.slow
def test_a_worker_that_slept_finds_its_job_taken_and_leaves_it(jobs: Jobs) -> None:
    """SIGSTOP for longer than the lease, as a closed laptop does; both workers end up healthy."""
    id = jobs.submit("toy", {"n": 12, "pause": 0.5}).id
    with worker("--lease", "1") as sleeper:
        wait(lambda: jobs.get(id).saved)
        (child,) = psutil.Process(sleeper.pid).children()
        pair = (psutil.Process(sleeper.pid), child)
        for process in pair:
            process.suspend()
        while locked(jobs.database):  # asleep in the middle of a write to SQLite: nobody could work then
            for process in pair:
                process.resume()
            time.sleep(0.05)
            for process in pair:
                process.suspend()
        with worker("--lease", "1"):
            wait(lambda: jobs.get(id).attempt == 2)
            for process in pair:
                process.resume()
            wait(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
            wait(lambda: cleaned(jobs.get(id)))
            job = jobs.get(id)
            assert job.status == "succeeded" and output(job).startswith(f"job {id} attempt 2:")
            assert sleeper.poll() is None
            after = [jobs.submit("toy", {"n": 20}).id for _ in range(2)]
            wait(lambda: all(jobs.get(i).finished for i in after))


@sqlite_first
def test_a_killed_submitter_leaves_its_job(jobs: Jobs) -> None:
    """kill -9 right after the job was accepted."""
    code = "import os; from kartina.jobs.table import Jobs; j = Jobs.open().submit('toy', {'n': 1})"
    code += "; print(j.id, flush=True); os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -9
    drain()
    assert jobs.get(int(done.stdout)).status == "succeeded"


# -- kill -9 at random points ------------------------------------------------------------------------------------------


def watch_commits(database: Database) -> None:
    """A trigger of the database's own notes every update that makes a job succeed: a witness beside the code."""
    with database.write() as c:
        c.execute(sa.text("CREATE TABLE witness (job INTEGER, output TEXT)"))
        if database.engine.dialect.name == "sqlite":
            c.execute(sa.text(
                "CREATE TRIGGER note AFTER UPDATE OF status ON jobs WHEN NEW.status = 'succeeded' BEGIN "
                "INSERT INTO witness VALUES (NEW.id, NEW.output); END"))  # fmt: skip
            return
        c.execute(sa.text(
            "CREATE FUNCTION note() RETURNS trigger AS 'BEGIN INSERT INTO witness VALUES (NEW.id, NEW.output); "
            "RETURN NEW; END' LANGUAGE plpgsql"))  # fmt: skip
        c.execute(sa.text(
            "CREATE TRIGGER note AFTER UPDATE OF status ON jobs FOR EACH ROW WHEN (NEW.status = 'succeeded') "
            "EXECUTE FUNCTION note()"))  # fmt: skip


class Victims:
    """Two workers, always; half of the kills come from outside at random times, half from within at random commits."""

    def __init__(self, points: int, deaths: Path):
        self.points, self.deaths = points, deaths
        self.outside: list[str] = []
        self.workers: list[subprocess.Popen[bytes]] = []
        self.rng = random.Random(points)

    @property
    def kills(self) -> int:
        return len(self.outside) + len(list(self.deaths.iterdir()))

    def keep_two(self) -> None:
        self.workers = [w for w in self.workers if w.poll() is None]
        while len(self.workers) < 2:
            self.workers.append(subprocess.Popen([sys.executable, TOY, "work"], stderr=subprocess.DEVNULL))

    def kill_one(self) -> None:
        """At a random time, a worker that has a job, or its child, or a worker that is starting, or has none."""
        if len(self.outside) >= self.points - self.points // 2:
            return time.sleep(0.1)
        time.sleep(self.rng.uniform(0, 1.5))
        alive = [("worker", worker.pid) for worker in self.workers]
        with suppress(psutil.NoSuchProcess):
            found = [child for worker in self.workers for child in psutil.Process(worker.pid).children()]
            alive += 2 * [("child", child.pid) for child in found]
        role, pid = self.rng.choice(alive)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.outside.append(role)

    def stop(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker.wait()


@sqlite_first
@pytest.mark.parametrize("points", [3, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_kill_9_anywhere_loses_no_job_and_does_none_twice(
    jobs: Jobs, points: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch_commits(jobs.database)
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    monkeypatch.setenv("KARTINA_DEATHS", str(deaths))
    monkeypatch.setenv("KARTINA_DEATHS_LEFT", str(points // 2))
    victims = Victims(points, deaths)
    ids: list[int] = []
    try:
        while victims.kills < points:
            victims.keep_two()
            if jobs.unfinished() < 4:
                ids.append(jobs.submit("toy", {"n": 6}, max_tries=1000).id)
            victims.kill_one()
        wait(lambda: victims.keep_two() or not jobs.unfinished(), 300)
    finally:
        victims.stop()

    # No job is lost ...
    every = [jobs.get(id) for id in ids]
    assert {job.status for job in every} == {"succeeded"}
    assert sorted(job.id for job in jobs.recent(limit=1000)) == ids
    # ... none was committed twice: the database's own witness, the events, and the files say so ...
    with jobs.database.read() as c:
        witnessed = c.execute(sa.text("SELECT job, output FROM witness ORDER BY job")).all()
    assert [tuple(row) for row in witnessed] == [(job.id, job.output) for job in every]
    for job in every:
        ends = [e for e in jobs.events(job.id) if e.event == "status" and e.data["status"] == "succeeded"]
        assert len(ends) == 1 and ends[0].attempt == int((job.output or "").split("-")[1])
        made = (job.folder / str(job.output) / "out.txt").read_text()
        assert made == f"job {job.id} attempt {ends[0].attempt}: [0, 1, 2, 3, 4, 5]"
        assert job.result == {"counted": list(range(6))}
        # ... and what happened is told in order, with nothing missing but older progress.
        told = [e.id for e in jobs.events(job.id)]
        assert told == sorted(set(told)) and told[-1] == job.last_event
    attempts = sum(job.attempt for job in every)
    within = sorted(p.name.split("-")[0] + " " + p.name.split("-")[2] for p in deaths.iterdir())
    counts = {what: within.count(what) for what in sorted(set(within))}
    outside = {role: victims.outside.count(role) for role in sorted(set(victims.outside))}
    kind = jobs.database.engine.dialect.name
    print(f"{kind}: {victims.kills} kills (at random times: {outside}; at a commit: {counts}), ", end="")
    print(f"{len(every)} jobs, {attempts} attempts, {len(witnessed)} commits")
    assert victims.kills >= points and attempts > len(every)


@sqlite_first
def test_a_worker_sweeps_what_killed_ones_left(jobs: Jobs) -> None:
    id = jobs.submit("toy", {"n": 1}).id
    drain()
    for name in ("attempt-7", "attempt-8"):
        (jobs.get(id).folder / name).mkdir()
    (jobs.get(id).folder.parent / "999").mkdir()  # another database's: not ours
    drain()
    assert output(jobs.get(id)) and (jobs.get(id).folder.parent / "999").is_dir()


def test_a_deleted_job_takes_its_events_along(jobs: Jobs) -> None:
    id = jobs.submit("toy", {}).id
    with jobs.database.write() as c:
        c.execute(table.delete().where(table.c.id == id))
        assert c.execute(sa.select(sa.func.count()).select_from(job_events)).scalar() == 0
