"""What long work will take, told before its start: what every estimate says, and room on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kartina.config import home
from kartina.errors import StorageError, disk_errors


class Range(NamedTuple):
    """A number, and the bounds that it is thought to be within."""

    value: float  # as it is expected
    low: float
    high: float

    @classmethod
    def of(cls, ends: Sequence[float]) -> Range:
        return cls(*ends)

    @classmethod
    def about(cls, value: float, factor: float) -> Range:
        return cls(value, value / factor, value * factor)


@dataclass(frozen=True)
class Estimate:
    """What the estimate of any job says; each kind adds its own."""

    wall_seconds: Range  # from its start; at most: where somebody samples all the time
    disk_needed: int  # bytes, at most
    disk_free: int
    device: str
    threads: int
    ahead: int  # jobs that are not at their end, of anybody: it waits for them
    basis: str  # what that was read from


def shared(found: Mapping[str, Any], *work: Range, ahead: int, basis: str) -> dict[str, Any]:
    """The fields of an Estimate, from what the desk has found: `startup` seconds, and the share of the time that the
    job has where somebody samples (`yields`). `work`: seconds of its parts, one after another."""
    value, low, high = (sum(ends) for ends in zip(*work, strict=True))
    startup = found["startup"]
    return {
        "wall_seconds": Range(value + startup, low + startup, high / found["yields"] + startup),
        "disk_needed": found["disk"], "disk_free": disk_free(), "device": found["device"],
        "threads": found["threads"], "ahead": ahead, "basis": basis,
    }  # fmt: skip


def check_room(needed: int, what: str) -> None:
    """StorageError where the disk of KARTINA_HOME has less than `needed` bytes free."""
    free = disk_free()
    if free < needed:
        raise StorageError(
            f"Found {free / 2**20:,.0f} MiB free on the disk, and {what} takes up to {needed / 2**20:,.0f} MiB; free "
            "some space, or choose something smaller. Nothing was started."
        )


def disk_free() -> int:
    with disk_errors("look at the disk"):
        place = home()
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free
