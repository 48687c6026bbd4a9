"""Images that a user gives to a model: read as safely as an import reads them, and fitted to the model.

Paths, encoded bytes, PIL images and uint8 arrays come in; uint8 C,H,W of the wanted size and channels goes out, with a
note of what was done to each. numpy and PIL only, so that services may use it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kartina.data.decode import FITS, Fit, enough, fit_to, from_array, is_grey, open_image, to_array
from kartina.data.paths import IMAGES, is_junk, natural, suffix
from kartina.errors import ConfigError, DataError

Source = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]


@dataclass(frozen=True)
class Given:
    """An input image, as a model takes it."""

    pixels: NDArray[np.uint8] = field(repr=False)  # C,H,W
    name: str = ""  # its file's name without suffix; "" for what came without a name
    note: str = ""  # what was done to make it fit; "" for nothing
    size: tuple[int, int] = (0, 0)  # width and height that it came with

    @cached_property
    def sha256(self) -> str:
        """Of the pixels: what the recipe remembers of it."""
        return hashlib.sha256(self.pixels.tobytes()).hexdigest()


def read_images(
    images: Source | Sequence[Source],
    size: tuple[int, int],
    channels: int,
    fit: Fit = "crop",
    shrink: int = 1,
    rows: Collection[int] | None = None,
    before: Callable[[], object] | None = None,
    mask: bool = False,
) -> list[Given]:
    """One image or several -> uint8 `channels`,*`size` each, in order; a folder stands for its images, sorted by name.

    An array is uint8 H,W, H,W,C or C,H,W (where both would do, H,W,C), and with four dimensions several of them.
    `fit` is that of an import: crop, pad or stretch. With `shrink` the images come out that many times smaller than
    `size`: one that is as large is fitted to it and then averaged over squares, a smaller one is fitted to the small
    size. Of M images row i uses the one at i mod M: where `rows` tells which rows there are, the others are not read,
    but black. What came as the same bytes is read once. `before` is called before each reading. As a `mask`, an image
    with a transparent part is white there, and black elsewhere.

    Raises DataError naming each image that cannot be used.
    """
    if fit not in FITS:
        raise ConfigError(f"Found fit={fit}; expected one of {', '.join(FITS)}.")
    found = _each(images)
    if not found:
        raise ConfigError("Found an empty list of images; expected at least one.")
    used = range(len(found)) if rows is None else {row % len(found) for row in rows}
    black = Given(np.zeros((channels, *size), np.uint8))
    given = [black] * len(found)
    bad: list[str] = []
    once: dict[bytes, Given | DataError] = {}
    for i, item in enumerate(found):
        if i not in used:
            continue
        path = Path(item) if isinstance(item, str | os.PathLike) else None
        one = once.get(item) if isinstance(item, bytes) else None
        if one is None:
            if before is not None:
                before()
            try:
                one = _read(path or item, size, channels, fit, shrink, mask)
            except DataError as error:
                one = error
            if isinstance(item, bytes):
                once[item] = one
        if isinstance(one, DataError):
            bad.append(f"{path.name if path else i}: {one}")
        else:
            given[i] = one
    if bad:
        if len(found) == 1:
            raise DataError(f"Could not use the image {bad[0]}.")
        raise DataError(f"Found {len(bad)} of {len(found)} images that cannot be used; nothing was made.", details=bad)
    return given


def read_masks(
    masks: Source | Sequence[Source],
    images: Sequence[Given],
    size: tuple[int, int],
    fit: Fit = "crop",
    rows: Collection[int] | None = None,
    before: Callable[[], object] | None = None,
) -> list[Given]:
    """Masks for `images` (image i has masks[i mod M]), fitted as those are -> uint8 1,*`size` each, 0 or 255.

    `rows` and `before` as in `read_images`. White (from the half on; of a mask with a transparent part that part) is
    what is to be made anew, black stays. Raises what `check_masks` raises.
    """
    found = read_images(masks, size, 1, fit, rows=rows, before=before, mask=True)
    check_masks(found, images, max(size), fit, range(max(len(images), len(found))) if rows is None else rows)
    once = {id(mask): mask for mask in found}
    made = {
        key: replace(mask, pixels=np.where(mask.pixels >= 128, 255, 0).astype(np.uint8)) for key, mask in once.items()
    }
    return [made[id(mask)] for mask in found]


def check_masks(masks: Sequence[Given], images: Sequence[Given], size: int, fit: Fit, rows: Iterable[int]) -> None:
    """Raises DataError for a mask that would not lie where it was drawn in the image of its row: one of another aspect,
    or, where images are padded to `size`, one that fills another part of it."""
    pairs = {(masks[row % len(masks)].size, images[row % len(images)].size) for row in rows}
    for (a, b), (w, h) in sorted(pairs):
        if a * h != b * w:
            raise DataError(f"Found a mask of {a}x{b} pixels for an image of {w}x{h}; expected one of the same shape.")
        if fit == "pad" and min(size, max(a, b)) != min(size, max(w, h)):
            raise DataError(
                f"Found a mask of {a}x{b} pixels for an image of {w}x{h}, and fit=pad, which enlarges nothing; "
                f"expected a mask as large as its image."
            )


def image_files(path: Path) -> list[Path]:
    """The images right in a folder, by name. Raises DataError where there is none."""
    try:
        found = [p for p in path.iterdir() if suffix(p.name) in IMAGES and not is_junk(p.name) and p.is_file()]
    except OSError as error:
        raise DataError(f"Could not look into the folder {path} ({error.strerror}).") from None
    if not found:
        raise DataError(f"Found no JPEG, PNG or WebP image in the folder {path}; expected at least one, right in it.")
    return sorted(found, key=lambda p: natural(p.name))


def _each(images: Source | Sequence[Source]) -> list[Source]:
    """One image or several, as a list; folders opened up."""
    if isinstance(images, np.ndarray):
        return list(images) if images.ndim == 4 else [images]
    if isinstance(images, str | os.PathLike):
        path = Path(images).expanduser()
        return list(image_files(path)) if os.path.isdir(path) else [path]
    if isinstance(images, bytes | Image.Image):
        return [images]
    return [one for item in images for one in _each(item)]


def _read(item: Source | Path, size: tuple[int, int], channels: int, fit: Fit, shrink: int, mask: bool) -> Given:
    height, width = size
    name = ""
    if isinstance(item, np.ndarray):
        image = from_array(_upright(item), mask)
    elif isinstance(item, bytes | Image.Image):
        image = open_image(item, enough(max(size), fit), mask)
    else:
        path = Path(item)
        if os.path.exists(path) and not os.path.isfile(path):
            raise DataError("found something that is not a file, expected a JPEG, PNG or WebP image")
        image = open_image(path, enough(max(size), fit), mask)
        name = path.stem
    wide, high = image.info["file_size"]
    whole = min(image.size) >= min(size)  # else it is small already
    if not whole:
        height, width = height // shrink, width // shrink
    if height != width and image.size != (width, height):
        raise DataError(f"found {wide}x{high} pixels, expected exactly {width}x{height}: this model is not square")
    note = _note(wide, high, width, fit)
    if channels == 1 and not is_grey(image):
        note = f"{note}, made grey" if note else f"{wide}x{high} made grey"
    fitted = image if height != width else fit_to(image, width, fit)
    if whole and shrink > 1:
        fitted = fitted.reduce(shrink)
        note = f"{note}, made {shrink} times smaller" if note else f"{wide}x{high} made {shrink} times smaller"
    pixels = to_array(fitted, channels).copy()  # PIL's own buffer is read-only
    return Given(pixels, name, note, (wide, high))


def _upright(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 H,W, H,W,C or C,H,W -> H,W or H,W,C."""
    shape, deep = array.shape, (1, 3, 4)
    if array.dtype == np.uint8 and array.size:
        if len(shape) == 2 or (len(shape) == 3 and shape[2] in deep):
            return np.ascontiguousarray(array)
        if len(shape) == 3 and shape[0] in deep:
            return np.ascontiguousarray(array.transpose(1, 2, 0))
    raise DataError(f"found an array of {array.dtype} {shape}, expected uint8 H,W, H,W,C or C,H,W with C 1, 3 or 4")


def _note(wide: int, high: int, size: int, fit: Fit) -> str:
    """What `fit_to` does to an image of `wide` x `high`, in words."""
    if (wide, high) == (size, size):
        return ""
    if fit == "stretch":
        return f"{wide}x{high} stretched to {size}x{size}"
    if fit == "pad":
        scale = min(1.0, size / max(wide, high))
        scaled = f" scaled to {max(1, round(wide * scale))}x{max(1, round(high * scale))} and" if scale < 1 else ""
        return f"{wide}x{high}{scaled} padded to {size}x{size}"
    cut = f" cut to its middle {min(wide, high)}x{min(wide, high)} and" if wide != high else ""
    return f"{wide}x{high}{cut} scaled to {size}x{size}"
