"""Kernel distance between two sets of features, exact in float64 (KID, Binkowski 2018).

    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i,j} k(x_i, y_j),   k(x, y) = (x.y/d + 1)^3

is unbiased: it does not grow as images get fewer, as a Frechet distance does, and it may be a little below 0. So it
is the distance for classes of some hundred images. From larger sets, 100 random subsets of 1,000 are averaged; from
smaller ones all images are taken, once. The spread between subsets is not an interval: they share images.

Whatever the extractor was, only features of the FID Inception network give a number that may be called KID.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from kartina.errors import DataError
from kartina.metrics.fd import checked

Array = NDArray[np.float64]

SUBSETS = 100
SIZE = 1000  # images of a subset, of either side
TILE = 512  # rows and columns of the kernel matrix that are held at once: they fit a core's cache


def kid(
    real: Array,
    fake: Array,
    subsets: int = SUBSETS,
    size: int = SIZE,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> float:
    """Mean MMD^2 of `subsets` random subsets of `size` of the features N,d and M,d; all of both when either has fewer.

    A function of (features, seed). Raises DataError for fewer than two features, or features of two sizes.
    """
    if min(len(real), len(fake)) <= size:
        return mmd2(real, fake)
    found = []
    for i, (ours, theirs) in enumerate(draws(len(real), len(fake), subsets, size, seed)):
        found.append(mmd2(real[ours], fake[theirs]))
        if progress is not None:
            progress(i + 1, subsets)
    return float(np.mean(found))


def draws(n: int, m: int, subsets: int, size: int, seed: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Positions of each subset's real and generated features, drawn by torch's generator as torchmetrics draws them."""
    rng = torch.Generator().manual_seed(seed)
    for _ in range(subsets):
        ours = torch.randperm(n, generator=rng)[:size].numpy()
        yield ours, torch.randperm(m, generator=rng)[:size].numpy()


def mmd2(x: Array, y: Array) -> float:
    """Unbiased MMD^2 of the features N,d and M,d under the cubic kernel; in tiles of the kernel matrix."""
    x, y = checked(x), checked(y)
    if x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise DataError(f"Found features of shapes {x.shape} and {y.shape}; expected N,d and M,d, N and M at least 2.")
    n, m = len(x), len(y)
    return _within(x) / (n * (n - 1)) + _within(y) / (m * (m - 1)) - 2 * _between(x, y) / (n * m)


def _within(x: Array) -> float:
    """Sum of k(x_i, x_j) over i != j: tiles above the diagonal count twice."""
    total = 0.0
    for i in range(0, len(x), TILE):
        rows = x[i : i + TILE]
        gram = rows @ rows.T  # numpy sees the symmetry: half of the work
        total += _cubes(gram, x.shape[1]) - float((gram.diagonal() ** 3).sum())
        if i + TILE < len(x):
            total += 2 * _between(rows, x[i + TILE :])
    return total


def _between(x: Array, y: Array) -> float:
    """Sum of k(x_i, y_j) over all pairs."""
    d = x.shape[1]
    return sum(
        _cubes(x[i : i + TILE] @ y[j : j + TILE].T, d)
        for i in range(0, len(x), TILE)
        for j in range(0, len(y), TILE)
    )  # fmt: skip


def _cubes(gram: Array, d: int) -> float:
    """Sum of (g/d + 1)^3 over a tile of inner products, which becomes the g/d + 1."""
    gram *= 1 / d
    gram += 1
    return float(np.vdot(gram * gram, gram))
