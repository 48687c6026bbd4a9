"""What a study found, as one JSON-ready value: the report's content, `report.json`.

Everything that a clock or a memory meter said is under a key "measured": `timeless` drops it, and what is left is equal
for two studies with the same image counts, however often one of them was killed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

import kartina
from kartina import registry
from kartina.errors import InputError
from kartina.metrics.protocol import Value
from kartina.study.choose import Candidate, Verdict, choose, values_of
from kartina.study.folder import Study, Trial
from kartina.study.spec import Entry
from kartina.study.statistics import Summary, median_index, summary

FORMAT = 1


def gather(study: Study) -> dict[str, Any]:
    """Everything there is so far. Raises InputError where numbers of one data set were not made alike."""
    data = [of_data(study, name) for name in study.spec.data]
    states = study.states()
    opened = study.read("test", "opened.json")
    return {
        "format": FORMAT,
        "study": study.spec.model_dump(mode="json"),
        "kartina": study.plan.kartina,
        "complete": study.complete,
        "runs": states,
        "test": None if opened is None else {k: v for k, v in opened.items() if k != "measured"},
        "data": data,
        "failed": failures(study),
        "measured": {
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "made_by": kartina.__version__,
            "began_at": study.plan.created_at,
            "device": study.plan.device,
            "threads": study.plan.threads,
            "test_opened_at": None if opened is None else opened["measured"]["at"],
            "hours": sum(_hours(entry) for one in data for entry in one["entries"]),
        },
    }


def of_data(study: Study, name: str) -> dict[str, Any]:
    """One data set: its entries, the best first, its controls, and the verdict."""
    entries = [entry for entry, data in study.spec.pairs() if data == name]
    finished = {entry.key: finished_of(study, entry, name) for entry in entries}
    candidates = [candidate(study, entry, name, finished[entry.key]) for entry in entries]
    alike([(one.label, one.metrics) for one in candidates])
    metric = study.spec.choose.metric
    written = study.read("choice.json")  # once it is, it stays
    verdict = None if not any(finished.values()) else choose(candidates, study.spec.choose).json_shape()
    verdict = verdict if written is None else written[name]
    tests = {trial.id: study.read("test", f"{trial.id}.json") for entry in entries for trial in study.of(entry, name)}
    rows = [
        entry_row(study, entry, name, finished[entry.key], one, tests)
        for entry, one in zip(entries, candidates, strict=True)
    ]

    alike([(row["label"], row.pop("tested")) for row in rows])

    def order(row: Mapping[str, Any]) -> tuple[bool, float]:
        value = row["val"].get(metric, {}).get("value")
        return value is None, value or 0.0

    facts = study.plan.data[name]
    first = next((runs[0][1] for runs in finished.values() if runs), None)
    tested = next((one for one in tests.values() if one is not None), None)
    return {
        "name": name,
        "hash": facts.hash,
        "classes": list(facts.classes),
        "size": list(facts.size),
        "splits": dict(facts.splits),
        "floor": {} if first is None else floors(first),
        "control": {} if first is None else first.get("control", {}),
        "test": None if tested is None else {"floor": floors(tested), "control": tested.get("control", {})},
        "verdict": verdict,
        "entries": sorted(rows, key=order),
    }


def finished_of(study: Study, entry: Entry, data: str) -> list[tuple[Trial, dict[str, Any]]]:
    found = [(trial, study.read("finished", f"{trial.id}.json")) for trial in study.of(entry, data)]
    return [(trial, one) for trial, one in found if one is not None]


def summaries(
    found: Sequence[Mapping[str, Any]], metrics: Sequence[str], level: float
) -> tuple[dict[str, Summary], dict[str, str]]:
    """Each metric over the runs whose evaluations `found` are; and why there is none for the others."""
    out: dict[str, Summary] = {}
    missing: dict[str, str] = {}
    of_runs = [values_of(one["metrics"]) for one in found]
    for key in metrics:
        values = [one[key] for one in of_runs if key in one]
        if not values:
            missing[key] = "no finished run" if not found else "not measured"
        elif len(values) < len(of_runs) or any(v.value is None for v in values):
            missing[key] = next((v.reason for v in values if v.value is None and v.reason), "no value in every run")
        else:
            out[key] = summary(values, level)
    return out, missing


def candidate(study: Study, entry: Entry, data: str, finished: Sequence[tuple[Trial, dict[str, Any]]]) -> Candidate:
    """An entry as the choosing rule sees it."""
    spec = study.spec
    metrics, missing = summaries([one for _, one in finished], spec.evaluation.metrics, spec.choose.level)
    failed = sum(study.state(trial) == "failed" for trial in study.of(entry, data))
    ms = [one["measured"]["ms"] for _, one in finished]
    return Candidate(
        key=entry.key, label=entry.name, seeds=tuple(trial.seed for trial, _ in finished), metrics=metrics,
        missing=missing, failed=failed, latency_ms=float(np.median(ms)) if ms else None,
        gflop=finished[0][1]["gflop"] if finished else None,
    )  # fmt: skip


def alike(entries: Sequence[tuple[str, Mapping[str, Summary]]]) -> None:
    """Raise InputError where one metric of two entries was not made alike, naming the two."""
    first: dict[str, tuple[str, Summary]] = {}
    for label, metrics in entries:
        for key, found in metrics.items():
            other, reference = first.setdefault(key, (label, found))
            a, b = reference.identity.model_dump(), found.identity.model_dump()
            unlike = [f"{k}: {a[k]!r} and {b[k]!r}" for k in a if a[k] != b[k]]
            if unlike:
                raise InputError(
                    f"Found {key} of {other} and of {label} that were not made alike ({'; '.join(unlike)}); "
                    "expected equal identities. Delete the files of one in finished/ and go on with the study.",
                    details=unlike,
                )


def entry_row(
    study: Study,
    entry: Entry,
    data: str,
    finished: Sequence[tuple[Trial, dict[str, Any]]],
    one: Candidate,
    tests: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything about one entry on one data set."""
    spec = study.spec
    tested = [tests[trial.id] for trial, _ in finished if tests[trial.id] is not None]
    count = study.count(f"{entry.key}--{data}")
    test = summaries(tested, spec.evaluation.metrics, spec.choose.level)[0] if tested else {}
    metric = spec.choose.metric
    median = one.seeds[median_index(one.metrics[metric].runs)] if metric in one.metrics else None
    family, preset = registry.preset(entry.preset)
    return {
        "key": entry.key,
        "label": entry.name,
        "preset": entry.preset,
        "family": family,
        "about": preset.about,
        "settings": {**spec.settings, **entry.settings},
        "controls": dict(entry.controls),
        "images": None if count is None else count.images,
        "parameters": finished[0][1]["parameters"] if finished else None,
        "gflop": one.gflop,
        "median_seed": median,
        "val": {key: found.json_shape() for key, found in one.metrics.items()},
        "missing": one.missing,
        "test": {key: found.json_shape() for key, found in test.items()},
        "tested": test,
        "per_class": per_class([found for _, found in finished]),
        "curve": curve(study, entry, data),
        "runs": [run_row(study, trial) for trial in study.of(entry, data)],
        "measured": measured(finished),
    }


def run_row(study: Study, trial: Trial) -> dict[str, Any]:
    """One run: what became of it, and its own numbers."""
    state = study.state(trial)
    found = study.read(state, f"{trial.id}.json") if state in ("finished", "failed") else {}
    metrics = {key: one["value"] for key, one in found.get("metrics", {}).items()}
    return {
        "seed": trial.seed,
        "state": state,
        "images": found.get("images"),
        "selected": found.get("selected"),
        "warnings": found.get("warnings", []),
        "error": found.get("error"),
        "val": metrics,
        "measured": found.get("measured", {}),
    }


def per_class(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of classes averaged over runs, the worst first: by the lowest of agreement, coverage and diversity."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for one in found:
        for row in one.get("per_class", []):
            rows.setdefault(row["class"], []).append(row)
    out = []
    for name, each in rows.items():
        merged: dict[str, Any] = {"class": name}
        for key in each[0]:
            values = [row.get(key) for row in each]
            numbers = [v for v in values if isinstance(v, int | float)]
            if key == "train":
                merged[key] = values[0]
            elif key not in ("class", "reason"):
                merged[key] = float(np.mean(numbers)) if len(numbers) == len(each) else None
        if "reason" in each[0]:
            merged["reason"] = each[0]["reason"]
        out.append(merged)
    return sorted(out, key=lambda row: (worst(row), row["class"]))


def worst(row: Mapping[str, Any]) -> float:
    return min([float(row[k]) for k in ("agreement", "coverage", "diversity") if row.get(k) is not None] or [0.0])


def curve(study: Study, entry: Entry, data: str) -> list[dict[str, Any]]:
    """Checkpoint evaluations of all runs, by seed and images: KID and FD on val."""
    out = []
    for trial in study.of(entry, data):
        for path in sorted((study.path / "evaluations").glob(f"{trial.id}-*.json")):
            one = study.read("evaluations", path.name)
            values = {k: one["metrics"][k]["value"] for k in ("kid", "fd") if k in one["metrics"]}
            out.append({"seed": trial.seed, "images": one["images"], **values,
                        "measured": {"seconds": one["measured"]["trained"]}})  # fmt: skip
    return sorted(out, key=lambda p: (p["seed"], p["images"]))


def measured(finished: Sequence[tuple[Trial, dict[str, Any]]]) -> dict[str, Any]:
    """Cost over the entry's finished runs: medians of latencies, the highest memory, the sum of hours."""
    each = [one["measured"] for _, one in finished]
    if not each:
        return {}
    return {
        "ms": float(np.median([m["ms"] for m in each])),
        "ms_batch": float(np.median([m["ms_batch"] for m in each])),
        "trained": float(np.mean([m["trained"] for m in each])),
        "peak_memory": max(m["peak_memory"] for m in each),
    }


def failures(study: Study) -> list[dict[str, Any]]:
    out = []
    for trial in study.trials():
        found = study.read("failed", f"{trial.id}.json")
        if found is not None:
            out.append({"label": trial.entry.name, "data": trial.data, "seed": trial.seed, "error": found["error"],
                        "kind": found["kind"], "images": found["images"], "measured": found["measured"]})  # fmt: skip
    return out


def floors(evaluation: Mapping[str, Any]) -> dict[str, float | None]:
    return {key: Value.model_validate(one).floor for key, one in evaluation["metrics"].items()}


def _hours(entry: Mapping[str, Any]) -> float:
    return sum(float(run["measured"].get("trained", 0.0)) for run in entry["runs"]) / 3600


def timeless(found: Any) -> Any:
    """A report without what was measured by a clock or a meter, and without the choosing rule's view of it."""
    if isinstance(found, dict):
        kept = {key: timeless(value) for key, value in found.items() if key != "measured"}
        return None if kept.get("name") == "latency" else kept
    return [timeless(value) for value in found] if isinstance(found, list) else found


def verdicts(study: Study) -> dict[str, Verdict]:
    """The rule applied to every data set, on val."""
    out = {}
    for name in study.spec.data:
        entries = [entry for entry, data in study.spec.pairs() if data == name]
        out[name] = choose(
            [candidate(study, entry, name, finished_of(study, entry, name)) for entry in entries], study.spec.choose
        )
    return out
