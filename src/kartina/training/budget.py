"""Budgets: how long a training is, in time or in images.

A time budget becomes an image count once, after a timed warm-up on throw-away networks, and is stored: from then on
the run is a function of its config alone, and resumes bit for bit on a busier machine too.
"""

from __future__ import annotations

import re

from kartina.errors import ConfigError

_TIME = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_COUNT = {"": 1, "k": 10**3, "m": 10**6}


def seconds(text: str) -> float:
    """'90s', '10m', '1.5h', '1h30m' -> seconds. Raises ConfigError."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text.lower())
    if not parts or "".join(a + b for a, b in parts) != text.lower().strip():
        raise ConfigError(f"Found the budget {text!r}; expected a time such as 90s, 10m or 1h30m.")
    total = sum(float(a) * _TIME[b] for a, b in parts)
    if total < 1:
        raise ConfigError(f"Found the budget {text!r}; expected at least 1s.")
    return total


def images(text: str) -> int:
    """'5000', '200k', '2M' -> a count. Raises ConfigError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([km]?)", text.lower().strip().replace("_", ""))
    total = round(float(match[1]) * _COUNT[match[2]]) if match else 0
    if total < 1:
        raise ConfigError(f"Found the image count {text!r}; expected a count such as 5000, 200k or 2M.")
    return total
