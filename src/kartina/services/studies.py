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
from kartina.services.jobs import Work, digest
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
        pairs = len(wanted.pairs())
        if pairs > MOST:
            raise ConfigError(
                f"Found {pairs} pairs of a preset and a data set; an estimate times at most {MOST}. Ask for fewer."
            )
        given = wanted.model_dump(mode="json", exclude_unset=True)
        found = await self.desk.ask_alone("forecast_study", study=given)
        training, sampling = Range.of(found["training"]), Range.of(found["sampling"])
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
        self._check(caller.owner, name)
        if await to_thread(self.job, caller.owner, name) is not None:
            raise ConflictError(f"Found study {name!r} at work, or waiting for it.")
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
        """Publish what it chose. Raises ConflictError while runs are to be made."""
        spec = {"study": name, "data": data, "name": model, "licence": licence}
        request = digest("publish-study", **spec)
        if (job := await self.work.again(caller, request, key)) is not None:
            return job
        self._check(caller.owner, name)
        if model is not None:
            package.check_name(model)
        found = (await self.desk.ask("studies", names=[name]))[0]
        if not found.get("complete"):
            raise ConflictError(f"Found runs of study {name!r} that have not ended; it has chosen nothing yet.")
        return await self.work.submit(caller, "publish-study", spec, key, request)

    def _check(self, owner: str, name: str) -> None:
        if not self._mine(owner, name):
            raise NotFoundError(f"Found no study {name!r}.")

    def _mine(self, owner: str, name: str) -> bool:
        path = home() / "studies" / name
        return bool(re.fullmatch(NAME, name)) and (path / "plan.json").is_file() and owners.sees(path, owner)


def _finite(value: Any) -> Any:
    """JSON has no number that is not finite: None instead."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
