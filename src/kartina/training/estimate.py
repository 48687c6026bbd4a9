"""What a training will take here: time, images, disk, memory. Measured on throw-away networks, or counted; not guessed.

The figures have a low and a high end: those of the fastest and the slowest of several timed stretches. A figure is as
good as the time that it was measured in: a machine that is busy now is timed as it is now.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from kartina.config import RunConfig
from kartina.data.imageset import ImageSet
from kartina.training import transfer
from kartina.training.folder import KEPT, RunFolder, picture
from kartina.training.loop import GRID_SHARE, Trainer, memory_errors

SECONDS = 3.0  # of timed steps
STRETCHES = 4  # at least


def disk(config: RunConfig) -> int:
    """Bytes that a run takes at most, but for its statistics: checkpoints (weights, their average, two moments for each
    that is trained) and sample grids, as large as they are without compression."""
    family = transfer.on_meta(config)
    weights = sum(_size(t) for t in family.state_dict().values())
    trained = {id(p): p for phase in family.phases() for p in phase.params}.values()
    moments = 2 * sum(_size(p) for p in trained)
    average = sum(_size(t) for key, t in family.state_dict().items() if key.split(".")[0] in family.parts)
    return KEPT * (weights + average + moments) + config.train.grids * picture(config.spec)


def _size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def rest(run: RunFolder, total: int) -> RunConfig:
    """The run's config with what is left of it up to `total` images in all."""
    images, grids = run.left(total)
    return run.config.model_copy(
        update={"images": images, "train": run.config.train.model_copy(update={"grids": grids})}
    )


def time_steps(config: RunConfig, data: ImageSet, budget: float | None) -> dict[str, Any]:
    """Train throw-away networks for some seconds: what `config` (its `images`, or `budget` seconds) comes to.

    {"images", "seconds", "rate"}: each [value, low, high]; "grids", "steps", "measured": seconds; "memory": bytes of
    the device (None on a CPU, where the process tells).
    """
    if config.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with memory_errors():
        trainer = Trainer(config.model_copy(update={"images": 10**9}), data)
        trainer.family.rehearse()
        for _ in range(2):  # allocation and autotuning are not the steady state
            trainer.step()
        trainer.synchronise()

        # Whole cycles of lazy phases, each stretch timed by itself.
        cycle = min(math.lcm(*(p.every for p in trainer.phases)), 64)
        each: list[float] = []  # seconds an image
        steps, begun = 0, time.perf_counter()
        while len(each) < STRETCHES or time.perf_counter() - begun < SECONDS:
            start, done = time.perf_counter(), 0
            while done == 0 or time.perf_counter() - start < SECONDS / 8:
                for _ in range(cycle):
                    trainer.step()
                trainer.synchronise()
                done += cycle
            each.append((time.perf_counter() - start) / (done * trainer.images_per_step))
            steps += done
        measured = time.perf_counter() - begun
        mean = measured / (steps * trainer.images_per_step)

        grids, grid_time = config.train.grids, 0.0
        if grids:
            start = time.perf_counter()
            trainer.sample_grid()
            trainer.validate()
            grid_time = time.perf_counter() - start
        if grids and budget is not None:
            grids = max(1, min(grids, int(budget * GRID_SHARE / grid_time)))

    ends = mean, min(each), max(each)
    rate = [1 / mean, 1 / max(each), 1 / min(each)]
    if budget is None:
        images = [config.images] * 3
        seconds = [config.images * s + grids * grid_time for s in ends]
    else:
        left = max(0.0, budget - grids * grid_time)
        images = [max(trainer.images_per_step, int(left * r)) for r in rate]
        seconds = [budget] * 3
    memory = torch.cuda.max_memory_allocated() if config.device == "cuda" else None
    return {"images": images, "seconds": seconds, "rate": rate, "grids": grids, "steps": steps, "measured": measured,
            "memory": memory}  # fmt: skip
