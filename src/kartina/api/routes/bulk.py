"""Bulk generation: estimate it, ask for it. Follow, cancel, resume, download and delete it as any job (/v1/jobs)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header
from fastapi import Response as HttpResponse

from kartina.api.data_schemas import BulkEstimate, BulkRequest
from kartina.api.dependencies import Maker, ServicesDep
from kartina.api.problems import responses
from kartina.api.routes.datasets import ACCEPTED
from kartina.api.work import WorkJob

router = APIRouter(prefix="/v1/bulk", tags=["bulk"])


@router.post(
    "",
    status_code=202,
    responses={
        **ACCEPTED,
        **responses("not_found", "input", "key_reused", "too_large", "no_room", "quota", "integrity", "storage"),
    },
)
async def create_bulk(
    body: BulkRequest,
    of: ServicesDep,
    who: Maker,
    response: HttpResponse,
    idempotency_key: Annotated[
        str | None, Header(min_length=1, max_length=200, description="The same key again is the same job, for 24 h")
    ] = None,
) -> WorkJob:
    """Make up to 1,000,000 images, by a job whose file `images.zip` is a data set: a folder a class, a manifest, a
    recipe in every image. It can be killed, canceled and resumed at any point; the ZIP is the same. Its images count
    until the job is deleted."""
    job = await of.bulk.submit(who, body.submission(), idempotency_key)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return WorkJob.of(job, await of.work.position(job))


@router.post("/estimate", responses=responses("not_found", "input", "too_large", "integrity", "storage"))
async def estimate_bulk(body: BulkRequest, of: ServicesDep, who: Maker) -> BulkEstimate:
    """How long it would take, and how much room. The first estimate for a model measures it, some seconds."""
    return BulkEstimate.of(await of.bulk.estimate(body.submission()))
