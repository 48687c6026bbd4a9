"""Use case: train a preset on a data set, or go on with a run, in one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kartina.training import budget as budgets
from kartina.training import loop
from kartina.training.run import Run


def train(
    preset: str,
    data: str,
    *,
    budget: str | float | None = None,
    images: str | int | None = None,
    device: str = "auto",
    watch: loop.Watch | None = None,
    **settings: Any,
) -> Run:
    """Train `preset` on the data set `data` for a time ("10m", or seconds) or an image count ("200k", or a number).

    `settings` go over the preset (lr=1e-3). Ctrl-C saves and returns; `resume` goes on. Raises what `loop.plan` and
    `loop.train` raise.
    """
    config = loop.plan(
        preset,
        data,
        images=budgets.images(str(images)) if images is not None else None,
        budget=budgets.seconds(f"{budget}s" if isinstance(budget, int | float) else budget) if budget else None,
        settings=[f"{k}={v}" for k, v in _texts(settings).items()],
        device=device,
    )
    return resume(Run.create(config), watch)


def resume(run: Run | str, watch: loop.Watch | None = None) -> Run:
    """Go on with a run from its newest checkpoint, to its end or to Ctrl-C."""
    found = run if isinstance(run, Run) else Run.open(run)
    with loop.interruptible() as stop:
        loop.train(found, watch, stop)
    return found


def _texts(settings: Mapping[str, Any]) -> dict[str, str]:
    import json

    return {k: json.dumps(v) for k, v in settings.items()}
