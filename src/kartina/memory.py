"""How this process takes memory from the system, and gives it back."""

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


def give_back() -> bool:
    """Give the memory that nothing is in back to the system, where the C library is glibc; whether there was some.

    glibc keeps what is freed, for the next one who asks: of each heap as much as it ever held, less what is free at its
    very end. Takes some 0.1 ms for each MiB, in which whoever allocates from the same heap waits.
    """
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # another C library
        return False
    return bool(malloc_trim(0))
