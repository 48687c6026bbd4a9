"""Known answers of precision, recall, density and coverage; `prdc` is the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from prdc import compute_prdc

from kartina.errors import DataError
from kartina.metrics.prdc import coverage, expected_coverage, prdc, radii, tiles


def normal(n: int, d: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


@pytest.mark.parametrize("k", [3, 5])
def test_equals_the_authors_code(k: int, capsys: pytest.CaptureFixture[str]) -> None:
    real, fake = normal(300, 16, 0), 0.8 * normal(250, 16, 1) + 0.1
    theirs = compute_prdc(real, fake, k)
    ours = prdc(real, fake, k, k)
    assert {key: getattr(ours, key) for key in theirs} == pytest.approx(theirs, abs=1e-12)


def test_copy() -> None:
    real = normal(200, 12, 2)
    found = prdc(real, real.copy())
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    # Real ball i holds itself and its k - 1 nearest others, exactly k images.
    assert found.density == 1


def test_disjoint() -> None:
    found = prdc(normal(200, 12, 3), normal(200, 12, 4) + 1000)
    assert (found.precision, found.recall, found.density, found.coverage) == (0, 0, 0, 0)


def test_collapsed() -> None:
    real = normal(200, 12, 5)
    point = real[:1] + 0.01
    fake = np.repeat(point, 200, axis=0)
    found = prdc(real, fake)
    reach, distance = radii(real, 5), np.linalg.norm(real - point, axis=1)
    holding = distance < reach
    assert found.precision == 1 and found.recall == 0  # generated balls have radius 0
    assert found.coverage == holding.mean()
    assert found.density == holding.sum() / 5


def test_near_duplicates_are_told_apart() -> None:
    real = normal(64, 8, 6) + 1e4
    twin = real.copy()
    twin[:, 0] += 1e-7
    distances = next(iter(tiles(real, twin)))[1].diagonal()
    np.testing.assert_allclose(distances, 1e-7, rtol=1e-4)


def test_tiles_change_nothing() -> None:
    real, fake = normal(150, 8, 7), normal(120, 8, 8)
    whole = np.concatenate([d for _, d in tiles(real, fake)])
    for size in (1, 17, 149, 500):
        assert (np.concatenate([d for _, d in tiles(real, fake, size)]) == whole).all()


def test_coverage_of_the_same_distribution() -> None:
    n, k = 100, 5
    expected = 1 - np.prod([(n - j) / (2 * n - j) for j in range(1, k + 1)])
    assert expected_coverage(n, n, k) == pytest.approx(expected, rel=1e-12)
    observed = [coverage(normal(n, 6, 100 + i), normal(n, 6, 900 + i)) for i in range(200)]
    error = np.std(observed, ddof=1) / np.sqrt(len(observed))
    assert abs(np.mean(observed) - expected) < 4 * error


def test_too_few_for_a_neighbour() -> None:
    with pytest.raises(DataError, match="at least 6"):
        radii(normal(5, 4, 9), 5)
    for k, n in ((5, 6), (1, 2), (3, 5)):  # just enough, and one more
        x = normal(n, 4, 9)
        every = np.sort(np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1)), axis=1)
        assert radii(x, k) == pytest.approx(every[:, k], rel=1e-12)
