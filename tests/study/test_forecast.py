"""What a study will take, before it begins and when it goes on, and what publishing its winners will."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from kartina.errors import ConfigError
from kartina.handlers.forecast import forecast_winners, winners_room
from kartina.handlers.study import publish
from kartina.models import package
from kartina.study import folder, opening, spec
from kartina.study.folder import Study
from kartina.study.forecast import evaluated, forecast, rest, room
from kartina.training import estimate
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


def test_what_is_left_of_a_study_by_hand(finished: Path) -> None:
    study = Study.open("blobs")
    told = json.loads((study.path / "plan.json").read_text())
    told["study"]["budget"] = {"minutes": 1.0, "images": None}
    (study.path / "plan.json").write_text(json.dumps(told))
    study = Study.open("blobs")

    # All are finished, and not scored on test yet: two generation seeds of 60 images each.
    found = rest(study)
    assert (found["runs"], found["pairs"], found["sampled"], found["disk"]) == (0, 2, 4 * 2 * 60, 0)
    assert found["training"] == (0.0, 0.0, 0.0) and found["sampling"][0] > 0
    for trial in study.trials():
        study.write({}, "test", f"{trial.id}.json")
    assert rest(study) == {**found, "pairs": 0, "sampled": 0, "sampling": (0.0, 0.0, 0.0)}

    # One is half trained and has its first evaluation; another has not begun.
    half, waiting = study.trials()[0], study.trials()[1]
    for trial in (half, waiting):
        (study.path / "test" / f"{trial.id}.json").unlink()
        (study.path / "finished" / f"{trial.id}.json").unlink()
        (study.path / "evaluations" / f"{trial.id}-384.json").unlink()
    shutil.rmtree(study.path / "runs" / waiting.id)
    (study.path / "evaluations" / f"{waiting.id}-192.json").unlink()
    run = study.run(half)
    assert run is not None
    shutil.rmtree(run.checkpoint())  # the one of 192 images is left
    found = rest(study)
    assert (found["runs"], found["pairs"]) == (2, 2) and found["training"] == (60 * 1.5,) * 3
    assert found["sampled"] == (60 + 120 + 120) + (2 * 60 + 120 + 120)
    config = folder.planned(study.spec, waiting.entry, "blobs", study.plan, images=1)
    assert found["disk"] == estimate.disk(config) == room(study)["disk"] and room(study)["pairs"] == 2


def test_what_publishing_the_winners_takes(finished: Path) -> None:
    study = Study.open("blobs")
    found = forecast_winners("blobs", None, None)
    assert found["images"] == 2 * 60 + 3 * 8 and found["classifier"] is False  # two seeds; eight images of each class
    for key in ("sampling", "looking"):
        value, low, high = found[key]
        assert 0 < low <= value <= high
    needed = winners_room("blobs", None, None)
    (made,) = publish("blobs")
    files = [file for file in package.find(made["ref"]).path.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < needed < 10**7
    for given in ((None, None), ("blobs", None), ("blobs", made["ref"].split("@")[0])):
        assert winners_room("blobs", *given) == 0 == forecast_winners("blobs", *given)["images"], given
    assert forecast_winners("blobs", "blobs", "another")["images"] == found["images"]

    nobody = {"blobs": {**opening.choice(study)["blobs"], "winner": None}}
    study.write(nobody, "choice.json")
    with pytest.raises(ConfigError, match="nothing qualifies"):
        forecast_winners("blobs", None, None)
