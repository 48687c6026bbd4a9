"""Frechet distance between two sets of features, exact in float64.

    FD = |mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))                      (Dowson & Landau 1982; Heusel 2017)

with unbiased covariances S. The eigenvalues of S1 S2 are those of the symmetric L' S1 L for any L with L L' = S2, so
one factor of the reference (Cholesky's; its symmetric root where it is singular) and one `eigvalsh` give the trace: no
iteration, no complex part, and the reference's factor is computed once. With fewer samples than dimensions S1 = A'A for
the centred rows A, and tr (S1 S2)^(1/2) = |A L|_* , the nuclear norm of a small matrix: exact where S1 is singular.

Whatever the extractor was, only features of the FID Inception network give a number that may be called FID.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import NDArray

from kartina.errors import DataError

Array = NDArray[np.float64]

BLOCK = 4096  # rows of features in float64 at once
POINTS = 15  # numbers of images that a line is fitted through


@dataclass(frozen=True)
class Moments:
    """Count, mean and scatter of the features seen so far. Parts of a stream, or of several ranks, merge exactly."""

    n: int
    mean: Array  # d
    scatter: Array  # d,d: sum of (x - mean)(x - mean)'

    @classmethod
    def of(cls, features: Array) -> Moments:
        """Moments of features N,d (any float type, also memory-mapped), in float64, BLOCK rows at a time."""
        return cls.stream(features[start : start + BLOCK] for start in range(0, max(len(features), 1), BLOCK))

    @classmethod
    def stream(cls, batches: Iterable[Array]) -> Moments:
        """Moments of features that come in batches n,d: memory does not grow with their number."""
        whole: Moments | None = None
        for batch in batches:
            x = checked(batch)
            mean = x.mean(0)
            centred = x - mean
            part = cls(len(x), mean, centred.T @ centred)
            whole = part if whole is None else whole.merge(part)
        if whole is None:
            raise DataError("Found no features; expected at least one batch of them.")
        return whole

    def merge(self, other: Moments) -> Moments:
        """Moments of both parts together (Chan, Golub & LeVeque 1979)."""
        if self.mean.shape != other.mean.shape:
            raise DataError(f"Found features of {len(self.mean)} and {len(other.mean)} dimensions; expected the same.")
        n = self.n + other.n
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.n / n)
        scatter = self.scatter + other.scatter + np.outer(delta, delta) * (self.n * other.n / n)
        return Moments(n, mean, scatter)

    @property
    def covariance(self) -> Array:
        """Unbiased, d,d. Raises DataError for fewer than two samples."""
        if self.n < 2:
            raise DataError(f"Found {self.n} samples; a covariance needs at least 2.")
        return self.scatter / (self.n - 1)


@dataclass(frozen=True)
class Reference:
    """The real side of a Frechet distance, with a factor of its covariance kept."""

    moments: Moments
    known: Array | None = None  # the factor, where it was kept
    covariance: Array = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "covariance", self.moments.covariance)

    @classmethod
    def of(cls, features: Array) -> Reference:
        return cls(Moments.of(features))

    @cached_property
    def factor(self) -> Array:
        """L with L L' = covariance, d,d."""
        return factor(self.covariance) if self.known is None else self.known


def factor(covariance: Array) -> Array:
    """L with L L' = covariance, d,d: Cholesky's, or the symmetric root where the covariance is singular."""
    try:
        return cast(Array, np.linalg.cholesky(covariance))
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
        return cast(Array, (vectors * np.sqrt(values.clip(min=0))) @ vectors.T)


def fd(features: Array, reference: Reference) -> float:
    """Frechet distance of features N,d to the reference: the nuclear-norm form when N < d, else through eigvalsh."""
    if features.ndim != 2 or len(features) >= features.shape[1]:
        return fd_moments(Moments.of(features), reference)
    return fd_few(features, reference)


def fd_moments(moments: Moments, reference: Reference) -> float:
    """Frechet distance from accumulated moments to the reference."""
    _same(moments, reference)
    product = reference.factor.T @ moments.covariance @ reference.factor
    values = np.linalg.eigvalsh((product + product.T) / 2)
    return _distance(moments, reference, float(np.sqrt(values.clip(min=0)).sum()))


def fd_few(features: Array, reference: Reference) -> float:
    """Frechet distance of features N,d through the nuclear norm; meant for N < d."""
    x = checked(features)
    moments = Moments.of(x)
    _same(moments, reference)
    if moments.n < 2:
        raise DataError(f"Found {moments.n} samples; a Frechet distance needs at least 2.")
    rows = (x - moments.mean) / np.sqrt(moments.n - 1)
    return _distance(moments, reference, float(np.linalg.svdvals(rows @ reference.factor).sum()))


def fd_infinity(features: Array, reference: Reference, points: int = POINTS, seed: int = 0) -> float:
    """FD as the number of generated images N goes to infinity (Chong & Forsyth 2020).

    A Frechet distance of n images is too large by about c/n. A line of FD_n against 1/n through `points` random
    subsets, of max(N/5, d) to N images, meets 1/n = 0 at the extrapolated value, which may be below 0. The reference's
    own number of images stays as it is. nan for fewer than 2d images, where the excess is no line.
    """
    n, d = features.shape
    if n < 2 * d:
        return float("nan")
    sizes = np.linspace(max(n // 5, d), n, points).round().astype(int)
    rng = np.random.default_rng(seed)
    found = [fd(features[np.sort(rng.permutation(n)[:size])], reference) for size in sizes]
    return float(np.polyfit(1 / sizes, found, 1)[1])


def _distance(moments: Moments, reference: Reference, cross: float) -> float:
    """The three terms together; rounding may leave a tiny negative number, which is 0."""
    delta = moments.mean - reference.moments.mean
    total = float(delta @ delta) + float(np.trace(moments.covariance)) + float(np.trace(reference.covariance))
    return max(total - 2 * cross, 0.0)


def checked(features: Array) -> Array:
    """Features N,d as float64. Raises DataError where they are not finite, not a matrix, or none."""
    x = np.asarray(features, np.float64)
    if x.ndim != 2 or len(x) == 0 or not np.isfinite(x).all():
        raise DataError(f"Found features of shape {x.shape}, or not finite; expected finite numbers N,d with N > 0.")
    return x


def _same(moments: Moments, reference: Reference) -> None:
    if moments.mean.shape != reference.moments.mean.shape:
        raise DataError(
            f"Found features of {len(moments.mean)} dimensions against a reference of {len(reference.moments.mean)}; "
            "expected both from one extractor."
        )
