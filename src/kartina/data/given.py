"""Images that somebody made, to be measured: read as they are, never resized, never through a lossy format.

    folder    PNG files; in a folder for each class, named as the data set's classes, or all in one folder: no labels
    npz       images (N,H,W, N,H,W,C or N,C,H,W, uint8) and, if wanted, labels (N)

Another size, or JPEG on one side only, would change every distance; so both are refused here and not quietly mended.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kartina.config import ImageSpec
from kartina.data.arrays import ArrayFile, read_npz
from kartina.data.decode import is_grey, open_image, to_array
from kartina.data.paths import is_junk, natural
from kartina.errors import DataError

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

IMAGES = ("images", "samples", "x", "arr_0")  # names of the array of images in an npz, the first that is there
LABELS = ("labels", "y", "arr_1")
ROWS = 4096


def is_given(path: Path) -> bool:
    """Whether `path` is images to be measured, rather than a model's or a run's folder."""
    if path.is_file():
        return path.suffix.casefold() == ".npz"
    return path.is_dir() and not (path / "model.json").exists() and not (path / "config.json").exists()


def read_given(path: Path, spec: ImageSpec) -> tuple[Images, Labels | None]:
    """The images uint8 N,C,H,W at `path`, of the size and channels of `spec`, and their labels where they have some.

    Raises DataError for images of another size or kind, NotFoundError for a class that `spec` has not.
    """
    return _npz(path, spec) if path.is_file() else _folder(path, spec)


def _folder(root: Path, spec: ImageSpec) -> tuple[Images, Labels | None]:
    found = sorted((p for p in root.iterdir() if not is_junk(p.name)), key=lambda p: natural(p.name))
    classes, files = [p for p in found if p.is_dir()], [p for p in found if p.is_file()]
    if classes and files:
        raise DataError(
            f"Found {classes[0].name}/ beside {files[0].name} in {root.name}; expected either a folder for each class "
            f"or PNG files alone."
        )
    if files:
        return np.stack([_read(file, spec) for file in _only_png(files)]), None
    images, labels = [], []
    for folder in classes:
        label = spec.label(folder.name)
        inside = sorted((p for p in folder.iterdir() if not is_junk(p.name)), key=lambda p: natural(p.name))
        images += [_read(file, spec) for file in _only_png(inside)]
        labels += [label] * len(inside)
    if not images:
        raise DataError(f"Found no images in {root}; expected PNG files, or a folder of them for each class.")
    return np.stack(images), np.array(labels, np.int64)


def _only_png(files: list[Path]) -> list[Path]:
    other = [file.name for file in files if file.suffix.casefold() != ".png"]
    if other:
        raise DataError(
            f"Found {other[0]}; expected PNG files alone. JPEG's losses on one side can double a distance: let the "
            f"tool that made the images save PNG, or an npz.",
            details=other,
        )
    return files


def _read(file: Path, spec: ImageSpec) -> Images:
    try:
        image = open_image(file)
    except DataError as error:
        raise DataError(f"{file.name}: {error}.") from None
    if image.size != (spec.width, spec.height):
        raise DataError(_unlike(f"{file.name} of {image.width} x {image.height} pixels", spec))
    if spec.channels == 1 and not is_grey(image):
        raise DataError(_unlike(f"colour in {file.name}", spec))
    return to_array(image, spec.channels)


def _npz(path: Path, spec: ImageSpec) -> tuple[Images, Labels | None]:
    arrays = read_npz(path)
    name = next((name for name in IMAGES if name in arrays), None)
    if name is None:
        raise DataError(f"Found the arrays {', '.join(arrays) or 'none'} in {path.name}; expected `images`, uint8.")
    images = _pixels(arrays[name], spec)
    found = next((arrays[name] for name in LABELS if name in arrays), None)
    if found is None:
        return images, None
    labels: NDArray[Any] = found.whole()
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise DataError(f"Found labels {labels.dtype} {labels.shape} in {path.name}; expected {len(images)} integers.")
    if len(spec.classes) == 0:
        return images, None
    if labels.min() < 0 or labels.max() >= len(spec.classes):
        raise DataError(
            f"Found labels {labels.min()} to {labels.max()} in {path.name}; the data have the classes 0 to "
            f"{len(spec.classes) - 1} ({', '.join(spec.classes[:4])}, ...)."
        )
    return images, labels.astype(np.int64)


def _pixels(array: ArrayFile, spec: ImageSpec) -> Images:
    """An array of images -> uint8 N,C,H,W."""
    if array.dtype != np.uint8:
        raise DataError(
            f"Found {array.title} of {array.dtype}; expected uint8, levels 0 to 255. Round and clamp: "
            f"(x * 255).round().clip(0, 255).astype('uint8')."
        )
    channels, height, width = spec.shape
    shape = array.shape[1:]
    wide = [(height, width, c) for c in {channels, 3 if channels == 1 else channels}]
    if 0 in array.shape[:1] or (shape not in (spec.shape, *wide) and not (channels == 1 and shape == (height, width))):
        raise DataError(_unlike(f"{array.title} of shape {array.shape}", spec))
    parts = []
    for rows in array.rows(ROWS):
        if shape == spec.shape:
            parts.append(rows)
        elif len(shape) == 2:
            parts.append(rows[:, None])
        else:
            if shape[2] != channels and (rows != rows[..., :1]).any():
                raise DataError(_unlike(f"colour in {array.title}", spec))
            parts.append(rows[..., :channels].transpose(0, 3, 1, 2))
    return np.ascontiguousarray(np.concatenate(parts))


def _unlike(found: str, spec: ImageSpec) -> str:
    kind = "grey" if spec.channels == 1 else f"{spec.channels} channels"
    return (
        f"Found {found}; the data have {spec.width} x {spec.height} pixels, {kind}. Images are measured as they are: "
        f"make them so, or import the data at their size."
    )
