"""Uploaded images that generations start from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from kartina.client import schemas
from kartina.client.asynchronous.transport import AsyncTransport
from kartina.client.inputs import Picture, upload_of
from kartina.client.protocol import call


class AsyncAssets:
    """Images to start from: `client.assets`. Uploading the same bytes again is the same asset."""

    def __init__(self, http: AsyncTransport):
        self._http = http

    async def upload(self, image: Picture, kind: str = "image") -> schemas.Asset:
        """Upload a path, a file's bytes or a PIL image, as an `image` or a `mask`. Raises OSError, InputError."""
        if isinstance(image, schemas.Asset):
            return image
        file = await asyncio.to_thread(upload_of, image)
        asked = call("POST", "/v1/assets").but(form={"kind": kind}, files={"file": file})
        return await self._http.get(asked, schemas.Asset)

    async def id_of(self, image: Picture, kind: str) -> str:
        """The id of an image, uploaded where it is none of the service's yet; `kind` is image, to_image or mask."""
        found = await self.upload(image, "mask" if kind == "mask" else "image")
        return found.id

    async def get(self, id: str) -> schemas.Asset:
        return await self._http.get(call("GET", "/v1/assets/{id}", id=id), schemas.Asset)

    async def content(self, id: str) -> bytes:
        """The image as it is used: a PNG, upright, 8 bits."""
        return await self._http.content(call("GET", "/v1/assets/{id}/image.png", id=id))

    async def delete(self, id: str) -> None:
        """Delete it; generations that started from it are not touched."""
        await self._http.delete(call("DELETE", "/v1/assets/{id}", id=id))

    def list(self) -> AsyncIterator[schemas.Asset]:
        """Every asset, newest first, asked for page by page."""
        return self._http.items(call("GET", "/v1/assets").asking(limit=100), schemas.AssetPage)
