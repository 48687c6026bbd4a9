"""Means, spreads, differences and ties against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kartina.errors import InputError
from kartina.metrics.interval import t_interval
from kartina.metrics.protocol import Identity, Value
from kartina.study.statistics import Summary, difference, median_index, resampling_sd, summary, welch


def identity(**changes: object) -> Identity:
    base: dict[str, object] = {"metric": "KID", "extractor": "FD-domain", "extractor_hash": "e", "data": "d",
                               "split": "val", "n": 100, "m": 100, "seeds": (200, 201, 202)}  # fmt: skip
    return Identity.model_validate({**base, **changes})


def value(of_seeds: list[float], floor: float | None = 0.1, **changes: object) -> Value:
    """A number as an evaluation gives it, from its values over generation seeds."""
    seeds = tuple(range(200, 200 + len(of_seeds)))
    found = identity(seeds=seeds, **changes)
    return Value(value=float(np.mean(of_seeds)), interval=t_interval(of_seeds), floor=floor, identity=found)


def test_the_spread_over_generation_seeds_comes_back_from_the_interval() -> None:
    # 1, 2, 6: mean 3, deviations -2, -1, 3, so variance (4 + 1 + 9) / 2 = 7.
    assert resampling_sd(value([1.0, 2.0, 6.0])) == pytest.approx(math.sqrt(7), rel=1e-12)
    assert resampling_sd(value([1.0])) is None


def test_two_runs_by_hand() -> None:
    # Run A: 1, 2, 3 (mean 2, variance 1); run B: 5, 6, 7 (mean 6, variance 1). Pooled resampling sd 1.
    # Between the means: ((2-4)^2 + (6-4)^2) / 1 = 8. Retraining: sqrt(8 - 1/3). Interval: 4 +- t(1, .975) * sqrt(8/2).
    found = summary([value([1.0, 2.0, 3.0]), value([5.0, 6.0, 7.0])])
    assert found.mean == 4 and found.runs == (2.0, 6.0) and found.k == 3 and found.floor == pytest.approx(0.1)
    assert found.resampling == pytest.approx(1.0, rel=1e-12)
    assert found.retraining == pytest.approx(math.sqrt(8 - 1 / 3), rel=1e-12)
    half = 12.706204736432095 * 2  # Student's t with one degree of freedom, from tables
    assert found.interval == pytest.approx((4 - half, 4 + half), rel=1e-9)


def test_retraining_is_0_where_resampling_explains_all() -> None:
    found = summary([value([0.0, 4.0]), value([1.0, 3.0])])  # equal means
    assert found.retraining == 0 and found.resampling == pytest.approx(math.sqrt((8 + 2) / 2))


def test_one_run_has_no_interval_over_training() -> None:
    found = summary([value([1.0, 3.0])])
    assert found.interval is None and found.retraining is None and found.resampling == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize("change", [{"extractor_hash": "f"}, {"n": 50}, {"split": "test"}, {"data": "x"}])
def test_unlike_numbers_are_not_averaged(change: dict[str, object]) -> None:
    with pytest.raises(InputError, match=f"not made alike.*{next(iter(change))}"):
        summary([value([1.0, 2.0]), value([1.0, 2.0], **change)])
    with pytest.raises(InputError, match="not made alike"):
        difference(summary([value([1.0, 2.0])]), summary([value([1.0, 2.0], **change)]))


def test_a_missing_value_is_not_averaged() -> None:
    none = Value(value=None, identity=identity(seeds=(200, 201)), reason="too few")
    with pytest.raises(InputError, match="too few"):
        summary([value([1.0, 2.0]), none])
    with pytest.raises(InputError, match="no values"):
        summary([])


def of(*runs: float) -> Summary:
    return summary([value([x, x, x]) for x in runs])


def test_welch_by_hand() -> None:
    # a: 1, 2, 3 -> s^2/n = 1/3; b: 4, 8 -> s^2/n = 8/2 = 4. Error^2 = 13/3; freedom = (13/3)^2 / ((1/9)/2 + 16/1).
    freedom = (13 / 3) ** 2 / (1 / 18 + 16)
    assert freedom == pytest.approx(1.16955, rel=1e-4)
    from scipy import stats

    half = stats.t.ppf(0.975, freedom) * math.sqrt(13 / 3)
    assert welch(-4.0, (1 / 3, 2), (4.0, 1)) == pytest.approx((-4 - half, -4 + half), rel=1e-12)
    oracle = stats.ttest_ind([1, 2, 3], [4, 8], equal_var=False).confidence_interval(0.95)
    found = difference(of(1.0, 2.0, 3.0), of(4.0, 8.0))
    assert found.interval == pytest.approx((oracle.low, oracle.high), rel=1e-12)
    assert found.gap == -4 and found.share == 2.0 and found.basis == "retraining" and found.tie


def test_ties() -> None:
    apart = difference(of(1.0, 1.01, 0.99), of(2.0, 2.01, 1.99))
    assert not apart.tie and apart.interval is not None and apart.interval[1] < 0
    # 1% apart with no spread at all: the interval does not cover 0, the gap is too small.
    near = difference(of(1.0, 1.0, 1.0), of(1.01, 1.01, 1.01))
    assert near.interval == pytest.approx((-0.01, -0.01)) and near.tie
    assert not difference(of(1.0, 1.0, 1.0), of(1.02, 1.02, 1.02)).tie
    assert difference(of(1.0, 1.0), of(1.02, 1.02), tie_share=0.03).tie


def test_one_run_each_falls_back_to_generation_seeds_and_says_so() -> None:
    a, b = summary([value([1.0, 1.1, 0.9])]), summary([value([2.0, 2.1, 1.9])])
    found = difference(a, b)
    assert found.basis == "resampling" and not found.tie
    # s^2/k = 0.01/3 each, freedom 4: half = t(4, .975) * sqrt(0.02/3)
    assert found.interval == pytest.approx((-1 - 2.7764451 * math.sqrt(0.02 / 3), -1 + 2.7764451 * math.sqrt(0.02 / 3)))
    alone = difference(summary([value([1.0])]), summary([value([2.0])]))
    assert alone.interval is None and alone.basis == "none" and not alone.tie
    assert alone.json_shape()["interval"] is None


def test_a_gap_from_0_is_no_tie_by_share() -> None:
    found = difference(of(0.0, 0.0), of(0.1, 0.1))
    assert found.share == math.inf and not found.tie and found.json_shape()["share"] is None
    assert difference(of(0.0, 0.0), of(0.0, 0.0)).tie


@pytest.mark.parametrize(
    ("values", "index"), [([3.0], 0), ([1.0, 3.0, 2.0], 2), ([4.0, 1.0, 2.0, 3.0], 2), ([2.0, 1.0], 1)]
)
def test_the_median_run(values: list[float], index: int) -> None:
    assert median_index(values) == index
