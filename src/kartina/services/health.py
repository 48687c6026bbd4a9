"""Whether the service can do its work now, and what its parts say of themselves."""

from __future__ import annotations

import asyncio
from asyncio import to_thread
from collections.abc import Mapping
from typing import Protocol

from kartina.errors import KartinaError, StorageError, UnavailableError
from kartina.jobs.table import Jobs
from kartina.services.metrics import Snapshot
from kartina.serving.protocol import Engine

PATIENCE = 2.0  # seconds that a part has to answer


class Kept(Protocol):
    """A process that is kept alive."""

    starts: int


class Health:
    """Belongs to one event loop."""

    def __init__(self, jobs: Jobs, engine: Engine, workers: Mapping[str, Kept]):
        self.jobs = jobs
        self.engine = engine
        self.workers = workers
        self.draining = False

    async def check(self) -> None:
        """Raises UnavailableError when new work would not be done now."""
        if self.draining:
            raise UnavailableError("Found the service stopping; ask the next one.")
        try:
            await asyncio.wait_for(to_thread(self.jobs.database.ping), PATIENCE)
        except TimeoutError:
            raise UnavailableError(f"Found the database silent for {PATIENCE:.0f} s; try again in a moment.") from None
        except StorageError as error:
            raise UnavailableError(str(error)) from error
        if not await self.engine.ready():
            raise UnavailableError("Found no sampling worker answering; it is being started. Try again in a moment.")

    async def snapshot(self) -> Snapshot:
        """What the engine, the workers and the table of jobs say. What does not answer is left out."""
        stats, counts = await asyncio.gather(self.engine.workers(PATIENCE), self._jobs())
        restarts = {name: max(0, kept.starts - 1) for name, kept in self.workers.items()}
        return Snapshot(self.engine.waiting, stats, restarts, counts)

    async def _jobs(self) -> Mapping[str, int]:
        try:
            return await asyncio.wait_for(to_thread(self.jobs.counts), PATIENCE)
        except (TimeoutError, KartinaError):
            return {}
