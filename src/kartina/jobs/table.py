"""The job table: accepted means durable, and every write of a worker is fenced.

    queued ──claim──► running ──► succeeded | failed
       │                 │  └──(the worker died, or let go)──► queued
       └──► canceled ◄───┴── canceling

A claim raises `attempt` and gives the worker a lease that it must renew. Whoever finds a lease that has run out gives
the job to the next worker; if the first one was only slow, its (owner, attempt) no longer fits and its writes are
refused. A job is done when one fenced update says so; that update names the attempt's folder, so one attempt's files
are the job's output and no other's.

An attempt that ends badly counts against `max_tries` only until the next one saves where to go on: a job that gets on
between two deaths is not what kills its workers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import sqlalchemy as sa
import structlog
from pydantic import Field

from kartina.config import Frozen, home
from kartina.errors import ConflictError, KeyReusedError, NotFoundError, QuotaError
from kartina.owners import LOCAL
from kartina.storage.database import Database, open_database
from kartina.storage.tables import job_events, jobs
from kartina.storage.usage import let_go

log = structlog.get_logger("kartina.jobs")

Status = Literal["queued", "running", "canceling", "succeeded", "failed", "canceled"]
ACTIVE = ("running", "canceling")  # a worker has it
TERMINAL = ("succeeded", "failed", "canceled")

KEPT = "kept"  # the folder that a job's attempts share
LEASE = 6.0  # seconds without a sign of life after which a worker counts as dead
MAX_TRIES = 3
BACKOFF = (0.0, 1.0, 5.0, 15.0, 60.0)  # seconds before the next try, after so many that ended badly
KEY_LIFE = 24 * 3600.0  # seconds that an idempotency key is remembered


class Progress(Frozen):
    value: float = Field(0.0, ge=0, le=1)
    step: int | None = None
    steps: int | None = None
    text: str = ""


class Failure(Frozen):
    code: str
    message: str


class Job(Frozen):
    """A job as it was when it was read."""

    id: int
    kind: str
    spec: dict[str, Any]
    key: str | None = None
    status: Status
    saved: dict[str, Any]  # where the next attempt goes on
    progress: Progress
    owner: str | None
    attempt: int
    heartbeat: float | None
    leased_until: float | None
    tries: int  # that ended badly, since `saved` last changed
    max_tries: int
    not_before: float
    last_event: int
    result: dict[str, Any] | None
    output: str | None  # the name of the attempt's folder that was committed
    error: Failure | None
    created_at: float  # seconds since 1970, as all times here
    started_at: float | None
    completed_at: float | None
    caller: str = LOCAL  # whose it is

    @property
    def finished(self) -> bool:
        return self.status in TERMINAL

    @property
    def folder(self) -> Path:
        """Where its attempts keep their files."""
        return folder() / str(self.id)

    @property
    def lease(self) -> Lease:
        return Lease(self.id, self.owner or "", self.attempt)


class Event(Frozen):
    """Something that happened to a job. Ids rise within the job by one; of progress only the newest event is kept."""

    job: int
    id: int
    attempt: int
    at: float
    event: Literal["status", "progress", "log"]
    data: dict[str, Any]


@dataclass(frozen=True)
class Lease:
    """The right to write to a job, for as long as the job's row says the same."""

    job: int
    owner: str
    attempt: int

    @property
    def output(self) -> str:
        return f"attempt-{self.attempt}"

    @property
    def fence(self) -> sa.ColumnElement[bool]:
        mine = sa.and_(jobs.c.id == self.job, jobs.c.owner == self.owner, jobs.c.attempt == self.attempt)
        return sa.and_(mine, jobs.c.status.in_(ACTIVE))


def folder() -> Path:
    """KARTINA_HOME/jobs: what jobs write, JOB/attempt-N/."""
    return home() / "jobs"


class Jobs:
    """The jobs of a database. Methods may be called from any thread; each raises StorageError."""

    def __init__(self, database: Database):
        self.database = database

    @staticmethod
    def open() -> Jobs:
        """The jobs of KARTINA_DATABASE, or of KARTINA_HOME."""
        return Jobs(open_database())

    # -- for whoever wants something done ------------------------------------------------------------------------------

    def submit(
        self,
        kind: str,
        spec: Mapping[str, Any],
        *,
        caller: str = LOCAL,
        most: int | None = None,
        key: str | None = None,
        max_tries: int = MAX_TRIES,
        also: Callable[[sa.Connection, int], None] | None = None,
    ) -> Job:
        """Accept a job of `caller`; it is on the disk when this returns. `also`: what is done in the same transaction,
        given the new job's number; whatever it raises, there is no job.

        With a `key`, submitting the same again within a day gives the same job: the same spec, or of those that have
        it the same "asked". Raises KeyReusedError for a key that
        stands for another job, QuotaError where the caller has `most` jobs already that are not at their end.
        """
        with self.database.write() as c:
            now = self.database.clock(c)
            if key is not None and (known := self._with_key(c, key, now)) is not None:
                given = json.loads(json.dumps(spec))
                same = known.spec.get("asked") == given["asked"] if "asked" in given else known.spec == given
                if not same or (known.kind, known.caller) != (kind, caller):
                    raise KeyReusedError(
                        f"Found the key {key!r} used for job {known.id}, which is another one; use a new key."
                    )
                return known
            self._check_room(c, caller, most)
            values = {"kind": kind, "spec": dict(spec), "key": key, "max_tries": max_tries, "not_before": now,
                      "caller": caller, "created_at": now, "status": "queued", "saved": {}, "progress": {},
                      "attempt": 0, "tries": 0, "last_event": 0}  # fmt: skip
            id = c.execute(sa.insert(jobs).values(values).returning(jobs.c.id)).scalar_one()
            if also is not None:
                also(c, id)
            self._tell(c, id, "status", {"status": "queued"})
            job = self._get(c, id)
        if "request_id" in structlog.contextvars.get_contextvars():  # in the service, whose log this is for
            log.info("job_accepted", job=job.id, kind=kind)
        return job

    def _check_room(self, c: sa.Connection, caller: str, most: int | None) -> None:
        """QuotaError where the caller has `most` jobs that are not at their end."""
        if most is None:
            return
        if self.database.engine.dialect.name == "postgresql":  # of two that submit at once, the second sees the first
            c.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(caller, 1))))
        going = sa.and_(jobs.c.caller == caller, jobs.c.status.not_in(TERMINAL))
        have = c.execute(sa.select(sa.func.count()).where(going)).scalar_one()
        if have >= most:
            raise QuotaError(
                f"Found {have} jobs that are not at their end, of {most} that this key may have; wait for one, or "
                "cancel it."
            )

    def _with_key(self, c: sa.Connection, key: str, now: float) -> Job | None:
        if self.database.engine.dialect.name == "postgresql":  # of two that submit at once, the second sees the first
            c.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(key, 0))))
        old = sa.and_(jobs.c.key == key, jobs.c.created_at < now - KEY_LIFE)
        c.execute(sa.update(jobs).where(old).values(key=None))
        row = c.execute(sa.select(jobs).where(jobs.c.key == key)).one_or_none()
        return None if row is None else _job(row)

    def with_key(self, key: str) -> Job | None:
        """The job that was submitted with this key within a day."""
        with self.database.read() as c:
            young = jobs.c.created_at >= self.database.clock(c) - KEY_LIFE
            row = c.execute(sa.select(jobs).where(jobs.c.key == key, young)).one_or_none()
        return None if row is None else _job(row)

    def get(self, id: int) -> Job:
        """Raises NotFoundError."""
        with self.database.read() as c:
            return self._get(c, id)

    def _get(self, c: sa.Connection, id: int) -> Job:
        row = c.execute(sa.select(jobs).where(jobs.c.id == id)).one_or_none() if abs(id) < 2**31 else None
        if row is None:
            raise NotFoundError(f"Found no job {id}. See `kartina jobs list`.")
        return _job(row)

    def recent(self, status: Status | None = None, *, before: int | None = None, limit: int = 100) -> list[Job]:
        """Jobs, newest first: those with an id below `before`."""
        asked = sa.select(jobs).order_by(jobs.c.id.desc()).limit(limit)
        if status is not None:
            asked = asked.where(jobs.c.status == status)
        if before is not None:
            asked = asked.where(jobs.c.id < before)
        with self.database.read() as c:
            return [_job(row) for row in c.execute(asked)]

    def counts(self) -> dict[str, int]:
        """How many jobs there are in each status."""
        found: dict[str, int] = dict.fromkeys(get_args(Status), 0)
        with self.database.read() as c:
            for status, n in c.execute(sa.select(jobs.c.status, sa.func.count()).group_by(jobs.c.status)):
                found[status] = n
        return found

    def page(
        self,
        caller: str,
        limit: int,
        *,
        before: int | None = None,
        status: Status | None = None,
        kind: str | None = None,
    ) -> list[Job]:
        """The caller's jobs, newest first: those with an id below `before`, of one status or kind where it is given."""
        asked = sa.select(jobs).where(jobs.c.caller == caller).order_by(jobs.c.id.desc()).limit(limit)
        for column, wanted in ((jobs.c.status, status), (jobs.c.kind, kind)):
            if wanted is not None:
                asked = asked.where(column == wanted)
        if before is not None:
            asked = asked.where(jobs.c.id < before)
        with self.database.read() as c:
            return [_job(row) for row in c.execute(asked)]

    def active(self, caller: str, kind: str | None = None) -> list[Job]:
        """The caller's jobs that are not at their end, oldest first."""
        asked = sa.select(jobs).where(jobs.c.caller == caller, jobs.c.status.not_in(TERMINAL)).order_by(jobs.c.id)
        with self.database.read() as c:
            return [_job(row) for row in c.execute(asked if kind is None else asked.where(jobs.c.kind == kind))]

    def latest(self, caller: str, kind: str, of: Callable[[Job], bool]) -> Job | None:
        """Of the caller's jobs of this kind and `of` something, the one that is not at its end, else the newest."""
        mine = sa.select(jobs).where(jobs.c.caller == caller, jobs.c.kind == kind)
        with self.database.read() as c:
            rows = c.execute(mine.order_by(jobs.c.status.in_(TERMINAL), jobs.c.id.desc()))
            return next((job for job in map(_job, rows) if of(job)), None)

    def newer(self, seen: Mapping[int, int]) -> tuple[list[Job], set[int]]:
        """Those of the jobs in `seen` (id -> the last event that was seen) to which something has happened since, and
        the ids of those that have been deleted."""
        with self.database.read() as c:
            rows = c.execute(sa.select(jobs.c.id, jobs.c.last_event).where(jobs.c.id.in_(seen))).all()
            changed = [row.id for row in rows if row.last_event != seen[row.id]]
            found = c.execute(sa.select(jobs).where(jobs.c.id.in_(changed))).all() if changed else []
        return [_job(row) for row in found], set(seen) - {row.id for row in rows}

    def position(self, id: int) -> int | None:
        """Its place in the queue, 1 for the next one; None for a job that does not wait."""
        ahead = sa.select(sa.func.count()).where(jobs.c.status == "queued", jobs.c.id <= id)
        with self.database.read() as c:
            return c.execute(ahead).scalar_one() if self._get(c, id).status == "queued" else None

    def events(self, id: int, after: int = 0, limit: int = 1000) -> list[Event]:
        """What has happened since event `after`, in order. Progress older than the newest is left out."""
        asked = sa.select(job_events).where(job_events.c.job == id, job_events.c.id > after)
        with self.database.read() as c:
            rows = c.execute(asked.order_by(job_events.c.id).limit(limit))
            return [Event.model_validate(dict(row._mapping)) for row in rows]

    def unfinished(self) -> int:
        """Jobs that are not at their end."""
        with self.database.read() as c:
            return c.execute(sa.select(sa.func.count()).where(jobs.c.status.not_in(TERMINAL))).scalar_one()

    def unfinished_of(self, kind: str) -> list[Job]:
        """Jobs of one kind, whoever asked for them, that are not at their end."""
        asked = sa.select(jobs).where(jobs.c.kind == kind, jobs.c.status.not_in(TERMINAL))
        with self.database.read() as c:
            return [_job(row) for row in c.execute(asked)]

    def cancel(self, id: int) -> Job:
        """Ask for a job to stop: at once while it waits, else as soon as its worker sees it. A finished one stays."""
        with self.database.write() as c:
            now = self.database.clock(c)
            c.execute(sa.select(jobs.c.id).where(jobs.c.id == id).with_for_update())  # or it may be given back between
            waiting = sa.and_(jobs.c.id == id, jobs.c.status == "queued")
            if c.execute(sa.update(jobs).where(waiting).values(status="canceled", completed_at=now)).rowcount:
                self._tell(c, id, "status", {"status": "canceled"})
            elif c.execute(
                sa.update(jobs).where(jobs.c.id == id, jobs.c.status == "running").values(status="canceling")
            ).rowcount:
                self._tell(c, id, "status", {"status": "canceling"})
            return self._get(c, id)

    def resume(self, id: int, most: int | None = None) -> Job:
        """Queue a failed or canceled job again; it goes on from what it last saved. Raises ConflictError for others,
        QuotaError as `submit` does."""
        with self.database.write() as c:
            self._check_room(c, self._get(c, id).caller, most)
            ended = sa.and_(jobs.c.id == id, jobs.c.status.in_(("failed", "canceled")))
            fresh = {"status": "queued", "tries": 0, "not_before": self.database.clock(c), "error": None,
                     "completed_at": None}  # fmt: skip
            if not c.execute(sa.update(jobs).where(ended).values(fresh)).rowcount:
                status = self._get(c, id).status
                raise ConflictError(f"Found job {id} {status}; only a failed or canceled job can be resumed.")
            self._tell(c, id, "status", {"status": "queued", "why": "resumed"})
            return self._get(c, id)

    def delete(self, id: int) -> None:
        """Forget a finished job and remove its files. Raises NotFoundError, ConflictError for one that goes on."""
        with self.database.write() as c:
            ended = sa.and_(jobs.c.id == id, jobs.c.status.in_(TERMINAL))
            if not c.execute(sa.delete(jobs).where(ended)).rowcount:
                status = self._get(c, id).status
                raise ConflictError(f"Found job {id} {status}; only a finished job can be deleted. Cancel it first.")
            let_go(c, self.database, f"job:{id}")
        shutil.rmtree(folder() / str(id), ignore_errors=True)

    # -- for workers ---------------------------------------------------------------------------------------------------

    def claim(
        self, owner: str, seconds: float = LEASE, *, kinds: Sequence[str] = (), without: Sequence[str] = ()
    ) -> Job | None:
        """Take the oldest job that is due, for so many seconds; None when there is none. `kinds`: only of these;
        `without`: not of those.

        Jobs of dead workers are made due (or ended) first. Two workers never get the same attempt.
        """
        with self.database.write() as c:
            now = self.database.clock(c)
            dead = sa.and_(jobs.c.status.in_(ACTIVE), jobs.c.leased_until < now)
            for row in c.execute(sa.select(jobs).where(dead).with_for_update(skip_locked=True)).all():
                self._end_badly(c, _job(row), f"the worker {row.owner} was not heard of again", now)
            due = sa.and_(jobs.c.status == "queued", jobs.c.not_before <= now, jobs.c.kind.not_in(without))
            if kinds:
                due = sa.and_(due, jobs.c.kind.in_(kinds))
            first = sa.select(jobs.c.id).where(due).order_by(jobs.c.id).limit(1).with_for_update(skip_locked=True)
            id = c.execute(first).scalar()
            if id is None:
                return None
            mine = {"status": "running", "owner": owner, "attempt": jobs.c.attempt + 1, "heartbeat": now,
                    "leased_until": now + seconds, "started_at": sa.func.coalesce(jobs.c.started_at, now)}  # fmt: skip
            c.execute(sa.update(jobs).where(jobs.c.id == id).values(mine))
            self._tell(c, id, "status", {"status": "running", "owner": owner})
            return self._get(c, id)

    def beat(self, lease: Lease, seconds: float = LEASE) -> Status | None:
        """Renew a lease; says whether the job is 'running' or 'canceling', None when it is no longer the worker's."""
        with self.database.write() as c:
            now = self.database.clock(c)
            renewed = sa.update(jobs).where(lease.fence).values(heartbeat=now, leased_until=now + seconds)
            found: Status | None = c.execute(renewed.returning(jobs.c.status)).scalar()
            return found

    def progress(self, lease: Lease, progress: Progress) -> bool:
        """Say how far the job is. False: refused, the job is no longer the worker's."""
        shown = progress.model_dump()
        with self.database.write() as c:
            if not self._write(c, lease, {"progress": shown}):
                return False
            c.execute(sa.delete(job_events).where(job_events.c.job == lease.job, job_events.c.event == "progress"))
            self._tell(c, lease.job, "progress", shown)
            return True

    def log(self, lease: Lease, text: str, level: str = "info") -> bool:
        """Add a line to the job's log. False: refused."""
        with self.database.write() as c:
            if not self._write(c, lease, {"owner": lease.owner}):
                return False
            self._tell(c, lease.job, "log", {"level": level, "text": text})
            return True

    def save(self, lease: Lease, saved: Mapping[str, Any]) -> bool:
        """Write down where the next attempt shall go on. False: refused."""
        with self.database.write() as c:
            return self._write(c, lease, {"saved": dict(saved), "tries": 0})

    def succeed(self, lease: Lease, result: Mapping[str, Any], output: str | None = None) -> bool:
        """Commit the job: its result, and the folder of files that is its output. False: refused, or being canceled."""
        with self.database.write() as c:
            done = {"result": dict(result), "output": output, "progress": {"value": 1.0}}
            return self._finish(c, lease, "succeeded", done, running=True)

    def fail(self, lease: Lease, code: str, message: str, *, again: bool = False) -> bool:
        """End the job with an error; with `again`, only when it was the last of its tries. False: refused."""
        with self.database.write() as c:
            if again:
                row = c.execute(sa.select(jobs).where(lease.fence).with_for_update()).one_or_none()
                if row is not None:
                    self._end_badly(c, _job(row), message, self.database.clock(c), code)
                return row is not None
            return self._finish(c, lease, "failed", {"error": {"code": code, "message": message}})

    def cancelled(self, lease: Lease) -> bool:
        """The worker has stopped as it was asked to. False: refused."""
        with self.database.write() as c:
            return self._finish(c, lease, "canceled", {})

    def release(self, lease: Lease) -> bool:
        """Give the job back, because the worker is stopping; the next one goes on at once. False: refused."""
        with self.database.write() as c:
            row = c.execute(sa.select(jobs).where(lease.fence).with_for_update()).one_or_none()
            if row is None:
                return False
            if row.status == "canceling":
                return self._finish(c, lease, "canceled", {})
            self._requeue(c, lease.job, {}, "its worker was stopped")
            return True

    # -- writing -------------------------------------------------------------------------------------------------------

    def _write(self, c: sa.Connection, lease: Lease, values: dict[str, Any]) -> bool:
        """The fenced update. It also locks the row, so that one job's events are numbered one after the other."""
        return bool(c.execute(sa.update(jobs).where(lease.fence).values(values)).rowcount)

    def _finish(
        self, c: sa.Connection, lease: Lease, status: Status, values: dict[str, Any], running: bool = False
    ) -> bool:
        fence = sa.and_(lease.fence, jobs.c.status == "running") if running else lease.fence
        end = {**values, "status": status, "completed_at": self.database.clock(c), "leased_until": None, "owner": None}
        if not c.execute(sa.update(jobs).where(fence).values(end)).rowcount:
            return False
        shown = {k: values[k] for k in ("error", "output") if values.get(k) is not None}
        self._tell(c, lease.job, "status", {"status": status, **shown})
        return True

    def _end_badly(self, c: sa.Connection, job: Job, why: str, now: float, code: str = "worker_died") -> None:
        """An attempt that is over without an end of the job: to be tried again, or not. The row is locked."""
        if job.status == "canceling":
            self._finish(c, job.lease, "canceled", {})
        elif job.tries + 1 >= job.max_tries:
            message = f"Tried {job.attempt} times, the last {job.tries + 1} without getting on: {why}."
            self._finish(c, job.lease, "failed", {"error": {"code": code, "message": message}, "tries": job.tries + 1})
        else:
            pause = BACKOFF[min(job.tries, len(BACKOFF) - 1)]
            self._requeue(c, job.id, {"tries": job.tries + 1, "not_before": now + pause}, why)

    def _requeue(self, c: sa.Connection, id: int, values: dict[str, Any], why: str) -> None:
        free = {"status": "queued", "owner": None, "leased_until": None}
        c.execute(sa.update(jobs).where(jobs.c.id == id).values({**free, **values}))
        self._tell(c, id, "status", {"status": "queued", "why": why})

    def _tell(self, c: sa.Connection, id: int, event: str, data: dict[str, Any]) -> None:
        """Number and store an event, in the transaction of what it tells of."""
        numbered = sa.update(jobs).where(jobs.c.id == id).values(last_event=jobs.c.last_event + 1)
        number, attempt = c.execute(numbered.returning(jobs.c.last_event, jobs.c.attempt)).one()
        row = {"job": id, "id": number, "attempt": attempt, "at": self.database.clock(c), "event": event, "data": data}
        c.execute(sa.insert(job_events).values(row))


def clean(job: Job) -> None:
    """Remove the files of a finished job's attempts, but for those of the one that was committed; what its attempts
    share stays with a job that can be resumed."""
    for attempt in job.folder.glob("attempt-*"):
        if job.finished and attempt.name != job.output:
            shutil.rmtree(attempt, ignore_errors=True)
    if job.status == "succeeded":
        shutil.rmtree(job.folder / KEPT, ignore_errors=True)


def sweep(known: Jobs) -> None:
    """`clean` every finished job that has files: what killed workers left."""
    for place in folder().glob("*"):
        with suppress(NotFoundError, ValueError):
            clean(known.get(int(place.name)))


def _job(row: sa.Row[Any]) -> Job:
    return Job.model_validate(dict(row._mapping))
