"""digits: the embedded data set, so that everything can be tried without a download.

1,797 handwritten digits (E. Alpaydin, C. Kaynak, UCI 1998) that come with scikit-learn: 8 x 8 grey, 0 .. 16, here
scaled to 0 .. 255 and to 32 x 32 pixels. Not flip-safe: a mirrored digit is another one, or none.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kartina.data.imageset import ImageSet
from kartina.data.prepare import import_source
from kartina.data.sources import Rows, from_arrays

NAME = "digits"
SIZE = 32
IMAGES = 1797


def import_digits() -> ImageSet:
    """Make the data set `digits` (again, if it is there already) and open it. Its hash is always the same."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    found: Any = load_digits()
    pixels = (np.rint(found.images) * 255 // 16).astype(np.uint8)
    source = from_arrays("embedded", "scikit-learn", [(None, Rows("digits", pixels), found.target.astype(np.int64))])
    return import_source(source, NAME, size=SIZE, flip="off", replace=True, workers=1)
