"""PNG and WebP files that carry their recipe, and grids of images. numpy and PIL only, so that services may use it.

Every PNG has two text chunks: `kartina`, the JSON of the recipe that makes the image again, and `synthetic` = "true". A
WebP says the same in EXIF: the recipe is its ImageDescription, and its Software is "Kartina; synthetic".
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from kartina.errors import DataError

Images = NDArray[np.uint8]

GAP = 2  # pixels between the cells of a grid
SYNTHETIC = "Kartina; synthetic"  # EXIF Software of a WebP
_DESCRIPTION, _SOFTWARE = 0x010E, 0x0131  # EXIF tags
CELL = 64  # a grid's cells are enlarged by a whole factor to at least about this side


def to_pil(image: Images) -> Image.Image:
    """uint8 C,H,W (1 grey, 2 grey + alpha, 3 RGB, 4 RGBA) -> PIL image."""
    if image.ndim != 3 or image.dtype != np.uint8 or image.shape[0] not in (1, 2, 3, 4):
        raise DataError(
            f"Found an image of shape {image.shape} and type {image.dtype}; expected uint8 C,H,W, C 1 to 4."
        )
    pixels = np.ascontiguousarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
    return Image.fromarray(pixels)


def encode(image: Image.Image | Images, recipe: Mapping[str, Any] | None = None) -> bytes:
    """PNG bytes of a PIL image or uint8 C,H,W, with the recipe and the synthetic marker."""
    info = PngImagePlugin.PngInfo()
    if recipe is not None:
        info.add_text("kartina", json.dumps(recipe, sort_keys=True))
    info.add_text("synthetic", "true")
    out = io.BytesIO()
    (to_pil(image) if isinstance(image, np.ndarray) else image).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def as_webp(content: bytes) -> bytes:
    """A PNG of ours as a lossless WebP with the same pixels (alpha included), recipe and marker."""
    recipe = read_recipe(content)
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        exif = Image.Exif()
        if recipe is not None:
            exif[_DESCRIPTION] = json.dumps(recipe, sort_keys=True)
        exif[_SOFTWARE] = SYNTHETIC
        out = io.BytesIO()
        image.save(out, "WEBP", lossless=True, exif=exif)
    return out.getvalue()


def read_recipe(content: bytes) -> dict[str, Any] | None:
    """The recipe that the bytes of a PNG or WebP carry, or None. Raises DataError where they are neither."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG", "WEBP"]) as image:
            if image.format == "PNG":
                image.load()  # a text chunk may follow the pixels
                text = getattr(image, "text", {}).get("kartina")
            else:
                text = image.getexif().get(_DESCRIPTION)
            return parse_recipe(text) if text else None
    except (OSError, ValueError, SyntaxError, RecursionError) as error:
        raise DataError(
            f"Found {len(content)} bytes that are not a PNG or WebP with a readable recipe ({error})."
        ) from None


def parse_recipe(text: str) -> dict[str, Any] | None:
    """The recipe in a file's text, or None. Raises ValueError, RecursionError for what is no JSON."""
    found = json.loads(text)
    return found if isinstance(found, dict) else None


def is_synthetic(content: bytes) -> bool:
    """Whether the bytes of a PNG or WebP carry the marker."""
    with Image.open(io.BytesIO(content), formats=["PNG", "WEBP"]) as image:
        image.load()
        return getattr(image, "text", {}).get("synthetic") == "true" or image.getexif().get(_SOFTWARE) == SYNTHETIC


def grid(rows: Sequence[Images], scale: int | None = None) -> Image.Image:
    """One row of cells for each uint8 n,C,H,W of `rows`, all of one C,H,W; shorter rows end in background.

    `scale` enlarges every pixel to a square (None: until a cell is about 64 pixels wide).
    """
    if not rows or not max(len(row) for row in rows):
        raise DataError("Found no images to arrange in a grid; expected at least one.")
    first = next(row for row in rows if len(row))
    channels, height, width = first.shape[1:]
    zoom = scale or max(1, round(CELL / max(height, width)))
    columns = max(len(row) for row in rows)
    high, wide = height * zoom + GAP, width * zoom + GAP
    canvas = np.full((channels, len(rows) * high + GAP, columns * wide + GAP), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            top, left = GAP + y * high, GAP + x * wide
            big = image.repeat(zoom, axis=1).repeat(zoom, axis=2)
            canvas[:, top : top + height * zoom, left : left + width * zoom] = big
    return to_pil(canvas)


def alike(*groups: Images) -> list[Images]:
    """Groups of uint8 n,C,H,W with equal channels and sizes: grey ones (C = 1) are repeated where others have colour,
    and each pixel of small ones becomes a square."""
    most, high = max(group.shape[1] for group in groups), max(group.shape[2] for group in groups)
    out = [group.repeat(most, axis=1) if group.shape[1] == 1 else group for group in groups]
    return [g.repeat(high // g.shape[2], axis=2).repeat(high // g.shape[2], axis=3) for g in out]


def file_name(index: int, name: str, seed: int) -> str:
    """000-Ankle-boot-seed7.png: a file name that is safe everywhere, whatever the class is called."""
    plain = re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.")[:60] or "image"
    return f"{index:03d}-{plain}-seed{seed}.png"
