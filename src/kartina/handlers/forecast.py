"""What an evaluation will take here: time and disk.

The model is timed at what it will be asked for. The networks that look at images are timed without having learnt
anything: nothing is downloaded for it, and nothing trained. Where the data set has no classifier yet, some steps of its
training are timed. What is computed from what the networks saw is not in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from kartina.config import read
from kartina.data.imageset import ImageSet, open_set
from kartina.handlers.evaluate import check_kind, generator, trained_on
from kartina.handlers.load import load_any
from kartina.handlers.specs import EvaluateJob
from kartina.metrics import classifier, extractors
from kartina.metrics.evaluate import DEFAULT, check_metrics, how_many, judged, labels_of, stratified
from kartina.metrics.extractors import inception
from kartina.study.cost import Ends, timed_each
from kartina.training.loop import memory_errors, pick_device

BATCH = 64  # images that an evaluation makes together
FEW = 16  # as many are enough to time on a CPU
STEPS = 5  # of the classifier's training, timed together
NUMBER = 8  # bytes of what is kept
SHARED = 0.5  # of the time that it has at least, where somebody samples all the time: it shares the device as an equal


def forecast(spec: dict[str, Any]) -> dict[str, Any]:
    """{"images", "sampling": [value, low, high] seconds, "looking": likewise, "classifier": it is trained first,
    "beside": what comes on top, "disk": bytes at most, "device", "threads", "yields": a share of the time}.

    Raises what the evaluation would raise before it begins to make images.
    """
    given = read(EvaluateJob, spec, "an evaluation job")
    metrics = check_metrics(DEFAULT if given.metrics is None else given.metrics)
    device = pick_device(given.device)
    model = load_any(given.model, device)
    data = open_set(given.data or trained_on(model))
    check_kind(model, data)
    m, seeds = how_many(data, given.split, given.samples), len(given.seeds)
    judge = judged(data, metrics, given.extractor == "domain")
    learns = judge and not classifier.is_kept(data)
    copies = bool({"memorisation", "copies"} & set(metrics))

    with memory_errors():
        real = labels_of(data.part(given.split))
        labels = real[stratified(real, min(m, FEW if device == "cpu" else BATCH))]
        sample = generator(model, BATCH)
        sampling = timed_each(lambda seed: sample(labels, seed), len(labels))

        # Of each seed as many images and copies as there are references; the classifier answers for the whole split.
        seen = m * (1 + 2 * seeds)
        looking = _times(_look(data, given.extractor), seen + (len(data.part("train")) if copies else 0))
        if judge:
            again = len(real) + (0 if given.extractor == "domain" else seen)
            looking = _sum(looking, _times(_look(data, "domain"), again))
        if learns:
            looking = _sum(looking, _learning(data))
    return {"images": m * seeds, "sampling": _times(sampling, m * seeds), "looking": looking, "classifier": learns,
            "beside": _beside(metrics, model.family.measures_bits), "yields": SHARED, "device": device,
            "disk": _disk(data, given.extractor, m, copies, learns), "threads": torch.get_num_threads()}  # fmt: skip


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


def _disk(data: ImageSet, extractor: str, m: int, copies: bool, learns: bool) -> int:
    """Bytes of what is kept for the next evaluation (features of real images and what is computed from them, the
    classifier), and of what is downloaded."""
    wide = classifier.FEATURES if extractor == "domain" else inception.FEATURES
    numbers = m * wide + wide**2 + 2 * m + (len(data.part("train")) * wide + 4 * m if copies else 0)
    weights = classifier.untrained(data).net.state_dict().values() if learns else ()
    files: int = sum(w.numel() * w.element_size() for w in weights) + (
        0 if extractors.is_here(extractor) else inception.BYTES
    )
    return NUMBER * numbers + files


def _beside(metrics: Sequence[str], bits: bool) -> str:
    more = ["Distances"] + ["the classifiers of CAS"] * ("cas" in metrics) + ["bits per dimension"] * bits
    return ", ".join(more[:-1]) + " and " + more[-1] if len(more) > 1 else more[0]


def _times(each: Ends, n: float) -> Ends:
    return n * each[0], n * each[1], n * each[2]


def _sum(a: Ends, b: Ends) -> Ends:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]
