"""Few labels: which training images count as labelled when only some of them do."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kartina.errors import ConfigError


def stratified(labels: NDArray[np.int64], n: int, seed: int) -> NDArray[np.int64]:
    """Positions of n images, sorted: a function of (labels, n, seed), every class as often as any other.

    As in the few-label literature (Salimans 2016, section 6: "a balanced number of examples from each class"). Where
    n does not divide evenly, which classes get one more is drawn; a class with too few images gives all it has, and
    the others make up for it. Raises ConfigError where n is more than there are, or less than one a class.
    """
    counts = np.bincount(labels)
    present = int((counts > 0).sum())
    if not present <= n <= len(labels):
        raise ConfigError(
            f"Found {n} labels asked for; expected {present} (one a class) to {len(labels)} (all training images)."
        )
    # Every class is filled to the highest level there is enough for, or emptied; the rest goes to classes drawn.
    level = max(level for level in range(int(counts.max()) + 1) if np.minimum(counts, level).sum() <= n)
    share = np.minimum(counts, level)
    rng = np.random.Generator(np.random.Philox(key=[seed, n]))
    share[rng.permutation(np.flatnonzero(share < counts))[: n - int(share.sum())]] += 1
    picked = [rng.choice(np.flatnonzero(labels == k), share[k], replace=False) for k in range(len(counts))]
    return np.sort(np.concatenate(picked)).astype(np.int64)
