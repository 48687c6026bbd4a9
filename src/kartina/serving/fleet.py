"""Fleet: the Engine of several devices, each with a worker of its own. Torch-free.

    room, cache = Room(4096), ResultCache()
    engine = Fleet([LocalEngine(socket, room=room, cache=cache) for socket in sockets])

A request goes whole to one worker: to the one that has least to do. A model that a worker does not have costs it as
much as FOREIGN images do, so that few models stay where they are and a busy one spreads out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from kartina.serving.client import LocalEngine
from kartina.serving.protocol import Activated, Event, RequestSpec, Stats

FOREIGN = 16  # images that another worker must have more to make, before a model is loaded here too


class Fleet:
    """An `Engine` of several, which share their room and their cache. Belongs to one event loop."""

    def __init__(self, engines: Sequence[LocalEngine]):
        self.engines = tuple(engines)
        self._known: list[set[str]] = [set() for _ in self.engines]  # hashes of the models that each was asked for

    def submit(self, spec: RequestSpec, *, accepted: bool = False) -> AsyncIterator[Event]:
        """See `Engine.submit`."""
        chosen = min(range(len(self.engines)), key=lambda i: self._price(i, spec.hash))
        events = self.engines[chosen].submit(spec, accepted=accepted)
        self._known[chosen].add(spec.hash)
        return events

    def _price(self, i: int, hash: str) -> tuple[bool, int]:
        """Of asking worker i for images of a model: the least is the best."""
        engine = self.engines[i]
        return engine.lost, engine.waiting + (0 if hash in self._known[i] else FOREIGN)

    def cancel(self, id: str) -> None:
        """See `Engine.cancel`."""
        for engine in self.engines:
            engine.cancel(id)

    def watch(self, id: str, previews: bool) -> None:
        """See `Engine.watch`."""
        for engine in self.engines:
            engine.watch(id, previews)

    @property
    def waiting(self) -> int:
        """See `Engine.waiting`."""
        return sum(engine.waiting for engine in self.engines)

    async def ready(self) -> bool:
        """See `Engine.ready`: one worker is enough."""
        return any(await asyncio.gather(*(engine.ready() for engine in self.engines)))

    async def workers(self, patience: float) -> list[Stats]:
        """See `Engine.workers`."""
        found = await asyncio.gather(*(engine.workers(patience) for engine in self.engines))
        return [stats for one in found for stats in one]

    async def activate(self, model: str, hash: str, *, idle: bool = False) -> Activated:
        """See `Engine.activate`. In every worker; tells what the slowest will do with it."""
        done = await asyncio.gather(*(engine.activate(model, hash, idle=idle) for engine in self.engines))
        for known in self._known:
            known.add(hash)
        return min(done, key=lambda one: one.rate)

    async def close(self) -> None:
        """Let go of the workers; unfinished requests end as canceled."""
        await asyncio.gather(*(engine.close() for engine in self.engines))
