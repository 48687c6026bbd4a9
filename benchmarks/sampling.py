"""Sampling speed of every CPU preset: ms per image at batch 1 and 16, fp32, default controls.

python -m benchmarks.sampling [PRESET ...] [--quick]
"""

from __future__ import annotations

import statistics
import sys
import time

from benchmarks.training import asked
from kartina import registry
from kartina.generators.base import build, generate, rows_for
from kartina.training.catalogue import usual


def main(arguments: list[str]) -> None:
    names, rounds = asked(arguments, __doc__)
    print(f"{'preset':20} {'ms/img, batch 1':>16} {'ms/img, batch 16':>17}   (median of {rounds} rounds)")
    for name in names:
        family_name, preset = registry.preset(name)
        spec = usual(registry.family(family_name), preset)
        family = build(registry.family(family_name), preset.config, spec).sampler()
        task, capability = next(iter(family.capabilities().items()))
        inputs = {kind: [image] for kind, image in capability.blank(spec).items()}
        times: dict[int, list[float]] = {1: [], 16: []}
        for round_ in range(rounds + 1):
            for batch in times:
                rows = rows_for(family, [0], batch, round_, task=task, inputs=inputs)
                begun = time.perf_counter()
                generate(family, rows, batch)
                if round_:  # the first one warms up
                    times[batch].append((time.perf_counter() - begun) / batch * 1000)
        one, many = (statistics.median(t) for t in times.values())
        print(f"{name:20} {one:16.1f} {many:17.1f}")


if __name__ == "__main__":
    main(sys.argv[1:])
