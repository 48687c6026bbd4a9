"""Quality against network evaluations: FD-domain of each solver at 1, 2, 4, ... evaluations, beside one-step models.

    python -m benchmarks.evaluations --data fashion --device cuda --out docs/results/evaluations MODEL|RUN ...

An evaluation is one pass of the solver's state through the network: a step of Euler, DDIM, DPM++ and DEIS takes one, a
step of Heun two, but the last one, which ends at t = 0, takes one. So Heun makes 1, 3, 7, 15, 31 where the others make
1, 2, 4, 8, 16, 32, and it is drawn where it is. Guidance evaluates each image a second time, without its label, in the
same batch: `passes` are images through the networks for each image made, counted as they happen. A MeanFlow has its
guidance trained in and makes one pass an evaluation. Guidance is 1.5 where nothing else is said.

DDIM with eta 0 is Euler's step here (`generators.diffusive`), so DDIM is drawn with eta 1, its ancestral form. Every
point is the mean of the generation seeds, on the same references; the band is from the least to the greatest.
Resumable: what stands in results.json is not measured again, so a run that was trained further needs another folder.
Writes results.json, README.md and evaluations.png.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from kartina.data.imageset import ImageSet, open_set
from kartina.errors import ConfigError
from kartina.generators.base import Family
from kartina.generators.diffusive import DiffusiveFamily
from kartina.handlers.evaluate import generator
from kartina.handlers.load import load_any
from kartina.metrics.classifier import domain_classifier
from kartina.metrics.evaluate import Eyes, references, score, score_copies
from kartina.metrics.protocol import PROTOCOL
from kartina.models.model import Model

EVALUATIONS = (1, 2, 4, 8, 16, 32)
ONE_STEP = (1, 2, 4, 8)  # evaluations of a MeanFlow: all that it may take
PLAIN = {"guidance": 1.5, "spacing": 1.0}
SOLVERS: dict[str, dict[str, Any]] = {  # the name in the plot -> controls
    "Euler": {"solver": "euler", **PLAIN},
    "Heun": {"solver": "heun", **PLAIN},
    "DDIM, eta 1": {"solver": "ddim", "eta": 1.0, **PLAIN},
    "DPM++(2M)": {"solver": "dpm++", **PLAIN},
    "DEIS, guidance 1.25, spacing 1.25": {"solver": "deis", "guidance": 1.25, "spacing": 1.25},
}
COLOURS = {
    "Euler": "#0b5fa5",
    "Heun": "#c2410c",
    "DDIM, eta 1": "#3f7d20",
    "DPM++(2M)": "#6b21a8",
    "DEIS, guidance 1.25, spacing 1.25": "#0f766e",
    "steps": "#111111",
}
STEPS = "steps"  # the name of a model's own way, where there are no solvers
NEAR, FEW = 1.1, 8  # the aim: so many evaluations within so many times the best
ONE = 1.5  # the aim of one step


@dataclass(frozen=True)
class Point:
    """One way of making images."""

    solver: str
    controls: dict[str, Any]
    evaluations: int  # as they follow from the controls


def evaluations_of(solver: str, steps: int) -> int:
    """How many evaluations a solver makes in `steps`: Heun's last step is Euler's."""
    return 2 * steps - 1 if solver == "heun" else steps


def points(model: Model, counts: Sequence[int], ways: Collection[str] = tuple(SOLVERS)) -> list[Point]:
    """What is measured of a model: each of the ways at no more than each count of evaluations."""
    if not isinstance(model.family, DiffusiveFamily):
        return [Point(STEPS, {"steps": n}, n) for n in ONE_STEP if n <= max(counts)]
    found = []
    for name, controls in ((name, controls) for name, controls in SOLVERS.items() if name in ways):
        heun = controls["solver"] == "heun"
        for steps in dict.fromkeys((n + 1) // 2 if heun else n for n in counts):
            found.append(Point(name, {**controls, "steps": steps}, evaluations_of(controls["solver"], steps)))
    return found


@contextmanager
def counting(family: Family) -> Iterator[list[int]]:
    """The batch sizes of the calls of a family's networks, as they come."""
    sizes: list[int] = []
    nets = [getattr(family, part) for part in ("generator", "weak") if hasattr(family, part)]
    handles = [net.register_forward_hook(lambda module, given, out: sizes.append(len(out))) for net in nets]
    try:
        yield sizes
    finally:
        for handle in handles:
            handle.remove()


class Judged:
    """Real images, and what images made instead of them score."""

    def __init__(self, data: ImageSet, samples: int, seeds: Sequence[int], batch: int):
        self.data, self.seeds, self.batch = data, tuple(seeds), batch
        self.judge = domain_classifier(data)
        self.eyes = Eyes.domain(self.judge)
        self.real = references(data, "val", samples, self.eyes)
        self.floor = fmean(score_copies(data, self.real, self.eyes, seed).whole["fd"] for seed in seeds)
        self.identity = {"extractor": "FD-domain", "extractor_hash": self.judge.hash, "data": data.hash, "split": "val",
                         "n": len(self.real.labels), "m": len(self.real.labels), "seeds": list(self.seeds),
                         "protocol": PROTOCOL}  # fmt: skip

    def measure(self, model: Model, point: Point) -> dict[str, Any]:
        """FD-domain of each generation seed, agreement and coverage, and the passes an image."""
        asked = replace(model, defaults={"generate": point.controls})
        scores: list[dict[str, float]] = []
        with counting(model.family) as calls:
            for seed in self.seeds:
                images = generator(asked, self.batch)(self.real.labels, seed)
                scores.append(score(self.eyes.look(images), self.real.labels, self.real).whole)
        made = len(self.seeds) * len(self.real.labels)
        return {
            "evaluations": point.evaluations,
            "passes": round(sum(calls) / made, 3),
            "calls": len(calls),
            "fd": fmean(s["fd"] for s in scores),
            "fd of seeds": [s["fd"] for s in scores],
            "class_agreement": fmean(s["class_agreement"] for s in scores),
            "coverage": fmean(s["coverage"] for s in scores),
            "controls": point.controls,
        }


# -- what it shows -----------------------------------------------------------------------------------------------------

Rows = dict[str, dict[str, Any]]  # "solver/steps" -> what `measure` found
Results = dict[str, Any]  # {"identity", "floor", "models": {ref: {"family", "default", "rows"}}}


def lowest(rows: Rows, most: int | None = None) -> tuple[str, dict[str, Any]]:
    """The key and row of the lowest FD-domain, with at most so many evaluations."""
    return min(
        ((k, r) for k, r in rows.items() if most is None or r["evaluations"] <= most), key=lambda kr: kr[1]["fd"]
    )


def cheapest(rows: Rows, within: float) -> tuple[str, dict[str, Any]]:
    """The fewest evaluations that are within so many times the lowest FD-domain; of equally many, the lower."""
    limit = within * lowest(rows)[1]["fd"]
    return min(
        ((k, r) for k, r in rows.items() if r["fd"] <= limit), key=lambda kr: (kr[1]["evaluations"], kr[1]["fd"])
    )


def told(key: str, row: dict[str, Any]) -> str:
    """Euler, 8 evaluations (16 passes): 0.93."""
    solver = "" if key.startswith(STEPS) else f"{key.rpartition('/')[0]}, "
    plural = "s" if row["evaluations"] > 1 else ""
    return f"{solver}{row['evaluations']} evaluation{plural} ({row['passes']:g} passes): {row['fd']:.2f}"


def verdicts(results: Results) -> list[str]:
    """For each model: the best, the cheapest that are near it, one step and at most eight evaluations over the best."""
    models = results["models"]
    best = min(lowest(m["rows"])[1]["fd"] for m in models.values())
    lines = []
    for ref, m in models.items():
        rows = m["rows"]
        key, row = lowest(rows)
        one, few = lowest(rows, 1)[1]["fd"], lowest(rows, FEW)[1]["fd"]
        lines += [
            f"- **{ref}** ({m['family']}): best {told(key, row)}; cheapest within {NEAR:g} times of it: "
            f"{told(*cheapest(rows, NEAR))}. One evaluation over its best: {one / row['fd']:.2f}, over the best of all "
            f"models: {one / best:.2f} (aim: {ONE:g}); at most {FEW} evaluations over its best: {few / row['fd']:.2f} "
            f"(aim: {NEAR:g}), over the best of all: {few / best:.2f}. Default controls: {m['default']}.",
        ]
    return lines


def table(results: Results) -> list[str]:
    lines = ["| model | way | steps | evaluations | passes | FD-domain | least to greatest | agreement | coverage |",
             "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for ref, m in results["models"].items():
        for key, r in m["rows"].items():
            low, high = min(r["fd of seeds"]), max(r["fd of seeds"])
            lines.append(
                f"| {ref} | {key.rpartition('/')[0]} | {r['controls']['steps']} | {r['evaluations']} | {r['passes']:g} "
                f"| {r['fd']:.2f} | {low:.2f} to {high:.2f} | {r['class_agreement']:.3f} | {r['coverage']:.3f} |"
            )
    return lines


def draw(results: Results, file: Path) -> None:
    """A panel for each model with solvers; one-step models are black in each. Both axes are logarithmic."""
    from matplotlib.ticker import NullFormatter

    from benchmarks import plots

    models = results["models"]
    own = {ref: m for ref, m in models.items() if not any(k.startswith(STEPS) for k in m["rows"])}
    others = {ref: m for ref, m in models.items() if ref not in own}
    panels = list(own) or ["one-step models"]
    figure, all_axes = plots.figure(len(panels), width=7.0 if len(panels) == 1 else 4.8)
    for axes, panel in zip(all_axes, panels, strict=True):
        shown = [(name, own[panel]["rows"], name, "-") for name in SOLVERS] if panel in own else []
        for (ref, m), style in zip(others.items(), ("--", ":", "-.", "--"), strict=False):
            shown.append((STEPS, m["rows"], ref, style))
        for name, rows, label, style in shown:
            line = sorted((r for k, r in rows.items() if k.rpartition("/")[0] == name), key=lambda r: r["evaluations"])
            if not line:
                continue
            x, colour = [r["evaluations"] for r in line], COLOURS[name]
            axes.plot(x, [r["fd"] for r in line], style, marker="o", markersize=4, color=colour, label=label)
            spread = ([min(r["fd of seeds"]) for r in line], [max(r["fd of seeds"]) for r in line])
            axes.fill_between(x, *spread, color=colour, alpha=0.15, linewidth=0)
        axes.axhline(results["floor"], color="#777777", linewidth=1, linestyle=(0, (1, 2)), label="real images")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(EVALUATIONS, [str(n) for n in EVALUATIONS])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(title=panel, xlabel="evaluations of the network an image")
        plots.finish(axes)
    plots.logarithmic(all_axes[0].yaxis)
    all_axes[0].set_ylabel("FD-domain on val")
    figure.savefig(file)


def page(results: Results, given: argparse.Namespace) -> str:
    i = results["identity"]
    asked = "" if given.evaluations == [*EVALUATIONS] else f" --evaluations {' '.join(map(str, given.evaluations))}"
    asked += "" if given.ways == [*SOLVERS] else f" --ways {' '.join(map(shlex.quote, given.ways))}"
    refs = " ".join(results["models"])
    return (
        "\n".join(
            [
                "# Quality against evaluations",
                "",
                *(__doc__ or "").split("\n\n")[2].strip().split("\n"),
                "",
                f"{given.data}: {i['n']:,} images against {i['m']:,} real ones of {i['split']}, generation seeds",
                f"{i['seeds']}, "
                f"{i['extractor']} {i['extractor_hash'][:12]}. As many real training images score "
                f"{results['floor']:.2f}.",
                "",
                "![FD-domain against evaluations](evaluations.png)",
                "",
                *verdicts(results),
                "",
                *table(results),
                "",
                "Repeat it with",
                "",
                f"    python -m benchmarks.evaluations --data {given.data} --samples {given.samples} "
                f"--seeds {' '.join(map(str, given.seeds))}{asked} --out {given.out.as_posix()} {refs}",
            ]
        )
        + "\n"
    )


def main(arguments: list[str]) -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("models", nargs="+", metavar="MODEL|RUN")
    options.add_argument("--data", required=True)
    options.add_argument("--device", default="cpu")
    options.add_argument("--samples", type=int, default=600, help="generated images per generation seed")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="generation seeds")
    options.add_argument("--evaluations", type=int, nargs="+", default=list(EVALUATIONS))
    options.add_argument("--ways", nargs="+", choices=[*SOLVERS], default=[*SOLVERS], help="of those with solvers")
    options.add_argument("--batch", type=int, default=200)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--quick", action="store_true", help="1 and 2 evaluations of 60 images, one seed")
    given = options.parse_args(arguments)
    if given.quick:
        given.samples, given.seeds, given.evaluations = 60, [0], [1, 2]
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "results.json"
    models = {ref: load_any(ref, given.device) for ref in given.models}  # a wrong name is told before the first image
    judged = Judged(open_set(given.data), given.samples, given.seeds, given.batch)
    new: Results = {"identity": judged.identity, "floor": judged.floor, "models": {}}
    results: Results = json.loads(file.read_text()) if file.is_file() else new
    if results["identity"] != judged.identity:
        raise ConfigError(
            f"Found numbers in {file} of other images, seeds or references ({results['identity']}); expected "
            f"{judged.identity}. They are not to be compared: choose another --out."
        )
    for ref, model in models.items():
        chosen = model.controls().model_dump(mode="json")
        default = ", ".join(f"{k} {chosen[k]}" for k in ("solver", "steps", "spacing", "guidance") if k in chosen)
        mine = results["models"].setdefault(ref, {"family": model.family.name, "default": default, "rows": {}})
        for point in points(model, sorted({1, *given.evaluations}), given.ways):
            key = f"{point.solver}/{point.controls['steps']}"
            if key not in mine["rows"]:
                mine["rows"][key] = judged.measure(model, point)
                print(ref, told(key, mine["rows"][key]), flush=True)
                file.write_text(json.dumps(results, indent=1))
    draw(results, given.out / "evaluations.png")
    (given.out / "README.md").write_text(page(results, given))
    print("\n".join(verdicts(results)))


if __name__ == "__main__":
    main(sys.argv[1:])
