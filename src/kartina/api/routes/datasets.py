"""Data sets: import an upload, list, show, browse, delete. Their pictures are what was imported, as PNG."""

from __future__ import annotations

from asyncio import to_thread
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query
from fastapi import Response as HttpResponse

from kartina.api.data_schemas import (
    Dataset,
    DatasetImagePage,
    DatasetPage,
    DatasetRequest,
    DatasetSummary,
    InspectRequest,
)
from kartina.api.dependencies import DataKeeper, ServicesDep
from kartina.api.problems import responses
from kartina.api.schemas import TEXT
from kartina.api.work import WorkJob
from kartina.data.paths import Split

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])

Name = Annotated[str, Path(max_length=64, pattern=TEXT)]
Index = Annotated[int, Path(ge=0, le=2**31 - 1)]
Limit = Annotated[int, Query(ge=1, le=100, description="Items a page")]
IdempotencyKey = Annotated[
    str | None, Header(min_length=1, max_length=200, description="The same key again is the same job, for 24 h")
]
PNG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}, "description": "A PNG"}
}
PICTURE = {"Cache-Control": "private, max-age=300"}  # a data set may be replaced
LOCATION = {"Location": {"description": "The job", "schema": {"type": "string"}}}
ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {"description": "Accepted: it is on the disk and will be done", "headers": LOCATION}
}


@router.post(
    "/inspect",
    status_code=202,
    responses={
        **ACCEPTED,
        **responses("not_found", "input", "key_reused", "too_large", "conflict", "quota", "storage"),
    },
)
async def inspect_upload(
    body: InspectRequest,
    of: ServicesDep,
    who: DataKeeper,
    response: HttpResponse,
    idempotency_key: IdempotencyKey = None,
) -> WorkJob:
    """Look at an upload before its import: the job's result tells classes, sizes, duplicates, problems, advice; and
    `import`, what that would take here: `wall_seconds`, `disk`, and the `basis` of both, as other estimates."""
    job = await to_thread(of.datasets.look, who, body.upload, body.options(), idempotency_key)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return WorkJob.of(job, await of.work.position(job))


@router.post(
    "",
    status_code=202,
    responses={
        **ACCEPTED,
        **responses("not_found", "input", "key_reused", "too_large", "conflict", "quota", "storage"),
    },
)
async def create_dataset(
    body: DatasetRequest,
    of: ServicesDep,
    who: DataKeeper,
    response: HttpResponse,
    idempotency_key: IdempotencyKey = None,
) -> WorkJob:
    """Import an upload as a data set, by a job. Missing val and test splits are made: 10% of train each, by class."""
    job = await to_thread(
        lambda: of.datasets.add(
            who, body.name, body.options(), upload=body.upload, bulk=body.bulk, key=idempotency_key
        )
    )  # fmt: skip
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return WorkJob.of(job, await of.work.position(job))


@router.get("", responses=responses("input"))
async def list_datasets(
    of: ServicesDep,
    who: DataKeeper,
    limit: Limit = 20,
    cursor: Annotated[str | None, Query(max_length=100, pattern=TEXT)] = None,
) -> DatasetPage:
    """Your data sets and the embedded one, by name."""
    found, after = await to_thread(of.datasets.list, who.owner, limit, cursor)
    return DatasetPage(items=[DatasetSummary.of(one) for one in found], next_cursor=after)


@router.get("/{name}", responses=responses("not_found", "input", "integrity", "storage"))
async def get_dataset(name: Name, of: ServicesDep, who: DataKeeper) -> Dataset:
    """A data set: histogram, splits, hash, and what was found in it. Somebody else's is not found."""
    return Dataset.of(await to_thread(of.datasets.get, who.owner, name))


@router.get("/{name}/images", responses=responses("not_found", "input", "integrity", "storage"))
async def list_dataset_images(
    name: Name,
    of: ServicesDep,
    who: DataKeeper,
    split: Annotated[Split | None, Query()] = None,
    label: Annotated[str | None, Query(max_length=1000, pattern=TEXT, description="A class")] = None,
    limit: Limit = 50,
    cursor: Annotated[int | None, Query(ge=0, le=2**31 - 1)] = None,
) -> DatasetImagePage:
    """Its images, by their place: train, then val, then test."""
    data = await to_thread(of.datasets.open, who.owner, name)
    found, after = await to_thread(of.datasets.page, who.owner, name, split, label, limit, cursor)
    return DatasetImagePage.of(name, data.sources is not None, found, after)


@router.get(
    "/{name}/images/{index}.png",
    response_class=HttpResponse,
    responses={**PNG, **responses("not_found", "input", "integrity", "storage")},
)
async def get_dataset_image(name: Name, index: Index, of: ServicesDep, who: DataKeeper) -> HttpResponse:
    """An image as it was packed."""
    found = await to_thread(of.datasets.image, who.owner, name, index)
    return HttpResponse(found, media_type="image/png", headers=PICTURE)


@router.get(
    "/{name}/sources/{index}.png",
    response_class=HttpResponse,
    responses={**PNG, **responses("not_found", "input", "integrity", "storage")},
)
async def get_dataset_source(name: Name, index: Index, of: ServicesDep, who: DataKeeper) -> HttpResponse:
    """Of pairs: what an image is to be made from."""
    found = await to_thread(of.datasets.image, who.owner, name, index, True)
    return HttpResponse(found, media_type="image/png", headers=PICTURE)


@router.get(
    "/{name}/classes/{index}.png",
    response_class=HttpResponse,
    responses={**PNG, **responses("not_found", "input", "integrity", "storage")},
)
async def get_dataset_class_image(name: Name, index: Index, of: ServicesDep, who: DataKeeper) -> HttpResponse:
    """The first training image of a class, by its index."""
    found = await to_thread(of.datasets.class_image, who.owner, name, index)
    return HttpResponse(found, media_type="image/png", headers=PICTURE)


@router.delete(
    "/{name}", status_code=204, responses=responses("not_found", "input", "conflict", "integrity", "storage")
)
async def delete_dataset(name: Name, of: ServicesDep, who: DataKeeper) -> None:
    """Delete a data set. Runs that learnt from it stay, but can no longer be evaluated on it."""
    await to_thread(of.datasets.delete, who.owner, name)
