"""Use cases on studies: begin, list, show, report, publish the winner. The folder says whose a study is.

What is known of a study is read by the desk's process (`kartina.handlers.desk`), for its spec names presets; its report
is made by its job, at the end.
"""

from __future__ import annotations

import math
import re
import shutil
from asyncio import to_thread
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kartina import owners
from kartina.config import home
from kartina.errors import ConfigError, ConflictError, KartinaError, NotFoundError
from kartina.jobs.table import Job
from kartina.models import package
from kartina.services import estimates
from kartina.services.access import Caller
from kartina.services.desk import Desk
from kartina.services.estimates import Range, check_room, shared
from kartina.services.evaluations import Estimate as EvaluationEstimate
from kartina.services.jobs import Work, digest
from kartina.services.publications import publication
from kartina.services.runs import usable_data
from kartina.study.spec import NAME, StudySpec

FILES: dict[str, str] = {"html": "index.html", "json": "report.json", "csv": "report.csv"}
Format = Literal["html", "json", "csv"]
MOST = 40  # pairs that an estimate times, some seconds each


@dataclass(frozen=True)
class Estimate(estimates.Estimate):
    """What a study will take; times in seconds."""

    runs: int
    training: Range
    sampling: Range
    sampled: int  # images that are made to be measured


class Studies:
    """The studies in KARTINA_HOME, and the jobs that make them."""

    def __init__(self, desk: Desk, work: Work):
        self.desk = desk
        self.work = work

    async def estimate(self, caller: Caller, wanted: StudySpec) -> Estimate:
        """Time it here, some seconds for each preset and data set. Raises NotFoundError, ConfigError; ConfigError for
        more pairs than are timed."""
        for name in wanted.data:
            await to_thread(usable_data, caller.owner, name)
        _check_pairs(len(wanted.pairs()))
        given = wanted.model_dump(mode="json", exclude_unset=True)
        return await self._told(await self.desk.ask_alone("forecast_study", study=given))

    async def estimate_rest(self, caller: Caller, name: str) -> Estimate:
        """The same of what is left of a study, and would be made by `resume`. Raises NotFoundError, ConflictError where
        a job has it, IntegrityError."""
        await self._check_idle(caller.owner, name)
        _check_pairs((await self.desk.ask("study_room", study=name))["pairs"])
        return await self._told(await self.desk.ask_alone("forecast_rest", study=name))

    async def _told(self, found: dict[str, Any]) -> Estimate:
        """The estimate of a forecast."""
        training, sampling, pairs = Range.of(found["training"]), Range.of(found["sampling"]), found["pairs"]
        basis = f"{pairs} {'pair' if pairs == 1 else 'pairs'} of a preset and a data set; sampling was timed for each, "
        basis += "training where it has a budget in images. Measuring what was sampled comes on top."
        ahead = await to_thread(self.work.jobs.unfinished)
        return Estimate(
            runs=found["runs"], training=training, sampling=sampling, sampled=found["sampled"],
            **shared(found, training, sampling, ahead=ahead, basis=basis),
        )  # fmt: skip

    async def begin(self, caller: Caller, wanted: StudySpec, key: str | None = None) -> Job:
        """Check a study, fix its plan, queue it. Raises NotFoundError, ConfigError, ConflictError for a name that is
        taken, StorageError (no room), QuotaError; then nothing is left of it."""
        given = wanted.model_dump(mode="json", exclude_unset=True)
        spec, request = {"study": wanted.name, "report": True}, digest("study", **given)
        if (job := await self.work.again(caller, request, key)) is not None:
            return job
        for name in wanted.data:
            await to_thread(usable_data, caller.owner, name)
        begun = await self.desk.ask("begin_study", study=given, owner=caller.owner)
        try:
            check_room(begun["disk"], f"the study {wanted.name}")
            return await self.work.submit(caller, "study", spec, key, request)
        except KartinaError:
            await to_thread(shutil.rmtree, home() / "studies" / wanted.name)
            raise

    async def list(self, owner: str, limit: int, cursor: str | None = None) -> tuple[list[dict[str, Any]], str | None]:
        """A page of the owner's studies by name, and the cursor of the next one."""
        root = home() / "studies"
        mine = sorted(p.parent.name for p in root.glob("*/plan.json") if self._mine(owner, p.parent.name))
        mine = [name for name in mine if cursor is None or name > cursor]
        shown = mine[:limit]
        found = await self.desk.ask("studies", names=shown) if shown else []
        return found, shown[-1] if len(mine) > limit else None

    async def get(self, owner: str, name: str) -> dict[str, Any]:
        """As `handlers.desk.study` tells. Raises NotFoundError, IntegrityError."""
        self._check(owner, name)
        found: dict[str, Any] = _finite(await self.desk.ask("study", name=name))
        return found

    def job(self, owner: str, name: str) -> Job | None:
        """The job that waits or works on it."""
        return next((job for job in self.work.jobs.active(owner, "study") if job.spec.get("study") == name), None)

    def report(self, owner: str, name: str, format: Format) -> Path:
        """A file of its report. Raises NotFoundError, ConflictError before there is one."""
        self._check(owner, name)
        path = home() / "studies" / name / "report" / FILES[format]
        if not path.is_file():
            raise ConflictError(f"Found no report of study {name!r} yet; it is written when every run has ended.")
        return path

    async def cancel(self, owner: str, name: str) -> Job:
        """Stop it when the run at work has saved what it has; asked again, the same job. Raises ConflictError where
        nothing works on it."""
        self._check(owner, name)
        job = await to_thread(self.work.jobs.latest, owner, "study", lambda job: job.spec.get("study") == name)
        if job is None or (job.finished and job.status != "canceled"):
            raise ConflictError(f"Found no job of study {name!r}; there is nothing to cancel.")
        return await to_thread(self.work.jobs.cancel, job.id)

    async def resume(self, caller: Caller, name: str, key: str | None = None) -> Job:
        """Make what is left of it. Raises ConflictError where a job has it, StorageError (no room), QuotaError."""
        spec, request = {"study": name, "report": True}, digest("resume-study", study=name)
        if (job := await self.work.again(caller, request, key)) is not None:
            return job
        await self._check_idle(caller.owner, name)
        check_room((await self.desk.ask("study_room", study=name))["disk"], f"the rest of study {name}")
        return await self.work.submit(caller, "study", spec, key, request)

    async def publish(
        self,
        caller: Caller,
        name: str,
        data: str | None,
        model: str | None,
        licence: str | None,
        key: str | None = None,
    ) -> Job:
        """Publish what it chose. Raises ConflictError while runs are to be made, ConfigError where nothing qualifies,
        NotFoundError, StorageError (no room), QuotaError."""
        spec = {"study": name, "data": data, "name": model, "licence": licence}
        request = digest("publish-study", **spec)
        if (job := await self.work.again(caller, request, key)) is not None:
            return job
        await self._check_chosen(caller.owner, name, model)
        needed = await self.desk.ask("winners_room", study=name, data=data, name=model)
        check_room(needed["disk"], f"publishing what study {name} has chosen")
        return await self.work.submit(caller, "publish-study", spec, key, request)

    async def estimate_publication(
        self, caller: Caller, name: str, data: str | None, model: str | None
    ) -> EvaluationEstimate:
        """What `publish` will take: packages, their numbers and pictures, all of them together; nothing for what is
        published already. Timed here. Raises what `publish` raises, but for a lack of room."""
        await self._check_chosen(caller.owner, name, model)
        given = {"study": name, "data": data, "name": model}
        needed = await self.desk.ask("winners_room", **given)
        told = {**await self.desk.ask_alone("forecast_winners", **given), **needed}
        return publication(told, await to_thread(self.work.jobs.unfinished), "the chosen runs' selected checkpoints")

    async def _check_idle(self, owner: str, name: str) -> None:
        """Raise NotFoundError, and ConflictError where a job has the study."""
        self._check(owner, name)
        if await to_thread(self.job, owner, name) is not None:
            raise ConflictError(f"Found study {name!r} at work, or waiting for it.")

    async def _check_chosen(self, owner: str, name: str, model: str | None) -> None:
        """Raise NotFoundError, ConfigError for a name that no model has, ConflictError while runs are to be made."""
        self._check(owner, name)
        if model is not None:
            package.check_name(model)
        found = (await self.desk.ask("studies", names=[name]))[0]
        if not found.get("complete"):
            raise ConflictError(f"Found runs of study {name!r} that have not ended; it has chosen nothing yet.")

    def _check(self, owner: str, name: str) -> None:
        if not self._mine(owner, name):
            raise NotFoundError(f"Found no study {name!r}.")

    def _mine(self, owner: str, name: str) -> bool:
        path = home() / "studies" / name
        return bool(re.fullmatch(NAME, name)) and (path / "plan.json").is_file() and owners.sees(path, owner)


def _check_pairs(pairs: int) -> None:
    if pairs > MOST:
        raise ConfigError(
            f"Found {pairs} pairs of a preset and a data set; an estimate times at most {MOST}. Ask for fewer."
        )


def _finite(value: Any) -> Any:
    """JSON has no number that is not finite: None instead."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
