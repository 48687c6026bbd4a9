"""Many trainings side by side on one device: trials of settings, curves over a budget, finished models.

    python -m benchmarks.trials trials.json --out trials --workers 8

Small networks leave most of a GPU idle; several processes fill it. `trials.json` is a list of

    {"name": "a", "preset": "flow-32-cpu", "data": "fashion", "images": "20k"}

with, where wanted, "settings" (`key=value` texts), "shares" of the budget at which a run is paused and measured on val
(default: its end), "samples" (0: nothing is measured) and "seeds" of the measuring, "controls" (a list of lists of
`key=value` texts: what to measure with, default the sampler's own), and "publish": a name. Trials start in order. Each
ends as NAME.json and NAME.png (a row a class, seeds in order, nothing chosen) in the out folder; what stands there is
not repeated, and an interrupted trial goes on. A trial that fails is written down as NAME.error. In the end README.md
has a row a measuring, and the pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from benchmarks import plots
from benchmarks.families import cell, go_on, prepared, spread
from kartina.data.imageset import open_set
from kartina.handlers.evaluate import evaluate_model
from kartina.handlers.load import load_any, parse_controls
from kartina.handlers.publish import publish
from kartina.models.model import Model
from kartina.training import budget as budgets
from kartina.training.loop import pick_device

COLUMNS = 10


def scores(model: Model, data: str, trial: dict[str, Any], controls: list[str]) -> dict[str, Any]:
    chosen = Model(model.family, model.ref, data=model.data, defaults={"generate": parse_controls(controls)})
    seeds, samples = trial.get("seeds", [0]), trial.get("samples", 600)
    found = evaluate_model(chosen, open_set(data), "val", seeds, samples, batch=128)
    return {"controls": controls, **found}


def one(trial: dict[str, Any], out: Path, device: str) -> dict[str, Any]:
    """Train, measure, draw and publish one trial."""
    total = budgets.images(str(trial["images"]))
    run = prepared(trial["preset"], trial["data"], images=total, settings=trial.get("settings", ()))
    rows = []
    for share in trial.get("shares", [1.0]):
        status = go_on(run, round(share * total))
        model = load_any(run.id, device)
        for controls in trial.get("controls", [[]]) if trial.get("samples", 600) else ():
            found = scores(model, trial["data"], trial, controls)
            rows.append({"share": share, "images": status["images"], "seconds": status["seconds"], **found})
    shown = range(min(10, model.family.classes))
    if "generate" not in model.family.capabilities():
        shutil.copy(sorted((run.path / "grids").glob("*.png"))[-1], out / f"{trial['name']}.png")
    else:
        sheet = model.sample([k for k in shown for _ in range(COLUMNS)], n=COLUMNS * len(shown), seed=0)
        sheet.save(out / f"{trial['name']}.png")
    if trial.get("publish"):
        publish(run.id, trial["publish"], evaluate=False, precision=trial.get("precision", "fp16"))
    return {"trial": trial, "run": run.id, "warnings": status["warnings"], "device": device, "rows": rows}


def work(trials: list[dict[str, Any]], out: Path, device: str) -> None:
    """Take trials, in order, that no other worker has taken."""
    torch.set_num_threads(1)
    for trial in trials:
        done, claim = out / f"{trial['name']}.json", out / f".{trial['name']}.claim"
        if done.exists():
            continue
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        begun = time.perf_counter()
        try:
            found = one(trial, out, device)
        except Exception:  # one trial's failure is told and written down; the others are still to be made
            (out / f"{trial['name']}.error").write_text(traceback.format_exc())
            print(f"{trial['name']}: failed", flush=True)
            continue
        text = json.dumps({**found, "wall": time.perf_counter() - begun})
        temp = done.with_suffix(".tmp")
        temp.write_text(text)
        temp.replace(done)
        print(line(json.loads(text)), flush=True)


def line(found: dict[str, Any]) -> str:
    """A trial in one line: its last row."""
    if not found["rows"]:
        return f"{found['trial']['name']}: trained"
    row = found["rows"][-1]
    m = {k: v["value"] for k, v in row["metrics"].items()}
    numbers = " ".join(f"{k} {v:.3f}" if v is not None else f"{k} -" for k, v in m.items())
    rate = row["images"] / max(row["seconds"], 1e-9)
    return f"{found['trial']['name']}: {row['images']:,} images, {rate:.0f} img/s, {numbers}"


def page(title: str, found: list[dict[str, Any]]) -> str:
    """A table for each identity that numbers have, with a row a measuring; a picture a trial."""
    lines, tables = [f"# {title}"], dict[str, list[tuple[dict[str, Any], dict[str, Any]]]]()
    for one in found:
        for row in one["rows"]:
            tables.setdefault(json.dumps(row["metrics"]["fd"]["identity"]), []).append((one, row))
    for measured in tables.values():
        lines += ["", *table(measured)]
    for one in found:
        t = one["trial"]
        settings = f", `{' '.join(t['settings'])}`" if t.get("settings") else ""
        lines += ["", f"## {t['name']}", "", f"{t['preset']}{settings}", "", f"![{t['name']}]({t['name']}.png)"]
    return "\n".join(lines) + "\n"


def table(measured: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[str]:
    """Trials' rows of one identity, the floor, and what they were measured on."""
    heads = "trial", "images", "class agreement", "coverage", "diversity", "worst class", "FD-domain"
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for one, row in measured:
        m, controls = row["metrics"], " ".join(row["controls"])
        classes = [(c["diversity"], c["class"]) for c in row["per_class"] if c["diversity"] is not None]
        worst = "{:.2f} ({})".format(*min(classes)) if classes else ""
        cells = [cell(m[k], d) for k, d in (("class_agreement", 3), ("coverage", 3), ("diversity", 2), ("fd", 2))]
        name = one["trial"]["name"] + (f", {controls}" if controls else "")
        lines.append(f"| {name} | {row['images']:,} | {' | '.join(cells[:3])} | {worst} | {cells[3]} |")
    m = measured[-1][1]["metrics"]
    floors = [f"{m[k]['floor']:.{d}f}" for k, d in (("class_agreement", 3), ("coverage", 3), ("diversity", 2))]
    i = m["fd"]["identity"]
    return [
        *lines,
        f"| *real images (floor)* | | {' | '.join(floors)} | | {m['fd']['floor']:.2f} |",
        "",
        f"On {i['split']} of {i['data'][:12]}: {i['n']:,} generated against {i['m']:,} real images,",
        f"{i['extractor']} {i['extractor_hash'][:12]}, {spread(i['seeds'])}; one training each.",
    ]


def curves(found: list[dict[str, Any]], where: Path) -> bool:
    """Plot FD-domain against active minutes and against images, of trials measured at several shares."""
    several = [one for one in found if len({row["share"] for row in one["rows"]}) > 1]
    if not several:
        return False
    made, (minutes, images) = plots.figure(2, width=5.5)
    for one in several:
        rows = list({row["images"]: row for row in one["rows"]}.values())
        fd = [row["metrics"]["fd"]["value"] for row in rows]
        minutes.plot([row["seconds"] / 60 for row in rows], fd, marker="o", label=one["trial"]["name"])
        images.plot([row["images"] for row in rows], fd, marker="o", label=one["trial"]["name"])
    for axes, label in ((minutes, "active minutes, beside the others"), (images, "images seen")):
        axes.set(xscale="log", yscale="log", xlabel=label)
        plots.logarithmic(axes.xaxis)
        plots.logarithmic(axes.yaxis)
        plots.finish(axes)
    minutes.set_ylabel("FD-domain, val")
    made.savefig(where)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("trials", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--title", default="Trials")
    parser.add_argument("--worker", action="store_true", help="be one of the workers")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    trials, device = json.loads(given.trials.read_text()), pick_device(given.device)
    if given.worker:
        work(trials, given.out, device)
        return
    for claim in given.out.glob(".*.claim"):  # of workers that were stopped
        claim.unlink()
    command = [sys.executable, "-m", "benchmarks.trials", *sys.argv[1:], "--worker"]
    workers = [subprocess.Popen(command) for _ in range(min(given.workers, len(trials)))]
    codes = [worker.wait() for worker in workers]
    files = [given.out / f"{trial['name']}.json" for trial in trials]
    found = [json.loads(f.read_text()) for f in files if f.exists()]
    text = page(given.title, found)
    if curves(found, given.out / "curves.png"):
        text += "\n## Curves\n\n![FD-domain against minutes and images](curves.png)\n"
    (given.out / "README.md").write_text(text)
    for trial in trials:
        file = given.out / f"{trial['name']}.json"
        print(line(json.loads(file.read_text())) if file.exists() else f"{trial['name']}: not finished")
    sys.exit(max(codes) or not all(f.exists() for f in files))


if __name__ == "__main__":
    main()
