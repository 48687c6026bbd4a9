"""The job table, the same on SQLite and PostgreSQL: states, leases, fences, events, idempotent submission."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
import sqlalchemy as sa

from kartina.errors import ConflictError, KeyReusedError, NotFoundError, QuotaError
from kartina.jobs.context import Context
from kartina.jobs.table import BACKOFF, Jobs, Progress, clean
from kartina.storage.database import Database, open_database
from kartina.storage.tables import jobs as table
from kartina.storage.usage import Used, hold, used


@pytest.fixture
def jobs(database: Database, home: Path) -> Jobs:
    return Jobs(database)


def statuses(jobs: Jobs, id: int) -> list[str]:
    return [event.data["status"] for event in jobs.events(id) if event.event == "status"]


def test_a_job_from_its_submission_to_its_end(jobs: Jobs) -> None:
    before = time.time()
    job = jobs.submit("toy", {"n": 3, "имя": ["a", None]})
    assert (job.status, job.attempt, job.owner, job.saved) == ("queued", 0, None, {})
    assert before - 1 < job.created_at < time.time() + 1
    assert jobs.get(job.id) == job and jobs.position(job.id) == 1
    second = jobs.submit("toy", {})
    assert second.id > job.id and jobs.position(second.id) == 2

    mine = jobs.claim("w1", 60)
    assert mine is not None and mine.id == job.id and (mine.status, mine.owner, mine.attempt) == ("running", "w1", 1)
    assert mine.leased_until is not None and mine.heartbeat is not None
    assert mine.leased_until - mine.heartbeat == pytest.approx(60)
    assert jobs.position(job.id) is None and jobs.position(second.id) == 1
    assert jobs.save(mine.lease, {"run": "0001"}) and jobs.log(mine.lease, "начато")
    assert jobs.progress(mine.lease, Progress(value=0.5, step=1, steps=2, text="half"))
    assert jobs.get(job.id).progress.value == 0.5 and jobs.get(job.id).saved == {"run": "0001"}

    assert jobs.succeed(mine.lease, {"n": 3}, "attempt-1")
    done = jobs.get(job.id)
    assert (done.status, done.result, done.output, done.owner) == ("succeeded", {"n": 3}, "attempt-1", None)
    assert done.finished and done.spec == {"n": 3, "имя": ["a", None]} and done.progress.value == 1
    assert done.started_at is not None and done.completed_at is not None
    assert done.created_at <= done.started_at <= done.completed_at
    assert statuses(jobs, job.id) == ["queued", "running", "succeeded"]
    assert [j.id for j in jobs.recent()] == [second.id, job.id]
    assert [j.id for j in jobs.recent("queued")] == [second.id]
    assert [j.id for j in jobs.recent(before=second.id)] == [job.id]
    assert jobs.unfinished() == 1


def test_an_unknown_job(jobs: Jobs) -> None:
    for id in (1, -1, 2**40):
        with pytest.raises(NotFoundError, match="jobs list"):
            jobs.get(id)


def test_two_claimers_never_get_the_same_attempt(jobs: Jobs, url: str) -> None:
    for _ in range(20):
        jobs.submit("toy", {})
    opened = [open_database(url) for _ in range(4)]

    def take(number: int) -> list[tuple[int, int]]:
        mine = Jobs(opened[number])
        found = []
        while (job := mine.claim(f"w{number}")) is not None:
            assert job.owner == f"w{number}"
            found.append((job.id, job.attempt))
        return found

    with ThreadPoolExecutor(4) as threads:
        taken = [pair for pairs in threads.map(take, range(4)) for pair in pairs]
    for database in opened:
        database.close()
    assert sorted(taken) == [(job.id, 1) for job in reversed(jobs.recent())] and len(taken) == 20


def test_a_claim_does_not_wait_for_another_transaction(database: Database, jobs: Jobs) -> None:
    """PostgreSQL's other workers go on while one holds a job's row; SQLite has one writer at a time."""
    if database.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    first, second = jobs.submit("toy", {}), jobs.submit("toy", {})
    with database.write() as c:
        c.execute(sa.select(table).where(table.c.id == first.id).with_for_update()).all()
        taken = jobs.claim("w2")
    assert taken is not None and taken.id == second.id


def test_an_expired_owners_writes_are_refused(jobs: Jobs) -> None:
    id = jobs.submit("toy", {}).id
    old = jobs.claim("w1", -1)
    new = jobs.claim("w2", 60)
    assert old is not None and new is not None and old.id == new.id and (old.attempt, new.attempt) == (1, 2)
    before = jobs.get(id), jobs.events(id)
    lease = old.lease
    assert jobs.beat(lease) is None
    refused = [jobs.save(lease, {"x": 1}), jobs.log(lease, "late"), jobs.progress(lease, Progress(value=0.9)),
               jobs.succeed(lease, {}, "attempt-1"), jobs.fail(lease, "error", "late"), jobs.cancelled(lease),
               jobs.fail(lease, "error", "late", again=True), jobs.release(lease)]  # fmt: skip
    assert not any(refused)
    assert (jobs.get(id), jobs.events(id)) == before
    assert jobs.succeed(new.lease, {}, "attempt-2") and jobs.get(id).output == "attempt-2"
    assert not jobs.succeed(new.lease, {}, "attempt-2"), "once is enough"


def test_the_fence_is_the_attempt_too(jobs: Jobs) -> None:
    """The same worker, which took its own job again after a pause, cannot mix up its attempts."""
    jobs.submit("toy", {})
    old = jobs.claim("w1", -1)
    new = jobs.claim("w1", 60)
    assert old is not None and new is not None and old.owner == new.owner
    assert not jobs.save(old.lease, {"x": 1}) and jobs.save(new.lease, {"x": 2})


def test_a_beat_keeps_the_lease(jobs: Jobs) -> None:
    jobs.submit("toy", {})
    mine = jobs.claim("w1", 0.2)
    assert mine is not None and jobs.beat(mine.lease, 60) == "running"
    time.sleep(0.3)
    assert jobs.claim("w2") is None and jobs.beat(mine.lease) == "running"


def test_racing_for_an_expired_lease(jobs: Jobs, url: str) -> None:
    """Eight workers see the same dead worker: one gets the job, and the others nothing."""
    id = jobs.submit("toy", {}).id
    jobs.claim("dead", -1)
    with ThreadPoolExecutor(8) as threads:
        found = [job for job in threads.map(lambda k: jobs.claim(f"w{k}"), range(8)) if job is not None]
    assert [(job.id, job.attempt) for job in found] == [(id, 2)]
    assert statuses(jobs, id) == ["queued", "running", "queued", "running"]


def test_tries_are_bounded_unless_the_job_gets_on(jobs: Jobs) -> None:
    id = jobs.submit("toy", {}, max_tries=2).id
    for attempt in range(1, 6):  # it dies five times, but saves something between two deaths
        job = jobs.claim("w", -1)
        assert job is not None and job.attempt == attempt
        assert jobs.save(job.lease, {"done": attempt})
    first = jobs.claim("w", -1)
    assert first is not None and first.saved == {"done": 5} and first.tries == 1
    assert jobs.claim("w") is None
    lost = jobs.get(id)
    assert lost.status == "failed" and lost.error is not None and lost.error.code == "worker_died"
    assert "2 without getting on" in lost.error.message


def test_a_failed_try_is_repeated_later(jobs: Jobs) -> None:
    id = jobs.submit("toy", {}).id
    for pause in BACKOFF[:2]:
        mine = jobs.claim("w", 60)
        assert mine is not None and jobs.fail(mine.lease, "storage", "disk full", again=True)
        again = jobs.get(id)
        assert again.status == "queued" and again.owner is None
        assert again.not_before - time.time() == pytest.approx(pause, abs=0.9)
        if pause:
            assert jobs.claim("w") is None
            with jobs.database.write() as c:
                c.execute(table.update().values(not_before=0))
    mine = jobs.claim("w", 60)
    assert mine is not None and jobs.fail(mine.lease, "storage", "disk full", again=True)
    failed = jobs.get(id)
    assert failed.status == "failed" and failed.error is not None and failed.error.code == "storage"
    assert "disk full" in failed.error.message


def test_cancel_and_resume(jobs: Jobs) -> None:
    waiting, running = jobs.submit("toy", {}), jobs.submit("toy", {})
    assert jobs.cancel(waiting.id).status == "canceled"
    mine = jobs.claim("w", 60)
    assert mine is not None and mine.id == running.id
    jobs.save(mine.lease, {"done": 1})
    assert jobs.cancel(running.id).status == "canceling" == jobs.cancel(running.id).status
    assert jobs.beat(mine.lease) == "canceling"
    assert not jobs.succeed(mine.lease, {}, None), "too late"
    assert jobs.cancelled(mine.lease)
    ended = jobs.cancel(running.id)
    assert ended.status == "canceled" and statuses(jobs, running.id) == ["queued", "running", "canceling", "canceled"]

    again = jobs.resume(running.id)
    assert (again.status, again.saved, again.error, again.completed_at) == ("queued", {"done": 1}, None, None)
    mine = jobs.claim("w", 60)
    assert mine is not None and mine.id == running.id and mine.attempt == 2
    with pytest.raises(ConflictError, match="running"):
        jobs.resume(running.id)
    jobs.succeed(mine.lease, {}, None)
    assert jobs.cancel(running.id).status == "succeeded"
    with pytest.raises(NotFoundError):
        jobs.cancel(99)
    with pytest.raises(NotFoundError):
        jobs.resume(99)


def test_a_cancel_that_waits_for_a_worker_that_lets_go_is_not_lost(jobs: Jobs, database: Database) -> None:
    """What the cancel saw running is queued by the time that it may write."""
    if database.engine.dialect.name != "postgresql":
        pytest.skip("SQLite has one writer at a time")
    id = jobs.submit("toy", {}).id
    mine = jobs.claim("w1", 60)
    assert mine is not None and mine.id == id
    locked = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"

    def waiting() -> bool:
        with database.read() as c:
            return bool(c.execute(sa.text(locked)).scalar_one())

    with ThreadPoolExecutor(1) as pool:
        with database.write() as c:
            c.execute(sa.update(table).where(table.c.id == id).values(status="queued", owner=None, leased_until=None))
            canceled, deadline = pool.submit(jobs.cancel, id), time.monotonic() + 20
            while not waiting():
                assert time.monotonic() < deadline and not canceled.done()
                time.sleep(0.02)
        assert canceled.result(20).status == "canceled"
    assert jobs.claim("w2", 60) is None


@pytest.mark.parametrize("end", ["the worker dies", "the worker stops", "the child dies"])
def test_a_job_that_is_being_canceled_ends_canceled(jobs: Jobs, end: str) -> None:
    id = jobs.submit("toy", {}).id
    mine = jobs.claim("w", -1 if end == "the worker dies" else 60)
    assert mine is not None
    jobs.cancel(id)
    match end:
        case "the worker dies":
            assert jobs.claim("w2") is None
        case "the worker stops":
            assert jobs.release(mine.lease)
        case "the child dies":
            assert jobs.fail(mine.lease, "worker_died", "", again=True)
    assert jobs.get(id).status == "canceled" and statuses(jobs, id)[-2:] == ["canceling", "canceled"]


def test_a_released_job_is_due_at_once_and_costs_no_try(jobs: Jobs) -> None:
    jobs.submit("toy", {})
    mine = jobs.claim("w1", 60)
    assert mine is not None and jobs.release(mine.lease)
    again = jobs.claim("w2", 60)
    assert again is not None and again.attempt == 2 and again.tries == 0


def test_events_are_numbered_without_gaps_and_can_be_taken_up_anywhere(jobs: Jobs) -> None:
    id = jobs.submit("toy", {}).id
    mine = jobs.claim("w", 60)
    assert mine is not None
    lease = mine.lease
    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(lambda i: jobs.log(lease, str(i)), range(30)))
    events = jobs.events(id)
    assert [e.id for e in events] == list(range(1, 33))
    assert sorted(int(e.data["text"]) for e in events[2:]) == list(range(30))
    assert all(a.at <= b.at for a, b in pairwise(events)) and {e.attempt for e in events} == {0, 1}
    assert jobs.events(id, after=20) == events[20:] and jobs.events(id, after=32) == []
    assert jobs.events(id, after=4, limit=3) == events[4:7]

    for i in range(5):
        jobs.progress(lease, Progress(value=i / 10))
    newest = jobs.events(id, after=32)
    assert [(e.event, e.id, e.data["value"]) for e in newest] == [("progress", 37, 0.4)], "only the newest is kept"
    assert jobs.get(id).last_event == 37
    other = jobs.submit("toy", {})
    assert [e.id for e in jobs.events(other.id)] == [1]


def test_a_reader_misses_nothing_while_others_write(jobs: Jobs) -> None:
    """What a reader sees after event k never gets an event before k: it can go on from the last it saw."""
    id = jobs.submit("toy", {}).id
    mine = jobs.claim("w", 60)
    assert mine is not None
    lease, seen = mine.lease, []
    with ThreadPoolExecutor(4) as threads:
        writing = [threads.submit(jobs.log, lease, str(i)) for i in range(40)]
        while len(seen) < 42:
            seen += jobs.events(id, after=seen[-1].id if seen else 0)
        assert all(w.result() for w in writing)
    assert [e.id for e in seen] == list(range(1, 43))


def test_submitting_twice_with_a_key_is_once(jobs: Jobs, url: str) -> None:
    def submit(_: int) -> int:
        return jobs.submit("toy", {"n": (1, 2)}, key="k").id

    with ThreadPoolExecutor(6) as threads:
        assert len(set(threads.map(submit, range(12)))) == 1
    assert len(jobs.recent()) == 1
    for other in (("toy", {"n": [1, 3]}), ("other", {"n": [1, 2]})):
        with pytest.raises(KeyReusedError, match="'k'"):
            jobs.submit(*other, key="k")
    with jobs.database.write() as c:
        c.execute(table.update().values(created_at=time.time() - 25 * 3600))
    assert jobs.submit("toy", {"n": [1, 3]}, key="k").id != jobs.recent()[-1].id, "a day later it is free again"
    assert len(jobs.recent()) == 2


def test_an_id_is_never_given_twice(database: Database, jobs: Jobs) -> None:
    first = jobs.submit("toy", {})
    with database.write() as c:
        c.execute(table.delete().where(table.c.id == first.id))
    assert jobs.submit("toy", {}).id > first.id


def test_only_the_committed_attempts_files_are_kept(jobs: Jobs) -> None:
    id = jobs.submit("toy", {}).id
    jobs.claim("w1", -1)
    mine = jobs.claim("w2", 60)
    assert mine is not None
    for attempt in (1, 2):
        (mine.folder / f"attempt-{attempt}").mkdir(parents=True)
    clean(jobs.get(id))
    assert len(list(mine.folder.iterdir())) == 2, "not while it runs"
    jobs.succeed(mine.lease, {}, "attempt-2")
    clean(jobs.get(id))
    assert [p.name for p in mine.folder.iterdir()] == ["attempt-2"]


def test_jobs_belong_to_who_asked(jobs: Jobs) -> None:
    cli, first, other = (jobs.submit("toy", {}, caller=name) for name in ("local", "key_a", "key_b"))
    second = jobs.submit("train", {}, caller="key_a")
    assert (cli.caller, jobs.submit("toy", {}).caller) == ("local", "local")
    assert [job.id for job in jobs.page("key_a", 10)] == [second.id, first.id]
    assert [job.id for job in jobs.page("key_a", 1)] == [second.id]
    assert [job.id for job in jobs.page("key_a", 10, before=second.id)] == [first.id]
    assert [job.id for job in jobs.page("key_a", 10, kind="train")] == [second.id]
    jobs.cancel(first.id)
    assert [job.id for job in jobs.page("key_a", 10, status="canceled")] == [first.id]
    assert [job.id for job in jobs.active("key_a")] == [second.id]
    assert jobs.active("key_a", "toy") == [] and [job.id for job in jobs.active("key_b")] == [other.id]

    seen = {job.id: job.last_event for job in (first, second, other)}
    found, gone = jobs.newer(seen)
    assert [job.id for job in found] == [first.id] and gone == set()

    with pytest.raises(ConflictError, match="queued"):
        jobs.delete(second.id)
    jobs.delete(first.id)
    assert jobs.events(first.id) == [] and jobs.newer(seen) == ([], {first.id})
    with pytest.raises(NotFoundError):
        jobs.delete(first.id)


def test_the_latest_job_of_something_is_the_one_at_work_else_the_newest(jobs: Jobs) -> None:
    def latest() -> int | None:
        found = jobs.latest("key_a", "toy", lambda job: job.spec.get("of") == "it")
        return None if found is None else found.id

    jobs.submit("toy", {"of": "it"}, caller="key_b")
    jobs.submit("train", {"of": "it"}, caller="key_a")
    assert latest() is None
    first, second = (jobs.submit("toy", {"of": "it"}, caller="key_a") for _ in range(2))
    jobs.submit("toy", {"of": "another"}, caller="key_a")
    for job in (first, second):
        jobs.cancel(job.id)
    assert latest() == second.id
    jobs.resume(first.id)
    assert latest() == first.id


def test_a_caller_has_so_many_jobs_at_most(jobs: Jobs, url: str) -> None:
    """Four that ask at once, of the same caller, get two jobs; the command line is not bounded."""
    opened = [open_database(url) for _ in range(4)]

    def ask(number: int) -> int | None:
        try:
            return Jobs(opened[number]).submit("toy", {}, caller="key_a", most=2).id
        except QuotaError as error:
            assert "2 jobs that are not at their end" in str(error)
            return None

    with ThreadPoolExecutor(4) as threads:
        made = [id for id in threads.map(ask, range(4)) if id is not None]
    for database in opened:
        database.close()
    assert len(made) == 2 and jobs.submit("toy", {}).caller == "local"
    jobs.cancel(made[0])
    third = jobs.submit("toy", {}, caller="key_a", most=2)
    with pytest.raises(QuotaError):
        jobs.resume(made[0], most=2)
    jobs.cancel(third.id)
    assert jobs.resume(made[0], most=2).status == "queued"


def test_a_claim_may_be_of_some_kinds_only(jobs: Jobs) -> None:
    training, first, second = (jobs.submit(kind, {}).id for kind in ("train", "import", "inspect"))
    found = [jobs.claim("w", kinds=("import", "inspect")) for _ in range(3)]
    assert [job and job.id for job in found] == [first, second, None]
    jobs.submit("import", {})
    assert (job := jobs.claim("w", without=("import", "inspect"))) is not None and job.id == training
    assert jobs.claim("w", without=("import", "inspect")) is None
    assert (job := jobs.claim("w")) is not None and job.kind == "import"


def test_what_is_done_with_a_submission_is_done_with_it_or_not_at_all(jobs: Jobs) -> None:
    def count(c: sa.Connection, id: int) -> None:
        hold(c, jobs.database, "key_1", f"job:{id}", images=5, bytes=100)

    def used_now() -> Used:
        with jobs.database.read() as c:
            return used(c, "key_1")

    job = jobs.submit("toy", {}, caller="key_1", key="once", also=count)
    assert jobs.submit("toy", {}, caller="key_1", key="once", also=count) == job
    assert used_now() == Used(0, 5, 100)

    def refuse(c: sa.Connection, id: int) -> None:
        count(c, id)
        raise NotFoundError("no such thing")

    with pytest.raises(NotFoundError, match="no such thing"):
        jobs.submit("toy", {}, caller="key_1", also=refuse)
    assert jobs.recent() == [job] and used_now() == Used(0, 5, 100)
    jobs.cancel(job.id)
    jobs.delete(job.id)
    assert used_now() == Used()


def test_what_attempts_share_stays_until_success(jobs: Jobs) -> None:
    jobs.submit("toy", {})
    job = jobs.claim("w")
    assert job is not None
    kept = Context(jobs, job, job.lease).kept
    (kept / "half").write_text("done")
    jobs.fail(job.lease, "error", "it broke")
    clean(jobs.get(job.id))
    assert (kept / "half").is_file()
    jobs.resume(job.id)
    again = jobs.claim("w")
    assert again is not None and jobs.succeed(again.lease, {})
    clean(jobs.get(job.id))
    assert not kept.exists()
