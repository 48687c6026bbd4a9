"""Models made ready in the engine before anybody asks for their images: loaded, warm, and measured.

When the service starts, those that were used last, then those that are active, as many as stay in memory: one after the
other, only while nobody waits for images. And whichever version a person activates, at once, between the steps of
others. Nobody waits for any of it; a model that cannot be made ready says so in the log, and when its images are asked
for.
"""

from __future__ import annotations

import asyncio
from asyncio import to_thread
from collections.abc import Coroutine
from typing import Any

import structlog

from kartina.errors import KartinaError, NotFoundError
from kartina.services.models import ModelInfo, Models
from kartina.serving.protocol import Engine
from kartina.storage.records import Records

log = structlog.get_logger("kartina.services.ready")

PATIENCE = 60.0  # seconds that workers have to answer: they are being started


class Ready:
    """Belongs to one event loop. `most`: models at the start, 0 for none."""

    def __init__(self, models: Models, records: Records, engine: Engine, most: int):
        self.models = models
        self.records = records
        self.engine = engine
        self.most = most
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin with the models that will be wanted."""
        if self.most:
            self._begin(self._at_the_start())

    def soon(self, info: ModelInfo) -> None:
        """Have a model ready as soon as can be."""
        self._begin(self._activate(info, idle=False))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        async def run() -> None:
            try:
                await work
            except KartinaError as error:  # no engine, no database: requests will meet it, too, and say so
                log.warning("models_not_made_ready", error=str(error))

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _at_the_start(self) -> None:
        for info in await to_thread(self.wanted):
            size = 4 * info.manifest.parameters  # bytes of its weights in float32
            workers = await self.engine.workers(PATIENCE)
            if not workers or any(len(w.models) >= w.most_models or w.bytes + size > w.most_bytes for w in workers):
                return
            await self._activate(info, idle=True)

    async def _activate(self, info: ModelInfo, idle: bool) -> None:
        try:
            done = await self.engine.activate(str(info.path), info.hash, idle=idle)
        except KartinaError as error:
            log.warning("model_not_made_ready", model=info.ref, error=str(error))
        else:
            log.info("model_ready", model=info.ref, batch=done.batch, threads=done.threads, measured=done.measured)

    def wanted(self) -> list[ModelInfo]:
        """The models that are made ready at the start, in order. Blocks."""
        found: dict[str, ModelInfo] = {}
        for hash, ref in self.records.models_used():
            try:
                found[hash] = self.models.by_hash(hash, ref)
            except NotFoundError:  # deleted since
                continue
            if len(found) == self.most:
                return list(found.values())
        page, after = self.models.list(100)
        while page:
            for info in page:
                if info.active and len(found) < self.most:
                    found.setdefault(info.hash, info)
            page, after = self.models.list(100, after) if after and len(found) < self.most else ([], None)
        return list(found.values())
