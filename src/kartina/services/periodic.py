"""Work that is done at the start of a service, and then every so often until it stops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from kartina.errors import StorageError

log = structlog.get_logger("kartina.services.periodic")


class Periodic:
    """`work` now and every `seconds` after its end. What it raises is logged under `name`, and ends nothing: it is
    tried again the next time. Belongs to one event loop."""

    def __init__(self, name: str, work: Callable[[], Awaitable[object]], seconds: float):
        self.name, self.work, self.seconds = name, work, seconds
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Cancel what is being done, and wait until it has ended."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self.work()
            except StorageError as error:  # a database that is away, a full disk: they pass
                log.warning("not_done", work=self.name, error=str(error))
            except Exception as error:  # a mistake of ours shall not end it until the next start
                log.error("not_done", work=self.name, exc_info=error)
            await asyncio.sleep(self.seconds)
