"""A study that is killed three times reports what an undisturbed one reports.

    python -m benchmarks.study_kills --budget 60s --out OUT

Runs a study of three presets x two seeds twice, each in a home of its own under OUT: once undisturbed, once killed with
SIGKILL at random moments and resumed, with the image counts that the first one measured. Then both reports are
compared, without what a clock or a memory meter said, and every weight byte for byte. Resumable: what is there is not
run again, and kills that were made are remembered. Writes OUT/result.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from kartina.study.results import timeless
from kartina.training import budget as budgets

PRESETS = ("vae-32-cpu", "dcgan-32-cpu", "flow-32-cpu")
NAME = "kills"


def toml(given: argparse.Namespace) -> str:
    presets = "".join(f'[[presets]]\npreset = "{name}"\n\n' for name in given.presets)
    budget = f"images = {given.images}" if given.images else f"minutes = {budgets.seconds(given.budget) / 60:.4f}"
    more = f", {given.settings}" if given.settings else ""
    return f"""name = "{NAME}"
about = "Killed and undisturbed: the same report."
data = ["{given.data}"]
seeds = [0, 1]
threads = {given.threads}
settings = {{precision = "fp32", grids = 0, checkpoint_every = {given.checkpoint_every}{more}}}

[budget]
{budget}

{presets}[evaluation]
samples = {given.samples}
generation_seeds = 2
checkpoints = 3
"""


def kartina(home: Path, *words: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "KARTINA_HOME": str(home)}
    return subprocess.Popen([sys.executable, "-m", "kartina.cli", *words], env=environment, start_new_session=True)


def call(home: Path, *words: str) -> float:
    """Run a verb to its end; seconds that it took."""
    begun = time.monotonic()
    process = kartina(home, *words)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    if code:
        raise SystemExit(f"kartina {' '.join(words)} ended with {code}")
    return time.monotonic() - begun


def kill_some(home: Path, file: Path, counts: Path, kills: int, longest: float) -> list[float]:
    """Start or resume the study and kill it after random seconds, `kills` times in all; those seconds."""
    record = home / "kills.json"
    made: list[float] = json.loads(record.read_text()) if record.is_file() else []
    while len(made) < kills:
        process = kartina(home, "study", "run", str(file), "--resume", "--counts-of", str(counts))
        after = random.uniform(longest / 2, 1.5 * longest)
        try:
            process.wait(timeout=after)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            made.append(round(after, 2))
            record.write_text(json.dumps(made))
            print(f"killed after {after:.1f} s ({len(made)} of {kills})", flush=True)
            continue
        raise SystemExit(f"the study ended (with {process.returncode}) before kill {len(made) + 1}; give more --budget")
    return made


def weights(study: Path) -> dict[str, bytes]:
    """The points that were evaluated and each run's last checkpoint (when the ones before were saved is a clock's)."""
    last = [sorted(run.glob("checkpoints/*"))[-1] for run in sorted((study / "runs").iterdir())]
    return {str(p.relative_to(study)): p.read_bytes()
            for folder in (study / "points", *last) for p in sorted(folder.rglob("*.safetensors"))}  # fmt: skip


def compare(one: Path, two: Path) -> dict[str, Any]:
    """What the two studies differ in: nothing, it is hoped."""
    reports = [timeless(json.loads((study / "report" / "report.json").read_text())) for study in (one, two)]
    a, b = weights(one), weights(two)
    return {
        "reports_equal": reports[0] == reports[1],
        "unlike_parts": [k for k in reports[0] if reports[0][k] != reports[1][k]],
        "weights": len(a),
        "unlike_weights": sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k)),
        "counts": {p.stem: json.loads(p.read_text())["images"] for p in sorted((one / "counts").iterdir())},
        "verdict": {one["name"]: one["verdict"]["reason"] for one in reports[0]["data"]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--budget", default="60s", help="active time of a run")
    parser.add_argument("--images", type=int, help="of a run, instead of --budget: where nothing can be timed")
    parser.add_argument("--samples", type=int, default=170)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--checkpoint-every", type=float, default=3.0, help="seconds")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as there are cores; 1 on a busy machine")
    parser.add_argument("--settings", default="", help="for all presets, such as 'width = 8, width_max = 16'")
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    parser.add_argument("--home", type=Path, help="copy data sets and classifiers of this home first")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    quiet, disturbed = (given.out.absolute() / name for name in ("undisturbed", "killed"))
    file = given.out.absolute() / "study.toml"
    if not file.is_file():
        file.write_text(toml(given))

    def prepare(home: Path, source: Path | None) -> None:
        for name in ("data", "cache") if source is not None else ():
            assert source is not None
            if (source / name).is_dir() and not (home / name).exists():
                shutil.copytree(source / name, home / name)
        home.mkdir(exist_ok=True)

    # Undisturbed: its time says how long to wait before a kill.
    prepare(quiet, given.home)
    study = quiet / "studies" / NAME
    took = quiet / "seconds.json"
    if not took.is_file():
        took.write_text(json.dumps(call(quiet, "study", "run", str(file), "--resume")))
    seconds = json.loads(took.read_text())
    call(quiet, "study", "report", NAME)

    # Killed and resumed.
    prepare(disturbed, quiet)
    made = kill_some(disturbed, file, study, given.kills, seconds / (given.kills + 1))
    call(disturbed, "study", "run", str(file), "--resume", "--counts-of", str(study))
    call(disturbed, "study", "report", NAME)

    found = {
        "budget": given.images or given.budget,
        "undisturbed_seconds": round(seconds, 1),
        "killed_after_seconds": made,
        **compare(study, disturbed / "studies" / NAME),
    }
    (given.out / "result.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    if not found["reports_equal"] or found["unlike_weights"]:
        raise SystemExit("the two studies differ")


if __name__ == "__main__":
    main()
