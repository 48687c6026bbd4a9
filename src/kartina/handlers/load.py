"""One reference for everything that can sample: a published model, or a run's newest checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from kartina.errors import ConfigError
from kartina.models.model import Model, load
from kartina.training.run import Run, find


def load_any(ref: str, device: str = "cpu") -> Model:
    """Load a model (name, name@2, hash, folder) or a run (id, number, folder), models first.

    Raises NotFoundError naming both kinds when there is neither.
    """
    found = find(ref)
    if isinstance(found, Run):
        return Model(found.ema(device), found.id, data=found.config.data)
    return load(found, device)


def parse_controls(pairs: Sequence[str] | None) -> dict[str, Any]:
    """['guidance=2', 'solver=euler'] -> {'guidance': 2, 'solver': 'euler'}; ConfigError for a text without '='."""
    out: dict[str, Any] = {}
    for pair in pairs or ():
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"Found --set {pair!r}; expected key=value, such as guidance=2.")
        try:
            out[key.strip()] = json.loads(text)
        except json.JSONDecodeError:
            out[key.strip()] = text
    return out
