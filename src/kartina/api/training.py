"""What the HTTP API takes and gives about training: presets, runs, evaluations, publishing."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, JsonValue, model_validator

from kartina.api.schemas import TEXT, Request, Response
from kartina.services import evaluations
from kartina.services.runs import Asked, RunInfo
from kartina.study.spec import Metric

PLAIN = r"^[a-z0-9][a-z0-9._-]{0,63}$"  # what a run, a study or a model may be called
Ref = Annotated[str, Field(min_length=1, max_length=250, pattern=TEXT)]
Device = Literal["auto", "cpu", "cuda", "mps"]
MAX_IMAGES = 10**12
MAX_SECONDS = 10**8


# -- presets --------------------------------------------------------------------------------------------------------


class PresetSummary(Response):
    """A tested combination of a family and its settings."""

    name: str
    family: str
    about: str
    size: int = Field(description="It is trained on images of size x size")
    pairs: bool = Field(description="It needs data whose images have source images")
    parameters: int = Field(description="Of everything that is trained, for 3 channels and 10 classes")
    tasks: list[str] = Field(description="What its models can do")

    @classmethod
    def of(cls, found: dict[str, Any]) -> PresetSummary:
        return cls(**{key: found[key] for key in cls.model_fields})


class PresetPage(Response):
    items: list[PresetSummary]
    families: dict[str, str] = Field(description="Every family, in a line")


class PresetDetail(PresetSummary):
    """A preset with its settings: any of them can be given to a run."""

    settings: dict[str, JsonValue] = Field(description="The family's settings, as the preset has them")
    training: dict[str, JsonValue] = Field(description="How it is trained, as the preset has it")
    settings_schema: dict[str, JsonValue] = Field(description="JSON Schema of the family's settings")
    training_schema: dict[str, JsonValue] = Field(description="JSON Schema of how any family is trained")


# -- runs -----------------------------------------------------------------------------------------------------------


class RunRequest(Request):
    """Train a preset on a data set, for a time or for so many images."""

    preset: str = Field(min_length=1, max_length=100, pattern=TEXT)
    data: str = Field(min_length=1, max_length=64, pattern=TEXT, description="A data set of yours, or digits")
    budget: float | None = Field(
        default=None, ge=1, le=MAX_SECONDS, description="Active seconds; they become images after a timed warm-up"
    )
    images: int | None = Field(default=None, ge=1, le=MAX_IMAGES, description="Images to be seen")
    settings: dict[str, JsonValue] = Field(
        default={}, max_length=100, description="Over the preset's; see its settings and training"
    )
    start: Ref | None = Field(
        default=None, description="A model, or a run of yours, of the same family to take the first weights from"
    )
    teacher: Ref | None = Field(
        default=None, description="A model, or a run of yours, to learn from: for presets with `taught`"
    )
    name: str | None = Field(default=None, pattern=PLAIN, description="Comes after the run's number")
    device: Device = "auto"

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.budget is None) == (self.images is None):
            raise ValueError("expected one of budget and images, and only one")
        return self

    def asked(self) -> Asked:
        return Asked(
            preset=self.preset, data=self.data, budget=self.budget, images=self.images, settings=dict(self.settings),
            start=self.start, teacher=self.teacher, name=self.name, device=self.device,
        )  # fmt: skip


class Extension(Request):
    """How much longer a run is to be."""

    images: int | None = Field(default=None, ge=1, le=MAX_IMAGES, description="So many images more")
    seconds: float | None = Field(
        default=None, ge=1, le=MAX_SECONDS, description="As many images as it has seen in that time so far"
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.images is None) == (self.seconds is None):
            raise ValueError("expected one of images and seconds, and only one")
        return self


class Checkpoint(Response):
    images: int
    size: int = Field(description="Bytes")


class SampleGrid(Response):
    images: int = Field(description="Images seen when it was drawn")
    url: str


class RunUrls(Response):
    self: str
    stats: str
    job: str | None = Field(description="The job that waits for it or trains it; null for none")
    events: str | None


class RunSummary(Response):
    """A run: what is trained on what, and how far it is."""

    name: str
    preset: str
    family: str
    data: str
    status: str = Field(description="created, running, paused, interrupted, finished or failed")
    images: int = Field(description="Seen so far")
    total: int = Field(description="To be seen")
    seconds: float = Field(description="Active so far")
    budget: float | None = Field(description="Active seconds that were asked for, where it was a time")
    warnings: list[str]
    error: str | None
    urls: RunUrls

    @classmethod
    def fields(cls, found: RunInfo) -> dict[str, Any]:
        base, config, status = f"/v1/runs/{found.name}", found.folder.config, found.status
        job = None if found.job is None else f"/v1/jobs/{found.job.id}"
        events = None if job is None else f"{job}/events"
        return {
            "name": found.name, "preset": config.preset, "family": config.family, "data": config.data,
            "status": status["status"], "images": status["images"], "total": config.images,
            "seconds": status["seconds"], "budget": config.budget, "warnings": list(status["warnings"]),
            "error": found.error, "urls": RunUrls(self=base, stats=f"{base}/stats", job=job, events=events),
        }  # fmt: skip

    @classmethod
    def of(cls, found: RunInfo) -> RunSummary:
        return cls(**cls.fields(found))


class RunDetail(RunSummary):
    """A run with everything that decides its weights, and what can be looked at."""

    config: dict[str, JsonValue] = Field(description="Everything that decides its weights")
    checkpoints: list[Checkpoint]
    grids: list[SampleGrid] = Field(description="Samples of fixed seeds over time, oldest first")

    @classmethod
    def of(cls, found: RunInfo) -> RunDetail:
        return cls(
            **cls.fields(found),
            config=found.folder.config.model_dump(mode="json"),
            checkpoints=[Checkpoint(images=images, size=size) for images, size in found.checkpoints()],
            grids=[SampleGrid(images=n, url=f"/v1/runs/{found.name}/grids/{n}.png") for n in found.grids()],
        )


class RunPage(Response):
    items: list[RunSummary]
    next_cursor: str | None = Field(default=None, description="Pass it as `cursor` for the next page; null at the end")


class StatsPage(Response):
    items: list[dict[str, float | None]] = Field(description="Each with images, step, and what was measured then")
    next_after: int | None = Field(description="Pass it as `after` for what follows; null at the end")


# -- evaluate, publish ----------------------------------------------------------------------------------------------


class EvaluationRequest(Request):
    """Measure a model or a run against real images. Its result has the shape of a model's card: metrics, per_class."""

    model: Ref | None = Field(default=None, description="name, name@version or the start of a hash")
    run: Ref | None = Field(default=None, description="A run of yours")
    data: str | None = Field(
        default=None, min_length=1, max_length=64, pattern=TEXT, description="Left out: what it was trained on"
    )
    split: Literal["train", "val", "test"] = Field(default="val", description="test is for the last report only")
    seeds: int = Field(default=3, ge=1, le=100, description="Generation seeds; two or more give intervals")
    samples: int = Field(default=2000, ge=1, le=10_000, description="Images a seed, at most the split's")
    metrics: list[Metric] | None = Field(default=None, min_length=1, max_length=20, description="Left out: a card's")
    extractor: Literal["domain", "inception"] = Field(default="domain", description="The space of distances")

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.model is None) == (self.run is None):
            raise ValueError("expected one of model and run, and only one")
        return self

    def asked(self) -> evaluations.Asked:
        return evaluations.Asked(
            model=self.model or self.run or "", data=self.data, split=self.split, seeds=tuple(range(self.seeds)),
            samples=self.samples, metrics=self.metrics, extractor=self.extractor,
        )  # fmt: skip


class PublishRequest(Request):
    """Make a run's newest checkpoint a version of a model."""

    name: str = Field(pattern=PLAIN, description="The model's")
    licence: str | None = Field(default=None, max_length=200, pattern=TEXT)
    about: str = Field(default="", max_length=1000, pattern=TEXT, description="A line for its card")
    evaluate: bool = Field(default=True, description="Measure it on val for its card")
    seeds: int = Field(default=3, ge=1, le=100, description="Generation seeds of the numbers")
    samples: int = Field(default=2000, ge=1, le=10_000)
    sweep: bool = Field(default=False, description="Choose its default controls by numbers on val")
    with_training: bool = Field(default=False, description="Keep what only trains, for runs that start from it")
    average: list[Ref] = Field(
        default=[],
        max_length=100,
        description="Runs of yours that went on from the same start: what is published is the mean of its weights and "
        "theirs",
    )
    precision: Literal["fp16", "fp32"] = Field(default="fp16", description="Of the stored weights")

    def options(self) -> dict[str, Any]:
        return {**self.model_dump(exclude={"name", "seeds"}), "seeds": list(range(self.seeds))}
