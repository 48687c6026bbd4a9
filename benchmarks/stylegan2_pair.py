"""StyleGAN2 at 32 px against a figure from elsewhere: images a core-second in fp32.

A well-known StyleGAN2 code base trains a pair of 5.5M (G) and 5.0M (D) parameters at 5.5 images a core-second in fp32,
on cores that do 105 GFLOP/s; the aim is 1.6 times that, on slower or faster cores by their ceiling. Here
`stylegan2-ada-32` is given the widths that come nearest to such a pair (colour, 10 classes, the paper's batch of 64),
and every phase of its step is timed by itself, the threads' rounds interleaved. A lazy phase counts by its share: an R1
penalty every 16th step costs a sixteenth of its time. ADA is timed at p = 0.3, within a training's usual range, so that
its transforms are not idle.

    python -m benchmarks.stylegan2_pair [--threads 1 2] [--augment none ada] [--json FILE] [--quick]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.training import ceiling, trainer
from kartina.training.loop import Trainer, cores

PRESET = "stylegan2-ada-32"
PAIR: dict[str, Any] = dict(width=96, width_max=288)  # 5.4M + 4.9M parameters
ELSEWHERE, CORE = 5.5, 105.0  # images a core-second, and GFLOP/s of one of the cores that did them
AIM = 1.6 * ELSEWHERE
ROUNDS = 5
P = 0.3  # of ADA's transforms


def pair(augment: str, threads: int, batch: int) -> Trainer:
    settings = {**PAIR, "augment": augment}
    t = trainer(PRESET, 3, settings, precision="fp32", threads=threads, batch=batch)
    if augment == "ada":
        t.family.get_buffer("ada.p").fill_(P)
    return t


def parts(t: Trainer) -> dict[str, tuple[float, Callable[[], None]]]:
    """What a step consists of: name -> (how often it is run for each image seen, it)."""

    def update(index: int) -> Callable[[], None]:
        return lambda: t.update(index, t.phases[index], 0)

    found = {p.name: (p.repeat / p.every / t.images_per_step, update(i)) for i, p in enumerate(t.phases)}
    return {**found, "average": (1 / t.images_per_step, t.average)}


def flops(t: Trainer) -> float:
    """FLOPs of training per image seen, lazy phases by their share."""
    total = 0.0
    for share, run in parts(t).values():
        with FlopCounterMode(display=False) as counter:
            run()
        total += share * counter.get_total_flops()
    return total


def seconds(t: Trainer, threads: int) -> dict[str, float]:
    """Of each part of a step, for each image seen."""
    torch.set_num_threads(threads)
    found = {}
    for name, (share, run) in parts(t).items():
        begun = time.perf_counter()
        run()
        found[name] = share * (time.perf_counter() - begun)
    return found


def measure(augments: list[str], counts: list[int], rounds: int, batch: int) -> list[dict[str, Any]]:
    """A row for each kind of augmentation and count of threads: medians over interleaved rounds."""
    rows: list[dict[str, Any]] = []
    for augment in augments:
        trainers = {n: pair(augment, n, batch) for n in counts}
        work = flops(trainers[counts[0]])
        for n, t in trainers.items():  # allocations
            seconds(t, n)
        times: dict[int, list[dict[str, float]]] = {n: [] for n in counts}
        tops: dict[int, list[float]] = {n: [] for n in counts}
        for _ in range(rounds):
            for n, t in trainers.items():
                torch.set_num_threads(n)
                tops[n].append(ceiling(precision="fp32"))
                times[n].append(seconds(t, n))
        for n in counts:
            each = {name: statistics.median(one[name] for one in times[n]) for name in times[n][0]}
            rate, top = 1 / sum(each.values()), statistics.median(tops[n])
            rows.append(
                {
                    "augment": augment,
                    "threads": n,
                    "img/s": rate,
                    "img/core-s": rate / n,
                    "MFLOP/img": work / 1e6,
                    "ceiling": top,
                    "share": rate * work / 1e9 / top,
                    "aim here": AIM * top / n / CORE,  # on cores that are slower or faster
                    "ms/img": {name: 1000 * s for name, s in each.items()},
                }
            )
    return rows


def main(arguments: list[str]) -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options.add_argument("--augment", nargs="+", choices=["none", "diffaugment", "ada"], default=["none", "ada"])
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--json", type=Path, help="where to keep the numbers")
    options.add_argument("--quick", action="store_true", help="one round, one thread, no augmentation, batch 16")
    given = options.parse_args(arguments)
    rounds = ROUNDS
    if given.quick:
        given.threads, given.augment, given.batch, rounds = [1], ["none"], 16, 1
    counts = [n for n in given.threads if n <= cores()]

    sizes = pair("none", counts[0], given.batch).family
    g, d = (sum(p.numel() for p in part.parameters()) / 1e6 for part in (sizes.generator, sizes.discriminator))
    print(f"{PRESET} with {PAIR}, batch {given.batch}: {g:.2f}M + {d:.2f}M parameters, fp32, {rounds} rounds")
    rows = measure(given.augment, counts, rounds, given.batch)
    names = list(rows[0]["ms/img"])
    columns = ["augment", "threads", "img/s", "img/core-s", "of the aim", "by ceiling", "MFLOP/img", "share of ceiling"]
    columns += [f"{name}, ms/img" for name in names]
    print(f"| {' | '.join(columns)} |")
    print("|---" * len(columns) + "|")
    for r in rows:
        cells = [r["augment"], f"{r['threads']}", f"{r['img/s']:.2f}", f"{r['img/core-s']:.2f}"]
        cells += [f"{r['img/core-s'] / AIM:.0%}", f"{r['img/core-s'] / r['aim here']:.0%}", f"{r['MFLOP/img']:,.0f}"]
        cells += [f"{r['share']:.0%} of {r['ceiling']:.0f} GFLOP/s", *(f"{r['ms/img'][name]:.1f}" for name in names)]
        print(f"| {' | '.join(cells)} |")
    print(f"The aim is {AIM:.1f} images a core-second: 1.6 times {ELSEWHERE}, on cores of {CORE:.0f} GFLOP/s.")
    if given.json:
        told = {"preset": PRESET, "settings": PAIR, "batch": given.batch, "millions": [g, d], "aim": AIM, "rows": rows}
        given.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
