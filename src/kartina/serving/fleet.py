"""Fleet: the Engine of several devices, each with a worker of its own. Torch-free.

    room, cache = Room(4096), ResultCache()
    engine = Fleet([LocalEngine(socket, room=room, cache=cache) for socket in sockets])

A request goes whole to one worker: to the one that has least to do. A model that a worker does not have costs it as
much as FOREIGN images do, so that few models stay where they are and a busy one spreads out. What has waited in vain
for a worker goes to another one that is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import structlog

from kartina.serving.client import LocalEngine, Request
from kartina.serving.protocol import Activated, Event, RequestSpec, Stats

log = structlog.get_logger("kartina.serving.fleet")

FOREIGN = 16  # images that another worker must have more to make, before a model is loaded here too
KNOWN = 1000  # models that each worker is taken to have, at most


class Fleet:
    """An `Engine` of several, which share their room and their cache. Belongs to one event loop."""

    def __init__(self, engines: Sequence[LocalEngine]):
        self.engines = tuple(engines)
        for engine in self.engines:
            engine.elsewhere = self._elsewhere
        # Hashes of the models that each was asked for, the last one last.
        self._known: list[dict[str, None]] = [{} for _ in self.engines]

    def submit(self, spec: RequestSpec, *, accepted: bool = False) -> AsyncIterator[Event]:
        """See `Engine.submit`."""
        chosen = self._best(spec.hash)
        events = self.engines[chosen].submit(spec, accepted=accepted)
        self._note(chosen, spec.hash)
        return events

    def _elsewhere(self, request: Request) -> bool:
        """Give a request of a lost engine to one that is not; False when there is none."""
        hash = request.asked.hash
        chosen = self._best(hash)
        if self.engines[chosen].lost:
            return False
        self.engines[chosen].adopt(request)
        self._note(chosen, hash)
        return True

    def _note(self, i: int, hash: str) -> None:
        """Worker i is asked for a model, which it will have."""
        known = self._known[i]
        known.pop(hash, None)
        known[hash] = None
        if len(known) > KNOWN:
            del known[next(iter(known))]

    def _best(self, hash: str) -> int:
        """The worker to ask for images of a model."""
        return min(range(len(self.engines)), key=lambda i: self._price(i, hash))

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
        """See `Engine.activate`. In every worker that can; tells what the slowest will do with it. Raises the first
        one's error when none can."""
        asked = (engine.activate(model, hash, idle=idle) for engine in self.engines)
        found = await asyncio.gather(*asked, return_exceptions=True)
        done = [one for one in found if not isinstance(one, BaseException)]
        for i, (engine, one) in enumerate(zip(self.engines, found, strict=True)):
            if not isinstance(one, BaseException):
                self._note(i, hash)
            elif not done:
                raise one
            else:
                log.warning("model_not_activated", socket=engine.socket, hash=hash, error=str(one))
        return min(done, key=lambda one: one.rate)

    async def close(self) -> None:
        """Let go of the workers; unfinished requests end as canceled."""
        await asyncio.gather(*(engine.close() for engine in self.engines))
