"""What the HTTP API says long work will take, before its start."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from kartina.api.schemas import Response
from kartina.services import estimates, evaluations, runs, studies


class Range(Response):
    """A number that is not known yet, and how far off it may be."""

    value: float = Field(description="As it is expected")
    low: float
    high: float

    @classmethod
    def of(cls, found: estimates.Range) -> Range:
        return cls(**found._asdict())


class Disk(Response):
    needed: int = Field(
        description="Bytes at most, beside what is there: of each run three checkpoints and the sample grids, but no "
        "statistics; of an evaluation what is kept for the next one; of a publication its package, too"
    )
    free: int = Field(description="Bytes")
    enough: bool = Field(description="False: it would not begin, or not come to its end")


class Estimate(Response):
    """What any job will take here, timed on this machine just now."""

    wall_seconds: Range = Field(description="From its start; high is where somebody samples all the time")
    disk: Disk
    device: str
    threads: int = Field(description="Of the CPU")
    jobs_ahead: int = Field(description="Jobs that are not at their end; it waits for them")
    basis: str = Field(description="What was measured, and how sure that is; what is not in it")

    @classmethod
    def fields(cls, found: estimates.Estimate) -> dict[str, Any]:
        needed, free = found.disk_needed, found.disk_free
        return {
            "wall_seconds": Range.of(found.wall_seconds), "device": found.device, "threads": found.threads,
            "jobs_ahead": found.ahead, "basis": found.basis,
            "disk": Disk(needed=needed, free=free, enough=free >= needed),
        }  # fmt: skip


class RunEstimate(Estimate):
    """What a run, or what is left of one, will take here, timed on this machine just now."""

    images: Range = Field(description="That are to be seen yet")
    seconds: Range = Field(description="Active")
    rate: Range = Field(description="Images a second")
    memory: int = Field(description="Bytes of the device at its peak; on a CPU those of the whole process")

    @classmethod
    def of(cls, found: runs.Estimate) -> RunEstimate:
        return cls(
            **cls.fields(found), images=Range.of(found.images), seconds=Range.of(found.seconds),
            rate=Range.of(found.rate), memory=found.memory,
        )  # fmt: skip


class StudyEstimate(Estimate):
    """What a study will take here, one run after another, timed on this machine just now."""

    runs: int
    training_seconds: Range = Field(description="Active, of all runs")
    sampling_seconds: Range = Field(description="Making the images that are measured")
    images: int = Field(description="Images that are made to be measured")

    @classmethod
    def of(cls, found: studies.Estimate) -> StudyEstimate:
        return cls(
            **cls.fields(found), runs=found.runs, training_seconds=Range.of(found.training),
            sampling_seconds=Range.of(found.sampling), images=found.sampled,
        )  # fmt: skip


class EvaluationEstimate(Estimate):
    """What an evaluation, or a publication with its numbers and pictures, will take here, timed on this machine just
    now."""

    images: int = Field(description="Images that are made")
    sampling_seconds: Range = Field(description="Making them")
    looking_seconds: Range = Field(
        description="Networks looking at them and at real images; where the data set has no classifier yet, with its "
        "training"
    )

    @classmethod
    def of(cls, found: evaluations.Estimate) -> EvaluationEstimate:
        return cls(
            **cls.fields(found), images=found.images, sampling_seconds=Range.of(found.sampling),
            looking_seconds=Range.of(found.looking),
        )  # fmt: skip
