"""Tiny instances of every family, and data for them: what contract tests run over."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import kartina
from kartina import registry
from kartina.config import ImageSpec, RunConfig, TrainConfig
from kartina.data.imageset import ImageSet
from kartina.generators.base import Family, Row, build, rows_for
from kartina.training.run import Run

# Settings that make each family as small as it gets. A new family adds one line. "flow-pairs" is a flow of another
# kind: contract tests run over it too.
TINY: dict[str, dict[str, Any]] = {
    "vae": {"z": 4, "width": 8, "width_max": 16, "levels": 2, "components": 5, "gaussians": 2},
    "dcgan": {"z": 8, "width": 8, "width_max": 16, "penalty_every": 3},
    "gan": {"z": 4, "g_z_units": 8, "g_y_units": 8, "g_units": 16, "d_x_units": 8, "d_y_units": 4, "d_units": 8},
    "improved_gan": {"z": 8, "width": 8, "width_max": 16, "penalty_every": 3, "kernels": 4, "reference": 6},
    "cgan": {"z": 4, "g_z_units": 8, "g_y_units": 8, "g_units": 16, "d_x_units": 8, "d_y_units": 4, "d_units": 8},
    "stylegan2_ada": {"z": 8, "w": 16, "mapping": 2, "width": 8, "width_max": 16, "penalty_every": 3, "path_every": 2},
    "biggan": {"z": 8, "embed": 4, "width": 8, "width_max": 16, "d_steps": 1},
    "r3gan": {"z": 4, "embed": 4, "width": 8, "width_max": 16, "blocks": 1, "group": 4},
    "pix2pix": {"width": 8, "width_max": 16, "gamma": 1.0, "penalty_every": 3},
    "sgan": {"z": 8, "width": 8, "width_max": 16, "labels_used": 6, "kernels": 4, "penalty_every": 3},
    "flow": {"widths": (8, 16), "blocks": 1, "attention": (1,), "dropout": 0.1},
    "edm": {"widths": (8, 16), "blocks": 1, "attention": (1,), "sigma_data": 0.0, "weak_share": 0.5},
    "ddpm": {"backbone": "dit", "depth": 2, "width": 16, "heads": 2, "patch": 4, "schedule": "cosine"},
    "flow-pairs": {"widths": (8, 16), "blocks": 1, "attention": (1,), "source": "pairs", "augment": 0.3},
    "edm-upscale": {"widths": (8, 16), "blocks": 1, "attention": (1,), "source": "upscale", "weak_share": 0.5},
    "ddpm-upscale": {
        "backbone": "dit",
        "depth": 2,
        "width": 16,
        "heads": 2,
        "patch": 4,
        "source": "upscale",
        "augment": 0.3,
    },
    "meanflow": {"widths": (8, 16), "blocks": 1, "attention": (1,), "dropout": 0.1, "guidance": 2.0},
}


def spec(size: int = 16, channels: int = 1, classes: int = 3) -> ImageSpec:
    return ImageSpec(height=size, width=size, channels=channels, classes=tuple("abcdefghij"[:classes]))


def kind(name: str) -> type[Family]:
    """The family of an entry of TINY."""
    return registry.family(name.split("-")[0])


def fitted(name: str, shape: ImageSpec | None = None, config: Mapping[str, Any] | None = None) -> ImageSpec:
    """The spec, with sources for what learns from pairs: grey where the targets have colour, and back."""
    shape, family = shape or spec(), kind(name)
    if not family.takes_pairs(family.Config(**(TINY[name] if config is None else config))):
        return shape
    return shape.model_copy(update={"paired": True, "source_channels": source_channels(shape.channels)})


def source_channels(channels: int) -> int:
    return 1 if channels == 3 else 3


def family(name: str, seed: int = 0, shape: ImageSpec | None = None, **config: Any) -> Family:
    return build(kind(name), {**TINY[name], **config}, fitted(name, shape), seed)


def sampler(name: str, seed: int = 0, shape: ImageSpec | None = None, **config: Any) -> Family:
    """A tiny family ready to sample, with zero-initialised gates opened: an untrained one ignores its condition."""
    made = family(name, seed, shape, **config).sampler()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for p in made.parameters():
            if p.dim() > 1:
                p.data += torch.randn_like(p) * 0.1
    return made


def inputs(made: Family, task: str, n: int = 3) -> dict[str, list[Tensor]]:
    """Inputs for a task, n of each kind that it takes, as the family takes them."""
    found = {}
    for i, (kind, blank) in enumerate(made.capabilities()[task].blank(made.spec).items()):
        images = torch.rand(n, *blank.shape, generator=torch.Generator().manual_seed(5 + i)) * 2 - 1
        found[kind] = list((images > 0).float() if kind == "mask" else images)
    return found


def rows(made: Family, labels: Sequence[int], n: int, seed: int, controls: Any = None) -> list[Row]:
    """Rows of the family's first task, with input images where it takes some: three for all rows."""
    task = next(iter(made.capabilities()))
    return rows_for(made, labels, n, seed, controls, task, inputs(made, task))


def images(n: int = 96, shape: ImageSpec | None = None, seed: int = 0) -> ImageSet:
    """Blobs whose place tells the class, in memory; for pairs, made from their negatives, of other channels."""
    shape = shape or spec()
    rng = np.random.default_rng(seed)
    k = max(1, len(shape.classes))
    labels = np.arange(n) % k
    y, x = np.mgrid[0 : shape.height, 0 : shape.width]
    centre = (labels[:, None] + 0.5) / k * shape.width + rng.normal(0, 1, (n, 1))
    blob = np.exp(-((x[None] - centre[:, :, None]) ** 2 + (y[None] - shape.height / 2) ** 2) / 8)
    pixels = np.repeat((blob * 255).astype(np.uint8)[:, None], shape.channels, axis=1)
    stop = n * 2 // 3
    bounds = {"train": (0, stop), "val": (stop, n)}
    sources = np.repeat(255 - pixels[:, :1], shape.source_channels, axis=1) if shape.paired else None
    return ImageSet("blobs", "blobs", shape, pixels, labels if shape.classes else None, bounds, sources=sources)


def store(data: ImageSet, home: Path) -> ImageSet:
    """Write an in-memory set as an imported one."""
    where = home / "data" / data.name
    where.mkdir(parents=True, exist_ok=True)
    np.save(where / "images.npy", data.images)
    if data.labels is not None:
        np.save(where / "labels.npy", data.labels)
    if data.sources is not None:
        np.save(where / "sources.npy", data.sources)
    about = {"name": data.name, "hash": data.hash, "images": len(data), "bounds": data.bounds}
    (where / "data.json").write_text(json.dumps({**about, "spec": data.spec.model_dump(mode="json")}))
    return data


def run_config(name: str, data: ImageSet, n: int, config: Mapping[str, Any] | None = None, **train: Any) -> RunConfig:
    """The config of a run on `data` for n images; `config` goes over TINY's, `train` over the training settings."""
    settings = {"batch": 8, "lr": 1e-3, "grids": 0, "checkpoint_every": 0, "threads": 1, **train}
    return RunConfig(
        kartina=kartina.__version__,
        preset=f"{name}-tiny",
        family=kind(name).name,
        config={**TINY[name], **(config or {})},
        train=TrainConfig(**settings),
        spec=data.spec,
        data=data.name,
        data_hash=data.hash,
        images=n,
    )


def run(name: str, home: Path, n: int = 64, config: Mapping[str, Any] | None = None, **train: Any) -> Run:
    """A run folder for a tiny family on blobs, not yet trained."""
    data = store(images(shape=fitted(name)), home)
    return Run.create(run_config(name, data, n, config, **train))
