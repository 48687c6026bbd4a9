"""Use case: the first numbers of a model or a run, on a data set's real images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kartina.data.given import is_given, read_given
from kartina.data.imageset import ImageSet, Split, open_set
from kartina.errors import ConfigError, DataError, NotFoundError
from kartina.generators.base import from_uint8, generate
from kartina.handlers.load import load_any
from kartina.metrics.evaluate import (
    DEFAULT,
    TRAINING_SHARE,
    Bits,
    Generate,
    Labels,
    first_numbers,
    labels_of,
    steady,
    stratified,
)
from kartina.metrics.extractors import Extractor, find_extractor
from kartina.metrics.protocol import LARGEST
from kartina.models.model import Model

Progress = Callable[[float, str], None]

SAMPLES = 2000  # images per generation seed on a CPU
STRIDE = 2**32  # seed s draws images s * STRIDE + i: no two generation seeds share an image


def evaluate_ref(
    ref: str,
    data: str | None = None,
    split: Split = "val",
    seeds: Sequence[int] = (0, 1, 2),
    samples: int = SAMPLES,
    device: str = "cpu",
    batch: int = 64,
    progress: Progress | None = None,
    metrics: Sequence[str] = DEFAULT,
    extractor: str | Extractor | None = "domain",
    weights: str | Path | None = None,
) -> dict[str, Any]:
    """Evaluate a model (name, name@2, hash, folder), a run, or anyone's images (a folder, an npz) on the set `data`.

    A model's default data are those that it learnt from; images need a name. Returns {"model", "data", "split",
    "metrics", "per_class", "control"}. Raises NotFoundError for an unknown name and DataError where the data are not
    the kind of image that the model makes.
    """
    extractor = find_extractor(extractor, weights, progress) if isinstance(extractor, str) else extractor
    try:
        model = load_any(ref, device)
    except NotFoundError:
        path = Path(ref).expanduser()
        if not is_given(path):
            raise
        if data is None:
            raise ConfigError(
                f"Found images, {path.name}, and no --data; expected the real images' data set."
            ) from None
        found = evaluate_images(path, open_set(data), split, seeds, samples, progress, metrics, extractor)
        return {"model": path.name, "data": data, "split": split, **found}
    name = data or trained_on(model)
    numbers = evaluate_model(model, open_set(name), split, seeds, samples, batch, progress, metrics, extractor)
    return {"model": model.ref, "data": name, "split": split, **numbers}


def evaluate_model(
    model: Model,
    data: ImageSet,
    split: Split = "val",
    seeds: Sequence[int] = (0, 1, 2),
    samples: int = SAMPLES,
    batch: int = 64,
    progress: Progress | None = None,
    metrics: Sequence[str] = DEFAULT,
    extractor: str | Extractor | None = "domain",
    weights: str | Path | None = None,
) -> dict[str, Any]:
    """`first_numbers` of a loaded model with its default controls, image size and classes checked first.

    `metrics` are of `kartina.metrics.evaluate.METRICS`; `extractor` is an extractor or, with `weights`, what
    `find_extractor` takes.
    """
    check_kind(model, data)
    report = steady(progress)

    def made(seed: int, done: int, n: int) -> None:
        share = (list(seeds).index(seed) + 0.5 * done / n) / len(seeds)
        report(TRAINING_SHARE + (1 - TRAINING_SHARE) * share, f"generating, seed {seed}: {done:,} of {n:,}")

    return first_numbers(
        generator(model, batch, made),
        data,
        seeds,
        split,
        samples,
        report,
        labelled=model.family.labelled,
        bits=likelihood(model, batch),
        metrics=metrics,
        extractor=find_extractor(extractor, weights, report) if isinstance(extractor, str) else extractor,
    )


def check_kind(model: Model, data: ImageSet) -> None:
    """DataError where the model's images are of another size, or other classes, than the data's."""
    if model.spec.shape != data.spec.shape or model.classes != data.spec.classes:
        raise DataError(
            f"Found a model of {_kind(model.spec.shape, model.classes)} and data of "
            f"{_kind(data.spec.shape, data.spec.classes)}; expected the same. Evaluate on the data it was trained on, "
            "imported alike."
        )


def evaluate_images(
    path: Path,
    data: ImageSet,
    split: Split = "val",
    seeds: Sequence[int] = (0, 1, 2),
    samples: int = SAMPLES,
    progress: Progress | None = None,
    metrics: Sequence[str] = DEFAULT,
    extractor: Extractor | None = None,
) -> dict[str, Any]:
    """`first_numbers` of images that any tool made: a folder of PNGs or an npz (`data.given`).

    Images of a class stand for the references of that class, in their order; so the same images get the same numbers as
    from a model. As many sets as there are images for, at most one per seed, take the place of generation seeds; images
    beyond them are left out. Images without labels count as an unconditional model's, and are taken by chance, the same
    each time: a folder may be sorted by what they show.
    """
    images, labels = read_given(path, data.spec)
    held = labels_of(data.part(split))
    have = None if labels is None else np.bincount(labels, minlength=max(1, len(data.spec.classes)))
    lacking = [] if have is None else [data.spec.classes[c] for c in np.unique(held) if not have[c]]
    if lacking:
        raise DataError(
            f"Found no image of {', '.join(lacking[:4])} in {path.name}; expected every class of {data.name!r} on "
            f"{split}. Make some, or put all images into one folder, without labels."
        )
    m = fitting(have, len(images), held, min(samples, LARGEST))
    wanted = None if labels is None else np.bincount(held[stratified(held, m)])
    order = np.random.Generator(np.random.Philox(key=[0, len(images)])).permutation(len(images))
    sets = min(len(seeds), len(images) // m if wanted is None else _sets(labels, wanted))

    def take(asked: Labels, k: int) -> NDArray[np.uint8]:
        """The k-th set: for each label asked for, the next image of it."""
        if labels is None:
            return images[np.sort(order[k * m : (k + 1) * m])]
        out = np.empty((m, *images.shape[1:]), np.uint8)
        for c in np.unique(asked):
            where = np.flatnonzero(asked == c)
            out[where] = images[np.flatnonzero(labels == c)[k * len(where) : (k + 1) * len(where)]]
        return out

    return first_numbers(
        take, data, tuple(range(sets)), split, m, progress,
        labelled=labels is not None, metrics=metrics, extractor=extractor,
    )  # fmt: skip


def fitting(have: Labels | None, n: int, held: Labels, samples: int) -> int:
    """The most references that `n` images can answer to, class by class where `have` counts them."""
    m = min(n, len(held), samples)
    while have is not None and m > 0:
        wanted = np.bincount(held[stratified(held, m)], minlength=len(have))
        if (wanted <= have).all():
            break
        short = wanted > have
        m = min(m - 1, int((m * have[short] / wanted[short]).min()) + 1)
    return m


def _sets(labels: Labels | None, wanted: Labels) -> int:
    assert labels is not None
    have = np.bincount(labels, minlength=len(wanted))
    return int((have[: len(wanted)][wanted > 0] // wanted[wanted > 0]).min())


def generator(model: Model, batch: int = 64, made: Callable[[int, int, int], None] | None = None) -> Generate:
    """A model as metrics see it: labels N and a generation seed in, uint8 N,C,H,W out. `made` gets (seed, made, N)."""
    settings = model.controls()

    def make(labels: NDArray[np.int64], seed: int) -> NDArray[np.uint8]:
        rows = model.rows(labels.tolist(), len(labels), seed * STRIDE, settings)
        report = None if made is None else lambda done: made(seed, done, len(labels))
        images: NDArray[np.uint8] = generate(model.family, rows, batch, report).images.numpy()
        return images

    return make


def likelihood(model: Model, batch: int = 64) -> Bits | None:
    """The bits per dimension that a model needs for real images, as metrics see it; None for a model without them."""
    family = model.family
    if not family.measures_bits:
        return None

    @torch.inference_mode()
    def measure(images: NDArray[np.uint8], labels: NDArray[np.int64], k: int, seed: int) -> NDArray[np.float64]:
        rng, found = torch.Generator().manual_seed(seed), []
        for i in range(0, len(images), batch):
            x = from_uint8(torch.from_numpy(images[i : i + batch])).to(family.device)
            y = family.one_hot(torch.from_numpy(labels[i : i + batch])).to(family.device)
            found.append(family.bits(x, y, k, rng))
        bits: NDArray[np.float64] = torch.cat(found).double().cpu().numpy()
        return bits

    return measure


def trained_on(model: Model) -> str:
    """The data set that it learnt from. Raises DataError where that is not recorded."""
    name = model.manifest.provenance.data if model.manifest else model.data
    if name is None:
        raise DataError(f"Found no record of the data that {model.ref} learnt from; name a data set with --data.")
    return name


def _kind(shape: tuple[int, int, int], classes: tuple[str, ...]) -> str:
    channels, height, width = shape
    listed = ", ".join(classes[:4]) + (", ..." if len(classes) > 4 else "")
    return f"{width}x{height} pixels, {channels} channels, {len(classes)} classes ({listed})"
