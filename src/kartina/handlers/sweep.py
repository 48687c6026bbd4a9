"""Use case: choose a model's default controls on the val split, by numbers.

A family declares what is swept (`Family.sweep`: control -> values). The search is by coordinates: starting from the
defaults, each control in the declared order is set to each of its values, the best is kept, and the next control
follows. The rules were fixed before any model was looked at:

1. Every candidate makes images of the same labels from the same generation seed, as many as there are references. That
   seed is not among those of the card's final numbers, so that no number is of images that were chosen for it.
2. A candidate must not lose what the defaults have: its class agreement and its coverage are at least theirs (or those
   of real images, where theirs are above that) less one point. Agreement above that of real images is no virtue: it is
   what guidance buys by leaving out the images that are hard to tell. A model that knows no classes has none.
3. Of those that were tried so far, the lowest FD-domain wins. Within 2% of it all are equal, and the cheapest sampler
   wins: the fewest floating-point operations an image. Milliseconds are recorded but do not choose: they depend on what
   else runs.
4. A value that does not go with what was chosen before it (another solver than one that its churn needs) is left out.

The references are those of the numbers: an honest last report is made on test (kartina evaluate --split test).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from kartina.data.imageset import ImageSet, Split
from kartina.errors import ConfigError
from kartina.generators.base import generate
from kartina.handlers.evaluate import SAMPLES, Progress, generator
from kartina.metrics.agreement import agreement
from kartina.metrics.classifier import domain_classifier
from kartina.metrics.evaluate import TRAINING_SHARE, Eyes, labels_of, references, score, score_copies
from kartina.metrics.prdc import TOO_FEW
from kartina.models.model import Model

TASK = "generate"
FIRST_SEED = 1000  # of generation: the first from here on that the final numbers do not use
SLACK = 0.01  # of agreement and coverage
TIE = 0.02  # share of the lowest FD-domain within which candidates are equal
RULE = (
    f"lowest FD-domain; agreement and coverage at most {SLACK} below the defaults', or below real images'; "
    f"within {TIE:.0%} the cheapest"
)

Settings = dict[str, Any]


@dataclass(frozen=True)
class Candidate:
    """One setting of the swept controls and what its images score."""

    controls: Settings
    fd: float
    agreement: float | None  # None of a model that knows no classes
    coverage: float
    ms: float  # an image, in batches, on this machine
    gflop: float  # an image

    def json_shape(self) -> dict[str, Any]:
        return {"controls": self.controls, "fd": self.fd, "class_agreement": self.agreement, "coverage": self.coverage,
                "ms": round(self.ms, 3), "gflop": round(self.gflop, 6)}  # fmt: skip


@dataclass(frozen=True)
class Floor:
    """What real images score: the references' own agreement, and the coverage of as many training images."""

    agreement: float
    coverage: float


def admissible(candidate: Candidate, default: Candidate, floor: Floor) -> bool:
    """Rule 2."""
    slack = SLACK + 1e-9  # a whole point, whatever rounding says
    covers = candidate.coverage >= min(default.coverage, floor.coverage) - slack
    if candidate.agreement is None or default.agreement is None:
        return covers
    return covers and candidate.agreement >= min(default.agreement, floor.agreement) - slack


def best(candidates: Sequence[Candidate], default: Candidate, floor: Floor) -> Candidate:
    """Rules 2 and 3; the default where nothing else will do."""
    fit = [c for c in candidates if admissible(c, default, floor)]
    if not fit:
        return default
    lowest = min(c.fd for c in fit)
    return min((c for c in fit if c.fd <= lowest * (1 + TIE)), key=lambda c: (c.gflop, c.fd))


def search(
    try_out: Callable[[Settings], Candidate],
    start: Settings,
    values: Mapping[str, Sequence[Any]],
    floor: Floor,
    goes: Callable[[Settings], bool] = lambda settings: True,
) -> tuple[Candidate, list[Candidate]]:
    """By coordinates from `start`, through settings that `goes` allows: the chosen candidate, and all that were tried,
    in order, each once."""
    tried: dict[str, Candidate] = {}

    def at(settings: Settings) -> Candidate:
        key = json.dumps(settings)
        if key not in tried:
            tried[key] = try_out(settings)
        return tried[key]

    chosen = default = at(start)
    for name, options in values.items():
        for settings in [{**chosen.controls, name: v} for v in options]:
            if goes(settings):
                at(settings)
        chosen = best(list(tried.values()), default, floor)
    return chosen, list(tried.values())


def sweep(
    model: Model,
    data: ImageSet,
    values: Mapping[str, Sequence[Any]] | None = None,
    *,
    split: Split = "val",
    samples: int = SAMPLES,
    avoid: Sequence[int] = (),
    batch: int = 64,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Choose controls of `model` (a run's) by what their images of `data` score; the card's "sweep", JSON-ready.

    `values` are tried instead of what the family declares, in turn, each beside those chosen of the controls before
    it, and not where it does not go with them (a churn after another solver was chosen); of what it declares, controls
    that the model has defaults for are left as they are. `avoid` are generation seeds that the final numbers use.
    {"chosen": {control: value}, "candidates": [{controls, fd, class_agreement, coverage, ms, gflop}], ...}; where
    nothing can be chosen, both are empty and "reason" says why in a sentence. Raises ConfigError for an unknown
    control or a value that it cannot have.
    """
    fixed = model.defaults.get(TASK, {})
    if values is None:
        values = declared(model)
    seed = next(s for s in range(FIRST_SEED, FIRST_SEED + len(avoid) + 1) if s not in avoid)
    about = {"task": TASK, "split": split, "seeds": [seed], "rule": RULE}
    reason = hindrance(model, data, values, split, samples)
    if reason:
        return {**about, "n": 0, "chosen": {}, "candidates": [], "reason": reason}

    # Every value is one that its control can have, if need be beside other values, before anything is made.
    def read(settings: Settings) -> Settings:
        found = model.controls(TASK, **settings).model_dump(mode="json")
        return {name: found[name] for name in values}

    def read_value(name: str, value: Any) -> Any:
        others = [[{}, *({k: v} for v in given)] for k, given in values.items() if k != name]
        for beside in product(*others):  # by itself first
            settings = {k: v for one in ({name: value}, *beside) for k, v in one.items()}
            if _goes(model, settings):
                return read(settings)[name]
        return read({name: value})[name]

    options = {k: list(dict.fromkeys(read_value(k, v) for v in given)) for k, given in values.items()}
    start = read({})
    expected = 1 + sum(v != start[name] for name, given in options.items() for v in given)

    def report(share: float, what: str) -> None:
        if progress is not None:
            progress(min(share, 1.0), what)

    # The judge, the references and the floor: once for all candidates.
    judge = domain_classifier(data, progress=lambda share, what: report(TRAINING_SHARE * share, what))
    eyes = Eyes.domain(judge)
    real = references(data, split, samples, eyes)
    held = data.part(split)
    floor = Floor(
        agreement(judge.predict(held.images), labels_of(held)), score_copies(data, real, eyes, seed).whole["coverage"]
    )
    n, done = len(real.labels), 0

    def try_out(settings: Settings) -> Candidate:
        nonlocal done

        def made(_: int, images: int, of: int) -> None:
            share = (done + images / of) / expected
            what = f"sweeping {said(settings)}: {images:,} of {of:,}"
            report(TRAINING_SHARE + (1 - TRAINING_SHARE) * share, what)

        candidate = replace(model, defaults={**model.defaults, TASK: {**fixed, **settings}})
        with FlopCounterMode(display=False) as flops:
            generate(candidate.family, candidate.rows([0], 1, 0))
        begun = time.perf_counter()
        images = generator(candidate, batch, made)(real.labels, seed)
        ms = 1000 * (time.perf_counter() - begun) / n
        found = score(eyes.look(images), real.labels, real).whole
        done += 1
        agrees = found["class_agreement"] if model.family.labelled else None
        return Candidate(settings, found["fd"], agrees, found["coverage"], ms, flops.get_total_flops() / 1e9)

    chosen, tried = search(try_out, start, options, floor, lambda settings: _goes(model, settings))
    report(1.0, "done")
    return {
        **about, "n": n, "start": start,
        "floor": {"class_agreement": floor.agreement, "coverage": floor.coverage}, "chosen": chosen.controls,
        "candidates": [c.json_shape() | {"admissible": admissible(c, tried[0], floor)} for c in tried],
    }  # fmt: skip


def declared(model: Model) -> dict[str, list[Any]]:
    """What the family declares to be swept, without controls that the model has defaults for, and without values that
    do not go with those (another solver than one that its churn needs)."""
    fixed, found = model.defaults.get(TASK, {}), dict[str, list[Any]]()
    if TASK not in model.family.capabilities():
        return found
    for name, options in model.family.sweep.items():
        if name not in fixed and (possible := [v for v in options if _goes(model, {name: v})]):
            found[name] = possible
    return found


def _goes(model: Model, settings: Settings) -> bool:
    try:
        model.controls(TASK, **settings)
    except ConfigError:
        return False
    return True


def candidates(model: Model, data: ImageSet, samples: int = SAMPLES) -> int:
    """How many settings a sweep of what the family declares tries; 0 where nothing can be chosen."""
    values = declared(model)
    if hindrance(model, data, values, "val", samples):
        return 0
    start = model.controls(TASK)
    return 1 + sum(1 for name, given in values.items() for v in given if v != getattr(start, name))


def said(settings: Mapping[str, Any]) -> str:
    """guidance=1.5 steps=8."""
    return " ".join(f"{name}={value}" for name, value in settings.items())


def hindrance(
    model: Model, data: ImageSet, values: Mapping[str, Sequence[Any]], split: Split, samples: int
) -> str | None:
    """Why nothing can be chosen, in a sentence; None when it can."""
    if TASK not in model.family.capabilities():
        return f"{model.family.name} makes no images from labels alone, so there is nothing to sweep."
    if not values:
        return f"{model.family.name} declares no controls to sweep besides those that were set."
    if len(data.spec.classes) < 2:
        return f"{data.name} has no classes, so there is no classifier to judge images by; the defaults stay."
    found = min(samples, len(data.part(split)))
    if found < TOO_FEW:
        return f"{found} {split} images of {data.name} are too few to choose by: it takes {TOO_FEW}; the defaults stay."
    return None
