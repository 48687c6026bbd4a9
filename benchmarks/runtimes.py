"""Sampling by other runtimes against eager fp32: whole samplers at batch 1 and 16, default controls.

python -m benchmarks.runtimes [MODEL ...] [--quick]

Without MODEL: the bundled ones. ONNX Runtime, OpenVINO, and bfloat16 where this CPU computes in it (`--bf16`: also
where it imitates it, to see the images' distance). Every runtime samples the same rows in turn, and the median of the
rounds counts. The last columns are the largest difference of a pixel from torch's, and the mean of the image that is
furthest off, of 255. `load` is what a runtime costs when a model is first in memory: `export` once for a model and
version of torch, opening the networks each time.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time

import torch

from kartina.generators.base import generate
from kartina.models import package
from kartina.models.model import load
from kartina.serving import runtimes
from kartina.serving.runtimes import LOW, Runtime
from kartina.serving.tuning import example

BATCHES = (1, 16)
ROUNDS = 7
QUICK = "fashion-dcgan"


def main(arguments: list[str]) -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("models", nargs="*", metavar="MODEL")
    options.add_argument("--quick", action="store_true", help="one round of one model")
    options.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of every runtime")
    options.add_argument("--bf16", action="store_true", help="also where this CPU does not compute in it")
    given = options.parse_args(arguments)
    torch.set_num_threads(given.threads)
    names = tuple({**runtimes.installed("auto", "cpu", LOW), **({LOW: ""} if given.bf16 else {})})
    if not names:
        print("LEFT OUT: neither onnxruntime nor openvino is installed; pip install 'kartina[fast]'")
        return
    print(f"{given.threads} threads, {ROUNDS if not given.quick else 1} rounds")
    print(
        f"{'model':18} {'runtime':13} {'ms/img, batch 1':>16} {'ms/img, batch 16':>17} {'times eager':>14} "
        f"{'off':>4} {'mean':>5}"
    )
    bundled = [str(found) for found in package.list_packages() if found.bundled]
    for model in given.models or ([QUICK] if given.quick else bundled):
        measure(model, names, given.threads, 1 if given.quick else ROUNDS)


def measure(name: str, names: tuple[str, ...], threads: int, rounds: int) -> None:
    """Print a model's lines."""
    ref = package.find(name)
    model, hash = load(ref), package.read_manifest(ref.path).hash
    begun = time.perf_counter()
    prepared = runtimes.prepare(str(ref.path), hash, names, [threads])
    prepared |= {LOW: runtimes.lowered(model.family, "cpu")} if LOW in names else {}
    seconds = time.perf_counter() - begun
    found: dict[str, Runtime | None] = {"eager": None}
    for runtime, one in prepared.items():
        if isinstance(one, str):
            print(f"{name:18} {runtime:13} LEFT OUT: {one}")
        else:
            found[one.name] = one

    times: dict[tuple[str, int], list[float]] = {}
    off, mean = dict.fromkeys(found, 0), dict.fromkeys(found, 0.0)
    for round_ in range(rounds + 1):
        for batch in BATCHES:
            rows = [example(model, round_ * 100 + i, i % model.family.classes) for i in range(batch)]
            images = {}
            for runtime, one in found.items():
                begun = time.perf_counter()
                with one.instead(model.family) if one is not None else contextlib.nullcontext():
                    images[runtime] = generate(model.family, rows, batch).images.int()
                if round_:  # the first one warms up
                    times.setdefault((runtime, batch), []).append((time.perf_counter() - begun) / batch * 1000)
                apart = (images[runtime] - images["eager"]).abs().float()
                off[runtime] = max(off[runtime], int(apart.max()))
                mean[runtime] = max(mean[runtime], float(apart.mean(dim=(1, 2, 3)).max()))

    eager = [statistics.median(times["eager", batch]) for batch in BATCHES]
    for runtime in found:
        one, many = (statistics.median(times[runtime, batch]) for batch in BATCHES)
        gain = f"{eager[0] / one:.2f}, {eager[1] / many:.2f}"
        print(
            f"{name:18} {runtime:13} {one:16.1f} {many:17.1f} {gain:>14} {off[runtime]:>4} {mean[runtime]:>5.2f}",
            flush=True,
        )
    print(f"{name:18} load: {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
