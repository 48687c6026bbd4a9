"""Studies: begin, follow, look at the table and the report, publish the winner."""

from __future__ import annotations

from asyncio import to_thread
from typing import Annotated

from fastapi import APIRouter, Path, Response

from kartina.api.dependencies import Publisher, ServicesDep, Trainer
from kartina.api.estimates import EvaluationEstimate, StudyEstimate
from kartina.api.files import StoredFile, described
from kartina.api.problems import responses
from kartina.api.routes.runs import ACCEPTED, GO_ON, START, Cursor, IdempotencyKey, Limit, accepted
from kartina.api.schemas import TEXT
from kartina.api.studies import StudyDetail, StudyPage, StudyPublication, StudyRequest, StudySummary
from kartina.api.work import WorkJob
from kartina.services.studies import Format

router = APIRouter(prefix="/v1/studies", tags=["studies"])

Name = Annotated[str, Path(max_length=64, pattern=TEXT)]
TYPES: dict[Format, str] = {"html": "text/html", "json": "application/json", "csv": "text/csv"}
PUBLISH = (*GO_ON, "unavailable", "too_large")
REPORT = described("The report, as one page without scripts, as JSON or as CSV", *TYPES.values())


@router.post("", status_code=202, responses={**ACCEPTED, **responses(*START)})
async def create_study(
    body: StudyRequest, of: ServicesDep, who: Trainer, response: Response, idempotency_key: IdempotencyKey = None
) -> WorkJob:
    """Begin a study: its plan is checked and fixed, its runs are made by the job, and its report at the end."""
    return await accepted(of, await of.studies.begin(who, body.spec(), idempotency_key), response)


@router.post("/estimate", responses=responses(*START))
async def estimate_study(body: StudyRequest, of: ServicesDep, who: Trainer) -> StudyEstimate:
    """What that study will take here. Takes some seconds for each preset: it is timed on this machine. Nothing is
    started."""
    return StudyEstimate.of(await of.studies.estimate(who, body.spec()))


@router.get("", responses=responses("input", "unavailable"))
async def list_studies(of: ServicesDep, who: Trainer, limit: Limit = 20, cursor: Cursor = None) -> StudyPage:
    """Your studies by name, and how far each is."""
    items, after = await of.studies.list(who.owner, limit, cursor)
    found = [StudySummary.of(one, await to_thread(of.studies.job, who.owner, one["name"])) for one in items]
    return StudyPage(items=found, next_cursor=after)


@router.get("/{name}", responses=responses("not_found", "input", "integrity", "unavailable"))
async def get_study(name: Name, of: ServicesDep, who: Trainer) -> StudyDetail:
    """A study with its runs, the table so far, and its choice."""
    found = await of.studies.get(who.owner, name)
    return StudyDetail.of(found, await to_thread(of.studies.job, who.owner, name))


@router.get(
    "/{name}/report.{format}",
    response_class=StoredFile,
    responses={**REPORT, **responses("not_found", "input", "conflict", "unsatisfiable")},
)
async def get_study_report(name: Name, format: Format, of: ServicesDep, who: Trainer) -> StoredFile:
    """The report. The page may load nothing, run nothing and frame nothing."""
    path = await to_thread(of.studies.report, who.owner, name, format)
    return StoredFile(path, media_type=TYPES[format])


@router.post("/{name}/cancel", responses=responses("not_found", "input", "conflict", "storage"))
async def cancel_study(name: Name, of: ServicesDep, who: Trainer) -> WorkJob:
    """Stop it once the run at work has saved what it has."""
    return WorkJob.of(await of.studies.cancel(who.owner, name))


@router.post("/{name}/resume", status_code=202, responses={**ACCEPTED, **responses(*GO_ON, "unavailable")})
async def resume_study(
    name: Name, of: ServicesDep, who: Trainer, response: Response, idempotency_key: IdempotencyKey = None
) -> WorkJob:
    """Make what is left of it."""
    return await accepted(of, await of.studies.resume(who, name, idempotency_key), response)


@router.post("/{name}/resume/estimate", responses=responses(*GO_ON, "unavailable"))
async def estimate_study_resume(name: Name, of: ServicesDep, who: Trainer) -> StudyEstimate:
    """What is left of it will take here. Takes some seconds for each preset: it is timed on this machine. Nothing is
    started."""
    return StudyEstimate.of(await of.studies.estimate_rest(who, name))


@router.post("/{name}/publish", status_code=202, responses={**ACCEPTED, **responses(*PUBLISH)})
async def publish_study(
    name: Name,
    body: StudyPublication,
    of: ServicesDep,
    who: Publisher,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> WorkJob:
    """Publish what it chose, as models which everybody here can then use."""
    found = await of.studies.publish(who, name, body.data, body.name, body.licence, idempotency_key)
    return await accepted(of, found, response)


@router.post("/{name}/publish/estimate", responses=responses(*PUBLISH))
async def estimate_study_publication(
    name: Name, body: StudyPublication, of: ServicesDep, who: Publisher
) -> EvaluationEstimate:
    """What publishing what it chose will take here. Takes some seconds for each model: it is timed on this machine.
    Nothing is started."""
    return EvaluationEstimate.of(await of.studies.estimate_publication(who, name, body.data, body.name))
