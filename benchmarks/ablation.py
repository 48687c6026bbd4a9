"""Improved GAN's five techniques: all off, each alone, all on, at equal images or equal time.

    python -m benchmarks.ablation --data fashion --images 40k --seeds 0 --out docs/results/improved-gan

Everything but the switches is the preset's. At equal images (the default) a technique is not charged for its time,
which the column of images a second shows; `--budget 3m` gives each the same seconds instead. Resumable: a finished run,
or a finished measurement, is not repeated; an interrupted run goes on. Writes results.json, README.md and a grid a run.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.families import cell, machine, measure, trained
from kartina.training import budget as budgets

PRESET = "improved-gan-32-cpu"
TECHNIQUES = (
    "feature_matching",
    "minibatch_discrimination",
    "historical_averaging",
    "label_smoothing",
    "virtual_batch_norm",
)
VARIANTS: dict[str, tuple[str, ...]] = {
    "all off": (),
    **{name.replace("_", " "): (name,) for name in TECHNIQUES},
    "all on": TECHNIQUES,
}
COLUMNS = (("class_agreement", 3), ("coverage", 3), ("diversity", 2), ("fd", 2))

Results = dict[str, dict[str, Any]]  # variant -> training seed -> what `measure` found


def settings(on: tuple[str, ...], seed: int) -> list[str]:
    """`key=value` for the switches that are on, the others off."""
    return [f"seed={seed}", *(f"{name}={str(name in on).lower()}" for name in TECHNIQUES)]


def number(found: list[dict[str, Any]], metric: str, digits: int) -> str:
    """One training: the value with its interval over generation seeds. Several: their mean, least and greatest. A dash
    where one of them has no value (diversity of classes with too few images)."""
    values = [r["metrics"][metric]["value"] for r in found]
    if None in values:
        return "–"
    if len(found) == 1:
        return cell(found[0]["metrics"][metric], digits)
    return f"{fmean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def table(results: Results) -> str:
    """A row a variant, then the real images."""
    lines = [
        "| on | images | img/s | class agreement | coverage | diversity | FD-domain | worst class diversity |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for variant, seeds in results.items():
        found = list(seeds.values())
        diverse = [(c["diversity"], c["class"]) for r in found for c in r["per_class"] if c["diversity"] is not None]
        worst = "{:.2f} ({})".format(*min(diverse)) if diverse else "–"
        numbers = " | ".join(number(found, metric, digits) for metric, digits in COLUMNS)
        lines.append(
            f"| {variant} | {fmean(r['images'] for r in found):,.0f} | {fmean(r['img/s'] for r in found):.0f} "
            f"| {numbers} | {worst} |"
        )
    metrics = next(iter(next(iter(results.values())).values()))["metrics"]
    real = [(metrics[metric]["floor"], digits) for metric, digits in COLUMNS]
    floors = " | ".join("–" if floor is None else f"{floor:.{digits}f}" for floor, digits in real)
    return "\n".join([*lines, f"| *real images (floor)* | | | {floors} | |"]) + "\n"


def page(results: Results, given: argparse.Namespace) -> str:
    """The table with what it means, and the grids."""
    equal = f"--budget {given.budget}" if given.budget else f"--images {given.images}"
    each = given.budget or f"{given.images} images"
    seeds = " ".join(map(str, given.seeds))
    identity = next(iter(next(iter(results.values())).values()))["metrics"]["fd"]["identity"]
    lines = [
        "# Improved GAN: what each technique does",
        "",
        f"Preset {PRESET} on {given.data}, {each} each, training seeds {seeds}, on",
        f"{machine()}; switches as in the first column, all else alike. Measured on {identity['split']} with",
        f"{identity['n']:,} generated against {identity['m']:,} real images, generation seeds {identity['seeds']}.",
        "One training: 95% intervals over generation seeds in brackets (retraining is not in them). Several: mean,",
        "least and greatest over trainings.",
        "",
        table(results),
        "Repeat it with",
        "",
        f"    python -m benchmarks.ablation --data {given.data} {equal} --seeds {seeds} --samples {given.samples} "
        f"--out {given.out.as_posix()}",
    ]
    for variant, found in results.items():
        for seed in found:
            about = f"{variant}, seed {seed}: a row a class, seeds in order, nothing chosen"
            lines += ["", f"## {variant}, training seed {seed}", "", f"![{about}]({picture(variant, seed)}.png)"]
    return "\n".join(lines) + "\n"


def picture(variant: str, seed: str) -> str:
    return f"{variant.replace(' ', '-')}-{seed}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", default="40k", help="images seen by each training")
    parser.add_argument("--budget", help="time for each training, in the place of --images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="training seeds")
    parser.add_argument("--samples", type=int, default=1000, help="generated images per generation seed")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "results.json"
    known: Results = json.loads(file.read_text()) if file.is_file() else {}
    results: Results = {}
    seconds = budgets.seconds(given.budget) if given.budget else None
    images = None if given.budget else budgets.images(given.images)
    for seed in given.seeds:
        for variant, on in VARIANTS.items():
            run = trained(PRESET, given.data, seconds, images=images, settings=settings(on, seed))
            found = known.get(variant, {}).get(str(seed), {})
            if found.get("run") != run.id:
                found = measure(run, given.out, given.samples, picture(variant, str(seed)))
                known.setdefault(variant, {})[str(seed)] = found
                file.write_text(json.dumps(known, indent=1))
            results.setdefault(variant, {})[str(seed)] = found
            (given.out / "README.md").write_text(page(results, given))
    print(table(results))


if __name__ == "__main__":
    main()
