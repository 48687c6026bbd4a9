"""What a run is said to take, beside what it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from kartina.training import estimate
from kartina.training.loop import train
from kartina.training.run import Run
from tests import tiny


@pytest.mark.parametrize("name", ["vae", "edm", "stylegan2_ada", "biggan"])
def test_the_disk_that_is_asked_for_is_enough_and_little_more(home: Path, name: str) -> None:
    run = tiny.run(name, home, n=32, grids=2)
    asked = estimate.disk(run.config)
    assert train(run) == "finished"
    sizes = [file.stat().st_size for file in run.checkpoint().iterdir() if file.suffix == ".safetensors"]
    headers = sum(int.from_bytes(f.read_bytes()[:8], "little") + 8 for f in run.checkpoint().glob("*.safetensors"))
    grids = sum(file.stat().st_size for file in (run.path / "grids").glob("*.png"))
    written = sum(sizes) - headers
    checkpoints = asked - run.config.train.grids * 8 * 10 * 18 * 18
    assert 0.85 * checkpoints <= estimate.KEPT * written <= 1.02 * checkpoints, "tiny: a counter for each tensor weighs"
    assert grids <= asked - checkpoints


def test_time_is_measured_in_stretches(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "SECONDS", 0.2)
    run = tiny.run("vae", home, n=10_000)
    found = estimate.time_steps(run.config, run.data(), None)
    rate, low, high = found["rate"]
    assert 0 < low <= rate <= high and found["images"] == [10_000] * 3 and found["memory"] is None
    assert found["seconds"][0] == pytest.approx(10_000 / rate) and found["steps"] * 8 / found["measured"] == (
        pytest.approx(rate)
    )
    timed = estimate.time_steps(run.config, run.data(), 10.0)
    assert timed["seconds"] == [10.0] * 3 and timed["images"][0] == pytest.approx(10 * timed["rate"][0], rel=0.01)
    assert train(Run.open(run.id), stop=lambda: True) == "paused", "nothing of it is left in the run"
