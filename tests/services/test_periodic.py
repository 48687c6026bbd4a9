"""Work that comes again and again: whatever one time raises, there is a next one."""

from __future__ import annotations

import asyncio

from structlog.testing import capture_logs

from kartina.errors import StorageError
from kartina.services.periodic import Periodic


def test_no_error_ends_it_and_stopping_does() -> None:
    ends: list[str] = []

    async def run() -> None:
        enough = asyncio.Event()

        async def work() -> None:
            ends.append("begun")
            match len(ends):
                case 1:
                    raise StorageError("Found no database.")
                case 2:
                    raise ValueError("a mistake")
                case 4:
                    enough.set()
                    await asyncio.sleep(60)

        periodic = Periodic("counting", work, 0.001)
        await periodic.stop()  # never begun
        periodic.start()
        await asyncio.wait_for(enough.wait(), 10)
        await asyncio.wait_for(periodic.stop(), 10)
        await asyncio.sleep(0.02)

    with capture_logs() as logs:
        asyncio.run(run())
    assert len(ends) == 4
    assert [(line["log_level"], line["work"]) for line in logs] == [("warning", "counting"), ("error", "counting")]
