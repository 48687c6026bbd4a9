"""FD-domain against the images seen: does a family still learn at the end of its budget?

    python -m benchmarks.curve --data cells --images 60k --out docs/results/cells-curve PRESET ...

Each run is paused at every share of the budget, measured on val, and gone on with, bit for bit. Resumable: what stands
in results.json is not measured again, a finished run is not repeated. Writes results.json, README.md and, for each
preset, a grid whose columns are the shares: a row a class, one seed a row.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.families import cell, go_on, machine, prepared
from kartina.handlers.evaluate import evaluate_ref
from kartina.handlers.load import load_any
from kartina.models import png
from kartina.registry import preset as known
from kartina.training import budget as budgets
from kartina.training.run import Run

SHARES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
EACH = 3  # images of a class in a column of the grid


def shown(p: Any) -> None:
    print(f"\r{p.images:,}/{p.total:,} {p.rate:.0f} img/s ", end="", flush=True)


def measure(run: Run, samples: int) -> dict[str, Any]:
    found = evaluate_ref(run.id, samples=samples)
    status = run.status()
    return {**found, "images": status["images"], "warnings": status["warnings"]}


def column(run: Run) -> np.ndarray[Any, Any]:
    """EACH images of every class below one another: uint8 3,K*EACH*H,W."""
    model = load_any(run.id)
    labels = [k for k in range(len(model.classes)) for _ in range(EACH)]
    strip = np.concatenate(list(model.sample(labels, n=len(labels), seed=0).images), axis=1)
    return np.broadcast_to(strip, (3, *strip.shape[1:]))


def verdict(rows: list[dict[str, Any]]) -> str:
    """What became of FD-domain between the first and the last share."""
    values = [row["metrics"]["fd"]["value"] for row in rows]
    falling = "still falling" if values[-1] < values[-2] else "no longer falling"
    return f"{values[-1] / values[0]:.2f} of its value at {SHARES[0]:.0%}; {falling}"


def page(results: dict[str, Any], given: argparse.Namespace) -> str:
    metric = next(iter(results.values()))["5%"]["metrics"]["fd"]
    identity = metric["identity"]
    lines = [
        f"# {given.data}: FD-domain against images seen",
        "",
        f"{given.images} images each on {machine()}, paused at each share and measured on {identity['split']}:",
        f"{identity['n']:,} generated against {identity['m']:,} real images, seeds {identity['seeds']},",
        f"{identity['extractor']} {identity['extractor_hash'][:12]}. In brackets: 95% intervals over generation seeds.",
        f"As many real training images score {metric['floor']:.2f}.",
        "",
        "| share | " + " | ".join(results) + " |",
        "|---" * (len(results) + 1) + "|",
    ]
    for share in SHARES:
        key = f"{share:.0%}"
        cells = [
            f"{cell(r[key]['metrics']['fd'], 2)}, {r[key]['images']:,} images" if key in r else ""
            for r in results.values()
        ]
        lines.append(f"| {key} | " + " | ".join(cells) + " |")
    done = {p: [r[f"{s:.0%}"] for s in SHARES] for p, r in results.items() if len(r) == len(SHARES)}
    for preset, rows in done.items():
        last = rows[-1]["metrics"]
        lines += [
            "",
            f"## {preset}",
            "",
            f"FD-domain at the end is {verdict(rows)}. Class agreement {cell(last['class_agreement'], 3)}, coverage "
            f"{cell(last['coverage'], 3)}, diversity {cell(last['diversity'], 2)}.",
            "",
            f"![{preset}: a column a share, {EACH} rows a class, nothing chosen]({preset}.png)",
        ]
    lines += [
        "",
        "Repeat it with",
        "",
        f"    python -m benchmarks.curve --data {given.data} --images {given.images} --samples {given.samples} "
        f"--out {given.out.as_posix()} {' '.join(results)}",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("presets", nargs="+", metavar="PRESET")
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", default="60k")
    parser.add_argument("--samples", type=int, default=600, help="generated images per generation seed")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "results.json"
    results = json.loads(file.read_text()) if file.is_file() else {}
    total = budgets.images(given.images)
    for preset in given.presets:
        known(preset)  # a wrong name is told before the first training
    for preset in given.presets:
        run = prepared(preset, given.data, images=total)
        mine = results.setdefault(preset, {})
        columns = given.out / f"{preset}.png"
        for i, share in enumerate(SHARES):
            if f"{share:.0%}" in mine:
                continue
            go_on(run, int(total * share), shown)
            mine[f"{share:.0%}"] = measure(run, given.samples)
            new = column(run)
            if i:
                new = np.concatenate([np.asarray(Image.open(columns).convert("RGB")).transpose(2, 0, 1), new], axis=2)
            columns.write_bytes(png.encode(new))
            file.write_text(json.dumps(results, indent=1))
            (given.out / "README.md").write_text(page({k: v for k, v in results.items() if v}, given))
    print((given.out / "README.md").read_text())


if __name__ == "__main__":
    main()
