"""Running a study: one trial after another, each to its end, and never twice.

A trial trains to each of its evaluation points (by counting steps, so that the points are the same after any number of
interruptions), keeps the averaged weights of that moment, and evaluates them on val. At the end the point with the
lowest metric is selected, evaluated again with fresh generation seeds, and timed. Each of these leaves one file that
is written whole: a killed study goes on with the first one that is missing.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from kartina.config import RunConfig
from kartina.data.imageset import ImageSet, Split
from kartina.errors import CanceledError, ConfigError, DivergedError, IntegrityError, NotFoundError, disk_errors
from kartina.models.model import Model
from kartina.study import cost
from kartina.study.folder import Study, Trial, planned
from kartina.study.spec import SCORE, SELECTION
from kartina.training import loop, transfer
from kartina.training.folder import write_json
from kartina.training.run import Run

Report = Callable[[float, str], None]
# model, data, split, generation seeds, samples, progress -> {"metrics", "per_class", "control"}
Evaluate = Callable[[Model, ImageSet, Split, Sequence[int], int, Report | None], dict[str, Any]]

ENDED = ("finished", "failed")
FAILURES = (DivergedError, ConfigError, RuntimeError, ArithmeticError)  # of one training; others end the study
TRAINING = 0.6  # of a trial's progress; the rest is evaluation


@dataclass(frozen=True)
class Progress:
    """What a watcher is told."""

    done: int  # trials
    total: int
    trial: str
    share: float  # of this trial
    what: str  # "training 12,000 of 40,000 images, 230 img/s"
    failed: int = 0


Watch = Callable[[Progress], None]
Stop = Callable[[], bool]


def run(study: Study, evaluate: Evaluate, watch: Watch | None = None, stop: Stop | None = None) -> str:
    """Do what is left of the study: 'finished', or 'paused' when stop() was true.

    Raises ConflictError when another process works on it, StorageError on a full disk, IntegrityError where data or a
    file is not what it was; everything finished stays.
    """
    with study.lock():
        sweep(study)
        result = work(study, evaluate, watch, stop)
        return result if result == "paused" else time_samplers(study, watch, stop)


def work(
    study: Study, evaluate: Evaluate, watch: Watch | None = None, stop: Stop | None = None, *, beside: bool = False
) -> str:
    """Do every trial that no other process has taken; the caller, or the one who started it, holds the study. `beside`:
    other processes train meanwhile."""
    trials, halt = study.trials(), stop or (lambda: False)
    for trial in trials:
        if study.state(trial) in ENDED:
            continue
        with study.claim(trial) as mine:
            if not mine or study.state(trial) in ENDED:
                continue
            states = study.states()
            done, failed = states["finished"] + states["failed"], states["failed"]

            def tell(share: float, what: str, trial: Trial = trial, done: int = done, failed: int = failed) -> None:
                if watch is not None:
                    watch(Progress(done, len(trials), trial.id, share, what, failed))

            try:
                if not _Runner(study, trial, evaluate, tell, halt, beside).go():
                    return "paused"
            except CanceledError:
                return "paused"
    return "finished"


def count(study: Study, evaluate: Evaluate, watch: Watch | None = None) -> None:
    """Turn every budget in minutes into images, one after another, so that no training disturbs the timing. Where that
    fails, the trial has failed, and the others go on."""
    trials = study.trials()
    for trial in trials[: len(study.spec.pairs())]:
        if study.state(trial) not in ENDED:

            def tell(share: float, what: str, trial: Trial = trial) -> None:
                if watch is not None:
                    watch(Progress(0, len(trials), trial.id, share, what))

            runner, begun = _Runner(study, trial, evaluate, tell, lambda: False), time.perf_counter()
            try:
                runner.config()
            except FAILURES as error:
                runner.failed(None, error, time.perf_counter() - begun)


def time_samplers(study: Study, watch: Watch | None = None, stop: Stop | None = None) -> str:
    """Time again, one after another, the samplers that were timed while other processes trained: 'finished', or
    'paused'."""
    trials = study.trials()
    torch.set_num_threads(study.plan.threads)
    for trial in study.timed_beside():
        if stop is not None and stop():
            return "paused"
        if watch is not None:
            watch(Progress(len(trials), len(trials), trial.id, 0.0, "timing its sampler", study.states()["failed"]))
        name = ("finished", f"{trial.id}.json")
        found = study.read(*name)
        model, _ = load_point(study, trial, found["selected"])
        study.write(
            {**found, "measured": {**found["measured"], **cost.sampling(model)["measured"], "beside": False}}, *name
        )
    return "finished"


def sweep(study: Study) -> None:
    """Remove what a killed process left half written, or had no time to remove."""
    for temp in [*study.path.glob(".new-*"), *study.path.glob("*/.new-*")]:
        shutil.rmtree(temp, ignore_errors=True)
    for temp in study.path.glob("*/.*.json.*"):
        temp.unlink(missing_ok=True)
    for trial in study.trials():
        found = study.read("finished", f"{trial.id}.json")
        if found is not None:
            prune(study, trial, found["selected"])


def prune(study: Study, trial: Trial, selected: int) -> None:
    """Keep only the point that was selected."""
    for point in (study.path / "points").glob(f"{trial.id}-*"):
        if point != study.point(trial, selected):
            shutil.rmtree(point, ignore_errors=True)


@dataclass
class _Runner:
    """One trial's work."""

    study: Study
    trial: Trial
    evaluate: Evaluate
    tell: Report
    stop: Stop
    beside: bool = False  # other processes train meanwhile

    def go(self) -> bool:
        """All of it; False when it was asked to stop."""
        torch.set_num_threads(self.study.plan.threads)
        data = self.study.open_data(self.trial.data)
        run: Run | None = None
        before, begun = 0.0, time.perf_counter()  # active seconds when this stretch began
        try:
            config = self.config()
            run = self.opened(config)
            targets = points(config, self.study.spec.evaluation.shares)
            for k, target in enumerate(targets):
                if self.study.read("evaluations", f"{self.trial.id}-{target}.json") is not None:
                    continue
                before, begun = float(run.status()["seconds"]), time.perf_counter()
                if not self.train(run, target, last=k == len(targets) - 1):
                    return False
                self.measure(run, data, target, targets)
            self.finish(run, data, targets)
        except FAILURES as error:
            self.failed(run, error, before + time.perf_counter() - begun)
        return True

    # -- the config ----------------------------------------------------------------------------------------------

    def config(self) -> RunConfig:
        """The trial's config: the pair's, which is measured once, with its own seed."""
        study, trial = self.study, self.trial
        shared = study.count(trial.pair)
        if shared is None:
            budget = trial.entry.budget(study.spec.budget)
            seconds = None if budget.minutes is None else 60 * budget.minutes
            if seconds is not None:
                self.tell(0.0, "timing this machine")
                # What is loaded once in a process is not to be paid from the budget of the preset that comes first.
                warm = planned(study.spec, trial.entry, trial.data, study.plan, images=1)
                with loop.memory_errors():
                    loop.Trainer(warm, study.open_data(trial.data)).step()
            shared = planned(study.spec, trial.entry, trial.data, study.plan, images=budget.images, budget=seconds)
            study.write(shared.model_dump(mode="json"), "counts", f"{trial.pair}.json")
        return shared.model_copy(update={"train": shared.train.model_copy(update={"seed": trial.seed})})

    def opened(self, config: RunConfig) -> Run:
        path = self.study.path / "runs" / self.trial.id
        if not (path / "config.json").is_file():
            with disk_errors("make the run's folder"):
                path.mkdir(parents=True, exist_ok=True)
                write_json(path / "config.json", config.model_dump(mode="json"))
        return Run.open(path)

    # -- training and its points ---------------------------------------------------------------------------------

    def train(self, run: Run, target: int, last: bool) -> bool:
        """Go on to `target` images, counted in steps; False when it was asked to stop before."""
        at = seen(run)
        if at < target:
            left, total = (target - at) // images_per_step(run.config), run.config.images
            memory = cost.Memory(run.config.device)

            def watch(p: loop.Progress) -> None:
                memory.look()
                what = f"training, {p.images:,} of {total:,} images, {p.rate:.0f} img/s"
                self.tell(TRAINING * p.images / total, what)

            def halt() -> bool:
                nonlocal left
                left -= 1
                return self.stop() or (left <= 0 and not last)

            with memory.watching():
                loop.train(run, watch, halt)
            self.remember(memory.peak)
            at = seen(run)
        if at < target:
            return False
        if at > target:
            raise IntegrityError(
                f"Found {run.path} at {at:,} images, past its evaluation at {target:,}: it was trained outside its "
                f"study. Delete that folder and go on: the study trains it anew."
            )
        self.keep(run, at)
        return True

    def remember(self, peak: int) -> None:
        """The peak of memory over all of the trial's attempts."""
        name = ("runs", self.trial.id, "memory.json")
        before = self.study.read(*name) or {"peak": 0}
        self.study.write({"peak": max(peak, before["peak"])}, *name)

    def keep(self, run: Run, images: int) -> None:
        """The averaged weights of the run's newest checkpoint, as a run of their own."""
        target = self.study.point(self.trial, images)
        if target.is_dir():
            return
        source = run.checkpoint()
        name = "ema.safetensors"
        state = json.loads((source / "state.json").read_text())
        temp = target.with_name(f".new-{target.name}")
        with disk_errors("keep a checkpoint"):
            shutil.rmtree(temp, ignore_errors=True)
            inside = temp / "checkpoints" / source.name
            inside.mkdir(parents=True)
            try:
                os.link(source / name, inside / name)
            except OSError:  # a file system without links
                shutil.copyfile(source / name, inside / name)
            write_json(inside / "state.json", {**state, "files": {name: state["files"][name]}})
            write_json(temp / "config.json", run.config.model_dump(mode="json"))
            temp.rename(target)

    # -- evaluation ----------------------------------------------------------------------------------------------

    def measure(self, run: Run, data: ImageSet, images: int, targets: Sequence[int]) -> None:
        """The evaluation of one point, on val."""
        evaluation, k = self.study.spec.evaluation, targets.index(images)
        found, counters = load_point(self.study, self.trial, images)
        start = TRAINING * images / targets[-1]
        what = f"evaluating checkpoint {k + 1} of {len(targets)}"
        numbers = self.numbers(found, data, SELECTION, evaluation.selection_samples or evaluation.samples, start, what)
        numbers["measured"]["trained"] = counters["seconds"]
        self.study.write({"images": images, **numbers}, "evaluations", f"{self.trial.id}-{images}.json")

    def numbers(
        self, model: Model, data: ImageSet, first: int, samples: int, start: float, what: str
    ) -> dict[str, Any]:
        def progress(share: float, doing: str) -> None:
            if self.stop():
                raise CanceledError("Found a request to stop during an evaluation; it is made again.")
            self.tell(min(1.0, start + 0.1 * share), f"{what}: {doing}")

        torch.set_num_threads(self.study.plan.threads)
        begun = time.perf_counter()
        found = self.evaluate(model, data, "val", self.study.spec.evaluation.seeds(first), samples, progress)
        return {**found, "measured": {"seconds": round(time.perf_counter() - begun, 3)}}

    # -- the end -------------------------------------------------------------------------------------------------

    def finish(self, run: Run, data: ImageSet, targets: Sequence[int]) -> None:
        """Select a point, score it with fresh seeds, time it; then the other points may go."""
        study, trial, evaluation = self.study, self.trial, self.study.spec.evaluation
        metric = study.spec.choose.metric
        found = {n: study.read("evaluations", f"{trial.id}-{n}.json") for n in targets}
        values = {n: one["metrics"].get(metric, {}).get("value") for n, one in found.items()}
        selected = select(values)
        model, _ = load_point(study, trial, selected)
        numbers = self.numbers(model, data, SCORE, evaluation.samples, 0.9, f"scoring the one at {selected:,} images")
        priced = cost.sampling(model)
        memory = study.read("runs", trial.id, "memory.json") or {"peak": 0}
        numbers["measured"] |= {
            **priced["measured"],
            "beside": self.beside,
            "trained": run.status()["seconds"],
            "evaluated": round(sum(one["measured"]["seconds"] for one in found.values()), 3),
            "peak_memory": memory["peak"],
        }
        study.write(
            {"selected": selected, "images": targets[-1], "values": {str(n): v for n, v in values.items()},
             "parameters": priced["parameters"], "gflop": priced["gflop"], "warnings": run.status()["warnings"],
             **numbers},
            "finished", f"{trial.id}.json",
        )  # fmt: skip
        prune(study, trial, selected)

    def failed(self, run: Run | None, error: BaseException, spent: float) -> None:
        images = 0 if run is None else run.status()["images"]
        told = isinstance(error, DivergedError | ConfigError)
        self.study.write(
            {
                "error": str(error) or type(error).__name__,
                "kind": getattr(error, "code", type(error).__name__),
                "images": images,
                "traceback": None if told else "".join(traceback.format_exception(error))[-4000:],
                "measured": {"trained": round(spent, 3)},
            },
            "failed", f"{self.trial.id}.json",
        )  # fmt: skip


def load_point(study: Study, trial: Trial, images: int) -> tuple[Model, dict[str, Any]]:
    """The averaged weights at an evaluation point, ready to sample, and the counters of that moment."""
    run = Run.open(study.point(trial, images))
    family, counters = run.trained(run.config.device)
    model = Model(family, f"{study.name}/{trial.id}", data=trial.data)
    return replace(model, defaults={"generate": dict(trial.entry.controls)}), counters


def select(values: dict[int, float | None]) -> int:
    """The images of the point with the lowest value; of equals the later; the last where none has one."""
    known = {n: v for n, v in values.items() if v is not None and math.isfinite(v)}
    return min(known, key=lambda n: (known[n], -n)) if known else max(values)


def images_per_step(config: RunConfig) -> int:
    """Images that one step of the loop counts."""
    phase = transfer.on_meta(config).phases()[0]
    return phase.repeat * max(1, round(config.train.batch * phase.batch))


def points(config: RunConfig, shares: Sequence[float]) -> list[int]:
    """Images after which a run is evaluated: whole steps, the last of them its end. Raises ConfigError for too few."""
    step = images_per_step(config)
    found = [step * max(1, math.ceil(config.images * share / step - 1e-9)) for share in shares]
    if len(set(found)) != len(found):
        raise ConfigError(
            f"Found {config.images:,} images in steps of {step} for {len(shares)} checkpoint evaluations; expected at "
            f"least {step * 2 ** (len(shares) - 1):,}. Give a larger budget, or fewer evaluation.checkpoints."
        )
    return found


def seen(run: Run) -> int:
    """Images that the run's newest checkpoint has seen."""
    with suppress(NotFoundError):
        return int(Path(run.checkpoint()).name)
    return 0
