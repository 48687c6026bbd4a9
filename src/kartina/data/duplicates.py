"""Exact and near duplicates among images that have been looked at (`worker.LOOK` records).

Exact: the same size and pixels, whatever the file format. Near: perceptual hashes (dHash: 64 comparisons of neighbours
in a 9 x 8 picture) that differ in at most 4 bits, confirmed by 16 x 16 thumbnails that are the same but for brightness
and contrast. Pictures with hardly any contrast are left out, as their hashes tell nothing.

Two hashes within 4 bits agree in at least two of six bands, so sorting by each of the fifteen pairs of bands brings
them together: no N x N comparison.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

BITS = 4  # most hash bits that near duplicates differ in
CORRELATION = 0.994  # least of their thumbnails: JPEG at quality 75 stays above it, two plain trousers do not
DIFFERENCE = 24.0  # most mean difference of their thumbnails, of 255
BANDS = ((0, 11), (11, 11), (22, 11), (33, 11), (44, 10), (54, 10))  # first bit, bits
CONTRAST = 24  # least brightness range of a picture whose hash means something
REACH = 16  # neighbours compared in a bucket: only in larger ones can a pair be missed
_AT_ONCE = 50_000  # pairs of thumbnails compared together


def exact(looked: NDArray[Any]) -> list[NDArray[np.int64]]:
    """Groups (two or more ids, ascending) of images with the same pixels; looked is LOOK, N."""
    use = np.flatnonzero(looked["ok"])
    a, b = looked["digest"][use].T
    order = np.lexsort((use, b, a))
    a, b = a[order], b[order]
    cuts = np.flatnonzero((a[1:] != a[:-1]) | (b[1:] != b[:-1])) + 1
    return _sorted([g for g in np.split(use[order], cuts) if len(g) > 1])


def near(looked: NDArray[Any], skip: NDArray[np.int64] | None = None) -> list[NDArray[np.int64]]:
    """Groups (two or more ids, ascending) of images that look alike, those in `skip` left out; looked is LOOK, N."""
    use = np.flatnonzero(looked["ok"] & (looked["contrast"] >= CONTRAST))
    if skip is not None:
        use = np.setdiff1d(use, skip)
    hashes = looked["hash"][use]
    sketch = _sketches(looked["thumb"], use)
    bands = [(hashes >> np.uint64(first)) & np.uint64((1 << bits) - 1) for first, bits in BANDS]
    candidates = np.empty(0, np.int64)  # pairs (a, b) of places in `use`, a < b, as a * N + b
    for turn, (one, other) in enumerate(combinations(bands, 2)):
        key = (one << np.uint64(11)) | other
        order = np.lexsort((sketch[:, turn], key))  # within a bucket, what looks alike stands together
        key, part = key[order], hashes[order]
        left = np.arange(len(use))
        found = [candidates]
        for reach in range(1, REACH + 1):
            left = left[: np.searchsorted(left, len(use) - reach)]
            left = left[key[left] == key[left + reach]]
            if not len(left):
                break
            close = left[np.bitwise_count(part[left] ^ part[left + reach]) <= BITS]
            a, b = order[close], order[close + reach]
            likely = ((sketch[a] - sketch[b]) ** 2).mean(axis=1) <= 2.2 * 2 * (1 - CORRELATION)
            a, b = a[likely], b[likely]
            found.append(np.minimum(a, b) * len(use) + np.maximum(a, b))
        candidates = np.unique(np.concatenate(found))
    pairs = np.stack(np.divmod(candidates, max(1, len(use))), axis=1)
    thumbs = looked["thumb"]
    same = [
        _alike(thumbs[use[p[:, 0]]], thumbs[use[p[:, 1]]]) for p in np.array_split(pairs, len(pairs) // _AT_ONCE + 1)
    ]
    return _joined(use[pairs[np.concatenate(same)]])


def _plain(thumbs: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Thumbnails (uint8 n,16,16) as vectors (n,256) of mean 0 and length 1: brightness and contrast are gone."""
    x = thumbs.reshape(-1, 256).astype(np.float32)
    x -= x.mean(axis=1, keepdims=True)
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6))


def _sketches(thumbs: NDArray[np.uint8], use: NDArray[np.int64]) -> NDArray[np.float32]:
    """n,15 random projections; the mean square of a difference estimates that of the plain thumbnails' vectors."""
    mix = np.random.default_rng(0).standard_normal((256, 15), dtype=np.float32)
    blocks = [_plain(thumbs[ids]) @ mix for ids in np.array_split(use, len(use) // _AT_ONCE + 1)]
    return np.concatenate(blocks)


def _alike(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which pairs of thumbnails (uint8 n,16,16) show the same."""
    near = np.abs(a.astype(np.int16) - b).mean(axis=(1, 2)) <= DIFFERENCE
    return np.asarray(near & ((_plain(a) * _plain(b)).sum(axis=1) >= CORRELATION))


def _joined(pairs: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Pairs -> groups of everything that is connected."""
    parent: dict[int, int] = {}

    def root(x: int) -> int:
        while parent.setdefault(x, x) != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    for a, b in pairs.tolist():
        parent[root(b)] = root(a)
    groups: dict[int, list[int]] = {}
    for x in sorted(parent):
        groups.setdefault(root(x), []).append(x)
    return _sorted([np.array(g, np.int64) for g in groups.values()])


def _sorted(groups: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    return sorted(groups, key=lambda g: int(g[0]))
