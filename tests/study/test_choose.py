"""The choosing rule, condition by condition, on numbers made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from kartina.study.choose import Candidate, choose, conditions
from kartina.study.spec import Choose
from kartina.study.statistics import Summary
from tests.study.test_statistics import identity, summary, value

RULE = Choose(latency_ms=100.0)


def of(metric: str, runs: tuple[float, ...], floor: float | None) -> Summary:
    return summary([value([x, x, x], floor, metric=metric) for x in runs])


def one(
    key: str,
    kid: tuple[float, ...] = (1.0, 1.01, 0.99),
    agreement: float = 0.9,
    coverage: float = 0.9,
    copies: float = 0.01,
    **more: Any,
) -> Candidate:
    """A candidate; real images: agreement 0.92, coverage 0.95, flagged copies 0.01."""
    return Candidate(
        key=key, label=key.upper(), seeds=tuple(range(len(kid))),
        metrics={
            "kid": of("KID", kid, 0.05),
            "class_agreement": of("agreement", (agreement,) * len(kid), 0.92),
            "coverage": of("coverage", (coverage,) * len(kid), 0.95),
            "memorisation": of("memorisation", (copies,) * len(kid), 0.01),
        },
        **{"latency_ms": 50.0, "gflop": 1.0, **more},
    )  # fmt: skip


def test_the_lowest_wins_and_is_named_with_the_median_seed() -> None:
    found = choose([one("a"), one("b", kid=(0.5, 0.7, 0.6)), one("c", kid=(2.0, 2.0, 2.0))], RULE)
    assert found.winner == "b" and found.seed == 2 and found.tied == ("b",)
    assert found.reason.startswith("B wins with the lowest KID on val of those that qualify, 0.6; the next, A, is 0.4")
    assert found.against["a"].gap == pytest.approx(-0.4) and set(found.against) == {"a", "c"}


# Limits: agreement 0.87, coverage 0.76, copies 0.02, latency 100 ms, no failed run.
@pytest.mark.parametrize(
    ("change", "holds", "name"),
    [
        ({"agreement": 0.87}, True, "class_agreement"),
        ({"agreement": 0.8699}, False, "class_agreement"),
        ({"coverage": 0.76}, True, "coverage"),
        ({"coverage": 0.7599}, False, "coverage"),
        ({"copies": 0.02}, True, "memorisation"),
        ({"copies": 0.0201}, False, "memorisation"),
        ({"latency_ms": 100.0}, True, "latency"),
        ({"latency_ms": 100.1}, False, "latency"),
        ({"latency_ms": None}, False, "latency"),
        ({"failed": 1}, False, "failed"),
    ],
)
def test_each_condition_at_its_limit(change: dict[str, Any], holds: bool, name: str) -> None:
    best = one("best", kid=(0.1, 0.11, 0.09), **change)
    found = choose([best, one("other")], RULE)
    assert found.winner == ("best" if holds else "other")
    failing = [c.name for c in found.conditions["best"] if not c.holds]
    assert failing == ([] if holds else [name])
    assert ("Lower, but not qualified: BEST" in found.reason) is not holds


def test_nothing_qualifies_says_what_failed_for_each() -> None:
    found = choose([one("a", agreement=0.5), one("b", coverage=0.1, copies=0.5)], RULE)
    assert found.winner is None and found.seed is None
    assert found.reason == (
        "Nothing qualifies. A (class agreement 0.500, at least 0.870). "
        "B (coverage 0.100, at least 0.760; flagged copies 0.5000, at most 0.0200)."
    )


def test_a_tie_goes_to_the_cheaper_sampler() -> None:
    noisy = one("best", kid=(0.9, 1.3, 0.7), gflop=3.0)  # mean 0.967
    cheap = one("cheap", kid=(1.0, 1.2, 0.8), gflop=0.2)  # mean 1.0: within the spread
    dear = one("dear", kid=(1.0, 1.2, 0.8), gflop=9.0)
    far = one("far", kid=(9.0, 9.1, 8.9), gflop=0.1)
    found = choose([noisy, cheap, dear, far], RULE)
    assert found.winner == "cheap" and set(found.tied) == {"best", "cheap", "dear"} and found.seed == 0
    assert "cheapest sampler of 3 that tie" in found.reason and "0.2 GFLOP" in found.reason


def test_what_does_not_qualify_is_no_tie_to_win() -> None:
    cheap = one("cheap", kid=(1.0, 1.0, 1.0), gflop=0.1, agreement=0.1)
    assert choose([one("best"), cheap], RULE).winner == "best"


def test_what_was_not_measured_does_not_qualify() -> None:
    blind = one("blind")
    del blind.metrics["memorisation"]
    assert [c.says for c in conditions(blind, RULE) if not c.holds] == ["flagged copies: not measured"]
    free = one("free")
    del free.metrics["class_agreement"]
    free.missing["class_agreement"] = "unconditional"
    assert [c.says for c in conditions(free, RULE) if not c.holds] == ["class agreement: unconditional"]
    nothing = Candidate("n", "N", (), missing={"kid": "no finished run"}, failed=3)
    found = choose([nothing], RULE)
    assert found.winner is None and "KID: no finished run" in found.reason and "failed runs 3" in found.reason


def test_one_training_each_is_said() -> None:
    found = choose([one("a", kid=(1.0,)), one("b", kid=(2.0,))], RULE)
    assert found.winner == "a" and "how much another training would change is not known" in found.reason


def test_few_real_images_flagged_count_as_one_in_a_hundred() -> None:
    some = one("a", copies=0.015)
    some.metrics["memorisation"] = of("memorisation", (0.015, 0.015, 0.015), 0.0)
    (found,) = [c for c in conditions(some, RULE) if c.name == "memorisation"]
    assert found.holds and found.limit == 0.02


def test_what_flags_a_copy_is_a_setting() -> None:
    near = one("a", copies=0.5)
    near.metrics["copies"] = of("copies", (0.0, 0.0, 0.0), 0.0)
    assert choose([near], RULE).winner is None
    assert choose([near], RULE.model_copy(update={"copies_by": "copies"})).winner == "a"


def test_the_limit_of_close_copies_is_twice_the_real_rate_and_one_image_where_there_is_none() -> None:
    rule = RULE.model_copy(update={"copies_by": "copies"})
    for copies, real, n, holds in (
        (0.004, 0.002, 600, True),
        (0.0041, 0.002, 600, False),
        (1 / 600, 0.0, 600, True),
        (3 / 600, 0.0, 600, False),
        (0.0199, 0.0, 600, False),
    ):
        near = one("a")
        near.metrics["copies"] = summary([value([copies] * 3, real, metric="copies", n=n) for _ in range(3)])
        assert (choose([near], rule).winner == "a") is holds, (copies, real)


def test_a_share_of_what_may_be_less_than_nothing_is_not_told() -> None:
    found = choose([one("a", kid=(-0.01, -0.011, -0.009)), one("b", kid=(1.0, 1.01, 0.99))], RULE)
    assert "1.01 above it" in found.reason and "%" not in found.reason


def test_without_any_interval_it_is_said_too() -> None:
    single = [one(key, kid=(kid,)) for key, kid in (("a", 1.0), ("b", 2.0))]
    for candidate, kid in zip(single, (1.0, 2.0), strict=True):
        candidate.metrics["kid"] = summary([value([kid], 0.05, metric="KID")])
    found = choose(single, RULE)
    assert found.against["b"].basis == "none" and "how much another training would change is not known" in found.reason


def test_no_latency_budget_asks_for_none() -> None:
    assert "latency" not in [c.name for c in conditions(one("a"), Choose())]
    assert choose([one("a", latency_ms=1e9)], Choose()).winner == "a"


def test_failed_runs_may_be_allowed() -> None:
    assert choose([one("a", failed=1)], Choose(failed=1)).winner == "a"


def test_the_shape_is_json() -> None:
    import json

    found = choose([one("a"), one("b")], RULE).json_shape()
    assert json.loads(json.dumps(found)) == found
    assert identity().metric == "KID"
