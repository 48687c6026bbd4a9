"""What an evaluation, or a publication with the numbers of its card, will take here: time and disk.

The model is timed at what it will be asked for. The networks that look at images are timed without having learnt
anything: nothing is downloaded for it, and nothing trained. Where the data set has no classifier yet, some steps of its
training are timed. What is computed from what the networks saw is not in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from kartina.config import read
from kartina.data.imageset import ImageSet, Split, open_set, record
from kartina.handlers import sweep
from kartina.handlers.evaluate import check_kind, generator, trained_on
from kartina.handlers.load import load_any
from kartina.handlers.publish import pictured, worked_on
from kartina.handlers.specs import EvaluateJob, PublishJob
from kartina.handlers.study import chosen_point, unpublished
from kartina.metrics import classifier, extractors, room
from kartina.metrics.evaluate import DEFAULT, check_metrics, how_many, judged
from kartina.models import package
from kartina.models.model import Model
from kartina.study.cost import Ends, timed_each
from kartina.study.folder import Study
from kartina.study.spec import SCORE
from kartina.training.loop import memory_errors, pick_device
from kartina.training.run import Run

BATCH = 64  # images that an evaluation makes together
FEW = 16  # as many are enough to time on a CPU
STEPS = 5  # of the classifier's training, timed together
NOTHING: Ends = (0.0, 0.0, 0.0)
SHARED = 0.5  # of the time that it has at least, where somebody samples all the time: it shares the device as an equal


def forecast(spec: dict[str, Any]) -> dict[str, Any]:
    """{"images", "sampling": [value, low, high] seconds, "looking": likewise, "classifier": it is trained first,
    "beside": what comes on top, "disk": bytes at most, "device", "threads", "yields": a share of the time}.

    Raises what the evaluation would raise before it begins to make images.
    """
    given = read(EvaluateJob, spec, "an evaluation job")
    metrics = check_metrics(DEFAULT if given.metrics is None else given.metrics)
    model = load_any(given.model, pick_device(given.device))
    data = open_set(given.data or trained_on(model))
    check_kind(model, data)
    m, seeds = how_many(data, given.split, given.samples), len(given.seeds)
    with memory_errors():
        return {**_here(model), "images": m * seeds, "sampling": _times(_sampling(model), m * seeds),
                **_measuring(model, data, given.split, m, seeds, metrics, given.extractor)}  # fmt: skip


def forecast_publication(spec: dict[str, Any]) -> dict[str, Any]:
    """The same of publishing a run: of its card's numbers, as an evaluation on val; of its sweep, as a generation seed
    more for each of its "candidates"; and of its pictures. The package itself is not in "disk"."""
    given = read(PublishJob, spec, "a publishing job")
    model = load_any(given.run, pick_device(given.device))
    return _publication(model, given.samples, len(given.seeds) if given.evaluate else 0, given.sweep)


def forecast_winners(study: str, data: str | None, name: str | None) -> dict[str, Any]:
    """The same of publishing what a study has chosen, all winners together; of what is published already, nothing. For
    "disk" see `winners_room`."""
    found = Study.open(study)
    how, device = found.spec.evaluation, pick_device("auto")
    total: dict[str, Any] = {
        "images": 0, "sampling": NOTHING, "looking": NOTHING, "classifier": False, "beside": None, "candidates": 0,
        "device": device, "threads": torch.get_num_threads(), "yields": SHARED,
    }  # fmt: skip
    for trial in unpublished(found, data, name):
        _, point = chosen_point(found, trial)
        controls = {"generate": dict(trial.entry.controls)} if trial.entry.controls else {}
        model = replace(load_any(str(point), device), data=trial.data, defaults=controls)
        one = _publication(model, how.samples, len(how.seeds(SCORE)), False)
        total |= {
            "images": total["images"] + one["images"], "sampling": _sum(total["sampling"], one["sampling"]),
            "looking": _sum(total["looking"], one["looking"]), "beside": one["beside"] or total["beside"],
            "classifier": total["classifier"] or one["classifier"],
        }  # fmt: skip
    return total


def winners_room(study: str, data: str | None, name: str | None) -> int:
    """Bytes that publishing what a study has chosen takes, about: packages, and what their numbers keep."""
    found, needed = Study.open(study), 0
    for trial in unpublished(found, data, name):
        run = Run.open(chosen_point(found, trial)[1])
        weights = max((files.get("ema.safetensors", 0) for _, files in run.sizes()), default=0)
        needed += package.room(weights // 2, run.config.spec)
        needed += room.kept(record(trial.data), "val", found.spec.evaluation.samples, (), "domain")
    return needed


def _publication(model: Model, samples: int, seeds: int, swept: bool) -> dict[str, Any]:
    """What `forecast_publication` says of a model, with numbers over so many generation seeds."""
    data, makes = open_set(trained_on(model)), "generate" in model.family.capabilities()
    candidates = sweep.candidates(model, data, samples) if swept else 0
    measured = candidates + (seeds if makes and len(data.spec.classes) > 1 else 0)
    m = how_many(data, "val", samples) if measured else 0
    found: dict[str, Any] = {"looking": NOTHING, "classifier": False, "beside": None, "disk": 0}
    with memory_errors():
        if measured:
            found = _measuring(model, data, "val", m, measured, DEFAULT, "domain")
        images = m * measured + pictured(model)
        made = _times(_sampling(model), images) if makes else timed_each(lambda _: worked_on(model, data), 1)
    return {**_here(model), **found, "images": images, "sampling": made, "candidates": candidates}


def _here(model: Model) -> dict[str, Any]:
    device = model.family.device.type
    return {"device": device, "threads": torch.get_num_threads(), "yields": SHARED}


def _sampling(model: Model) -> Ends:
    """Seconds an image."""
    labels = np.arange(FEW if model.family.device.type == "cpu" else BATCH) % model.family.classes
    sample = generator(model, BATCH)
    return timed_each(lambda seed: sample(labels, seed), len(labels))


def _measuring(
    model: Model, data: ImageSet, split: Split, m: int, seeds: int, metrics: Sequence[str], extractor: str
) -> dict[str, Any]:
    """What `forecast` says of networks that look at images: "looking", "classifier", "beside", "disk"."""
    judge = judged(data, metrics, extractor == "domain")
    learns = judge and not classifier.is_kept(data)
    copies = bool({"memorisation", "copies"} & set(metrics))

    # Of each seed as many images and copies as there are references; the classifier answers for the whole split.
    seen = m * (1 + 2 * seeds)
    looking = _times(_look(data, extractor), seen + (len(data.part("train")) if copies else 0))
    if judge:
        again = len(data.part(split)) + (0 if extractor == "domain" else seen)
        looking = _sum(looking, _times(_look(data, "domain"), again))
    if learns:
        looking = _sum(looking, _learning(data))
    return {"looking": looking, "classifier": learns, "beside": _beside(metrics, model.family.measures_bits),
            "disk": room.kept(record(data.name), split, m, metrics, extractor)}  # fmt: skip


def _look(data: ImageSet, extractor: str) -> Ends:
    """Seconds an image."""
    network, train = extractors.untrained(extractor, data), data.part("train")
    images = np.asarray(train.images[: network.batch // 4])
    return timed_each(lambda _: network(images), len(images))


def _learning(data: ImageSet) -> Ends:
    """Seconds of the classifier's training."""
    _, _, steps = classifier.schedule(len(data.part("train")))
    some = min(STEPS, steps)
    return _times(timed_each(lambda seed: classifier.train(data, seed, most=some), some), steps)


def _beside(metrics: Sequence[str], bits: bool) -> str:
    more = ["Distances"] + ["the classifiers of CAS"] * ("cas" in metrics) + ["bits per dimension"] * bits
    return ", ".join(more[:-1]) + " and " + more[-1] if len(more) > 1 else more[0]


def _times(each: Ends, n: float) -> Ends:
    return n * each[0], n * each[1], n * each[2]


def _sum(a: Ends, b: Ends) -> Ends:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]
