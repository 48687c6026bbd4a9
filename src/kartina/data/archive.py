"""Archive: a ZIP's list of entries, checked before anything is unpacked, and its entries one by one.

Written here rather than taken from `zipfile` for two reasons: the list of a million entries takes some 60 bytes each
instead of 700, and worker processes read entries by their place in the file without parsing that list again. Nothing is
ever extracted to disk. Format: PKWARE APPNOTE 6.3, stored and deflated entries, Zip64.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kartina.data.paths import PathList, is_junk
from kartina.errors import DataError

MAX_ENTRIES = 1_100_000  # a million images, and what may lie beside them
MAX_RATIO = 100  # unpacked to packed, for each entry and for the whole
MAX_ENTRY = 512 * 1024 * 1024  # bytes of one unpacked entry
_SLACK = 64 * 1024  # small entries may pack better than MAX_RATIO without being a bomb

END_SIGN, END64_SIGN, LOCATOR64_SIGN = b"PK\5\6", b"PK\6\6", b"PK\6\7"
CENTRAL_SIGN, LOCAL_SIGN = b"PK\1\2", b"PK\3\4"
CENTRAL, LOCAL = struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s5H3L2H")
_STORED, _DEFLATED = 0, 8
_ENCRYPTED, UTF8 = 0x1, 0x800


@dataclass(frozen=True)
class Entry:
    """Where one file stands in the ZIP."""

    name: str
    offset: int
    packed: int
    size: int
    method: int
    crc: int


class Archive:
    """The files of a ZIP, without folders and junk, in the archive's order.

    Raises DataError for what is no ZIP, is encrypted or damaged, holds links, absolute names or `..`, or unpacks to
    more than `max_ratio` times its size, `max_entries` entries or `max_entry` bytes of one of them.
    """

    def __init__(
        self,
        path: Path,
        max_entries: int = MAX_ENTRIES,
        max_ratio: float = MAX_RATIO,
        max_entry: int = MAX_ENTRY,
    ):
        self.path = path
        self.max_entry = max_entry
        self.names = PathList()
        self.folders: set[str] = set()  # empty ones as well, where the archive lists them
        self._columns = {
            k: array(t) for k, t in zip(("offset", "packed", "size", "crc", "method"), "QQQIB", strict=True)
        }
        with path.open("rb") as file:
            count, start, base = _directory(file, path)
            if count > max_entries:
                raise DataError(f"Found {count:,} entries in {path.name}; expected at most {max_entries:,}.")
            file.seek(start)
            self._read(file, count, base, max_ratio)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> Entry:
        return Entry(self.names[i], **{k: int(column[i]) for k, column in self._columns.items()})

    def _read(self, file: IO[bytes], count: int, base: int, max_ratio: float) -> None:
        packed_all = size_all = 0
        length = self.path.stat().st_size
        for _ in range(count):
            raw = file.read(CENTRAL.size)
            if len(raw) < CENTRAL.size or raw[:4] != CENTRAL_SIGN:
                raise _damaged(self.path, "its list of entries ends early")
            (_, _, _, flags, method, _, _, crc, packed, size, n_name, n_extra, n_note, _, _, attributes, offset) = (
                CENTRAL.unpack(raw)
            )
            name_bytes = file.read(n_name)
            extra = file.read(n_extra)
            file.seek(n_note, 1)
            if 0xFFFFFFFF in (packed, size, offset):
                size, packed, offset = _zip64(extra, size, packed, offset)
            if base + offset > length:
                raise _damaged(self.path, "an entry begins after its end")
            name = _safe_name(name_bytes, bool(flags & UTF8), self.path)
            if (attributes >> 16) & 0o170000 == 0o120000:
                raise DataError(
                    f"Found the link {name!r} in {self.path.name}; expected files only. Pack the files themselves."
                )
            if name.endswith("/"):
                if not is_junk(name.rstrip("/")):
                    self.folders.add(name.rstrip("/"))
                continue
            if flags & _ENCRYPTED:
                raise DataError(f"Found {self.path.name} encrypted ({name!r}); expected a ZIP without a password.")
            if size > max_ratio * packed + _SLACK or size > self.max_entry:
                raise self._bomb(f"{name!r}, which unpacks from {packed:,} to {size:,} bytes", max_ratio)
            packed_all, size_all = packed_all + packed, size_all + size
            if is_junk(name):
                continue
            self.names.append(name)
            for key, value in (("offset", base + offset), ("packed", packed), ("size", size), ("crc", crc)):
                self._columns[key].append(value)
            self._columns["method"].append(min(method, 255))
        if size_all > max_ratio * max(packed_all, 1) + _SLACK or packed_all > length:
            raise self._bomb(f"{size_all:,} bytes in a file of {length:,}", max_ratio)

    def _bomb(self, what: str, max_ratio: float) -> DataError:
        return DataError(
            f"Found in {self.path.name} {what}; expected at most {max_ratio:g} times the packed size and "
            f"{self.max_entry // 1024**2} MiB a file. It looks like a ZIP bomb; nothing was unpacked."
        )


def read_entry(file: IO[bytes], entry: Entry) -> bytes:
    """The bytes of one entry, checked against its size and CRC. Raises DataError with the reason."""
    file.seek(entry.offset)
    raw = file.read(LOCAL.size)
    if len(raw) < LOCAL.size or raw[:4] != LOCAL_SIGN:
        raise DataError("found a damaged entry, expected the ZIP to hold the file where it says")
    n_name, n_extra = LOCAL.unpack(raw)[-2:]
    file.seek(n_name + n_extra, 1)
    packed = file.read(entry.packed)
    if entry.method == _STORED:
        data = packed
    elif entry.method == _DEFLATED:
        try:
            data = zlib.decompressobj(-15).decompress(packed, entry.size + 1)
        except zlib.error as error:
            raise DataError(f"found a damaged entry ({error}), expected deflated data") from None
    else:
        raise DataError(f"found compression method {entry.method}, expected stored or deflated: pack it again")
    if len(data) != entry.size or zlib.crc32(data) != entry.crc:
        raise DataError("found a damaged entry, expected the size and checksum that the ZIP lists")
    return data


def _directory(file: IO[bytes], path: Path) -> tuple[int, int, int]:
    """(number of entries, where their list starts, what to add to offsets) from the end of the file."""
    length = file.seek(0, 2)
    tail_at = max(0, length - 65557)
    file.seek(tail_at)
    tail = file.read()
    at = tail.rfind(END_SIGN)
    if at < 0 or len(tail) - at < 22:
        raise DataError(
            f"Found {path.name}, which is no ZIP or is cut off (no list of entries at its end); expected a whole ZIP. "
            f"Copy or download it again."
        )
    count, size, start = struct.unpack_from("<H2L", tail, at + 10)
    end = tail_at + at
    if 0xFFFF in (count,) or 0xFFFFFFFF in (size, start):
        if tail[at - 20 : at - 16] != LOCATOR64_SIGN:
            if count == 0xFFFF and 0xFFFFFFFF not in (size, start):  # exactly 65,535 entries, no Zip64
                return count, end - size, end - size - start
            raise _damaged(path, "its Zip64 record is missing")
        where = struct.unpack_from("<Q", tail, at - 12)[0]
        file.seek(min(where, length))
        record = file.read(56)
        if len(record) < 56 or record[:4] != END64_SIGN:
            raise _damaged(path, "its Zip64 record is not where it should be")
        count, size, start = struct.unpack_from("<3Q", record, 32)
        end = where
    base = end - size - start  # above 0 where something was put before the ZIP
    if base < 0 or size < count * CENTRAL.size:
        raise _damaged(path, "its list of entries does not fit")
    return count, end - size, base


def _zip64(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Replace the values that did not fit in 32 bits by those of the Zip64 extra field."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            values = iter(struct.unpack_from(f"<{min(length, len(extra) - at - 4) // 8}Q", extra, at + 4))
            return tuple(next(values, v) if v == 0xFFFFFFFF else v for v in (size, packed, offset))  # type: ignore[return-value]
        at += 4 + length
    return size, packed, offset


def _safe_name(raw: bytes, utf8: bool, path: Path) -> str:
    """The name with forward slashes; DataError for one that leaves the archive."""
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        name = raw.decode("utf-8", "replace") if utf8 else raw.decode("cp437")
    name = name.replace("\\", "/")
    parts = name.split("/")
    if not name or name.startswith("/") or ".." in parts or "\0" in name or (len(parts[0]) == 2 and parts[0][1] == ":"):
        raise DataError(
            f"Found the name {name!r} in {path.name}; expected names inside the archive, not absolute and "
            f"without '..'. Pack the folder again; nothing was unpacked."
        )
    return name[2:] if name.startswith("./") else name


def _damaged(path: Path, why: str) -> DataError:
    return DataError(f"Found {path.name} damaged: {why}; expected a whole ZIP. Copy or download it again.")
