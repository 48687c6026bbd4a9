"""decode: JPEG, PNG or WebP in; a uint8 image of the wanted size and channels out.

Every oddity of real files ends here: palettes, alpha (laid on white; in a mask it is the mask), 16 bits (scaled to 8),
CMYK, EXIF orientation.
What is truncated, animated, too big or no image at all is refused with a DataError that says so. Size in pixels is
checked before any pixel is decoded.
"""

from __future__ import annotations

import io
import struct
import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from kartina.errors import DataError

Fit = Literal["crop", "pad", "stretch"]
FITS: tuple[Fit, ...] = get_args(Fit)

MAX_PIXELS = 64_000_000  # checked before decoding
FORMATS = ("JPEG", "PNG", "WEBP")
EXPECTED = "expected a JPEG, PNG or WebP image"

_LANCZOS = Image.Resampling.LANCZOS
_T = Image.Transpose
_UPRIGHT = {2: _T.FLIP_LEFT_RIGHT, 3: _T.ROTATE_180, 4: _T.FLIP_TOP_BOTTOM, 5: _T.TRANSPOSE, 6: _T.ROTATE_270,
            7: _T.TRANSVERSE, 8: _T.ROTATE_90}  # EXIF orientation -> what undoes it  # fmt: skip
_SIDEWAYS = (_T.TRANSPOSE, _T.ROTATE_270, _T.TRANSVERSE, _T.ROTATE_90)
_MAGIC = (
    (b"GIF8", "a GIF"), (b"BM", "a BMP"), (b"II*\0", "a TIFF"), (b"MM\0*", "a TIFF"), (b"%PDF", "a PDF"),
    (b"<svg", "an SVG"), (b"<?xml", "an SVG or XML file"), (b"<!DOCTYPE html", "a web page"), (b"PK\3\4", "a ZIP"),
    (b"\x1f\x8b", "gzip data"), (b"8BPS", "a Photoshop file"),
)  # fmt: skip


def open_image(data: bytes | Path | Image.Image, at_least: int | None = None, mask: bool = False) -> Image.Image:
    """The first thing every image goes through: opened (a PIL image is), checked, decoded whole, turned upright, 8
    bits, no alpha.

    Returns a PIL image of mode L or RGB, with the mode of the file and its upright (width, height) in `info` as
    `file_mode` and `file_size`. `at_least` allows a JPEG file to be decoded at a half, quarter or eighth of its size,
    with no side below that. A `mask` with a transparent part is white there, and black where it is opaque. Raises
    DataError with the reason.
    """
    try:
        with warnings.catch_warnings():  # Pillow's remarks about odd but readable files
            warnings.simplefilter("ignore")
            flat, mode, size = _load(data, at_least, mask)
    except UnidentifiedImageError:
        raise DataError(f"found {_what(data)}, {EXPECTED}") from None
    except Image.DecompressionBombError:
        raise DataError(_too_big()) from None
    except (FileNotFoundError, IsADirectoryError):
        raise DataError(f"found no such file, {EXPECTED}") from None
    except PermissionError:
        raise DataError("found a file that may not be read (permission denied)") from None
    except MemoryError:
        raise DataError("found an image that does not fit in memory") from None
    except (OSError, SyntaxError, ValueError, struct.error, EOFError, IndexError, KeyError, TypeError) as error:
        # Pillow's decoders tell of a damaged file in any of these.
        cut = "truncated" in str(error).lower() or isinstance(error, EOFError)
        raise DataError(f"found a {'truncated' if cut else 'damaged'} image ({error}), expected a whole one") from None
    flat.info = {"file_mode": mode, "file_size": size}
    return flat


def _load(
    data: bytes | Path | Image.Image, at_least: int | None, mask: bool
) -> tuple[Image.Image, str, tuple[int, int]]:
    """(the image; the mode and the upright size of the file)."""
    with _opened(data) as image:
        mode, (width, height) = image.mode, image.size
        if width * height > MAX_PIXELS:
            raise DataError(_too_big(width, height))
        frames = getattr(image, "n_frames", 1) if image.format in ("PNG", "WEBP") else 1
        if frames > 1:
            raise DataError(f"found an animation of {frames} frames, expected one still image")
        if image is data and (mode == "F" or (mode.startswith("I") and not mode.startswith("I;16"))):
            raise DataError(
                f"found a PIL image of mode {mode}, whose range nobody knows, expected 8 bits (L, RGB) or 16 (I;16)"
            )
        if at_least is not None and image.format == "JPEG" and image is not data:  # a draft changes what it is asked of
            image.draft(None, (at_least, at_least))
        image.load()
        turn = _orientation(image)
        size = (height, width) if turn in _SIDEWAYS else (width, height)
        return _flatten(image if turn is None else image.transpose(turn), mask), mode, size


def _opened(data: bytes | Path | Image.Image) -> AbstractContextManager[Image.Image]:
    """An image whose size can be asked for; one that came open is left open."""
    if isinstance(data, Image.Image):
        return nullcontext(data)
    return Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=FORMATS)


def decode(data: bytes | Path, size: int, fit: Fit = "crop", channels: int = 3) -> NDArray[np.uint8]:
    """An encoded image -> uint8 C,size,size. Raises DataError with the reason when it cannot be used."""
    return to_array(fit_to(open_image(data, enough(size, fit)), size, fit), channels)


def enough(size: int, fit: Fit) -> int:
    """Sides that a JPEG may be decoded at, to be fitted to `size` afterwards."""
    return 2 * size if fit != "stretch" else 4 * size


def fit_array(pixels: NDArray[np.uint8], size: int, fit: Fit = "crop", channels: int = 3) -> NDArray[np.uint8]:
    """uint8 H,W or H,W,C (C = 1, 3 or 4) -> uint8 C,size,size, treated as a decoded file would be."""
    return to_array(fit_to(from_array(pixels), size, fit), channels)


def from_array(pixels: NDArray[np.uint8], mask: bool = False) -> Image.Image:
    """uint8 H,W or H,W,C (C = 1, 3 or 4) -> a PIL image of mode L or RGB, as `open_image` returns it."""
    found = Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
    flat = _flatten(found, mask)
    flat.info = {"file_mode": found.mode, "file_size": found.size}
    return flat


def fit_to(image: Image.Image, size: int, fit: Fit) -> Image.Image:
    """Bring an L or RGB image to size x size.

    crop scales the short side to size and cuts the middle; stretch ignores the aspect; pad shrinks to fit, never
    enlarges, and fills the rest with the median colour of the image's border.
    """
    width, height = image.size
    if (width, height) == (size, size):
        return image
    if fit == "stretch":
        return image.resize((size, size), _LANCZOS, reducing_gap=3.0)
    if fit == "crop":  # one resize of the middle square: a 1 x 1,000,000 image is never scaled up whole
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return image.resize((size, size), _LANCZOS, box=(left, top, left + side, top + side), reducing_gap=3.0)
    scale = min(1.0, size / max(width, height))
    if scale < 1:
        new = max(1, round(width * scale)), max(1, round(height * scale))
        image = image.resize(new, _LANCZOS, reducing_gap=3.0)
    canvas = Image.new(image.mode, (size, size), _border(image))
    canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return canvas


def to_array(image: Image.Image, channels: int) -> NDArray[np.uint8]:
    """An L or RGB image -> uint8 C,H,W with C = 1 (luma, ITU-R 601-2) or 3."""
    pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def is_grey(image: Image.Image) -> bool:
    """Whether an L or RGB image holds no colour."""
    if image.mode == "L":
        return True
    pixels = np.asarray(image)
    return bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all())


def _orientation(image: Image.Image) -> Image.Transpose | None:
    """What turns the image upright by its EXIF; EXIF that cannot be read counts as none."""
    try:
        return _UPRIGHT.get(image.getexif().get(0x0112, 1))
    except (SyntaxError, ValueError, KeyError, TypeError, IndexError, struct.error, OSError, EOFError):
        return None


def _flatten(image: Image.Image, mask: bool = False) -> Image.Image:
    """Any mode -> L or RGB, 8 bits, alpha laid on white; of a mask with a transparent part (alpha below a half) white
    there, black elsewhere."""
    if mask and image.has_transparency_data:
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
        if (alpha < 128).any():
            return Image.fromarray(np.where(alpha < 128, 255, 0).astype(np.uint8))
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image.copy()
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits a pixel, grey
        wide = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode == "1":
        return image.convert("L")
    if image.has_transparency_data:
        grey = image.mode in ("LA", "La", "L")
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, "white")
        flat = Image.alpha_composite(white, over).convert("RGB")
        return flat.convert("L") if grey else flat
    return image.convert("RGB")


def _border(image: Image.Image) -> Any:
    pixels = np.asarray(image)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    middle = np.median(edge, axis=0).round().astype(int)
    return int(middle) if middle.ndim == 0 else tuple(middle.tolist())


def _too_big(width: int = 0, height: int = 0) -> str:
    size = f"{width} x {height} pixels" if width else "too many pixels to tell"
    return f"found {size}, expected at most {MAX_PIXELS // 1_000_000} megapixels: scale the image down"


def _what(data: bytes | Path | Image.Image) -> str:
    """What a file that is no image seems to be, as far as its first bytes tell."""
    if isinstance(data, Image.Image):
        return "an image that Pillow cannot read"
    if isinstance(data, Path):
        with data.open("rb") as file:
            data = file.read(512)
    head = data[:512]
    if not head:
        return "an empty file"
    if head[4:8] == b"ftyp":
        return "a HEIC, AVIF or video file"
    for magic, name in _MAGIC:
        if head.lstrip().startswith(magic):
            return name
    if head.startswith((b"\xff\xd8", b"\x89PNG", b"RIFF")):
        return "the broken beginning of an image"
    printable = sum(32 <= byte < 127 or byte in b"\t\r\n" for byte in head)
    return "text" if printable > 0.9 * len(head) else "data of an unknown kind"
