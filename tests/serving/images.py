"""Comparing images of the engine with those made alone."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from kartina.serving.protocol import Event, Output


def assert_equals_solo(events: Sequence[Event], alone: Mapping[int, Any]) -> None:
    """Every image is there once, within 1/255 of what it is when made alone."""
    made = [event for event in events if isinstance(event, Output)]
    assert sorted(event.index for event in made) == sorted(alone)
    for event in made:
        pixels = np.asarray(Image.open(io.BytesIO(event.png)), np.int16)
        assert np.abs(pixels - alone[event.index][0].astype(np.int16)).max() <= 1
