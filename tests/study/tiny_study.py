"""A study of tiny presets on blobs: what the tests of this folder run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from kartina.data.imageset import ImageSet
from tests import tiny

TEXT = """\
name = "blobs"
about = "A study of a test."
data = ["blobs"]
seeds = [0, 1]
device = "cpu"
threads = 1
settings = {precision = "fp32", batch = 16, grids = 1}

[budget]
images = 384

[[presets]]
preset = "vae-32-cpu"
settings = {width = 8, width_max = 8}

[[presets]]
preset = "dcgan-32-cpu"
label = "DCGAN <small>"
settings = {width = 8, width_max = 8}
controls = {spread = 0.9}

[evaluation]
samples = 60
generation_seeds = 2
checkpoints = 2

[choose]
agreement_slack = 1.0
coverage_share = 0.0
copies_factor = 1000.0
"""

LOST = """
[[presets]]
preset = "poisoned-32"
label = "wild"
settings = {width = 8, width_max = 8}
"""


def blobs() -> ImageSet:
    """Blobs of 32x32 pixels in three classes: 180 train, 60 val, 60 test; no two alike."""
    found = tiny.images(300, tiny.spec(32))
    noise = np.random.default_rng(1).integers(0, 24, found.images.shape, dtype=np.uint8)
    pixels = np.minimum(found.images.astype(np.int64) + noise, 255).astype(np.uint8)
    return replace(found, images=pixels, bounds={"train": (0, 180), "val": (180, 240), "test": (240, 300)})


def store(home: Path) -> ImageSet:
    return tiny.store(blobs(), home)


def write(path: Path, text: str = TEXT) -> Path:
    path.write_text(text)
    return path
