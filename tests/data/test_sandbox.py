"""Images from strangers: every oddity converted or refused in words, and nothing brings the caller down."""

from __future__ import annotations

import io
import os
import random
import signal
import struct
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import psutil
import pytest
from PIL import Image

from kartina.data.sandbox import MAX_BYTES, Sandbox
from kartina.errors import DataError


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox()
    yield made
    made.close()


def file(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def picture(mode: str = "RGB", size: tuple[int, int] = (12, 7)) -> Image.Image:
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    pixels = np.stack([x * 20 % 256, y * 30 % 256, (x + y) * 10 % 256], -1).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims to be so large."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    idat = b"IDAT" + zlib.compress(b"\0" * 100)
    chunks = b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (body, idat))
    return b"\x89PNG\r\n\x1a\n" + chunks + b"\0\0\0\0IEND\xaeB`\x82"


def animated(format: str) -> bytes:
    return file(picture(), format, save_all=True, append_images=[picture("L").convert("RGB")], duration=100)


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return file(picture(), "JPEG", exif=exif)


@pytest.mark.parametrize(
    ("content", "size", "channels", "note"),
    [
        (file(picture()), (12, 7), 3, ""),
        (file(picture("L")), (12, 7), 1, ""),
        (file(picture("RGBA")), (12, 7), 3, "made RGB of RGBA"),
        (file(picture("P")), (12, 7), 3, "made RGB of P"),
        (file(picture("1")), (12, 7), 1, "made L of 1"),
        (file(picture("CMYK"), "JPEG"), (12, 7), 3, "made RGB of CMYK"),
        (file(Image.fromarray(np.full((7, 12), 40000, np.uint16))), (12, 7), 1, "made L of I;16"),
        (file(picture(), "WEBP", lossless=True), (12, 7), 3, ""),
        (file(picture(size=(1, 1))), (1, 1), 3, ""),
        (rotated(), (7, 12), 3, ""),
    ],
    ids=["rgb", "grey", "alpha", "palette", "bits", "cmyk", "16-bit", "webp", "1x1", "rotated"],
)
def test_what_can_be_used_is_made_clean(
    sandbox: Sandbox, content: bytes, size: tuple[int, int], channels: int, note: str
) -> None:
    clean = sandbox.clean(content)
    assert ((clean.width, clean.height), clean.channels, clean.note) == (size, channels, note)
    image = Image.open(io.BytesIO(clean.png))
    assert (image.size, image.format, image.mode) == (size, "PNG", "L" if channels == 1 else "RGB")
    assert not image.info and not image.getexif()  # no place, camera or profile goes on


def test_pixels_are_kept(sandbox: Sandbox) -> None:
    clean = sandbox.clean(file(picture()))
    assert Image.open(io.BytesIO(clean.png)).tobytes() == picture().tobytes()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "an empty file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG"),
        (b"GIF89a" + b"\0" * 50, "a GIF"),
        (file(picture())[:-40], "truncated|damaged|broken"),
        (file(picture(), "JPEG")[:200], "truncated|damaged|broken"),
        (png_header(100_000, 100_000), "megapixels|pixels"),
        (png_header(4001, 4000), "4001 x 4000 pixels, expected at most 16 megapixels"),
        (animated("PNG"), "animation of 2 frames"),
        (animated("WEBP"), "animation of 2 frames"),
        (b"\0" * (MAX_BYTES + 1), "expected at most 20,971,520"),
    ],
    ids=["empty", "svg", "gif", "cut-png", "cut-jpeg", "huge", "16MP", "apng", "awebp", "20MB"],
)
def test_what_cannot_be_used_is_refused_in_words(sandbox: Sandbox, content: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says):
        sandbox.clean(content)


def test_a_mask_is_made_of_holes_or_of_its_own_greys(sandbox: Sandbox) -> None:
    image = picture("RGBA")
    alpha = np.full((7, 12), 255, np.uint8)
    alpha[:3] = 0
    image.putalpha(Image.fromarray(alpha))
    mask = np.asarray(Image.open(io.BytesIO(sandbox.clean(file(image), "mask").png)))
    assert (mask[:3] == 255).all() and (mask[3:] == 0).all()
    grey = picture("L")
    assert Image.open(io.BytesIO(sandbox.clean(file(grey), "mask").png)).tobytes() == grey.tobytes()


def test_a_process_that_dies_is_replaced(sandbox: Sandbox) -> None:
    sandbox.clean(file(picture()))
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # one that has ended, and waits to be collected
            if "kartina.data.sandbox" in " ".join(child.cmdline()):
                os.kill(child.pid, signal.SIGKILL)
                child.wait(10)
    assert sandbox.clean(file(picture())).width == 12


def test_memory_is_bounded(sandbox: Sandbox) -> None:
    """Sixteen megapixels fit; the process may take a gigabyte, and no more."""
    large = file(Image.new("RGB", (4000, 4000)), compress_level=1)
    assert sandbox.clean(large).width == 4000


def hostile(seed: int) -> bytes:
    """An image file with wounds."""
    rng = random.Random(seed)
    content = bytearray(_GOOD[seed % len(_GOOD)])
    for _ in range(rng.randrange(1, 12)):
        at = rng.randrange(len(content))
        match rng.randrange(4):
            case 0:
                content[at] ^= 1 << rng.randrange(8)
            case 1:
                content[at : at + rng.randrange(1, 64)] = rng.randbytes(rng.randrange(64))
            case 2:
                del content[at : at + rng.randrange(1, 200)]
            case _:
                content = content[:at] or bytearray(b"x")
        if not content:
            break
    return bytes(content)


_GOOD = [
    file(picture(m, (24, 24)), f)
    for m, f in (("RGB", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("RGB", "JPEG"), ("CMYK", "JPEG"), ("RGB", "WEBP"))
]


def wounds(sandbox: Sandbox, n: int) -> None:
    """n hostile files: an image or a DataError, nothing else; this process does not grow by 50 MB."""
    attempt: Callable[[int], bool] = lambda seed: tried(sandbox, hostile(seed))  # noqa: E731
    process = psutil.Process()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(attempt, range(50)))
        before = process.memory_info().rss
        used = sum(pool.map(attempt, range(n)))
        after = process.memory_info().rss
    print(f"\n{n} hostile files, {used} of use: this process grew by {(after - before) / 2**20:.1f} MiB")
    assert 0 < used < n
    assert after - before < 50 * 2**20


def tried(sandbox: Sandbox, content: bytes) -> bool:
    try:
        sandbox.clean(content)
    except DataError as error:
        assert "Could not" in str(error)
        return False
    return True


def test_five_hundred_hostile_files(sandbox: Sandbox) -> None:
    wounds(sandbox, 500)


@pytest.mark.slow
def test_ten_thousand_hostile_files(sandbox: Sandbox) -> None:
    wounds(sandbox, 10_000)
