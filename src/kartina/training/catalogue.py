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


def example(size: int, channels: int = 3, classes: int = 10, n: int = 512) -> ImageSet:
    """Noise with labels, to time a training on."""
    rng = np.random.default_rng(0)
    spec = ImageSpec(height=size, width=size, channels=channels, classes=tuple(map(str, range(classes))))
    images = rng.integers(0, 256, (n, *spec.shape), dtype=np.uint8)
    return ImageSet("noise", "", spec, images, np.arange(n) % classes, {"train": (0, n)})


def rate(name: str, seconds: float = 2.0) -> float:
    """Training speed of a preset here, images a second, on noise with 3 channels and 10 classes."""
    family_name, preset = registry.preset(name)
    data = example(preset.size)
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
        spec = ImageSpec(height=preset.size, width=preset.size, channels=3, classes=tuple(map(str, range(10))))
        family = on_meta(registry.family(family_name), preset, spec)
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
