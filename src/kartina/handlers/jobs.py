"""What a job of each kind does: the same as the verb, killed and taken up again at any point.

Training goes on in its run's folder from its newest checkpoint; the run is written down before its first step, and its
folder names the job, so that a kill between the two does not begin a second run. A publication that was killed after it
was made is found again by what it was made of. An evaluation starts anew: it leaves nothing behind.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from kartina import owners
from kartina.config import read
from kartina.data import digits, imageset
from kartina.errors import ConflictError, IntegrityError, NotFoundError
from kartina.handlers.evaluate import evaluate_ref
from kartina.handlers.publish import made_of
from kartina.handlers.publish import publish as make_package
from kartina.handlers.specs import EvaluateJob, PublishJob, StudyJob, StudyPublishJob, TrainJob
from kartina.handlers.study import publish as publish_winners
from kartina.handlers.study import run as run_study
from kartina.handlers.study import write_report
from kartina.jobs.context import Context, Interrupted
from kartina.jobs.table import LEASE
from kartina.metrics.evaluate import DEFAULT
from kartina.models import package
from kartina.serving.device import Gate
from kartina.study import trials
from kartina.training import loop, transfer
from kartina.training.folder import names
from kartina.training.run import Run

MARK = "job.json"  # in a run's folder: the job that made it


# -- train -------------------------------------------------------------------------------------------------------------


def train(job: Context, spec: dict[str, Any]) -> dict[str, Any]:
    """Train a preset, or go on with a run; yields the device to sampling. Returns {"run", "images", "seconds", ...}."""
    run = _run_of(job, read(TrainJob, spec, "a training job"))
    told: set[str] = set()

    def watch(p: loop.Progress) -> None:
        text = f"{run.id}: {p.images:,} of {p.total:,} images, {p.rate:.0f} a second"
        job.progress(p.images / p.total, text, step=p.images, steps=p.total)
        for warning in p.warnings:
            if (kind := warning.split("(")[0]) not in told:  # the figures in it change; say it once
                told.add(kind)
                job.log(warning, "warning")

    gate = Gate(run.config.device, job.cancelled)
    if _train(run, watch, job, gate) == "paused":
        raise Interrupted
    status = run.status()
    return {"run": run.id, **{k: status[k] for k in ("status", "images", "seconds", "warnings")}}


def _train(run: Run, watch: loop.Watch, job: Context, gate: Gate) -> str:
    """`loop.train`, after some patience with an earlier attempt's process that has yet to end."""
    patience = time.monotonic() + 2 * LEASE
    while True:
        try:
            return loop.train(run, watch, job.cancelled, gate)
        except ConflictError:
            if job.cancelled() or time.monotonic() > patience:
                raise
            time.sleep(0.2)


def _run_of(job: Context, spec: TrainJob) -> Run:
    """The job's run: the one that it has, else one that it made before it was killed, else a new one."""
    ref = job.saved.get("run") or spec.run
    run = Run.open(ref) if ref is not None else _made_by(job) or _new_run(job, spec)
    if spec.run is not None and spec.images is not None:
        run = run.extend(spec.images)
    if job.saved.get("run") != run.id:
        job.save({"run": run.id})
        job.log(f"run {run.id}")
    return run


def _new_run(job: Context, spec: TrainJob) -> Run:
    assert spec.preset is not None and spec.data is not None
    _check_data(job, spec.data)
    source = transfer.source(spec.start) if spec.start is not None else None
    teacher = transfer.source(spec.teacher) if spec.teacher is not None else None
    if spec.budget is not None:
        job.progress(0.0, "timing this machine")
    config = loop.plan(
        spec.preset,
        spec.data,
        images=spec.images,
        budget=spec.budget,
        settings=spec.settings,
        device=spec.device,
        start=source,
        teacher=teacher,
    )
    if teacher is not None and (told := transfer.strange(teacher, config)):
        job.log(told, "warning")
    files = {MARK: json.dumps(_mark(job)).encode(), owners.FILE: job.caller.encode()}
    return Run.create(config, {**files, **transfer.files(config, source, teacher)}, spec.name)


def _check_data(job: Context, name: str) -> None:
    """A data set that was deleted since the job was asked for, and made by somebody else, is not the caller's. The
    command line sees all, and asks as the local session. Raises NotFoundError."""
    folder = imageset.folder(name)
    if job.caller != owners.LOCAL and name != digits.NAME and folder.exists() and not owners.sees(folder, job.caller):
        raise NotFoundError(f"Found no data set {name!r}.")


def _made_by(job: Context) -> Run | None:
    """The run that an attempt made without having been able to say so."""
    if job.attempt == 1:
        return None
    for name in reversed(names()):
        with suppress(IntegrityError, OSError, ValueError):
            run = Run.open(name)
            if json.loads((run.path / MARK).read_text()) == _mark(job):
                return run
    return None


def _mark(job: Context) -> dict[str, Any]:
    return {"job": job.id, "created_at": job.created_at}


# -- evaluate ----------------------------------------------------------------------------------------------------------


def evaluate(job: Context, spec: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a model or a run, as `handlers.evaluate.evaluate_ref` returns them."""
    given = read(EvaluateJob, spec, "an evaluation job")
    if given.data is not None:
        _check_data(job, given.data)
    device = loop.pick_device(given.device)
    return evaluate_ref(
        given.model, given.data, given.split, given.seeds, given.samples, device, progress=_report(job),
        metrics=DEFAULT if given.metrics is None else given.metrics, extractor=given.extractor, weights=given.weights,
    )  # fmt: skip


def _report(job: Context) -> Callable[[float, str], None]:
    """Progress for work that looks at nothing else: it is also where a cancel gets through."""

    def report(share: float, text: str) -> None:
        job.check()
        job.progress(share, text)

    return report


# -- study -------------------------------------------------------------------------------------------------------------


def study(job: Context, spec: dict[str, Any]) -> dict[str, Any]:
    """Run what is left of a study: its folder knows. Returns {"study", "runs": {state: count}}."""
    given = read(StudyJob, spec, "a study job")

    def watch(p: trials.Progress) -> None:
        job.progress((p.done + p.share) / p.total, f"{p.trial}: {p.what}", step=p.done, steps=p.total)

    found, result = run_study(given.study, resume=True, watch=watch, stop=job.cancelled)
    if result == "paused":
        raise Interrupted
    if given.report:
        job.log("writing the report")
        write_report(found.name, progress=_report(job))
    return {"study": found.name, "runs": found.states()}


def publish_study(job: Context, spec: dict[str, Any]) -> dict[str, Any]:
    """Publish what a study chose, each winner once. Returns {"study", "published": [{"data", "ref", "label", ...}]}."""
    given = read(StudyPublishJob, spec, "a publishing job")
    if given.name is not None:
        package.check_name(given.name)
    made = publish_winners(
        given.study, data=given.data, name=given.name, licence=given.licence, device=loop.pick_device(given.device),
        progress=_report(job),
    )  # fmt: skip
    return {"study": given.study, "published": made}


# -- publish -----------------------------------------------------------------------------------------------------------


def publish(job: Context, spec: dict[str, Any]) -> dict[str, Any]:
    """Make a run's model a package. Returns {"model": "name@version", "hash"}."""
    given = read(PublishJob, spec, "a publishing job")
    package.check_name(given.name)
    run = Run.open(given.run)
    if "before" not in job.saved:
        job.save({"before": package.next_version(given.name)})
    averaged = [run.id, *given.average] if given.average else []
    found = made_of(run, given.name, job.saved["before"], averaged)
    if found is None:
        options = given.model_dump(exclude={"run", "name", "device", "asked"})
        device = loop.pick_device(given.device)
        found = make_package(given.run, given.name, **options, device=device, progress=_report(job))
    return {"model": str(found), "hash": package.hash_of(found)}
