"""digits: the embedded data set, so that everything can be tried without a download.

1,797 handwritten digits (E. Alpaydin, C. Kaynak, UCI 1998) that come with scikit-learn: 8 x 8 grey, 0 .. 16, here
scaled to 0 .. 255 and to 32 x 32 pixels. Not flip-safe: a mirrored digit is another one, or none.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kartina.data import imageset
from kartina.data.imageset import ImageSet
from kartina.data.prepare import import_source
from kartina.data.sources import Rows, from_arrays
from kartina.errors import ConflictError

NAME = "digits"
SIZE = 32
IMAGES = 1797
SPLITS = {"train": 1439, "val": 179, "test": 179}


def import_digits() -> ImageSet:
    """Make the data set `digits` where it is not there yet, and open it. Its hash is always the same."""
    made = (imageset.folder(NAME) / "data.json").is_file()
    if made:
        return imageset.open_set(NAME)
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    pixels = (np.rint(found.images) * 255 // 16).astype(np.uint8)
    source = from_arrays("embedded", "scikit-learn", [(None, Rows("digits", pixels), found.target.astype(np.int64))])
    try:
        return import_source(source, NAME, size=SIZE, flip="off", workers=1)
    except ConflictError:  # another process was faster
        return imageset.open_set(NAME)
