"""Memorisation: is a generated image a training image, or nearer to one than unseen real images are?

Every image's nearest training image is looked for twice. In **pixels**, a copy may be mirrored and moved by up to an
tenth of a side, so the distance is the root mean square difference in grey levels over the part where both overlap,
least over mirrorings and shifts. In **features** it is the Euclidean distance. What real images of the held-out split
get the same way says what is near: an image is flagged when its distance is below their first percentile in either
space, or when it equals a training image. The same share of real images is the floor: they are near, not copies. A copy
(`copied`) is nearer still: at most half that distance in pixels. JPEG at quality 95 moves levels by 1 to 4.

All pixels of all shifts of all training images would take hours. Candidates are the nearest few by pixels and by the
spectrum's magnitude, which a shift hardly changes, both as they are and mirrored, on images of at most 32 pixels a
side; these are compared at every shift, and the distance is then that of the whole images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
REACH = 10  # a copy may be moved by a side / REACH
COARSE = 16  # pixels a side that candidates are first compared on
KEPT = 6  # of them that are compared further
BLOCK = 4096  # training images at a time
ROWS = 128  # images whose candidates are compared at a time


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


def copied(found: Nearest, real: Nearest) -> NDArray[np.bool_]:
    """bool N: which images are copies: at most half as far in pixels as one in a hundred real held-out images is."""
    return np.asarray(found.pixel <= percentile(real.pixel) / 2, np.bool_)


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
        candidates = np.concatenate([candidates, np.stack([also, also], 1)[:, :, None]], axis=2)
    index, distance = np.empty(len(images), np.int64), np.empty(len(images))
    for start in range(0, len(images), ROWS):
        part = slice(start, start + ROWS)
        index[part], distance[part] = _closest(np.asarray(images[part]), training, candidates[part])
        if progress is not None:
            progress(0.7 + 0.3 * min(1.0, (start + ROWS) / len(images)))
    return index, distance


def _candidates(images: Images, training: Images, progress: Progress | None) -> Ints:
    """Positions N,2,K of training images that may be the nearest, as they are and mirrored."""
    small = _small(images)
    queries = [describe(x) for describe in DESCRIPTIONS for x in (small, small.flip(3))]
    keeps = [min(most, len(training)) for most in DESCRIPTIONS.values() for _ in range(2)]
    near = [torch.full((len(images), keep), torch.inf) for keep in keeps]
    who = [torch.zeros((len(images), keep), dtype=torch.int64) for keep in keeps]
    for start in range(0, len(training), BLOCK):
        block = _small(training[start : start + BLOCK])
        targets = [describe(block) for describe in DESCRIPTIONS]
        for q, query in enumerate(queries):
            target = targets[q // 2]
            score = torch.addmm((target**2).sum(1), query, target.T, alpha=-2)  # |x - t|^2 less |x|^2
            keep = keeps[q]
            values, at = score.topk(min(keep, score.shape[1]), dim=1, largest=False)
            values, at = torch.cat([near[q], values], 1), torch.cat([who[q], at + start], 1)
            near[q], order = values.topk(keep, dim=1, largest=False)
            who[q] = at.gather(1, order)
        if progress is not None:
            progress(min(1.0, (start + BLOCK) / len(training)))
    found: Ints = torch.stack([torch.cat(who[side::2], 1) for side in (0, 1)], 1).numpy()
    return found


def _small(images: Images, most: int = SIDE) -> Tensor:
    """uint8 N,C,H,W -> float32 levels, means of areas, at most `most` on a side."""
    x = torch.from_numpy(np.array(images)).float()
    height, width = (min(most, side) for side in x.shape[2:])
    return x if x.shape[2:] == (height, width) else F.adaptive_avg_pool2d(x, (height, width))


def _pixels(x: Tensor) -> Tensor:
    return x.flatten(1) / 255


def _spectrum(x: Tensor) -> Tensor:
    """Magnitudes of each channel's low frequencies, N,d: the same for a picture moved on an even ground."""
    return _magnitudes(x - x.mean((2, 3), keepdim=True), x.shape[2] // 4)


def _windowed(x: Tensor) -> Tensor:
    """Roots of all magnitudes of the middle, fading to the edges: for a picture that goes on beyond them."""
    rows, columns = (torch.hann_window(side, periodic=False) for side in x.shape[2:])
    return _magnitudes((x - x.mean((2, 3), keepdim=True)) * rows[:, None] * columns, x.shape[2] // 2).sqrt()


def _magnitudes(x: Tensor, most: int) -> Tensor:
    found = torch.fft.rfft2(x / 255, norm="ortho").abs()
    return torch.cat([found[:, :, : most + 1], found[:, :, -max(most, 1) :]], 2)[:, :, :, : most + 1].flatten(1)


DESCRIPTIONS = {_pixels: 4, _spectrum: 8, _windowed: 8}  # and how many candidates of each mirroring


def _closest(images: Images, training: Images, candidates: Ints) -> tuple[Ints, Array]:
    """Of a few images N and their candidates N,2,K (as they are, mirrored): the nearest, its distance on whole images.

    All candidates are compared in grey on COARSE pixels a side, KEPT of them on SIDE, the best on the images' own: each
    time at the shifts around those that fitted best before.
    """
    n, _, k = candidates.shape
    unique, where = np.unique(candidates, return_inverse=True)
    there = torch.from_numpy(where.reshape(n, 2 * k))
    mirrored = torch.arange(2 * k).expand(n, -1) >= k
    theirs, sides = training[unique], images.shape[2:]
    rows = torch.arange(n)[:, None].expand(-1, 2 * k)
    shift = torch.zeros((n, 2 * k, 2))
    before: tuple[int, ...] = (1, 1)
    distance = torch.empty(0)
    for most, kept in ((COARSE, KEPT), (SIDE, 1), (max(sides), 1)):
        ours, others = _small(images, most), _small(theirs, most)
        if most == COARSE:
            ours, others = ours.mean(1, keepdim=True), others.mean(1, keepdim=True)
        now = tuple(ours.shape[2:])
        grown = torch.tensor([new / old for new, old in zip(now, before, strict=True)])
        reach = [-(-side // REACH) for side in now] if most == COARSE else [math.ceil(float(g)) for g in grown]
        both = torch.stack([ours, ours.flip(3)])
        found, moved = _aligned(
            both[mirrored.reshape(-1).long(), rows.reshape(-1)], others[there.reshape(-1)],
            (shift * grown).round().long().reshape(-1, 2), reach,
        )  # fmt: skip
        distance, best = found.reshape(there.shape).topk(min(kept, there.shape[1]), dim=1, largest=False)
        there, mirrored, rows = (x.gather(1, best) for x in (there, mirrored, rows))
        shift, before = moved.reshape(n, -1, 2).gather(1, best[:, :, None].expand(-1, -1, 2)).float(), now
    index: Ints = unique[there[:, 0].numpy()]
    return index, distance[:, 0].double().sqrt().numpy()


def _aligned(ours: Tensor, theirs: Tensor, around: Tensor, reach: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Of pairs P: the least mean squared difference over shifts within `reach` of `around` P,2, and that shift, P,2."""
    best, shift = torch.full((len(ours),), torch.inf), around.clone()
    for centre in np.unique(around.numpy(), axis=0).tolist():
        at = (around == torch.tensor(centre)).all(1).nonzero()[:, 0]
        mine, others, near, move = ours[at], theirs[at], best[at], shift[at]
        for dy in range(centre[0] - reach[0], centre[0] + reach[0] + 1):
            for dx in range(centre[1] - reach[1], centre[1] + reach[1] + 1):
                distance = _overlap(mine, others, dy, dx)
                better = distance < near
                near[better], move[better] = distance[better], torch.tensor([dy, dx])
        best[at], shift[at] = near, move
    return best, shift


def _overlap(a: Tensor, b: Tensor, dy: int, dx: int) -> Tensor:
    """Mean squared difference of a, moved back by dy, dx, and b, over the part where both are: N."""
    height, width = a.shape[2:]
    x = a[:, :, max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)]
    y = b[:, :, max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)]
    return (x - y).square().mean((1, 2, 3))
