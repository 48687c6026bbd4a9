"""Folders that can be made, and files that are on the disk before anybody is told so."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def make_folder(path: Path) -> None:
    """Make a folder with all above it, if it is not there. Raises OSError; a file system that has no place for it (such
    as /proc, which says "not found") is a PermissionError, so that `disk_errors` has words for it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
        raise PermissionError(errno.EACCES, "no folder can be made", error.filename) from None


def sync(path: str | Path) -> None:
    """Bring a file, or a folder's own entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
