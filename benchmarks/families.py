"""Families side by side on one data set at an equal time budget: trained one after another, measured, drawn.

    python -m benchmarks.families --data fashion --budget 10m --out docs/results/fashion-10m PRESET ...

Resumable: a finished run, or a finished measurement, is not repeated; an interrupted run goes on. Writes results.json,
README.md and a fixed-seed grid per preset. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from benchmarks.training import ceiling
from kartina import registry
from kartina.generators.base import generate, rows_for
from kartina.handlers.evaluate import evaluate_ref
from kartina.handlers.load import load_any
from kartina.nets.precision import pick
from kartina.study.trials import images_per_step
from kartina.training import budget as budgets
from kartina.training.folder import names
from kartina.training.loop import Trainer, cores, plan, train
from kartina.training.run import Run

COLUMNS = 10


def trained(
    preset: str, data: str, seconds: float | None = None, *, images: int | None = None, settings: Sequence[str] = ()
) -> Run:
    """`prepared`, trained to its end."""
    run = prepared(preset, data, seconds, images=images, settings=settings)
    if run.status()["status"] != "finished":
        train(run, lambda p: print(f"\r{run.id} {p.images:,}/{p.total:,} {p.rate:.0f} img/s ", end="", flush=True))
        print()
    return run


def quietly(p: Any) -> None:
    """Tell nothing."""


def go_on(run: Run, images: int, told: Callable[[Any], None] = quietly) -> dict[str, Any]:
    """Train until `images` have been seen, to the step; the run's status then."""
    left = math.ceil((images - run.status().get("images", 0)) / images_per_step(run.config))

    def enough() -> bool:
        nonlocal left
        left -= 1
        return left <= 0 and images < run.config.images

    if left > 0:
        train(run, told, enough)
    return run.status()


def prepared(
    preset: str,
    data: str,
    seconds: float | None = None,
    *,
    images: int | None = None,
    settings: Sequence[str] = (),
    device: str = "auto",
) -> Run:
    """The run of this preset, `key=value` settings, data and budget (one of the two) on `device`: found, or new."""
    wanted = plan(preset, data, images=images or 1, settings=tuple(settings), device=device)
    config = registry.family(wanted.family).Config
    for name in names():
        run = Run.open(name)
        found = run.config
        if (found.preset, found.data, found.data_hash, found.budget) != (preset, data, wanted.data_hash, seconds):
            continue
        if found.device != wanted.device:
            continue
        alike = config(**found.config).model_dump(mode="json") == wanted.config
        # A time budget may have room for fewer sample grids than the preset asks for.
        same = {"grids": wanted.train.grids, "threads": wanted.train.threads}  # threads decide the last bits alone
        alike = alike and found.train.model_copy(update=same) == wanted.train
        if alike and images in (None, found.images):
            return run
    return Run.create(plan(preset, data, budget=seconds, images=images, settings=tuple(settings), device=device))


def flops(run: Run) -> float:
    """FLOPs of training per image seen, counted over one cycle of phases."""
    trainer = Trainer(run.config, run.data())
    cycle = math.lcm(*(p.every for p in trainer.phases))
    with FlopCounterMode(display=False) as counter:
        for _ in range(cycle):
            trainer.step()
    return counter.get_total_flops() / (cycle * trainer.images_per_step)


def sampling(ref: str) -> float:
    """ms per image at batch 16, default controls."""
    family = load_any(ref).family
    generate(family, rows_for(family, [0], 16, 0), 16)
    begun = time.perf_counter()
    generate(family, rows_for(family, [0], 32, 1), 16)
    return (time.perf_counter() - begun) / 32 * 1000


def measure(run: Run, out: Path, samples: int, name: str | None = None, seconds: float | None = None) -> dict[str, Any]:
    """Numbers on val, speed, and the grid, drawn as `name` (default: the preset).

    `seconds` is the budget that an idle, timed warm-up fitted the run's images into: a disturbed training takes longer
    and is the same. Without it, the active seconds count.
    """
    found = evaluate_ref(run.id, seeds=(0, 1, 2), samples=samples)
    status = run.status()
    rate = status["images"] / (seconds or status["seconds"])
    top = ceiling(precision=pick(run.config.train.precision, run.config.device))
    model = load_any(run.id)
    shown = range(min(10, model.family.classes))
    sheet = model.sample([k for k in shown for _ in range(COLUMNS)], n=COLUMNS * len(shown), seed=0)
    sheet.save(out / f"{name or run.config.preset}.png")
    return {
        **found,
        "run": run.id,
        "images": status["images"],
        "seconds": status["seconds"],
        "img/s": rate,
        "gflop/s": rate * flops(run) / 1e9,
        "ceiling": top,
        "precision": pick(run.config.train.precision, run.config.device),
        "ms/sample": sampling(run.id),
        "warnings": status["warnings"],
    }


def cell(value: dict[str, Any], digits: int) -> str:
    """The value with its interval, or why there is none."""
    if value["value"] is None:
        return str(value["reason"])
    if value["interval"] is None:
        return f"{value['value']:.{digits}f} (one seed)"
    low, high = value["interval"]
    return f"{value['value']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def spread(seeds: Sequence[int]) -> str:
    """Which generation seeds there are, and what is in brackets for that."""
    if len(seeds) == 1:
        return f"one generation seed ({seeds[0]}), so no intervals"
    return f"generation seeds {list(seeds)}; in brackets 95% intervals over them"


def table(results: dict[str, Any]) -> str:
    lines = [
        "| preset | images | img/s | GFLOP/s (share of ceiling) | ms/sample | class agreement | coverage | diversity "
        "| worst class diversity | FD-domain |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for preset, r in results.items():
        m = r["metrics"]
        worst = min((c["diversity"], c["class"]) for c in r["per_class"] if c["diversity"] is not None)
        lines.append(
            f"| {preset} | {r['images']:,} | {r['img/s']:.0f} | {r['gflop/s']:.0f} ({r['gflop/s'] / r['ceiling']:.0%}) "
            f"| {r['ms/sample']:.1f} | {cell(m['class_agreement'], 3)} | {cell(m['coverage'], 3)} "
            f"| {cell(m['diversity'], 2)} | {worst[0]:.2f} ({worst[1]}) | {cell(m['fd'], 2)} |"
        )
    m = next(iter(results.values()))["metrics"]
    floors = [m[k]["floor"] for k in ("class_agreement", "coverage", "diversity", "fd")]
    lines.append(
        f"| *real images (floor)* | | | | | {floors[0]:.3f} | {floors[1]:.3f} | {floors[2]:.2f} | | {floors[3]:.2f} |"
    )
    return "\n".join(lines) + "\n"


def page(results: dict[str, Any], given: argparse.Namespace) -> str:
    """The table with what it means, and the grids."""
    first = next(iter(results.values()))
    identity = first["metrics"]["fd"]["identity"]
    lines = [
        f"# {given.data}, {given.budget} each",
        "",
        f"Each trained for the images that a timed warm-up fitted into the budget on {machine()},",
        "idle then (img/s is that count over the budget);",
        f"measured on {identity['split']} with",
        f"{identity['n']:,} generated against {identity['m']:,} real images, seeds {identity['seeds']}, in the",
        f"features of a classifier trained on the real training split ({identity['extractor']}, ",
        f"{identity['extractor_hash'][:12]}). In brackets: 95% intervals over generation seeds (one training each, so",
        "retraining is not in them). The floor of coverage, diversity and FD is what as many real training images",
        f"score; that of agreement is the real {identity['split']} split.",
        "",
        table(results),
        f"The ceiling is this machine's best {first.get('precision', 'bf16')} convolution: {first['ceiling']:.0f} "
        "GFLOP/s. Repeat it with",
        "",
        f"    python -m benchmarks.families --data {given.data} --budget {given.budget} --samples {given.samples} "
        f"--out {given.out.as_posix()} {' '.join(results)}",
        "",
        "Diversity of every class, as a share of the real one:",
        "",
        "| class | " + " | ".join(results) + " |",
        "|---|" + "---|" * len(results),
    ]
    classes = [row["class"] for row in first["per_class"]]
    for name in sorted(classes):
        cells = [next(r["diversity"] for r in found["per_class"] if r["class"] == name) for found in results.values()]
        lines.append(f"| {name} | " + " | ".join(f"{c:.2f}" for c in cells) + " |")
    for preset in results:
        lines += ["", f"## {preset}", "", f"![{preset}: a row a class, seeds in order, nothing chosen]({preset}.png)"]
    return "\n".join(lines) + "\n"


def machine() -> str:
    """The processor and how many cores of it are used."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    names_ = [line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")]
    return f"{cores()} cores of an {names_[0] if names_ else platform.processor() or 'unknown processor'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("presets", nargs="+", metavar="PRESET[=RUN]", help="RUN: a finished run to take as it is")
    parser.add_argument("--data", required=True)
    parser.add_argument("--budget", default="3m")
    parser.add_argument("--samples", type=int, default=1000, help="generated images per generation seed")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "results.json"
    results = json.loads(file.read_text()) if file.is_file() else {}
    seconds = budgets.seconds(given.budget)
    asked = dict(p.split("=") if "=" in p else (p, "") for p in given.presets)
    given.presets = list(asked)
    runs = {p: Run.open(run) if run else trained(p, given.data, seconds) for p, run in asked.items()}
    for preset, run in runs.items():
        if results.get(preset, {}).get("run") != run.id:
            results[preset] = measure(run, given.out, given.samples, seconds=seconds)
            file.write_text(json.dumps(results, indent=1))
        (given.out / "README.md").write_text(page({p: results[p] for p in given.presets if p in results}, given))
    print(table({p: results[p] for p in given.presets}))


if __name__ == "__main__":
    main()
