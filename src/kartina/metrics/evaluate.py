"""First numbers of a model: class agreement, coverage, diversity and FD in the domain's features, whole and per class.

    m references are drawn once from the split (all of it when it is small), following its histogram of classes;
    each generation seed makes n = m images of the same labels; numbers are means over seeds with a t-interval;
    floors are what n real training images with the same labels score: nobody need be better than the data itself.

The control row "training copies" scores real training images as if they had been generated: agreement, coverage and FD
all admire a copier, so none of them says that a model makes something new.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kartina.data.imageset import ImageSet, Split
from kartina.errors import ConfigError, DataError
from kartina.metrics.agreement import agreement, agreement_per_class
from kartina.metrics.classifier import Classifier, Progress, domain_classifier, top
from kartina.metrics.diversity import diversity, spreads
from kartina.metrics.fd import Reference, fd
from kartina.metrics.interval import t_interval
from kartina.metrics.prdc import K_BALLS, TOO_FEW, covered, radii
from kartina.metrics.protocol import LARGEST, Identity, Value

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
Generate = Callable[[Labels, int], NDArray[np.uint8]]  # labels N, generation seed -> uint8 N,C,H,W
Bits = Callable[[NDArray[np.uint8], Labels, int, int], Array]  # uint8 N,C,H,W, labels N, K, seed -> bits/dim N

METRICS = {"class_agreement": "class agreement", "coverage": f"coverage k={K_BALLS}", "diversity": "diversity",
           "fd": "FD-domain"}  # fmt: skip
BOUNDS = {"bits_per_dim": 1, "bits_per_dim_iw": 10}  # bits per dimension: draws K behind the bound; 1 is the ELBO
SCORED = 1000  # images behind bits per dimension, at most
TRAINING_SHARE = 0.4  # of the progress, when the classifier is not cached


@dataclass(frozen=True)
class Real:
    """The references: features and labels of m real images, and what is computed from them once."""

    features: Array
    labels: Labels
    classes: int
    fd: Reference
    balls: Array  # m: distance to the k-th neighbour in the whole set
    balls_in_class: list[Array | None]  # per class; None where it has under TOO_FEW references
    spreads: Array  # K

    @classmethod
    def of(cls, features: Array, labels: Labels, classes: int) -> Real:
        inside = [features[labels == c] for c in range(classes)]
        return cls(
            features, labels, classes, Reference.of(features), radii(features, K_BALLS),
            [radii(x, K_BALLS) if len(x) >= TOO_FEW else None for x in inside], spreads(features, labels, classes),
        )  # fmt: skip

    @property
    def counts(self) -> Labels:
        return np.bincount(self.labels, minlength=self.classes).astype(np.int64)


@dataclass(frozen=True)
class Scores:
    """What one set of n images scores against the references."""

    whole: dict[str, float]
    agreement: Array  # K
    coverage: Array  # K; nan where a class has too few references
    diversity: Array  # K; nan where there are no pairs


def score(features: Array, predicted: Labels, labels: Labels, real: Real, absent: float | None = None) -> Scores:
    """Score features N,d of images asked to be `labels`, which a classifier took for `predicted`.

    `absent` is the variety of a class with fewer than two images; None leaves such classes out.
    """
    own = spreads(features, labels, real.classes)
    if absent is not None:
        own = np.where(np.isfinite(own), own, absent)
    inside = np.full(real.classes, np.nan)
    for c, balls in enumerate(real.balls_in_class):
        if balls is not None:
            own_images = features[labels == c]
            near = covered(real.features[real.labels == c], own_images, balls) if len(own_images) else np.zeros(1)
            inside[c] = near.mean()
    whole = {
        "class_agreement": agreement(predicted, labels),
        "coverage": float(covered(real.features, features, real.balls).mean()),
        "diversity": diversity(own, real.spreads, real.counts),
        "fd": fd(features, real.fd),
    }
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(real.spreads > 0, own / real.spreads, np.nan)
    return Scores(whole, agreement_per_class(predicted, labels, real.classes), inside, ratio)


def first_numbers(
    generate: Generate,
    data: ImageSet,
    seeds: Sequence[int] = (0, 1, 2),
    split: Split = "val",
    samples: int = 2000,
    progress: Progress | None = None,
    classifier: Classifier | None = None,
    labelled: bool = True,
    bits: Bits | None = None,
) -> dict[str, Any]:
    """Evaluate a generator on `data`.

    `generate` gets int64 labels and a generation seed and returns uint8 N,C,H,W. A generator that does not look at the
    labels (`labelled` false) has no class agreement; its images count for the class that the classifier sees in them,
    and a class that it never makes has no variety. `bits`, of a model that has a likelihood of levels, gets real images
    and their labels, K and a seed, and adds bits per dimension. Returns JSON-ready
    {"metrics": {name: {value, interval, floor, identity}}, "per_class": [worst first], "control": {"training
    copies": {...}}}. Raises DataError for data without classes or with too few references.
    """
    seeds = tuple(seeds)
    if not seeds or len(set(seeds)) != len(seeds) or samples < 1:
        raise ConfigError(f"Found seeds {list(seeds)} and samples {samples}; expected distinct seeds and samples > 0.")

    # The classifier, and the references in its features.
    def report(share: float, what: str) -> None:
        if progress is not None:
            progress(min(share, 1.0), what)

    judge = classifier or domain_classifier(data, progress=lambda t, what: report(TRAINING_SHARE * t, what))
    report(TRAINING_SHARE, "reading the references")
    real = references(data, split, samples, judge)
    labels, m = real.labels, len(real.labels)
    held = data.part(split)
    floor_agreement = agreement(judge.predict(held.images), np.asarray(held.labels))

    # Floors, and the control: real training images with the same labels.
    copies = [score_copies(data, real, judge, seed) for seed in seeds]
    floors = _means([s.whole for s in copies]) | {"class_agreement": floor_agreement}

    # The model.
    scores = []
    for i, seed in enumerate(seeds):
        at = TRAINING_SHARE + (1 - TRAINING_SHARE) * i / len(seeds)
        report(at, f"generating {m} images, seed {i + 1} of {len(seeds)}")
        images = generate(labels, seed)
        if images.shape != (m, *data.spec.shape) or images.dtype != np.uint8:
            raise DataError(
                f"Found generated images of shape {images.shape} and type {images.dtype}; {data.name!r} has uint8 "
                f"{(m, *data.spec.shape)}. Evaluate a model on data of its own size."
            )
        features, logits = judge(images)
        predicted = top(logits)
        scores.append(
            score(features, predicted, labels if labelled else predicted, real, absent=None if labelled else 0)
        )
    report(1.0, "done" if bits is None else "measuring bits per dimension")

    def value(key: str) -> dict[str, Any]:
        of_seeds = [s.whole[key] for s in scores]
        identity = Identity(
            metric=METRICS[key], extractor="FD-domain", extractor_hash=judge.hash, data=data.hash, split=split,
            n=m, m=m, seeds=seeds,
        )  # fmt: skip
        mean = float(np.mean(of_seeds))
        if key == "class_agreement" and not labelled:
            return Value(value=None, identity=identity, reason="unconditional").json_shape()
        if not np.isfinite(mean) or (key == "coverage" and m < TOO_FEW):
            return Value(value=None, identity=identity, reason="too few").json_shape()
        return Value(
            value=mean, interval=t_interval(of_seeds), floor=_number(floors[key]), identity=identity
        ).json_shape()  # fmt: skip

    metrics = {key: value(key) for key in METRICS}
    if bits is not None:
        metrics |= {key: bits_per_dim(bits, data, split, min(samples, SCORED), seeds, k) for key, k in BOUNDS.items()}
    return {
        "metrics": metrics,
        "per_class": _per_class(data, scores, data.part("train").counts(), labelled),
        "control": {"training copies": {k: _number(v) for k, v in _means([s.whole for s in copies]).items()}},
    }


def bits_per_dim(
    bits: Bits, data: ImageSet, split: Split, samples: int, seeds: Sequence[int], k: int
) -> dict[str, Any]:
    """Mean bits per dimension of images of `split`, picked as references are; an upper bound by k draws of each seed.

    The interval is that of the draws: the images are the same. There is no floor: real images have no such number.
    """
    held = data.part(split)
    assert held.labels is not None
    picked = stratified(held.labels, samples)
    images, labels = np.asarray(held.images[picked]), np.ascontiguousarray(held.labels[picked])
    of_seeds = [float(bits(images, labels, k, seed).mean()) for seed in seeds]
    identity = Identity(
        metric=f"bits/dim K={k}", extractor="none", extractor_hash="", data=data.hash, split=split,
        n=len(picked), m=len(picked), seeds=tuple(seeds),
    )  # fmt: skip
    return Value(value=float(np.mean(of_seeds)), interval=t_interval(of_seeds), identity=identity).json_shape()


def references(data: ImageSet, split: Split, samples: int, judge: Classifier) -> Real:
    """m references of `split`, m = min(samples, its size), following its histogram of classes, in judge's features.

    Raises DataError where there are too few.
    """
    held = data.part(split)
    assert held.labels is not None
    m = min(samples, LARGEST, len(held))
    if m <= K_BALLS:
        raise DataError(f"Found {m} reference images in {split!r} of {data.name!r}; expected at least {K_BALLS + 1}.")
    picked = stratified(held.labels, m)
    labels = np.ascontiguousarray(held.labels[picked])
    return Real.of(judge(held.images[picked])[0], labels, len(data.spec.classes))


def score_copies(data: ImageSet, real: Real, judge: Classifier, seed: int) -> Scores:
    """What real training images with the references' labels score, drawn by `seed`: the floor."""
    train = data.part("train")
    assert train.labels is not None
    features, logits = judge(train.images[like(train.labels, real.labels, seed)])
    return score(features, top(logits), real.labels, real)


def stratified(labels: Labels, m: int, seed: int = 0) -> NDArray[np.int64]:
    """Sorted positions of m of the labels, following their histogram by largest remainders; all when m = N."""
    if m >= len(labels):
        return np.arange(len(labels))
    counts = np.bincount(labels)
    exact = counts * (m / len(labels))
    take = np.floor(exact).astype(np.int64)
    for c in np.argsort(take - exact, kind="stable")[: m - take.sum()]:
        take[c] += 1
    rng = np.random.default_rng(seed)
    found = [rng.permutation(np.flatnonzero(labels == c))[:n] for c, n in enumerate(take)]
    return np.sort(np.concatenate(found)).astype(np.int64)


def like(pool: Labels, wanted: Labels, seed: int) -> NDArray[np.int64]:
    """A position in `pool` with each of the labels `wanted`, drawn without replacement while a class lasts.

    Raises DataError for a label that the pool has not.
    """
    rng = np.random.default_rng(seed)
    out = np.empty(len(wanted), np.int64)
    for c in np.unique(wanted):
        where, have = np.flatnonzero(wanted == c), np.flatnonzero(pool == c)
        if len(have) == 0:
            raise DataError(f"Found no training image of class {c}; expected every class in every split.")
        rounds = -(-len(where) // len(have))
        out[where] = np.concatenate([rng.permutation(have) for _ in range(rounds)])[: len(where)]
    return out


def _per_class(data: ImageSet, scores: Sequence[Scores], train: Labels, labelled: bool) -> list[dict[str, Any]]:
    """A row per class, the worst first: by the lowest of its agreement, coverage and diversity."""
    rows = []
    for c, name in enumerate(data.spec.classes):
        row: dict[str, Any] = {"class": name}
        for key in ("agreement", "coverage", "diversity"):
            row[key] = _number(float(np.mean([getattr(s, key)[c] for s in scores])))
        row["agreement"] = row["agreement"] if labelled else None
        row["train"] = int(train[c])
        if row["coverage"] is None:
            row["reason"] = "too few"  # references of this class for coverage
        rows.append(row)
    return sorted(
        rows, key=lambda r: min([r[k] for k in ("agreement", "coverage", "diversity") if r[k] is not None] or [0.0])
    )


def _means(found: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([one[key] for one in found])) for key in found[0]}


def _number(x: float) -> float | None:
    """JSON has no nan."""
    return x if np.isfinite(x) else None
