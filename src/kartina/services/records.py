"""Generations as they lie on disk: KARTINA_HOME/generations/ID/{record.json, 000.png, 001.png, ...}.

A record is written whole or not at all, and is on the disk before its request is accepted. Ids sort by time. An image
that lies there is complete: after a restart only the missing ones are made, from the same seeds.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from kartina.config import Frozen, lines
from kartina.errors import ConflictError, IntegrityError, NotFoundError, disk_errors

Status = Literal["queued", "running", "succeeded", "failed", "canceling", "canceled"]
TERMINAL: frozenset[Status] = frozenset(("succeeded", "failed", "canceled"))
FORMAT = 1  # of record.json

_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: sorts as it counts
_ID = re.compile(r"gen_[0-9a-hjkmnp-tv-z]{26}\Z")
_IMAGE_ID = re.compile(r"(gen_[0-9a-hjkmnp-tv-z]{26})-([0-9]{3})\Z")


class Made(Frozen):
    """A finished image."""

    index: int
    label: str | None
    seed: int
    width: int
    height: int


class Failure(Frozen):
    code: str
    message: str


class Generation(Frozen):
    """A request for images, with nothing left open, and what has become of it."""

    format: int = FORMAT
    id: str
    model: str  # name@version
    model_hash: str
    task: str
    labels: tuple[str, ...]  # empty for an unconditional model
    n: int = Field(ge=1)
    seed: int = Field(ge=0)
    controls: dict[str, Any]
    width: int
    height: int
    status: Status = "queued"
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    attempt: int = 1  # raised when a restarted service takes it up again
    step: int = 0
    steps: int = 0
    outputs: tuple[Made, ...] = ()  # by index
    error: Failure | None = None

    @property
    def finished(self) -> bool:
        return self.status in TERMINAL

    @property
    def progress(self) -> float:
        """0..1."""
        if self.status == "succeeded":
            return 1.0
        return min(1.0, self.step / self.steps) if self.steps else 0.0

    @property
    def queue_ms(self) -> float | None:
        return _ms(self.created_at, self.started_at)

    @property
    def execution_ms(self) -> float | None:
        return _ms(self.started_at, self.completed_at)

    def made(self, index: int) -> Made:
        """What image `index` is: its seed is seed + index, its label labels[index mod len(labels)]."""
        label = self.labels[index % len(self.labels)] if self.labels else None
        return Made(index=index, label=label, seed=self.seed + index, width=self.width, height=self.height)

    def image_id(self, index: int) -> str:
        return f"{self.id}-{index:03d}"


def _ms(start: datetime | None, end: datetime | None) -> float | None:
    return None if start is None or end is None else round((end - start).total_seconds() * 1000, 3)


def now() -> datetime:
    return datetime.now(UTC)


@contextmanager
def only_process(root: Path) -> Iterator[None]:
    """Be the only process that makes this folder's generations. Raises ConflictError while another one is.

    The lock is the kernel's: it goes with the process, however that ends.
    """
    with disk_errors("open the folder of generations"):
        root.mkdir(parents=True, exist_ok=True)
        handle = os.open(root / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(
                f"Found another service at work on {root.parent}; use or stop that one, or set KARTINA_HOME to another "
                "folder."
            ) from None
        yield
    finally:
        os.close(handle)


class Records:
    """The folder of generations. Methods block on the disk; call them from a thread."""

    def __init__(self, root: Path):
        self.root = root
        self._last = 0
        self._lock = threading.Lock()

    def new_id(self) -> str:
        """An id greater than every id given before: 48 bits of milliseconds, 80 random bits."""
        with self._lock:
            fresh = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
            self._last = fresh if fresh > self._last else self._last + 1
            return "gen_" + "".join(_ALPHABET[self._last >> shift & 31] for shift in range(125, -1, -5))

    def ids(self) -> list[str]:
        """Every id, newest first."""
        if not self.root.is_dir():
            return []
        return sorted((name for name in os.listdir(self.root) if _ID.match(name)), reverse=True)

    def write(self, record: Generation) -> None:
        """Write the record, whole and durably. Raises StorageError, and then nothing has changed."""
        folder = self.root / record.id
        new = not folder.is_dir()
        try:
            with disk_errors("store the generation"):
                folder.mkdir(parents=True, exist_ok=True)
                _write(folder / "record.json", record.model_dump_json(indent=1).encode(), durable=True)
                if new:
                    _sync(self.root)
        except BaseException:
            if new:
                shutil.rmtree(folder, ignore_errors=True)
            raise

    def write_image(self, id: str, index: int, png: bytes) -> None:
        """Write image `index`. Raises StorageError, and then there is none."""
        with disk_errors("store an image"):
            _write(self.root / id / f"{index:03d}.png", png, durable=False)

    def sync_images(self, record: Generation) -> None:
        """Bring the images to the disk before a record says that they are there."""
        with disk_errors("store the images"):
            for out in record.outputs:
                _sync(self.root / record.id / f"{out.index:03d}.png")

    def read(self, id: str) -> Generation:
        """The record `id`. Raises NotFoundError, and IntegrityError for one that cannot be read."""
        if not _ID.match(id):
            raise NotFoundError(f"Found no generation {id!r}.")
        path = self.root / id / "record.json"
        try:
            text = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(f"Found no generation {id!r}.") from None
        try:
            found = Generation.model_validate_json(text)
        except ValidationError as error:
            raise IntegrityError(
                f"Found a record of the generation {id} that cannot be read ({lines(error)[0]}); delete the generation."
            ) from None
        if found.id != id or found.format > FORMAT:
            raise IntegrityError(
                f"Found a record of {found.id}, format {found.format}, in the place of {id}, format {FORMAT} or older; "
                f"delete the generation, or use a newer Kartina."
            )
        return found

    def images(self, record: Generation) -> tuple[Made, ...]:
        """The images of the record that lie whole on the disk, by index."""
        folder = self.root / record.id
        return tuple(record.made(i) for i in range(record.n) if _is_whole_png(folder / f"{i:03d}.png"))

    def image(self, image_id: str) -> Path:
        """The file of an image. Raises NotFoundError."""
        match = _IMAGE_ID.match(image_id)
        path = self.root / match[1] / f"{match[2]}.png" if match else None
        if path is None or not path.is_file():
            raise NotFoundError(f"Found no image {image_id!r}.")
        return path

    def delete(self, id: str) -> None:
        """Forget the generation and its images: at once for every reader, then its files. Raises NotFoundError."""
        folder = self.root / id
        if not _ID.match(id) or not folder.is_dir():
            raise NotFoundError(f"Found no generation {id!r}.")
        gone = self.root / f".deleted-{id}"
        with disk_errors("delete the generation"):
            folder.rename(gone)
            shutil.rmtree(gone)

    def sweep(self) -> None:
        """Remove what a killed process left: half-deleted folders, temporary files, folders without a record."""
        if not self.root.is_dir():
            return
        for folder in self.root.glob(".deleted-*"):
            shutil.rmtree(folder, ignore_errors=True)
        for left in self.root.glob("gen_*/.tmp-*"):
            left.unlink(missing_ok=True)
        for folder in self.root.glob("gen_*"):
            if _ID.match(folder.name) and not any(folder.iterdir()):
                folder.rmdir()

    def unfinished(self) -> Iterator[Generation | IntegrityError]:
        """Records that were accepted and not finished, oldest first; an IntegrityError for each unreadable one."""
        for id in reversed(self.ids()):
            try:
                record = self.read(id)
            except IntegrityError as error:
                yield error
            except NotFoundError:
                continue  # its folder came before its record: it was never accepted
            else:
                if not record.finished:
                    yield record


def _write(path: Path, data: bytes, *, durable: bool) -> None:
    """Write a file whole: under another name first, then renamed."""
    temporary = path.with_name(f".tmp-{secrets.token_hex(4)}-{path.name}")  # two writers never share one
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        _sync(path.parent)


def _is_whole_png(path: Path) -> bool:
    """Whether the file is there to its last chunk: after a power cut a name may be there without its content."""
    try:
        with open(path, "rb") as file:
            file.seek(-len(_PNG_END), os.SEEK_END)
            return file.read() == _PNG_END
    except OSError:
        return False


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
