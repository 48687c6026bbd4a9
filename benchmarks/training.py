"""Training speed of every CPU preset: images a second, and GFLOP/s as a share of this machine's ceiling.

FLOPs are counted by torch's own counter over a whole cycle of phases (2 per multiply-add, forward and backward); the
ceiling is the best of several convolutions here, in the precision that is trained in: bf16 where the processor has
arithmetic for it, fp32 where it only imitates it. Rounds are interleaved; medians are printed.

    python -m benchmarks.training [PRESET ...] [--quick]
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import kartina
from kartina import registry
from kartina.config import RunConfig, TrainConfig
from kartina.nets.precision import Precision, pick
from kartina.training.catalogue import example
from kartina.training.loop import Trainer

ROUNDS = 5
# The presets of --quick, in one round.
QUICK = ("dcgan-32-cpu", "flow-32-cpu", "flow-upscale-64-cpu", "stylegan2-ada-32-cpu", "vae-32-cpu")

TYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}


def convolving(channels: int, size: int, batch: int, dtype: torch.dtype, seconds: float) -> float:
    """GFLOP/s of a 3x3 convolution of equal widths, channels last."""
    conv = nn.Conv2d(channels, channels, 3, padding=1).to(dtype).to(memory_format=torch.channels_last)
    x = torch.randn(batch, channels, size, size).to(dtype).to(memory_format=torch.channels_last)
    flops = 2 * batch * channels * channels * 9 * size * size
    with torch.inference_mode():
        conv(x)
        begun, n = time.perf_counter(), 0
        while n == 0 or time.perf_counter() - begun < seconds:
            conv(x)
            n += 1
        return n * flops / (time.perf_counter() - begun) / 1e9


def ceiling(seconds: float = 1.0, precision: Precision | None = None) -> float:
    """GFLOP/s of the best of several 3x3 convolutions in `precision`; None: the one that training has here."""
    dtype = TYPES[precision or pick("auto", "cpu")]
    shapes = ((64, 32), (128, 16), (256, 16), (512, 8))
    return max(convolving(channels, size, 64, dtype, seconds / len(shapes)) for channels, size in shapes)


def trainer(
    name: str,
    channels: int | None = None,
    settings: Mapping[str, Any] | None = None,
    **train: Any,
) -> Trainer:
    """A training of the preset on noise of so many channels (none: 1 at 32 px, 3 above); `settings` go over the
    preset's of the family, `train` over those of the training."""
    family, preset = registry.preset(name)
    data = example(registry.family(family), preset, channels=channels or (1 if preset.size == 32 else 3))
    config = RunConfig(
        kartina=kartina.__version__,
        preset=name,
        family=family,
        config={**preset.config, **(settings or {})},
        train=TrainConfig(**{**preset.train, **train}),
        spec=data.spec,
        data="noise",
        data_hash="",
        images=10**9,
    )
    return Trainer(config, data)


def asked(arguments: list[str], about: str | None) -> tuple[list[str], int]:
    """The presets that a command line names, and how many rounds it wants."""
    options = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("presets", nargs="*", metavar="PRESET")
    options.add_argument("--quick", action="store_true", help=f"one round of {', '.join(QUICK)}")
    given = options.parse_args(arguments)
    every = QUICK if given.quick else [n for n in registry.presets() if n.endswith("-cpu")]
    return given.presets or list(every), 1 if given.quick else ROUNDS


def main(arguments: list[str]) -> None:
    names, rounds = asked(arguments, __doc__)
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
    for _ in range(rounds):
        tops.append(ceiling())
        for n, t in trainers.items():
            begun = time.perf_counter()
            for _ in range(cycles[n]):
                t.step()
            rates[n].append(cycles[n] * t.images_per_step / (time.perf_counter() - begun))
    top = statistics.median(tops)
    kind, threads = pick("auto", "cpu"), torch.get_num_threads()
    print(f"{kind} convolution ceiling {top:.0f} GFLOP/s on {threads} threads, {rounds} rounds")
    print(f"{'preset':20} {'img/s':>8} {'MFLOP/img':>10} {'GFLOP/s':>8} {'share':>6}")
    for n in names:
        rate = statistics.median(rates[n])
        speed = rate * flops[n] / 1e9
        print(f"{n:20} {rate:8.1f} {flops[n] / 1e6:10.0f} {speed:8.1f} {speed / top:6.0%}")


if __name__ == "__main__":
    main(sys.argv[1:])
