"""Use cases on publishing a run as a version of a model: what it will take, and its start."""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import Mapping
from typing import Any

from kartina.errors import ConflictError
from kartina.jobs.table import Job
from kartina.metrics import room
from kartina.models import package
from kartina.services.access import Caller
from kartina.services.datasets import record
from kartina.services.estimates import Range, check_room, shared
from kartina.services.evaluations import Estimate
from kartina.services.jobs import digest
from kartina.services.runs import RunInfo, Runs, usable_data


class Publications:
    """Publications of runs, which are jobs. `options` are those of `handlers.specs.PublishJob`."""

    def __init__(self, runs: Runs):
        self.runs = runs

    async def estimate(self, caller: Caller, name: str, model: str, options: Mapping[str, Any]) -> Estimate:
        """Time it here, for some seconds. Raises what `start` raises, but for a lack of room, and where the job would:
        DataError for too few references, IntegrityError for a damaged checkpoint or other data."""
        found = await to_thread(self._checked, caller.owner, name, model, options)
        given = {"run": name, "name": model, **options}
        told = await self.runs.desk.ask_alone("forecast_publication", publication=given)
        told["disk"] = await to_thread(_room, found, options)
        return publication(told, await to_thread(self.runs.work.jobs.unfinished), "the run's newest checkpoint")

    async def start(
        self, caller: Caller, name: str, model: str, options: Mapping[str, Any], key: str | None = None
    ) -> Job:
        """Make its newest checkpoint a version of `model`. Raises NotFoundError (a run, or its data), ConfigError (a
        name, runs that cannot be averaged), ConflictError without a checkpoint, StorageError (no room), QuotaError."""
        spec = {"run": name, "name": model, **options}
        request = digest("publish", **spec)
        if (job := await self.runs.work.again(caller, request, key)) is not None:
            return job
        found = await to_thread(self._checked, caller.owner, name, model, options)
        check_room(await to_thread(_room, found, options), f"publishing run {name}")
        return await self.runs.work.submit(caller, "publish", spec, key, request)

    def _checked(self, owner: str, name: str, model: str, options: Mapping[str, Any]) -> RunInfo:
        package.check_name(model)
        found, *others = (self.runs.get(owner, one) for one in (name, *options["average"]))
        for one in (found, *others):
            if not one.folder.checkpoints():
                raise ConflictError(f"Found no checkpoint in run {one.name!r} yet; let it train first.")
        found.folder.check_average([one.folder for one in others], options["with_training"])
        usable_data(owner, found.folder.config.data)
        return found


def publication(told: dict[str, Any], ahead: int, timed: str) -> Estimate:
    """The estimate of a forecast (`handlers.forecast`), with so many jobs ahead; `timed`: what made images for it."""
    sampling, looking = Range.of(told["sampling"]), Range.of(told["looking"])
    basis = f"Making images was timed with {timed}"
    if told["beside"] is not None:
        basis += ", looking at them with networks that have learnt nothing"
    if told["classifier"]:
        basis += "; the data set has no classifier yet, and some steps of its training were timed"
    if told["candidates"]:
        basis += f"; the sweep's {told['candidates']} candidates count as long as the defaults"
    basis += "." if told["beside"] is None else f". {told['beside']} come on top."
    if not told["images"]:
        basis = "All of it is published already; nothing was timed."
    return Estimate(
        images=told["images"], sampling=sampling, looking=looking,
        **shared(told, sampling, looking, ahead=ahead, basis=basis),
    )  # fmt: skip


def _room(found: RunInfo, options: Mapping[str, Any]) -> int:
    """Bytes that publishing takes, about: of the package, and of what its numbers keep for the next evaluation."""
    config = found.folder.config
    stored = f"{'model' if options['with_training'] else 'ema'}.safetensors"
    weights = max((files.get(stored, 0) for _, files in found.folder.sizes()), default=0)
    needed = package.room(weights // 2 if options["precision"] == "fp16" else weights, config.spec)
    if options["evaluate"] or options["sweep"]:
        needed += room.kept(record(config.data), "val", options["samples"], (), "domain")
    return needed
