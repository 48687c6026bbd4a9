"""Images that callers bring: who waits for a process to decode them holds none in memory, and not all may wait."""

from __future__ import annotations

import asyncio

import pytest

from kartina.data.sandbox import Sandbox
from kartina.errors import DataError, QueueFullError
from kartina.services import assets
from kartina.services.assets import Decoder


def test_images_are_read_when_it_is_their_turn_and_the_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "WAITING", 3)

    async def run() -> None:
        decoder, go, reading = Decoder(sandbox), asyncio.Event(), 0

        async def read() -> bytes:
            nonlocal reading
            reading += 1
            await go.wait()
            return b"no image"

        waiting = [asyncio.create_task(decoder.clean(read)) for _ in range(sandbox.processes + 3)]
        await asyncio.sleep(0.05)
        assert reading == sandbox.processes
        with pytest.raises(QueueFullError, match="3 images waiting") as full:
            await decoder.clean(read)
        assert full.value.retry_after > 0
        waiting.pop().cancel()  # one that gives up makes room
        await asyncio.sleep(0)
        waiting.append(asyncio.create_task(decoder.clean(read)))
        go.set()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(one) for one in found] == [DataError] * (sandbox.processes + 3)
        with pytest.raises(DataError, match="expected a JPEG"):
            await decoder.recipe(read)  # and the queue is empty again

    sandbox = Sandbox()
    try:
        asyncio.run(run())
    finally:
        sandbox.close()
