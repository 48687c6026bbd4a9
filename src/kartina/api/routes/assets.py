"""Assets: upload images that generations start from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, File, Form, Path, Query, UploadFile
from fastapi import Response as HttpResponse

from kartina.api.dependencies import Maker, ServicesDep
from kartina.api.problems import responses
from kartina.api.schemas import TEXT, Asset, AssetPage

router = APIRouter(prefix="/v1/assets", tags=["assets"])

Id = Annotated[str, Path(max_length=100, pattern=TEXT)]
PNG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}, "description": "A PNG"}
}


@router.post("", status_code=201, responses=responses("input", "too_large", "quota", "storage", "bad_request"))
async def create_asset(
    of: ServicesDep,
    who: Maker,
    file: Annotated[UploadFile, File(description="JPEG, PNG or WebP; at most 20 MiB and 16 megapixels, one frame")],
    kind: Annotated[
        Literal["image", "mask"],
        Form(description="mask: where the image has transparent parts, those become white and the rest black"),
    ] = "image",
) -> Asset:
    """Upload an image or a mask. It is decoded in a process of its own; the same bytes again are the same asset."""
    return Asset.of(await of.uploads.add(who, file.read, kind))


@router.get("", responses=responses("input"))
async def list_assets(
    of: ServicesDep,
    who: Maker,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=100, pattern=TEXT)] = None,
) -> AssetPage:
    """Your assets, newest first."""
    items, after = await of.uploads.list(who.owner, limit, cursor)
    return AssetPage(items=[Asset.of(found) for found in items], next_cursor=after)


@router.get("/{id}", responses=responses("not_found", "input"))
async def get_asset(id: Id, of: ServicesDep, who: Maker) -> Asset:
    """What is known of an asset. Somebody else's is not found."""
    return Asset.of(await of.uploads.get(who.owner, id))


@router.get(
    "/{id}/image.png", response_class=HttpResponse, responses={**PNG, **responses("not_found", "input", "integrity")}
)
async def get_asset_image(id: Id, of: ServicesDep, who: Maker) -> HttpResponse:
    """The image as it is used."""
    return HttpResponse(await of.uploads.content(who.owner, id), media_type="image/png")


@router.delete("/{id}", status_code=204, responses=responses("not_found", "input", "storage"))
async def delete_asset(id: Id, of: ServicesDep, who: Maker) -> None:
    """Delete an asset. Generations that were asked for with it are not touched."""
    await of.uploads.delete(who.owner, id)
