"""Numbers in other spaces than the domain's, what is kept of real images, and the rarer metrics."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.known_answers import scenes
from kartina.config import ImageSpec
from kartina.data.imageset import ImageSet
from kartina.errors import ConfigError, DataError, InputError
from kartina.handlers.evaluate import evaluate_images
from kartina.metrics.cas import cas
from kartina.metrics.evaluate import METRICS, expand, first_numbers, like
from kartina.metrics.extractors import find_extractor, inception, of_inception, of_module
from kartina.metrics.fd import Moments, Reference, fd_infinity
from kartina.metrics.inception_score import inception_score
from kartina.metrics.kept import Shelf
from kartina.metrics.memorisation import Nearest, copied, flagged, nearest_pixels, percentile
from kartina.metrics.protocol import Value, compare
from kartina.metrics.ranks import gather_moments, gather_rows


class Means(nn.Module):
    """Means of quarters of the image; counts the images that it has seen."""

    seen = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += len(x)
        return nn.functional.adaptive_avg_pool2d(x.float(), 2).flatten(1)


def colours(n: int = 300, classes: tuple[str, ...] = ("a", "b")) -> ImageSet:
    """Coloured scenes; class b is darker."""
    images = scenes(n, 8, 3, 0)
    labels = np.arange(n) % 2
    images[labels == 1] //= 3
    spec = ImageSpec(height=8, width=8, channels=3, classes=classes)
    bounds = {"train": (0, n // 2), "val": (n // 2, n)}
    return ImageSet("colours", f"colours-{n}", spec, images, labels if classes else None, bounds)


def again(data: ImageSet, labels: np.ndarray, seed: int) -> np.ndarray:
    train = data.part("train")
    own = np.zeros(len(train), np.int64) if train.labels is None else train.labels
    return np.asarray(train.images[like(own, labels, 50 + seed)])


def test_data_without_classes_are_measured_in_another_space(home: Path) -> None:
    data = colours(classes=())
    net = Means()
    keys = tuple(key for key in METRICS if key != "fd_infinity")
    found = first_numbers(
        lambda labels, seed: again(data, labels, seed), data, (0, 1), metrics=keys, extractor=of_module(net, "means")
    )["metrics"]  # fmt: skip
    for key in ("class_agreement", "diversity", "cas"):
        assert (found[key]["value"], found[key]["reason"]) == (None, "no classes")
    assert found["is"]["reason"] == "needs inception"
    assert found["fd"]["identity"]["metric"] == "FD-means" and found["kid"]["identity"]["metric"] == "KD-means"
    assert found["copies"]["value"] == 1 and found["copies"]["floor"] < 0.02
    assert found["memorisation"]["floor"] < 0.03
    assert found["precision"]["value"] == pytest.approx(found["precision"]["floor"], abs=0.1)
    assert not (home / "cache" / "classifiers").exists()  # none was trained
    json.dumps(found, allow_nan=False)
    with pytest.raises(DataError, match="at least 2"):
        first_numbers(lambda labels, seed: again(data, labels, seed), data)


def test_what_is_withheld_of_images_is_withheld_of_copies(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The domain classifier has logits, and what they give is no IS."""
    monkeypatch.setattr("kartina.metrics.classifier.EPOCHS", (1, 1))
    data = colours()
    found = first_numbers(lambda y, s: again(data, y, s), data, (0,), metrics=("is", "fd"))
    assert found["metrics"]["is"]["reason"] == "needs inception"
    copies = found["control"]["training copies"]
    assert copies["is"] is None and copies["fd"] == found["metrics"]["fd"]["floor"]


def test_a_module_is_known_by_what_it_computes() -> None:
    class Scaled(Means):
        def __init__(self, scale: float):
            super().__init__()
            self.scale = scale

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * self.scale

    one, same, other = (of_module(Scaled(s), "a").hash for s in (1.0, 1.0, 2.0))
    assert one == same != other and of_module(Scaled(1.0), "b").hash != one


def test_unlabelled_images_are_taken_by_chance(home: Path, tmp_path: Path) -> None:
    """An array, or a folder, that is sorted by what its images show would make one kind of image the first set."""
    data = colours(600, classes=())
    kinds = np.arange(300) % 2
    np.savez(tmp_path / "sorted.npz", images=np.concatenate([data.images[:300][kinds == k] for k in (0, 1)]))
    found = evaluate_images(tmp_path / "sorted.npz", data, "val", (0, 1), 150, metrics=("fd",),
                            extractor=of_module(Means(), "means"))["metrics"]["fd"]  # fmt: skip
    assert found["identity"]["seeds"] == [0, 1] and found["value"] < 5 * found["floor"]


def test_real_images_are_looked_at_once(home: Path) -> None:
    data, net = colours(classes=()), Means()
    extract = of_module(net, "means")
    keys = ("fd", "coverage", "precision", "memorisation")

    def numbers() -> dict[str, object]:
        return first_numbers(lambda y, s: again(data, y, s), data, (0,), metrics=keys, extractor=extract)["metrics"]

    first = numbers()
    assert net.seen == 150 + 150 + 150 + 150  # references, training images, copies, generated
    folders = list((home / "cache" / "statistics").iterdir())
    names = sorted(p.name for folder in folders for p in folder.iterdir())
    assert names == ["factor.npy", "features.npy", "features.npy", "key.json", "key.json", "nearest.npy",
                     "radii-3.npy", "radii-5.npy"]  # fmt: skip
    key = json.loads((folders[0] / "key.json").read_text())
    assert key["data"] == data.hash and key["extractor"] == extract.hash and key["protocol"] == 1
    assert numbers() == first
    assert net.seen == 600 + 300  # copies and generated again
    # Another hash of the data, or other weights: nothing kept is used.
    first_numbers(lambda y, s: again(data, y, s), replace(data, hash="other"), (0,), metrics=("fd",), extractor=extract)
    assert net.seen == 900 + 450
    # A damaged file is made again.
    for file in (home / "cache" / "statistics").glob("*/features.npy"):
        file.write_bytes(b"\x93NUMPY half")
    assert numbers() == first


def test_what_is_kept_is_float64_and_nothing_temporary_stays(home: Path) -> None:
    shelf, calls = Shelf(what="x", n=3), []

    def make() -> np.ndarray:
        calls.append(1)
        return np.arange(3, dtype=np.float32)

    for _ in range(2):
        found = shelf.array("a", make)
        assert found.dtype == np.float64 and found.tolist() == [0, 1, 2]
    assert len(calls) == 1 and sorted(p.name for p in shelf.folder.iterdir()) == ["a.npy", "key.json"]
    assert Shelf(what="x", n=4).folder != shelf.folder

    def broken() -> np.ndarray:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        shelf.array("b", broken)
    assert sorted(p.name for p in shelf.folder.iterdir()) == ["a.npy", "key.json"]


@pytest.mark.slow
def test_inception_names_and_unlike_spaces_are_not_compared(home: Path) -> None:
    torch.manual_seed(0)
    data = colours(14, classes=())
    keys = ("fd", "kid", "is")
    extract = of_inception(inception.Inception().eval(), "ab" * 32)
    found = first_numbers(lambda y, s: again(data, y, s), data, (0,), metrics=keys, extractor=extract)["metrics"]
    assert [found[key]["identity"]["metric"] for key in keys] == ["FID", "KID", "IS, 10 splits"]
    assert found["fd"]["identity"]["resizer"] == "TF1 bilinear 299"
    assert 1 <= found["is"]["value"] < 1008 and found["is"]["floor"] >= 1
    other = first_numbers(
        lambda y, s: again(data, y, s), data, (0,), metrics=keys, extractor=of_module(Means(), "means")
    )["metrics"]  # fmt: skip
    assert other["is"]["reason"] == "needs inception"
    with pytest.raises(InputError, match="metric: 'FID' and 'FD-means'") as caught:
        compare(*(Value.model_validate(numbers["fd"]) for numbers in (found, other)))
    assert {line.split(":")[0] for line in caught.value.details} == {"metric", "extractor", "extractor_hash", "resizer"}


def test_metrics_by_name() -> None:
    assert expand(["fd", "prdc"]) == ("fd", "precision", "recall", "density", "coverage")
    assert expand(["memorisation", "copies"]) == ("memorisation", "copies", "copies")
    with pytest.raises(ConfigError, match=r"not \(fid\)"):
        first_numbers(lambda y, s: y, colours(), metrics=("fid",))  # type: ignore[arg-type,return-value]


def test_fd_extrapolates_only_where_it_can() -> None:
    x = np.random.default_rng(0).normal(size=(60, 32))
    assert np.isnan(fd_infinity(x, Reference.of(x)))  # n < 2d


def test_a_process_alone_has_its_own_part() -> None:
    x = np.random.default_rng(0).normal(size=(9, 3))
    mine = Moments.of(x)
    assert gather_moments(mine) is mine and gather_rows(x) is x


def test_inception_score_needs_finite_logits() -> None:
    with pytest.raises(DataError, match="not finite"):
        inception_score(np.array([[np.inf, 0.0]]))
    one = inception_score(np.array([[5.0, 0.0]]))
    assert (one.mean, one.std) == (1, 0)


def test_a_classifier_learns_from_what_it_is_given() -> None:
    """By real images it tells the two classes apart; by images whose labels are exchanged it is wrong everywhere."""
    data = colours(320)
    train = data.part("train")
    assert train.labels is not None
    shares: list[float] = []
    right = cas(train.images, train.labels, data, "val", (0, 1), epochs=8, progress=lambda t, what: shares.append(t))
    assert right.accuracy > 0.9 and right.per_class.shape == (2,) and shares == sorted(shares)
    wrong = cas(train.images, 1 - train.labels, data, "val", (0,), epochs=8)
    assert wrong.accuracy < 0.1
    one = train.images[:1].repeat(len(train), axis=0)  # a collapse, whatever the label
    assert cas(one, train.labels, data, "val", (0,), epochs=2).accuracy < 0.7
    with pytest.raises(DataError, match="labels for images"):
        cas(train.images[:5], train.labels, data, "val")


def test_near_is_what_one_real_image_in_a_hundred_is() -> None:
    distances = np.arange(1.0, 301)
    assert percentile(distances) == 3  # the value at 0.01 * 299 = 2.99 places, rounded down
    real = Nearest(np.zeros(300, np.int64), distances, np.zeros(300, np.int64), distances)
    assert flagged(real, real).sum() == 2

    def at(pixel: float, feature: float) -> Nearest:
        return Nearest(np.zeros(1, np.int64), np.array([pixel]), np.zeros(1, np.int64), np.array([feature]))

    assert flagged(at(2.9, 50), real).all() and flagged(at(50, 2.9), real).all()
    assert not flagged(at(3, 3), real).any()
    assert copied(at(1.5, 50), real).all() and not copied(at(1.6, 0), real).any()
    # Where real held-out images are copies themselves, only equality is a sign.
    twins = replace(real, pixel=np.zeros(300))
    assert flagged(at(0, 50), twins).all() and not flagged(at(0.1, 50), twins).any()


def test_the_nearest_of_small_and_oblong_images() -> None:
    rng = np.random.default_rng(3)
    training = rng.integers(0, 256, (40, 1, 5, 9)).astype(np.uint8)
    index, distance = nearest_pixels(training[[3, 17]][:, :, :, ::-1], training)
    assert index.tolist() == [3, 17] and distance.tolist() == [0, 0]
    tall = scenes(60, 64, 3, 4)[:, :, :, :40]
    index, distance = nearest_pixels(tall[[5]], tall)
    assert (index.tolist(), distance.tolist()) == ([5], [0])
    with pytest.raises(DataError, match="equal ones"):
        nearest_pixels(tall, training)


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)
def test_the_anchor_is_cifar10(shared: Path) -> None:
    """IS of CIFAR-10's training images is 11.237 +- 0.095, in torch-fidelity's words. Hours on a CPU."""
    path = shared / "weights" / inception.FILE
    if not path.is_file():
        pytest.skip(f"no {inception.FILE} in ../shared/weights")
    from tests.metrics.test_extractors import photographs

    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    images, _ = photographs(shared / "data" / "cifar10.zip", "train", 5000, names)
    extract = find_extractor("inception", path)
    assert extract is not None and len(images) == 50_000
    found = inception_score(extract(images)[1])  # type: ignore[arg-type]
    assert abs(found.mean - 11.237) < 0.095 and 0.02 < found.std < 0.3
