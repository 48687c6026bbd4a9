"""Names of files inside what is imported: kept lean, and read for splits, classes and junk."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
FOREIGN = frozenset({".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".svg", ".ico", ".jp2", ".psd"})

_SPLITS: dict[str, Split] = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_JUNK = frozenset({"__macosx", "thumbs.db", "desktop.ini", "ehthumbs.db"})


_SORTED = 256 << 20  # bytes; names are sorted as fixed-length texts, which are smaller, up to here


class PathList:
    """A list of texts in one block of memory: some 8 bytes each beyond their letters, where a list takes 70."""

    def __init__(self, texts: Iterable[str] = ()):
        self._bytes = bytearray()
        self._ends = array("Q", [0])
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        self._bytes += text.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, i: int) -> str:
        return self._bytes[self._ends[i] : self._ends[i + 1]].decode("utf-8", "surrogateescape")

    def raw(self, i: int) -> bytes:
        """The text's bytes, which sort as `order` does."""
        return bytes(self._bytes[self._ends[i] : self._ends[i + 1]])

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def order(self) -> NDArray[np.int64]:
        """Positions in sorted order of their texts, folder by folder."""
        longest = int(np.diff(np.frombuffer(self._ends, np.uint64)).max(initial=1))
        keys = np.empty(len(self), f"S{longest}" if longest * len(self) < _SORTED else object)
        for i in range(len(self)):
            keys[i] = self.raw(i)
        return np.asarray(np.argsort(keys, kind="stable"), np.int64)


def split_of(name: str) -> Split | None:
    """The split that a folder's or a column's name stands for: `Validation` -> val; None for other names."""
    return _SPLITS.get(name.strip().casefold())


def is_junk(path: str) -> bool:
    """Whether a file manager left this: dotfiles, __MACOSX, Thumbs.db."""
    return any(part.startswith(".") or part.casefold() in _JUNK for part in path.split("/"))


def suffix(path: str) -> str:
    return PurePosixPath(path).suffix.casefold()


def natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key that puts 2 before 10."""
    parts = ((t.lstrip("0"), t) for t in re.split(r"(\d+)", text) if t)
    return [(0, len(digits), digits) if t.isdecimal() else (1, 0, t) for digits, t in parts]
