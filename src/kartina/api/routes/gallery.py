"""The gallery: pages of stored images, favourites, trash, downloads."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from fastapi import Response as HttpResponse
from fastapi.responses import StreamingResponse
from pydantic import BeforeValidator

from kartina.api.dependencies import Maker, ServicesDep
from kartina.api.problems import responses
from kartina.api.schemas import MAX_IDS, TEXT, GalleryImage, GalleryPage, ImageChange, ImagesChange, ImagesChanged
from kartina.services import zips
from kartina.storage.records import Filter, Format

router = APIRouter(prefix="/v1", tags=["images"])

Id = Annotated[str, Path(max_length=100, pattern=TEXT)]
BINARY = {"schema": {"type": "string", "format": "binary"}}
FILE: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"image/png": BINARY, "image/webp": BINARY},
        "description": "An image that carries its recipe and the marker `synthetic`",
    }
}
ZIP: dict[int | str, dict[str, Any]] = {200: {"content": {"application/zip": BINARY}, "description": "A ZIP"}}


def _time(given: object) -> object:
    """A number is no time, though it could be read as seconds since 1970."""
    try:
        float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return given
    raise ValueError("expected a date and a time, as 2026-01-31T12:00:00Z")


Time = Annotated[datetime, BeforeValidator(_time)]


async def wanted(
    model: Annotated[str | None, Query(max_length=200, pattern=TEXT, description="name@version")] = None,
    label: Annotated[str | None, Query(max_length=1000, pattern=TEXT, description="A class")] = None,
    favourite: Annotated[bool, Query(description="Only favourites")] = False,
    since: Annotated[Time | None, Query(description="Asked for at this time or later")] = None,
    until: Annotated[Time | None, Query(description="Asked for before this time")] = None,
    trash: Annotated[bool, Query(description="What is in the trash, instead")] = False,
) -> Filter:
    """The filters of the query."""
    return Filter(model, label, favourite, _utc(since), _utc(until), trash)


def _utc(at: datetime | None) -> datetime | None:
    return at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at


Wanted = Annotated[Filter, Depends(wanted)]


@router.get("/images", responses=responses("input"))
async def list_images(
    of: ServicesDep,
    who: Maker,
    filter: Wanted,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    cursor: Annotated[str | None, Query(max_length=100, pattern=TEXT, description="`next_cursor` of a page")] = None,
) -> GalleryPage:
    """Your stored images, newest first. Each page costs the same, however many there are."""
    items, after = await of.gallery.list(who.owner, filter, limit, cursor)
    return GalleryPage(items=[GalleryImage.of(found) for found in items], next_cursor=after)


@router.get(
    "/images.zip", response_class=StreamingResponse, responses={**ZIP, **responses("input", "integrity", "storage")}
)
async def get_images_zip(
    of: ServicesDep,
    who: Maker,
    filter: Wanted,
    id: Annotated[
        list[Annotated[str, Query(max_length=100, pattern=TEXT)]] | None,
        Query(max_length=MAX_IDS, description="Only these images"),
    ] = None,
) -> StreamingResponse:
    """All images that the filters leave, as a ZIP that is made while it is sent."""
    filter = filter if id is None else replace(filter, ids=tuple(id))
    chunks = zips.stream(of.gallery.entries(who.owner, filter), of.gallery.records.blobs.read)
    headers = {"Content-Disposition": 'attachment; filename="kartina.zip"'}
    return StreamingResponse(chunks, media_type="application/zip", headers=headers)


@router.patch("/images", responses=responses("input", "too_large", "storage"))
async def change_images(body: ImagesChange, of: ServicesDep, who: Maker) -> ImagesChanged:
    """Do the same to several images at once. What is missing, or not yours, is passed over."""
    return ImagesChanged(changed=await of.gallery.change(who.owner, body.ids, body.change))


@router.get(
    "/images/{id}",
    response_class=HttpResponse,
    responses={**FILE, **responses("not_found", "input", "integrity")},
)
async def get_image(
    id: Id,
    of: ServicesDep,
    who: Maker,
    format: Annotated[Format | None, Query(description="webp: a lossless WebP of a PNG")] = None,
    download: Annotated[bool, Query(description="Offer to save it, under a name that tells what it is")] = False,
) -> HttpResponse:
    """One image. A PNG carries its recipe in the text chunk `kartina`, a WebP in EXIF's ImageDescription."""
    content, found, name = await of.gallery.file(who.owner, id, format)
    headers = {"Cache-Control": "private, max-age=31536000, immutable"}
    if download:
        headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return HttpResponse(content, media_type=f"image/{found}", headers=headers)


@router.get("/images/{id}/about", responses=responses("not_found", "input"))
async def get_image_about(id: Id, of: ServicesDep, who: Maker) -> GalleryImage:
    """What is known of one image."""
    return GalleryImage.of(await of.gallery.get(who.owner, id))


@router.patch("/images/{id}", responses=responses("not_found", "input", "too_large", "storage"))
async def change_image(id: Id, body: ImageChange, of: ServicesDep, who: Maker) -> GalleryImage:
    """Make an image a favourite, or an ordinary one again."""
    return GalleryImage.of(await of.gallery.favour(who.owner, id, body.favourite))


@router.delete("/images/{id}", status_code=204, responses=responses("not_found", "input", "storage"))
async def delete_image(
    id: Id,
    of: ServicesDep,
    who: Maker,
    forever: Annotated[bool, Query(description="Now and for good, past the trash")] = False,
) -> None:
    """Put an image into the trash, where it can be taken out again for 30 days."""
    await of.gallery.delete(who.owner, id, forever)


@router.post("/images/{id}/restore", responses=responses("not_found", "input", "storage"))
async def restore_image(id: Id, of: ServicesDep, who: Maker) -> GalleryImage:
    """Take an image out of the trash."""
    return GalleryImage.of(await of.gallery.restore(who.owner, id))
