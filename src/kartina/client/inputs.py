"""What callers give: options of a generation, images in any form, and where to save."""

from __future__ import annotations

import hashlib
import io
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, Union

from pydantic import JsonValue

from kartina.client.protocol import File
from kartina.client.schemas import Asset
from kartina.errors import ConfigError, DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = {".png": "png", ".webp": "webp"}

# A path, a file's bytes, a PIL image, or what was uploaded before.
Picture = Union[str, os.PathLike[str], bytes, "Image", Asset]
Pictures = Picture | Sequence[Picture]
Labels = str | Sequence[str] | None


class Options(TypedDict, total=False):
    """What every task takes."""

    n: int  # images in all; image i has the seed `seed + i` and the label `labels[i % len(labels)]`
    seed: int | None  # None: a new one is drawn
    controls: Mapping[str, JsonValue]  # over the defaults; the model's card has their schema
    format: Literal["png", "webp"]
    wait: bool  # come back when it is finished; what goes wrong is raised, and an interruption cancels it
    idempotency_key: str  # the same key and request again, within 24 h, is the same job; left out: one is made


class Filters(TypedDict, total=False):
    """Which stored images; each narrows what the others leave."""

    model: str | None  # name@version
    label: str | None
    favourite: bool  # only favourites
    since: datetime | None  # asked for then or later
    until: datetime | None  # asked for before then
    trash: bool  # what is in the trash, instead


class Reading(TypedDict, total=False):
    """How an archive is read."""

    class_names: Sequence[str]  # of idx and npz; of folders, their order
    group_by: str  # a regular expression: its first group, in an image's path, keeps to one split
    unlabelled: bool


class DatasetOptions(Reading, total=False):
    """How an archive becomes a data set."""

    size: int  # pixels a side
    fit: Literal["crop", "pad", "stretch"]
    channels: Literal["auto", "1", "3"]
    flip: Literal["auto", "on", "off"]
    skip_bad: bool  # leave out and record what cannot be used
    replace: bool
    seed: int  # of the splits that are made


class RunOptions(TypedDict, total=False):
    """How a preset is trained: `budget` or `images`, one of them."""

    budget: float  # active seconds
    images: int  # to be seen
    settings: Mapping[str, JsonValue]  # over the preset's
    start: str  # a model or run whose weights it starts from
    teacher: str  # a model or run that it learns from
    name: str  # comes after its number
    device: Literal["auto", "cpu", "cuda", "mps"]


class PublishOptions(TypedDict, total=False):
    """What a published model's card says, and what is kept."""

    licence: str
    about: str
    evaluate: bool
    seeds: int
    samples: int
    sweep: bool  # choose its default controls by numbers on val
    with_training: bool  # keep what only trains
    average: Sequence[str]  # runs whose weights are averaged with its own
    precision: Literal["fp16", "fp32"]


class EvaluationOptions(TypedDict, total=False):
    """What is measured."""

    data: str
    split: Literal["train", "val", "test"]
    seeds: int
    samples: int
    metrics: Sequence[str]
    extractor: Literal["domain", "inception"]


def new_key() -> str:
    """An idempotency key that nobody else has."""
    return secrets.token_hex(16)


def as_list(given: Pictures | None) -> list[Picture]:
    """One, several or no images as a list."""
    if given is None:
        return []
    if isinstance(given, Sequence) and not isinstance(given, str | bytes):
        return list(given)
    return [given]


def upload_of(given: Picture) -> File:
    """What is sent for an image. Raises OSError, DataError."""
    if isinstance(given, bytes):
        return File(given, "image")
    if isinstance(given, str | os.PathLike):
        path = Path(given)
        return File(path.read_bytes(), path.name)
    from PIL import Image

    if not isinstance(given, Image.Image):
        raise DataError(
            f"Found {type(given).__name__} as an image; expected a path, a file's bytes, a PIL image or an Asset."
        )
    return File(_png(given), "image.png")


def _png(image: Image) -> bytes:
    """A PIL image as a file: upright, as its path would be read. Raises DataError for a mode without a known range."""
    from PIL import ImageOps

    if image.mode == "F" or image.mode == "I":
        raise DataError(
            f"Found a PIL image of mode {image.mode}, whose range nobody knows; expected 8 bits (L, RGB) or 16 (I;16)."
        )
    upright, out = ImageOps.exif_transpose(image), io.BytesIO()
    plain = upright.mode in ("1", "L", "LA", "P", "RGB", "RGBA") or upright.mode.startswith("I;16")
    (upright if plain else upright.convert("RGBA" if upright.has_transparency_data else "RGB")).save(out, "PNG")
    return out.getvalue()


def file_of(given: str | os.PathLike[str] | bytes) -> File:
    """A file that is sent as it is, read from the disk while it is sent. Raises OSError."""
    if isinstance(given, bytes):
        return File(given)
    path = Path(given)
    path.stat()
    return File(path, path.name)


def sha256_of(path: Path) -> tuple[str, int]:
    """(the hash of a file, its size in bytes). Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()


def part_of(path: Path, offset: int, size: int) -> bytes:
    """So many bytes of a file, or what is left of it. Raises OSError."""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def wanted_format(path: Path) -> str | None:
    """The format that a file's name says; None for a folder. Raises ConfigError."""
    if path.is_dir():
        return None
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"Found the file name {path.name!r}; expected .png or .webp, or a folder that is there. "
            "For other formats: image.pil().save(...)."
        )
    return SUFFIXES[path.suffix.lower()]


def check_format(path: Path, headers: Mapping[str, str]) -> None:
    """Raises ConfigError where a file's name says another format than the answer."""
    found = headers.get("content-type", "").removeprefix("image/")
    if SUFFIXES[path.suffix.lower()] != found:
        raise ConfigError(
            f"Found the file name {path.name!r} for an image that is stored as {found}; name it .{found}."
        )


def attachment(headers: Mapping[str, str], otherwise: str) -> str:
    """The file name that the service proposes, as a plain name."""
    found = re.search(r'filename="([^"]+)"', headers.get("content-disposition", ""))
    return re.sub(r"[^\w.-]+", "-", found[1], flags=re.ASCII).lstrip(".-") or otherwise if found else otherwise


def write(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all."""
    part = partial(path)
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def partial(path: Path) -> Path:
    """Where a file is written before it is whole."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
