"""Which images are labelled: stratified, and a function of the seed."""

from __future__ import annotations

import numpy as np
import pytest

from kartina.data.subset import stratified
from kartina.errors import ConfigError


def test_every_class_as_often_as_any_other() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 50))
    for n in (10, 25, 100, 499):
        ids = stratified(labels, n, seed=1)
        assert len(np.unique(ids)) == n and (np.diff(ids) > 0).all()
        counts = np.bincount(labels[ids], minlength=10)
        assert counts.max() - counts.min() <= 1
    assert np.array_equal(stratified(labels, 500, 1), np.arange(500))


def test_a_class_with_too_few_gives_all_it_has() -> None:
    labels = np.repeat([0, 1, 2], [2, 100, 50])
    assert np.bincount(labels[stratified(labels, 32, 0)]).tolist() == [2, 15, 15]
    assert np.bincount(labels[stratified(labels, 150, 0)]).tolist() == [2, 98, 50]


def test_a_function_of_the_seed() -> None:
    labels = np.repeat(np.arange(4), 100)
    a, b, c = (stratified(labels, 20, seed) for seed in (5, 5, 6))
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    extra = {tuple(np.bincount(labels[stratified(labels, 5, seed)])) for seed in range(20)}
    assert len(extra) == 4, "which class gets the one left over is drawn"


@pytest.mark.parametrize("n", [0, 3, 401])
def test_what_cannot_be_drawn_is_refused(n: int) -> None:
    with pytest.raises(ConfigError, match=rf"Found {n} labels asked for; expected 4 .* to 400"):
        stratified(np.repeat(np.arange(4), 100), n, 0)
