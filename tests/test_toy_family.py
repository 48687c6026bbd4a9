"""A family of one's own costs one file: written here, it is registered, trained, resumed, sampled, packaged, served."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor, nn

from kartina import registry
from kartina.config import FamilyConfig, ImageSpec, Preset
from kartina.generators.base import At, Batch, LatentFamily, Loss, Phase
from kartina.handlers.load import load_any
from kartina.handlers.publish import publish
from kartina.models import package
from kartina.serving.batching import Batcher
from kartina.serving.protocol import RequestSpec, RowSpec
from kartina.serving.residency import Residency
from kartina.training.loop import plan, train
from kartina.training.run import Run
from tests import tiny


# -- the family: this is all there is to it ------------------------------------------------------------------------
class MomentsConfig(FamilyConfig):
    z: int = 8
    conditional: bool = True


class Moments(LatentFamily):
    """A linear decoder whose class means and spread match the data's."""

    Config = MomentsConfig
    presets = {"moments-16": Preset(16, "a toy", train={"batch": 16, "lr": 0.05, "grids": 1})}

    def __init__(self, config: MomentsConfig, spec: ImageSpec):
        super().__init__(config, spec)
        pixels = spec.channels * spec.height * spec.width
        self.generator = nn.ModuleDict({"mean": nn.Linear(self.classes, pixels), "basis": nn.Linear(config.z, pixels)})

    def phases(self) -> list[Phase]:
        return [Phase("moments", list(self.parameters()))]

    def loss(self, phase: str, batch: Batch, at: At) -> Loss:
        y = self.one_hot(batch.labels)
        fake = self.decode(at.randn(len(batch), self.config.z), y)
        bias = (self.generator["mean"](y) - batch.images.flatten(1)).square().mean()
        spread = (fake.std() - batch.images.std()).square()
        return Loss(bias + spread, {"bias": bias.detach()})

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        image = self.generator["mean"](y) + 0.1 * self.generator["basis"](z)
        return image.float().reshape(-1, *self.spec.shape)


# -- the product, unchanged ----------------------------------------------------------------------------------------
@pytest.fixture
def toy() -> Iterator[None]:
    registry.register("moments")(Moments)
    try:
        yield
    finally:
        registry.unregister("moments")


def test_a_family_costs_one_file(toy: None, home: Path) -> None:
    loaded = threading.Event()
    batcher = Batcher(Residency("cpu", loaded.set))
    events: dict[str, list[Any]] = {"one": [], "two": []}
    tiny.store(tiny.images(), home)

    # Train, stop, go on.
    run = Run.create(plan("moments-16", "blobs", images=1600, settings=["threads=1"]))
    calls = iter([False] * 20 + [True])
    assert train(run, stop=lambda: next(calls)) == "paused"
    assert train(run) == "finished"
    bias = [s["bias"] for s in run.stats() if "bias" in s]
    assert bias[-1] < 0.1

    # Sample: every class where it belongs.
    samples = load_any(run.id).sample(["a", "b", "c"], n=6, seed=3)
    columns = samples.images.astype(float).mean(axis=(1, 2)).argmax(axis=1)
    assert columns[0] < columns[1] < columns[2]

    # Package and read it back, without a line of its own.
    found = publish(run.id, "toy", evaluate=False, precision="fp32")
    again = load_any("toy").sample(["a", "b", "c"], n=6, seed=3)
    assert np.array_equal(samples.images, again.images)
    manifest = package.read_manifest(found.path)
    assert manifest.family == "moments" and set(manifest.tasks) == {"generate", "interpolate"}

    # Serve: through the engine's batcher, next to another caller.
    for caller in ("one", "two"):
        rows = tuple(RowSpec(index=i, label=i % 3, seed=3 + i) for i in range(6))
        spec = RequestSpec(id=caller, model=str(found.path), hash=manifest.hash, rows=rows, client=caller)
        batcher.submit(spec, events[caller].append)
    while any(not e or e[-1].type != "finished" for e in events.values()):
        if not batcher.step():
            loaded.wait(5)
    for received in events.values():
        outputs = sorted((e for e in received if e.type == "output"), key=lambda e: e.index)
        served = np.stack([np.asarray(Image.open(io.BytesIO(e.png)))[None] for e in outputs])
        assert np.abs(served.astype(int) - samples.images).max() <= 1
