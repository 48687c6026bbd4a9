"""What a number means: its identity, its floor and its interval; unlike numbers are not compared.

A metric's value says nothing alone. `Identity` carries everything that changes it besides the generator; `compare`
refuses two values whose identities differ and names the difference.
"""

from __future__ import annotations

from typing import Any

from kartina.config import Frozen
from kartina.errors import InputError

PROTOCOL = 1  # raised when a classifier, a metric's definition or the drawing of references changes
LARGEST = 10_000  # images: n = m = min(LARGEST, reference size)


class Identity(Frozen):
    """How a number was made. Numbers may be compared when all of this is equal."""

    metric: str  # "class agreement", "coverage k=5", "diversity", "FD-domain", "bits/dim K=10"
    extractor: str  # "FD-domain": a classifier trained on the real training split of the data itself; "none": pixels
    extractor_hash: str  # sha256 of its weights
    resizer: str = "none"  # how images were brought to the extractor's size; the domain classifier takes them as is
    data: str  # hash of the data set that the references come from
    split: str
    n: int  # generated images per seed; of bits/dim, real images scored
    m: int  # real reference images
    seeds: tuple[int, ...]  # of generation
    protocol: int = PROTOCOL


class Value(Frozen):
    """One number as it stands in a card: value, interval over seeds, what real images score, identity."""

    value: float | None  # null where it is not defined; `reason` says why
    interval: tuple[float, float] | None = None  # 95%, t over generation seeds; null with one seed
    floor: float | None = None  # n real training images against the same references; of agreement: the real split
    identity: Identity
    reason: str = ""

    def json_shape(self) -> dict[str, Any]:
        """The card's shape: value, interval, floor, identity (and reason, where there is one)."""
        found = self.model_dump(mode="json")
        if not self.reason:
            del found["reason"]
        return found


def compare(a: Value, b: Value) -> float:
    """a - b. Raises InputError naming each difference between the two identities, and when either has no value."""
    one, two = a.identity.model_dump(), b.identity.model_dump()
    unlike = [f"{key}: {one[key]!r} and {two[key]!r}" for key in one if one[key] != two[key]]
    if unlike:
        raise InputError(
            f"Found two numbers that were not made alike ({'; '.join(unlike)}); expected equal identities. "
            "Evaluate both again with the same data, split, --samples and --seeds.",
            details=unlike,
        )
    if a.value is None or b.value is None:
        raise InputError(f"Found no value to compare ({a.reason or b.reason}); expected two numbers.")
    return a.value - b.value
