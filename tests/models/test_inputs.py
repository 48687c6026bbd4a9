"""Images given to a model: every kind comes in as an import would read it; nothing unsafe comes in."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kartina.data.decode import FITS, decode
from kartina.errors import ConfigError, DataError
from kartina.models.inputs import Given, read_images, read_masks
from tests.pictures import pixels, save


def one(given: object, size: int = 16, channels: int = 3, **more: str) -> Given:
    (found,) = read_images(given, (size, size), channels, **more)  # type: ignore[arg-type]
    return found


def test_every_kind_of_source_gives_the_same_pixels(tmp_path: Path) -> None:
    path = save(tmp_path / "a photo.png", 3)
    array = pixels(3)
    wanted = array.transpose(2, 0, 1)
    for source in (path, str(path), path.read_bytes(), Image.open(path), array, wanted.copy()):
        found = one(source)
        assert (found.pixels == wanted).all() and found.pixels.dtype == np.uint8 and found.note == ""
    assert one(path).name == "a photo" and one(array).name == ""
    assert one(path).sha256 == one(array).sha256 != one(pixels(4)).sha256


def test_several_at_once(tmp_path: Path) -> None:
    for name in ("10.png", "9.jpg", "x.PNG"):
        save(tmp_path / name, 1)
    (tmp_path / "notes.txt").write_text("not an image by its name: left alone")
    (tmp_path / ".hidden.png").write_text("junk")
    (tmp_path / "inner").mkdir()
    assert [g.name for g in read_images(tmp_path, (16, 16), 3)] == ["9", "10", "x"]
    stack = np.stack([pixels(k) for k in range(4)])
    found = read_images([tmp_path / "10.png", Image.fromarray(stack[0]), stack], (16, 16), 3)
    assert len(found) == 6 and (found[5].pixels == stack[3].transpose(2, 0, 1)).all()


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_it_is_fitted_as_an_import_fits(tmp_path: Path, fit: str, channels: int, kind: str) -> None:
    path = save(tmp_path / f"a.{kind}", 5, (90, 130))
    found = one(path, 16, channels, fit=fit)
    assert (found.pixels == decode(path, 16, fit, channels)).all()
    done = {
        "crop": "130x90 cut to its middle 90x90 and scaled to 16x16",
        "pad": "130x90 scaled to 16x11 and padded to 16x16",
        "stretch": "130x90 stretched to 16x16",
    }[fit]
    assert found.note == done + (", made grey" if channels == 1 else "")


def test_notes_say_only_what_was_done(tmp_path: Path) -> None:
    assert one(pixels(1, 32), 16).note == "32x32 scaled to 16x16"
    assert one(pixels(1, 8), 16, fit="pad").note == "8x8 padded to 16x16"
    assert one(pixels(1, 16), 16, 1).note == "16x16 made grey"
    assert one(pixels(1, 16, 1), 16, 3).note == "" and one(pixels(1, 16, 1), 16, 3).pixels.shape == (3, 16, 16)


def test_orientation_alpha_and_depth_of_pil_images() -> None:
    array = pixels(2, (16, 24))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG", exif=exif)
    turned = one(Image.open(out), 16, fit="stretch")
    upright = one(np.rot90(array, -1), 16, fit="stretch")
    assert (turned.pixels == upright.pixels).all() and turned.note == "16x24 stretched to 16x16"
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    assert (one(clear).pixels == 255).all(), "what is transparent lies on white"
    deep = Image.fromarray(np.full((16, 16), 65535 // 2, np.uint16))
    assert abs(int(one(deep).pixels[0, 0, 0]) - 127) <= 1
    still = Image.fromarray(array)
    one(still)
    assert still.getpixel((0, 0)) == tuple(array[0, 0]), "left open and as it was"
    photo = Image.open(save_jpeg := io.BytesIO(jpeg(640)))
    one(photo)
    assert photo.size == (640, 640) and save_jpeg.closed is False, "not decoded at a fraction"
    for mode in ("F", "I"):
        with pytest.raises(DataError, match=f"a PIL image of mode {mode}, whose range nobody knows"):
            one(Image.new(mode, (16, 16)))


def jpeg(side: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side), "teal").save(out, "JPEG")
    return out.getvalue()


def test_a_mask_with_a_transparent_part_is_made_of_it(tmp_path: Path) -> None:
    """By file, bytes, PIL and array, turned as its image is."""
    rgba = np.full((16, 16, 4), 255, np.uint8)
    rgba[:4, :, 3] = 0
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rgba).save(tmp_path / "up.png")
    Image.fromarray(np.ascontiguousarray(np.rot90(rgba))).save(tmp_path / "turned.png", exif=exif)
    up, turned = tmp_path / "up.png", tmp_path / "turned.png"
    image = read_images(np.zeros((16, 16), np.uint8), (16, 16), 3)
    for mask in (up, up.read_bytes(), Image.open(up), rgba, turned):
        (found,) = read_masks(mask, image, (16, 16))
        assert (found.pixels[0, :4] == 255).all() and (found.pixels[0, 4:] == 0).all()
    (found,) = read_masks(rgba[..., :3], image, (16, 16))
    assert (found.pixels == 255).all()


def test_a_mask_lies_where_it_was_drawn_or_is_refused() -> None:
    small, large = np.zeros((4, 8), np.uint8), np.zeros((64, 128), np.uint8)
    assert read_masks(large, read_images(small, (32, 32), 1), (32, 32))
    assert read_masks(large, read_images(small, (32, 32), 1, "stretch"), (32, 32), "stretch")
    assert read_masks(large, read_images(np.zeros((16, 32), np.uint8), (32, 32), 1, "pad"), (32, 32), "pad")
    with pytest.raises(DataError, match="mask of 128x64 pixels for an image of 8x4, and fit=pad, which enlarges"):
        read_masks(large, read_images(small, (32, 32), 1, "pad"), (32, 32), "pad")


def bomb(side: int = 50_000) -> bytes:
    """A PNG header that promises 2.5 gigapixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def animation() -> bytes:
    out = io.BytesIO()
    frames = [Image.fromarray(pixels(k)) for k in range(2)]
    frames[0].save(out, "PNG", save_all=True, append_images=frames[1:])
    return out.getvalue()


def whole() -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels(1, 64)).save(out, "PNG")
    return out.getvalue()


BAD = {
    "empty.png": (b"", "an empty file"),
    "text.png": (b"hello, this is no image at all\n" * 20, "found text"),
    "page.jpg": (b"<!DOCTYPE html><html></html>", "a web page"),
    "cut.png": (whole()[:-400], "truncated"),
    "noise.webp": (bytes(range(256)) * 8, "data of an unknown kind"),
    "bomb.png": (bomb(), "at most 64 megapixels"),
    "moving.png": (animation(), "animation of 2 frames"),
    "old.png": (b"GIF89a" + bytes(64), "a GIF"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_words(tmp_path: Path, name: str) -> None:
    content, says = BAD[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"Could not use the image {name}: .*{says}"):
        one(path)
    with pytest.raises(DataError, match=says):
        one(content)


def test_bad_paths_and_arrays_are_refused_in_words(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "none").mkdir()
    flat = pixels(1, 16, 1)
    for given, says in (
        (tmp_path / "missing.png", "no such file"),
        (tmp_path / "pipe.png", "not a file"),
        (tmp_path / ("x" * 5000), "found"),
        (tmp_path / "none", "no JPEG, PNG or WebP image in the folder"),
        (pixels(1).astype(np.float32), r"an array of float32 \(16, 16, 3\)"),
        (np.zeros((16, 16, 2), np.uint8), r"uint8 \(16, 16, 2\)"),
        (np.zeros((0, 16, 3), np.uint8), r"uint8 \(0, 16, 3\)"),
        (np.zeros((2, 2, 2, 2, 2), np.uint8), "an array of uint8"),
        (flat[0], "an array of uint8"),
    ):
        with pytest.raises(DataError, match=says):
            one(given)
    with pytest.raises(ConfigError, match="empty list of images"):
        read_images([], (16, 16), 3)
    with pytest.raises(ConfigError, match="expected one of crop, pad, stretch"):
        one(flat, fit="squeeze")


def test_all_bad_files_of_a_folder_are_named(tmp_path: Path) -> None:
    save(tmp_path / "fine.png", 1)
    for name, (content, _) in BAD.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{len(BAD)} of {len(BAD) + 1} images that cannot be used") as found:
        read_images(tmp_path, (16, 16), 3)
    assert sorted(d.split(":")[0] for d in found.value.details) == sorted(BAD)


def test_a_model_that_is_not_square_takes_only_its_own_size() -> None:
    (found,) = read_images(pixels(1, (16, 24)), (16, 24), 3)
    assert found.pixels.shape == (3, 16, 24)
    with pytest.raises(DataError, match="found 16x16 pixels, expected exactly 24x16"):
        read_images(pixels(1), (16, 24), 3)
