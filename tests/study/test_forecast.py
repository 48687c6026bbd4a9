"""What a study will take, before it begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from kartina.errors import ConfigError
from kartina.study import folder, spec
from kartina.study.forecast import evaluated, forecast
from tests.study import tiny_study


def test_a_forecast(blobs: Path) -> None:
    wanted = spec.parse(tiny_study.TEXT)
    found = forecast(wanted)
    assert found["runs"] == len(wanted.pairs()) * len(wanted.seeds)
    for key in ("training", "sampling"):
        value, low, high = found[key]
        assert 0 < low <= value <= high
    plan, configs = folder.lay_out(wanted)
    assert found["sampled"] == len(wanted.seeds) * sum(evaluated(wanted, plan, data) for _, data in wanted.pairs())
    assert found["disk"] > 10_000 * found["runs"] and len(configs) == len(wanted.pairs())
    assert not (blobs / "studies").exists(), "nothing is begun"


def test_minutes_are_taken_as_they_are_and_images_of_an_entry_are_timed(blobs: Path) -> None:
    text = tiny_study.TEXT.replace("images = 384", "minutes = 3")
    wanted = spec.parse(text)
    assert forecast(wanted)["training"] == (180.0 * 4,) * 3
    first = wanted.presets[0].model_copy(update={"images": 16})
    value, low, high = forecast(wanted.model_copy(update={"presets": (first, *wanted.presets[1:])}))["training"]
    assert 360 < low <= value <= high < 720


def test_evaluated_images_by_hand(blobs: Path) -> None:
    wanted = spec.parse(tiny_study.TEXT)
    plan, _ = folder.lay_out(wanted)
    how = wanted.evaluation.model_copy(
        update={"samples": 10, "checkpoints": 3, "selection_samples": 4, "selection_seeds": 2, "generation_seeds": 5}
    )
    one = wanted.model_copy(update={"evaluation": how})
    assert evaluated(one, plan, "blobs") == 3 * 2 * 4 + 5 * 10 + 5 * 10


def test_what_could_not_begin_has_no_forecast(blobs: Path) -> None:
    with pytest.raises(ConfigError, match="controls"):
        forecast(spec.parse(tiny_study.TEXT.replace("[[presets]]", "[[presets]]\ncontrols = {colour = 1}", 1)))
