"""A ZIP written entry by entry, that can be gone on with after a kill: memory does not grow with its entries.

    out = StoredZip(folder / "images.zip", folder / "list", mark)   # cut back to the mark of the last attempt
    out.add("cat/1.png", content)
    mark = out.mark()                                               # on the disk now: go on from here
    out.finish()                                                    # the list of entries, and the end

`zipfile` keeps some 700 bytes of memory for each entry, and can go on only with a whole ZIP. Entries are stored as they
are (images do not get smaller) and carry no time, so equal entries make equal bytes. Format: PKWARE APPNOTE 6.3, Zip64.
A ZIP that is sent while it is made (`kartina.services.zips`) has its list of entries from here, too.
"""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from kartina.data.archive import (
    CENTRAL,
    CENTRAL_SIGN,
    END64_SIGN,
    END_SIGN,
    LOCAL,
    LOCAL_SIGN,
    LOCATOR64_SIGN,
    UTF8,
)

_DATE = 0x21  # 1980-01-01, the first that a ZIP knows
_BIG = 0xFFFFFFFF
_FILE = 0o100644 << 16
_PART = 1 << 20


@dataclass(frozen=True)
class Mark:
    """How far a ZIP was when all of it was on the disk."""

    entries: int = 0
    size: int = 0  # bytes of the ZIP
    listed: int = 0  # bytes of its list of entries


class Listing:
    """The list of a ZIP's entries, kept in a file until the ZIP ends. It knows how far the ZIP is, and writes none of
    it: who does so writes `begin`, then the content, and `end` at last."""

    def __init__(self, file: IO[bytes], mark: Mark = Mark()):
        self.file = file
        self.entries, self.size, self.listed = mark.entries, mark.size, mark.listed

    def begin(self, name: str, size: int, crc: int, at: datetime | None = None) -> bytes:
        """The header of the next file, of `size` bytes (less than 4 GiB), which follow it. `at`: its time, from 1980
        on."""
        raw = name.encode()
        day = _DATE if at is None else (at.year - 1980) << 9 | at.month << 5 | at.day
        time = 0 if at is None else at.hour << 11 | at.minute << 5 | at.second // 2
        far = struct.pack("<2HQ", 1, 8, self.size) if self.size >= _BIG else b""
        needs, flags = 45 if far else 20, UTF8
        self.file.write(
            CENTRAL.pack(CENTRAL_SIGN, 0x0300 | needs, needs, flags, 0, time, day, crc, size, size, len(raw), len(far),
                         0, 0, 0, _FILE, min(self.size, _BIG))
            + raw
            + far
        )  # fmt: skip
        head = LOCAL.pack(LOCAL_SIGN, needs, flags, 0, time, day, crc, size, size, len(raw), 0) + raw
        self.listed += CENTRAL.size + len(raw) + len(far)
        self.size += len(head) + size
        self.entries += 1
        return head

    def end(self) -> Iterator[bytes]:
        """What a ZIP ends with: the list of entries, and where it is."""
        self.file.flush()
        self.file.seek(0)
        while part := self.file.read(_PART):
            yield part
        start, at = self.size, self.size + self.listed
        if self.entries >= 0xFFFF or at >= _BIG:
            yield (
                END64_SIGN
                + struct.pack("<Q2H2L4Q", 44, 45, 45, 0, 0, self.entries, self.entries, self.listed, start)
                + LOCATOR64_SIGN
                + struct.pack("<LQL", 0, at, 1)
            )
        few, small = min(self.entries, 0xFFFF), (min(self.listed, _BIG), min(start, _BIG))
        yield END_SIGN + struct.pack("<4H2LH", 0, 0, few, few, *small, 0)


class StoredZip:
    """A ZIP at `path` whose list of entries grows in the file `list`. Raises OSError."""

    def __init__(self, path: Path, list: Path, mark: Mark = Mark()):
        self.path, self.list = path, list
        self._zip = _at(path, mark.size)
        self._listing = Listing(_at(list, mark.listed), mark)

    @property
    def size(self) -> int:
        """Bytes of the ZIP so far."""
        return self._listing.size

    def add(self, name: str, content: bytes) -> None:
        """Append one file, of less than 4 GiB."""
        self._zip.write(self._listing.begin(name, len(content), zlib.crc32(content)))
        self._zip.write(content)

    def add_file(self, name: str, source: Path) -> None:
        """Append a file from the disk, of less than 4 GiB, a megabyte at a time."""
        crc = 0
        with source.open("rb") as file:
            while part := file.read(_PART):
                crc = zlib.crc32(part, crc)
            self._zip.write(self._listing.begin(name, file.tell(), crc))
            file.seek(0)
            shutil.copyfileobj(file, self._zip, _PART)

    def mark(self) -> Mark:
        """Bring all of it to the disk; where to go on."""
        for file in (self._zip, self._listing.file):
            file.flush()
            os.fsync(file.fileno())
        return Mark(self._listing.entries, self._listing.size, self._listing.listed)

    def finish(self) -> int:
        """Append the list of entries and the end, and close; says how many bytes the ZIP has."""
        self._zip.writelines(self._listing.end())
        self.mark()
        self.close()
        return self.path.stat().st_size

    def close(self) -> None:
        self._zip.close()
        self._listing.file.close()


def _at(path: Path, size: int) -> IO[Any]:
    """The file, made where there is none, cut to `size` bytes, to be written at its end."""
    file = path.open("r+b" if path.exists() else "w+b", buffering=_PART)
    if file.seek(0, 2) < size:
        file.close()
        raise FileNotFoundError(f"{path.name} has fewer bytes than were on the disk")
    file.truncate(size)
    file.seek(size)
    return file
