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
KEPT = 6  # candidates that are compared on all of their pixels
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

    The middle of each candidate is compared with the image at every shift; KEPT of them on all of both, and the best on
    its own pixels, at the shifts around the one that fitted best before.
    """
    unique, where = np.unique(candidates, return_inverse=True)
    n, k = len(candidates), candidates.shape[2]
    there = torch.from_numpy(where.reshape(candidates.shape))
    small, known = _small(images), _small(training[unique])
    both = torch.stack([small, small.flip(3)], 1)  # N,2,C,h,w

    found = [_windows(both[:, side], known, there[:, side]) for side in (0, 1)]
    distance, shift = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
    kept = distance.topk(min(KEPT, 2 * k), dim=1, largest=False).indices
    there, shift = there.flatten(1).gather(1, kept), shift.gather(1, kept[:, :, None].expand(-1, -1, 2))

    mirrored, rows = kept >= k, torch.arange(n)
    ours = both[rows.repeat_interleave(kept.shape[1]), mirrored.reshape(-1).long()]
    distance, moved = _aligned(ours, known[there.reshape(-1)], shift.reshape(-1, 2), (1, 1))
    best = distance.reshape(n, -1).argmin(1)
    index: Ints = unique[there[rows, best].numpy()]
    if small.shape[2:] == images.shape[2:]:
        return index, distance.reshape(n, -1)[rows, best].double().sqrt().numpy()

    grown = torch.tensor([new / old for new, old in zip(images.shape[2:], small.shape[2:], strict=True)])
    whole = _small(images, max(images.shape[2:]))
    ours = torch.where(mirrored[rows, best][:, None, None, None], whole.flip(3), whole)
    around = (moved.reshape(n, -1, 2)[rows, best] * grown).round().long()
    reach = tuple(math.ceil(g) for g in grown.tolist())
    distance, _ = _aligned(ours, torch.from_numpy(np.array(training[index])).float(), around, reach)
    return index, distance.double().sqrt().numpy()


def _windows(ours: Tensor, theirs: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Of images N and their candidates theirs[there], N,K: the least mean squared difference of a candidate's middle
    from the image over shifts by up to a side / REACH, and that shift, N,K,2: one matrix product an image.
    """
    height, width = ours.shape[2:]
    down, right = -(-height // REACH), -(-width // REACH)
    middle = theirs[:, :, down : height - down, right : width - right].flatten(1)
    views = ours.unfold(2, height - 2 * down, 1).unfold(3, width - 2 * right, 1)  # N,C,shifts down,shifts right,h,w
    views = views.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    targets = middle[there]
    squares = (views**2).sum(2)[:, :, None] + (targets**2).sum(2)[:, None]
    distance, at = (squares - 2 * views @ targets.mT).min(1)
    across = 2 * right + 1
    return distance / middle.shape[1], torch.stack([at // across - down, at % across - right], 2)


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
