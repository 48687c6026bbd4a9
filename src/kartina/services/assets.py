"""Use cases on assets: upload an image, look at it, delete it."""

from __future__ import annotations

import asyncio
import hashlib
from asyncio import to_thread
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from kartina.data.sandbox import Clean, Sandbox
from kartina.errors import QueueFullError
from kartina.services.access import Caller
from kartina.storage.assets import Asset, Assets, new_asset_id
from kartina.storage.commits import Commits
from kartina.storage.records import now

WAITING = 128  # images that may wait for a free process
PAUSE = 5  # seconds after which one that was refused may come again
Read = Callable[[], Awaitable[bytes]]  # brings an upload, which lies on the disk, into memory


class Decoder:
    """The sandbox, for one event loop: who waits for a free process waits here, and holds no thread and no image."""

    def __init__(self, sandbox: Sandbox):
        self.sandbox = sandbox
        self._free = asyncio.Semaphore(sandbox.processes)
        self._waiting = 0

    async def clean(self, read: Read, what: str = "image") -> tuple[Clean, str]:
        """See `Sandbox.clean`; and the SHA-256 of `what` and the image. Raises QueueFullError, too."""
        async with self._turn():
            content = await read()
            digest = hashlib.sha256(content if what == "image" else what.encode() + b"\0" + content).hexdigest()
            return await to_thread(self.sandbox.clean, content, what), digest

    async def recipe(self, read: Read) -> str | None:
        """See `Sandbox.recipe`. Raises QueueFullError, too."""
        async with self._turn():
            return await to_thread(self.sandbox.recipe, await read())

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        if self._waiting >= WAITING:
            raise QueueFullError(
                f"Found {WAITING} images waiting to be decoded, and room for no more. Try again in {PAUSE} s.",
                retry_after=PAUSE,
            )
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._free.release()


class Uploads:
    """Images that callers bring. Belongs to one event loop."""

    def __init__(self, assets: Assets, commits: Commits, decoder: Decoder):
        self.assets = assets
        self.commits = commits
        self.decoder = decoder

    async def add(self, caller: Caller, read: Read, what: str = "image") -> Asset:
        """Keep an image, decoded and made clean; bytes that the caller has uploaded before are that asset.

        Raises DataError for what cannot be used, QueueFullError, QuotaError, StorageError.
        """
        clean, digest = await self.decoder.clean(read, what)
        asset = Asset(
            id=new_asset_id(),
            owner=caller.owner,
            hash=digest,
            blob=hashlib.sha256(clean.png).hexdigest(),
            size=len(clean.png),
            width=clean.width,
            height=clean.height,
            channels=clean.channels,
            note=clean.note,
            created_at=now(),
        )
        await self.commits(lambda c: self.assets.expect(c, asset))
        try:
            await to_thread(self.assets.blobs.put, asset.blob, clean.png, asset.size)
            return await self.commits(lambda c: self.assets.add(c, asset, caller.quota))
        except BaseException:
            await to_thread(self.assets.blobs.release, f"asset:{asset.id}")
            raise

    async def get(self, owner: str, id: str) -> Asset:
        return await to_thread(self.assets.get, owner, id)

    async def content(self, owner: str, id: str) -> bytes:
        """The clean PNG. Raises NotFoundError."""
        return await to_thread(lambda: self.assets.blobs.read(self.assets.get(owner, id).blob))

    async def list(self, owner: str, limit: int, cursor: str | None) -> tuple[list[Asset], str | None]:
        return await to_thread(self.assets.page, owner, limit, cursor)

    async def delete(self, owner: str, id: str) -> None:
        """Raises NotFoundError."""
        await self.commits(lambda c: self.assets.delete(c, owner, id))
