"""What the engine keeps on the disk of models: measurements, and networks for other runtimes. Torch-free.

    KARTINA_HOME/cache/engine/
        HASH-DEVICE.json          how the model is best evaluated on a device (see `tuning`)
        HASH-onnx1-torchVERSION/  its networks as ONNX (see `export`)

All of it can be made again, within a minute a model. It goes with its model; what was not used for AGE goes, too, and
so do the least recently used ones beyond SIZE.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path

import structlog

from kartina.config import home

log = structlog.get_logger("kartina.serving.kept")

FORMAT = 1  # of exported folders
AGE = 30 * 24 * 3600.0  # seconds that something unused is kept
SIZE = 4 * 2**30  # bytes of all that is kept
PART = 3600.0  # seconds after which a file that was never finished goes


def folder() -> Path:
    return home() / "cache" / "engine"


def record(hash: str, device: str) -> Path:
    """Where a model's measurements on a device are."""
    return folder() / f"{hash}-{device.replace(':', '-')}.json"


def exported(hash: str, torch: str) -> Path:
    """Where a model's networks are as ONNX, as this version of torch writes them."""
    return folder() / f"{hash}-onnx{FORMAT}-torch{torch}"


def used(path: Path) -> None:
    """Note that it was of use now."""
    with contextlib.suppress(OSError):  # a folder that cannot be written is not pruned either
        os.utime(path)


def forget(hash: str) -> None:
    """Remove all that is kept of a model."""
    for path in folder().glob(f"{hash}-*"):
        _remove(path)


def prune(age: float = AGE, size: int = SIZE) -> list[str]:
    """Remove what was not used for `age` seconds, and the least recently used beyond `size` bytes; returns what went.

    The last one used stays, however large.
    """
    now, gone, total = time.time(), list[str](), 0
    found = sorted(((_used_at(path), path) for path in folder().glob("*")), reverse=True)
    for i, (at, path) in enumerate(found):
        total += _bytes(path)
        old = now - at > (PART if path.suffix == ".part" else age)
        if old or (i and total > size):
            _remove(path)
            gone.append(path.name)
    if gone:
        log.info("engine_cache_pruned", gone=gone)
    return gone


def _used_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # it has gone meanwhile
        return 0.0


def _bytes(path: Path) -> int:
    found = 0
    for file in path.rglob("*") if path.is_dir() else (path,):
        with contextlib.suppress(OSError):
            found += file.stat().st_size
    return found


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
