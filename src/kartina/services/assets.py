"""Use cases on assets: upload an image, look at it, delete it."""

from __future__ import annotations

import asyncio
import hashlib
from asyncio import to_thread

from kartina.data.sandbox import Clean, Sandbox
from kartina.services.access import Caller
from kartina.storage.assets import Asset, Assets, new_asset_id
from kartina.storage.commits import Commits
from kartina.storage.records import now


class Decoder:
    """The sandbox, for one event loop: who waits for a free process waits here and holds no thread."""

    def __init__(self, sandbox: Sandbox):
        self.sandbox = sandbox
        self._free = asyncio.Semaphore(sandbox.processes)

    async def clean(self, content: bytes, what: str = "image") -> Clean:
        """See `Sandbox.clean`."""
        async with self._free:
            return await to_thread(self.sandbox.clean, content, what)

    async def recipe(self, content: bytes) -> str | None:
        """See `Sandbox.recipe`."""
        async with self._free:
            return await to_thread(self.sandbox.recipe, content)


class Uploads:
    """Images that callers bring. Belongs to one event loop."""

    def __init__(self, assets: Assets, commits: Commits, decoder: Decoder):
        self.assets = assets
        self.commits = commits
        self.decoder = decoder

    async def add(self, caller: Caller, content: bytes, what: str = "image") -> Asset:
        """Keep an image, decoded and made clean; bytes that the caller has uploaded before are that asset.

        Raises DataError for what cannot be used, QuotaError, StorageError.
        """
        clean = await self.decoder.clean(content, what)
        digest = hashlib.sha256(content if what == "image" else what.encode() + b"\0" + content).hexdigest()
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
