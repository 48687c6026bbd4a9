"""Several workers behind one engine: who makes what, one room and one cache for all, and a worker that dies."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kartina.errors import QueueFullError
from kartina.models.package import PackageRef, read_manifest
from kartina.serving.cache import ResultCache
from kartina.serving.client import LocalEngine, Room
from kartina.serving.fleet import FOREIGN, Fleet
from kartina.serving.protocol import Canceled, Finished, Started
from tests.engine import Background, collect, outputs, request, solo, toy_package
from tests.serving.images import assert_equals_solo


@pytest.fixture(scope="module")
def pair(toys: None) -> Iterator[tuple[Background, Background]]:
    """Two workers, as of two devices."""
    both = Background("--batch", "4", backoff=(0.0,)), Background("--batch", "4", backoff=(0.0,))
    yield both
    for each in both:
        each.stop()


@asynccontextmanager
async def fleet(pair: tuple[Background, Background], capacity: int = 1000, cache: int = 0) -> AsyncIterator[Fleet]:
    room, kept = Room(capacity), ResultCache(cache)
    made = Fleet([LocalEngine(each.supervisor.socket, room=room, cache=kept) for each in pair])
    try:
        yield made
    finally:
        await made.close()


async def done_by(engines: Fleet) -> list[int]:
    """Images that each worker has made."""
    return [stats.total.outputs for stats in await engines.workers(60)]


def test_requests_spread_over_the_workers_and_every_image_is_as_alone(
    toy: PackageRef, pair: tuple[Background, Background]
) -> None:
    async def run() -> None:
        async with fleet(pair) as engines:
            before = await done_by(engines)
            asked = [request(toy, f"r{i}", 16, seed=100 * i, steps=3, delay=0.01) for i in range(8)]
            found = await asyncio.gather(*(collect(engines.submit(spec)) for spec in asked))
            for spec, events in zip(asked, found, strict=True):
                assert_equals_solo(events, solo(toy, spec))
            each = [now - then for now, then in zip(await done_by(engines), before, strict=True)]
            assert sum(each) == 128 and min(each) >= 3 * 16, each
            assert engines.waiting == engines.engines[0].room.waiting == 0
            assert [stats.device for stats in await engines.workers(60)] == ["cpu", "cpu"]

    asyncio.run(run())


def test_a_model_stays_where_it_is_until_that_worker_has_much_to_do(
    toy: PackageRef, tmp_path: Path, pair: tuple[Background, Background]
) -> None:
    other = toy_package(tmp_path / "models", "other")

    async def run() -> None:
        async with fleet(pair) as engines:
            for i in range(3):  # one at a time: always the first worker
                await collect(engines.submit(request(toy, f"a{i}", 1, seed=i)))
            slow = [request(toy, f"b{i}", 1, seed=10 + i, steps=100, delay=0.05) for i in range(FOREIGN + 2)]
            streams = [engines.submit(spec) for spec in slow]
            by = [engine.waiting for engine in engines.engines]
            assert by[0] >= FOREIGN and by[1] >= 1 and sum(by) == FOREIGN + 2, by
            streams.append(engines.submit(request(other, "c", 1, steps=100, delay=0.05)))
            assert engines.engines[1].waiting == by[1] + 1, "a new model goes where there is least to do"
            for id in ("c", *(spec.id for spec in slow)):
                engines.cancel(id)
            ends = await asyncio.gather(*map(collect, streams))
            assert all(isinstance(events[-1], Canceled) for events in ends)
            assert engines.waiting == engines.engines[0].room.waiting == 0

    asyncio.run(run())


def test_the_queue_is_bounded_for_all_of_them_together_and_images_are_kept_for_all(
    toy: PackageRef, pair: tuple[Background, Background]
) -> None:
    async def run() -> None:
        async with fleet(pair, capacity=40, cache=2**20) as engines:
            streams = [engines.submit(request(toy, f"r{i}", 10, seed=100 * i, steps=3, delay=0.02)) for i in range(4)]
            assert sorted(engine.waiting for engine in engines.engines) in ([10, 30], [20, 20])
            with pytest.raises(QueueFullError, match="Found 40 images waiting"):
                engines.submit(request(toy, "more", 1))
            first = [outputs(await collect(events)) for events in streams]
            before = await done_by(engines)
            for i, images in enumerate(first):
                spec = request(toy, f"again{i}", 10, seed=100 * i, steps=3, delay=0.02)
                again = outputs(await collect(engines.submit(spec)))
                assert [again[k].png for k in range(10)] == [images[k].png for k in range(10)]
            assert await done_by(engines) == before, "whoever made them"

    asyncio.run(run())


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_nobody_waits_for_it_meanwhile(
    toy: PackageRef, pair: tuple[Background, Background]
) -> None:
    """Its requests are made again, those of the other do not notice, new ones go to the other."""

    async def run() -> None:
        async with fleet(pair) as engines:
            hash = read_manifest(toy.path).hash
            assert (await engines.activate(str(toy.path), hash)).rate > 0
            asked = [request(toy, f"k{i}", 2, seed=50 * i, steps=30, delay=0.02) for i in range(4)]
            streams = [engines.submit(spec) for spec in asked]
            assert [engine.waiting for engine in engines.engines] == [4, 4]
            assert all([isinstance(await anext(events), Started) for events in streams])
            pid = pair[0].supervisor.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            while not engines.engines[0].lost:
                await asyncio.sleep(0.001)
            assert await engines.ready() and len(await engines.workers(0.2)) >= 1
            if engines.engines[0].lost:
                late = request(toy, "late", 1, seed=999)
                events = engines.submit(late)
                assert engines.engines[0].waiting == 4
                assert_equals_solo(await collect(events), solo(toy, late))
            found = await asyncio.wait_for(asyncio.gather(*map(collect, streams)), 60)
            for spec, events in zip(asked, found, strict=True):
                assert isinstance(events[-1], Finished)
                assert_equals_solo(events, solo(toy, spec))
            assert len(await engines.workers(60)) == 2, "it is back"

    asyncio.run(run())
