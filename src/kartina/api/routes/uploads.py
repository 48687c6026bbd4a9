"""Uploads: an archive of a data set in parts that may be sent again.

The header fields and answers are those of the IETF's resumable uploads (draft-ietf-httpbis-resumable-upload):
Upload-Offset, Upload-Length, Upload-Complete and Upload-Limit; HEAD tells the offset, PATCH appends, DELETE gives up.
An upload begins with JSON, which has room for the file's name and hash.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi import Response as HttpResponse
from starlette.requests import ClientDisconnect

from kartina.api.data_schemas import Upload, UploadPage, UploadRequest
from kartina.api.dependencies import DataKeeper, ServicesDep
from kartina.api.problems import HttpProblem, responses
from kartina.api.schemas import MAX_SEED, TEXT
from kartina.services.archives import MAX_BYTES, MAX_PART
from kartina.storage.uploads import Upload as StoredUpload

router = APIRouter(prefix="/v1/uploads", tags=["datasets"])

PART = "application/partial-upload"
LIMIT = f"max-size={MAX_BYTES}, max-append-size={MAX_PART}"

Id = Annotated[str, Path(max_length=100, pattern=TEXT)]
_TEXT = {"schema": {"type": "string"}}
STATE = {
    "Upload-Offset": {"description": "Where the next part begins", **_TEXT},
    "Upload-Length": {"description": "Bytes of the whole file", **_TEXT},
    "Upload-Complete": {"description": "`?1` when it is whole, else `?0`", **_TEXT},
}


def _state(found: StoredUpload) -> dict[str, str]:
    complete = "?1" if found.complete else "?0"
    return {
        "Upload-Offset": str(found.received),
        "Upload-Length": str(found.bytes),
        "Upload-Complete": complete,
        "Upload-Limit": LIMIT,
    }


@router.post(
    "",
    status_code=201,
    responses={
        201: {"description": "Begun", "headers": {"Location": {"description": "The upload", **_TEXT}, **STATE}},
        **responses("input", "too_large", "no_room", "quota", "storage"),
    },
)
async def create_upload(body: UploadRequest, of: ServicesDep, who: DataKeeper, response: HttpResponse) -> Upload:
    """Begin an upload. Its bytes count from now on; one that nothing is done with for a day is removed."""
    found = await of.archives.begin(who, body.filename, body.bytes, body.sha256)
    response.headers.update({"Location": f"/v1/uploads/{found.id}", **_state(found)})
    return Upload.of(found)


@router.get("", responses=responses("input"))
async def list_uploads(
    of: ServicesDep,
    who: DataKeeper,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=100, pattern=TEXT)] = None,
) -> UploadPage:
    """Your uploads, newest first."""
    items, after = await of.archives.list(who.owner, limit, cursor)
    return UploadPage(items=[Upload.of(found) for found in items], next_cursor=after)


@router.get("/{id}", responses=responses("not_found", "input"))
async def get_upload(id: Id, of: ServicesDep, who: DataKeeper) -> Upload:
    """What has come of it."""
    return Upload.of(await of.archives.get(who.owner, id))


@router.head(
    "/{id}",
    status_code=204,
    response_class=HttpResponse,
    responses={204: {"description": "How far it is", "headers": STATE}, **responses("not_found", "input", "storage")},
)
async def get_upload_offset(id: Id, of: ServicesDep, who: DataKeeper) -> HttpResponse:
    """Where to go on after a broken connection. A part that is still being received ends with this."""
    return HttpResponse(status_code=204, headers=_state(await of.archives.offset(who.owner, id)))


BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {PART: {"schema": {"type": "string", "format": "binary", "maxLength": MAX_PART}}},
    }
}


@router.patch(
    "/{id}",
    openapi_extra=BODY,
    responses={
        200: {"description": "What has come so far", "headers": STATE},
        **responses("not_found", "input", "wrong_offset", "too_large", "storage", "unsupported_media_type"),
    },
)
async def append_to_upload(
    id: Id,
    request: Request,
    of: ServicesDep,
    who: DataKeeper,
    response: HttpResponse,
    offset: Annotated[int, Header(alias="Upload-Offset", ge=0, le=MAX_SEED, description="Where this part begins")],
    content_type: Annotated[str, Header(max_length=200, include_in_schema=False)] = "",
) -> Upload:
    """Append a part, at most 64 MiB. It has to begin where the last one ended: if not, 409 tells where that is. When
    this answers, the part is on the disk. The last one checks the hash; a wrong one makes the upload begin anew."""
    if content_type.partition(";")[0].strip().lower() not in (PART, "application/octet-stream"):
        raise HttpProblem("unsupported_media_type", f"Found the type {content_type!r}; expected {PART}.")
    try:
        found = await of.archives.append(who.owner, id, offset, request.stream())
    except ClientDisconnect:  # what came is kept; nobody reads this answer
        raise HttpProblem("bad_request", "Found the part cut short; ask where to go on (HEAD).") from None
    response.headers.update(_state(found))
    return Upload.of(found)


@router.delete("/{id}", status_code=204, responses=responses("not_found", "input", "conflict", "storage"))
async def delete_upload(id: Id, of: ServicesDep, who: DataKeeper) -> None:
    """Give an upload up; its bytes no longer count."""
    await of.archives.delete(who.owner, id)
