"""One reference for everything that can sample: a published model, or a run's newest checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from kartina.errors import ConfigError, NotFoundError
from kartina.models import package
from kartina.models.model import Model, load
from kartina.training import run as runs


def load_any(ref: str, device: str = "cpu") -> Model:
    """Load a model (name, name@2, hash, folder) or a run (id, number, folder), models first.

    Raises NotFoundError naming both kinds when there is neither.
    """
    try:
        found = package.find(ref)
    except NotFoundError:
        found = None
    if found is not None:
        return load(found, device)
    try:
        run = runs.Run.open(ref)
    except NotFoundError:
        known = list(dict.fromkeys(p.name for p in package.list_packages())) + runs.names()
        raise NotFoundError.named(
            "model or run", ref, known, "See `kartina models list` and `kartina runs list`."
        ) from None
    return Model(run.ema(device), run.id, data=run.config.data)


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
