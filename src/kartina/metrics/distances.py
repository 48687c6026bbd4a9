"""Euclidean distances between many features: as fast as a matrix product, as exact as differences.

    |x - y|^2 = |x|^2 + |y|^2 - 2 x.y

costs one matrix product, and loses what is near: of a copy it may leave 1e-7, of an equality nothing. The other
form, differences squared and summed, is exact to the last bits and twenty times slower. Here the product form decides
what it can decide, within a proven bound of its error, and differences decide the rest: the few pairs whose distance is
as good as equal to what it is compared with. So every neighbour and every "inside" is that of differences, and a copy's
distance is exactly 0.

Features may be memory-mapped: they are read in blocks. Memory is that of some blocks of BLOCK x BLOCK and BLOCK x d.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from kartina.errors import DataError

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

BLOCK = 2048  # rows and columns of squared distances held at once
SPARE = 4  # neighbours kept beyond the k-th, to tell near ties apart
CHUNK = 1 << 22  # numbers of differences held at once
EPS = float(np.finfo(np.float64).eps)

Progress = Callable[[float], None]  # share done


def kth(features: Array, k: int, progress: Progress | None = None) -> Array:
    """Distance of each of the features N,d to its k-th nearest other one, N. Raises DataError when N <= k."""
    n = len(features)
    if n <= k:
        raise DataError(f"Found {n} images; the distance to the {k}th neighbour needs at least {k + 1}.")
    keep = min(k + SPARE, n - 1)
    near = torch.full((n, keep), torch.inf, dtype=torch.float64)
    who = torch.zeros((n, keep), dtype=torch.int64)
    slack = np.zeros(n)

    # The nearest by the product form: blocks on and above the diagonal serve their rows and their columns.
    for rows, columns, squared, error in _blocks(features, features, upper=True, progress=progress):
        if rows == columns:
            np.fill_diagonal(squared, np.inf)
        block = torch.from_numpy(squared)
        _keep(near, who, rows, columns, block, keep)
        if rows != columns:
            _keep(near, who, columns, rows, block.T, keep)
        slack[rows], slack[columns] = np.maximum(slack[rows], error), np.maximum(slack[columns], error)

    # The k-th by differences: among all that may be it.
    by_product, others = near.numpy(), who.numpy()
    doubt = 2 * slack
    certain = np.zeros(n, bool)  # where there are but k others, the k-th is the furthest of all, by differences
    if keep > k:
        certain = by_product[:, k - 1] + doubt < by_product[:, k]
        certain &= (k == 1) | (by_product[:, k - 2] + doubt < by_product[:, k - 1])
    found = np.empty(n)
    at = np.flatnonzero(certain)
    found[at] = between(features, features, at, others[at, k - 1])
    for i in np.flatnonzero(~certain):
        exact = np.sort(between(features, features, np.full(keep, i), others[i]))
        if exact[k - 1] == 0 or keep == n - 1 or by_product[i, -1] > by_product[i, k - 1] + doubt[i]:
            found[i] = exact[k - 1]  # no image that was not kept can be nearer
        else:
            every = np.delete(np.arange(n), i)
            found[i] = np.partition(between(features, features, np.full(n - 1, i), every), k - 1)[k - 1]
    return found


def _keep(near: torch.Tensor, who: torch.Tensor, rows: slice, columns: slice, block: torch.Tensor, keep: int) -> None:
    """Merge a block's nearest columns into those known of `rows`, ascending."""
    values, at = block.topk(min(keep, block.shape[1]), dim=1, largest=False)
    values, at = torch.cat([near[rows], values], 1), torch.cat([who[rows], at + columns.start], 1)
    near[rows], order = values.topk(keep, dim=1, largest=False, sorted=True)
    who[rows] = at.gather(1, order)


def inside(
    real: Array, fake: Array, by_row: tuple[Array, ...], by_column: tuple[Array, ...] = (),
    progress: Progress | None = None,
) -> Iterator[tuple[slice, slice, list[NDArray[np.bool_]]]]:  # fmt: skip
    """For each block of pairs of features N,d and M,d: whether their distance is below each of some radii.

    `by_row` are radii N of the real features, `by_column` radii M of the generated ones; the answers, bool, come in
    that order. Comparisons are strict.
    """
    for rows, columns, squared, error in _blocks(real, fake, progress=progress):
        answers = []
        edges = [r[rows, None] for r in by_row] + [r[None, columns] for r in by_column]
        for edge in edges:
            limit = edge**2
            held = squared < limit - error
            i, j = np.nonzero(held ^ (squared <= limit + error))
            if len(i):
                reach = np.broadcast_to(edge, squared.shape)[i, j]
                held[i, j] = between(real, fake, i + rows.start, j + columns.start) < reach
            answers.append(held)
        yield rows, columns, answers


def nearest(a: Array, b: Array, progress: Progress | None = None) -> tuple[Ints, Array]:
    """Of each of the features N,d, the nearest of M,d: its position (the first of equals) and its distance, N."""
    n = len(a)
    keep = min(SPARE, len(b))
    near = torch.full((n, keep), torch.inf, dtype=torch.float64)
    who = torch.zeros((n, keep), dtype=torch.int64)
    for rows, columns, squared, _ in _blocks(a, b, progress=progress):
        _keep(near, who, rows, columns, torch.from_numpy(squared), keep)
    index = who.numpy()
    exact = between(a, b, np.repeat(np.arange(n), keep), index.reshape(-1)).reshape(n, keep)
    best = np.lexsort((index, exact), axis=1)[:, 0]
    at = np.arange(n)
    return index[at, best], exact[at, best]


def between(a: Array, b: Array, i: NDArray[np.integer], j: NDArray[np.integer]) -> Array:
    """Distance of the pairs a[i], b[j], by differences: the same bits for the same pair, whatever else is asked."""
    found = np.empty(len(i))
    step = max(1, CHUNK // a.shape[1])
    for start in range(0, len(i), step):
        part = slice(start, start + step)
        delta = np.asarray(a[i[part]], np.float64) - np.asarray(b[j[part]], np.float64)
        found[part] = np.sqrt(np.einsum("ij,ij->i", delta, delta))
    return found


def _blocks(
    a: Array, b: Array, upper: bool = False, progress: Progress | None = None
) -> Iterator[tuple[slice, slice, Array, float]]:
    """Squared distances a x b by the product form, block by block, and a bound of their error.

    The features are taken about the mean of the first of b, which keeps numbers small; the bound is that of a sum of d
    products and the three terms. `upper` leaves out the blocks below the diagonal.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise DataError(f"Found features of shapes {a.shape} and {b.shape}; expected N,d and M,d of one extractor.")
    d = a.shape[1]
    origin = np.asarray(b[:BLOCK], np.float64).mean(0)
    done, total = 0, len(a) * len(b)
    for i in range(0, len(a), BLOCK):
        rows = slice(i, min(i + BLOCK, len(a)))
        x = np.asarray(a[rows], np.float64) - origin
        xx = np.einsum("ij,ij->i", x, x)
        for j in range(i if upper else 0, len(b), BLOCK):
            columns = slice(j, min(j + BLOCK, len(b)))
            same = a is b and i == j
            y = x if same else np.asarray(b[columns], np.float64) - origin
            yy = xx if same else np.einsum("ij,ij->i", y, y)
            squared = x @ y.T
            squared *= -2
            squared += xx[:, None]
            squared += yy
            error = 4 * EPS * (d + 16) * float(xx.max() + yy.max())
            yield rows, columns, squared, error
            done += len(x) * len(y) * (2 if upper and not same else 1)
            if progress is not None:
                progress(done / total)
