"""Ids that sort by time: a prefix, 48 bits of milliseconds and 80 random bits in Crockford's base 32."""

from __future__ import annotations

import secrets
import threading
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # sorts as it counts
_RANDOM = 80  # bits
_lock = threading.Lock()
_last = 0


def new_id(prefix: str) -> str:
    """An id greater than every one that this process has given before."""
    global _last
    with _lock:
        fresh = (time.time_ns() // 1_000_000) << _RANDOM | secrets.randbits(_RANDOM)
        _last = fresh if fresh > _last else _last + 1
        return f"{prefix}_{_text(_last)}"


def first_id(prefix: str, at: float) -> str:
    """The smallest id of the time `at` (seconds since 1970): ids before it are older."""
    # A float of this size is off by a ten-thousandth of a millisecond: 853.9999 is 854.
    return f"{prefix}_{_text(min(max(0, int(at * 1000 + 0.001)), 2**48 - 1) << _RANDOM)}"


def time_of(id: str) -> float:
    """When an id was given, in seconds since 1970, to the millisecond."""
    number = 0
    for letter in id.partition("_")[2][:26]:
        number = number << 5 | _ALPHABET.index(letter)
    return (number >> _RANDOM) / 1000


def _text(number: int) -> str:
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))
