"""Means and spreads over training seeds and generation seeds, kept apart; differences; ties.

A run's number is a mean over k generation seeds. Over runs that differ in the training seed alone, the numbers vary for
two reasons: other images are drawn (resampling) and other weights were found (retraining). As in a one-way random
effects model,

    variance of runs' means = retraining**2 + resampling**2 / k

so that `resampling` is pooled from within the runs, and `retraining` is what is left. Intervals are Student's t over
training seeds, of the mean: other means of as many trainings, not single trainings, would agree with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kartina.errors import InputError
from kartina.metrics.interval import t_interval, t_quantile
from kartina.metrics.protocol import Identity, Value


@dataclass(frozen=True)
class Summary:
    """One metric of one entry over its finished runs."""

    mean: float
    interval: tuple[float, float] | None  # of the mean, t over training seeds; None for one run
    retraining: float | None  # standard deviation that other training seeds bring; None for one run
    resampling: float | None  # standard deviation that other generation seeds bring; None for one of them
    runs: tuple[float, ...]  # each run's mean over its generation seeds
    k: int  # generation seeds behind each
    floor: float | None  # what real images score
    identity: Identity

    def json_shape(self) -> dict[str, object]:
        return {"value": self.mean, "interval": None if self.interval is None else list(self.interval),
                "floor": self.floor, "identity": self.identity.model_dump(mode="json"),
                "retraining": self.retraining, "resampling": self.resampling, "runs": list(self.runs)}  # fmt: skip


def resampling_sd(value: Value, level: float = 0.95) -> float | None:
    """The standard deviation over generation seeds, from the interval: half = t * sd / sqrt(k)."""
    k = len(value.identity.seeds)
    if value.interval is None or k < 2:
        return None
    half = (value.interval[1] - value.interval[0]) / 2
    return half * math.sqrt(k) / t_quantile(0.5 + level / 2, k - 1)


def summary(values: Sequence[Value], level: float = 0.95) -> Summary:
    """Of one metric's values, one for each run. Raises InputError where they were not made alike, or there are none."""
    if not values:
        raise InputError("Found no values to summarise; expected one for each run.")
    same_identity(values)
    runs = [value.value for value in values]
    if any(x is None for x in runs):
        reason = next(v.reason for v in values if v.value is None)
        raise InputError(f"Found a run without a value ({reason}); expected a number from each.")
    found = [float(x) for x in runs if x is not None]
    within = [sd for sd in (resampling_sd(value) for value in values) if sd is not None]
    k = len(values[0].identity.seeds)
    resampling = math.sqrt(float(np.mean(np.square(within)))) if within else None
    retraining = None
    if len(found) > 1:
        between = float(np.var(found, ddof=1))
        retraining = math.sqrt(max(0.0, between - (resampling or 0.0) ** 2 / k))
    floors = [value.floor for value in values if value.floor is not None]
    return Summary(
        mean=float(np.mean(found)), interval=t_interval(found, level), retraining=retraining, resampling=resampling,
        runs=tuple(found), k=k, floor=float(np.mean(floors)) if floors else None, identity=values[0].identity,
    )  # fmt: skip


def same_identity(values: Sequence[Value]) -> None:
    """Raise InputError naming each difference where values were not made alike."""
    first = values[0].identity.model_dump()
    for value in values[1:]:
        other = value.identity.model_dump()
        unlike = [f"{key}: {first[key]!r} and {other[key]!r}" for key in first if first[key] != other[key]]
        if unlike:
            raise InputError(
                f"Found numbers of {first['metric']} that were not made alike ({'; '.join(unlike)}); expected equal "
                "identities. Measure all runs of the study again with one version on the same data.",
                details=unlike,
            )


@dataclass(frozen=True)
class Difference:
    """a - b of two entries, and whether that is a tie."""

    gap: float
    interval: tuple[float, float] | None
    share: float  # |gap| as a share of the smaller magnitude; inf where that is 0
    basis: str  # "retraining": t over training seeds; "resampling": one run each, so generation seeds alone; "none"
    tie: bool

    def json_shape(self) -> dict[str, object]:
        share = self.share if math.isfinite(self.share) else None
        return {"gap": self.gap, "interval": None if self.interval is None else list(self.interval), "share": share,
                "basis": self.basis, "tie": self.tie}  # fmt: skip


def difference(a: Summary, b: Summary, tie_share: float = 0.015, level: float = 0.95) -> Difference:
    """a - b by Welch's t over training seeds. A tie: the interval covers 0, or the gap is under `tie_share`.

    Raises InputError where the two were not made alike.
    """
    same_identity([Value(value=a.mean, identity=a.identity), Value(value=b.mean, identity=b.identity)])
    gap, least = a.mean - b.mean, min(abs(a.mean), abs(b.mean))
    share = abs(gap) / least if least else (math.inf if gap else 0.0)
    one, two = _error(a), _error(b)
    interval, basis = None, "none"
    if one is not None and two is not None:
        interval = welch(gap, one, two, level)
        basis = "retraining" if len(a.runs) > 1 and len(b.runs) > 1 else "resampling"
    covers = interval is not None and interval[0] <= 0 <= interval[1]
    return Difference(gap, interval, share, basis, covers or share < tie_share)


def welch(gap: float, a: tuple[float, int], b: tuple[float, int], level: float = 0.95) -> tuple[float, float]:
    """Interval of a difference of means, from (squared error of the mean, degrees of freedom) of each."""
    (va, na), (vb, nb) = a, b
    total = va + vb
    if total == 0:
        return gap, gap
    freedom = total**2 / (va**2 / na + vb**2 / nb)
    half = t_quantile(0.5 + level / 2, freedom) * math.sqrt(total)
    return gap - half, gap + half


def _error(found: Summary) -> tuple[float, int] | None:
    """Squared error of the mean and its degrees of freedom: over runs; of a single run over its generation seeds."""
    n = len(found.runs)
    if n > 1:
        return float(np.var(found.runs, ddof=1)) / n, n - 1
    if found.resampling is not None:
        return found.resampling**2 / found.k, found.k - 1
    return None


def median_index(values: Sequence[float]) -> int:
    """Position of the median; of an even number the lower one of the two in the middle."""
    return int(np.argsort(values, kind="stable")[(len(values) - 1) // 2])
