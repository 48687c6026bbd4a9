"""Arrays kept between evaluations: features of real images, and what is computed from them once.

    KARTINA_HOME/cache/statistics/<hash of the key>/
        key.json       data hash, split, count, seed, extractor hash, resizer, protocol
        <name>.npy     features, factor, radii, distances

What decides an array is in its key, so an entry is never stale; the folder may be deleted at any time. A file that
cannot be read is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kartina.config import home
from kartina.errors import disk_errors

Array = NDArray[np.float64]


class Shelf:
    """The arrays of one key."""

    def __init__(self, **key: Any):
        self.key = key
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        self.folder = home() / "cache" / "statistics" / digest[:32]

    def array(self, name: str, make: Callable[[], Array]) -> Array:
        """The float64 array `name`, memory-mapped; made and kept when it is not there. StorageError on a full disk."""
        path = self.folder / f"{name}.npy"
        found = _read(path)
        if found is not None:
            return found
        made = np.asarray(make(), np.float64)
        with disk_errors("keep statistics of real images"):
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(self.folder / "key.json", lambda file: file.write(json.dumps(self.key, indent=1).encode()))
            _write(path, lambda file: np.save(file, made, allow_pickle=False))
        return made


def _read(path: Path) -> Array | None:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        return None
    return found if found.dtype == np.float64 else None


def _write(path: Path, save: Callable[[Any], object]) -> None:
    """Written beside its place and renamed: a reader sees all of it or nothing."""
    handle, temporary = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            save(file)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
