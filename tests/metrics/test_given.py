"""Anyone's images: a folder of PNGs and an npz get exactly the numbers of the same images from a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer import Typer
from typer.testing import CliRunner

from kartina.cli.evaluate import evaluate
from kartina.config import ImageSpec
from kartina.data.given import read_given
from kartina.data.imageset import open_set
from kartina.errors import ConfigError, DataError, NotFoundError
from kartina.handlers.evaluate import evaluate_ref, fitting, generator
from kartina.handlers.load import load_any
from kartina.metrics.evaluate import stratified
from kartina.metrics.protocol import Value, compare
from kartina.training.loop import plan, train
from kartina.training.run import Run

app = Typer()
app.command("evaluate")(evaluate)
METRICS = (
    "class_agreement",
    "diversity",
    "fd",
    "kid",
    "precision",
    "recall",
    "density",
    "coverage",
    "memorisation",
    "cas",
)
SAMPLES = 90


@pytest.fixture(scope="module", autouse=True)
def run(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A VAE that has seen a few digits, in one home for this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KARTINA_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr("kartina.metrics.classifier.EPOCHS", (1, 1))
        settings = ["batch=32", "width=16", "threads=1", "precision=fp32"]
        made = Run.create(plan("vae-32-cpu", "digits", images=256, settings=settings, device="cpu"))
        assert train(made) == "finished"
        yield made


@pytest.fixture(autouse=True)
def quick(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KARTINA_HOME", str(run.path.parent.parent))
    monkeypatch.setattr("kartina.metrics.classifier.EPOCHS", (1, 1))
    monkeypatch.setattr("kartina.metrics.cas.train", short(monkeypatch))


def short(monkeypatch: pytest.MonkeyPatch) -> Any:
    from kartina.metrics.classifier import train as whole

    return lambda data, seed, progress, epochs: whole(data, seed, progress, 1)


@pytest.fixture(scope="module")
def made(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """What the model draws for the references' labels with generation seed 0, and those labels."""
    held = open_set("digits").part("val")
    assert held.labels is not None
    labels = np.ascontiguousarray(held.labels[stratified(held.labels, SAMPLES)])
    return generator(load_any(run.id))(labels, 0), labels


def save(folder: Path, images: np.ndarray, labels: np.ndarray | None) -> Path:
    """As another tool would: numbered PNG files, in folders named as the classes or all in one."""
    for i, image in enumerate(images):
        where = folder if labels is None else folder / str(labels[i])
        where.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(where / f"{i}.png")  # 2.png sorts before 10.png
    return folder


def of_images(where: Path, **more: Any) -> dict[str, Any]:
    return evaluate_ref(str(where), "digits", samples=SAMPLES, **{"metrics": METRICS, **more})


@pytest.mark.slow
def test_a_folder_and_an_npz_score_as_the_model(run: Run, made: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    images, labels = made
    of_model = evaluate_ref(run.id, "digits", seeds=(0,), samples=SAMPLES, metrics=METRICS)
    folder = save(tmp_path / "pictures", images, labels)
    np.savez(tmp_path / "last.npz", images=images[:, 0], labels=labels)
    for shape in ("last.npz", "pictures"):
        found = of_images(tmp_path / shape)
        assert found["model"] == shape
        assert {k: found[k] for k in ("metrics", "per_class", "control")} == {
            k: of_model[k] for k in ("metrics", "per_class", "control")
        }
        assert compare(*(Value.model_validate(x["metrics"]["kid"]) for x in (found, of_model))) == 0
    assert folder.is_dir()
    # Channels last, and grey as three equal channels: the same.
    np.savez(tmp_path / "rgb.npz", x=images.transpose(0, 2, 3, 1).repeat(3, axis=3), y=labels)
    few = ("fd", "kid", "class_agreement")
    found = of_images(tmp_path / "rgb.npz", metrics=few)["metrics"]
    assert found == {k: of_model["metrics"][k] for k in few}


def test_without_labels_distances_are_the_same(run: Run, made: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    images, _ = made
    keys = ("fd", "kid", "precision", "recall", "density", "coverage", "memorisation")
    of_model = evaluate_ref(run.id, "digits", seeds=(0,), samples=SAMPLES, metrics=keys)["metrics"]
    found = of_images(save(tmp_path / "flat", images, None), metrics=("class_agreement", *keys))["metrics"]
    assert {k: found[k] for k in keys} == of_model
    assert (found["class_agreement"]["value"], found["class_agreement"]["reason"]) == (None, "unconditional")


def test_more_images_make_more_sets(run: Run, tmp_path: Path) -> None:
    held = open_set("digits").part("val")
    assert held.labels is not None
    labels = np.ascontiguousarray(held.labels[stratified(held.labels, 60)])
    draw = generator(load_any(run.id))
    np.savez(tmp_path / "two.npz", images=np.concatenate([draw(labels, s) for s in (0, 1)]), labels=np.tile(labels, 2))
    found = evaluate_ref(str(tmp_path / "two.npz"), "digits", samples=60)
    of_model = evaluate_ref(run.id, "digits", seeds=(0, 1), samples=60)
    assert found["metrics"] == of_model["metrics"] and found["metrics"]["fd"]["interval"] is not None


def test_the_command(run: Run, made: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", images=made[0], labels=made[1])

    def call(*words: str) -> str:
        found = CliRunner().invoke(app, list(words), catch_exceptions=False)
        assert found.exit_code == 0, found.output
        return found.stdout

    mine = str(tmp_path / "mine.npz")
    options = ["--data", "digits", "--samples", "0.09k", "--metrics", "fd,kid,prdc,memorisation,is"]
    found = json.loads(call(mine, *options, "--json"))
    assert list(found["metrics"]) == [
        "fd", "kid", "precision", "recall", "density", "coverage", "memorisation", "copies", "is",
    ]  # fmt: skip
    for value in found["metrics"].values():
        assert {"value", "interval", "floor", "identity"} <= set(value)
    assert found["metrics"]["is"]["reason"] == "grey images"
    assert found["control"]["training copies"]["memorisation"] == 1
    assert found["control"]["training copies"]["copies"] == 1
    text = call(mine, *options)
    for word in ("FD-domain", "KD-domain", "precision", "copies", "grey images", "Per class, worst first"):
        assert word in text
    assert "FID" not in text and "worst first" not in call(mine, *options, "--no-per-class")


def test_what_cannot_be_measured(run: Run, made: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    images, labels = made
    spec = open_set("digits").spec
    with pytest.raises(ConfigError, match="no --data"):
        np.savez(tmp_path / "a.npz", images=images)
        evaluate_ref(str(tmp_path / "a.npz"))
    with pytest.raises(NotFoundError):
        evaluate_ref(str(tmp_path / "nothing"), "digits")
    with pytest.raises(DataError, match="no image of 7"):
        np.savez(tmp_path / "b.npz", images=images[labels != 7], labels=labels[labels != 7])
        of_images(tmp_path / "b.npz")
    folder = save(tmp_path / "named", images, labels)
    (folder / "1").rename(folder / "cat")
    with pytest.raises(NotFoundError, match="no class called 'cat'"):
        read_given(folder, spec)
    with pytest.raises(DataError, match="beside"):
        Image.fromarray(images[0, 0]).save(folder / "loose.png")
        read_given(folder, spec)
    jpeg = save(tmp_path / "jpeg", images[:3], None)
    Image.fromarray(images[0, 0]).save(jpeg / "x.jpg")
    with pytest.raises(DataError, match="JPEG's losses"):
        read_given(jpeg, spec)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        read_given(tmp_path / "empty", spec)
    for name, array, words in (
        ("size", images[:, :, :16], "make them so"),
        ("float", images / 255.0, "uint8"),
        ("single", images[0, 0, 0, 0], "pixels"),
        ("colour", np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8), "colour in"),
    ):
        np.savez(tmp_path / f"{name}.npz", images=array)
        with pytest.raises(DataError, match=words):
            read_given(tmp_path / f"{name}.npz", spec)
    np.savez(tmp_path / "labels.npz", images=images, labels=labels + 1)
    with pytest.raises(DataError, match="classes 0 to 9"):
        read_given(tmp_path / "labels.npz", spec)
    big = save(tmp_path / "big", np.zeros((2, 1, 40, 40), np.uint8), None)
    with pytest.raises(DataError, match="40 x 40"):
        read_given(big, spec)


def test_colour_images_are_read_as_they_are(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 6)).astype(np.uint8)
    for i, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / f"{i}.PNG")
    found, labels = read_given(tmp_path, ImageSpec(height=8, width=6, channels=3))
    assert labels is None and (found == images).all()


def test_as_many_references_as_the_rarest_class_allows() -> None:
    held = np.repeat([0, 1], [300, 100])
    assert fitting(None, 250, held, 1000) == 250
    assert fitting(np.array([300, 100]), 400, held, 1000) == 400
    m = fitting(np.array([300, 40]), 340, held, 1000)
    assert 155 <= m <= 162 and (np.bincount(held[stratified(held, m)]) <= [300, 40]).all()
