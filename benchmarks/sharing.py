"""Sampling and training on one device: what a person waits for an image, and what is left to the training.

python -m benchmarks.sharing [--seconds 20] [--models fashion-dcgan fashion-flow] [--preset flow-32-cpu]

A training of its own process, in a temporary KARTINA_HOME, beside a real engine, which runs the model as it has
measured to be fastest: alone, without the gate, and with it; asked for an image every half second, and without a
pause.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.service import percentile
from benchmarks.serving import measured
from kartina.config import home
from kartina.models import package
from kartina.serving.cache import ResultCache
from kartina.serving.client import LocalEngine
from kartina.serving.device import Gate
from kartina.serving.protocol import RequestSpec, RowSpec
from kartina.serving.supervisor import Supervisor
from kartina.training.loop import Progress, interruptible, plan, train
from kartina.training.run import Run

PAUSE = 0.5  # seconds between a person's requests


def train_until_stopped(preset: str, gated: bool) -> None:
    """In the training's process: say that it runs; when it is stopped, images a second since then."""
    config = plan(preset, "digits", images=10**9, settings=["grids=0", "checkpoint_every=0", "precision=fp32"])
    run, seen = Run.create(config), list[tuple[float, int]]()  # (time, images)

    def watch(p: Progress) -> None:
        if not seen:
            print("runs", flush=True)
        seen.append((time.perf_counter(), p.images))

    with interruptible() as stop:
        train(run, watch, stop, Gate(config.device, stop) if gated else None)
    (begun, before), (ended, after) = seen[0], seen[-1]
    print((after - before) / (ended - begun) if ended > begun else 0.0, flush=True)


@contextmanager
def training(preset: str, gated: bool) -> Iterator[list[float]]:
    """A training beside the block; its images a second are in the list afterwards."""
    command = [sys.executable, "-m", "benchmarks.sharing", "--train", preset, *(["--gated"] if gated else [])]
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ}  # as the command line has it
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None and process.stdout.readline() == "runs\n"
    rate: list[float] = []
    yield rate
    process.send_signal(signal.SIGTERM)
    rate.append(float(process.communicate()[0]))


async def latencies(engine: LocalEngine, ref: package.PackageRef, seconds: float, pause: float) -> list[float]:
    """Milliseconds that single images took, one request after the other."""
    found, hash_ = [], package.read_manifest(ref.path).hash
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        begun = time.perf_counter()
        spec = RequestSpec(
            id=f"r{begun}", model=str(ref.path), hash=hash_, rows=(RowSpec(index=0, label=0, seed=len(found)),)
        )
        async for _ in engine.submit(spec):
            pass
        found.append((time.perf_counter() - begun) * 1000)
        await asyncio.sleep(pause)
    return found


async def measure(model: str, preset: str, seconds: float, runtime: str) -> None:
    os.environ.setdefault("KARTINA_LOG_LEVEL", "warning")  # the worker's line for each request
    supervisor = Supervisor(["--device", "cpu", "--runtime", runtime])
    await supervisor.start()
    engine, ref = LocalEngine(supervisor.socket, cache=ResultCache(0)), package.find(model)
    await latencies(engine, ref, 1.0, 0.0)  # loads the model
    known = await asyncio.to_thread(measured, home(), ref, runtime)
    await latencies(engine, ref, 1.0, 0.0)  # takes up what was measured
    print(
        f"\n{model}, {known.comparison.runtime if known.comparison else 'torch'}, {known.threads} threads", flush=True
    )

    def show(what: str, taken: list[float], rate: list[float]) -> None:
        cells = " ".join(f"{percentile(taken, p):8.0f}" for p in (0.5, 0.95, 1.0)) if taken else " " * 26
        shown = [f"{cells} {len(taken):7}" if taken else " " * 34]
        shown += [f"{rate[0]:12.0f}" if rate else ""]
        print(f"{what:42} {' '.join(shown)}", flush=True)

    print(f"{'':42} {'p50 ms':>8} {'p95 ms':>8} {'max ms':>8} {'images':>7} {'training/s':>12}")
    try:
        with training(preset, False) as rate:
            await asyncio.sleep(seconds)
        show("training alone", [], rate)
        for what, pause in (("an image every half second", PAUSE), ("images without a pause", 0.0)):
            show(what, await latencies(engine, ref, seconds, pause), [])
            for gated in (False, True):
                with training(preset, gated) as rate:
                    taken = await latencies(engine, ref, seconds, pause)
                show(f"{what}, training {'yields' if gated else 'does not'}", taken, rate)
    finally:
        await engine.close()
        await supervisor.stop()


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--models", nargs="+", default=["fashion-dcgan", "fashion-flow"], metavar="MODEL")
    parser.add_argument("--preset", default="flow-32-cpu")
    parser.add_argument("--quick", action="store_true", help="two seconds of everything")
    parser.add_argument("--train")
    parser.add_argument("--gated", action="store_true")
    given = parser.parse_args(words)
    if given.train:
        return train_until_stopped(given.train, given.gated)
    seconds, runtime = (2.0, "eager") if given.quick else (given.seconds, "auto")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KARTINA_HOME"] = folder
        for model in given.models:
            asyncio.run(measure(model, given.preset, seconds, runtime))


if __name__ == "__main__":
    main(sys.argv[1:])
