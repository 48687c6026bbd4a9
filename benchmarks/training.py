"""Training speed of every CPU preset: images a second, and GFLOP/s as a share of this machine's bf16 ceiling.

FLOPs are counted by torch's own counter over a whole cycle of phases (2 per multiply-add, forward and backward); the
ceiling is the best of several bf16 convolutions here. Rounds are interleaved; medians are printed.

    python -m benchmarks.training [PRESET ...]
"""

from __future__ import annotations

import math
import statistics
import sys
import time

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import kartina
from kartina import registry
from kartina.config import RunConfig, TrainConfig
from kartina.training.catalogue import example
from kartina.training.loop import Trainer

ROUNDS = 5


def ceiling(seconds: float = 1.0) -> float:
    """GFLOP/s of the best of several 3x3 bf16 convolutions, channels last."""
    best = 0.0
    for channels, size in ((64, 32), (128, 16), (256, 16), (512, 8)):
        conv = nn.Conv2d(channels, channels, 3, padding=1).to(torch.bfloat16).to(memory_format=torch.channels_last)
        x = torch.randn(64, channels, size, size, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
        flops = 2 * 64 * channels * channels * 9 * size * size
        with torch.inference_mode():
            conv(x)
            begun, n = time.perf_counter(), 0
            while time.perf_counter() - begun < seconds / 4:
                conv(x)
                n += 1
            best = max(best, n * flops / (time.perf_counter() - begun) / 1e9)
    return best


def trainer(name: str) -> Trainer:
    family, preset = registry.preset(name)
    data = example(registry.family(family), preset, channels=1 if preset.size == 32 else 3)
    config = RunConfig(
        kartina=kartina.__version__,
        preset=name,
        family=family,
        config=dict(preset.config),
        train=TrainConfig(**preset.train),
        spec=data.spec,
        data="noise",
        data_hash="",
        images=10**9,
    )
    return Trainer(config, data)


def main(names: list[str]) -> None:
    names = names or [n for n in registry.presets() if n.endswith("-cpu")]
    trainers = {n: trainer(n) for n in names}
    cycles = {n: math.lcm(*(p.every for p in t.phases)) for n, t in trainers.items()}
    flops = {}
    for n, t in trainers.items():
        with FlopCounterMode(display=False) as counter:
            for _ in range(cycles[n]):
                t.step()
        flops[n] = counter.get_total_flops() / (cycles[n] * t.images_per_step)
    rates: dict[str, list[float]] = {n: [] for n in names}
    tops = []
    for _ in range(ROUNDS):
        tops.append(ceiling())
        for n, t in trainers.items():
            begun = time.perf_counter()
            for _ in range(cycles[n]):
                t.step()
            rates[n].append(cycles[n] * t.images_per_step / (time.perf_counter() - begun))
    top = statistics.median(tops)
    print(f"bf16 convolution ceiling {top:.0f} GFLOP/s on {torch.get_num_threads()} threads, {ROUNDS} rounds")
    print(f"{'preset':16} {'img/s':>8} {'MFLOP/img':>10} {'GFLOP/s':>8} {'share':>6}")
    for n in names:
        rate = statistics.median(rates[n])
        speed = rate * flops[n] / 1e9
        print(f"{n:16} {rate:8.1f} {flops[n] / 1e6:10.0f} {speed:8.1f} {speed / top:6.0%}")


if __name__ == "__main__":
    main(sys.argv[1:])
