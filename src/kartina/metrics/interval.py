"""Intervals: Student's t over generation seeds. One seed has none; the bootstrap of FD is biased and not used."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit


def t_quantile(p: float, freedom: float) -> float:
    """Quantile of Student's t with so many degrees of freedom. (scipy.stats takes a second to import.)"""
    return float(stdtrit(freedom, p))


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Interval of the mean of `values`; None for fewer than two."""
    if len(values) < 2:
        return None
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))
    half = t_quantile(0.5 + level / 2, len(values) - 1) * error
    return mean - half, mean + half
