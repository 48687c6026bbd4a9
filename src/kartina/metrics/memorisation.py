"""Memorisation: is a generated image a training image, or nearer to one than unseen real images are?

Every image's nearest training image is looked for twice. In **pixels**, a copy may be mirrored and moved by up to an
eighth of a side, so the distance is the root mean square difference in grey levels over the part where both overlap,
least over mirrorings and shifts. In **features** it is the Euclidean distance. What real images of the held-out split
get the same way says what is near: an image is flagged when its distance is below their first percentile in either
space, or when it equals a training image. The same share of the real images is the floor; they are not copies.

All pixels of all shifts of all training images would take hours. Candidates are the nearest few by pixels and by the
spectrum's magnitude, which a shift hardly changes, both as they are and mirrored, on images of at most 32 pixels a
side; the distance is then that of the whole images. A near image that none of these finds is missed; a copy is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from kartina.errors import DataError

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Images = NDArray[np.uint8]
Progress = Callable[[float], None]  # share done

PERCENTILE = 0.01  # of real held-out images' distances
SIDE = 32  # pixels that candidates are looked for on, at most
REACH = 8  # a copy may be moved by a side / REACH
CANDIDATES = 4  # by pixels, by spectrum; of each mirroring
BLOCK = 4096  # training images at a time
ROWS = 256  # images whose candidates are compared at a time


@dataclass(frozen=True)
class Nearest:
    """Of N images: the nearest training image and its distance, in pixels and in features."""

    pixel_index: Ints
    pixel: Array  # RMS difference in levels, 0..255
    feature_index: Ints
    feature: Array


def flagged(found: Nearest, real: Nearest) -> NDArray[np.bool_]:
    """bool N: which images are nearer to a training image than 99% of real held-out ones are, or equal to one."""
    near = (found.pixel < percentile(real.pixel)) | (found.feature < percentile(real.feature))
    return np.asarray(near | (found.pixel == 0), np.bool_)


def percentile(distances: Array) -> float:
    """The distance that one in a hundred real images is below; a value that occurs."""
    if len(distances) == 0:
        raise DataError("Found no real images to compare distances with; expected a held-out split.")
    return float(np.quantile(distances, PERCENTILE, method="lower"))


def nearest_pixels(
    images: Images, training: Images, also: Ints | None = None, progress: Progress | None = None
) -> tuple[Ints, Array]:
    """Of uint8 N,C,H,W: the nearest of the training images M,C,H,W over mirrorings and shifts, and its distance.

    `also` (N) are further candidates, one an image: the nearest by features.
    """
    if images.shape[1:] != training.shape[1:] or len(training) == 0:
        raise DataError(f"Found images of shapes {images.shape} and {training.shape}; expected equal ones, not none.")
    candidates = _candidates(images, training, (lambda t: progress(0.7 * t)) if progress else None)
    if also is not None:
        candidates = np.concatenate([candidates, also[:, None]], axis=1)
    index, distance = np.empty(len(images), np.int64), np.empty(len(images))
    for start in range(0, len(images), ROWS):
        part = slice(start, start + ROWS)
        index[part], distance[part] = _closest(np.asarray(images[part]), training, candidates[part])
        if progress is not None:
            progress(0.7 + 0.3 * min(1.0, (start + ROWS) / len(images)))
    return index, distance


def _candidates(images: Images, training: Images, progress: Progress | None) -> Ints:
    """Positions N,K of training images that may be the nearest."""
    small = _small(images)
    queries = [describe(x) for describe in (_pixels, _spectrum) for x in (small, small.flip(3))]
    keep = min(CANDIDATES, len(training))
    near = [torch.full((len(images), keep), torch.inf) for _ in queries]
    who = [torch.zeros((len(images), keep), dtype=torch.int64) for _ in queries]
    for start in range(0, len(training), BLOCK):
        block = _small(training[start : start + BLOCK])
        targets = [_pixels(block), _spectrum(block)]
        for q, query in enumerate(queries):
            target = targets[q // 2]
            score = torch.addmm((target**2).sum(1), query, target.T, alpha=-2)  # |x - t|^2 less |x|^2
            values, at = score.topk(min(keep, score.shape[1]), dim=1, largest=False)
            values, at = torch.cat([near[q], values], 1), torch.cat([who[q], at + start], 1)
            near[q], order = values.topk(keep, dim=1, largest=False)
            who[q] = at.gather(1, order)
        if progress is not None:
            progress(min(1.0, (start + BLOCK) / len(training)))
    found: Ints = torch.cat(who, 1).numpy()
    return found


def _small(images: Images) -> Tensor:
    """uint8 N,C,H,W -> float32 levels, means of areas, at most SIDE on a side."""
    x = torch.from_numpy(np.array(images)).float()
    height, width = (min(SIDE, side) for side in x.shape[2:])
    return x if x.shape[2:] == (height, width) else F.adaptive_avg_pool2d(x, (height, width))


def _pixels(x: Tensor) -> Tensor:
    return x.flatten(1) / 255


def _spectrum(x: Tensor) -> Tensor:
    """Magnitudes of the low frequencies of the mean channel: a shift changes only what enters at the edge. N,d."""
    grey = x.mean(1) / 255
    found = torch.fft.rfft2(grey - grey.mean((1, 2), keepdim=True), norm="ortho").abs()
    rows = found.shape[1]
    return torch.cat([found[:, : rows // 4 + 1], found[:, -(rows // 4) :]], 1)[:, :, : rows // 4 + 1].flatten(1)


def _closest(images: Images, training: Images, candidates: Ints) -> tuple[Ints, Array]:
    """Of a few images N and their candidates N,K: the nearest and its distance on whole images."""
    n, k = candidates.shape
    unique, where = np.unique(candidates, return_inverse=True)
    there = torch.from_numpy(where.reshape(n, k))
    theirs, small = _small(training[unique])[there.reshape(-1)], _small(images)
    best = torch.full((n, k), torch.inf)
    move = torch.zeros((n, k, 3), dtype=torch.int64)  # mirrored, dy, dx
    reach = [side // REACH for side in small.shape[2:]]
    for mirrored in (0, 1):
        ours = (small.flip(3) if mirrored else small).repeat_interleave(k, 0)
        for dy in range(-reach[0], reach[0] + 1):
            for dx in range(-reach[1], reach[1] + 1):
                distance = _overlap(ours, theirs, dy, dx).reshape(n, k)
                better = distance < best
                best = torch.where(better, distance, best)
                move[better] = torch.tensor([mirrored, dy, dx])
    at = best.argmin(1)
    rows = torch.arange(n)
    index = np.take_along_axis(candidates, at.numpy()[:, None], 1)[:, 0]
    if small.shape[2:] == images.shape[2:]:
        return index, best[rows, at].double().sqrt().numpy()
    return index, _refined(images, np.asarray(training[np.unique(index)])[_ranks(index)], move[rows, at], small.shape)


def _ranks(index: Ints) -> Ints:
    found: Ints = np.unique(index, return_inverse=True)[1].reshape(-1)
    return found


def _refined(images: Images, theirs: Images, move: Tensor, small: torch.Size) -> Array:
    """RMS differences of whole images whose small versions fit best moved by `move`: shifts around that, in pixels."""
    scale = [big / low for big, low in zip(images.shape[2:], small[2:], strict=True)]
    found = np.empty(len(images))
    for i, (mirrored, dy, dx) in enumerate(move.tolist()):
        ours = torch.from_numpy(np.ascontiguousarray(images[i : i + 1, :, :, :: -1 if mirrored else 1])).float()
        other = torch.from_numpy(theirs[i : i + 1]).float()
        around = [range(round((m - 1) * s), round((m + 1) * s) + 1) for m, s in zip((dy, dx), scale, strict=True)]
        found[i] = min(float(_overlap(ours, other, y, x)) for y in around[0] for x in around[1])
    return np.sqrt(found)


def _overlap(a: Tensor, b: Tensor, dy: int, dx: int) -> Tensor:
    """Mean squared difference of a, moved back by dy, dx, and b, over the part where both are: N."""
    height, width = a.shape[2:]
    x = a[:, :, max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)]
    y = b[:, :, max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)]
    return (x - y).square().mean((1, 2, 3))
