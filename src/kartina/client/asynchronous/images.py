"""Images that the service made: look, save, keep, throw away."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, Unpack

from pydantic import PrivateAttr

from kartina.client import schemas
from kartina.client.asynchronous.transport import AsyncTransport
from kartina.client.inputs import Filters, attachment, check_format, wanted_format, write
from kartina.client.protocol import Call, call
from kartina.client.schemas import as_pil

Change = Literal["favourite", "ordinary", "trash", "restore", "delete"]

if TYPE_CHECKING:
    from PIL.Image import Image as Picture


class AsyncFile(schemas.Data):
    """Base of images that the service has a file of."""

    id: str
    _http: AsyncTransport = PrivateAttr()

    @classmethod
    def of(cls, data: schemas.Data, http: AsyncTransport) -> Self:
        found = cls.model_construct(**dict(data))
        found._http = http
        return found

    async def content(self, format: Literal["png", "webp"] | None = None) -> bytes:
        """Its file, with its recipe. `webp`: a lossless WebP of a PNG."""
        return await self._http.content(_file(self.id, format))

    async def pil(self) -> Picture:
        return as_pil(await self.content())

    async def save(self, path: str | os.PathLike[str]) -> Path:
        """Write its file: under this name (.png or .webp), or into a folder that is there, under its own.

        Raises ConfigError for another kind of name, or .png for an image that is a WebP.
        """
        path = Path(path)
        wanted = await asyncio.to_thread(wanted_format, path)
        answer = await self._http.send(_file(self.id, "webp" if wanted == "webp" else None))
        if wanted is None:
            path = path / attachment(answer.headers, f"{self.id}.png")
        else:
            check_format(path, answer.headers)
        return await asyncio.to_thread(write, path, answer.content)


class AsyncImage(schemas.OutputImage, AsyncFile):
    """A finished image of a generation: its data, and its file."""

    async def about(self) -> AsyncStoredImage:
        """What the gallery knows of it, and what can be done with it there."""
        return await AsyncImages(self._http).get(self.id)


class AsyncStoredImage(schemas.GalleryImage, AsyncFile):
    """An image of the gallery: its data, its file, and what can be done with it."""

    async def favour(self, favourite: bool = True) -> AsyncStoredImage:
        """Mark it as a favourite, or take the mark away. Returns it as it is then."""
        asked = call("PATCH", "/v1/images/{id}", id=self.id).but(json={"favourite": favourite})
        return self.of(await self._http.get(asked, schemas.GalleryImage), self._http)

    async def trash(self) -> None:
        """Put it into the trash, where it stays for 30 days."""
        await self._http.delete(call("DELETE", "/v1/images/{id}", id=self.id))

    async def restore(self) -> AsyncStoredImage:
        """Take it out of the trash."""
        asked = call("POST", "/v1/images/{id}/restore", id=self.id)
        return self.of(await self._http.get(asked, schemas.GalleryImage), self._http)

    async def delete(self) -> None:
        """Delete it for good, now."""
        await self._http.delete(call("DELETE", "/v1/images/{id}", id=self.id).asking(forever=True))


class AsyncImages:
    """The gallery: `client.images`."""

    def __init__(self, http: AsyncTransport):
        self._http = http

    async def get(self, id: str) -> AsyncStoredImage:
        found = await self._http.get(call("GET", "/v1/images/{id}/about", id=id), schemas.GalleryImage)
        return AsyncStoredImage.of(found, self._http)

    async def list(self, **wanted: Unpack[Filters]) -> AsyncIterator[AsyncStoredImage]:
        """Every stored image that fits, newest first, asked for page by page."""
        asked = call("GET", "/v1/images").asking(limit=100, **wanted)
        async for found in self._http.items(asked, schemas.GalleryPage):
            yield AsyncStoredImage.of(found, self._http)

    async def change(self, ids: Sequence[str], change: Change) -> int:
        """Change up to 500 images at once; `delete` is for good. Returns how many were found, and changed."""
        asked = call("PATCH", "/v1/images").but(json={"ids": list(ids), "change": change})
        return (await self._http.get(asked, schemas.ImagesChanged)).changed

    async def zip(self, path: str | os.PathLike[str], **wanted: Unpack[Filters]) -> Path:
        """Save every stored image that fits as one ZIP, written while it comes."""
        return await self._http.download(call("GET", "/v1/images.zip").asking(**wanted), Path(path))


def _file(id: str, format: str | None) -> Call:
    return call("GET", "/v1/images/{id}", id=id).asking(format=format, download=True)
