"""Known answers of the Frechet distance, and oracles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import linalg

from kartina.errors import DataError
from kartina.metrics.fd import Moments, Reference, factor, fd, fd_few, fd_moments


def gaussian(n: int, d: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(d, d)) / np.sqrt(d)
    return scale * rng.normal(size=(n, d)) @ mix + shift


def of(mean: np.ndarray, covariance: np.ndarray, n: int = 1000) -> Moments:
    return Moments(n, mean, covariance * (n - 1))


def test_diagonal_gaussians() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0.1, 9, 64), rng.uniform(0.1, 9, 64)
    mean = rng.normal(size=64)
    expected = float(mean @ mean + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum())
    found = fd_moments(of(mean, np.diag(a)), Reference(of(np.zeros(64), np.diag(b))))
    assert found == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("c", [0.5, 1.5, 3.0])
def test_scaled_covariance(c: float) -> None:
    covariance = np.cov(gaussian(500, 48, 1), rowvar=False)
    zero = np.zeros(48)
    found = fd_moments(of(zero, covariance), Reference(of(zero, c**2 * covariance)))
    assert found == pytest.approx((1 - c) ** 2 * np.trace(covariance), rel=1e-10)


def test_same_features_are_at_zero() -> None:
    x = gaussian(400, 32, 2)
    assert fd(x, Reference.of(x)) == pytest.approx(0, abs=1e-10)


def test_symmetry_and_rotation() -> None:
    x, y = gaussian(400, 32, 3, shift=0.3), gaussian(500, 32, 4, 1.4)
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(32, 32)))[0]
    here = fd(x, Reference.of(y))
    assert fd(y, Reference.of(x)) == pytest.approx(here, rel=1e-9)
    assert fd(x @ turn, Reference.of(y @ turn)) == pytest.approx(here, rel=1e-9)


def test_against_scipy_eigvals_and_torchmetrics() -> None:
    from torchmetrics.image.fid import _compute_fid

    x, y = gaussian(600, 40, 6, shift=0.2), gaussian(700, 40, 7, 0.8)
    s1, s2, delta = np.cov(x, rowvar=False), np.cov(y, rowvar=False), x.mean(0) - y.mean(0)
    base = delta @ delta + np.trace(s1) + np.trace(s2)
    by_root = base - 2 * np.trace(linalg.sqrtm(s1 @ s2).real)
    by_values = base - 2 * np.sqrt(np.linalg.eigvals(s1 @ s2).real.clip(min=0)).sum()
    by_torchmetrics = float(_compute_fid(*(torch.from_numpy(v) for v in (x.mean(0), s1, y.mean(0), s2))))
    found = fd(x, Reference.of(y))
    for oracle in (by_root, by_values, by_torchmetrics):
        assert found == pytest.approx(oracle, rel=1e-9)


def test_few_samples_form_equals_the_eigenvalues() -> None:
    x, y = gaussian(20, 64, 8, shift=0.5), gaussian(300, 64, 9)
    reference = Reference.of(y)
    assert fd(x, reference) == fd_few(x, reference)
    assert fd_few(x, reference) == pytest.approx(fd_moments(Moments.of(x), reference), rel=1e-6)
    few = Reference.of(gaussian(30, 64, 10))  # singular on both sides
    assert fd_few(x, few) == pytest.approx(fd_moments(Moments.of(x), few), rel=1e-6)


@pytest.mark.parametrize(("n", "tolerance"), [(400, 1e-12), (30, 1e-6)])
def test_streaming_and_two_ranks_equal_one_batch(n: int, tolerance: float) -> None:
    x, reference = gaussian(n, 48, 11, shift=2.0), Reference.of(gaussian(500, 48, 12))
    whole = Moments.of(x)
    stream = Moments.of(x[:7])
    for i in range(7, n, 13):
        stream = stream.merge(Moments.of(x[i : i + 13]))
    ranks = Moments.of(x[::2]).merge(Moments.of(x[1::2]))
    for parts in (stream, ranks):
        assert parts.n == n
        np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(parts.covariance, whole.covariance, rtol=1e-12, atol=1e-12)
        assert fd_moments(parts, reference) == pytest.approx(fd_moments(whole, reference), rel=tolerance)


def test_unusable_features_are_refused() -> None:
    reference = Reference.of(gaussian(50, 8, 13))
    with pytest.raises(DataError, match="not finite"):
        fd(np.full((20, 8), np.nan), reference)
    with pytest.raises(DataError, match="one extractor"):
        fd(gaussian(50, 9, 14), reference)
    with pytest.raises(DataError, match="at least 2"):
        fd(gaussian(1, 8, 15), reference)


def test_a_singular_reference_has_a_factor() -> None:
    """A dimension twice, and one that never moves: Cholesky fails, or has pivots of nothing but rounding."""
    x, y = gaussian(300, 16, 16, shift=0.2), gaussian(400, 16, 17)
    for wide in (lambda a: np.hstack([a, a[:, :1]]), lambda a: np.hstack([a, np.ones((len(a), 1))])):
        a, b = wide(x), wide(y)
        found = factor(Reference.of(b).covariance)
        np.testing.assert_allclose(found @ found.T, Reference.of(b).covariance, atol=1e-12)
        s1, s2, delta = np.cov(a, rowvar=False), np.cov(b, rowvar=False), a.mean(0) - b.mean(0)
        cross = np.sqrt(np.linalg.eigvals(s1 @ s2).real.clip(min=0)).sum()
        assert fd(a, Reference.of(b)) == pytest.approx(
            delta @ delta + np.trace(s1) + np.trace(s2) - 2 * cross, rel=1e-6
        )
