"""What can be trained: the presets, their parameters, and how fast they train on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import kartina
from kartina import registry
from kartina.config import ImageSpec, Preset, RunConfig, TrainConfig, read
from kartina.data.imageset import ImageSet
from kartina.generators.base import Family
from kartina.training.loop import Trainer, pick_device


def on_meta(family: type[Family], preset: Preset, spec: ImageSpec) -> Family:
    """A preset's networks without their weights."""
    with torch.device("meta"):
        return family(read(family.Config, preset.config, f"settings of {family.name}"), spec)


def usual(family: type[Family], preset: Preset, channels: int = 3, classes: int = 10) -> ImageSpec:
    """Images as a preset usually gets them: with classes, or as pairs without."""
    size = preset.size
    if family.takes_pairs(read(family.Config, preset.config, f"settings of {family.name}")):
        return ImageSpec(height=size, width=size, channels=channels, paired=True, source_channels=channels)
    return ImageSpec(height=size, width=size, channels=channels, classes=tuple(map(str, range(classes))))


def example(family: type[Family], preset: Preset, channels: int = 3, n: int = 512) -> ImageSet:
    """Noise of the usual kind, to time a training on."""
    rng = np.random.default_rng(0)
    spec = usual(family, preset, channels)
    images, sources = rng.integers(0, 256, (2, n, *spec.shape), dtype=np.uint8)
    labels = np.arange(n) % len(spec.classes) if spec.classes else None
    return ImageSet("noise", "", spec, images, labels, {"train": (0, n)}, sources=sources if spec.paired else None)


def rate(name: str, seconds: float = 2.0) -> float:
    """Training speed of a preset here, images a second, on noise with 3 channels and 10 classes (or pairs)."""
    family_name, preset = registry.preset(name)
    data = example(registry.family(family_name), preset)
    config = RunConfig(
        kartina=kartina.__version__,
        preset=name,
        family=family_name,
        config=dict(preset.config),
        train=read(TrainConfig, preset.train, f"training settings of {name}"),
        spec=data.spec,
        data=data.name,
        data_hash="",
        images=10**9,
        device=pick_device("auto"),
    )
    trainer = Trainer(config, data)
    trainer.step()  # every phase once: allocations
    trainer.synchronise()
    start, done = time.perf_counter(), 0
    while done == 0 or time.perf_counter() - start < seconds:
        trainer.step()
        trainer.synchronise()
        done += 1
    return done * trainer.images_per_step / (time.perf_counter() - start)


def describe(measure: bool = True, progress: Callable[[str], None] | None = None) -> list[dict[str, Any]]:
    """Every preset: name, family, size, parameters, about, and img/s here.

    The rate is None when it was not measured: on request, and on a CPU for presets that are made for a GPU.
    """
    on_cpu = pick_device("auto") == "cpu"
    out = []
    for name, (family_name, preset) in registry.presets().items():
        cls = registry.family(family_name)
        family = on_meta(cls, preset, usual(cls, preset))
        timed = measure and (name.endswith("-cpu") or not on_cpu)
        if timed and progress is not None:
            progress(name)
        out.append(
            {
                "name": name,
                "family": family_name,
                "size": preset.size,
                "parameters": sum(p.numel() for p in family.parameters()),
                "img/s": round(rate(name), 1) if timed else None,
                "about": preset.about,
            }
        )
    return out
