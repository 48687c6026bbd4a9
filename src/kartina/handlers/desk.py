"""What the service asks before work is accepted, and does not answer itself: whatever needs torch.

    python -m kartina.process kartina.handlers.desk  # reads questions, writes answers (`data.pool` has messages)

A question is {"question": name, ...}; what comes back is {"taken": true} at once, then {"answer": ...} or {"error":
{"code", "message", "details"}}. The
process ends with who asks, also in the middle of an answer, or when nobody has asked for a while: it holds some hundred
megabytes. What only studies and evaluations need is loaded when one is asked for.
"""

from __future__ import annotations

import os
import re
import resource
import select
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kartina import logs, registry
from kartina.config import RunConfig, TrainConfig
from kartina.data.imageset import ImageSet, open_set
from kartina.data.pool import read_message, write_message
from kartina.errors import KartinaError
from kartina.generators.base import Family
from kartina.handlers.train import texts
from kartina.serving.device import SHARE
from kartina.training import estimate, loop, transfer
from kartina.training.catalogue import on_meta, usual
from kartina.training.folder import RunFolder

IDLE = 300.0  # seconds without a question after which the process ends

# -- questions ---------------------------------------------------------------------------------------------------------


def presets() -> dict[str, Any]:
    """Everything that can be trained: {"families", "presets", "training": JSON Schema of the settings of any}."""
    families = {}
    for name in registry.names():
        cls: type[Family] = registry.family(name)
        about = (cls.__doc__ or sys.modules[cls.__module__].__doc__ or "").strip().splitlines()
        families[name] = {"about": about[0] if about else "", "settings": cls.Config.model_json_schema()}
    found = []
    for name, (family_name, preset) in registry.presets().items():
        cls = registry.family(family_name)
        family = on_meta(cls, preset, usual(cls, preset))
        found.append(
            {
                "name": name,
                "family": family_name,
                "about": preset.about,
                "size": preset.size,
                "parameters": sum(p.numel() for p in family.parameters()),
                "pairs": bool(cls.takes_pairs(family.config)),
                "tasks": list(family.capabilities()),
                "settings": family.config.model_dump(mode="json"),
                "training": TrainConfig.model_validate(dict(preset.train)).model_dump(mode="json"),
            }
        )
    return {"families": families, "presets": found, "training": TrainConfig.model_json_schema()}


def plan(run: dict[str, Any]) -> dict[str, Any]:
    """A run as it would be trained, checked; nothing is timed: {"config", "disk": bytes}."""
    config = _plan(run)
    return {"config": config.model_dump(mode="json"), "disk": estimate.disk(config)}


def _plan(run: dict[str, Any]) -> RunConfig:
    source = transfer.source(run["start"]) if run.get("start") else None
    teacher = transfer.source(run["teacher"]) if run.get("teacher") else None
    return loop.plan(
        run["preset"], run["data"], images=run.get("images") or 1, settings=texts(run.get("settings") or {}),
        device=run.get("device") or "auto", start=source, teacher=teacher,
    )  # fmt: skip


def time_run(run: dict[str, Any], began_at: float) -> dict[str, Any]:
    """`plan`, and what the run will take here: see `training.estimate`. "startup": seconds since this process began."""
    config = _plan(run)
    return _timed(config, open_set(config.data), run.get("budget"), began_at)


def time_rest(run: str, images: int, began_at: float) -> dict[str, Any]:
    """The same of what is left of a run up to `images` in all; "disk" counts nothing as there already."""
    found = RunFolder.open(run)
    loop.pick_device(found.config.device)
    return _timed(estimate.rest(found, images), found.data(), None, began_at)


def _timed(config: RunConfig, data: ImageSet, budget: float | None, began_at: float) -> dict[str, Any]:
    startup = time.time() - began_at
    if config.device == "cpu":
        _bound_memory()
    before, begun = time.process_time(), time.perf_counter()
    found = estimate.time_steps(config, data, budget)
    used = (time.process_time() - before) / ((time.perf_counter() - begun) * config.train.threads)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {**found, "yields": SHARE, "device": config.device, "threads": config.train.threads,
            "disk": estimate.disk(config), "memory": found["memory"] or peak, "startup": startup,
            "processor": used if config.device == "cpu" else None}  # fmt: skip


def _bound_memory() -> None:
    """Let this process take what is available now: more is an error here, and not the end of another process."""
    told = Path("/proc/meminfo")
    if told.is_file() and (found := re.search(r"MemAvailable:\s+(\d+) kB", told.read_text())):
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (taken + int(found[1]) * 1024,) * 2)


def room(run: str, images: int) -> dict[str, Any]:
    """{"disk": bytes} that a run without a checkpoint takes up to `images` in all."""
    return {"disk": estimate.disk(estimate.rest(RunFolder.open(run), images))}


def begin_study(study: dict[str, Any], owner: str) -> dict[str, Any]:
    """Check a study and fix its plan: {"name", "disk": bytes of its runs}."""
    from kartina.study.folder import Study
    from kartina.study.spec import StudySpec, dump

    wanted = StudySpec.model_validate(study)
    made = Study.create(wanted, dump(wanted), owner=owner)
    return {"name": made.name, **study_room(made.name)}


def study_room(study: str) -> dict[str, Any]:
    """Of what is left of a study: see `study.forecast.room`."""
    from kartina.study.folder import Study
    from kartina.study.forecast import room

    return room(Study.open(study))


def forecast_study(study: dict[str, Any], began_at: float) -> dict[str, Any]:
    """What a study will take here: see `study.forecast`. "startup": seconds since this process began."""
    from kartina.study.forecast import forecast
    from kartina.study.spec import StudySpec

    startup = time.time() - began_at
    if loop.pick_device(study.get("device", "auto")) == "cpu":
        _bound_memory()
    return {**forecast(StudySpec.model_validate(study)), "yields": SHARE, "startup": startup}


def forecast_rest(study: str, began_at: float) -> dict[str, Any]:
    """The same of what is left of a study."""
    from kartina.study.folder import Study
    from kartina.study.forecast import rest

    startup, found = time.time() - began_at, Study.open(study)
    if loop.pick_device(found.plan.device) == "cpu":
        _bound_memory()
    return {**rest(found), "yields": SHARE, "startup": startup}


def forecast_evaluation(evaluation: dict[str, Any], began_at: float) -> dict[str, Any]:
    """What an evaluation will take here: see `handlers.forecast`. "startup": seconds since this process began."""
    from kartina.handlers.forecast import forecast

    startup = time.time() - began_at
    if loop.pick_device("auto") == "cpu":
        _bound_memory()
    return {**forecast(evaluation), "startup": startup}


def forecast_publication(publication: dict[str, Any], began_at: float) -> dict[str, Any]:
    """What publishing a run will take here: see `handlers.forecast`. "startup": seconds since this process began."""
    from kartina.handlers.forecast import forecast_publication

    startup = time.time() - began_at
    if loop.pick_device("auto") == "cpu":
        _bound_memory()
    return {**forecast_publication(publication), "startup": startup}


def forecast_winners(study: str, data: str | None, name: str | None, began_at: float) -> dict[str, Any]:
    """The same of publishing what a study has chosen."""
    from kartina.handlers import forecast

    startup = time.time() - began_at
    if loop.pick_device("auto") == "cpu":
        _bound_memory()
    return {**forecast.forecast_winners(study, data, name), "startup": startup}


def winners_room(study: str, data: str | None, name: str | None) -> dict[str, Any]:
    """{"disk": bytes} that publishing what a study has chosen takes."""
    from kartina.handlers import forecast

    return {"disk": forecast.winners_room(study, data, name)}


def studies(names: list[str]) -> list[dict[str, Any]]:
    """How far each study is; one that cannot be read has "problem" instead."""
    return [_study(name) for name in names]


def _study(name: str) -> dict[str, Any]:
    from kartina.study.folder import Study

    try:
        found = Study.open(name)
    except KartinaError as error:
        return {"name": name, "problem": str(error)}
    return {"name": name, "about": found.spec.about, "created_at": found.plan.created_at, "data": list(found.spec.data),
            "presets": [entry.name for entry in found.spec.presets], "runs": found.states(),
            "complete": found.complete, "published": list((found.read("published.json") or {}).values())}  # fmt: skip


def study(name: str) -> dict[str, Any]:
    """Everything about a study: its spec, its runs, the table so far, and its choice when it has made one."""
    from kartina.study import results
    from kartina.study.folder import Study

    found = Study.open(name)
    runs = [{"entry": t.entry.key, "label": t.entry.name, "data": t.data, "seed": t.seed, "state": found.state(t)}
            for t in found.trials()]  # fmt: skip
    return {**_study(name), "spec": found.spec.model_dump(mode="json"), "device": found.plan.device, "trials": runs,
            "table": results.gather(found)["data"], "choice": found.read("choice.json") or {}}  # fmt: skip


QUESTIONS: dict[str, Callable[..., Any]] = {
    "presets": presets, "plan": plan, "time_run": time_run, "time_rest": time_rest, "room": room,
    "begin_study": begin_study, "study_room": study_room, "forecast_study": forecast_study,
    "forecast_rest": forecast_rest, "forecast_evaluation": forecast_evaluation,
    "forecast_publication": forecast_publication, "forecast_winners": forecast_winners, "winners_room": winners_room,
    "studies": studies, "study": study,
}  # fmt: skip


def answer(question: str, **given: Any) -> dict[str, Any]:
    """The answer to a question, or the error that it met."""
    try:
        return {"answer": QUESTIONS[question](**given)}
    except KartinaError as error:
        return {"error": {"code": error.code, "message": str(error), "details": list(error.details)}}


def _end_with(parent: int) -> None:
    """End when the process that asks is gone: nobody waits for the answer any more."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def main() -> None:
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True, name="parent").start()
    logs.configure()
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    while select.select([sys.stdin], [], [], IDLE)[0]:
        message = read_message(sys.stdin.buffer)
        if message is None:
            return
        write_message(out, ({"taken": True}, b""))  # who asks need not ask another process, whatever happens now
        write_message(out, (answer(**message[0]), b""))
