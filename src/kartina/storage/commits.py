"""Group commit: changes that come while a transaction is being committed share the next one.

    commits = Commits(database)
    await commits(lambda c: records.update(c, record))     # returns when it is on the disk
    commits.soon(lambda c: records.update(c, record))      # before any change that is asked for later

A commit costs an fsync, whatever is in it. Under load a hundred requests share one; alone, a change waits for nobody.
Should a shared transaction fail, each change is tried again in one of its own: it fails for its own reason only.
"""

from __future__ import annotations

import asyncio
from asyncio import to_thread
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa

from kartina.storage.database import Database

MOST = 256  # changes in one transaction
SOON = 0.05  # seconds that a change for which nobody waits is kept, to be committed with another

T = TypeVar("T")
Change = Callable[[sa.Connection], Any]


class Commits:
    """Belongs to one event loop. A change may run twice, so it does nothing but write to its connection."""

    def __init__(self, database: Database):
        self.database = database
        self._waiting: list[tuple[Change, asyncio.Future[Any]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def __call__(self, change: Callable[[sa.Connection], T]) -> T:
        """Do the change in a transaction; what it returns or raises. Raises StorageError where it cannot be stored."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((change, done))
        self._begin()
        return await done

    def soon(self, change: Change) -> None:
        """Do the change with those asked for later, or before; nobody waits for it, nor hears that it failed."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        done.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._waiting.append((change, done))
        loop.call_later(SOON, self._begin)  # unless another change takes it along before

    def _begin(self) -> None:
        if self._waiting and (self._worker is None or self._worker.done()):
            self._worker = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Wait for what is being committed, or soon to be."""
        self._begin()
        if self._worker is not None:
            await self._worker

    async def _work(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            results = await to_thread(self._together, [change for change, _ in batch])
            for (_, done), result in zip(batch, results, strict=True):
                if done.done():  # whoever asked was canceled; it is stored all the same
                    continue
                if isinstance(result, Exception):
                    done.set_exception(result)
                else:
                    done.set_result(result)

    def _together(self, changes: list[Change]) -> list[Any]:
        """What each change returned, or the exception that it ended in."""
        try:
            with self.database.write() as c:
                return [change(c) for change in changes]
        except Exception as error:  # handed to whoever asked for the change
            return [error] if len(changes) == 1 else [self._together([change])[0] for change in changes]
