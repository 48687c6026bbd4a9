"""The choosing rule, written down before the first run: who wins and why, or that nothing qualifies.

    lowest mean of the metric on val (fresh generation seeds)
    subject to   class agreement >= real images' - agreement_slack
                 coverage        >= coverage_share * floor
                 flagged copies  <= copies_factor * the rate of real images (1% by definition, or more)
                 latency         <= latency_ms, where one is given
                 failed runs     <= failed
    ties with the best (the interval of the difference covers 0, or the gap is under tie_share) go to the cheaper
    sampler: fewer floating-point operations an image. The run with the median metric is published.

What was not measured does not qualify. The test split has no say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kartina.metrics.memorisation import PERCENTILE
from kartina.metrics.protocol import Value
from kartina.study.spec import Choose
from kartina.study.statistics import Difference, Summary, difference, median_index


@dataclass(frozen=True)
class Candidate:
    """An entry on one data set, as the rule sees it: its finished runs' numbers on val."""

    key: str
    label: str
    seeds: tuple[int, ...]  # of its finished runs
    metrics: dict[str, Summary] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)  # metric -> why there is no value
    failed: int = 0  # runs
    latency_ms: float | None = None
    gflop: float | None = None  # an image


@dataclass(frozen=True)
class Condition:
    """One condition: what was found, what the rule asks, whether it holds."""

    name: str
    found: float | None
    limit: float | None
    holds: bool
    says: str  # "class agreement 0.812, at least 0.864"

    def json_shape(self) -> dict[str, Any]:
        return {"name": self.name, "found": self.found, "limit": self.limit, "holds": self.holds, "says": self.says}


@dataclass(frozen=True)
class Verdict:
    """Who is published for one data set."""

    winner: str | None  # key
    seed: int | None  # the training seed whose run is published
    reason: str
    conditions: dict[str, list[Condition]]  # by key
    against: dict[str, Difference]  # by key: the metric of the best that qualifies, minus that of each other
    tied: tuple[str, ...] = ()  # keys that tie with the best of the qualified, itself among them

    def json_shape(self) -> dict[str, Any]:
        return {
            "winner": self.winner, "seed": self.seed, "reason": self.reason, "tied": list(self.tied),
            "conditions": {key: [c.json_shape() for c in found] for key, found in self.conditions.items()},
            "against": {key: found.json_shape() for key, found in self.against.items()},
        }  # fmt: skip


def conditions(one: Candidate, rule: Choose) -> list[Condition]:
    """Each condition of the rule for one candidate, in its order."""
    out = []

    def check(key: str, name: str, limit: float | None, least: bool, digits: int = 3) -> None:
        found = one.metrics.get(key)
        if found is None or limit is None:
            why = one.missing.get(key) or ("no value of real images" if found is not None else "not measured")
            out.append(Condition(key, None, limit, False, f"{name}: {why}"))
            return
        slack = 1e-9 * max(1.0, abs(limit))  # a whole point, whatever rounding says
        holds = found.mean >= limit - slack if least else found.mean <= limit + slack
        asked = f"{'at least' if least else 'at most'} {limit:.{digits}f}"
        out.append(Condition(key, found.mean, limit, holds, f"{name} {found.mean:.{digits}f}, {asked}"))

    def floor(key: str) -> float | None:
        found = one.metrics.get(key)
        return None if found is None else found.floor

    real, covers, copies = floor("class_agreement"), floor("coverage"), floor(rule.copies_by)
    check("class_agreement", "class agreement", None if real is None else real - rule.agreement_slack, True)
    check("coverage", "coverage", None if covers is None else covers * rule.coverage_share, True)
    # Of few real images the count may round to none: one in a hundred is flagged by definition, a close copy is one.
    rate = None
    if copies is not None:
        by_chance = PERCENTILE if rule.copies_by == "memorisation" else 1 / one.metrics[rule.copies_by].identity.n
        rate = max(copies, by_chance)
    check(rule.copies_by, "flagged copies", None if rate is None else rate * rule.copies_factor, False, 4)
    if rule.latency_ms is not None:
        ms = one.latency_ms
        holds = ms is not None and ms <= rule.latency_ms
        says = "latency: not measured" if ms is None else f"latency {ms:.1f} ms, at most {rule.latency_ms:g} ms"
        out.append(Condition("latency", ms, rule.latency_ms, holds, says))
    few = "none" if rule.failed == 0 else f"at most {rule.failed}"
    out.append(Condition("failed", float(one.failed), float(rule.failed), one.failed <= rule.failed,
                         f"failed runs {one.failed}, {few} allowed"))  # fmt: skip
    if rule.metric not in one.metrics:
        why = one.missing.get(rule.metric, "no finished run")
        out.append(Condition(rule.metric, None, None, False, f"{rule.metric.upper()}: {why}"))
    return out


def choose(candidates: Sequence[Candidate], rule: Choose) -> Verdict:
    """Apply the rule to the candidates of one data set. Raises InputError where their numbers were not made alike."""
    checked = {one.key: conditions(one, rule) for one in candidates}
    fit = [one for one in candidates if all(c.holds for c in checked[one.key])]
    if not fit:
        failing = [
            f"{one.label} ({'; '.join(c.says for c in checked[one.key] if not c.holds)})" for one in candidates
        ]  # fmt: skip
        return Verdict(None, None, f"Nothing qualifies. {'. '.join(failing)}.", checked, {})

    name = fit[0].metrics[rule.metric].identity.metric  # KID where it is in Inception's features, KD-domain, ...
    best = min(fit, key=lambda one: one.metrics[rule.metric].mean)
    against = {
        one.key: difference(best.metrics[rule.metric], one.metrics[rule.metric], rule.tie_share, rule.level)
        for one in candidates
        if one.key != best.key and rule.metric in one.metrics
    }
    equal = [best, *(one for one in fit if one.key in against and against[one.key].tie)]
    winner = min(equal, key=lambda one: (one.gflop if one.gflop is not None else float("inf"),
                                         one.metrics[rule.metric].mean))  # fmt: skip
    seed = winner.seeds[median_index(winner.metrics[rule.metric].runs)]
    return Verdict(winner.key, seed, _reason(winner, best, equal, fit, candidates, against, rule, name), checked,
                   against, tuple(one.key for one in equal))  # fmt: skip


def _reason(
    winner: Candidate,
    best: Candidate,
    equal: Sequence[Candidate],
    fit: Sequence[Candidate],
    candidates: Sequence[Candidate],
    against: dict[str, Difference],
    rule: Choose,
    name: str,
) -> str:
    value = winner.metrics[rule.metric].mean
    parts = [f"{winner.label} wins"]
    if len(equal) == 1:
        parts.append(f"with the lowest {name} on val of those that qualify, {value:.4g}")
        others = [one for one in fit if one.key != winner.key]
        if others:
            second = min(others, key=lambda one: one.metrics[rule.metric].mean)
            gap = against[second.key]
            positive = min(value, second.metrics[rule.metric].mean) > 0  # else a share says nothing
            share = f" ({gap.share:.0%})" if positive and gap.share < 10 else ""
            parts.append(f"; the next, {second.label}, is {-gap.gap:.4g}{share} above it")
        elif len(candidates) > 1:
            parts.append("; no other qualifies")
    else:
        tied = ", ".join(one.label for one in equal if one.key != winner.key)
        parts.append(f"as the cheapest sampler of {len(equal)} that tie ({name} {value:.4g}; with {tied}")
        cheap = "" if winner.gflop is None else f"; {winner.gflop:.3g} GFLOP an image"
        parts.append(f"{cheap})")
    better = [
        one for one in candidates
        if one not in fit and rule.metric in one.metrics and one.metrics[rule.metric].mean < value
    ]  # fmt: skip
    if better:
        parts.append(f". Lower, but not qualified: {', '.join(one.label for one in better)}")
    if any(found.basis != "retraining" for found in against.values()):
        parts.append(". One training each: how much another training would change is not known")
    return " ".join(parts).replace(" ;", ";").replace(" .", ".") + "."


def values_of(metrics: dict[str, Any]) -> dict[str, Value]:
    """The metrics of an evaluation's JSON as values."""
    return {key: Value.model_validate(found) for key, found in metrics.items()}
