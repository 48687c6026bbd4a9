"""What the generators of a study draw: a grid of fixed seeds, nothing chosen; and, beside each of its first images, the
training image that is nearest in the features of the data's own classifier.

Pictures are drawn once and kept in the study's folder, by the run and checkpoint that they show.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from kartina.data.imageset import ImageSet
from kartina.errors import disk_errors
from kartina.metrics.classifier import Classifier, domain_classifier
from kartina.metrics.distances import nearest
from kartina.models import png
from kartina.study.folder import Study, Trial
from kartina.study.trials import load_point
from kartina.training.folder import write_json

ROWS = 10  # classes in a grid
SHOWN = 8  # images beside their nearest neighbours


@dataclass(frozen=True)
class Picture:
    """A PNG and how large it is meant to be seen."""

    path: Path
    width: int
    height: int


@dataclass(frozen=True)
class Looks:
    """What one entry draws."""

    grid: Picture
    neighbours: Picture
    distances: tuple[float, ...]  # of each shown image to its neighbour, in features
    usual: float  # median distance of a real val image to its nearest training image


def columns(size: int) -> int:
    """Images of a class in a row: as many as keep a grid small."""
    return 8 if size <= 32 else 6 if size <= 64 else 4


@dataclass
class Gallery:
    """The training images of one data set, ready to be compared with."""

    data: ImageSet
    judge: Classifier
    features: NDArray[np.float64]
    usual: float

    @classmethod
    def of(cls, data: ImageSet) -> Gallery:
        judge, train = domain_classifier(data), data.part("train")
        features = judge(train.images)[0]
        held = data.part("val")
        some = held.images[np.linspace(0, len(held) - 1, min(len(held), 500)).astype(np.int64)]
        return cls(data, judge, features, float(np.median(nearest(judge(some)[0], features)[1])))

    def look(self, study: Study, trial: Trial, images: int) -> Looks:
        """What a run draws at one of its points; from the study's folder where it has been drawn."""
        stem = study.path / "pictures" / f"{trial.id}-{images}"
        grid, beside, record = (stem.with_name(stem.name + s) for s in (".png", "-neighbours.png", ".json"))
        if not record.is_file():
            self.draw(study, trial, images, grid, beside, record)
        found = json.loads(record.read_text())
        return Looks(Picture(grid, *found["grid"]), Picture(beside, *found["neighbours"]),
                     tuple(found["distances"]), found["usual"])  # fmt: skip

    def draw(self, study: Study, trial: Trial, images: int, grid: Path, beside: Path, record: Path) -> None:
        model, _ = load_point(study, trial, images)
        classes = min(ROWS, len(self.data.spec.classes))
        wide = columns(self.data.spec.width)
        made = model.sample(list(range(classes)), n=wide * classes, seed=0)
        rows = [made.images[made.labels == k] for k in range(classes)]
        first = np.stack([rows[i % classes][i // classes] for i in range(min(SHOWN, wide * classes))])
        index, distances = nearest(self.judge(first)[0], self.features)
        real = np.asarray(self.data.part("train").images[index])
        with disk_errors("draw the report's pictures"):
            grid.parent.mkdir(exist_ok=True)
            recipe = {**made.recipe, "seed": 0}
            sizes = {"grid": store(png.grid(rows, 1), grid, recipe),
                     "neighbours": store(png.grid([first, real], 1), beside, recipe)}  # fmt: skip
            write_json(record, {**sizes, "distances": [float(d) for d in distances], "usual": self.usual})


def real_grid(study: Study, data: ImageSet) -> Picture:
    """Val images in the same arrangement."""
    path = study.path / "pictures" / f"real--{data.name}.png"
    held = data.part("val")
    assert held.labels is not None
    wide, classes = columns(data.spec.width), min(ROWS, len(data.spec.classes))
    rows = [np.asarray(held.images[np.flatnonzero(held.labels == k)[:wide]]) for k in range(classes)]
    sheet = png.grid([row for row in rows if len(row)], 1)
    with disk_errors("draw the report's pictures"):
        path.parent.mkdir(exist_ok=True)
        return Picture(path, *store(sheet, path, None))


def store(sheet: Image.Image, path: Path, recipe: Mapping[str, Any] | None) -> tuple[int, int]:
    """Write a small PNG, with the marks that generated images carry; returns its width and height."""
    info = PngImagePlugin.PngInfo()
    if recipe is not None:
        info.add_text("kartina", json.dumps(recipe, sort_keys=True))
        info.add_text("synthetic", "true")
    temp = path.with_name(f".{path.name}.{os.getpid()}")
    sheet.save(temp, "PNG", pnginfo=info, optimize=True)
    temp.replace(path)
    return sheet.size
