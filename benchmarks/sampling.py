"""Sampling speed of every CPU preset: ms per image at batch 1 and 16, fp32, default controls, and the share of the
machine's ceiling at batch 16.

FLOPs are counted by torch's own counter over the making of an image (2 per multiply-add); the ceiling is the best of
several fp32 convolutions, as in `benchmarks.training`.

python -m benchmarks.sampling [PRESET ...] [--quick]
"""

from __future__ import annotations

import statistics
import sys
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.training import asked, ceiling
from kartina import registry
from kartina.generators.base import build, generate, rows_for
from kartina.training.catalogue import usual


def main(arguments: list[str]) -> None:
    names, rounds = asked(arguments, __doc__)
    top = ceiling(precision="fp32")
    print(f"fp32 convolution ceiling {top:.0f} GFLOP/s on {torch.get_num_threads()} threads, {rounds} rounds")
    heads = "ms/img, batch 1", "ms/img, batch 16", "MFLOP/img", "share"
    print(f"{'preset':20} {heads[0]:>16} {heads[1]:>17} {heads[2]:>10} {heads[3]:>6}")
    for name in names:
        family_name, preset = registry.preset(name)
        spec = usual(registry.family(family_name), preset)
        family = build(registry.family(family_name), preset.config, spec).sampler()
        task, capability = next(iter(family.capabilities().items()))
        inputs = {kind: [image] for kind, image in capability.blank(spec).items()}
        with FlopCounterMode(display=False) as flops:
            generate(family, rows_for(family, [0], 16, 0, task=task, inputs=inputs), 16)
        work = flops.get_total_flops() / 16
        times: dict[int, list[float]] = {1: [], 16: []}
        for round_ in range(rounds + 1):
            for batch in times:
                rows = rows_for(family, [0], batch, round_, task=task, inputs=inputs)
                begun = time.perf_counter()
                generate(family, rows, batch)
                if round_:  # the first one warms up
                    times[batch].append((time.perf_counter() - begun) / batch * 1000)
        one, many = (statistics.median(t) for t in times.values())
        print(f"{name:20} {one:16.1f} {many:17.1f} {work / 1e6:10.0f} {work / many / 1e6 / top:6.0%}")


if __name__ == "__main__":
    main(sys.argv[1:])
