"""catalogue: the data sets there are, in a few words each."""

from __future__ import annotations

from typing import Any

from kartina.data import digits, imageset
from kartina.errors import IntegrityError


def overview() -> list[dict[str, Any]]:
    """One record a data set, by name: name, images, height, width, channels, classes, splits, paired, flip_safe, hash.

    The embedded `digits` is listed before it was ever used, without a hash. A set that cannot be read has `problem`
    instead of the rest.
    """
    return [_about(name) for name in imageset.names()]


def _about(name: str) -> dict[str, Any]:
    if name == digits.NAME and not (imageset.folder(name) / "data.json").is_file():
        return {"name": name, "images": digits.IMAGES, "height": digits.SIZE, "width": digits.SIZE, "channels": 1,
                "classes": [str(k) for k in range(10)], "paired": False, "flip_safe": False, "hash": None,
                "splits": digits.SPLITS, "created_at": None}  # fmt: skip
    try:
        found = imageset.record(name)
        spec = found["spec"]
        return {
            "name": name,
            "images": found["images"],
            **{k: spec[k] for k in ("height", "width", "channels", "classes", "paired", "flip_safe")},
            "hash": found["hash"],
            "splits": {s: b - a for s, (a, b) in found["bounds"].items()},
            "created_at": found["created_at"],
        }
    except (IntegrityError, KeyError, TypeError, ValueError) as error:
        return {"name": name, "problem": f"its record cannot be read ({error}): import it again with --replace"}
