"""Loader: which training image stands at which position of an endless, seeded stream.

The stream is a pure function of (seed, position): training resumes from the position alone, and taking 64 + 64 images
gives the same ones as taking 128. Three policies say how labels are drawn:

    data       every image once an epoch, in a fresh order each epoch
    balanced   every class equally often, then an image of that class
    tempered   class probability ~ count ** temper: 1 is as in the data, 0 is balanced

Randomness is counter-based (Philox 4x64; Salmon et al. 2011): the key is (seed, stream), the counter is the epoch or
the block of positions, so no state is carried from one call to the next.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kartina.data.imageset import ImageSet
from kartina.errors import ConfigError, DataError

LabelPolicy = Literal["data", "balanced", "tempered"]

BLOCK = 4096  # positions whose random numbers are drawn together
ORDER, CLASS, PICK, FLIP = range(4)  # streams: independent random numbers for each use


def class_weights(counts: NDArray[np.int64], policy: LabelPolicy, temper: float = 0.5) -> NDArray[np.float64]:
    """Probability of each class (shape K, sums to 1) under `policy`; classes without images get 0.

    Without classes (K = 0) the one weight is 1. Raises DataError when every count is 0 and ConfigError for an unknown
    policy or a temper outside [0, 1].
    """
    if not 0 <= temper <= 1:
        raise ConfigError(f"Found temper={temper}; expected 0 (balanced) to 1 (as in the data).")
    counts = np.asarray(counts, np.int64)
    if counts.size == 0:
        return np.ones(1)
    power = {"data": 1.0, "balanced": 0.0, "tempered": temper}.get(policy)
    if power is None:
        raise ConfigError(f"Found the label policy {policy!r}; expected data, balanced or tempered.")
    if counts.sum() == 0:
        raise DataError("Found no labelled images; expected at least one, to draw classes from.")
    weights = np.where(counts > 0, np.maximum(counts, 1).astype(np.float64) ** power, 0.0)
    return np.asarray(weights / weights.sum(), np.float64)


@dataclass(frozen=True)
class Taken:
    """n images of the stream. Rows with `flipped` are mirrored already, and so are their sources."""

    images: NDArray[np.uint8]  # n,C,H,W
    labels: NDArray[np.int64]  # n (zeros when there are no classes)
    ids: NDArray[np.int64]  # n: position in the train split
    flipped: NDArray[np.bool_]  # n
    sources: NDArray[np.uint8] | None = None  # n,C',H,W, for pairs

    def __len__(self) -> int:
        return len(self.ids)


class Loader:
    """The stream of training images of one split, by position.

    `data` is one part of a set (`open_set(name).part("train")`); `flip` mirrors half of the images, chosen by position.
    Raises DataError for an empty set, ConfigError for settings that cannot be used.
    """

    def __init__(
        self,
        data: ImageSet,
        batch: int = 64,
        seed: int = 0,
        flip: bool = False,
        label_policy: LabelPolicy = "data",
        temper: float = 0.5,
    ):
        if len(data) == 0:
            raise DataError(f"Found no images in {data.name!r}; expected at least one to train on.")
        if batch < 1 or not 0 <= seed < 2**63:
            raise ConfigError(f"Found batch={batch}, seed={seed}; expected batch >= 1 and a seed in [0, 2**63).")
        self.data = data
        self.batch = batch
        self.seed = seed
        self.flip = flip
        self.label_policy: LabelPolicy = label_policy if data.labels is not None else "data"
        self.weights = class_weights(data.counts(), label_policy, temper)  # K, or 1 without classes
        self._labels = None if data.labels is None else np.array(data.labels, np.int64)
        self._epochs: OrderedDict[int, NDArray[np.int64]] = OrderedDict()
        if self.label_policy != "data":
            assert self._labels is not None
            counts = data.counts()
            self._by_class = np.argsort(self._labels, kind="stable")  # ids, class by class
            self._counts, self._starts = counts, np.cumsum(counts) - counts
            self._edges = np.cumsum(self.weights)
            self._last = int(np.flatnonzero(counts)[-1])

    def ids(self, position: int, n: int) -> NDArray[np.int64]:
        """The ids at positions [position, position + n), int64 n."""
        if self.label_policy != "data":
            k = np.searchsorted(self._edges, self._uniform(CLASS, position, n), side="right")
            k = np.minimum(k, self._last)  # where rounding left the last edge below 1
            within = (self._uniform(PICK, position, n) * self._counts[k]).astype(np.int64)
            return np.asarray(self._by_class[self._starts[k] + within], np.int64)
        total, parts = len(self.data), []
        while n > 0:
            epoch, entry = divmod(position, total)
            part = self._permutation(epoch)[entry : entry + n]
            parts.append(part)
            position, n = position + len(part), n - len(part)
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def take(self, position: int, n: int | None = None) -> Taken:
        """The images at positions [position, position + n); n is the batch by default."""
        n = self.batch if n is None else n
        if position < 0 or n < 0:
            raise ConfigError(f"Found position={position}, n={n}; expected both to be >= 0.")
        ids = self.ids(position, n)
        flipped = self._uniform(FLIP, position, n) < 0.5 if self.flip else np.zeros(n, np.bool_)
        sources = None if self.data.sources is None else _rows(self.data.sources, ids, flipped)
        labels = np.zeros(n, np.int64) if self._labels is None else self._labels[ids]
        return Taken(_rows(self.data.images, ids, flipped), labels, ids, flipped, sources)

    def _rng(self, stream: int, counter: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=[self.seed, stream], counter=[0, 0, counter, 0]))

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._epochs:
            self._epochs[epoch] = self._rng(ORDER, epoch).permutation(len(self.data))
            while len(self._epochs) > 2:  # a batch may end one epoch and begin the next
                self._epochs.popitem(last=False)
        return self._epochs[epoch]

    def _uniform(self, stream: int, position: int, n: int) -> NDArray[np.float64]:
        """float64 n in [0, 1): one number for each position."""
        first, skip = divmod(position, BLOCK)
        blocks = -(-(skip + n) // BLOCK)
        drawn = [self._rng(stream, first + b).random(BLOCK) for b in range(blocks)]
        return np.concatenate(drawn)[skip : skip + n] if drawn else np.zeros(0)


def _rows(array: NDArray[np.uint8], ids: NDArray[np.int64], flipped: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Copy rows out of N,C,H,W, mirroring those that are flipped."""
    rows = np.asarray(array[ids])
    rows[flipped] = rows[flipped][..., ::-1]
    return rows
