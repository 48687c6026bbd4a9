"""What the HTTP API says of jobs: long work that was accepted. Kept apart from `schemas`, which has the rest."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal
from urllib.parse import quote

from pydantic import Field, JsonValue

from kartina.api.problems import problem_of
from kartina.api.schemas import JobMetrics, Problem, ReconnectEvent, Response
from kartina.jobs.table import Event, Job, Status
from kartina.services.jobs import Reconnect, Snapshot, outputs


class WorkProgress(Response):
    value: float = Field(ge=0, le=1)
    step: int | None = Field(description="What was done of `steps`: images seen by a training, runs of a study")
    steps: int | None
    text: str = Field(description="The same in words")


class WorkFile(Response):
    """A file that a job made."""

    name: str
    size: int = Field(description="Bytes")
    url: str


class WorkUrls(Response):
    self: str
    events: str
    cancel: str
    resume: str


class WorkJob(Response):
    """Long work that was accepted, and what has become of it."""

    id: str
    kind: str = Field(description="What is done: train, evaluate, publish, study, ...")
    status: Status = Field(
        description="queued, running or canceling; then succeeded, failed or canceled, of which the last two can resume"
    )
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    queue_position: int | None = Field(description="1 is next; null when not queued")
    progress: WorkProgress
    request: dict[str, JsonValue] = Field(description="What is to be done, as it was accepted")
    result: dict[str, JsonValue] | None = Field(description="What came of it, when it has succeeded")
    outputs: list[WorkFile] = Field(description="The files that it made, when it has succeeded")
    error: Problem | None = Field(description="Why it failed")
    metrics: JobMetrics
    urls: WorkUrls

    @classmethod
    def of(cls, found: Job, position: int | None = None) -> WorkJob:
        base = f"/v1/jobs/{found.id}"
        error = found.error
        return cls(
            id=str(found.id),
            kind=found.kind,
            status=found.status,
            created_at=_time(found.created_at),
            started_at=None if found.started_at is None else _time(found.started_at),
            completed_at=None if found.completed_at is None else _time(found.completed_at),
            queue_position=position,
            progress=WorkProgress(**found.progress.model_dump()),
            request={name: value for name, value in found.spec.items() if name != "asked"},
            result=found.result,
            outputs=[
                WorkFile(name=one.name, size=one.size, url=f"{base}/files/{quote(one.name)}") for one in outputs(found)
            ],
            error=None if error is None else problem_of(error.code, error.message),
            metrics=JobMetrics(
                queue_ms=_ms(found.created_at, found.started_at),
                execution_ms=_ms(found.started_at, found.completed_at),
            ),
            urls=WorkUrls(self=base, events=f"{base}/events", cancel=f"{base}/cancel", resume=f"{base}/resume"),
        )


class WorkPage(Response):
    items: list[WorkJob]
    next_cursor: str | None = Field(default=None, description="Pass it as `cursor` for the next page; null at the end")


class WorkStatusEvent(Response):
    """`event: status`: the whole job. Sent on connection as the snapshot, and whenever the status changes."""

    type: Literal["status"] = "status"
    job: WorkJob


class WorkProgressEvent(Response):
    """`event: progress`: at most about 2 a second; only the newest is kept for a reader that comes late."""

    type: Literal["progress"] = "progress"
    progress: WorkProgress


class WorkLogEvent(Response):
    """`event: log`: a line that the job said."""

    type: Literal["log"] = "log"
    level: str = Field(description="info or warning")
    text: str


WorkEvent = WorkStatusEvent | WorkProgressEvent | WorkLogEvent | ReconnectEvent


def work_event(found: Snapshot | Event | Reconnect) -> WorkEvent | None:
    """The wire form of an event; None for what is the operator's alone (the trace of an error)."""
    match found:
        case Snapshot(_, job):
            return WorkStatusEvent(job=WorkJob.of(job))
        case Reconnect():
            return ReconnectEvent()
        case Event(event="progress", data=data):
            return WorkProgressEvent(progress=WorkProgress(**data))
        case Event(data=data) if data["level"] != "error":
            return WorkLogEvent(level=data["level"], text=data["text"])
    return None


def _time(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def _ms(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else round((end - start) * 1000, 1)
