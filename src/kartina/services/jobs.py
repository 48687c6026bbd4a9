"""Use cases on jobs: what callers asked for that takes long. List, follow, cancel, resume, delete, fetch files.

A job and its events are in the database, whatever process writes them (`kartina.jobs.table`). Readers of one job share
a look at the database, a few times a second; each goes on from the last event that it has seen, in this process or in
the next.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from asyncio import to_thread
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from kartina.errors import ConflictError, KeyReusedError, NotFoundError, StorageError
from kartina.jobs.table import Event, Job, Jobs, Status
from kartina.services.access import Caller

log = structlog.get_logger("kartina.services.jobs")

LOOK = 0.25  # seconds between two looks for what has happened to jobs that somebody follows
KEPT = 1000  # events of a job that is followed, in memory


@dataclass(frozen=True)
class File:
    """A file that a job made."""

    name: str  # relative to the job's output
    size: int  # bytes
    path: Path


@dataclass(frozen=True)
class Reconnect:
    """The service is stopping: connect again."""

    id: int


@dataclass(frozen=True)
class Snapshot:
    """A job as it is, or as it was at a status event."""

    id: int
    job: Job


@dataclass
class _Watch:
    """A job that somebody follows, as the last look found it."""

    job: Job
    start: int  # events from here on are in `events`
    events: list[Event] = field(default_factory=list)
    readers: int = 0
    gone: bool = False  # deleted
    changed: asyncio.Event = field(default_factory=asyncio.Event)  # replaced at every change

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class Work:
    """The jobs of one database, as their callers see them. Belongs to one event loop."""

    def __init__(self, jobs: Jobs):
        self.jobs = jobs
        self._watched: dict[int, _Watch] = {}
        self._looking: asyncio.Task[None] | None = None
        self._stopping = False

    async def stop(self) -> None:
        self.say_goodbye()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    def say_goodbye(self) -> None:
        """End every stream of events with Reconnect, now."""
        self._stopping = True
        for watch in self._watched.values():
            watch.wake()

    # -- ask and change ----------------------------------------------------------------------------------------------

    async def submit(
        self,
        caller: Caller,
        kind: str,
        spec: dict[str, Any],
        key: str | None,
        asked: str,
        also: Callable[[Any, int], None] | None = None,
    ) -> Job:
        """Accept a job: it is in the database. With an idempotency `key` once only, for requests of this `digest`;
        `also` as `Jobs.submit` has it.

        Raises QuotaError, KeyReusedError, StorageError.
        """
        mine = None if key is None else f"{caller.owner}:{key}"
        spec = spec if key is None else {**spec, "asked": asked}
        return await to_thread(
            lambda: self.jobs.submit(kind, spec, caller=caller.owner, most=caller.quota.jobs, key=mine, also=also)
        )

    async def again(self, caller: Caller, asked: str, key: str | None) -> Job | None:
        """The job that was accepted with this idempotency key, for a request of this digest: what a start checks was
        checked then, and need not hold any more. None where there is none.

        Raises KeyReusedError where the key stands for another request.
        """
        known = None if key is None else await to_thread(self.jobs.with_key, f"{caller.owner}:{key}")
        if known is not None and known.spec.get("asked") != asked:
            raise KeyReusedError(f"Found the key {key!r} used for job {known.id}, which is another one; use a new key.")
        return known

    async def get(self, owner: str, id: str) -> Job:
        """Raises NotFoundError, also for somebody else's."""
        return await to_thread(self.find, owner, id)

    def find(self, owner: str, id: str) -> Job:
        """`get`, blocking."""
        try:
            found = self.jobs.get(int(id)) if _is_id(id) else None
        except NotFoundError:
            found = None
        if found is None or found.caller != owner:
            raise NotFoundError(f"Found no job {id!r}.")
        return found

    async def position(self, job: Job) -> int | None:
        """Its place in the queue: 1 is next; None when it does not wait."""
        return await to_thread(self.jobs.position, job.id) if job.status == "queued" else None

    async def list(
        self, owner: str, limit: int, cursor: str | None = None, status: Status | None = None, kind: str | None = None
    ) -> tuple[list[Job], str | None]:
        """A page of the owner's jobs, newest first, and the cursor of the next one."""
        before = int(cursor) if cursor is not None and _is_id(cursor) else None
        found = await to_thread(
            lambda: self.jobs.page(owner, limit + 1, before=before, status=status, kind=kind)
        )  # fmt: skip
        return found[:limit], str(found[limit - 1].id) if len(found) > limit else None

    async def cancel(self, owner: str, id: str) -> Job:
        """Stop it: at once while it waits, else as soon as it has saved what it has. A finished one stays."""
        return await to_thread(lambda: self.jobs.cancel(self.find(owner, id).id))

    async def resume(self, caller: Caller, id: str) -> Job:
        """Queue a failed or canceled job again; it goes on from what it saved. Raises ConflictError, QuotaError."""
        return await to_thread(lambda: self.jobs.resume(self.find(caller.owner, id).id, caller.quota.jobs))

    async def delete(self, owner: str, id: str) -> None:
        """Forget a finished job and its files. Raises ConflictError for one that goes on, or whose files an import is
        going to read."""
        await to_thread(self._delete, owner, id)

    def _delete(self, owner: str, id: str) -> None:
        found = self.find(owner, id)
        for job in self.jobs.active(owner, "import"):
            if job.spec.get("bulk") == found.id:
                raise ConflictError(f"Found job {id} in use by job {job.id}; wait for it, or cancel it.")
        self.jobs.delete(found.id)

    # -- files -------------------------------------------------------------------------------------------------------

    def file(self, owner: str, id: str, name: str) -> File:
        """One of the job's files. Raises NotFoundError."""
        job = self.find(owner, id)
        found = next((one for one in outputs(job) if one.name == name), None)
        if found is None:
            raise NotFoundError(f"Found no file {name!r} of job {id}.")
        return found

    # -- follow ------------------------------------------------------------------------------------------------------

    async def events(
        self, owner: str, id: str, after: int | None = None
    ) -> AsyncIterator[Snapshot | Event | Reconnect]:
        """What happens to a job, until it is finished or the service stops.

        After an event with the id `after` come the ones missed, of whatever process; otherwise first the job as it is
        now. Of progress only ever the newest. Status events come as snapshots of the job. It also ends when the job is
        deleted. Raises NotFoundError.
        """
        job = await self.get(owner, id)
        watch = self._watched.get(job.id)
        if watch is None:
            watch = self._watched[job.id] = _Watch(job, job.last_event)
        watch.readers += 1
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            if after is None or after > job.last_event or (job.finished and after == job.last_event):
                yield Snapshot(job.last_event, job)
                seen = job.last_event
            else:
                seen = after
            while True:
                changed = watch.changed
                if seen < watch.start:
                    try:
                        missed = await to_thread(self.jobs.events, job.id, seen)
                        job = await to_thread(self.jobs.get, job.id)  # after its events: as new as the newest of them
                    except NotFoundError:
                        return
                else:
                    missed = [event for event in watch.events if event.id > seen]
                    job = watch.job if watch.job.last_event >= job.last_event else job
                for event in missed:
                    seen = event.id
                    if event.event == "status":
                        yield Snapshot(seen, as_it_was(job, event))
                    else:
                        yield event
                if job.finished and seen >= job.last_event:
                    return
                if self._stopping:
                    yield Reconnect(seen)
                    return
                if not missed:
                    if watch.gone:
                        return
                    await changed.wait()
        finally:
            watch.readers -= 1
            if not watch.readers and self._watched.get(job.id) is watch:
                del self._watched[job.id]

    async def _look(self) -> None:
        """Tell readers what has happened, for as long as there are any."""
        while self._watched:
            await asyncio.sleep(LOOK)
            try:
                await self._look_once()
            except StorageError as error:
                log.warning("jobs_not_read", error=str(error))

    async def _look_once(self) -> None:
        seen = {id: watch.job.last_event for id, watch in self._watched.items()}
        found, gone = await to_thread(self.jobs.newer, seen)
        for watch in [self._watched[id] for id in gone if id in self._watched]:
            watch.gone = True
            watch.wake()
        for job in found:
            fresh = await to_thread(self.jobs.events, job.id, seen[job.id], KEPT)
            if job.id not in self._watched or self._watched[job.id].job.last_event != seen[job.id]:
                continue
            watch = self._watched[job.id]
            told = [event for event in fresh if event.id <= job.last_event]
            events = [event for event in watch.events if event.event != "progress"] if told else watch.events
            events += told
            if len(events) > KEPT:
                watch.start, events = events[-KEPT - 1].id, events[-KEPT:]
            watch.events = events
            if len(fresh) < KEPT:
                watch.job = job
            else:  # the rest at the next look, and its end with it
                watch.job = watch.job.model_copy(update={"last_event": told[-1].id})
            watch.wake()


def digest(verb: str, **request: Any) -> str:
    """Tells requests apart: of a verb, and what was asked for as it came, before any name in it was looked up."""
    return hashlib.sha256(json.dumps([verb, request], sort_keys=True).encode()).hexdigest()


def as_it_was(job: Job, event: Event) -> Job:
    """The job at the time of a status event, as far as it is known."""
    if event.id >= job.last_event or event.data["status"] == job.status:
        return job
    then = {"status": event.data["status"], "completed_at": None, "result": None, "error": None, "output": None}
    return job.model_copy(update=then)


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10  # of more digits no database has integers


def outputs(job: Job) -> list[File]:
    """The files that a finished job made, by name."""
    if job.output is None:
        return []
    root = job.folder / job.output
    found = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    return [File(path.relative_to(root).as_posix(), path.stat().st_size, path) for path in found]
