"""Use case: make a run's model a package, with its card, its numbers and its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kartina import __version__
from kartina.data.imageset import ImageSet
from kartina.handlers.evaluate import SAMPLES, Progress, evaluate_model
from kartina.handlers.sweep import sweep as sweep_controls
from kartina.models import package, png
from kartina.models.model import Model, round_to_half, save, training_keys
from kartina.models.package import COLUMNS, SHEET_CLASSES, SHEET_INPUTS, PackageRef, Provenance
from kartina.models.samples import Samples
from kartina.training import checkpoint, transfer
from kartina.training.run import Run

SWEEP_SHARE = 0.6  # of the progress, when there are numbers to make after it


def publish(
    run: str | Path,
    name: str,
    licence: str | None = None,
    about: str = "",
    *,
    evaluate: bool = True,
    seeds: Sequence[int] = (0, 1, 2),
    samples: int = SAMPLES,
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
    controls: Mapping[str, Any] | None = None,
    sweep: bool | Mapping[str, Sequence[Any]] = False,
    with_training: bool = False,
    average: Sequence[str | Path] = (),
    precision: Literal["fp16", "fp32"] = "fp16",
    device: str = "cpu",
    extra: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> PackageRef:
    """Publish a run (id, number or folder) as the next version of the model `name`.

    The card gets numbers on the val split unless `evaluate` is off (or the data have no classes). `defaults` are
    controls per task over the family's, `controls` those of "generate" (or of its first task, for a model that only
    works on images). `sweep` chooses the other defaults on val (see `handlers.sweep`): those that
    the family declares, or the given control -> values. `with_training` keeps what only trains (a discriminator), so
    that another run may start from the package. `average` are further runs, with whose weights the run's are averaged
    (see `Run.trained`). `precision` is that of the stored weights (sampling is in fp32).
    `extra` are further keys of the card.
    Raises ConfigError for an unusable name or default, NotFoundError for an unknown run or one without a checkpoint,
    IntegrityError when its data have changed; nothing partial is left.
    """
    package.check_name(name)
    found = Run.open(run)
    data = found.data()
    others = [Run.open(other) for other in average]
    found.check_average(others, with_training)
    family, counters = found.trained(device, others)
    if precision == "fp16":
        round_to_half(family)
    training = transfer.live(found, int(counters["images"])) if with_training else None
    if training is not None and precision == "fp16":
        round_to_half(training, training_keys(training))
    chosen_defaults = {task: dict(given) for task, given in (defaults or {}).items()}
    if controls:
        tasks = family.capabilities()
        main = "generate" if "generate" in tasks else next(iter(tasks))
        chosen_defaults[main] = {**chosen_defaults.get(main, {}), **controls}
    model = Model(family, found.id, data=data.name, defaults=chosen_defaults)
    for task in model.defaults:
        model.controls(task)  # a wrong default is refused before anything is measured
    chosen: dict[str, Any] = {}
    if sweep is not False:
        share = SWEEP_SHARE if evaluate else 1.0
        chosen = sweep_controls(model, data, None if sweep is True else sweep, samples=samples, avoid=seeds,
                                progress=_within(progress, 0.0, share))  # fmt: skip
        progress = _within(progress, share, 1.0)
        model = replace(model, defaults=_over(model.defaults, chosen))
    numbers: dict[str, Any] = {"metrics": {}, "per_class": []}
    if evaluate and len(data.spec.classes) > 1 and "generate" in family.capabilities():
        numbers = evaluate_model(model, data, "val", seeds, samples, progress=progress)
    config = found.config
    origin = Provenance(
        preset=config.preset,
        data=config.data,
        data_hash=config.data_hash,
        images=int(counters["images"]),
        seconds=float(counters["seconds"]),
        seed=config.train.seed,
        kartina=__version__,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    card = {
        "licence": licence,
        "about": about,
        "data": {"name": data.name, "hash": data.hash, "counts": _counts(data)},
        "budget": {"images": origin.images, "seconds": origin.seconds},
        **({"start": config.start.model_dump(include={"ref", "teacher", "hash"})} if config.start else {}),
        **({"sweep": chosen} if chosen else {}),
        **({"averaged": [found.id, *(other.id for other in others)]} if others else {}),
        **(extra or {}),
        **numbers,
    }
    return save(model.family, name, origin, card, defaults=model.defaults, training=training,
                pictures=lambda made: pictures(made, data))  # fmt: skip


def _over(defaults: Mapping[str, Mapping[str, Any]], swept: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Defaults per task with what a sweep chose over them."""
    out = {task: dict(given) for task, given in defaults.items()}
    if swept["chosen"]:
        out[swept["task"]] = {**out.get(swept["task"], {}), **swept["chosen"]}
    return out


def _within(progress: Progress | None, start: float, stop: float) -> Progress | None:
    """Progress of a part of the work, as a share of the whole."""
    if progress is None:
        return None
    report = progress
    return lambda share, what: report(start + (stop - start) * share, what)


def pictures(model: Model, data: ImageSet) -> dict[str, bytes]:
    """samples.png and classes/<label>.png: seeds 0, 1, 2, ... in order, nothing chosen."""
    if "generate" not in model.family.capabilities():
        return worked_on(model, data.part("val" if "val" in data.bounds else "train"))
    classes = model.family.classes
    shown = list(range(min(classes, SHEET_CLASSES)))
    sheet = model.sample(shown, n=COLUMNS * len(shown), seed=0)
    recipe = {**sheet.recipe, "labels": [sheet.class_name(i) for i in shown] if model.classes else None, "seed": 0}
    files = {"samples.png": png.encode(sheet.grid(), recipe)}
    ones = sheet if classes == len(shown) else model.sample(n=classes, seed=0)
    for label in range(classes):
        files[f"classes/{label}.png"] = png.encode(ones.images[label], ones.recipe_of(label))
    return files


def pictured(model: Model) -> int:
    """How many images `pictures` makes; at most, where the data have fewer classes or images."""
    classes = model.family.classes
    if "generate" not in model.family.capabilities():
        return SHEET_INPUTS + classes
    return COLUMNS * min(classes, SHEET_CLASSES) + (classes if classes > SHEET_CLASSES else 0)


def worked_on(model: Model, data: ImageSet) -> dict[str, bytes]:
    """The same of a model that only works on images: samples.png has its first task's input and output for the first
    SHEET_INPUTS images of `data`, side by side; classes/<label>.png is what it makes of the first one of the class."""
    task = next(iter(model.family.capabilities()))
    sources = data.sources if model.family.takes_pairs(model.family.config) else None
    inputs = data.images if sources is None else sources
    labels = np.zeros(len(data), np.int64) if data.labels is None else data.labels

    def made(index: NDArray[np.int64]) -> Samples:
        return model.run(task, labels[index].tolist(), len(index), seed=0, images=inputs[index])

    sheet = made(np.arange(min(len(data), SHEET_INPUTS)))
    given = np.stack([one.pixels for one in sheet.given])
    cells = np.stack(png.alike(given, sheet.images), axis=1)  # n,2,C,H,W
    flat = cells.reshape(-1, *cells.shape[2:])
    rows = [flat[i : i + COLUMNS] for i in range(0, len(flat), COLUMNS)]
    recipe = {**sheet.recipe, "images": [one.sha256 for one in sheet.given], "seed": 0}
    files = {"samples.png": png.encode(png.grid(rows), recipe)}
    present, first = np.unique(labels, return_index=True)
    ones = made(first)
    for i, label in enumerate(present.tolist()):
        files[f"classes/{label}.png"] = png.encode(ones.images[i], ones.recipe_of(i))
    return files


def _counts(data: ImageSet) -> dict[str, int]:
    """Training images per class."""
    return dict(zip(data.spec.classes, data.part("train").counts().tolist(), strict=True))


def made_of(run: Run, name: str, first: int = 1, averaged: Sequence[str] = ()) -> PackageRef | None:
    """The package `name` of this run's newest weights, or of those `averaged`, that an earlier attempt has made:
    version `first` or later."""
    state = checkpoint.read(run.checkpoint()).state
    made = (run.config.preset, run.config.data_hash, run.config.train.seed, state["images"], float(state["seconds"]))
    for found in package.list_packages():
        if found.name == name and found.version >= first:
            p = package.read_manifest(found.path).provenance
            alike = (p.preset, p.data_hash, p.seed, p.images, p.seconds) == made
            if alike and package.read_card(found.path).get("averaged", []) == list(averaged):
                return found
    return None
