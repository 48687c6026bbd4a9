"""Requests with input images: what the worker makes of them, and of wrong ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from kartina.models import package, png
from kartina.models.model import load, save
from kartina.models.package import PackageRef
from kartina.serving.protocol import Event, Failed, Finished, Output, RequestSpec, RowSpec, Submit, pack, unpack
from tests import tiny
from tests.engine import CARD, PROVENANCE
from tests.pictures import pixels
from tests.serving.test_batching import Bench


@pytest.fixture(scope="module")
def pix(tmp_path_factory: pytest.TempPathFactory) -> PackageRef:
    """An untrained pix2pix without classes: colour sources, grey targets."""
    root = tmp_path_factory.mktemp("models")
    return save(tiny.sampler("pix2pix", shape=tiny.spec(16, 1, 0)), "pix", PROVENANCE, CARD, root=root)


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def file(seed: int, size: int = 16) -> bytes:
    return png.encode(np.ascontiguousarray(pixels(seed, size).transpose(2, 0, 1)))


def spec(ref: PackageRef, id: str, images: tuple[bytes, ...], task: str = "translate", n: int = 4) -> RequestSpec:
    rows = tuple(RowSpec(index=i, seed=7 + i) for i in range(n))
    hash = package.read_manifest(ref.path).hash
    return RequestSpec(
        id=id, model=str(ref.path), hash=hash, task=task, rows=rows, inputs={"image": images} if images else {}
    )


def run(*specs: RequestSpec) -> dict[str, list[Event]]:
    bench = Bench()
    for asked in specs:
        bench.submit(asked)
    while bench.batcher.requests:
        if not bench.batcher.step() and bench.batcher.requests:
            assert bench.woken.wait(60)
            bench.woken.clear()
    return bench.told


def test_images_travel_as_they_are(pix: PackageRef) -> None:
    asked = spec(pix, "a", (file(1), file(2)))
    assert unpack(pack(Submit(spec=asked))[4:]) == Submit(spec=asked)


def test_row_i_gets_image_i_mod_m_and_its_recipe_tells(pix: PackageRef) -> None:
    images = (file(1), file(2, 40), file(3))
    told = run(spec(pix, "a", images, n=5))["a"]
    alone = load(pix).translate(list(images), n=5, seed=7)
    made = {event.index: event for event in told if isinstance(event, Output)}
    assert sorted(made) == list(range(5))
    for i, event in made.items():
        recipe = png.read_recipe(event.png)
        assert recipe == alone.recipe_of(i) and recipe["image"] == alone.given[i % 3].sha256
    assert isinstance(told[-1], Finished)


@pytest.mark.parametrize(
    ("task", "images", "code", "says"),
    [
        ("translate", (), "config", "no image for the task 'translate'"),
        ("generate", (), "not_found", "no task called 'generate'; there are: translate"),
        ("translate", (b"text, not an image",), "data", "found text"),
        ("translate", (file(1), file(2)[:60]), "data", "1 of 2 images"),
    ],
)
def test_a_wrong_request_fails_alone(
    pix: PackageRef, task: str, images: tuple[bytes, ...], code: str, says: str
) -> None:
    told = run(spec(pix, "wrong", images, task), spec(pix, "right", (file(1),)))
    (failed,) = told["wrong"]
    assert isinstance(failed, Failed) and failed.code == code and says in failed.message
    assert isinstance(told["right"][-1], Finished)


def test_images_for_a_task_that_takes_none_are_refused(tmp_path: Path) -> None:
    ref = save(tiny.sampler("vae"), "vae", PROVENANCE, CARD, root=tmp_path)
    (failed,) = run(spec(ref, "a", (file(1),), "generate"))["a"]
    assert isinstance(failed, Failed) and failed.code == "config" and "takes none" in failed.message
