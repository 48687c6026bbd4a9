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
        return await self._ask(change)

    def soon(self, change: Change) -> None:
        """Do the change with those asked for later, or before; nobody waits for it, nor hears that it failed."""
        self._ask(change).add_done_callback(lambda done: done.cancelled() or done.exception())

    def _ask(self, change: Callable[[sa.Connection], T]) -> asyncio.Future[T]:
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((change, done))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return done

    async def close(self) -> None:
        """Wait for what is being committed."""
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
