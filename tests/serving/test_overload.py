"""Promise 9: ten times more is asked for than can be made."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from kartina.errors import QueueFullError
from kartina.models.package import PackageRef
from kartina.serving.protocol import Event, Finished
from tests.engine import Background, collect, request

BATCH, CAPACITY, STEP, SECONDS = 8, 40, 0.05, 3.0  # 8 images in two steps: about 80 a second


@pytest.fixture(scope="module")
def small(toys: None) -> Iterator[Background]:
    """A worker of small batches."""
    background = Background("--batch", str(BATCH))
    yield background
    background.stop()


def test_tenfold_overload_is_refused_and_what_is_accepted_comes_in_time(toy: PackageRef, small: Background) -> None:
    """Every 5 ms ten images are asked for. What is refused is told when there is room; what is accepted ends well, and
    99 of 100 within what a full queue takes at the throughput that there was, and a batch."""
    took: list[float] = []
    waits: list[int] = []

    async def run() -> float:
        async with small.engine(capacity=CAPACITY, cache=0) as local:
            await collect(local.submit(request(toy, "warm", CAPACITY)))  # started, loaded, and measured

            async def follow(events: AsyncIterator[Event], begun: float) -> None:
                assert isinstance((await collect(events))[-1], Finished)
                took.append(time.monotonic() - begun)

            begun, id, accepted = time.monotonic(), 0, list[asyncio.Task[None]]()
            while time.monotonic() - begun < SECONDS:
                for _ in range(10):
                    id += 1
                    try:
                        events = local.submit(request(toy, str(id), 1, seed=id, steps=2, delay=STEP))
                    except QueueFullError as full:
                        waits.append(full.retry_after)
                    else:
                        accepted.append(asyncio.create_task(follow(events, time.monotonic())))
                    assert local.room.waiting == local.waiting <= CAPACITY
                await asyncio.sleep(0.005)
            await asyncio.gather(*accepted)
            assert local.waiting == local.room.waiting == 0
            return len(accepted) / (time.monotonic() - begun)

    rate = asyncio.run(run())
    assert len(waits) > 3 * len(took), "most of it was refused"
    assert set(waits) == {1}, "one more image has room in less than a second"
    p99, most = sorted(took)[int(0.99 * len(took))], (CAPACITY + BATCH) / rate
    print(
        f"\n{len(took) + len(waits)} images asked for in {SECONDS:.0f} s: {len(took)} accepted, {len(waits)} refused; "
        f"{rate:.0f} images/s; accepted p99 {p99:.2f} s, a full queue and a batch take {most:.2f} s"
    )
    assert p99 <= 1.25 * most + 0.1
