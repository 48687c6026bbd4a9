"""Precision, recall (Kynkaanniemi 2019), density and coverage (Naeem 2020), per image and exact in float64.

A real image's ball reaches to its k-th nearest other real image. Coverage is the share of real images with a generated
one inside their ball; density counts how many real balls hold each generated image, over k; precision and recall ask
the same of the union of balls, real and generated. All comparisons are strict (<), as in the authors' code, and every
one is decided as differences would decide it (`distances`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kartina.metrics import distances

Array = NDArray[np.float64]

K_BALLS = 5  # density and coverage
K_MANIFOLD = 3  # precision and recall
TOO_FEW = 50  # real references below which a number is not given
TILE = 1024  # rows of distances held at once by `tiles`


@dataclass(frozen=True)
class PRDC:
    precision: float
    recall: float
    density: float
    coverage: float


def prdc(
    real: Array,
    fake: Array,
    k_manifold: int = K_MANIFOLD,
    k_balls: int = K_BALLS,
    *,
    balls: Array | None = None,
    wide: Array | None = None,
    progress: Callable[[float], None] | None = None,
) -> PRDC:
    """All four for features N,d and M,d: precision, recall with `k_manifold`, density, coverage with `k_balls`.

    `balls` and `wide` are radii(real, k_balls) and radii(real, k_manifold), where they are known already.
    """
    wide = radii(real, k_manifold) if wide is None else wide
    balls = (wide if k_balls == k_manifold else radii(real, k_balls)) if balls is None else balls
    own = radii(fake, k_manifold)
    holding = np.zeros(len(fake))  # how many real balls hold fake j
    precise = np.zeros(len(fake), bool)
    covered, recalled = np.zeros(len(real), bool), np.zeros(len(real), bool)
    for rows, columns, (held, near, recall) in distances.inside(real, fake, (balls, wide), (own,), progress):
        holding[columns] += held.sum(0)
        covered[rows] |= held.any(1)
        precise[columns] |= near.any(0)
        recalled[rows] |= recall.any(1)
    density = float(holding.mean() / k_balls)
    return PRDC(float(precise.mean()), float(recalled.mean()), density, float(covered.mean()))


def covered(real: Array, fake: Array, balls: Array | None = None, k: int = K_BALLS) -> NDArray[np.bool_]:
    """bool N: which real features have a generated one in their ball. `balls` = radii(real, k), when already known."""
    reach = radii(real, k) if balls is None else balls
    found = np.zeros(len(real), bool)
    for rows, _, (held,) in distances.inside(real, fake, (reach,)):
        found[rows] |= held.any(1)
    return found


def coverage(real: Array, fake: Array, k: int = K_BALLS) -> float:
    """Share of real features N,d with a generated one in their ball."""
    return float(covered(real, fake, k=k).mean())


def expected_coverage(n: int, m: int, k: int = K_BALLS) -> float:
    """Coverage when m generated and n real samples come from one continuous distribution (Naeem 2020, eq. 10).

    A real image is missed when its k nearest among the n - 1 + m others are all real:
    1 - prod_{j=0}^{k-1} (n - 1 - j) / (n - 1 + m - j); with N = n = m this is 1 - prod_{j=1}^{k} (N - j) / (2N - j).
    """
    missed = 1.0
    for j in range(k):
        missed *= (n - 1 - j) / (n - 1 + m - j)
    return 1 - missed


def radii(features: Array, k: int) -> Array:
    """Distance of each of the features N,d to its k-th nearest other one, N. Raises DataError when N <= k."""
    return distances.kth(features, k)


def tiles(a: Array, b: Array, tile: int = TILE) -> Iterator[tuple[slice, Array]]:
    """Euclidean distances a x b by differences, a tile of rows at a time."""
    one, two = (torch.from_numpy(np.ascontiguousarray(x, dtype=np.float64)) for x in (a, b))
    for start in range(0, len(one), tile):
        part = torch.cdist(one[start : start + tile], two, compute_mode="donot_use_mm_for_euclid_dist")
        yield slice(start, start + len(part)), part.numpy()
