"""Models: list, card, pictures; import, export, activate, roll back, delete."""

from __future__ import annotations

from asyncio import to_thread
from typing import Annotated

from fastapi import APIRouter, File, Form, Path, Query, Response, UploadFile
from fastapi.responses import StreamingResponse

from kartina.api.dependencies import Anyone, Curator, ServicesDep
from kartina.api.files import StoredFile, described
from kartina.api.problems import responses
from kartina.api.schemas import Model, ModelPage

router = APIRouter(prefix="/v1/models", tags=["models"])

Ref = Annotated[str, Path(max_length=200, description="name, name@version, or at least 8 digits of a hash")]
Limit = Annotated[int, Query(ge=1, le=100, description="Items a page")]
Cursor = Annotated[str | None, Query(max_length=200, description="`next_cursor` of the page before")]
PNG = {**described("A PNG", "image/png"), **responses("not_found", "input", "integrity", "unsatisfiable")}
PICTURE = {"Cache-Control": "private, max-age=300"}  # a package may be replaced


@router.get("", responses=responses("input"))
async def list_models(of: ServicesDep, who: Anyone, limit: Limit = 50, cursor: Cursor = None) -> ModelPage:
    """Every model, your own first, then the bundled ones."""
    items, after = await to_thread(of.models.list, limit, cursor)
    return ModelPage(items=[Model.of(info) for info in items], next_cursor=after)


@router.get("/{ref}", responses=responses("not_found", "input", "integrity"))
async def get_model(ref: Ref, of: ServicesDep, who: Anyone) -> Model:
    """A model's card: what it makes, how well, its controls."""
    return Model.of(await to_thread(of.models.get, ref))


@router.get("/{ref}/samples.png", response_class=StoredFile, responses=PNG)
async def get_model_samples(ref: Ref, of: ServicesDep, who: Anyone) -> StoredFile:
    """Uncurated images of fixed seeds, one row a class."""
    return StoredFile(await to_thread(of.models.samples, ref), media_type="image/png", headers=PICTURE)


@router.get("/{ref}/classes/{index}.png", response_class=StoredFile, responses=PNG)
async def get_model_class_image(
    ref: Ref, index: Annotated[int, Path(ge=0, le=1_000_000)], of: ServicesDep, who: Anyone
) -> StoredFile:
    """One generated example of a class, by its index."""
    return StoredFile(await to_thread(of.models.class_image, ref, index), media_type="image/png", headers=PICTURE)


@router.post("", status_code=201, responses=responses("input", "too_large", "conflict", "storage", "bad_request"))
async def import_model(
    of: ServicesDep,
    who: Curator,
    response: Response,
    file: Annotated[UploadFile, File(description="A package's ZIP: model.json, card.json, safetensors, PNGs")],
    name: Annotated[str | None, Form(max_length=64, description="Left out: the package's own")] = None,
) -> Model:
    """Import a package. Its weights must fit the architecture; pickle, links and foreign paths are refused. The same
    weights under the same name again are the model that is there (200)."""
    async with of.importing:
        info, new = await to_thread(of.packages.add, file.file, name or None)
    response.status_code = 201 if new else 200
    return Model.of(info)


@router.get(
    "/{ref}/package.zip",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"application/zip": PNG[200]["content"]["image/png"]}, "description": "A package's ZIP"},
        **responses("not_found", "input", "integrity"),
    },
)
async def export_model(ref: Ref, of: ServicesDep, who: Curator) -> StreamingResponse:
    """The whole package as a ZIP, made while it is sent."""
    name, chunks = await to_thread(of.packages.export, ref)
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(chunks, media_type="application/zip", headers=headers)


@router.post("/{ref}/activate", responses=responses("not_found", "input", "integrity", "storage"))
async def activate_model(ref: Ref, of: ServicesDep, who: Curator) -> Model:
    """From now on the name alone means this version."""
    info = await to_thread(of.packages.activate, ref)
    of.ready.soon(info)  # nobody waits for it
    return Model.of(info)


@router.post("/{ref}/rollback", responses=responses("not_found", "input", "conflict", "integrity", "storage"))
async def roll_back_model(ref: Ref, of: ServicesDep, who: Curator) -> Model:
    """Make the version active again that was before the active one. `ref` is a name."""
    info = await to_thread(of.packages.roll_back, ref)
    of.ready.soon(info)
    return Model.of(info)


@router.delete("/{ref}", status_code=204, responses=responses("not_found", "input", "conflict", "integrity", "storage"))
async def delete_model(ref: Ref, of: ServicesDep, who: Curator) -> None:
    """Delete one version of a model. Bundled ones stay."""
    await to_thread(of.packages.delete, ref)
