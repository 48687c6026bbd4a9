"""Who may use a device: training yields to sampling, and keeps a quarter of the time."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kartina.serving.device import PATIENCE, SHARE, Gate, Sampling, path
from kartina.training.loop import Progress, train
from tests import tiny
from tests.engine import Background, collect, request, toy_package
from tests.waiting import wait

HOLD = """
import sys
from kartina.serving.device import Sampling
sampling = Sampling("cpu")
sampling.pending(True)
print("holds", flush=True)
sys.stdin.read()
"""


class Clock:
    """A clock that only moves when somebody sleeps."""

    now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_without_sampling_nobody_waits(home: Path) -> None:
    clock = Clock()
    gate = Gate("cpu", clock=clock, sleep=clock.sleep)
    for _ in range(10):
        gate()
        clock.sleep(1.0)  # a step
    gate()
    assert gate.waited == 0 and gate.trained == pytest.approx(10)


@pytest.mark.parametrize("step", [0.003, 0.1, 0.8])
def test_training_keeps_a_quarter_of_the_time_under_endless_sampling(home: Path, step: float) -> None:
    clock, sampling = Clock(), Sampling("cpu")
    gate = Gate("cpu", clock=clock, sleep=clock.sleep)
    sampling.pending(True)
    for _ in range(200):
        gate()
        clock.sleep(step)
    share = gate.trained / (gate.trained + gate.waited)
    assert share == pytest.approx(SHARE, abs=0.01), "no more, as long as somebody waits"
    sampling.close()


def test_a_long_calm_is_not_paid_back_in_one_piece(home: Path) -> None:
    clock, sampling = Clock(), Sampling("cpu")
    gate = Gate("cpu", clock=clock, sleep=clock.sleep)
    for _ in range(100):
        gate()
        clock.sleep(1.0)
    sampling.pending(True)
    gate()
    assert gate.waited == pytest.approx(PATIENCE, abs=0.01)
    sampling.close()


def test_training_goes_on_as_soon_as_sampling_is_done_or_it_shall_stop(home: Path) -> None:
    clock, sampling = Clock(), Sampling("cpu")
    stopped = False

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.now > 102:
            sampling.pending(False)

    gate = Gate("cpu", lambda: stopped, clock=clock, sleep=sleep)
    gate()
    clock.sleep(1.0)
    sampling.pending(True)
    gate()
    assert gate.waited == pytest.approx(1.0, abs=0.01)
    sampling.pending(True)
    stopped = True
    gate()
    assert gate.waited == pytest.approx(1.0, abs=0.01)
    sampling.close()


def test_devices_and_engines_are_told_apart(home: Path) -> None:
    one, two, cuda = Sampling("cpu"), Sampling("cpu"), Sampling("cuda")
    gate, other = Gate("cpu"), Gate("cuda")
    one.pending(True)
    two.pending(True)
    one.pending(False)
    assert gate.sampling() and not other.sampling(), "the second engine still has requests"
    two.pending(False)
    cuda.pending(True)
    assert not gate.sampling() and other.sampling()
    for each in (one, two, cuda, gate, other):
        each.close()


def test_a_killed_engine_waits_for_nothing(home: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "holds\n"
    gate = Gate("cpu")
    assert gate.sampling()
    process.kill()
    process.communicate()
    assert not gate.sampling()
    gate.close()


def test_a_home_that_cannot_be_written_stops_neither(home: Path) -> None:
    home.parent.mkdir(exist_ok=True)
    home.write_text("not a folder")
    sampling, gate = Sampling("cpu"), Gate("cpu")
    sampling.pending(True)
    gate()
    assert not gate.sampling() and not path("cpu").exists()


def test_a_training_yields_and_its_clock_stands_still_meanwhile(home: Path) -> None:
    """The real loop beside a real holder of the lock: a quarter of the time is left, and only that is active time."""
    run = tiny.run("vae", home, n=8 * 40)
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "holds\n"
    gate, begun, told = Gate("cpu"), time.perf_counter(), list[Progress]()
    assert train(run, told.append, gate=gate) == "finished"
    took = time.perf_counter() - begun
    process.communicate("")
    assert gate.trained > 0 and SHARE - 0.02 < gate.trained / (gate.trained + gate.waited) < SHARE + 0.15
    seconds = run.status()["seconds"]
    assert seconds < took - 0.95 * gate.waited and told[-1].seconds < took - 0.95 * gate.waited
    assert seconds == pytest.approx(gate.trained, rel=0.6, abs=1.0)


@pytest.mark.slow
def test_sampling_beside_a_training(toys: None, home: Path) -> None:
    """A real engine and a real training on one device: an image takes about as long as alone, and the training goes
    on with its quarter; when nobody asks, nothing is held back."""
    background, toy, run = Background(), toy_package(home / "models"), tiny.run("vae", home, n=10**7)
    stop, told = threading.Event(), list[Progress]()
    gate = Gate("cpu", stop.is_set)
    training = threading.Thread(target=train, args=(run, told.append, stop.is_set, gate))

    def sample(rounds: int, name: str) -> list[float]:
        """Seconds that each of so many requests took, one after the other."""

        async def ask() -> list[float]:
            found = []
            async with background.engine(cache=0) as engine:
                for i in range(rounds):
                    begun = time.perf_counter()
                    await collect(engine.submit(request(toy, f"{name}{i}", 1, steps=60, delay=0.01)))
                    found.append(time.perf_counter() - begun)
            return found

        return asyncio.run(ask())

    try:
        sample(1, "warm")
        alone = sample(5, "alone")
        wait(lambda: not gate.sampling())  # the engine lets go at its next look
        training.start()
        wait(lambda: told)
        calm = gate.waited
        before = gate.trained, gate.waited, told[-1].images
        beside = sample(8, "beside")
        after = gate.trained, gate.waited, told[-1].images
        wait(lambda: not gate.sampling())
    finally:
        stop.set()
        training.join()
        background.stop()
    trained, waited = after[0] - before[0], after[1] - before[1]
    assert calm == 0 and 0 < waited < trained * (1 - SHARE) / SHARE + PATIENCE + 0.1, (
        "PATIENCE was saved up in the calm"
    )
    assert after[2] > before[2] and trained / (trained + waited) < 0.7
    assert gate.trained / (gate.trained + gate.waited) >= SHARE - 0.02
    assert min(beside) < 2 * min(alone)  # the quickest: how long a request takes, whatever else the machine does
