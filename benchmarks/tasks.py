"""What a model makes of images, seeds and classes: one figure a task, on val images, nothing chosen.

    python -m benchmarks.tasks --data fashion --out docs/results/tasks MODEL|RUN ...

A row is one image: the first of val of each class. Writes MODEL-TASK.png and README.md, with what the columns are.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kartina.data.imageset import ImageSet, open_set
from kartina.handlers.load import load_any
from kartina.models import png
from kartina.models.model import Model

Images = NDArray[np.uint8]  # n,C,H,W
ROWS = 10
STRENGTHS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SHARES = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
SEEDS = 4


class Given:
    """Images of val that a figure starts from: the first of each class, each with its class and the next one."""

    def __init__(self, data: ImageSet, model: Model):
        k = len(model.classes)
        labels = np.zeros(len(data), np.int64) if data.labels is None else np.asarray(data.labels)
        first = (
            [int(np.flatnonzero(labels == c)[0]) for c in range(k)][:ROWS] if k > 1 else list(range(min(6, len(data))))
        )
        self.images: Images = np.ascontiguousarray(data.images[first])
        self.sources = None if data.sources is None else np.ascontiguousarray(data.sources[first])
        self.labels: list[int] | None = labels[first].tolist() if k > 1 else None
        self.next = None if self.labels is None else [(c + 1) % k for c in self.labels]


def rolled(images: Images) -> Images:
    return np.roll(images, -1, axis=0)


def columns(*groups: Images) -> list[Images]:
    """Groups of n images as the columns of n rows."""
    same = png.alike(*groups)
    return [np.stack([group[i] for group in same]) for i in range(len(groups[0]))]


def transform(model: Model, given: Given) -> tuple[list[Images], str]:
    made = [model.transform(given.images, given.next, strength=s).images for s in STRENGTHS]
    shown = ", ".join(f"{s:g}" for s in STRENGTHS)
    return columns(given.images, *made), f"the image, then as the class of the row below, with strength {shown}"


def inpaint(model: Model, given: Given) -> tuple[list[Images], str]:
    mask = np.zeros((*given.images.shape[2:], 1), np.uint8)
    mask[: mask.shape[0] // 2] = 255
    hidden = np.where(mask.transpose(2, 0, 1) == 255, 128, given.images).astype(np.uint8)
    made = [model.inpaint(given.images, mask, given.labels, seed=100 * s).images for s in range(SEEDS)]
    return columns(given.images, hidden, *made), f"the image, what is given of it, {SEEDS} seeds"


def invert(model: Model, given: Given) -> tuple[list[Images], str]:
    return columns(given.images, model.invert(given.images, given.labels).images), "the image, its inversion"


def morph(model: Model, given: Given) -> tuple[list[Images], str]:
    def at(share: float) -> Images:
        rows = []
        for i, (a, b) in enumerate(zip(given.images, rolled(given.images), strict=True)):
            classes = {} if given.next is None else {"to_class": model.classes[given.next[i]]}
            own = None if given.labels is None else [given.labels[i]]
            rows.append(model.morph(a[None], b[None], own, share=share, **classes).images[0])
        return np.stack(rows)

    made = [at(share) for share in SHARES]
    return columns(given.images, *made, rolled(given.images)), "the image, the way, the image of the row below"


def interpolate(model: Model, given: Given) -> tuple[list[Images], str]:
    classes = given.labels or [0]
    named = "to_class" in type(model.controls("interpolate")).model_fields
    rows = []
    for k in classes:
        other = {"to_class": model.classes[(k + 1) % len(model.classes)]} if named and given.labels else {}
        label = [k] if given.labels else None
        rows.append(
            np.concatenate([model.interpolate(label, seed=k, to_seed=k + 100, share=s, **other).images for s in SHARES])
        )
    return rows, "from one seed" + (
        " and class to another seed and the class of the row below" if named else " to another"
    )


def same_noise(model: Model, given: Given) -> tuple[list[Images], str]:
    classes = list(range(len(model.classes)))[:ROWS]
    rows = [np.concatenate([model.sample([k], 1, seed=seed).images for k in classes]) for seed in range(6)]
    return rows, "a row is one seed, a column one class"


def learnt(task: str) -> Callable[[Model, Given], tuple[list[Images], str]]:
    """A task that starts from an image and has a true answer."""

    def figure(model: Model, given: Given) -> tuple[list[Images], str]:
        start = given.images if given.sources is None else given.sources
        runs = [model.run(task, given.labels, seed=100 * s, images=start) for s in range(SEEDS)]
        seen = np.stack([one.pixels for one in runs[0].given])
        return columns(seen, *(run.images for run in runs), given.images), f"what is given, {SEEDS} seeds, the truth"

    return figure


FIGURES: dict[str, Callable[[Model, Given], tuple[list[Images], str]]] = {
    "generate": same_noise,
    "transform": transform,
    "inpaint": inpaint,
    "interpolate": interpolate,
    "morph": morph,
    "invert": invert,
    "translate": learnt("translate"),
    "upscale": learnt("upscale"),
    "colorize": learnt("colorize"),
}


def page(out: Path) -> str:
    """All the figures of a folder, each with what its own recipe says."""
    lines = [
        "# Images, seeds and classes as conditions",
        "",
        "Made by `python -m benchmarks.tasks`; nothing was chosen.",
    ]
    for file in sorted(out.glob("*.png")):
        told = png.read_recipe(file.read_bytes()) or {}
        source = f"`{told['task']}` by {told['model']}, on {told['split']} of {told['data']}"
        lines += [
            "",
            f"## {file.stem}",
            "",
            f"{source}. Columns: {told['columns']}.",
            "",
            f"![{file.stem}]({file.name})",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+", metavar="MODEL|RUN")
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for ref in asked.models:
        model = load_any(ref)
        given = Given(open_set(asked.data).part(asked.split), model)
        for task in model.family.capabilities():
            if task == "generate" and given.labels is None:
                continue
            rows, about = FIGURES[task](model, given)
            name = f"{ref}-{'same-noise' if task == 'generate' else task}"
            recipe: Any = {"model": model.ref, "task": task, "data": asked.data, "split": asked.split, "columns": about}
            (asked.out / f"{name}.png").write_bytes(png.encode(png.grid(rows), recipe))
            print(f"{name}: {about}", flush=True)
    (asked.out / "README.md").write_text(page(asked.out))


if __name__ == "__main__":
    main()
