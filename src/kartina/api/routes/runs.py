"""Training: presets, estimates, runs; evaluations and publishing, which are jobs too."""

from __future__ import annotations

from asyncio import to_thread
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Response

from kartina.api.dependencies import Anyone, Publisher, Services, ServicesDep, Trainer
from kartina.api.estimates import EvaluationEstimate, RunEstimate
from kartina.api.files import StoredFile, described
from kartina.api.problems import responses
from kartina.api.schemas import TEXT
from kartina.api.training import (
    EvaluationRequest,
    Extension,
    PresetDetail,
    PresetPage,
    PresetSummary,
    PublishRequest,
    RunDetail,
    RunPage,
    RunRequest,
    RunSummary,
    StatsPage,
)
from kartina.api.work import WorkJob
from kartina.jobs.table import Job

router = APIRouter(prefix="/v1", tags=["training"])

Name = Annotated[str, Path(max_length=250, pattern=TEXT)]
Limit = Annotated[int, Query(ge=1, le=100, description="Items a page")]
Cursor = Annotated[str | None, Query(max_length=250, pattern=TEXT, description="`next_cursor` of the page before")]
IdempotencyKey = Annotated[
    str | None,
    Header(min_length=1, max_length=200, pattern=TEXT, description="The same key again is the same job, for 24 h"),
]
ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {
        "description": "Accepted: it is on the disk and will be done",
        "headers": {"Location": {"description": "The job", "schema": {"type": "string"}}},
    }
}
PNG = {**described("A PNG", "image/png"), **responses("not_found", "input", "integrity", "unsatisfiable")}


async def accepted(of: Services, job: Job, response: Response) -> WorkJob:
    """The answer to work that was accepted."""
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return WorkJob.of(job, await of.work.position(job))


# -- presets --------------------------------------------------------------------------------------------------------


@router.get("/presets", responses=responses("unavailable"))
async def list_presets(of: ServicesDep, who: Anyone) -> PresetPage:
    """Everything that can be trained."""
    found = await of.runs.presets()
    families = {name: family["about"] for name, family in found["families"].items()}
    return PresetPage(items=[PresetSummary.of(one) for one in found["presets"]], families=families)


@router.get("/presets/{name}", responses=responses("not_found", "input", "unavailable"))
async def get_preset(name: Name, of: ServicesDep, who: Anyone) -> PresetDetail:
    """A preset with its settings and their schemas."""
    found, every = await of.runs.preset(name), await of.runs.presets()
    schema = every["families"][found["family"]]["settings"]
    return PresetDetail(**found, settings_schema=schema, training_schema=every["training"])


# -- runs -----------------------------------------------------------------------------------------------------------

START = ("not_found", "input", "too_large", "quota", "conflict", "storage", "integrity", "unavailable")


@router.post("/runs", status_code=202, responses={**ACCEPTED, **responses(*START)})
async def create_run(
    body: RunRequest, of: ServicesDep, who: Trainer, response: Response, idempotency_key: IdempotencyKey = None
) -> WorkJob:
    """Train. Answers with the job; once it runs, its log says which run it is, and so does its result."""
    return await accepted(of, await of.runs.start(who, body.asked(), idempotency_key), response)


@router.post("/runs/estimate", responses=responses(*START))
async def estimate_run(body: RunRequest, of: ServicesDep, who: Trainer) -> RunEstimate:
    """What that run will take here. Takes some seconds: it is timed on this machine. Nothing is started."""
    return RunEstimate.of(await of.runs.estimate(who, body.asked()))


@router.get("/runs", responses=responses("input"))
async def list_runs(of: ServicesDep, who: Trainer, limit: Limit = 20, cursor: Cursor = None) -> RunPage:
    """Your runs, newest first. One that waits is a job until it begins."""
    items, after = await to_thread(of.runs.list, who.owner, limit, cursor)
    return RunPage(items=[RunSummary.of(found) for found in items], next_cursor=after)


@router.get("/runs/{name}", responses=responses("not_found", "input", "integrity"))
async def get_run(name: Name, of: ServicesDep, who: Trainer) -> RunDetail:
    """A run as it is now."""
    return await to_thread(lambda: RunDetail.of(of.runs.get(who.owner, name)))


@router.get("/runs/{name}/stats", responses=responses("not_found", "input", "integrity"))
async def get_run_stats(
    name: Name,
    of: ServicesDep,
    who: Trainer,
    after: Annotated[int, Query(ge=-1, le=10**12, description="Only what comes after so many images")] = -1,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> StatsPage:
    """The run's curves: losses and other statistics over the images seen."""
    found = await to_thread(of.runs.stats, who.owner, name, after, limit)
    return StatsPage(items=list(found), next_after=found[-1]["images"] if len(found) == limit else None)


@router.get("/runs/{name}/grids/{images}.png", response_class=StoredFile, responses=PNG)
async def get_run_grid(
    name: Name, images: Annotated[int, Path(ge=0, le=10**12)], of: ServicesDep, who: Trainer
) -> StoredFile:
    """Samples of fixed seeds, as the run made them after so many images."""
    path = await to_thread(of.runs.grid, who.owner, name, images)
    return StoredFile(path, media_type="image/png", headers={"Cache-Control": "private, max-age=300"})


@router.post("/runs/{name}/pause", responses=responses("not_found", "input", "conflict", "integrity", "storage"))
async def pause_run(name: Name, of: ServicesDep, who: Trainer) -> WorkJob:
    """Save a checkpoint and stop; the job ends canceled, and the run can be resumed."""
    return WorkJob.of(await of.runs.pause(who.owner, name))


GO_ON = ("not_found", "input", "conflict", "quota", "integrity", "storage")


@router.post("/runs/{name}/resume", status_code=202, responses={**ACCEPTED, **responses(*GO_ON)})
async def resume_run(
    name: Name, of: ServicesDep, who: Trainer, response: Response, idempotency_key: IdempotencyKey = None
) -> WorkJob:
    """Go on from its newest checkpoint, as if it had never stopped."""
    return await accepted(of, await of.runs.resume(who, name, idempotency_key), response)


@router.post("/runs/{name}/extend", status_code=202, responses={**ACCEPTED, **responses(*GO_ON, "too_large")})
async def extend_run(
    name: Name,
    body: Extension,
    of: ServicesDep,
    who: Trainer,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> WorkJob:
    """Train it longer than was asked for. A learning rate that falls towards the end rises again."""
    found = await of.runs.extend(who, name, body.images, body.seconds, idempotency_key)
    return await accepted(of, found, response)


@router.post("/runs/{name}/resume/estimate", responses=responses(*GO_ON, "unavailable"))
async def estimate_resume(name: Name, of: ServicesDep, who: Trainer) -> RunEstimate:
    """What is left of it will take here. Takes some seconds: it is timed on this machine. Nothing is started."""
    return RunEstimate.of(await of.runs.estimate_resume(who, name))


@router.post("/runs/{name}/extend/estimate", responses=responses(*START))
async def estimate_extension(name: Name, body: Extension, of: ServicesDep, who: Trainer) -> RunEstimate:
    """What would be left of it then will take here. Takes some seconds: it is timed on this machine. Nothing is
    started."""
    return RunEstimate.of(await of.runs.estimate_extension(who, name, body.images, body.seconds))


@router.delete(
    "/runs/{name}", status_code=204, responses=responses("not_found", "input", "conflict", "integrity", "storage")
)
async def delete_run(name: Name, of: ServicesDep, who: Trainer) -> None:
    """Delete a run that nothing trains. What was published of it stays."""
    await to_thread(of.runs.delete, who.owner, name)


# -- use ------------------------------------------------------------------------------------------------------------


@router.post("/runs/{name}/publish", status_code=202, responses={**ACCEPTED, **responses(*GO_ON, "too_large")})
async def publish_run(
    name: Name,
    body: PublishRequest,
    of: ServicesDep,
    who: Publisher,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> WorkJob:
    """Make its newest checkpoint a version of a model, which everybody here can then use."""
    found = await of.publications.start(who, name, body.name, body.options(), idempotency_key)
    return await accepted(of, found, response)


@router.post("/runs/{name}/publish/estimate", responses=responses(*START))
async def estimate_publication(name: Name, body: PublishRequest, of: ServicesDep, who: Publisher) -> EvaluationEstimate:
    """What that publication will take here. Takes some seconds: it is timed on this machine. Nothing is started."""
    return EvaluationEstimate.of(await of.publications.estimate(who, name, body.name, body.options()))


@router.post("/evaluations", status_code=202, responses={**ACCEPTED, **responses(*GO_ON, "too_large")})
async def create_evaluation(
    body: EvaluationRequest, of: ServicesDep, who: Trainer, response: Response, idempotency_key: IdempotencyKey = None
) -> WorkJob:
    """Measure a model or a run of yours. The job's result has its numbers, each with interval, floor and identity."""
    return await accepted(of, await of.evaluations.start(who, body.asked(), idempotency_key), response)


@router.post("/evaluations/estimate", responses=responses(*START))
async def estimate_evaluation(body: EvaluationRequest, of: ServicesDep, who: Trainer) -> EvaluationEstimate:
    """What that evaluation will take here. Takes some seconds: it is timed on this machine. Nothing is started."""
    return EvaluationEstimate.of(await of.evaluations.estimate(who, body.asked()))
