"""What the synchronous client has where the asynchronous one has asyncio."""

from __future__ import annotations

from collections.abc import Callable
from time import sleep
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

__all__ = ["sleep", "to_thread"]


def to_thread(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Do it here and now."""
    return work(*args, **kwargs)
