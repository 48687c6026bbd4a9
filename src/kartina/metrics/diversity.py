"""Diversity: the mean distance between two images of one class, generated over real, in the domain's features.

1 means that generated images of a class differ among themselves as much as real ones do; a collapsed class is near 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kartina.metrics.prdc import tiles

Array = NDArray[np.float64]


def spread(features: Array) -> float:
    """Mean distance over all pairs of the features N,d; nan for fewer than two."""
    n = len(features)
    if n < 2:
        return float("nan")
    return float(sum(distances.sum() for _, distances in tiles(features, features)) / (n * (n - 1)))


def spreads(features: Array, labels: NDArray[np.int64], classes: int) -> Array:
    """`spread` within each class, K; nan where a class has fewer than two."""
    return np.array([spread(features[labels == c]) for c in range(classes)])


def diversity(generated: Array, real: Array, counts: NDArray[np.int64]) -> float:
    """Ratio of the within-class spreads K, each averaged over classes by `counts`; classes without pairs stay out."""
    both = np.isfinite(generated) & np.isfinite(real) & (counts > 0)
    return float((generated[both] @ counts[both]) / (real[both] @ counts[both])) if both.any() else float("nan")
