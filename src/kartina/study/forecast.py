"""What a study will take here: time and disk. Each pair of an entry and a data set is timed for some seconds.

Training to a budget of minutes takes these; one of images is timed on throw-away networks, and so is what evaluations
sample. What measuring those images takes (features, metrics, a judge that a data set has none of yet) is not in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kartina import registry
from kartina.config import RunConfig, read
from kartina.data.imageset import open_set
from kartina.generators.base import build, generate, rows_for
from kartina.study.cost import Ends, synchronise, timed_each
from kartina.study.folder import Plan, Study, Trial, lay_out, planned
from kartina.study.spec import SCORE, SELECTION, TEST, Entry, StudySpec
from kartina.study.trials import ENDED, seen
from kartina.training import estimate

NOTHING: Ends = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Work:
    """What is to be made of an entry on a data set."""

    entry: Entry
    config: RunConfig  # but for its images
    runs: int  # to be brought to an end
    begin: int  # of them those that have no folder yet
    trainings: float  # whole ones, all together
    images: int  # that are sampled


def forecast(spec: StudySpec) -> dict[str, Any]:
    """{"runs", "pairs", "training": [value, low, high] seconds, "sampling": likewise, "sampled": images, "disk": bytes
    at most, "device", "threads"} of a study that begins now.

    Raises what beginning the study would raise, but for a name that is taken.
    """
    plan, configs = lay_out(spec)
    seeds = len(spec.seeds)
    work = [
        Work(entry, configs[f"{entry.key}--{data}"], seeds, seeds, seeds, seeds * evaluated(spec, plan, data))
        for entry, data in spec.pairs()
    ]
    return _total(spec, plan, work)


def rest(study: Study) -> dict[str, Any]:
    """The same of what is left of a study: of a run that has begun what it has not trained yet, and the evaluations
    that there is no record of."""
    return _total(study.spec, study.plan, _rest(study))


def room(study: Study) -> dict[str, int]:
    """{"disk": bytes that the runs take which have not begun yet, "pairs": that `rest` has to time}."""
    waiting = [trial for trial in study.trials() if study.state(trial) == "waiting"]
    each = {pair: estimate.disk(_config(study, trial)) for pair, trial in {t.pair: t for t in waiting}.items()}
    return {"disk": sum(each[trial.pair] for trial in waiting), "pairs": len(_rest(study))}


def _rest(study: Study) -> list[Work]:
    found: dict[str, list[Trial]] = {}
    for trial in study.trials():
        found.setdefault(trial.pair, []).append(trial)
    return [work for trials in found.values() if (work := _left(study, trials)).runs or work.images]


def _left(study: Study, trials: Sequence[Trial]) -> Work:
    """What is left of the runs of one pair."""
    how, splits = study.spec.evaluation, study.plan.data[trials[0].data].splits
    selecting, scoring, testing = _samples(study.spec, splits)
    begin = images = runs = 0
    trainings = 0.0
    for trial in trials:
        state = study.state(trial)
        if state not in ENDED:
            runs += 1
            begin += state == "waiting"
            trainings += 1 - _trained(study, trial)
            there = len(list((study.path / "evaluations").glob(f"{trial.id}-*.json")))
            images += (how.checkpoints - min(there, how.checkpoints)) * selecting + scoring
        if state != "failed" and study.read("test", f"{trial.id}.json") is None:
            images += testing
    return Work(trials[0].entry, _config(study, trials[0]), runs, begin, trainings, images)


def _trained(study: Study, trial: Trial) -> float:
    """The share of its images that a run has seen."""
    run = study.run(trial)
    return 0.0 if run is None else min(1.0, seen(run) / run.config.images)


def _config(study: Study, trial: Trial) -> RunConfig:
    return planned(study.spec, trial.entry, trial.data, study.plan, images=1)


def _total(spec: StudySpec, plan: Plan, work: Sequence[Work]) -> dict[str, Any]:
    training, sampling = NOTHING, NOTHING
    for one in work:
        if one.trainings:
            training = _add(training, _training(spec, one.entry, one.config), one.trainings)
        if one.images:
            sampling = _add(sampling, _sampling(spec, one.entry, one.config), one.images)
    return {"runs": sum(one.runs for one in work), "pairs": len(work), "training": training, "sampling": sampling,
            "sampled": sum(one.images for one in work),
            "disk": sum(one.begin * estimate.disk(one.config) for one in work if one.begin),
            "device": plan.device, "threads": plan.threads}  # fmt: skip


def evaluated(spec: StudySpec, plan: Plan, data: str) -> int:
    """Images that a run samples for its evaluations: at each checkpoint, of the one selected, and on test, if any."""
    selecting, scoring, testing = _samples(spec, plan.data[data].splits)
    return spec.evaluation.checkpoints * selecting + scoring + testing


def _samples(spec: StudySpec, splits: Mapping[str, int]) -> tuple[int, int, int]:
    """Images that are sampled at a checkpoint, of the one selected, and on test."""
    how = spec.evaluation
    selecting = len(how.seeds(SELECTION)) * min(how.selection_samples or how.samples, splits["val"])
    scoring = len(how.seeds(SCORE)) * min(how.samples, splits["val"])
    return selecting, scoring, len(how.seeds(TEST)) * min(how.samples, splits.get("test", 0))


def _training(spec: StudySpec, entry: Entry, config: RunConfig) -> Ends:
    """Active seconds of one run."""
    budget = entry.budget(spec.budget)
    if budget.minutes is not None:
        return (60 * budget.minutes,) * 3
    config = config.model_copy(update={"images": budget.images})
    found = estimate.time_steps(config, open_set(config.data), None)["seconds"]
    return found[0], found[1], found[2]


def _sampling(spec: StudySpec, entry: Entry, config: RunConfig) -> Ends:
    """Seconds an image, in a study's batches, by networks that have learnt nothing."""
    family = build(registry.family(config.family), config.config, config.spec).sampler().to(config.device)
    controls = read(family.capabilities()["generate"].controls, entry.controls, f"controls of {entry.name}")
    batch, labels = spec.evaluation.batch, range(len(config.spec.classes) or 1)

    def sample(seed: int) -> None:
        generate(family, rows_for(family, labels, batch, seed, controls), batch)
        synchronise(family.device)

    return timed_each(sample, batch)


def _add(total: Ends, each: Ends, times: float) -> Ends:
    value, low, high = (a + times * b for a, b in zip(total, each, strict=True))
    return value, low, high
