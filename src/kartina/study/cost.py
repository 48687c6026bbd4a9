"""What a generator costs: operations and milliseconds an image, parameters, and memory while it trained."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from kartina.generators.base import generate
from kartina.models.model import Model

REPEATS = 5
BATCH = 16
PATIENCE = 20.0  # seconds for what is timed to be foretold, after which it is not repeated

Ends = tuple[float, float, float]  # as expected, low, high


def sampling(model: Model) -> dict[str, Any]:
    """{"parameters", "gflop": an image, "measured": {"ms": one image alone, "ms_batch": an image in a batch of 16}}."""
    family = model.family
    with FlopCounterMode(display=False) as flops:
        generate(family, model.rows([0], 1, 0))
    parameters = sum(p.numel() for part in family.parts for p in getattr(family, part).parameters())
    return {
        "parameters": parameters,
        "gflop": flops.get_total_flops() / 1e9,
        "measured": {"ms": timed(model, 1), "ms_batch": timed(model, BATCH) / BATCH},
    }


def timed(model: Model, n: int) -> float:
    """Milliseconds for n images made together: the median of REPEATS, after one that warms up."""
    found = []
    for repeat in range(REPEATS + 1):
        rows = model.rows(None, n, 1000 * repeat)[:n]
        begun = time.perf_counter()
        generate(model.family, rows, n)
        synchronise(model.family.device)
        found.append(1000 * (time.perf_counter() - begun))
    return statistics.median(found[1:])


def timed_each(act: Callable[[int], object], n: int) -> Ends:
    """Seconds for each of n that `act` makes (it gets the number of the repetition): the median, the fastest and the
    slowest of three, after one that warms up. Where that takes long, of the two that there was patience for."""
    found: list[float] = []
    begun = time.perf_counter()
    while len(found) < 2 or (len(found) < 4 and time.perf_counter() - begun < PATIENCE):
        start = time.perf_counter()
        act(len(found))
        found.append((time.perf_counter() - start) / n)
    kept = found[1:] if len(found) > 2 else found
    return statistics.median(kept), min(kept), max(kept)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()


class Memory:
    """Peak bytes while something ran: of the device where it tells, else of this process, looked at now and then."""

    def __init__(self, device: str):
        self.device, self.peak = device, 0

    def look(self) -> None:
        if self.device == "cuda":
            self.peak = max(self.peak, torch.cuda.max_memory_allocated())
        else:
            self.peak = max(self.peak, resident())

    @contextmanager
    def watching(self) -> Iterator[None]:
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            yield
        finally:
            self.look()


def resident() -> int:
    """Bytes of this process in memory; its peak so far where the system tells nothing better."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource

    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
