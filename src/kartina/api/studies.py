"""What the HTTP API takes and gives about studies."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, JsonValue, Strict

from kartina.api.schemas import TEXT, Request, Response
from kartina.api.training import PLAIN, Device
from kartina.jobs.table import Job
from kartina.study.spec import METRICS, Budget, Choose, Entry, Evaluation, Metric, StudySpec

STRICT = ConfigDict(strict=True)
LISTED = Strict(False)  # JSON has lists where the study has tuples; what is in them is strict


class StudyEntry(Entry):
    """One thing that is compared: a preset with settings over it."""

    model_config = STRICT

    data: Annotated[tuple[str, ...], LISTED] = Field(default=(), max_length=20)


class StudyBudget(Budget):
    """Of each run: one of minutes and images."""

    model_config = STRICT


class StudyEvaluation(Evaluation):
    """How every run is measured; equal for all. Over HTTP no file can be named."""

    model_config = STRICT

    metrics: Annotated[tuple[Metric, ...], LISTED] = METRICS
    extractor: Literal["domain", "inception"] = "domain"
    weights: None = None


class StudyChoice(Choose):
    """The rule that chooses."""

    model_config = STRICT


class StudyRequest(StudySpec):
    """A study, as STUDY.toml has it."""

    model_config = STRICT

    data: Annotated[tuple[str, ...], LISTED] = Field(min_length=1, max_length=20)
    presets: Annotated[tuple[StudyEntry, ...], LISTED] = Field(min_length=1, max_length=100)
    seeds: Annotated[tuple[int, ...], LISTED] = Field(default=(0, 1, 2), min_length=1, max_length=100)
    budget: StudyBudget
    device: Device = "auto"
    evaluation: StudyEvaluation = StudyEvaluation.model_validate({})
    choose: StudyChoice = StudyChoice.model_validate({})

    def spec(self) -> StudySpec:
        return StudySpec.model_validate(self.model_dump(exclude_unset=True))


class StudyUrls(Response):
    self: str
    job: str | None = Field(description="The job that waits for it or works on it; null for none")
    report: str = Field(description="The report, when every run has ended; also .json and .csv")


class StudySummary(Response):
    """A study and how far it is."""

    name: str
    about: str = ""
    created_at: str | None = None
    data: list[str] = Field(default=[])
    presets: list[str] = Field(default=[])
    runs: dict[str, int] = Field(default={}, description="How many are finished, failed, begun, waiting")
    complete: bool = False
    published: list[dict[str, JsonValue]] = Field(default=[], description="The models that its winners became")
    problem: str | None = Field(default=None, description="Why it cannot be read")
    urls: StudyUrls

    @classmethod
    def of(cls, found: dict[str, Any], job: Job | None) -> StudySummary:
        return cls(**found, urls=_urls(found["name"], job))


class StudyDetail(StudySummary):
    """A study with its runs, what they score so far, and what it has chosen."""

    spec: dict[str, JsonValue]
    device: str
    trials: list[dict[str, JsonValue]] = Field(description="Every run: entry, label, data, seed, state")
    table: list[dict[str, JsonValue]] = Field(description="For each data set: its entries, the best first, a verdict")
    choice: dict[str, JsonValue] = Field(description="By data set, once it is made")

    @classmethod
    def of(cls, found: dict[str, Any], job: Job | None) -> StudyDetail:
        return cls(**found, urls=_urls(found["name"], job))


class StudyPage(Response):
    items: list[StudySummary]
    next_cursor: str | None = Field(default=None, description="Pass it as `cursor` for the next page; null at the end")


class StudyPublication(Request):
    """Publish what a study chose: of each data set's winner the run with the median metric."""

    data: str | None = Field(default=None, max_length=64, pattern=TEXT, description="Only the winner on this data set")
    name: str | None = Field(default=None, pattern=PLAIN, description="Left out: after its data and family")
    licence: str | None = Field(default=None, max_length=200, pattern=TEXT)


def _urls(name: str, job: Job | None) -> StudyUrls:
    base = f"/v1/studies/{name}"
    return StudyUrls(self=base, job=None if job is None else f"/v1/jobs/{job.id}", report=f"{base}/report.html")
