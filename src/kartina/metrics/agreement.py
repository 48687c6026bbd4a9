"""Class agreement: the share of generated images that the domain classifier gives the class they were asked for.

It rewards collapse (one perfect image per class scores 1), so it never stands without coverage or diversity beside it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kartina.errors import DataError


def agreement(predicted: NDArray[np.int64], asked: NDArray[np.int64]) -> float:
    """Top-1 share of N predictions that equal the N labels asked for."""
    if predicted.shape != asked.shape or predicted.ndim != 1 or len(asked) == 0:
        raise DataError(f"Found {predicted.shape} predictions for {asked.shape} labels; expected equal, not empty.")
    return float((predicted == asked).mean())


def agreement_per_class(predicted: NDArray[np.int64], asked: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Agreement within each asked class, K; nan where a class was not asked for."""
    right = np.bincount(asked[predicted == asked], minlength=classes).astype(np.float64)
    total = np.bincount(asked, minlength=classes)
    out = np.full(classes, np.nan)
    np.divide(right, total, out=out, where=total > 0)
    return out
