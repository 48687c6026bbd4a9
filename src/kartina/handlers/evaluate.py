"""Use case: the first numbers of a model or a run, on a data set's real images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kartina.data.imageset import ImageSet, Split, open_set
from kartina.errors import DataError
from kartina.generators.base import from_uint8, generate
from kartina.handlers.load import load_any
from kartina.metrics.evaluate import DEFAULT, TRAINING_SHARE, Bits, Generate, first_numbers, steady
from kartina.metrics.extractors import find_extractor
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
    extractor: str = "domain",
    weights: str | Path | None = None,
) -> dict[str, Any]:
    """Evaluate a model (name, name@2, hash, folder) or a run on the data set `data` (default: the one it learnt from).

    Returns {"model", "data", "split", "metrics", "per_class", "control"}. Raises NotFoundError for an unknown name
    and DataError where the data are not the kind of image that the model makes.
    """
    model = load_any(ref, device)
    name = data or _trained_on(model)
    numbers = evaluate_model(model, open_set(name), split, seeds, samples, batch, progress, metrics, extractor, weights)
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
    extractor: str = "domain",
    weights: str | Path | None = None,
) -> dict[str, Any]:
    """`first_numbers` of a loaded model with its default controls, image size and classes checked first.

    `metrics` are of `kartina.metrics.evaluate.METRICS`; `extractor` and `weights` are as `find_extractor` takes them.
    """
    if model.spec.shape != data.spec.shape or model.classes != data.spec.classes:
        raise DataError(
            f"Found a model of {_kind(model.spec.shape, model.classes)} and data of "
            f"{_kind(data.spec.shape, data.spec.classes)}; expected the same. Evaluate on the data it was trained on, "
            "imported alike."
        )

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
        extractor=find_extractor(extractor, weights, report),
    )


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


def _trained_on(model: Model) -> str:
    name = model.manifest.provenance.data if model.manifest else model.data
    if name is None:
        raise DataError(f"Found no record of the data that {model.ref} learnt from; name a data set with --data.")
    return name


def _kind(shape: tuple[int, int, int], classes: tuple[str, ...]) -> str:
    channels, height, width = shape
    listed = ", ".join(classes[:4]) + (", ..." if len(classes) > 4 else "")
    return f"{width}x{height} pixels, {channels} channels, {len(classes)} classes ({listed})"
