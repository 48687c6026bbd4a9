"""Diversity, agreement, intervals, and the protocol that keeps unlike numbers apart."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import pdist

from kartina.errors import DataError, InputError
from kartina.metrics.agreement import agreement, agreement_per_class
from kartina.metrics.diversity import diversity, spread, spreads
from kartina.metrics.interval import t_interval, t_quantile
from kartina.metrics.protocol import Identity, Value, compare


def test_spread_is_the_mean_pair_distance() -> None:
    x = np.random.default_rng(0).normal(size=(40, 7))
    assert spread(x) == pytest.approx(pdist(x).mean(), rel=1e-12)
    assert np.isnan(spread(x[:1]))


def test_diversity_of_a_collapse_and_of_a_scaling() -> None:
    rng = np.random.default_rng(1)
    real, labels, counts = rng.normal(size=(60, 7)), np.repeat([0, 1], 30), np.array([30, 30])
    own = spreads(real, labels, 2)
    assert diversity(own, own, counts) == 1
    assert diversity(spreads(0.5 * real, labels, 2), own, counts) == pytest.approx(0.5, rel=1e-12)
    assert diversity(spreads(np.ones((60, 7)), labels, 2), own, counts) == 0


def test_permuted_labels_score_one_in_k() -> None:
    """Agreement that ignores labels would not fall."""
    asked = np.repeat(np.arange(5), 20)
    assert agreement(asked, asked) == 1
    cycled = [agreement((asked + shift) % 5, asked) for shift in range(5)]
    assert np.mean(cycled) == pytest.approx(1 / 5, abs=1e-12)
    rng = np.random.default_rng(2)
    permuted = [agreement(asked, rng.permutation(asked)) for _ in range(500)]
    assert abs(np.mean(permuted) - 1 / 5) < 4 * np.std(permuted) / np.sqrt(500)


def test_agreement_per_class() -> None:
    found = agreement_per_class(np.array([0, 1, 1, 0]), np.array([0, 0, 1, 0]), 3)
    np.testing.assert_allclose(found, [2 / 3, 1, np.nan])
    with pytest.raises(DataError):
        agreement(np.array([0]), np.array([0, 1]))


def test_quantiles_of_t_are_scipys() -> None:
    for p in (0.05, 0.5, 0.9, 0.975, 0.9999):
        for freedom in (1, 2, 3.7, 30):
            assert t_quantile(p, freedom) == pytest.approx(stats.t.ppf(p, freedom), rel=1e-12, abs=1e-12)


def test_t_interval_by_hand() -> None:
    low, high = t_interval([1.0, 2.0, 3.0]) or (0, 0)  # s = 1, t(0.975, 2) = 4.302653
    assert (low, high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), abs=1e-6)
    assert t_interval([1.0]) is None


def test_unlike_identities_are_not_compared() -> None:
    one = Identity(
        metric="FD-domain",
        extractor="FD-domain",
        extractor_hash="a" * 64,
        data="d",
        split="val",
        n=9,
        m=9,
        seeds=(0, 1),
    )
    a, b = Value(value=3.0, identity=one), Value(value=1.0, identity=one)
    assert compare(a, b) == 2
    other = Value(value=1.0, identity=one.model_copy(update={"n": 8, "extractor_hash": "b" * 64}))
    with pytest.raises(InputError, match="n: 9 and 8") as caught:
        compare(a, other)
    assert len(caught.value.details) == 2 and "extractor_hash" in str(caught.value)
    with pytest.raises(InputError, match="too few"):
        compare(a, Value(value=None, identity=one, reason="too few"))
