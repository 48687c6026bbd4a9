"""What the service answers about long work: jobs, uploads, data sets, bulk generation, runs, studies. See `schemas`."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field, JsonValue

from kartina.client.schemas import Data, JobMetrics, Page, Problem

Split = Literal["train", "val", "test"] | str
WorkStatus = Literal["queued", "running", "succeeded", "failed", "canceling", "canceled"] | str


# -- jobs -----------------------------------------------------------------------------------------------------------


class WorkProgress(Data):
    value: float  # 0 to 1
    step: int | None
    steps: int | None
    text: str


class WorkFile(Data):
    """A file that a job made."""

    name: str
    size: int  # bytes
    url: str


class WorkUrls(Data):
    self: str
    events: str
    cancel: str
    resume: str


class WorkJob(Data):
    """Long work that was accepted, and what has become of it."""

    id: str
    kind: str  # train, evaluate, publish, study, import, bulk, ...
    status: WorkStatus
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    queue_position: int | None
    progress: WorkProgress
    request: dict[str, JsonValue]
    result: dict[str, JsonValue] | None
    outputs: list[WorkFile]
    error: Problem | None
    metrics: JobMetrics
    urls: WorkUrls


class WorkPage(Page[WorkJob]):
    pass


class WorkStatusEvent(Data):
    """The whole job: first as it is, then whenever its status changes."""

    type: Literal["status"] = "status"
    job: WorkJob


class WorkProgressEvent(Data):
    type: Literal["progress"] = "progress"
    progress: WorkProgress


class WorkLogEvent(Data):
    """A line that the job said."""

    type: Literal["log"] = "log"
    level: str
    text: str


# -- data -----------------------------------------------------------------------------------------------------------


class Upload(Data):
    """An archive, whole or on its way."""

    id: str
    filename: str
    bytes: int
    received: int  # where the next part begins
    complete: bool
    sha256: str | None
    created_at: datetime
    url: str


class UploadPage(Page[Upload]):
    pass


class DatasetProblem(Data):
    """Something that should be looked at."""

    kind: str
    message: str
    count: int
    paths: list[str]


class DatasetReport(Data):
    """What was found in the archive before it was imported."""

    images: int
    sizes: dict[str, int]
    modes: dict[str, int]
    grey: int
    ignored: dict[str, int]
    problems: list[DatasetProblem]
    problem_counts: dict[str, int]
    advice: list[str]


class DatasetUrls(Data):
    self: str
    images: str


class DatasetSummary(Data):
    """A data set, in a list."""

    name: str
    images: int
    width: int
    height: int
    channels: int
    classes: int
    splits: dict[str, int]
    paired: bool
    flip_safe: bool
    hash: str | None
    created_at: datetime | None
    own: bool  # yours; else everybody's
    urls: DatasetUrls


class DatasetClass(Data):
    name: str
    count: int
    counts: dict[str, int]  # of each split
    example: str


class Dataset(Data):
    """A data set: its histogram, splits, origin, and what was found in it."""

    name: str
    images: int
    width: int
    height: int
    channels: int
    classes: list[DatasetClass]
    splits: dict[str, int]
    imbalance: float | None  # largest to smallest class
    paired: bool
    flip_safe: bool
    hash: str | None
    created_at: datetime | None
    own: bool
    made: dict[str, JsonValue]
    skipped: int
    report: DatasetReport | None
    urls: DatasetUrls


class DatasetPage(Page[DatasetSummary]):
    pass


class DatasetImage(Data):
    index: int
    split: Split
    label: str | None
    url: str
    source_url: str | None


class DatasetImagePage(Page[DatasetImage]):
    pass


# -- estimates ------------------------------------------------------------------------------------------------------


class Range(Data):
    """A number that is not known yet, and how far off it may be."""

    value: float
    low: float
    high: float


class Disk(Data):
    """Bytes."""

    needed: int
    free: int
    enough: bool


class Estimate(Data):
    """What any job would take there, timed just now; seconds."""

    wall_seconds: Range
    disk: Disk
    device: str
    threads: int
    jobs_ahead: int
    basis: str


class RunEstimate(Estimate):
    """What a run, or what is left of one, would take there."""

    images: Range
    seconds: Range
    rate: Range  # images a second
    memory: int  # bytes


class StudyEstimate(Estimate):
    """What a study would take there; measuring what it samples is not in it."""

    runs: int
    training_seconds: Range
    sampling_seconds: Range
    images: int


class EvaluationEstimate(Estimate):
    """What an evaluation, or a publication, would take there; distances between what networks saw are not in it."""

    images: int
    sampling_seconds: Range
    looking_seconds: Range


class BulkEstimate(Data):
    """What a bulk generation would take."""

    images: int
    seconds: Range | None
    bytes: Range
    free_bytes: int
    fits: bool
    basis: Literal["earlier job", "engine", "nothing"] | str


# -- training -------------------------------------------------------------------------------------------------------


class PresetSummary(Data):
    """A tested combination of a family and its settings."""

    name: str
    family: str
    about: str
    size: int
    pairs: bool
    parameters: int
    tasks: list[str]


class PresetPage(Data):
    items: list[PresetSummary]
    families: dict[str, str]


class PresetDetail(PresetSummary):
    """A preset with its settings, any of which can be given to a run, and their JSON Schemas."""

    settings: dict[str, JsonValue]
    training: dict[str, JsonValue]
    settings_schema: dict[str, JsonValue]
    training_schema: dict[str, JsonValue]


class Checkpoint(Data):
    images: int
    size: int  # bytes


class SampleGrid(Data):
    images: int
    url: str


class RunUrls(Data):
    self: str
    stats: str
    job: str | None
    events: str | None


class RunSummary(Data):
    """A run: what is trained on what, and how far it is."""

    name: str
    preset: str
    family: str
    data: str
    status: str  # created, running, paused, interrupted, finished or failed
    images: int
    total: int
    seconds: float
    budget: float | None
    warnings: list[str]
    error: str | None
    urls: RunUrls


class RunDetail(RunSummary):
    config: dict[str, JsonValue]
    checkpoints: list[Checkpoint]
    grids: list[SampleGrid]


class RunPage(Page[RunSummary]):
    pass


class StatsPage(Data):
    items: list[dict[str, float | None]]
    next_after: int | None


class StudyUrls(Data):
    self: str
    job: str | None
    report: str


class StudySummary(Data):
    """A study and how far it is."""

    name: str
    about: str = ""
    created_at: str | None = None
    data: list[str] = Field(default=[])
    presets: list[str] = Field(default=[])
    runs: dict[str, int] = Field(default={})
    complete: bool = False
    published: list[dict[str, JsonValue]] = Field(default=[])
    problem: str | None = None
    urls: StudyUrls


class StudyDetail(StudySummary):
    """A study with its runs, what they score so far, and what it has chosen."""

    spec: dict[str, JsonValue]
    device: str
    trials: list[dict[str, JsonValue]]
    table: list[dict[str, JsonValue]]
    choice: dict[str, JsonValue]


class StudyPage(Page[StudySummary]):
    pass
