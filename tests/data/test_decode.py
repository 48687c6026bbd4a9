"""Every oddity of real files becomes the right uint8 picture, or a reason."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from kartina.data.decode import decode, fit_array, open_image
from kartina.errors import DataError
from tests.pictures import pixels


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def plain(colour: Any, mode: str = "RGB", size: int = 8) -> Image.Image:
    return Image.new(mode, (size, size), colour)


def colour_of(data: bytes, channels: int = 3) -> list[int]:
    found = decode(data, 8, channels=channels)
    assert found.dtype == np.uint8 and found.shape == (channels, 8, 8)
    return [int(v) for v in found[:, 4, 4]]


def test_grey_and_colour_convert_both_ways() -> None:
    assert colour_of(encode(plain(77, "L"))) == [77, 77, 77]
    assert colour_of(encode(plain((255, 0, 0))), channels=1) == [76]  # 0.299 * 255


def test_alpha_is_laid_on_white() -> None:
    assert colour_of(encode(plain((255, 0, 0, 0), "RGBA"))) == [255, 255, 255]
    assert colour_of(encode(plain((0, 0, 0, 128), "RGBA"))) == [127, 127, 127]
    assert colour_of(encode(plain((10, 0), "LA")), channels=1) == [255]
    assert colour_of(encode(plain((0, 100, 0, 0), "RGBA"), "WEBP", lossless=True)) == [255, 255, 255]


def test_palettes_with_and_without_transparency() -> None:
    image = plain((200, 100, 50)).quantize(4)
    assert colour_of(encode(image)) == [200, 100, 50]
    index = image.getpixel((4, 4))
    assert colour_of(encode(image, transparency=index)) == [255, 255, 255]
    assert colour_of(encode(plain((9, 9, 9)), transparency=(9, 9, 9))) == [255, 255, 255]  # tRNS of an RGB file


def test_sixteen_bits_are_scaled_not_cut() -> None:
    for value, expected in ((0, 0), (65535, 255), (32896, 128), (257 * 3, 3)):
        wide = Image.fromarray(np.full((8, 8), value, np.uint16))
        assert colour_of(encode(wide), channels=1) == [expected]


def test_one_bit() -> None:
    assert colour_of(encode(plain(1, "1")), channels=1) == [255]


def test_cmyk() -> None:
    red = colour_of(encode(plain((0, 255, 255, 0), "CMYK"), "JPEG", quality=100))
    assert red[0] > 240 and red[1] < 15 and red[2] < 15


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_image_upright(orientation: int) -> None:
    upright = Image.fromarray(pixels(3, (48, 32)))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # orientation -> Transpose that a camera held so has done
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = open_image(encode(stored, "JPEG", quality=98, exif=exif))
    assert found.size == found.info["file_size"] == (32, 48)
    assert np.abs(np.asarray(found).astype(int) - np.asarray(upright)).mean() < 4


def test_damaged_exif_counts_as_none() -> None:
    data = encode(plain((1, 200, 3)), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\xff")
    assert colour_of(data) == [1, 200, 3]


def test_crop_cuts_the_middle() -> None:
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, 16:32] = 200
    assert (fit_array(wide, 16) == 200).all()
    assert fit_array(wide, 8).mean() > 195  # Lanczos looks a little over the edge of the cut


def test_pad_never_enlarges_and_fills_with_the_median_of_the_border() -> None:
    digit = np.zeros((28, 28), np.uint8)
    digit[10:20, 10:20] = 9
    found = fit_array(digit, 32, "pad", 1)
    assert np.array_equal(found[0, 2:30, 2:30], digit) and found.sum() == digit.sum()
    tall = np.full((40, 20, 3), (10, 20, 30), np.uint8)
    tall[18:22, 9:11] = 250
    padded = fit_array(tall, 20, "pad")
    assert padded[:, 0, 0].tolist() == padded[:, 10, 19].tolist() == [10, 20, 30]


def test_stretch_ignores_the_aspect() -> None:
    ramp = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :], 16, axis=0)
    found = fit_array(ramp, 16, "stretch", 1)[0]
    assert found[0, 0] < 10 and found[0, -1] > 245


def test_a_line_of_pixels_is_not_scaled_up_whole() -> None:
    assert fit_array(np.full((1, 60_000), 5, np.uint8), 32, "crop", 1).shape == (1, 32, 32)
    assert fit_array(np.full((60_000, 1), 5, np.uint8), 32, "pad", 1).shape == (1, 32, 32)


def test_one_pixel() -> None:
    assert (decode(encode(plain((1, 2, 3), size=1)), 4)[:, 0, 0] == (1, 2, 3)).all()


def test_large_jpegs_are_decoded_at_a_fraction_and_look_the_same() -> None:
    big = Image.fromarray(pixels(5, 1024))
    data = encode(big, "JPEG", quality=95)
    whole: NDArray[np.uint8] = fit_array(np.asarray(Image.open(io.BytesIO(data))), 32)
    assert np.abs(decode(data, 32).astype(int) - whole).max() <= 3


def png(width: int, height: int) -> bytes:
    """A PNG header that promises width x height."""
    head = b"IHDR" + struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    chunks = head, b"IDAT" + zlib.compress(b"")
    body = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def frames() -> bytes:
    first, second = plain((0, 0, 0)), plain((255, 0, 0))
    return encode(first, "WEBP", save_all=True, append_images=[second], lossless=True)


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "an empty file"),
        (b"hello, I am text", "found text, expected a JPEG, PNG or WebP"),
        (b"\x00\x01\x02\xfe\xff" * 20, "data of an unknown kind"),
        (encode(plain((1, 2, 3)), "GIF"), "a GIF"),
        (encode(plain((1, 2, 3)), "BMP"), "a BMP"),
        (encode(plain((1, 2, 3)), "TIFF"), "a TIFF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG"),
        (encode(Image.fromarray(NOISE), "JPEG")[:-900], "truncated"),
        (encode(Image.fromarray(NOISE))[:-900], "truncated image"),
        (encode(Image.fromarray(NOISE), "WEBP")[:-300], "image|beginning"),
        (b"\xff\xd8\xff", "broken beginning of an image"),
        (png(9000, 8000), "9000 x 8000 pixels, expected at most 64 megapixels"),
        (png(10_000, 10_000), "10000 x 10000 pixels"),
        (png(200_000, 200_000), "at most 64 megapixels"),
        (frames(), "animation of 2 frames"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_reason(data: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=reason):
        decode(data, 8)
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(DataError, match=reason):
        decode(path, 8)


def test_a_damaged_png_is_refused() -> None:
    data = bytearray(encode(Image.fromarray(NOISE)))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(DataError, match=r"damaged|truncated"):
        decode(bytes(data), 8)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(DataError, match="no such file"):
            decode(path, 8)


def test_random_damage_never_does_worse_than_a_data_error() -> None:
    rng, exif = random.Random(0), Image.Exif()
    exif[0x0112] = 6
    noise = Image.fromarray(NOISE[:24, :20])
    whole = [encode(noise, kind, exif=exif) for kind in ("JPEG", "PNG", "WEBP")]
    whole += [encode(noise.convert("CMYK"), "JPEG"), encode(noise.convert("P")), encode(noise.convert("RGBA"))]
    for _ in range(2000):
        data = bytearray(rng.choice(whole))
        data = data[: rng.randrange(len(data))] if rng.random() < 0.2 else data
        for _ in range(min(len(data), rng.randint(1, 8))):
            data[rng.randrange(min(len(data), 200))] = rng.randrange(256)
        try:
            assert decode(bytes(data), 16).shape == (3, 16, 16)
        except DataError:
            continue
