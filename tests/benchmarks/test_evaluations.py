"""Quality against evaluations: they are counted as they happen, and what is said of them follows from the numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import evaluations
from kartina.errors import ConfigError
from kartina.generators.base import generate, rows_for
from kartina.models.model import Model
from kartina.training.loop import train
from tests import tiny


def row(count: int, fd: float, steps: int | None = None) -> dict[str, Any]:
    return {"evaluations": count, "passes": count, "fd": fd, "fd of seeds": [fd], "class_agreement": 1.0,
            "coverage": 1.0, "controls": {"steps": steps or count}}  # fmt: skip


@pytest.mark.parametrize("name", evaluations.SOLVERS)
@pytest.mark.parametrize(("guidance", "passes"), [(1.0, 1), (2.0, 2)])
def test_evaluations_are_what_the_network_is_asked(name: str, guidance: float, passes: int) -> None:
    made = tiny.sampler("flow")
    for point in evaluations.points(Model(made, "tiny"), (1, 2, 4, 8)):
        if point.solver != name:
            continue
        controls = made.capabilities()["generate"].controls(**{**point.controls, "guidance": guidance})
        with evaluations.counting(made) as calls:
            generate(made, rows_for(made, [0, 1], 4, 0, controls))
        assert len(calls) == point.evaluations
        assert sum(calls) / 4 == point.evaluations * passes


def test_heun_makes_no_more_evaluations_than_the_others() -> None:
    found = evaluations.points(Model(tiny.sampler("flow"), "tiny"), evaluations.EVALUATIONS)
    counts = {name: [p.evaluations for p in found if p.solver == name] for name in evaluations.SOLVERS}
    assert counts.pop("Heun") == [1, 3, 7, 15, 31]
    assert all(each == [1, 2, 4, 8, 16, 32] for each in counts.values())


def test_the_weak_networks_calls_count_too() -> None:
    made = tiny.sampler("edm")
    controls = made.capabilities()["generate"].controls(solver="euler", steps=2, guidance=2.0, guide="weak")
    with evaluations.counting(made) as calls:
        generate(made, rows_for(made, [0], 3, 0, controls))
    assert calls == [3, 3] * 2


def test_what_is_said_of_the_numbers() -> None:
    rows = {"Euler/1": row(1, 30.0), "Euler/16": row(16, 1.05), "Heun/4": row(7, 1.2), "Heun/8": row(15, 1.0, 8)}
    assert evaluations.lowest(rows)[0] == "Heun/8" and evaluations.lowest(rows, 8)[0] == "Heun/4"
    assert evaluations.cheapest(rows, 1.1)[0] == "Heun/8" and evaluations.cheapest(rows, 1.2)[0] == "Heun/4"
    one = {"steps/1": row(1, 1.3), "steps/2": row(2, 1.25)}
    models = {
        "a": {"family": "flow", "default": {}, "rows": rows},
        "b": {"family": "meanflow", "default": {}, "rows": one},
    }
    solvers, steps = evaluations.verdicts({"models": models, "floor": 0.5})
    assert "One evaluation over its best: 30.00" in solvers and "at most 8 evaluations over its best: 1.20" in solvers
    assert "One evaluation over its best: 1.04, over the best of all models: 1.30" in steps


def test_a_flow_and_a_meanflow_from_end_to_end(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kartina.metrics.classifier.EPOCHS", (1, 2))
    runs = [tiny.run(name, home, 16) for name in ("flow", "meanflow")]
    for run in runs:
        train(run)
    out = tmp_path / "out"
    call = [*(run.id for run in runs), "--data", "blobs", "--quick", "--out", str(out)]
    evaluations.main(call)

    results = json.loads((out / "results.json").read_text())
    flow, meanflow = (results["models"][run.id]["rows"] for run in runs)
    assert list(meanflow) == ["steps/1", "steps/2"]
    assert {r["evaluations"] for r in flow.values()} == {1, 2}
    assert flow["Euler/2"]["passes"] == 4 and meanflow["steps/2"]["passes"] == 2
    # Every solver's single step lands on the same D, and DDIM with eta 1 draws noise only between steps.
    plain = [name for name, controls in evaluations.SOLVERS.items() if controls["guidance"] == 1.5]
    assert len(plain) == 4 and len({flow[f"{name}/1"]["fd"] for name in plain}) == 1
    assert (out / "evaluations.png").read_bytes()[:4] == b"\x89PNG"
    assert f"| {runs[0].id} | DPM++(2M) | 2 | 2 | 4 |" in (out / "README.md").read_text()

    before = (out / "results.json").read_bytes()
    evaluations.main(call)
    assert (out / "results.json").read_bytes() == before
    with pytest.raises(ConfigError, match="choose another --out"):
        evaluations.main([*call[:-3], "--samples", "12", *call[-2:]])
    assert (out / "results.json").read_bytes() == before
