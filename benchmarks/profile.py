"""Where the time of a training step goes, for every CPU preset: the profile behind the shares of the ceiling.

Self CPU time of torch's operators over whole cycles of phases, by kind. Convolutions and matrix products hold nearly
all FLOPs; what the other kinds take keeps a family from the ceiling, and `convolution at` is the rate at which the
first kind runs by itself, as a share of the ceiling.

    python -m benchmarks.profile [PRESET ...]
"""

from __future__ import annotations

import math
import sys
import time

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.training import ceiling, trainer
from kartina import registry

# Kind -> parts of operators' names, the first match counts.
KINDS: dict[str, tuple[str, ...]] = {
    "convolution, matmul": ("convolution", "mkldnn", "mm", "bmm", "linear", "attention"),
    "optimiser, average": ("adam", "lerp", "foreach"),
    "normalisation": ("batch_norm", "group_norm", "layer_norm", "var", "rsqrt"),
    "copies, casts": ("copy", "cat", "clone", "contiguous", "index", "stack", "_to_", "pad", "fill", "zero"),
    "activation": ("relu", "silu", "tanh", "sigmoid", "softplus", "softmax", "dropout"),
    "resampling": ("upsample", "pool", "shuffle", "grid_sampl"),
    "random": ("normal", "uniform", "random", "multinomial"),
    "elementwise, sums": (
        "mul",
        "add",
        "sub",
        "div",
        "sum",
        "mean",
        "pow",
        "sqrt",
        "clamp",
        "where",
        "threshold",
        "neg",
    ),
}
SECONDS = 2.0  # profiled


def kind(operator: str) -> str:
    name = operator.removeprefix("aten::")
    return next((k for k, parts in KINDS.items() if any(part in name for part in parts)), "rest")


def measure(name: str) -> tuple[float, float, dict[str, float]]:
    """img/s without the profiler, FLOPs an image, and each kind's share of the operators' time."""
    t = trainer(name)
    cycle = math.lcm(*(p.every for p in t.phases))
    with FlopCounterMode(display=False) as counter:
        for _ in range(cycle):
            t.step()
    images = cycle * t.images_per_step
    begun, cycles = time.perf_counter(), 0
    while time.perf_counter() - begun < SECONDS or not cycles:
        for _ in range(cycle):
            t.step()
        cycles += 1
    rate = cycles * images / (time.perf_counter() - begun)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(cycle):
            t.step()
    times: dict[str, float] = {}
    for event in found.key_averages():
        times[kind(event.key)] = times.get(kind(event.key), 0.0) + event.self_cpu_time_total
    total = sum(times.values())
    return rate, counter.get_total_flops() / images, {k: v / total for k, v in times.items()}


def main(names: list[str]) -> None:
    names = names or [n for n in registry.presets() if n.endswith("-cpu")]
    kinds = [*KINDS, "rest"]
    print(f"on {torch.get_num_threads()} threads; shares of the operators' own time")
    print("| preset | img/s | share of ceiling | convolution at | " + " | ".join(kinds) + " |")
    print("|---" * (len(kinds) + 4) + "|")
    for name in names:
        top = ceiling()
        rate, flops, shares = measure(name)
        share = rate * flops / 1e9 / top
        alone = share / shares["convolution, matmul"]
        cells = " | ".join(f"{shares.get(k, 0):.0%}" for k in kinds)
        print(f"| {name} | {rate:.0f} | {share:.0%} | {alone:.0%} | {cells} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
