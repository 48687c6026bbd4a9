"""Sampling speed of every CPU preset: ms per image at batch 1 and 16, fp32, default controls.

python -m benchmarks.sampling [PRESET ...]
"""

from __future__ import annotations

import statistics
import sys
import time

from kartina import registry
from kartina.config import ImageSpec
from kartina.generators.base import build, generate, rows_for

ROUNDS = 5


def main(names: list[str]) -> None:
    print(f"{'preset':16} {'ms/img, batch 1':>16} {'ms/img, batch 16':>17}   (median of {ROUNDS} rounds)")
    for name in names or [n for n in registry.presets() if n.endswith("-cpu")]:
        family_name, preset = registry.preset(name)
        spec = ImageSpec(height=preset.size, width=preset.size, channels=3, classes=tuple(map(str, range(10))))
        family = build(registry.family(family_name), preset.config, spec).sampler()
        times: dict[int, list[float]] = {1: [], 16: []}
        for round_ in range(ROUNDS + 1):
            for batch in times:
                rows = rows_for(family, [0], batch, round_)
                begun = time.perf_counter()
                generate(family, rows, batch)
                if round_:  # the first one warms up
                    times[batch].append((time.perf_counter() - begun) / batch * 1000)
        one, many = (statistics.median(t) for t in times.values())
        print(f"{name:16} {one:16.1f} {many:17.1f}")


if __name__ == "__main__":
    main(sys.argv[1:])
