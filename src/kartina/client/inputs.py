"""What callers give: options of a generation, images in any form, and where to save."""

from __future__ import annotations

import io
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, Union

from pydantic import JsonValue

from kartina.client.protocol import Upload
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


def upload_of(given: Picture) -> Upload:
    """What is sent for an image. Raises OSError, DataError."""
    if isinstance(given, bytes):
        return Upload(given, "image")
    if isinstance(given, str | os.PathLike):
        path = Path(given)
        return Upload(path.read_bytes(), path.name)
    from PIL import Image

    if not isinstance(given, Image.Image):
        raise DataError(
            f"Found {type(given).__name__} as an image; expected a path, a file's bytes, a PIL image or an Asset."
        )
    out = io.BytesIO()
    given.save(out, "PNG")
    return Upload(out.getvalue(), "image.png")


def file_of(given: str | os.PathLike[str] | bytes) -> Upload:
    """A file that is sent as it is, read from the disk while it is sent. Raises OSError."""
    if isinstance(given, bytes):
        return Upload(given)
    path = Path(given)
    path.stat()
    return Upload(path, path.name)


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
