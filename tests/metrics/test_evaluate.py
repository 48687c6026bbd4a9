"""The domain classifier and the first numbers, on scikit-learn's 8x8 digits."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from kartina.config import ImageSpec
from kartina.data.imageset import ImageSet
from kartina.errors import ConfigError, DataError
from kartina.metrics.classifier import PROTOCOL, Classifier, domain_classifier
from kartina.metrics.evaluate import bits_per_dim, first_numbers, like, stratified
from kartina.metrics.extractors import domain


def make_digits() -> ImageSet:
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels.reshape(-1, 1, 8, 8) / 16 * 255).round().astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(labels))
    spec = ImageSpec(height=8, width=8, channels=1, classes=tuple("0123456789"))
    bounds = {"train": (0, 1197), "val": (1197, 1797)}
    digest = hashlib.sha256(images[order].tobytes()).hexdigest()
    return ImageSet("digits", digest, spec, images[order], labels[order].astype(np.int64), bounds)


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return make_digits()


@pytest.fixture(scope="module")
def judge(digits: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KARTINA_HOME", str(tmp_path_factory.mktemp("judge")))
        patch.setattr("kartina.metrics.classifier.EPOCHS", (2, 6))
        return domain_classifier(digits)


def real_images(data: ImageSet, labels: np.ndarray, seed: int) -> np.ndarray:
    train = data.part("train")
    assert train.labels is not None
    return np.asarray(train.images[like(train.labels, labels, 100 + seed)])


def test_it_learns_and_its_features_are_float64(digits: ImageSet, judge: Classifier) -> None:
    assert judge.val_accuracy > 0.9
    features, logits = judge(digits.images[:70])
    assert features.shape == (70, 128) and logits.shape == (70, 10)
    assert features.dtype == logits.dtype == np.float64
    alone, _ = judge(digits.images[:70], batch=1)
    np.testing.assert_allclose(alone, features, rtol=1e-3, atol=1e-4)
    with pytest.raises(DataError, match="trained on"):
        judge(np.zeros((2, 3, 8, 8), np.uint8))


def test_it_is_cached_checked_and_deterministic(digits: ImageSet, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kartina.metrics.classifier.EPOCHS", (1, 1))
    steps: list[float] = []
    first = domain_classifier(digits, progress=lambda share, what: steps.append(share))
    where = home / "cache" / "classifiers" / f"{digits.hash}-{PROTOCOL}-unflipped"
    assert sorted(p.name for p in where.parent.iterdir()) == [where.name]  # nothing temporary left
    assert json.loads((where / "classifier.json").read_text())["sha256"] == first.hash
    stamp = (where / "classifier.safetensors").stat().st_mtime_ns
    assert domain_classifier(digits).hash == first.hash
    assert (where / "classifier.safetensors").stat().st_mtime_ns == stamp
    # A damaged cache entry is not believed: the same classifier is trained again.
    (where / "classifier.safetensors").write_bytes(b"half")
    assert domain_classifier(digits).hash == first.hash
    assert steps == sorted(steps)


def test_data_without_classes_have_no_classifier(digits: ImageSet) -> None:
    with pytest.raises(DataError, match="at least 2"):
        domain_classifier(replace(digits, labels=None, spec=digits.spec.model_copy(update={"classes": ()})))


def test_real_images_score_like_the_floor(digits: ImageSet, judge: Classifier) -> None:
    shares: list[float] = []
    found = first_numbers(
        lambda labels, seed: real_images(digits, labels, seed),
        digits, progress=lambda share, what: shares.append(share), classifier=judge,
    )  # fmt: skip
    metrics = found["metrics"]
    assert list(metrics) == ["class_agreement", "coverage", "diversity", "fd"]
    for value in metrics.values():
        assert set(value) == {"value", "interval", "floor", "identity"}
        assert value["identity"]["n"] == value["identity"]["m"] == 600
        assert value["identity"]["seeds"] == [0, 1, 2] and value["identity"]["extractor_hash"] == judge.hash
        low, high = value["interval"]
        assert low <= value["value"] <= high
    assert metrics["coverage"]["value"] == pytest.approx(metrics["coverage"]["floor"], abs=0.05)
    assert metrics["diversity"]["value"] == pytest.approx(metrics["diversity"]["floor"], rel=0.05)
    assert metrics["fd"]["value"] == pytest.approx(metrics["fd"]["floor"], rel=0.5)
    assert metrics["class_agreement"]["floor"] == pytest.approx(judge.val_accuracy)
    copies = found["control"]["training copies"]
    assert copies["coverage"] == metrics["coverage"]["floor"] and copies["fd"] == metrics["fd"]["floor"]
    assert len(found["per_class"]) == 10 and all(row["train"] > 100 for row in found["per_class"])
    assert shares == sorted(shares) and shares[-1] == 1
    json.dumps(found, allow_nan=False)


def test_against_training_images_there_is_no_floor_and_no_memorisation(digits: ImageSet, judge: Classifier) -> None:
    """What real training images score against themselves is no yardstick."""
    found = first_numbers(
        lambda labels, seed: real_images(digits, labels, seed),
        digits, split="train", samples=300, seeds=(0, 1), classifier=judge,
        metrics=("class_agreement", "coverage", "fd", "memorisation", "copies"),
    )["metrics"]  # fmt: skip
    assert found["class_agreement"]["floor"] > 0.9
    assert found["coverage"]["floor"] is None and found["fd"]["floor"] is None and found["fd"]["value"] is not None
    for key in ("memorisation", "copies"):
        assert found[key]["value"] is None and found[key]["reason"] == "needs held-out images"


def test_bits_of_images_without_classes(digits: ImageSet, judge: Classifier) -> None:
    plain = replace(digits, labels=None, spec=digits.spec.model_copy(update={"classes": ()}))
    found = bits_per_dim(lambda images, labels, k, seed: np.full(len(labels), 3.0), plain, "val", 50, (0, 1), 1)
    assert found["value"] == 3.0 and found["identity"]["n"] == 50


def test_bits_are_means_over_images_and_seeds(digits: ImageSet, judge: Classifier) -> None:
    asked = []

    def bits(images: np.ndarray, labels: np.ndarray, k: int, seed: int) -> np.ndarray:
        held = digits.part("val")
        assert (images == held.images[stratified(held.labels, 200)]).all()
        assert (labels == held.labels[stratified(held.labels, 200)]).all()
        asked.append((k, seed))
        return np.linspace(2, 4, len(labels)) + seed - 0.5 * (k > 1)

    found = first_numbers(
        lambda labels, seed: real_images(digits, labels, seed),
        digits, seeds=(0, 1, 2), samples=200, classifier=judge, bits=bits,
    )["metrics"]  # fmt: skip
    assert asked == [(1, 0), (1, 1), (1, 2), (10, 0), (10, 1), (10, 2)]
    for key, k, value in (("bits_per_dim", 1, 4.0), ("bits_per_dim_iw", 10, 3.5)):
        assert found[key]["value"] == pytest.approx(value)
        half = 4.302653 / np.sqrt(3)  # Student's t at 2 degrees, deviation 1
        assert found[key]["interval"] == pytest.approx([value - half, value + half], rel=1e-5)
        identity = found[key]["identity"]
        assert (identity["metric"], identity["extractor"], identity["n"]) == (f"bits/dim K={k}", "none", 200)
    json.dumps(found, allow_nan=False)


def test_noise_a_collapse_and_a_deaf_generator_are_told_apart(digits: ImageSet, judge: Classifier) -> None:
    train = digits.part("train")
    assert train.labels is not None
    first = np.array([np.flatnonzero(train.labels == c)[0] for c in range(10)])

    def noise(labels: np.ndarray, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, (len(labels), 1, 8, 8)).astype(np.uint8)

    def collapse(labels: np.ndarray, seed: int) -> np.ndarray:
        return np.asarray(train.images[first[labels]])

    def deaf(labels: np.ndarray, seed: int) -> np.ndarray:
        return real_images(digits, np.random.default_rng(seed).permutation(labels), seed)

    numbers = {
        f.__name__: first_numbers(f, digits, seeds=(0, 1), samples=400, classifier=judge)
        for f in (noise, collapse, deaf)
    }
    values = {name: {k: v["value"] for k, v in found["metrics"].items()} for name, found in numbers.items()}
    assert values["noise"]["coverage"] < 0.2 and values["noise"]["fd"] > 5 * numbers["noise"]["metrics"]["fd"]["floor"]
    assert values["collapse"]["diversity"] == 0 and values["collapse"]["coverage"] < 0.3
    assert values["deaf"]["class_agreement"] == pytest.approx(0.1, abs=0.05)  # labels ignored: 1/K
    assert values["deaf"]["coverage"] > 0.8


def test_an_unconditional_generator_counts_for_the_classes_that_it_makes(digits: ImageSet, judge: Classifier) -> None:
    """No agreement, and a class that it never makes has no variety and no coverage."""

    def only_low(labels: np.ndarray, seed: int) -> np.ndarray:
        return real_images(digits, np.random.default_rng(seed).integers(0, 5, len(labels)), seed)

    found = first_numbers(only_low, digits, seeds=(0, 1), samples=400, classifier=judge, labelled=False)
    agreement = found["metrics"]["class_agreement"]
    assert (agreement["value"], agreement["reason"]) == (None, "unconditional")
    diverse = {row["class"]: row["diversity"] for row in found["per_class"]}
    assert all(row["agreement"] is None for row in found["per_class"])
    assert all(diverse[str(k)] > 0.8 for k in range(5))
    assert all(diverse[str(k)] < 0.8 for k in range(5, 10)) and min(diverse.values()) == 0
    assert found["metrics"]["coverage"]["value"] < 0.7

    # Where nobody says of which class an image is, no class has a number.
    blind = first_numbers(only_low, digits, seeds=(0,), samples=400, metrics=("coverage", "kid"), labelled=False,
                          extractor=replace(domain(judge), hash="0" * 64))  # fmt: skip
    assert all(blind["metrics"][key]["value"] is not None for key in ("coverage", "kid"))
    for row in blind["per_class"]:
        assert row["coverage"] is None and row["kid"] is None and row["reason"] == "unconditional"


def test_small_classes_say_so_and_the_worst_comes_first(digits: ImageSet, judge: Classifier) -> None:
    train = digits.part("train")
    assert train.labels is not None
    seven = np.flatnonzero(train.labels == 7)[0]

    def without_sevens(labels: np.ndarray, seed: int) -> np.ndarray:
        images = real_images(digits, labels, seed)
        images[labels == 7] = train.images[seven]
        return images

    found = first_numbers(without_sevens, digits, seeds=(5,), samples=200, classifier=judge)
    assert found["metrics"]["fd"]["interval"] is None  # one seed
    rows = found["per_class"]
    assert rows[0]["class"] == "7" and rows[0]["diversity"] == 0
    assert all(row["coverage"] is None and row["reason"] == "too few" for row in rows)


def test_unusable_requests(digits: ImageSet, judge: Classifier) -> None:
    with pytest.raises(ConfigError, match="distinct"):
        first_numbers(lambda labels, seed: digits.images, digits, seeds=(1, 1), classifier=judge)
    with pytest.raises(DataError, match="of its own size"):
        first_numbers(lambda labels, seed: np.zeros((3, 1, 8, 8), np.uint8), digits, classifier=judge)
    with pytest.raises(DataError, match="at least 6"):
        first_numbers(lambda labels, seed: digits.images, digits, samples=3, classifier=judge)


def test_references_follow_the_histogram() -> None:
    labels = np.repeat([0, 1, 2], [700, 250, 50])
    picked = stratified(labels, 100)
    assert np.bincount(labels[picked]).tolist() == [70, 25, 5]
    assert (np.diff(picked) > 0).all()
    ids = like(labels, labels[picked], 3)
    assert (labels[ids] == labels[picked]).all() and len(set(ids.tolist())) == 100
    with pytest.raises(DataError, match="no training image"):
        like(labels, np.array([9]), 0)
