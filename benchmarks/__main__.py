"""Run the benchmarks of this machine's speed one after another; nothing else should run on it.

    python -m benchmarks [--quick] [--data fashion --models fashion-flow ... --out DIR]

`--quick` takes a minute or two: one round of everything, of few presets, to see that all of it runs. With `--data`
comes quality against evaluations, of these models. The other benchmarks of quality need trainings of their own and are
called by name: ablation, curve, families, few_labels, tasks, and `peer_unet curve`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from benchmarks import bulk, data_import, evaluations, peer_unet, runtimes, sampling, sharing, stylegan2_pair, training

Bench = Callable[[list[str]], None]
SPEED: tuple[tuple[str, Bench, list[str]], ...] = (
    ("Training", training.main, []),
    ("Sampling", sampling.main, []),
    ("Bulk generation", bulk.main, []),
    ("Sampling by other runtimes", runtimes.main, []),
    ("StyleGAN2 against a figure from elsewhere", stylegan2_pair.main, []),
    ("U-Net against diffusers' own", peer_unet.main, ["speed"]),
    ("Data import", data_import.main, []),
    ("Sampling beside training", sharing.main, []),
)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="one round of few presets")
    options.add_argument("--data", help="data set that --models learnt from: also quality against evaluations")
    options.add_argument("--models", nargs="+", default=["fashion-flow"], metavar="MODEL|RUN")
    options.add_argument("--out", type=Path, default=Path("evaluations"), help="folder of quality against evaluations")
    given = options.parse_args()
    for title, bench, arguments in SPEED:
        print(f"\n{title}", flush=True)
        if bench is peer_unet.main and find_spec("diffusers") is None:
            print("LEFT OUT: diffusers is not installed; pip install 'kartina[peers]'", flush=True)
            continue
        bench([*arguments, *["--quick"] * given.quick])
    if given.data:
        print("\nQuality against evaluations", flush=True)
        asked = [*given.models, "--data", given.data, "--out", str(given.out), *["--quick"] * given.quick]
        evaluations.main(asked)


if __name__ == "__main__":
    main()
