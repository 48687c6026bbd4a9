"""What a study will take here: time and disk. Each pair of an entry and a data set is timed for some seconds.

Training to a budget of minutes takes these; one of images is timed on throw-away networks, and so is what evaluations
sample. What measuring those images takes (features, metrics, a judge that a data set has none of yet) is not in it.
"""

from __future__ import annotations

from typing import Any

from kartina import registry
from kartina.config import RunConfig, read
from kartina.data.imageset import open_set
from kartina.generators.base import build, generate, rows_for
from kartina.study.cost import Ends, synchronise, timed_each
from kartina.study.folder import Plan, lay_out
from kartina.study.spec import SCORE, SELECTION, TEST, Entry, StudySpec
from kartina.training import estimate


def forecast(spec: StudySpec) -> dict[str, Any]:
    """{"runs", "training": [value, low, high] seconds, "sampling": likewise, "sampled": images, "disk": bytes at most}.

    Raises what beginning the study would raise, but for a name that is taken.
    """
    plan, configs = lay_out(spec)
    training, sampling = (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)
    sampled = disk = 0
    seeds = len(spec.seeds)
    for entry, data in spec.pairs():
        config = configs[f"{entry.key}--{data}"]
        images = evaluated(spec, plan, data)
        training = _add(training, _training(spec, entry, config), seeds)
        sampling = _add(sampling, _sampling(spec, entry, config), seeds * images)
        sampled += seeds * images
        disk += seeds * estimate.disk(config)
    return {"runs": seeds * len(spec.pairs()), "training": training, "sampling": sampling, "sampled": sampled,
            "disk": disk, "device": plan.device, "threads": plan.threads}  # fmt: skip


def evaluated(spec: StudySpec, plan: Plan, data: str) -> int:
    """Images that a run samples for its evaluations: at each checkpoint, of the one selected, and on test, if any."""
    how, splits = spec.evaluation, plan.data[data].splits
    selecting = min(how.selection_samples or how.samples, splits["val"])
    found = how.checkpoints * len(how.seeds(SELECTION)) * selecting
    found += len(how.seeds(SCORE)) * min(how.samples, splits["val"])
    return found + len(how.seeds(TEST)) * min(how.samples, splits.get("test", 0))


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


def _add(total: Ends, each: Ends, times: int) -> Ends:
    value, low, high = (a + times * b for a, b in zip(total, each, strict=True))
    return value, low, high
