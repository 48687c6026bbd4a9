"""Models: list, card, pictures."""

from __future__ import annotations

from asyncio import to_thread
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from fastapi.responses import FileResponse

from kartina.api.dependencies import ServicesDep
from kartina.api.problems import responses
from kartina.api.schemas import Model, ModelPage

router = APIRouter(prefix="/v1/models", tags=["models"])

Ref = Annotated[str, Path(max_length=200, description="name, name@version, or at least 8 digits of a hash")]
Limit = Annotated[int, Query(ge=1, le=100, description="Items a page")]
Cursor = Annotated[str | None, Query(max_length=200, description="`next_cursor` of the page before")]
PNG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}, "description": "A PNG"}
}
PICTURE = {"Cache-Control": "private, max-age=300"}  # a package may be replaced


@router.get("", responses=responses("input"))
async def list_models(of: ServicesDep, limit: Limit = 50, cursor: Cursor = None) -> ModelPage:
    """Every model, your own first, then the bundled ones."""
    items, after = await to_thread(of.models.list, limit, cursor)
    return ModelPage(items=[Model.of(info) for info in items], next_cursor=after)


@router.get("/{ref}", responses=responses("not_found", "input", "integrity"))
async def get_model(ref: Ref, of: ServicesDep) -> Model:
    """A model's card: what it makes, how well, its controls."""
    return Model.of(await to_thread(of.models.get, ref))


@router.get(
    "/{ref}/samples.png", response_class=FileResponse, responses={**PNG, **responses("not_found", "input", "integrity")}
)
async def get_model_samples(ref: Ref, of: ServicesDep) -> FileResponse:
    """Uncurated images of fixed seeds, one row a class."""
    return FileResponse(await to_thread(of.models.samples, ref), media_type="image/png", headers=PICTURE)


@router.get(
    "/{ref}/classes/{index}.png",
    response_class=FileResponse,
    responses={**PNG, **responses("not_found", "input", "integrity")},
)
async def get_model_class_image(
    ref: Ref, index: Annotated[int, Path(ge=0, le=1_000_000)], of: ServicesDep
) -> FileResponse:
    """One generated example of a class, by its index."""
    return FileResponse(await to_thread(of.models.class_image, ref, index), media_type="image/png", headers=PICTURE)
