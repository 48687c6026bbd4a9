"""Image arrays in files: idx (MNIST's format, plain or gzipped) and npy inside npz, read row by row.

Nothing is loaded whole: an array is a header, checked against the size of its file, and a stream of rows.
"""

from __future__ import annotations

import gzip
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from kartina.errors import DataError

_GZIP = b"\x1f\x8b"
_DEFLATE = 1100  # deflate packs at most 1032 to 1: a header that promises more lies
_IDX = {0x08: "uint8", 0x09: "int8", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


@dataclass(frozen=True)
class ArrayFile:
    """One array in a file: where, of which dtype and shape. `member` names it inside an npz; `skip` is its header."""

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    skip: int
    member: str | None = None

    @property
    def title(self) -> str:
        return self.path.name if self.member is None else f"{self.path.name}:{self.member}"

    @property
    def file_name(self) -> str:
        """Of the file, or of the member of a ZIP, without its folders."""
        return self.path.name if self.member is None else self.member.rpartition("/")[2]

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, at_once: int) -> Iterator[NDArray[Any]]:
        """The array in pieces of at most `at_once` rows. Raises DataError where the file ends early."""
        size = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        with _opened(self.path, self.member) as file:
            _exactly(file, self.skip, self)
            for start in range(0, len(self), at_once):
                n = min(at_once, len(self) - start)
                raw = _exactly(file, n * size, self)
                yield np.frombuffer(raw, self.dtype).reshape(n, *self.shape[1:])

    def whole(self) -> NDArray[Any]:
        """All of it, for labels."""
        return np.concatenate([*self.rows(1 << 20), np.empty((0, *self.shape[1:]), self.dtype)])


def is_idx(path: Path, member: str | None = None) -> bool:
    """Whether a file (or one in a ZIP) starts as idx does, gzipped or not."""
    try:
        with _opened(path, member) as file:
            head = file.read(4)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile):
        return False
    return len(head) == 4 and head[:2] == b"\0\0" and head[2] in _IDX and 1 <= head[3] <= 4


def read_idx(path: Path, member: str | None = None) -> ArrayFile:
    """The header of an idx file, or of one in a ZIP. Raises DataError when it is none, or promises more than the file
    holds."""
    title = path.name if member is None else member
    try:
        with _opened(path, member) as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _IDX or not 1 <= head[3] <= 4:
                raise DataError(
                    f"Found {title}, which does not start like an idx file; expected the bytes 0, 0, type, "
                    f"dimensions (such as train-images-idx3-ubyte.gz of MNIST)."
                )
            dims = file.read(4 * head[3])
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"Found {title}, which cannot be read ({error}); expected an idx file.") from None
    if len(dims) < 4 * head[3]:
        raise DataError(f"Found {title} to end inside its header; expected an idx file. Download it again.")
    shape = struct.unpack(f">{head[3]}I", dims)
    found = ArrayFile(path, np.dtype(_IDX[head[2]]), shape, 4 + len(dims), member)
    need = found.skip + int(np.prod([int(s) for s in shape], dtype=object)) * found.dtype.itemsize
    have, gzipped = _packed(path, member)
    if need > have * (_DEFLATE if gzipped else 1):
        raise DataError(
            f"Found {title} of {have:,} bytes; expected {need:,} for its {' x '.join(map(str, shape))} values. "
            f"It is truncated: download it again."
        )
    return found


def read_npz(path: Path) -> dict[str, ArrayFile]:
    """The arrays of an npz by name. Objects (which would need pickle) and Fortran order are refused with DataError."""
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.filename.endswith(".npy"):
                    continue
                with archive.open(info) as file:
                    found[info.filename[:-4]] = _npy(path, info, file)
    except (zipfile.BadZipFile, OSError, EOFError, zlib.error, NotImplementedError, RuntimeError) as error:
        raise DataError(
            f"Found {path.name}, which cannot be read as npz ({error}); expected a file of numpy.savez."
        ) from None
    return found


def _npy(path: Path, info: zipfile.ZipInfo, file: IO[bytes]) -> ArrayFile:
    name = f"{path.name}:{info.filename}"
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except (ValueError, TypeError, SyntaxError, RecursionError, tokenize.TokenError) as error:
        raise DataError(f"Found {name} with a header that cannot be read ({error}); expected a numpy array.") from None
    if dtype.hasobject:
        raise DataError(f"Found Python objects in {name}; expected numbers. Objects need pickle, which is never read.")
    if fortran and len(shape) > 1:
        raise DataError(f"Found {name} in Fortran order; expected C order. Save numpy.ascontiguousarray of it.")
    skip = file.tell()
    need = int(np.prod([int(s) for s in shape], dtype=object)) * dtype.itemsize
    if need != info.file_size - skip or min(shape, default=0) < 0:
        raise DataError(f"Found {info.file_size - skip:,} bytes in {name}; expected {need:,} for its shape {shape}.")
    return ArrayFile(path, dtype, shape, skip, info.filename)


def _packed(path: Path, member: str | None) -> tuple[int, bool]:
    """(bytes of a file or of a member of a ZIP, whether that is gzipped)."""
    with _plain(path, member) as file:
        gzipped = file.read(2) == _GZIP
        return file.seek(0, 2), gzipped


@contextmanager
def _opened(path: Path, member: str | None) -> Iterator[IO[bytes]]:
    """The bytes of a file, or of a member of a ZIP (such as an npz), without gzip's wrapping."""
    with _plain(path, member) as file:
        gzipped = file.read(2) == _GZIP
        file.seek(0)
        if gzipped:
            with gzip.open(file) as unzipped:
                yield unzipped  # type: ignore[misc]
        else:
            yield file


@contextmanager
def _plain(path: Path, member: str | None) -> Iterator[IO[bytes]]:
    """The bytes of a file, or of a member of a ZIP."""
    if member is None:
        with path.open("rb") as file:
            yield file
    else:
        with zipfile.ZipFile(path) as archive, archive.open(member) as inside:
            yield inside


def _exactly(file: IO[bytes], n: int, what: ArrayFile) -> bytes:
    try:
        raw = file.read(n)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"Found {what.title} damaged or truncated ({error}); download it again.") from None
    if len(raw) < n:
        raise DataError(f"Found {what.title} to end early; expected {len(what):,} rows. Download it again.")
    return raw
