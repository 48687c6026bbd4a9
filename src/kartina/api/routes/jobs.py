"""Jobs: what takes long. List, follow, cancel, resume, delete; fetch the files that one made."""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent

from kartina.api.dependencies import Anyone, ServicesDep
from kartina.api.files import StoredFile, described
from kartina.api.problems import responses
from kartina.api.schemas import TEXT
from kartina.api.work import WorkEvent, WorkJob, WorkPage, work_event
from kartina.jobs.table import Status

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

Id = Annotated[str, Path(max_length=100, pattern=TEXT)]
Limit = Annotated[int, Query(ge=1, le=100, description="Items a page")]
Cursor = Annotated[str | None, Query(max_length=100, pattern=TEXT, description="`next_cursor` of the page before")]


@router.get("", responses=responses("input"))
async def list_jobs(
    of: ServicesDep,
    who: Anyone,
    limit: Limit = 20,
    cursor: Cursor = None,
    status: Annotated[Status | None, Query()] = None,
    kind: Annotated[str | None, Query(max_length=100, pattern=TEXT, description="train, evaluate, study, ...")] = None,
) -> WorkPage:
    """Your jobs, newest first. Generations of images are not among them: see /v1/generations."""
    items, after = await of.work.list(who.owner, limit, cursor, status, kind)
    return WorkPage(items=[WorkJob.of(job, await of.work.position(job)) for job in items], next_cursor=after)


@router.get("/{id}", responses=responses("not_found", "input"))
async def get_job(id: Id, of: ServicesDep, who: Anyone) -> WorkJob:
    """A job as it is now."""
    found = await of.work.get(who.owner, id)
    return WorkJob.of(found, await of.work.position(found))


@router.post("/{id}/cancel", responses=responses("not_found", "input", "storage"))
async def cancel_job(id: Id, of: ServicesDep, who: Anyone) -> WorkJob:
    """Stop it as soon as it has saved what it has; it can be resumed. A finished job is left as it is."""
    return WorkJob.of(await of.work.cancel(who.owner, id))


@router.post("/{id}/resume", responses=responses("not_found", "input", "conflict", "quota", "storage"))
async def resume_job(id: Id, of: ServicesDep, who: Anyone) -> WorkJob:
    """Queue a failed or canceled job again: it goes on from what it has saved."""
    found = await of.work.resume(who, id)
    return WorkJob.of(found, await of.work.position(found))


@router.delete("/{id}", status_code=204, responses=responses("not_found", "input", "conflict", "storage"))
async def delete_job(id: Id, of: ServicesDep, who: Anyone) -> None:
    """Forget a finished job and its files. What it made elsewhere (a run, a model) stays."""
    await of.work.delete(who.owner, id)


async def known_job(id: Id, of: ServicesDep, who: Anyone) -> str:
    """The id of a job that exists: checked before a stream begins."""
    return str((await of.work.get(who.owner, id)).id)


@router.get("/{id}/events", response_class=EventSourceResponse, responses=responses("not_found", "input"))
async def watch_job(
    id: Annotated[str, Depends(known_job)],
    of: ServicesDep,
    who: Anyone,
    last_event_id: Annotated[str | None, Header(max_length=40, description="Go on after this event")] = None,
) -> AsyncIterator[WorkEvent]:
    """Server-sent events: `status` (first, as a snapshot), `progress`, `log`, `reconnect`.

    Ids rise. With Last-Event-ID the stream goes on where it broke off, also after a restart of the service. It ends
    after the status that ends the job.
    """
    after = int(last_event_id) if last_event_id and last_event_id.isascii() and last_event_id.isdigit() else None
    async with aclosing(of.work.events(who.owner, id, after)) as events:  # type: ignore[type-var]
        async for event in events:
            data = work_event(event)
            if data is not None:
                yield ServerSentEvent(data=data, event=data.type, id=str(event.id))  # type: ignore[misc]


@router.get(
    "/{id}/files/{name:path}",
    response_class=StoredFile,
    responses={
        **described("The file", "application/octet-stream"),
        **responses("not_found", "input", "unsatisfiable"),
    },
)
async def get_job_file(
    id: Id, name: Annotated[str, Path(max_length=500, pattern=TEXT)], of: ServicesDep, who: Anyone
) -> StoredFile:
    """A file that a finished job made, whole or a range of it."""
    found = await to_thread(of.work.file, who.owner, id, name)
    headers = {"Cache-Control": "private"}
    return StoredFile(
        found.path, media_type="application/octet-stream", headers=headers, filename=found.path.name
    )  # fmt: skip
