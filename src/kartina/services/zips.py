"""ZIPs that are made while they are sent: one file in memory at a time, and no list of them, however many there are."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from kartina.data.storedzip import Listing

if TYPE_CHECKING:
    from typing_extensions import Buffer

_PART = 1 << 20  # bytes of a file read at a time


@dataclass(frozen=True)
class Entry:
    """A file of a ZIP."""

    name: str
    blob: str
    at: datetime


class _Sink(io.RawIOBase):
    """A file that cannot seek: what is written waits to be taken."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer, /) -> int:
        self.parts.append(bytes(data))
        return len(self.parts[-1])

    def take(self) -> bytes:
        taken, self.parts = b"".join(self.parts), []
        return taken


def stream(entries: Iterable[Entry], read: Callable[[str], bytes]) -> Iterator[bytes]:
    """The bytes of a ZIP of these files, stored as they are (images do not get smaller); `read` fetches a blob."""
    with TemporaryFile() as file:
        listing = Listing(file)
        for entry in entries:
            content = read(entry.blob)
            yield listing.begin(entry.name, len(content), zlib.crc32(content), entry.at) + content
        yield from listing.end()


def stream_files(root: Path, names: Iterable[str]) -> Iterator[bytes]:
    """The bytes of a ZIP of files below `root`, a megabyte of one in memory at a time."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            with (root / name).open("rb") as source, archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as out:
                while part := source.read(_PART):
                    out.write(part)
                    yield sink.take()
    yield sink.take()
