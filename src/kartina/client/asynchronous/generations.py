"""Generations: ask for images, follow, wait, cancel, fetch."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Literal, Unpack

from pydantic import JsonValue

from kartina.client import schemas
from kartina.client.asynchronous.accepted import AsyncAccepted
from kartina.client.asynchronous.assets import AsyncAssets
from kartina.client.asynchronous.images import AsyncImage
from kartina.client.asynchronous.transport import AsyncTransport
from kartina.client.inputs import Labels, Options, Picture, Pictures, as_list, file_of, new_key
from kartina.client.protocol import Call, call, read, several


class AsyncOutputEvent(schemas.OutputEvent):
    """One image is finished."""

    output: AsyncImage


AsyncEvent = schemas.StatusEvent | schemas.ProgressEvent | schemas.PreviewEvent | AsyncOutputEvent


class AsyncGeneration(AsyncAccepted[schemas.Job, AsyncEvent]):
    """A request that was accepted. `data` is what was last heard of it; following, waiting and `refresh` hear more.

    As a context it is canceled where it is left unfinished:

        async with await client.generate("fashion-flow", n=64) as job:
            ...
    """

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.status}, {len(self.data.outputs)} of {self.data.request.n}>"

    @property
    def progress(self) -> schemas.Progress:
        return self.data.progress

    @property
    def request(self) -> schemas.GenerationSettings:
        """The request as it was accepted, with its seed."""
        return self.data.request

    @property
    def images(self) -> list[AsyncImage]:
        """The images finished so far, by index."""
        return [AsyncImage.of(output, self._http) for output in self.data.outputs]

    def events(self, *, previews: bool = True, cancel: bool = False) -> AsyncGenerator[AsyncEvent]:
        """What happens to it, live, until it is finished: first its status, then progress, previews and outputs.

        A broken connection or a restart of the service loses no status and no output. `cancel`: cancel it where the
        iterator is left (closed) before the end.
        """
        return self._follow(self._watch(previews), cancel)

    async def delete(self) -> None:
        """Delete it and its images for good; an unfinished one is canceled first."""
        await self._http.delete(call("DELETE", "/v1/generations/{id}", id=self.id))

    async def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Save the images finished so far into a folder, which is made; each is named by its index, class and seed."""
        into = Path(folder)
        await asyncio.to_thread(into.mkdir, parents=True, exist_ok=True)
        return [await image.save(into) for image in self.images]

    async def zip(self, path: str | os.PathLike[str]) -> Path:
        """Save the images of a finished generation as one ZIP, written while it comes."""
        return await self._http.download(call("GET", "/v1/generations/{id}/images.zip", id=self.id), Path(path))

    def _watch(self, previews: bool) -> Call:
        return call("GET", "/v1/generations/{id}/events", id=self.id).asking(previews=previews)

    def _call(self, what: Literal["get", "cancel", "quiet"]) -> Call:
        if what == "cancel":
            return call("POST", "/v1/generations/{id}/cancel", id=self.id)
        return call("GET", "/v1/generations/{id}", id=self.id) if what == "get" else self._watch(previews=False)

    def _heard(self, kind: str, text: str) -> AsyncEvent | None:
        match kind:
            case "status":
                event = read(schemas.StatusEvent, text)
                self.data = event.job
                return event
            case "progress":
                progress = read(schemas.ProgressEvent, text)
                self.data = self.data.model_copy(update={"progress": progress.progress})
                return progress
            case "preview":
                return read(schemas.PreviewEvent, text)
            case "output":
                output = read(schemas.OutputEvent, text).output
                others = [one for one in self.data.outputs if one.index != output.index]
                outputs = sorted([*others, output], key=lambda one: one.index)
                self.data = self.data.model_copy(update={"outputs": outputs})
                return AsyncOutputEvent.model_construct(output=AsyncImage.of(output, self._http))
        return None


class AsyncGenerations:
    """Everything that was asked for: `client.generations`."""

    def __init__(self, http: AsyncTransport, assets: AsyncAssets):
        self._http = http
        self._assets = assets

    async def create(
        self,
        model: str,
        task: str,
        labels: Labels = None,
        *,
        image: Pictures | None = None,
        to_image: Pictures | None = None,
        mask: Pictures | None = None,
        **options: Unpack[Options],
    ) -> AsyncGeneration:
        """Ask for a task by its name: also one that a family of your own has. See `AsyncClient.generate`."""
        body: dict[str, JsonValue] = {"model": model, "task": task, "n": options.get("n", 1)}
        body["controls"] = dict(options.get("controls", {}))
        body["format"] = options.get("format", "png")
        body["seed"] = options.get("seed")
        body["labels"] = [*several(labels)] if labels is not None else None
        for kind, given in (("image", image), ("to_image", to_image), ("mask", mask)):
            if given is not None:
                body[kind] = [await self._assets.id_of(one, kind) for one in as_list(given)]
        asked = call("POST", "/v1/generations").but(json=body)
        return await self._ask(asked, options.get("idempotency_key"), options.get("wait", False))

    async def create_from_file(
        self,
        file: str | os.PathLike[str] | bytes,
        *,
        n: int = 1,
        image: Picture | None = None,
        to_image: Picture | None = None,
        mask: Picture | None = None,
        wait: bool = False,
        idempotency_key: str | None = None,
    ) -> AsyncGeneration:
        """Run again what made this PNG or WebP, from the file alone. What it started from is given again."""
        form: dict[str, str | int] = {"n": n}
        for kind, given in (("image", image), ("to_image", to_image), ("mask", mask)):
            if given is not None:
                form[kind] = await self._assets.id_of(given, kind)
        upload = await asyncio.to_thread(file_of, file)
        asked = call("POST", "/v1/generations/from-file").but(form=form, files={"file": upload})
        return await self._ask(asked, idempotency_key, wait)

    async def get(self, id: str) -> AsyncGeneration:
        found = await self._http.get(call("GET", "/v1/generations/{id}", id=id), schemas.Job)
        return AsyncGeneration(found, self._http)

    async def list(self) -> AsyncIterator[AsyncGeneration]:
        """Every generation, newest first, asked for page by page."""
        async for found in self._http.items(call("GET", "/v1/generations").asking(limit=100), schemas.JobPage):
            yield AsyncGeneration(found, self._http)

    async def _ask(self, asked: Call, key: str | None, wait: bool) -> AsyncGeneration:
        asked = asked.saying(Idempotency_Key=key or new_key())
        found = AsyncGeneration(await self._http.get(asked, schemas.Job), self._http)
        if wait:
            async with found:
                await found.wait()
        return found
