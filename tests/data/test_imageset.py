"""Opening data sets of pairs: the sources' channels are known, and sources that do not fit are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kartina.config import ImageSpec
from kartina.data.imageset import open_set
from kartina.errors import IntegrityError
from tests import tiny

PAIRS = ImageSpec(height=8, width=8, channels=1, paired=True, source_channels=3)


def test_the_spec_tells_the_channels_of_the_sources(home: Path) -> None:
    tiny.store(tiny.images(12, PAIRS), home)
    found = open_set("blobs")
    assert found.spec == PAIRS and found.sources is not None and found.sources.shape == (12, 3, 8, 8)
    assert found.part("val").sources.shape == (4, 3, 8, 8)  # type: ignore[union-attr]


def test_a_spec_without_pairs_is_written_as_it_always_was() -> None:
    """Hashes of packages are over their specs: a new field must not change those of old ones."""
    plain = ImageSpec(height=8, width=8, channels=1)
    assert set(plain.model_dump()) == {"height", "width", "channels", "classes", "flip_safe", "paired"}
    assert PAIRS.model_dump(mode="json")["source_channels"] == 3


@pytest.mark.parametrize(
    "sources",
    [
        np.zeros((11, 3, 8, 8), np.uint8),
        np.zeros((12, 3, 8, 4), np.uint8),
        np.zeros((12, 8, 8), np.uint8),
        None,
    ],
)
def test_sources_that_do_not_fit_are_refused(home: Path, sources: np.ndarray | None) -> None:
    tiny.store(tiny.images(12, PAIRS), home)
    path = home / "data" / "blobs" / "sources.npy"
    path.unlink()
    if sources is not None:
        np.save(path, sources)
    with pytest.raises(IntegrityError, match=r"sources\.npy that does not fit"):
        open_set("blobs")


def test_sources_without_pairs_are_refused(home: Path) -> None:
    tiny.store(tiny.images(12, tiny.spec(8)), home)
    np.save(home / "data" / "blobs" / "sources.npy", np.zeros((12, 3, 8, 8), np.uint8))
    with pytest.raises(IntegrityError, match=r"sources\.npy that does not fit"):
        open_set("blobs")
