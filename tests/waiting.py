"""Wait for a state, not for a time: quick on an idle machine, and still right on a busy one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait(condition: Callable[[], T], seconds: float = 60, pause: float = 0.02) -> T:
    """What `condition` answers once that is true; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"it never came true in {seconds} s"
        time.sleep(pause)
    return found
