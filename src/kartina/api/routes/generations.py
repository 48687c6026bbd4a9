"""Generations: ask, follow, cancel, fetch, delete."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Header, Path, Query, Response, UploadFile
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from kartina.api.dependencies import Maker, Services, ServicesDep
from kartina.api.problems import HttpProblem, responses
from kartina.api.schemas import (
    TEXT,
    GenerationRequest,
    Job,
    JobEvent,
    JobPage,
    OutputEvent,
    PreviewEvent,
    PreviewImage,
    Progress,
    ProgressEvent,
    ReconnectEvent,
    StatusEvent,
    output_image,
)
from kartina.services import zips
from kartina.services.access import Caller
from kartina.services.generations import (
    Event,
    OutputMade,
    Previewed,
    Progressed,
    Reconnect,
    StatusChanged,
)
from kartina.storage.records import Generation

router = APIRouter(prefix="/v1", tags=["generations"])

MAX_WAIT = 60.0  # seconds that Prefer: wait=N can ask for

Id = Annotated[str, Path(max_length=100, pattern=TEXT)]
Limit = Annotated[int, Query(ge=1, le=100, description="Items a page")]
Cursor = Annotated[str | None, Query(max_length=100, pattern=TEXT, description="`next_cursor` of the page before")]
BINARY = {"schema": {"type": "string", "format": "binary"}}
LOCATION = {"Location": {"description": "The job", "schema": {"type": "string"}}}
Prefer = Annotated[str | None, Header(max_length=200, description="`wait=N`: wait for it for N s")]
IdempotencyKey = Annotated[
    str | None, Header(min_length=1, max_length=200, description="The same key again is the same job, for 24 h")
]
CREATED: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Job,
        "description": "Finished within Prefer: wait=N; or, for Accept: image/png, the image",
        "content": {"image/png": BINARY, "image/webp": BINARY},
        "headers": LOCATION,
    },
    202: {"description": "Accepted: it is on the disk and will be done", "headers": LOCATION},
}


def wanted_wait(prefer: str | None) -> float | None:
    """The seconds of `Prefer: wait=N`, at most MAX_WAIT; None when there is no such preference."""
    found = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})", prefer or "", re.IGNORECASE)
    return min(float(found[1]), MAX_WAIT) if found else None


@router.post(
    "/generations",
    status_code=202,
    response_model=Job,
    responses={
        **CREATED,
        **responses(
            "not_found",
            "input",
            "not_acceptable",
            "too_large",
            "queue_full",
            "quota",
            "conflict",
            "storage",
            "integrity",
            "bad_request",
        ),
    },
)
async def create_generation(
    body: GenerationRequest,
    of: ServicesDep,
    who: Maker,
    response: Response,
    prefer: Prefer = None,
    accept: Annotated[
        str | None, Header(max_length=1000, description="`image/png` or `image/webp` with n=1: the image itself")
    ] = None,
    idempotency_key: IdempotencyKey = None,
) -> Any:
    """Ask for images. Answers at once with the job; `Prefer: wait=N` waits for it, at most 60 s.

    With an Idempotency-Key the same request again, within 24 hours, is answered with the same job.
    """
    image = next((kind for kind in ("image/png", "image/webp") if kind in (accept or "").lower()), None)
    if image is not None and body.n != 1:
        raise HttpProblem("not_acceptable", f"Found Accept: {image} with n={body.n}; expected n=1, or JSON.")
    asked = body.submission()
    if image is not None:
        asked = replace(asked, format="png" if image == "image/png" else "webp")
    found = await of.generations.submit(who, asked, idempotency_key)
    return await _answer(of, who, found, response, prefer, image)


@router.post(
    "/generations/from-file",
    status_code=202,
    response_model=Job,
    responses={
        **CREATED,
        **responses(
            "not_found", "input", "not_acceptable", "too_large", "queue_full", "quota", "conflict", "storage",
            "integrity", "bad_request",
        ),
    },
)  # fmt: skip
async def create_generation_from_file(
    of: ServicesDep,
    who: Maker,
    response: Response,
    file: Annotated[UploadFile, File(description="A PNG or WebP that Kartina made")],
    image: Annotated[str | None, Form(max_length=100, pattern=TEXT, description="The asset it started from")] = None,
    to_image: Annotated[str | None, Form(max_length=100, pattern=TEXT)] = None,
    mask: Annotated[str | None, Form(max_length=100, pattern=TEXT)] = None,
    n: Annotated[int, Form(ge=1, le=256, description="More of them: image i has the file's seed + i")] = 1,
    prefer: Prefer = None,
    idempotency_key: IdempotencyKey = None,
) -> Any:
    """Run again what made this file, from the file alone. Its model is found by its hash."""
    given = {"image": image, "to_image": to_image, "mask": mask}
    inputs: dict[str, tuple[str, ...]] = {kind: (id,) for kind, id in given.items() if id}
    asked = await of.gallery.again(file.read, n, inputs)
    found = await of.generations.submit(who, asked, idempotency_key)
    return await _answer(of, who, found, response, prefer, None)


async def _answer(
    of: Services, who: Caller, found: Generation, response: Response, prefer: str | None, image: str | None
) -> Any:
    """The job, when it is finished where that was asked for; or its only image."""
    wait = wanted_wait(prefer)
    location = {"Location": f"/v1/generations/{found.id}"}
    if wait is not None:
        location["Preference-Applied"] = f"wait={wait:.0f}"
    if image is not None:
        found, content = await of.generations.picture(who.owner, found.id, MAX_WAIT if wait is None else wait)
        if content is not None:
            return Response(content, media_type=image, headers=location)
    elif wait is not None:
        found = await of.generations.wait(who.owner, found.id, wait)
    if image is not None and found.status == "failed" and found.error is not None:
        raise HttpProblem(found.error.code, found.error.message)
    response.headers.update(location)
    response.status_code = 200 if found.finished else 202
    return Job.of(found, of.generations.queue_position(found))


@router.get("/generations", responses=responses("input"))
async def list_generations(of: ServicesDep, who: Maker, limit: Limit = 20, cursor: Cursor = None) -> JobPage:
    """Your generations, newest first."""
    items, after = await of.generations.list(who.owner, limit, cursor)
    return JobPage(items=[Job.of(found, of.generations.queue_position(found)) for found in items], next_cursor=after)


@router.get("/generations/{id}", responses=responses("not_found", "input", "integrity"))
async def get_generation(id: Id, of: ServicesDep, who: Maker) -> Job:
    """A job as it is now."""
    found = await of.generations.get(who.owner, id)
    return Job.of(found, of.generations.queue_position(found))


@router.delete("/generations/{id}", status_code=204, responses=responses("not_found", "input", "storage"))
async def delete_generation(id: Id, of: ServicesDep, who: Maker) -> None:
    """Delete the job and its images; an unfinished one is canceled first."""
    await of.generations.delete(who.owner, id)


@router.post("/generations/{id}/cancel", responses=responses("not_found", "input", "storage", "integrity"))
async def cancel_generation(id: Id, of: ServicesDep, who: Maker) -> Job:
    """Stop at the next step. Finished images stay; a finished job is left as it is."""
    return Job.of(await of.generations.cancel(who.owner, id))


async def known_id(id: Id, of: ServicesDep, who: Maker) -> str:
    """The id of a generation that exists: checked before a stream begins."""
    return (await of.generations.get(who.owner, id)).id


@router.get(
    "/generations/{id}/events",
    response_class=EventSourceResponse,
    responses=responses("not_found", "input", "integrity"),
)
async def watch_generation(
    id: Annotated[str, Depends(known_id)],
    of: ServicesDep,
    who: Maker,
    previews: Annotated[bool, Query(description="Send `preview` events, too")] = True,
    last_event_id: Annotated[str | None, Header(max_length=40, description="Go on after this event")] = None,
) -> AsyncIterator[JobEvent]:
    """Server-sent events: `status` (first, as a snapshot), `progress`, `preview`, `output`, `reconnect`.

    Ids rise. With Last-Event-ID the stream goes on where it broke off; where that is no longer known it starts with a
    snapshot, which has every output so far. It ends after the status that ends the job.
    """
    after = int(last_event_id) if last_event_id and last_event_id.isascii() and last_event_id.isdigit() else None
    async with aclosing(of.generations.events(who.owner, id, after, previews)) as events:  # type: ignore[type-var]
        async for event in events:
            data = job_event(event)
            yield ServerSentEvent(data=data, event=data.type, id=str(event.id))  # type: ignore[misc]


def job_event(event: Event) -> JobEvent:
    """The wire form of a service's event."""
    match event.data:
        case StatusChanged(generation, position):
            return StatusEvent(job=Job.of(generation, position))
        case Progressed(value, step, steps):
            return ProgressEvent(progress=Progress(value=value, step=step, steps=steps))
        case Previewed(images):
            urls = [(i, f"data:image/png;base64,{b64encode(png).decode()}") for i, png in images]
            return PreviewEvent(images=[PreviewImage(index=i, url=url) for i, url in urls])
        case OutputMade(generation, output):
            return OutputEvent(output=output_image(generation, output))
        case Reconnect():
            return ReconnectEvent()


@router.get(
    "/generations/{id}/images.zip",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"application/zip": BINARY}, "description": "A ZIP of PNGs"},
        **responses("not_found", "input", "conflict", "integrity"),
    },
)
async def get_generation_zip(id: Id, of: ServicesDep, who: Maker) -> StreamingResponse:
    """The images of a finished job, named by index, class and seed; made while it is sent."""
    entries = await of.generations.zip(who.owner, id)
    headers = {"Content-Disposition": f'attachment; filename="kartina-{id}.zip"'}
    chunks = zips.stream(entries, of.generations.records.blobs.read)
    return StreamingResponse(chunks, media_type="application/zip", headers=headers)
