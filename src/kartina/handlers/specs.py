"""What a job of each kind is asked: JSON in the job table, checked when it runs. Torch-free."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from kartina.config import Frozen

Device = Literal["auto", "cpu", "cuda", "mps"]


class JobSpec(Frozen):
    asked: str | None = None  # digest of the request that an idempotency key stands for (`services.jobs`)


class TrainJob(JobSpec):
    """A new run of a preset; or the rest of a `run`, of which `images` may ask for more in all."""

    preset: str | None = None
    data: str | None = None
    budget: float | None = Field(None, ge=1)  # active seconds; or
    images: int | None = Field(None, ge=1)
    settings: tuple[str, ...] = ()  # key=value over the preset
    start: str | None = None  # the model or run whose weights it starts from
    teacher: str | None = None  # the model or run that it learns from
    device: Device = "auto"
    name: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")  # after the run's number
    run: str | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> TrainJob:
        new = self.preset is not None and self.data is not None and (self.budget is None) != (self.images is None)
        asked = any(v is not None for v in (self.preset, self.data, self.budget, self.start, self.teacher, self.name))
        if not new if self.run is None else asked or self.settings:
            raise ValueError(
                "expected preset, data and one of budget and images; or a run, and of those at most images"
            )
        return self


class EvaluateJob(JobSpec):
    """The numbers of a model, of a run, or of anyone's images (a folder, an npz)."""

    model: str
    data: str | None = None  # None: those it was trained on
    split: Literal["train", "val", "test"] = "val"
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    samples: int = Field(2000, ge=1)
    metrics: tuple[str, ...] | None = None  # None: those of every card
    extractor: str = "domain"
    weights: str | None = None  # the extractor's file
    device: Device = "auto"


class InspectJob(JobSpec):
    """A look at an upload."""

    upload: str
    class_names: tuple[str, ...] = ()
    group_by: str | None = None
    unlabelled: bool = False


class ImportJob(JobSpec):
    """An upload, or what a bulk generation made, becomes a data set."""

    name: str
    upload: str | None = None
    bulk: int | None = None  # the job
    class_names: tuple[str, ...] = ()
    group_by: str | None = None
    unlabelled: bool = False
    size: int | None = None
    fit: Literal["crop", "pad", "stretch"] = "crop"
    channels: Literal["auto", "1", "3"] = "auto"
    flip: Literal["auto", "on", "off"] = "auto"
    skip_bad: bool = False
    replace: bool = False
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _one_source(self) -> ImportJob:
        if (self.upload is None) == (self.bulk is None):
            raise ValueError("expected one of upload and bulk")
        return self


class BulkJob(JobSpec):
    """Many images of one model, as the ZIP of a data set."""

    model: str  # name@version, or a folder
    hash: str  # of its weights
    labels: tuple[str, ...] | None = None  # image i has labels[i mod len(labels)]; or
    counts: dict[str, int] | None = None  # so many images of each class, class after class
    n: int = Field(ge=1, le=1_000_000)
    seed: int = Field(ge=0, lt=2**62)  # image i has seed + i
    controls: dict[str, Any] = Field({})
    format: Literal["png", "webp"] = "png"
    device: Device = "auto"


class StudyJob(JobSpec):
    """What is left of a study."""

    study: str
    report: bool = False  # write its report at the end


class StudyPublishJob(JobSpec):
    """What a study chose becomes a model."""

    study: str
    data: str | None = None  # only the winner on this data set
    name: str | None = None
    licence: str | None = None
    device: Device = "auto"


class PublishJob(JobSpec):
    """A run becomes a model."""

    run: str
    name: str
    licence: str | None = None
    about: str = ""
    evaluate: bool = True
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    samples: int = Field(2000, ge=1)
    defaults: dict[str, dict[str, Any]] | None = None
    sweep: bool = False
    with_training: bool = False
    average: tuple[str, ...] = ()  # further runs
    precision: Literal["fp16", "fp32"] = "fp16"
    device: Device = "auto"
