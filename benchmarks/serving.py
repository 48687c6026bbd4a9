"""The service under load: what HTTP, the engine and storage cost beside the model itself.

    python -m benchmarks.serving [MODEL ...] [--quick] [--seconds 20] [--runtime auto] [--threads 0] [--only PART,PART]

`kartina serve` in its own process, with a fresh KARTINA_HOME, for two models of one step (fashion-dcgan, and a preset
of one-step diffusion) and an iterative one (fashion-flow); other models are taken from KARTINA_HOME. A preset's
weights are random: what an image costs does not depend on them. The direct call is the same model here, in the same
runtime, on as many threads. Everything that is compared is measured in turn in one run, and medians count. Arrivals
at 50% and 90% of the capacity are a Poisson process that waits for nobody; a latency counts from the moment at which
its request was due. This process shares the processors with the service. `--only idle,saturated` measures these parts
of idle, saturated, mixed and loaded, and the starts, which come first; all of one model with `--seconds 10` take less
than eight minutes. Sampling beside a training is `benchmarks.sharing`, other runtimes `benchmarks.runtimes`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import torch

import kartina
from benchmarks.service import Client, Served, percentile
from kartina import registry
from kartina.generators.base import Row, build
from kartina.models import package, png
from kartina.models.model import load, save
from kartina.models.package import Provenance
from kartina.serving import kept, runtimes
from kartina.serving.cache import ResultCache
from kartina.serving.client import LocalEngine
from kartina.serving.protocol import Failed, RequestSpec, RowSpec
from kartina.serving.runtimes import Runtime
from kartina.serving.tuning import Tuning, on_threads
from kartina.training.catalogue import usual

MODELS = ("fashion-dcgan", "meanflow-32-cpu", "fashion-flow")
PARTS = ("idle", "saturated", "mixed", "loaded")
STEPS = (1, 2, 4, 8, 12, 24)  # of requests with mixed counts: the largest four that the model takes
AT_ONCE = 16  # requests
WAIT = 300.0  # seconds that measuring a model may take


class Direct:
    """The model without a service: as the worker evaluates it, in the same runtime, on as many threads."""

    def __init__(self, ref: package.PackageRef, known: Tuning):
        self.model, self.threads, self.batch = load(ref), known.threads, known.batch
        self.name = known.comparison.runtime if known.comparison is not None else "eager"
        self.runtime: Runtime | None = None
        if self.name != "eager":
            hash = package.read_manifest(ref.path).hash
            prepared = runtimes.prepare(str(ref.path), hash, [self.name], [known.threads])
            found = runtimes.one_of(prepared, self.name, known.threads)
            if not isinstance(found, Runtime):
                raise RuntimeError(f"Found no {self.name} for {ref}: {found}")
            self.runtime = found

    def sample(self, seeds: range, files: bool = True) -> float:
        """Seconds that images of these seeds take, in batches, with or without their PNG files."""
        model, begun = self.model, time.perf_counter()
        instead = self.runtime.instead(model.family) if self.runtime is not None else contextlib.nullcontext()
        controls = model.controls("generate")
        with torch.inference_mode(), on_threads(self.threads, "cpu"), instead:
            for start in range(0, len(seeds), self.batch):
                rows = []
                for seed in seeds[start : start + self.batch]:
                    weights = torch.zeros(model.family.classes)
                    weights[seed % model.family.classes] = 1.0
                    rows.append(Row(weights, seed, controls, "generate", {}))
                state = model.family.start(rows)
                while not bool(state.done.all()):
                    state = model.family.step(state)
                images = model.family.finish(state).images.numpy()
                for image in images if files else ():
                    png.encode(image, model.recipe(controls, "generate"))
        return time.perf_counter() - begun


@contextmanager
def served(home: Path, *options: str) -> Iterator[Served]:
    service = Served(home, "--cache", "0", *options)
    try:
        yield service
    finally:
        service.stop()


async def by_engine(engine: LocalEngine, ref: package.PackageRef, seed: int, n: int = 1) -> None:
    """Images by the worker, without HTTP and storage."""
    rows = tuple(RowSpec(index=i, label=i % 10, seed=seed + i) for i in range(n))
    hash = package.read_manifest(ref.path).hash
    async for event in engine.submit(RequestSpec(id=f"b{seed}", model=str(ref.path), hash=hash, rows=rows)):
        if isinstance(event, Failed):
            raise RuntimeError(event.message)


def provide(name: str, home: Path) -> None:
    """Have a KARTINA_HOME hold a model that is not bundled, or one of a preset that nobody has trained."""
    if name not in registry.presets():
        ref = package.find(name)
        if not ref.bundled:
            shutil.copytree(ref.path, home / "models" / ref.name / str(ref.version))
        return
    family, preset = registry.preset(name)
    torch.manual_seed(0)
    spec = usual(registry.family(family), preset, channels=1)
    made = build(registry.family(family), preset.config, spec).sampler()
    for p in made.parameters():
        if not p.any():  # a closed gate, behind which every image is the same
            p.normal_(std=0.02)
    about = Provenance(
        preset=name, data="none", data_hash="0" * 64, images=0, seconds=0.0, seed=0, kartina=kartina.__version__,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip
    save(made, name, about, {"about": "Weights by chance", "licence": "MIT"}, root=home / "models")


def measured(home: Path, ref: package.PackageRef, runtime: str) -> Tuning:
    """What the service's worker has found out about the model, when it has."""
    where, deadline = kept.record(package.read_manifest(ref.path).hash, "cpu"), time.monotonic() + WAIT
    names = runtimes.installed(runtime)
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            found = Tuning.model_validate_json(where.read_bytes())
            if found.comparison is not None or not names:
                return found
        time.sleep(0.2)
    raise RuntimeError(f"Found no measurements of {ref} after {WAIT:.0f} s.")


# -- what is measured --------------------------------------------------------------------------------------------------


async def cold(service: Served, model: str) -> tuple[float, float]:
    """Seconds from the start of the process to its first answer, and to the first image."""
    client = Client(service)
    await client.picture(model=model, seed=1)
    client.close()
    return service.greeted, time.perf_counter() - service.begun


async def idle(service: Served, ref: package.PackageRef, direct: Direct, rounds: int) -> None:
    """One image at a time, by each way in turn."""
    client, engine = Client(service), LocalEngine(service.socket, cache=ResultCache(0))
    seeds = iter(range(10_000, 10**9))

    async def directly() -> None:
        seed = next(seeds)
        direct.sample(range(seed, seed + 1))

    ways: dict[str, Callable[[], Awaitable[object]]] = {
        "direct call": directly,
        "engine alone": lambda: by_engine(engine, ref, next(seeds)),
        "HTTP, Accept: image/png": lambda: client.picture(model=str(ref), seed=next(seeds)),
        "HTTP, Prefer: wait": lambda: client.generate(model=str(ref), seed=next(seeds)),
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(rounds + 2):
        for name, way in ways.items():
            begun = time.perf_counter()
            await way()
            if round_ >= 2:  # the first ones warm up
                took[name].append((time.perf_counter() - begun) * 1000)
            await asyncio.sleep(0.02)  # what one way leaves to do is not the next one's
    client.close()
    await engine.close()
    base = statistics.median(took["direct call"])
    print(f"{'idle, one image':32} {'p50 ms':>8} {'p95 ms':>8} {'over direct':>12}")
    for name, values in took.items():
        p50 = statistics.median(values)
        print(f"{name:32} {p50:8.1f} {percentile(values, 0.95):8.1f} {p50 - base:12.1f}", flush=True)


async def saturated(service: Served, ref: package.PackageRef, direct: Direct, images: int, rounds: int) -> None:
    """Images a second when there is always work, in requests of AT_ONCE images of twice as many callers, each of whom
    asks again when its images are there; against batches here."""
    client, engine = Client(service), LocalEngine(service.socket, cache=ResultCache(0))
    rates: dict[str, list[float]] = {}
    for round_ in range(rounds + 1):
        starts = range(round_ * 10 * images, round_ * 10 * images + images, AT_ONCE)

        async def took(ask: Callable[[int], Awaitable[object]], starts: range = starts) -> float:
            left = iter(starts)

            async def caller() -> None:
                for seed in left:
                    await ask(seed)

            begun = time.perf_counter()
            await asyncio.gather(*(caller() for _ in range(2 * AT_ONCE)))
            return time.perf_counter() - begun

        seeds = range(starts[0], starts[0] + images)
        seconds = {
            "offline batches": direct.sample(seeds, False),
            "offline batches, with PNG files": direct.sample(seeds),
            "engine alone": await took(lambda seed: by_engine(engine, ref, seed, AT_ONCE)),
            "HTTP, stored": await took(lambda seed: client.generate(model=str(ref), n=AT_ONCE, seed=seed)),
        }
        for name, spent in seconds.items():
            if round_:  # the first one warms up
                rates.setdefault(name, []).append(images / spent)
    client.close()
    await engine.close()
    print(f"{'saturated':32} {'images/s':>8} {'of offline':>12} {'with files':>12}")
    for name in rates:
        over = [
            statistics.median(a / b for a, b in zip(rates[name], rates[other], strict=True))
            for other in ("offline batches", "offline batches, with PNG files")
        ]
        print(f"{name:32} {statistics.median(rates[name]):8.1f} {over[0]:12.0%} {over[1]:12.0%}", flush=True)


def step_counts(ref: package.PackageRef) -> tuple[int, ...]:
    """Of STEPS the largest four that a model takes; none where it takes one step always."""
    steps = package.read_manifest(ref.path).tasks["generate"].schema_.get("properties", {}).get("steps")
    return () if steps is None else tuple(n for n in STEPS if n <= steps["maximum"])[-4:]


async def mixed(service: Served, ref: package.PackageRef, counts: Sequence[int], n: int, rounds: int) -> None:
    """Requests of unequal step counts that come together: all at once, and one after the other."""
    client = Client(service)
    found: dict[str, list[tuple[float, float]]] = {"together": [], "one at a time": []}

    async def one(i: int, seed: int, begun: float) -> float:
        await client.picture(model=str(ref), seed=seed + i, controls={"steps": counts[i % len(counts)]})
        return time.perf_counter() - begun

    for round_ in range(rounds):
        begun = time.perf_counter()
        ends = await asyncio.gather(*(one(i, round_ * 1000, begun) for i in range(n)))
        found["together"].append((max(ends), statistics.fmean(ends)))
        begun = time.perf_counter()
        ends = [await one(i, round_ * 1000 + 500, begun) for i in range(n)]
        found["one at a time"].append((max(ends), statistics.fmean(ends)))
    client.close()
    print(f"{f'{n} requests, {counts} steps':32} {'images/s':>8} {'mean wait, s':>12}")
    for name, values in found.items():
        whole, wait = (statistics.median(column) for column in zip(*values, strict=True))
        print(f"{name:32} {n / whole:8.1f} {wait:12.2f}", flush=True)
    pairs = zip(found["one at a time"], found["together"], strict=True)
    print(f"{'':32} {statistics.median(a[0] / b[0] for a, b in pairs):7.2f} times as many", flush=True)


async def loaded(service: Served, ref: package.PackageRef, seconds: float) -> None:
    """Latencies of single images at half the capacity and at nine tenths of it."""
    client, rng = Client(service), random.Random(7)
    seeds = iter(range(2 * 10**9 - 10**8, 2 * 10**9))
    made = 0

    async def keep_asking(until: float) -> None:
        nonlocal made
        while time.perf_counter() < until:
            await client.picture(model=str(ref), seed=next(seeds))
            made += time.perf_counter() < until

    span = max(4.0, seconds / 2)
    begun = time.perf_counter()
    await asyncio.gather(*(keep_asking(begun + span) for _ in range(2 * AT_ONCE)))
    capacity = made / span
    print(f"{'single images':32} {'asked/s':>8} {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8} {'images':>7}")
    print(f"{f'{2 * AT_ONCE} callers without a pause':32} {capacity:8.1f}", flush=True)

    async def due(at: float) -> float:
        await asyncio.sleep(max(0.0, at - time.perf_counter()))
        await client.picture(model=str(ref), seed=next(seeds))
        return (time.perf_counter() - at) * 1000

    for share in (0.5, 0.9):
        arrivals, at = list[float](), time.perf_counter()
        end = at + seconds
        while (at := at + rng.expovariate(share * capacity)) < end:
            arrivals.append(at)
        took = await asyncio.gather(*map(due, arrivals))
        cells = " ".join(f"{percentile(took, p):8.1f}" for p in (0.5, 0.95, 0.99))
        print(f"{f'{share:.0%} load':32} {len(took) / seconds:8.1f} {cells} {len(took):7}", flush=True)
    client.close()


# -- the run -----------------------------------------------------------------------------------------------------------


async def measure(
    model: str, home: Path, options: tuple[str, ...], runtime: str, seconds: float, quick: bool, parts: Collection[str]
) -> None:
    ref = package.find(model)  # in the fresh KARTINA_HOME
    counts = step_counts(ref)
    print(f"\n{model}", flush=True)
    with served(home, *options, "--ready", "0") as service:
        start, image = await cold(service, model)
        print(f"{'first start ever':32} {start:6.1f} s, first image after {image:.1f} s", flush=True)
        begun = time.perf_counter()
        known = measured(home, ref, runtime)
        print(f"{'measured and compared':32} {time.perf_counter() - begun:6.1f} s later", flush=True)
    with served(home, *options, "--ready", "0") as service:
        start, image = await cold(service, model)
        print(f"{'a later start':32} {start:6.1f} s, first image after {image:.1f} s", flush=True)
        direct = Direct(ref, known)
        print(f"{direct.name}, {direct.threads} threads, batches of {direct.batch}", flush=True)
        rounds = 1 if quick else 5
        slow = direct.sample(range(4))  # seconds of four images
        if "idle" in parts:
            await idle(service, ref, direct, (10 if quick else 60) if slow < 0.2 else (2 if quick else 20))
        if "saturated" in parts:
            few = direct.sample(range(4 * direct.batch), False)  # seconds: as long a round has to be, to be saturated
            images = max(direct.batch, AT_ONCE) * max(2, round(4 * (0.5 if quick else 3) / few))
            images = -(-images // AT_ONCE) * AT_ONCE
            await saturated(service, ref, direct, images, rounds if slow < 0.2 else min(3, rounds))
        if "mixed" in parts and counts:
            await mixed(service, ref, counts, 8 if quick else 24, 1 if quick else 3)
        if "loaded" in parts:
            await loaded(service, ref, 5.0 if quick else seconds)
        api, worker = service.memory()
        print(f"{'memory in use':32} {api:6.0f} MiB API, {worker:.0f} MiB worker", flush=True)


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="of one's own or bundled, or a preset")
    parser.add_argument("--quick", action="store_true", help="a minute or two")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load")
    parser.add_argument("--runtime", default="auto", choices=runtimes.SWITCHES)
    parser.add_argument("--threads", type=int, default=0, help="of the model; 0: as the engine measures")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas")
    given = parser.parse_args(words)
    if os.environ.get("OMP_WAIT_POLICY") != "passive":  # threads of this process shall not spin beside the service's
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
        subprocess.run([sys.executable, "-m", "benchmarks.serving", *words], env=environment, check=True)
        return
    runtime = "eager" if given.quick else given.runtime  # the others take a while to get ready
    parts = given.only.split(",")
    if not set(parts) <= set(PARTS):
        parser.error(f"found --only {given.only}; expected some of {','.join(PARTS)}")
    mine = {"KARTINA_HOME": os.environ.get("KARTINA_HOME", "")}
    options = ("--runtime", runtime, "--threads", str(given.threads))
    for model in given.models or MODELS:
        with tempfile.TemporaryDirectory() as folder:
            os.environ.update(mine)
            provide(model, Path(folder))
            home = os.environ["KARTINA_HOME"] = folder
            asyncio.run(measure(model, Path(home), options, runtime, given.seconds, given.quick, parts))


if __name__ == "__main__":
    main(sys.argv[1:])
