"""Use case: train a preset on a data set, or go on with a run, in one call."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kartina.serving.device import Gate
from kartina.training import budget as budgets
from kartina.training import loop, transfer
from kartina.training.run import Run


def train(
    preset: str,
    data: str,
    *,
    budget: str | float | None = None,
    images: str | int | None = None,
    device: str = "auto",
    start: str | None = None,
    teacher: str | None = None,
    watch: loop.Watch | None = None,
    **settings: Any,
) -> Run:
    """Train `preset` on the data set `data` for a time ("10m", or seconds) or an image count ("200k", or a number).

    `start` is a model or run of the same family to take the first weights from, as far as they fit (the run's
    `config.start` says how far); `teacher` is the one to learn from, for presets that have one. `settings` go over the
    preset (lr=1e-3). Ctrl-C saves and returns; `resume` goes on.
    Raises what `loop.plan` and `loop.train` raise.
    """
    source = transfer.source(start) if start is not None else None
    lesson = transfer.source(teacher) if teacher is not None else None
    config = loop.plan(
        preset,
        data,
        images=budgets.images(str(images)) if images is not None else None,
        budget=budgets.seconds(f"{budget}s" if isinstance(budget, int | float) else budget) if budget else None,
        settings=texts(settings),
        device=device,
        start=source,
        teacher=lesson,
    )
    return resume(transfer.create(config, source, lesson), watch)


def resume(run: Run | str, watch: loop.Watch | None = None) -> Run:
    """Go on with a run from its newest checkpoint, to its end or to Ctrl-C."""
    found = run if isinstance(run, Run) else Run.open(run)
    with loop.interruptible() as stop:
        loop.train(found, watch, stop, Gate(found.config.device, stop))
    return found


def texts(settings: Mapping[str, Any]) -> list[str]:
    """Settings as --set takes them."""
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]
