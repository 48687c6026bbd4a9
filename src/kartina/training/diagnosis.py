"""Diagnosis while training: is a class collapsing, has the discriminator won, are the images known by heart?

Diversity here is cheap and needs no extractor: the mean distance between images of a class, each averaged down to 8x8
(so that pixel noise does not count as variety), generated over real. 1 is as varied as the data. It is a warning
light, not a number to report: `metrics.diversity` is that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kartina.data.imageset import ImageSet

COLLAPSED = 0.4  # a class less varied than this share of the real one is called collapsed
SATURATED = 0.95  # E sign D(real) above this: D separates nearly all real images
CELL = 8
ROSE = 1.1  # the loss on val over its lowest so far: from there on, twice in turn, it has risen
KINDS = ("collapse", "saturation", "by_heart")


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, and what helps."""

    kind: str  # of KINDS
    message: str


def coarse(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """uint8 N,C,H,W -> float64 N,d: cell means of an 8x8 grid (fewer where the image is smaller)."""
    n, c, h, w = images.shape
    ch, cw = min(CELL, h), min(CELL, w)
    cut = images[:, :, : h // ch * ch, : w // cw * cw].astype(np.float64)
    cells: NDArray[np.float64] = cut.reshape(n, c, ch, h // ch, cw, w // cw).mean(axis=(3, 5)).reshape(n, c * ch * cw)
    return cells


def spread(features: NDArray[np.float64]) -> float:
    """Mean distance between different rows of N,d; 0 for fewer than two."""
    n = len(features)
    if n < 2:
        return 0.0
    square = (features**2).sum(axis=1)
    d2 = np.maximum(square[:, None] + square[None, :] - 2 * features @ features.T, 0)
    return float(np.sqrt(d2).sum() / (n * (n - 1)))


def real_spread(data: ImageSet, per_class: int = 100) -> NDArray[np.float64]:
    """Spread of each class of a split, from at most `per_class` images spread evenly over it (shape K)."""
    labels = data.labels if data.labels is not None else np.zeros(len(data), np.int64)
    out = []
    for k in range(max(1, len(data.spec.classes))):
        index = np.flatnonzero(labels == k)
        index = index[np.linspace(0, len(index) - 1, min(per_class, len(index))).astype(int)] if len(index) else index
        out.append(spread(coarse(data.images[index])))
    return np.asarray(out)


def diversity(images: NDArray[np.uint8], labels: NDArray[np.int64], real: NDArray[np.float64]) -> dict[int, float]:
    """Class -> generated spread over real spread, for classes with at least four images and varied real ones."""
    out = {}
    for k in np.unique(labels):
        chosen = images[labels == k]
        if len(chosen) >= 4 and real[k] > 0:
            out[int(k)] = spread(coarse(chosen)) / float(real[k])
    return out


def by_heart(losses: Mapping[int, float]) -> list[Finding]:
    """Whether the losses on val, by images seen, are well above the lowest, and were so when looked at before."""
    if len(losses) < 3:
        return []
    best = min(losses, key=lambda images: losses[images])
    before, last = list(losses)[-2:]
    if min(losses[before], losses[last]) <= ROSE * losses[best]:
        return []
    return [
        Finding(
            "by_heart",
            f"The loss on val was lowest, {losses[best]:.3g}, after {best:,} images and is {losses[last]:.3g} after "
            f"{last:,}: the model learns its training images by heart. Train for fewer images (--images {best}), bring "
            f"more, or, where the family has them, raise augment and dropout (--set augment=0.3 --set dropout=0.1).",
        )
    ]


def findings(
    diverse: Mapping[int, float],
    classes: Sequence[str],
    stats: Mapping[str, float],
    fraction: float,
    losses: Mapping[int, float] | None = None,
) -> list[Finding]:
    """What is wrong now; nothing is said in the first fifth of the budget, where pictures are still noise. `losses` on
    val images are by how many images had been seen, in order."""
    if fraction < 0.2:
        return []
    out = by_heart(losses or {})
    low = {k: v for k, v in diverse.items() if v < COLLAPSED}
    if low:
        named = ", ".join(f"{classes[k] if classes else 'images'} {v:.2f}" for k, v in sorted(low.items()))
        out.append(
            Finding(
                "collapse",
                f"The images of a class are all alike (variety as a share of the real one: {named}). For a GAN raise "
                f"gamma, keep minibatch_std and translate on, or use loss=relativistic; for a VAE lower beta; for a "
                f"flow train longer.",
            )
        )
    if stats.get("sign_real", 0.0) > SATURATED:
        out.append(
            Finding(
                "saturation",
                f"The discriminator recognises {(1 + stats['sign_real']) / 2:.0%} of the real images, so the generator "
                f"learns little. Raise gamma, turn on augmentation (translate), or lower the learning rate.",
            )
        )
    return out
