"""Use cases on training runs: what can be trained, what it will take, start, look, pause, resume, extend.

A run is a folder, and its folder says whose it is; a training is a job of its caller. Another caller's run is not
found. Names only: a run, a data set or a model is never named by a path here.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import shutil
from asyncio import to_thread
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kartina import owners
from kartina.config import home
from kartina.data import imageset
from kartina.errors import ConfigError, ConflictError, IntegrityError, NotFoundError, disk_errors
from kartina.jobs.table import Job
from kartina.services import estimates
from kartina.services.access import Caller
from kartina.services.desk import Desk
from kartina.services.estimates import Range, check_room, shared
from kartina.services.jobs import Work, digest
from kartina.services.models import Models
from kartina.training.folder import KEPT, RunFolder, names, picture, retire

NAME = re.compile(r"[0-9]{1,9}-[A-Za-z0-9][A-Za-z0-9._-]{0,199}")  # what a run is called


@dataclass(frozen=True)
class Asked:
    """A run that is asked for: as `handlers.specs.TrainJob` has it, but for its settings."""

    preset: str
    data: str
    budget: float | None = None  # active seconds; or
    images: int | None = None
    settings: Mapping[str, Any] | None = None
    start: str | None = None  # a model, or a run of the caller's
    teacher: str | None = None  # likewise
    name: str | None = None
    device: str = "auto"


@dataclass(frozen=True)
class Estimate(estimates.Estimate):
    """What a run, or what is left of one, will take here."""

    images: Range
    seconds: Range  # active
    rate: Range  # images a second
    memory: int  # bytes, at its peak


@dataclass(frozen=True)
class RunInfo:
    """A run as it is now."""

    folder: RunFolder
    status: Mapping[str, Any]
    job: Job | None  # that waits or works on it

    @property
    def name(self) -> str:
        return self.folder.id

    @property
    def error(self) -> str | None:
        found = self.status.get("error")
        return None if found is None else str(found)

    def checkpoints(self) -> list[tuple[int, int]]:
        """(images seen, bytes), oldest first."""
        return [(images, sum(files.values())) for images, files in self.folder.sizes()]

    def room(self, total: int) -> int | None:
        """Bytes that it takes at most to train it to `total` images, beside what is there: checkpoints as large as
        those, and sample grids. None before the first checkpoint: then only its networks tell."""
        sizes = [size for _, size in self.checkpoints()]
        _, grids = self.folder.left(total)
        return max(1, KEPT - len(sizes)) * max(sizes) + grids * picture(self.folder.config.spec) if sizes else None

    def grids(self) -> list[int]:
        """Images seen when each sample grid was drawn."""
        return sorted(int(p.stem) for p in (self.folder.path / "grids").glob("*.png") if p.stem.isdigit())


def usable_data(owner: str, name: str) -> str:
    """The name of a data set that this owner may use: one of its own, or the embedded digits. Raises NotFoundError."""
    known = [one for one in imageset.names() if one == "digits" or owners.sees(imageset.folder(one), owner)]
    if not imageset.NAME.fullmatch(name) or name not in known:
        raise NotFoundError.named("data set", name, known)
    return name


class Runs:
    """The runs in KARTINA_HOME, and the jobs that make them."""

    def __init__(self, desk: Desk, work: Work, models: Models):
        self.desk = desk
        self.work = work
        self.models = models
        self._presets: dict[str, Any] = {}
        self._reading = asyncio.Lock()

    # -- before a start ----------------------------------------------------------------------------------------------

    async def presets(self) -> dict[str, Any]:
        """What can be trained, as `handlers.desk.presets` tells; asked once, it does not change."""
        async with self._reading:
            if not self._presets:
                self._presets = await self.desk.ask("presets")
            return self._presets

    async def preset(self, name: str) -> dict[str, Any]:
        """One preset. Raises NotFoundError."""
        known = {one["name"]: one for one in (await self.presets())["presets"]}
        if name not in known:
            raise NotFoundError.named("preset", name, known)
        found: dict[str, Any] = known[name]
        return found

    async def estimate(self, caller: Caller, asked: Asked) -> Estimate:
        """Time it here, for some seconds. Raises what `start` raises, but for a lack of room."""
        given = await to_thread(self._checked, caller.owner, asked)
        return await self._estimate(await self.desk.ask_alone("time_run", run=given))

    async def _estimate(self, found: Mapping[str, Any], more: str = "") -> Estimate:
        images, seconds, rate = (Range.of(found[key]) for key in ("images", "seconds", "rate"))
        spread = (rate.high - rate.low) / rate.value
        basis = (
            f"{found['steps']} steps timed here in {found['measured']:.1f} s; single stretches differ by {spread:.0%}."
        )
        if found["processor"] is not None and found["processor"] < 0.8:
            basis += (
                f" It had {found['processor']:.0%} of its {found['threads']} threads' time: something else runs here, "
                "and without that it is faster."
            )
        ahead = await to_thread(self.work.jobs.unfinished)
        return Estimate(
            images=images, seconds=seconds, rate=rate, memory=found["memory"],
            **shared(found, seconds, ahead=ahead, basis=basis + more),
        )  # fmt: skip

    async def start(self, caller: Caller, asked: Asked, key: str | None = None) -> Job:
        """Accept a training. Raises NotFoundError, ConfigError, DataError, StorageError (no room), QuotaError."""
        request = digest("train", **asdict(asked))
        if (job := await self.work.again(caller, request, key)) is not None:
            return job
        given = await to_thread(self._checked, caller.owner, asked)
        found = await self.desk.ask("plan", run=given)
        check_room(found["disk"], f"a run of {asked.preset} on {asked.data}")
        settings = [f"{name}={json.dumps(value)}" for name, value in (asked.settings or {}).items()]
        return await self.work.submit(caller, "train", {**given, "settings": settings}, key, request)

    def _checked(self, owner: str, asked: Asked) -> dict[str, Any]:
        """What is asked, with every name looked up."""
        start, teacher = (None if ref is None else self.ref(owner, ref) for ref in (asked.start, asked.teacher))
        return {**asdict(asked), "data": usable_data(owner, asked.data), "start": start, "teacher": teacher}

    def ref(self, owner: str, name: str) -> str:
        """A model as name@version, or a run of the owner's: what a job is told. Raises NotFoundError."""
        if NAME.fullmatch(name) and owners.sees(home() / "runs" / name, owner) and name in names():
            return name
        try:
            return self.models.get(name).ref
        except NotFoundError:
            raise NotFoundError(f"Found no model and no run called {name!r}.") from None

    # -- look --------------------------------------------------------------------------------------------------------

    def find(self, owner: str, name: str) -> RunFolder:
        """The folder of a run of this owner's. Raises NotFoundError, IntegrityError."""
        path = home() / "runs" / name
        if not NAME.fullmatch(name) or not (path / "config.json").is_file() or not owners.sees(path, owner):
            raise NotFoundError(f"Found no run {name!r}.")
        return RunFolder.open(path)

    def get(self, owner: str, name: str) -> RunInfo:
        """Raises NotFoundError, IntegrityError."""
        found = self.find(owner, name)
        return RunInfo(found, found.status(), self._job(owner, name))

    def list(self, owner: str, limit: int, cursor: str | None = None) -> tuple[list[RunInfo], str | None]:
        """A page of the owner's runs, newest first, and the cursor of the next one. Unreadable ones are left out."""
        mine = [name for name in reversed(names()) if owners.sees(home() / "runs" / name, owner)]
        if cursor is not None:
            mine = [name for name in mine if _number(name) < _number(cursor)]
        active = self.work.jobs.active(owner, "train")
        found: list[RunInfo] = []
        for name in mine:
            if len(found) == limit:
                return found, found[-1].name
            try:
                folder = RunFolder.open(home() / "runs" / name)
            except IntegrityError:
                continue
            found.append(RunInfo(folder, folder.status(), _of_run(active, name)))
        return found, None

    def stats(self, owner: str, name: str, after: int, limit: int) -> Sequence[dict[str, Any]]:
        """Lines of statistics beyond `after` images, oldest first; what is no number any more is None."""
        return [_finite(line) for line in self.find(owner, name).stats() if line["images"] > after][:limit]

    def grid(self, owner: str, name: str, images: int) -> Path:
        """The sample grid (PNG) that was drawn after so many images. Raises NotFoundError."""
        path = self.find(owner, name).path / "grids" / f"{images:012d}.png"
        if not path.is_file():
            raise NotFoundError(f"Found no sample grid at {images} images in run {name!r}.")
        return path

    def _job(self, owner: str, name: str) -> Job | None:
        return _of_run(self.work.jobs.active(owner, "train"), name)

    # -- change ------------------------------------------------------------------------------------------------------

    async def pause(self, owner: str, name: str) -> Job:
        """Save a checkpoint and stop; asked again, the same job. Raises ConflictError where no job of the caller's
        trains it."""
        await to_thread(self.find, owner, name)
        job = await to_thread(self.work.jobs.latest, owner, "train", lambda job: _is_of(job, name))
        if job is None or (job.finished and job.status != "canceled"):
            raise ConflictError(f"Found no job that trains run {name!r}; there is nothing to pause.")
        return await to_thread(self.work.jobs.cancel, job.id)

    async def resume(self, caller: Caller, name: str, key: str | None = None) -> Job:
        """Go on from its newest checkpoint. Raises ConflictError where it is at its end, or a job has it, StorageError
        (no room), QuotaError."""
        request = digest("resume", run=name)
        if (job := await self.work.again(caller, request, key)) is not None:
            return job
        found, total = await to_thread(self._resumed, caller.owner, name)
        await self._check_room(found, total)
        return await self.work.submit(caller, "train", {"run": name}, key, request)

    async def estimate_resume(self, caller: Caller, name: str) -> Estimate:
        """Time what is left of it here, for some seconds. Raises what `resume` raises, but for a lack of room."""
        return await self._estimate_rest(*await to_thread(self._resumed, caller.owner, name))

    async def extend(
        self, caller: Caller, name: str, images: int | None = None, seconds: float | None = None, key: str | None = None
    ) -> Job:
        """Train it for so many images more, or for as many as it has seen in `seconds` so far, beside what is left.

        Raises ConflictError while a job has it, or where its speed is not known yet, StorageError (no room),
        QuotaError.
        """
        request = digest("extend", run=name, images=images, seconds=seconds)
        if (job := await self.work.again(caller, request, key)) is not None:
            return job
        found, total = await to_thread(self._extended, caller.owner, name, images, seconds)
        await self._check_room(found, total)
        return await self.work.submit(caller, "train", {"run": name, "images": total}, key, request)

    async def estimate_extension(
        self, caller: Caller, name: str, images: int | None = None, seconds: float | None = None
    ) -> Estimate:
        """Time what would be left of it here, for some seconds. Raises what `extend` raises, but for a lack of room."""
        return await self._estimate_rest(*await to_thread(self._extended, caller.owner, name, images, seconds))

    async def _estimate_rest(self, found: RunInfo, total: int) -> Estimate:
        timed = await self.desk.ask_alone("time_rest", run=found.name, images=total)
        needed = await to_thread(found.room, total)
        seen, seconds = found.status["images"], found.status["seconds"]
        so_far = f" So far it has seen {seen / seconds:,.0f} images a second." if seen and seconds else ""
        return await self._estimate({**timed, "disk": timed["disk"] if needed is None else needed}, so_far)

    async def _check_room(self, found: RunInfo, total: int) -> None:
        needed = await to_thread(found.room, total)
        if needed is None:
            needed = (await self.desk.ask("room", run=found.name, images=total))["disk"]
        check_room(needed, f"the rest of run {found.name}")

    def _resumed(self, owner: str, name: str) -> tuple[RunInfo, int]:
        """A run that can go on, and the images that it will have seen in all."""
        found = self._idle(owner, name)
        if found.status["status"] == "finished":
            raise ConflictError(f"Found run {name!r} finished; extend it to train it further.")
        return found, found.folder.config.images

    def _extended(self, owner: str, name: str, images: int | None, seconds: float | None) -> tuple[RunInfo, int]:
        found = self._idle(owner, name)
        if seconds is not None:
            images = found.folder.images_in(seconds)
        if images is None:
            raise ConfigError("Found neither images nor a time to extend the run by; expected one of them.")
        return found, found.folder.config.images + images

    def _idle(self, owner: str, name: str) -> RunInfo:
        found = self.get(owner, name)
        if found.job is not None or found.folder.locked():
            raise ConflictError(f"Found run {name!r} being trained, or waiting for it; pause it first.")
        return found

    def delete(self, owner: str, name: str) -> None:
        """Remove its folder; its number is not given again. What was published of it stays. Raises ConflictError while
        a job has it, or is going to read it."""
        found = self._idle(owner, name).folder
        for job in self.work.jobs.active(owner):
            read = [job.spec.get(key) for key in ("run", "model", "start", "teacher")]
            if name in (*read, *job.spec.get("average", ())):
                raise ConflictError(f"Found run {name!r} in use by job {job.id}; wait for it, or cancel it.")
        with disk_errors("delete the run"), found.lock():
            aside = found.path.with_name(f".deleted-{name}")
            retire(found.path)
            found.path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _of_run(jobs: Sequence[Job], name: str) -> Job | None:
    return next((job for job in jobs if _is_of(job, name)), None)


def _is_of(job: Job, name: str) -> bool:
    return name in (job.saved.get("run"), job.spec.get("run"))


def _number(name: str) -> int:
    digits = name.partition("-")[0]
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else 0


def _finite(line: Mapping[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
