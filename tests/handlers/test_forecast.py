"""What an evaluation will take, before it begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from kartina.data.imageset import open_set
from kartina.errors import DataError
from kartina.handlers.evaluate import evaluate_ref
from kartina.handlers.forecast import forecast
from kartina.metrics.extractors import inception
from kartina.models.model import save
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
    assert 0.9 * before["disk"] < sum(kept) < before["disk"] + 3000 * len(kept)  # each has a header
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
