"""How this process takes memory from the system."""

from __future__ import annotations

import ctypes
import os

_M_ARENA_MAX = -8  # of glibc's malloc.h


def one_heap() -> bool:
    """Have all threads share one heap, where the C library is glibc and MALLOC_ARENA_MAX says nothing else; whether
    they do. To be called before there are threads.

    glibc gives threads heaps of their own, up to eight for each core. The pages of the database and the bytes of images
    are freed by other threads than took them, so that each heap keeps what it needed at its worst: that grew by
    hundreds of bytes a request. Small Python objects have an allocator of their own: sharing costs next to nothing.
    """
    if "MALLOC_ARENA_MAX" in os.environ:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_M_ARENA_MAX, 1))
