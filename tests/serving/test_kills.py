"""Promise 7, the worker's side: killed at random points, it is started again, and every request ends, once."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Iterator

import pytest

from kartina.models.package import PackageRef
from kartina.serving.protocol import Event, Failed, Finished, RequestSpec, Started
from tests.engine import Background, collect, request, solo
from tests.serving.images import assert_equals_solo


@pytest.fixture(scope="module")
def mortal(toys: None) -> Iterator[Background]:
    """A worker that is started again at once, however often it dies."""
    background = Background("--batch", "4", backoff=(0.0,))
    yield background
    background.stop()


def load_of(toy: PackageRef, kill: int, rng: random.Random) -> list[RequestSpec]:
    """Four requests that together keep a worker for most of a second, with few rows, or many, or long ones."""
    return [
        request(
            toy,
            f"{kill}-{i}",
            rng.randint(1, 5),
            seed=rng.randrange(10**6),
            steps=rng.randint(1, 12),
            guidance=rng.choice([1.0, 2.5]),
            solver=rng.choice(["euler", "heun"]),
            delay=rng.choice([0.0, 0.01, 0.03]),
        ).model_copy(update={"client": rng.choice("ab")})
        for i in range(4)
    ]


def kill(worker: Background) -> int | None:
    """kill -9 of this process; None when there is none just now."""
    pid = worker.supervisor.pid
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
    return pid


QUARTERS = [pytest.param(25, seed, marks=pytest.mark.slow) for seed in range(1, 5)]  # of a hundred kills


@pytest.mark.parametrize(("kills", "seed"), [(2, 0), *QUARTERS])
def test_killed_at_random_points_every_request_ends_once_with_its_own_images(
    toy: PackageRef, mortal: Background, kills: int, seed: int
) -> None:
    """Each time four requests, one kill -9 somewhere between their submission and their end: none is lost, none makes
    an image twice, none is touched by what the others met."""
    rng = random.Random(seed)

    async def run() -> None:
        hit = 0  # kills that met running requests
        async with mortal.engine(cache=0) as local:
            await collect(local.submit(request(toy, "warm", 1)))
            for k in range(kills):
                asked = load_of(toy, k, rng)
                streams = [asyncio.create_task(collect(local.submit(spec))) for spec in asked]
                await asyncio.sleep(rng.uniform(0, 0.8))
                running = not all(stream.done() for stream in streams)
                killed = kill(mortal)
                hit += killed is not None and running
                found: list[list[Event]] = await asyncio.wait_for(asyncio.gather(*streams), 60)
                for spec, events in zip(asked, found, strict=True):
                    assert isinstance(events[-1], Finished), events[-1]
                    assert_equals_solo(events, solo(toy, spec))  # every index once
                while killed is not None and mortal.supervisor.pid == killed:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.1)  # of a kill after the end the engine hears before the next four come
            print(f"\n{kills} kills, {hit} of them with unfinished requests, {4 * kills} requests: each ended once")
            assert hit >= kills / 2 and not local.waiting and not local.room.waiting

    asyncio.run(run())


def test_killed_twice_a_running_request_fails_and_says_why_and_one_that_waited_does_not(
    toy: PackageRef, mortal: Background
) -> None:
    async def run() -> None:
        async with mortal.engine(cache=0) as local:
            long = request(toy, "long", 4, steps=300, delay=0.02)  # fills the batch
            late = request(toy, "late", 2, seed=8)
            events: list[Event] = []
            deaths, waited = 0, None
            async for event in local.submit(long):
                events.append(event)
                if isinstance(event, Started) and deaths < 2:
                    deaths += kill(mortal) is not None
                    if waited is None:
                        waited = asyncio.create_task(collect(local.submit(late)))
            last = events[-1]
            assert deaths == 2 and isinstance(last, Failed)
            assert last.code == "unavailable" and "stopped twice" in last.message and "Try again" in last.message
            assert waited is not None
            assert_equals_solo(await waited, solo(toy, late))

    asyncio.run(run())


def test_killed_while_it_starts(toy: PackageRef, mortal: Background) -> None:
    """Two kills during the start of the worker count against no request."""
    spec = request(toy, "r", 2, seed=3, steps=4)

    async def run() -> list[Event]:
        async with mortal.engine(cache=0) as local:
            kill(mortal)
            stream = asyncio.create_task(collect(local.submit(spec)))
            for _ in range(2):
                await asyncio.sleep(0.3)
                kill(mortal)
            return await asyncio.wait_for(stream, 60)

    assert_equals_solo(asyncio.run(run()), solo(toy, spec))


def test_a_worker_that_stands_still_is_started_again_and_one_that_only_waits_is_not(toy: PackageRef) -> None:
    """Even where its interpreter does: what made it stand still fails at the second try, what waited is made."""
    background = Background("--batch", "1", "--stuck", "3", backoff=(0.0,))

    async def run() -> tuple[list[Event], list[Event]]:
        async with background.engine(cache=0) as local:
            hung = asyncio.create_task(collect(local.submit(request(toy, "hung", 1, trouble="exit", guidance=10.0))))
            await asyncio.sleep(0)
            made = asyncio.create_task(collect(local.submit(fine)))
            found = await asyncio.wait_for(hung, 60), await asyncio.wait_for(made, 60)
            await asyncio.sleep(4)
            return found

    fine = request(toy, "fine", 2, seed=5)
    try:
        hung, made = asyncio.run(run())
        assert background.supervisor.starts == 3
    finally:
        background.stop()
    last = hung[-1]
    assert isinstance(last, Failed) and last.code == "unavailable" and "stopped twice" in last.message
    assert_equals_solo(made, solo(toy, fine))
