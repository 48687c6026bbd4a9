"""Samples: what `Model.sample` and a model's other tasks return. Images with the recipe of each."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kartina.errors import ConfigError, disk_errors
from kartina.models import png
from kartina.models.inputs import Given

OTHERS = (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def check_output(where: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]] = ()) -> Path:
    """Where samples can be saved: a path ending in .png, or a folder. Raises ConfigError for another, and for one of
    `inputs`."""
    path = Path(where)
    if path.suffix.lower() in OTHERS or (path.is_file() and path.suffix.lower() != ".png"):
        raise ConfigError(f"Found the output {str(path)!r}; expected a name ending in .png, or a folder.")
    if path.is_file() and any(Path(one).is_file() and path.samefile(one) for one in inputs):
        raise ConfigError(f"Found the output {str(path)!r} among the inputs; expected another name, to keep both.")
    return path


@dataclass(frozen=True)
class Samples:
    """Generated images, in the order asked for."""

    images: NDArray[np.uint8]  # N,C,H,W
    labels: NDArray[np.int64]  # N
    classes: tuple[str, ...]  # class names in label order; empty without classes
    seeds: tuple[int, ...]  # N
    recipe: dict[str, Any] = field(default_factory=dict)  # what all images share: model, hash, task, controls, kartina
    inputs: Mapping[str, tuple[Given, ...]] = field(default_factory=dict)  # by kind: image i took the one at i mod M
    extras: dict[str, NDArray[Any]] = field(default_factory=dict)  # N,...: what else the task found, such as w

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Image.Image]:
        return iter(self.pil())

    @property
    def given(self) -> tuple[Given, ...]:
        """The images that these were made from: image i from given[i mod M]; empty where the task takes none."""
        return self.inputs.get("image", ())

    def class_name(self, i: int) -> str:
        """The class of image i; "image" without classes."""
        return self.classes[self.labels[i]] if self.classes else "image"

    def recipe_of(self, i: int) -> dict[str, Any]:
        """All that makes image i again."""
        label = self.class_name(i) if self.classes else None
        given = {kind: found[i % len(found)].sha256 for kind, found in self.inputs.items()}
        return {**self.recipe, "label": label, "seed": self.seeds[i], **given}

    def file_name(self, i: int) -> str:
        """What image i is called in a folder: by its place, its input or class, and its seed."""
        name = self.class_name(i) if self.classes or not self.given else ""
        words = (self.given[i % len(self.given)].name if self.given else "", name)
        return png.file_name(i, "-".join(word for word in words if word), self.seeds[i])

    def pil(self) -> list[Image.Image]:
        return [png.to_pil(image) for image in self.images]

    def grid(self, scale: int | None = None) -> Image.Image:
        """One picture: a row per input, led by it; else a row per class in the order of first appearance (about square
        without classes)."""
        if self.given:
            m = len(self.given)
            led = [png.alike(given.pixels[None], self.images[i::m]) for i, given in enumerate(self.given)]
            return png.grid([np.concatenate(row) for row in led], scale)
        if self.classes:
            order = list(dict.fromkeys(self.labels.tolist()))
            return png.grid([self.images[self.labels == label] for label in order], scale)
        columns = int(np.ceil(np.sqrt(len(self))))
        return png.grid([self.images[i : i + columns] for i in range(0, len(self), columns)], scale)

    def save(self, where: str | os.PathLike[str]) -> Path:
        """Write the grid (the bare image where there is one) to a path ending in .png, or one PNG per image
        into a folder; returns that path.

        Every PNG carries its recipe. Raises ConfigError for another suffix and StorageError on a full disk, with
        nothing of this call left behind.
        """
        path = check_output(where)
        if path.suffix.lower() == ".png" and not path.is_dir():
            names = [self.class_name(i) for i in range(len(self))] if self.classes else None
            given = {f"{kind}s": [one.sha256 for one in found] for kind, found in self.inputs.items()}
            recipe = {**self.recipe, "labels": names, "seeds": list(self.seeds), **given}
            one = len(self) == 1
            content = png.encode(self.images[0], self.recipe_of(0)) if one else png.encode(self.grid(), recipe)
            files = {path.name: content}
            folder = path.parent
        else:
            files = {self.file_name(i): png.encode(self.images[i], self.recipe_of(i)) for i in range(len(self))}
            folder = path
        with disk_errors(f"write {path}"):
            made = [] if folder.is_dir() else [folder]
            folder.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=".kartina-", dir=folder))
            try:
                for name, content in files.items():
                    (staging / name).write_bytes(content)
                for name in files:
                    (staging / name).replace(folder / name)
                made = []
            finally:
                for leftover in staging.iterdir():
                    leftover.unlink()
                staging.rmdir()
                for empty in made:
                    empty.rmdir()
        return path
