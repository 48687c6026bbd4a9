"""A long run at 70% load: does memory grow, do errors come, do latencies drift?

    python -m benchmarks.soak [--minutes 20] [--load 0.7] [--memory 24] [--rounds 2]

`kartina serve` in its own process, with less memory for models than the models take: every TURN seconds other ones are
asked for most, so that large ones are evicted and loaded again. Arrivals are a Poisson process that waits for nobody:
single images of five bundled models, requests that are canceled on the way, pages of the gallery, and stored images.
The load is a share of what the same mixture reaches when callers ask without a pause, measured first. A latency counts
from the moment at which its request was due.

Latencies also drift because a machine has slower minutes. What age does is told by a service that is new: after the
run it is asked in turn with the old one, at the same rate, for a whole cycle of models each time.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from scipy import stats

from benchmarks.service import Client, Served, percentile
from kartina.serving.client import LocalEngine

SMALL: tuple[tuple[str, dict[str, Any]], ...] = (("fashion-dcgan", {}), ("fashion-sgan", {}))
LARGE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("fashion-flow", {"steps": 2}),
    ("clothing-flow", {"steps": 1}),
    ("cells-flow", {"steps": 1}),
)
TURN = 15.0  # seconds after which other models are asked for most
HOT = 0.9  # share of images from the two models, a small and a large one, whose turn it is
CYCLE = TURN * math.lcm(len(SMALL), len(LARGE))  # seconds in which each pair of models had its turn
CALLERS = 16  # without a pause, to measure the capacity
SAMPLE = 5.0  # seconds between two looks at memory
WARM = 0.25  # of the run, that the slope of memory leaves out


@dataclass
class Found:
    """What happened, by the time at which it was due (seconds from the start)."""

    pictures: list[tuple[float, float]] = field(default_factory=list)  # (due, ms)
    others: list[tuple[float, float]] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[float, float, float]] = field(default_factory=list)  # (time, MiB of API, of worker)
    loads: int = 0  # models seen in memory that were not there at the look before


class Soak:
    def __init__(self, service: Served, seed: int = 5):
        self.client, self.service, self.rng = Client(service), service, random.Random(seed)
        self.begun = time.perf_counter()
        self.seed = 0
        self.found = Found()
        self.urls: list[str] = []

    def model(self) -> tuple[str, dict[str, Any]]:
        """The model of the next image: mostly one of two, whose turn it is."""
        turn = int((time.perf_counter() - self.begun) / TURN)
        hot = (SMALL[turn % len(SMALL)], LARGE[turn % len(LARGE)])
        return self.rng.choice(hot) if self.rng.random() < HOT else self.rng.choice(SMALL + LARGE)

    async def one(self, due: float | None = None) -> None:
        """One request of the mixture; `due` by the clock of `perf_counter`."""
        if due is not None:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
        start = time.perf_counter() if due is None else due
        kind = self.rng.choices(("picture", "cancel", "page", "image"), (80, 5, 10, 5))[0]
        try:
            wrong = await getattr(self, kind)()
        except (OSError, EOFError, ValueError) as error:
            wrong = f"{kind}: {type(error).__name__}: {error}"
        took = (time.perf_counter() - start) * 1000
        self.found.done[kind] += 1
        if wrong:
            self.found.errors[wrong[:200]] += 1
        (self.found.pictures if kind == "picture" else self.found.others).append((start - self.begun, took))

    def body(self, **more: Any) -> dict[str, Any]:
        name, controls = self.model()
        self.seed += 10
        return {"model": name, "controls": controls, "seed": self.seed, **more}

    async def picture(self) -> str:
        answer = await self.client.ask("POST", "/v1/generations", self.body(), Accept="image/png")
        good = answer.status == 200 and answer.body.startswith(b"\x89PNG")
        return "" if good else f"picture: {answer.status} {answer.body[:120]!r}"

    async def cancel(self) -> str:
        """Four images, canceled within a fifth of a second; they may have been faster."""
        asked = await self.client.ask("POST", "/v1/generations", self.body(n=4))
        if asked.status not in (200, 202):
            return f"cancel: {asked.status} {asked.body[:120]!r}"
        await asyncio.sleep(self.rng.uniform(0, 0.2))
        canceled = await self.client.ask("POST", f"/v1/generations/{asked.json['id']}/cancel")
        good = canceled.status == 200 and canceled.json["status"] in ("canceling", "canceled", "succeeded")
        return "" if good else f"cancel: {canceled.status} {canceled.body[:120]!r}"

    async def page(self) -> str:
        which = self.rng.choice(("", "&model=fashion-dcgan@1", "&label=Bag", "&favourite=true"))
        answer = await self.client.ask("GET", f"/v1/images?limit=20{which}")
        if answer.status != 200:
            return f"page: {answer.status} {answer.body[:120]!r}"
        self.urls = [item["url"] for item in answer.json["items"]] or self.urls
        return ""

    async def image(self) -> str:
        if not self.urls:
            return await self.page()
        answer = await self.client.ask("GET", self.rng.choice(self.urls))
        return "" if answer.status == 200 else f"image: {answer.status} {answer.body[:120]!r}"

    async def watch(self, seconds: float) -> None:
        """Look at memory now and then."""
        engine, known = LocalEngine(self.service.socket), set[str]()
        for i in range(int(seconds / SAMPLE)):
            await asyncio.sleep(max(0.0, self.begun + i * SAMPLE - time.perf_counter()))
            self.found.memory.append((time.perf_counter() - self.begun, *self.service.memory()))
            now = set((await engine.stats()).models)
            self.found.loads += len(now - known)
            known = now
        await engine.close()

    async def capacity(self, seconds: float) -> float:
        """Requests of the mixture a second, when callers ask without a pause."""
        until = time.perf_counter() + seconds

        async def caller() -> int:
            n = 0
            while time.perf_counter() < until:
                await self.one()
                n += 1
            return n

        begun = time.perf_counter()
        n = sum(await asyncio.gather(*(caller() for _ in range(CALLERS))))
        return n / (time.perf_counter() - begun)

    async def run(self, rate: float, seconds: float) -> None:
        self.found, self.begun = Found(), time.perf_counter()
        watching, running = asyncio.create_task(self.watch(seconds)), set[asyncio.Task[None]]()
        due = self.begun
        while (due := due + self.rng.expovariate(rate)) < self.begun + seconds:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            task = asyncio.create_task(self.one(due))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running, watching)


def slope(memory: list[tuple[float, float]]) -> tuple[float, float, float]:
    """MiB an hour by least squares over means of a minute, with its 95% interval."""
    minutes: dict[int, list[float]] = {}
    for at, value in memory:
        minutes.setdefault(int(at // 60), []).append(value)
    if len(minutes) < 3:
        return math.nan, math.nan, math.nan
    fit = stats.linregress(list(minutes), [statistics.fmean(values) for values in minutes.values()])
    half = float(stats.t.ppf(0.975, len(minutes) - 2)) * fit.stderr
    return fit.slope * 60, (fit.slope - half) * 60, (fit.slope + half) * 60


def report(found: Found, seconds: float) -> None:
    total = sum(found.done.values())
    print(f"{total:,} requests in {seconds:.0f} s: {dict(found.done)}; models loaded at least {found.loads} times")
    print(f"errors: {sum(found.errors.values())} {dict(found.errors) or ''}")
    for name, column in (("API", 1), ("worker", 2)):
        late = [(row[0], row[column]) for row in found.memory if row[0] >= WARM * seconds]
        per_hour, low, high = slope(late)
        first, last = late[0][1], late[-1][1]
        print(
            f"memory of the {name}: {first:.0f} MiB after {WARM:.0%}, {last:.0f} MiB at the end; "
            f"{per_hour:+.1f} MiB an hour ({low:+.1f} to {high:+.1f})"
        )
    print(f"{'':22} {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8} {'requests':>9}")
    for name, rows in (("images", found.pictures), ("others", found.others)):
        for quarter in range(4):
            took = [ms for at, ms in rows if quarter * seconds / 4 <= at < (quarter + 1) * seconds / 4]
            cells = " ".join(f"{percentile(took, p):8.1f}" for p in (0.5, 0.95, 0.99))
            print(f"{f'{name}, quarter {quarter + 1}':22} {cells} {len(took):9}")
    p99 = [
        percentile([ms for at, ms in found.pictures if low * seconds <= at < (low + 0.25) * seconds], 0.99)
        for low in (0.0, 0.75)
    ]
    print(f"p99 of images, last quarter against the first: {p99[1] / p99[0]:.2f}")


async def aged(old: Soak, new: Soak, rate: float, rounds: int) -> None:
    """The service that ran for long, and one that did not, in turn: what they take for the same load."""
    took: dict[str, list[list[float]]] = {"new": [], "old": []}
    for _ in range(rounds):
        for name, soaking in (("new", new), ("old", old)):
            await soaking.run(rate, CYCLE)
            took[name].append([ms for _, ms in soaking.found.pictures])
            if soaking.found.errors:
                print(f"errors of the {name} one: {dict(soaking.found.errors)}")
    whole = {name: [*chain(*runs)] for name, runs in took.items()}
    print(f"images of an old and a new service in turn, {CYCLE:.0f} s each:")
    for name, runs in took.items():
        for share in (0.5, 0.95, 0.99):
            each = ", ".join(f"{percentile(run, share):.0f}" for run in runs)
            print(f"{name:4} p{100 * share:.0f} {percentile(whole[name], share):8.1f} ms ({each})")
    ratios = [percentile(whole["old"], share) / percentile(whole["new"], share) for share in (0.5, 0.99)]
    print(f"old against new: p50 {ratios[0]:.2f}, p99 {ratios[1]:.2f}")


async def warm_up(soaking: Soak, minutes: float) -> float:
    """The capacity of a service that has measured its models and compared runtimes, as it does in a calm."""
    await soaking.capacity(5.0)
    await asyncio.sleep(min(60.0, minutes * 6))
    return await soaking.capacity(min(75.0, minutes * 12))


async def soak(home: Path, minutes: float, load: float, memory: int, rounds: int) -> None:
    options, running = ("--memory", str(memory), "--cache", "8"), list[Soak]()
    try:
        running.append(old := Soak(Served(home / "old", *options)))
        rate = await warm_up(old, minutes)
        print(f"{rate:.1f} requests a second by {CALLERS} callers without a pause; {load:.0%} of that now", flush=True)
        await old.run(load * rate, minutes * 60)
        report(old.found, minutes * 60)
        if rounds:
            running.append(new := Soak(Served(home / "new", *options)))
            await warm_up(new, minutes)
            await aged(old, new, load * rate, rounds)
    finally:
        for soaking in running:
            soaking.client.close()
            soaking.service.stop()
            log = (soaking.service.home / "service.log").read_text()
            crashed = [line for line in log.splitlines() if '"error"' in line]
            print(f"errors in the {soaking.service.home.name} service's log: {len(crashed)}", *crashed[:5], sep="\n")


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--load", type=float, default=0.7, help="share of the capacity")
    parser.add_argument("--memory", type=int, default=24, help="MiB for models")
    parser.add_argument("--rounds", type=int, default=2, help="turns of the old and a new service afterwards")
    given = parser.parse_args(words)
    if os.environ.get("OMP_WAIT_POLICY") != "passive":
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
        subprocess.run([sys.executable, "-m", "benchmarks.soak", *words], env=environment, check=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KARTINA_HOME"] = folder
        asyncio.run(soak(Path(folder), given.minutes, given.load, given.memory, given.rounds))


if __name__ == "__main__":
    main(sys.argv[1:])
