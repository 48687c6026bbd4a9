"""Small pictures, folders and zips of them, for the data tests."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def pixels(seed: int, size: int | tuple[int, int] = 16, channels: int = 3) -> NDArray[np.uint8]:
    """A smooth random picture, H,W,C (H,W for 1 channel), unlike those of other seeds."""
    height, width = (size, size) if isinstance(size, int) else size
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image.convert("L") if channels == 1 else image)


def save(path: Path, seed: int = 0, size: int | tuple[int, int] = 16, channels: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, size, channels)).save(path)
    return path


def tree(root: Path, counts: Mapping[str, int], size: int = 16, kind: str = "png", channels: int = 3) -> Path:
    """root/FOLDER/00.png ... for each FOLDER: number; every picture is another one."""
    seed = 0
    for folder, n in counts.items():
        for i in range(n):
            seed += 1
            save(root / folder / f"{i:02d}.{kind}", seed, size, channels)
    return root


def pack(source: Path, target: Path, top: str = "", more: Iterable[tuple[str, bytes]] = ()) -> Path:
    """Zip a folder's files under `top`, and more (name, bytes)."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(p for p in source.rglob("*") if p.is_file()):
            archive.write(path, top + path.relative_to(source).as_posix())
        for name, data in more:
            archive.writestr(name, data)
    return target
