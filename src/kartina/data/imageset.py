"""ImageSet: what everything that reads images reads.

On disk, a folder of KARTINA_HOME/data:

    data.json     name, hash, spec, split bounds, counts, how it was made, what was skipped (no machine paths)
    images.npy    uint8 N,C,H,W, memory-mapped
    labels.npy    int64 N             (absent when there are no classes)
    groups.npy    int64 N             (absent without --group-by)
    sources.npy   uint8 N,C',H,W      (absent unless the data are pairs: image i's input)
    files.txt     N lines: where image i came from, relative to what was imported
    report.json   what was found when it was looked at before the import (where that was done)

Images are stored split by split, train then val then test, so that a split is a slice and not a copy.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kartina.config import ImageSpec, home
from kartina.data.paths import SPLITS as SPLITS
from kartina.data.paths import Split as Split
from kartina.errors import DataError, IntegrityError, NotFoundError


@dataclass(frozen=True)
class ImageSet:
    """uint8 images with labels, class names, splits, groups and optional paired sources."""

    name: str
    hash: str  # sha256 over pixels, labels, class names, bounds, sources
    spec: ImageSpec
    images: NDArray[np.uint8]  # N,C,H,W, memory-mapped
    labels: NDArray[np.int64] | None  # N, or None: no classes
    bounds: dict[str, tuple[int, int]]  # split -> [start, stop)
    groups: NDArray[np.int64] | None = None  # N: images of one group never stand in two splits
    sources: NDArray[np.uint8] | None = None  # N,C',H,W: what image i is to be made from
    split: str = "all"  # which part this view holds

    def __len__(self) -> int:
        return len(self.images)

    def part(self, split: Split) -> ImageSet:
        """The images of one split, as a view. Raises DataError when it is empty."""
        start, stop = self.bounds.get(split, (0, 0))
        if self.split != "all":
            raise DataError(f"Found the {self.split!r} part of {self.name!r}; expected the whole set to take parts of.")
        if stop <= start:
            raise DataError(f"Found no {split!r} images in {self.name!r}; import it again with such a split.")

        def cut(array: Any) -> Any:
            return None if array is None else array[start:stop]

        return replace(self, images=self.images[start:stop], labels=cut(self.labels), groups=cut(self.groups),
                       sources=cut(self.sources), split=split)  # fmt: skip

    def counts(self) -> NDArray[np.int64]:
        """Images per class, in label order (shape K)."""
        if self.labels is None:
            return np.zeros(0, np.int64)
        return np.bincount(self.labels, minlength=len(self.spec.classes)).astype(np.int64)


NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")  # what a data set may be called


def folder(name: str) -> Path:
    return home() / "data" / name


def names() -> list[str]:
    """Imported data sets by name, and the embedded `digits`."""
    root = home() / "data"
    found = [p.parent.name for p in root.glob("[!.]*/data.json")] if root.is_dir() else []
    return sorted({*found, "digits"})


def record(name: str) -> dict[str, Any]:
    """The data.json of the set `name`."""
    path = folder(name) / "data.json"
    if not NAME.fullmatch(name) or not path.is_file():
        raise NotFoundError.named("data set", name, names(), "Import one: kartina data import PATH --name NAME.")
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise IntegrityError(
            f"Found {name}/data.json that cannot be read ({error}); import the data again with --replace."
        ) from None
    return found


def open_set(name: str) -> ImageSet:
    """Open the imported data set `name`, memory-mapped. `digits` is imported from scikit-learn on first use.

    Raises NotFoundError for an unknown name and IntegrityError where a file does not fit its record.
    """
    if name == "digits" and not (folder(name) / "data.json").is_file():
        from kartina.data.digits import import_digits

        import_digits()
    about = record(name)
    where = folder(name)

    def array(file: str) -> Any:
        path = where / file
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False) if path.is_file() else None
        except (ValueError, EOFError) as error:
            raise IntegrityError(
                f"Found {name}/{file} that cannot be read ({error}); import the data again with --replace."
            ) from None

    sources = array("sources.npy")
    deep = 0 if sources is None or sources.ndim != 4 else sources.shape[1]
    found = ImageSet(
        name=name,
        hash=about["hash"],
        spec=ImageSpec.model_validate({**about["spec"], "source_channels": deep}),
        images=array("images.npy"),
        labels=array("labels.npy"),
        bounds={k: (int(a), int(b)) for k, (a, b) in about["bounds"].items()},
        groups=array("groups.npy"),
        sources=sources,
    )
    if found.images is None or found.images.shape[1:] != found.spec.shape or len(found.images) != about["images"]:
        raise IntegrityError(
            f"Found {where.name}/images.npy that is not the {about['images']} images of shape {found.spec.shape} its "
            f"record tells of; delete the folder {where} and import the data again."
        )
    pairs = (len(found.images), deep, found.spec.height, found.spec.width)
    if found.spec.paired != (sources is not None) or (sources is not None and (not deep or sources.shape != pairs)):
        raise IntegrityError(
            f"Found a {where.name}/sources.npy that does not fit its images, or none; delete the folder {where} and "
            f"import the data again."
        )
    return found
