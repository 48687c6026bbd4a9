"""Splits that are made: 10% each, by class and group, from the seed; given ones are kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kartina.data.splits import NONE, TEST, TRAIN, VAL, assign, merged
from kartina.errors import DataError


def test_both_are_taken_from_train_by_class() -> None:
    labels = np.repeat([0, 1, 2], [100, 50, 1000])
    split = assign(np.full(1150, NONE, np.int8), labels)
    for s in (VAL, TEST):
        assert np.bincount(labels[split == s]).tolist() == [10, 5, 100]
    assert np.array_equal(split, assign(np.full(1150, NONE, np.int8), labels))
    assert not np.array_equal(split, assign(np.full(1150, NONE, np.int8), labels, seed=1))


def test_a_given_test_is_never_touched_and_val_comes_from_train() -> None:
    start = np.repeat(np.array([TRAIN, TEST], np.int8), [200, 30])
    split = assign(start, np.zeros(230, np.int64))
    assert (split[200:] == TEST).all() and (split[:200] == VAL).sum() == 20 and (split == TEST).sum() == 30


def test_given_splits_are_kept_whole() -> None:
    start = np.repeat(np.array([TRAIN, VAL, TEST], np.int8), [7, 2, 1])
    assert np.array_equal(assign(start, None), start)


def test_small_classes_keep_train_images() -> None:
    for n in range(1, 12):
        split = assign(np.full(n, NONE, np.int8), np.zeros(n, np.int64))
        assert (split == TRAIN).sum() >= 1
        if n >= 3:
            assert (split == VAL).sum() == (split == TEST).sum() == 1


def test_without_train_there_is_an_error() -> None:
    with pytest.raises(DataError, match="only test images"):
        assign(np.full(5, TEST, np.int8), None)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.integers(20, 120), st.integers(1, 6))
def test_a_group_never_stands_in_two_splits(seed: int, n_groups: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, n_groups, 1000)
    labels = rng.integers(0, classes, 1000)
    split = assign(np.full(1000, NONE, np.int8), labels, groups, seed)
    for g in np.unique(groups):
        assert len(set(split[groups == g].tolist())) == 1
    for s in (VAL, TEST):
        assert 40 <= (split == s).sum() <= 190
    assert np.array_equal(split, assign(np.full(1000, NONE, np.int8), labels, groups, seed))


def test_a_class_in_a_single_group_stays_in_train() -> None:
    groups = np.repeat(np.arange(51), [100] + [2] * 50)
    labels = np.repeat([0, 1], [100, 100])
    split = assign(np.full(200, NONE, np.int8), labels, groups)
    assert (split[:100] == TRAIN).all() and 6 <= (split[100:] == VAL).sum() <= 14


@pytest.mark.parametrize("n", range(1, 7))
def test_few_large_groups_still_make_splits(n: int) -> None:
    """Five patients of 50 images each: none brings a tenth nearer, and each split gets one all the same."""
    groups = np.repeat(np.arange(2 * n), 50)
    labels = np.repeat([0, 1], 50 * n)
    split = assign(np.full(100 * n, NONE, np.int8), labels, groups)
    for k in (0, 1):
        found = [len(np.unique(groups[(split == s) & (labels == k)])) for s in (TRAIN, VAL, TEST)]
        assert found == ([n - 2, 1, 1] if n > 2 else [n, 0, 0])
    patients = np.repeat(np.arange(n), 100)  # of both classes: one group serves them all
    split = assign(np.full(100 * n, NONE, np.int8), np.tile([0, 1], 50 * n), patients)
    found = [len(np.unique(patients[split == s])) for s in (VAL, TEST)]
    assert found == ([1, 1] if n > 2 else [0, 0])


def test_singletons_are_split_as_without_groups() -> None:
    """Small classes, whose images are groups of one since a duplicate was found."""
    labels = np.repeat(np.arange(20), 5)
    split = assign(np.full(100, NONE, np.int8), labels, np.arange(100))
    for s in (VAL, TEST):
        assert np.bincount(labels[split == s], minlength=20).tolist() == [1] * 20


def test_what_is_together_in_either_is_together_in_both() -> None:
    a, b = np.array([0, 0, 1, 2, 3, 4]), np.array([5, 6, 6, 7, 8, 7])
    found = merged(a, b)
    assert (found[:3] == found[0]).all() and found[3] == found[5] and len(set(found.tolist())) == 3
    assert merged(a, None) is a
