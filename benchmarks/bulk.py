"""Bulk generation against the offline batch: images a second of the whole ZIP, and of the same model's `sample`.

python -m benchmarks.bulk [MODEL ...] [--quick]

The offline batch holds all images in memory, and encodes and stores none of them. Rounds of the two are interleaved.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from kartina.handlers.bulk import BATCH, BATCH_ELSEWHERE, make
from kartina.handlers.specs import BulkJob
from kartina.models.model import Model, load

MODELS = ("fashion-dcgan", "fashion-flow")  # one step, and many
SECONDS = 20.0  # of one measurement


def main(arguments: list[str]) -> None:
    quick = "--quick" in arguments
    names = [name for name in arguments if not name.startswith("--")] or list(MODELS)
    print(f"{'model':16} {'images':>8} {'offline':>10} {'bulk':>10}   bulk/offline (median of rounds; images a second)")
    for name in names:
        model = load(name)
        batch = BATCH.get(model.family.device.type, BATCH_ELSEWHERE)
        offline(model, batch, batch)  # warms up
        rate = offline(model, batch, batch)
        n = max(batch, int(rate * (2 if quick else SECONDS)) // batch * batch)
        pairs = [(offline(model, n, batch), bulk(model, n)) for _ in range(1 if quick else 3)]
        first, second = (statistics.median(rates) for rates in zip(*pairs, strict=True))
        shares = ", ".join(f"{b / a:.0%}" for a, b in pairs)
        print(f"{name:16} {n:8,} {first:10,.1f} {second:10,.1f}   {second / first:.0%} ({shares})", flush=True)


def offline(model: Model, n: int, batch: int) -> float:
    """Images a second of `sample`."""
    begun = time.perf_counter()
    model.sample(n=n, batch=batch)
    return n / (time.perf_counter() - begun)


def bulk(model: Model, n: int) -> float:
    """Images a second of the ZIP, from its first batch to its last byte."""
    assert model.manifest is not None
    given = BulkJob(model=model.ref, hash=model.manifest.hash, n=n, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        make(model, given, Path(folder))
        return n / (time.perf_counter() - begun)


if __name__ == "__main__":
    main(sys.argv[1:])
