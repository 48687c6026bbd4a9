"""Inception Score (Salimans 2016): exp of the mean KL divergence of a class's probabilities from their mean.

    IS = exp( mean_x KL( p(y|x) || p(y) ) ),   p(y) the mean of p(y|x) over the split

over 10 splits of the images, shuffled first (a set sorted by class would score each class alone). It asks for sharp and
varied answers of ImageNet's network, and never looks at real images: say it of photographs only, never of grey or
medical ones. Only the FID Inception network's logits, taken without bias, give a number that may be called IS.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from kartina.metrics.fd import checked

Array = NDArray[np.float64]

SPLITS = 10


@dataclass(frozen=True)
class InceptionScore:
    mean: float  # over the splits
    std: float  # between the splits, ddof=1 (Salimans' code and torch-fidelity: ddof=0); not an interval


def inception_score(logits: Array, splits: int = SPLITS, seed: int | None = 0) -> InceptionScore:
    """Score of logits N,K. `seed` shuffles them first; None takes them in order. DataError for non-finite logits."""
    x = checked(logits)
    if seed is not None:
        x = x[np.random.default_rng(seed).permutation(len(x))]
    scores = []
    for part in np.array_split(x, min(splits, len(x))):
        log_p = log_softmax(part, axis=1)
        p = np.exp(log_p)
        log_mean = np.log(p.mean(0).clip(min=np.finfo(np.float64).tiny))
        scores.append(float(np.exp((p * (log_p - log_mean)).sum(1).mean())))
    std = float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0
    return InceptionScore(float(np.mean(scores)), std)
