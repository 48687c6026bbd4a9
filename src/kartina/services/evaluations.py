"""Use cases on evaluations of a model or a run: what one will take, and its start. Names only, as for runs."""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from kartina.jobs.table import Job
from kartina.metrics import room
from kartina.services import estimates
from kartina.services.access import Caller
from kartina.services.datasets import record
from kartina.services.estimates import Range, check_room, shared
from kartina.services.jobs import digest
from kartina.services.runs import NAME, Runs, usable_data


@dataclass(frozen=True)
class Asked:
    """An evaluation that is asked for: as `handlers.specs.EvaluateJob` has it."""

    model: str  # or a run of the caller's
    data: str | None  # None: what it was trained on
    split: Literal["train", "val", "test"]
    seeds: tuple[int, ...]
    samples: int
    metrics: Sequence[str] | None  # None: a card's
    extractor: str


@dataclass(frozen=True)
class Estimate(estimates.Estimate):
    """What an evaluation, or a publication, will take; times in seconds."""

    images: int  # that are made
    sampling: Range
    looking: Range  # networks at images; before, where the data set has no classifier yet, its training


class Evaluations:
    """Evaluations, which are jobs."""

    def __init__(self, runs: Runs):
        self.runs = runs

    async def estimate(self, caller: Caller, asked: Asked) -> Estimate:
        """Time it here, for some seconds. Raises what `start` raises, but for a lack of room, and where the job would:
        DataError for a model that is not the data's kind, or too few references."""
        given = await to_thread(self._checked, caller.owner, asked)
        found = await self.runs.desk.ask_alone("forecast_evaluation", evaluation=given)
        sampling, looking = Range.of(found["sampling"]), Range.of(found["looking"])
        basis = "Sampling was timed with the model, looking at images with networks that have learnt nothing"
        if found["classifier"]:
            basis += "; the data set has no classifier yet, and some steps of its training were timed"
        ahead = await to_thread(self.runs.work.jobs.unfinished)
        return Estimate(
            images=found["images"], sampling=sampling, looking=looking,
            **shared(found, sampling, looking, ahead=ahead, basis=f"{basis}. {found['beside']} come on top."),
        )  # fmt: skip

    async def start(self, caller: Caller, asked: Asked, key: str | None = None) -> Job:
        """Measure a model or a run. Raises NotFoundError, also for data that are not the caller's, StorageError (no
        room), QuotaError."""
        request = digest("evaluate", **asdict(asked))
        if (job := await self.runs.work.again(caller, request, key)) is not None:
            return job
        given = await to_thread(self._checked, caller.owner, asked)
        check_room(await to_thread(_room, given), f"an evaluation of {given['model']} on {given['data']}")
        return await self.runs.work.submit(caller, "evaluate", given, key, request)

    def _checked(self, owner: str, asked: Asked) -> dict[str, Any]:
        """What is asked, with every name looked up."""
        found = self.runs.ref(owner, asked.model)
        is_run = NAME.fullmatch(found) is not None and "@" not in found
        learnt = (
            self.runs.find(owner, found).config.data if is_run else self.runs.models.get(found).manifest.provenance.data
        )
        given = {**asdict(asked), "model": found, "data": usable_data(owner, asked.data or learnt)}
        return {**given, "seeds": list(asked.seeds), "metrics": None if asked.metrics is None else list(asked.metrics)}


def _room(given: dict[str, Any]) -> int:
    """Bytes that it keeps and downloads at most."""
    about, metrics = record(given["data"]), given["metrics"] or ()
    return room.kept(about, given["split"], given["samples"], metrics, given["extractor"])
