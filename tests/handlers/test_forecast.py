"""What an evaluation, or a publication, will take, before it begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kartina.data.imageset import open_set
from kartina.errors import DataError
from kartina.handlers.evaluate import evaluate_ref
from kartina.handlers.forecast import forecast, forecast_publication
from kartina.handlers.publish import publish
from kartina.metrics.extractors import inception
from kartina.models import package
from kartina.models.model import save
from kartina.training.loop import train
from kartina.training.run import Run
from tests import tiny
from tests.engine import CARD, PROVENANCE

METRICS = ["class_agreement", "coverage", "fd", "precision", "copies"]
D = 128  # the classifier's features


@pytest.fixture
def model(home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A VAE that has learnt nothing, and the blobs."""
    monkeypatch.setattr("kartina.metrics.classifier.EPOCHS", (2, 2))
    tiny.store(tiny.images(n=300), home)
    return str(save(tiny.sampler("vae"), "vae", PROVENANCE, CARD, root=home / "models"))


def test_time_and_room_are_those_of_the_evaluation(model: str, home: Path) -> None:
    spec = {"model": model, "data": "blobs", "samples": 25, "seeds": [0, 1], "metrics": METRICS, "device": "cpu"}
    before = forecast(spec)
    for key in ("sampling", "looking"):
        value, low, high = before[key]
        assert 0 < low <= value <= high
    data = open_set("blobs")
    m, train = min(25, len(data.part("val"))), len(data.part("train"))
    assert before["images"] == 2 * m and before["classifier"] and not (home / "cache").exists(), "nothing is made"

    evaluate_ref(model, "blobs", seeds=(0, 1), samples=25, metrics=METRICS)
    after = forecast(spec)
    numbers = m * D + D**2 + 2 * m + train * D + 4 * m  # features, a factor, two radii; training features, the nearest
    assert not after["classifier"] and after["disk"] == 8 * numbers < before["disk"]
    kept = [file.stat().st_size for file in (home / "cache").rglob("*") if file.is_file()]
    assert 0.8 * before["disk"] < sum(kept) < before["disk"] + 3000 * len(kept)  # each has a header
    assert after["beside"] == "Distances"


@pytest.mark.slow
def test_what_is_to_be_downloaded_is_counted_and_stays_where_it_is(model: str, home: Path) -> None:
    spec = {"model": model, "data": "blobs", "samples": 25, "metrics": ["fd", "cas"], "extractor": "inception"}
    found = forecast(spec)
    assert found["disk"] > inception.BYTES and not (home / "cache").exists()
    assert found["classifier"] and "the classifiers of CAS" in found["beside"]


def test_what_could_not_be_measured_has_no_forecast(model: str) -> None:
    with pytest.raises(DataError, match="Found a model of 16x16 pixels"):
        forecast({"model": model, "data": "digits"})
    with pytest.raises(DataError, match="Found 4 reference images"):
        forecast({"model": model, "data": "blobs", "samples": 4})


@pytest.fixture
def run(home: Path) -> Run:
    """A VAE that has learnt next to nothing, of blobs in three classes."""
    made = tiny.run("vae", home, n=8)
    train(made)
    return made


def test_a_publication_is_its_pictures_and_its_numbers(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each class eight pictures; of each seed as many images as there are references."""
    monkeypatch.setattr("kartina.metrics.classifier.EPOCHS", (2, 2))
    spec = {"run": run.id, "name": "blobs", "samples": 20, "seeds": [0, 1], "device": "cpu"}
    bare = forecast_publication(spec | {"evaluate": False})
    assert bare["images"] == 3 * 8 and bare["looking"] == (0, 0, 0) and bare["disk"] == 0 and bare["beside"] is None
    found = forecast_publication(spec)
    assert found["images"] == 3 * 8 + 2 * 20 and found["classifier"] and not (home / "cache").exists()
    for key in ("sampling", "looking"):
        value, low, high = found[key]
        assert 0 < low <= value <= high

    publish(run.id, "blobs", seeds=(0, 1), samples=20)
    kept = [file.stat().st_size for file in (home / "cache").rglob("*") if file.is_file()]
    assert 0.8 * found["disk"] < sum(kept) < found["disk"] + 3000 * len(kept)


def test_what_only_works_on_images_is_timed_at_its_pictures(home: Path) -> None:
    made = tiny.run("pix2pix", home, n=8)
    train(made)
    found = forecast_publication({"run": made.id, "name": "pairs", "device": "cpu", "sweep": True})
    assert found["images"] == 16 + 3 and found["sampling"][0] > 0 and found["looking"] == (0, 0, 0)
    assert found["candidates"] == 0


@pytest.mark.parametrize("options", [{}, {"precision": "fp32"}, {"with_training": True}])
@pytest.mark.parametrize("name", ["vae", pytest.param("flow", marks=pytest.mark.slow), "stylegan2_ada"])
def test_the_room_for_a_package_is_enough_and_little_more(home: Path, name: str, options: dict[str, Any]) -> None:
    wide = {"flow": {"widths": (64, 128)}}.get(name, {"width": 64, "width_max": 128})
    made = tiny.run(name, home, n=8, config=wide)
    train(made)
    stored = "model" if "with_training" in options else "ema"
    weights = (made.checkpoint() / f"{stored}.safetensors").stat().st_size
    asked = package.room(weights if options.get("precision") == "fp32" else weights // 2, made.config.spec)
    ref = publish(made.id, "blobs", evaluate=False, **options)
    written = sum(file.stat().st_size for file in ref.path.rglob("*") if file.is_file())
    assert written <= asked <= 1.3 * written + package.JSON
