"""Figures of the service's benchmarks: percentiles, and the slope of memory with its interval."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks.service import percentile
from benchmarks.serving import MODELS, provide, step_counts
from benchmarks.soak import slope
from kartina.models import package
from kartina.models.model import load


def test_percentiles_are_nearest_ranks() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert [percentile(values, share) for share in (0.0, 0.5, 0.95, 0.99, 1.0)] == [1, 50, 95, 99, 100]
    assert percentile([7.0], 0.99) == 7


def test_the_slope_of_memory() -> None:
    steady = [(60.0 * minute + second, 100 + 2.0 * minute) for minute in range(10) for second in (0, 30)]
    assert slope(steady) == pytest.approx((120, 120, 120))  # 2 MiB a minute
    noisy = [(60.0 * minute, 100 + (minute % 2)) for minute in range(11)]
    per_hour, low, high = slope(noisy)
    assert low < 0 < high and per_hour == pytest.approx(0, abs=1e-9)
    assert all(math.isnan(value) for value in slope(steady[:4]))


def test_each_model_is_asked_for_steps_that_it_takes(home: Path) -> None:
    counts = {}
    for name in MODELS:
        provide(name, home)
        ref = package.find(name)
        counts[name] = step_counts(ref)
        for steps in counts[name]:
            load(ref).controls("generate", steps=steps)
    assert counts == {"fashion-dcgan": (), "meanflow-32-cpu": (1, 2, 4, 8), "fashion-flow": (4, 8, 12, 24)}
