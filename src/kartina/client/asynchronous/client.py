"""The client: one verb for each task, and what else there is by its name."""

from __future__ import annotations

import os
from typing import Self, Unpack

import httpx2

from kartina.client import schemas
from kartina.client.asynchronous.assets import AsyncAssets
from kartina.client.asynchronous.datasets import AsyncBulk, AsyncDatasets
from kartina.client.asynchronous.generations import AsyncGeneration, AsyncGenerations
from kartina.client.asynchronous.images import AsyncImages
from kartina.client.asynchronous.jobs import AsyncJobs
from kartina.client.asynchronous.keys import AsyncKeys
from kartina.client.asynchronous.models import AsyncModels
from kartina.client.asynchronous.runs import AsyncPresets, AsyncRuns, AsyncStudies
from kartina.client.asynchronous.transport import AsyncTransport
from kartina.client.asynchronous.uploads import AsyncUploads
from kartina.client.inputs import Labels, Options, Picture, Pictures
from kartina.client.protocol import Place, call


class AsyncClient:
    """A Kartina service.

    `url`, else KARTINA_URL, else this machine's port 8765; `key`, else the token of the URL, else KARTINA_KEY.
    `timeout`: seconds that one answer may take. `patience`: seconds that a call is tried again for, after a broken
    connection, 429 or 503; 0 for never. `transport`: httpx2's, for certificates or proxies of your own.

    Verbs take `labels` (class names in turn; left out: every class), images as paths, bytes, PIL images or assets,
    and `n`, `seed`, `controls`, `format`, `wait`, `idempotency_key` (see `Options`).

    Raises ConfigError where there is no key.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        timeout: float = 60.0,
        patience: float = 60.0,
        transport: httpx2.AsyncBaseTransport | None = None,
    ):
        place = Place.of(url, key)
        self.url = place.url
        self._http = AsyncTransport(place, timeout, patience, transport)
        self.assets = AsyncAssets(self._http)
        self.bulk = AsyncBulk(self._http)
        self.uploads = AsyncUploads(self._http)
        self.datasets = AsyncDatasets(self._http, self.uploads)
        self.generations = AsyncGenerations(self._http, self.assets)
        self.images = AsyncImages(self._http)
        self.jobs = AsyncJobs(self._http)
        self.keys = AsyncKeys(self._http)
        self.models = AsyncModels(self._http)
        self.presets = AsyncPresets(self._http)
        self.runs = AsyncRuns(self._http)
        self.studies = AsyncStudies(self._http)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    async def close(self) -> None:
        """Close its connections."""
        await self._http.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def health(self) -> schemas.Health:
        """Whether the service answers."""
        return await self._http.get(call("GET", "/healthz"), schemas.Health)

    async def session(self) -> schemas.Session:
        """Who this client is to the service, and what it may do."""
        return await self._http.get(call("GET", "/v1/session"), schemas.Session)

    # -- tasks -------------------------------------------------------------------------------------------------------

    async def generate(self, model: str, labels: Labels = None, **options: Unpack[Options]) -> AsyncGeneration:
        """Make images of classes."""
        return await self.generations.create(model, "generate", labels, **options)

    async def translate(
        self, model: str, image: Pictures, labels: Labels = None, **options: Unpack[Options]
    ) -> AsyncGeneration:
        """Turn images into what the model was trained to turn them into."""
        return await self.generations.create(model, "translate", labels, image=image, **options)

    async def transform(
        self, model: str, image: Pictures, labels: Labels = None, **options: Unpack[Options]
    ) -> AsyncGeneration:
        """Make variants of images, as far from them as the control `strength` says."""
        return await self.generations.create(model, "transform", labels, image=image, **options)

    async def inpaint(
        self, model: str, image: Pictures, mask: Pictures, labels: Labels = None, **options: Unpack[Options]
    ) -> AsyncGeneration:
        """Make the masked part of images anew: the mask's white is made, its black stays."""
        return await self.generations.create(model, "inpaint", labels, image=image, mask=mask, **options)

    async def upscale(
        self, model: str, image: Pictures, labels: Labels = None, **options: Unpack[Options]
    ) -> AsyncGeneration:
        """Make images larger."""
        return await self.generations.create(model, "upscale", labels, image=image, **options)

    async def colorize(
        self, model: str, image: Pictures, labels: Labels = None, **options: Unpack[Options]
    ) -> AsyncGeneration:
        """Give grey images colours."""
        return await self.generations.create(model, "colorize", labels, image=image, **options)

    async def invert(
        self, model: str, image: Pictures, labels: Labels = None, **options: Unpack[Options]
    ) -> AsyncGeneration:
        """Find what the model makes images from, and make them of it."""
        return await self.generations.create(model, "invert", labels, image=image, **options)

    async def interpolate(self, model: str, labels: Labels = None, **options: Unpack[Options]) -> AsyncGeneration:
        """Make images on the way between seeds, and between classes."""
        return await self.generations.create(model, "interpolate", labels, **options)

    async def morph(
        self, model: str, image: Pictures, to_image: Pictures, labels: Labels = None, **options: Unpack[Options]
    ) -> AsyncGeneration:
        """Make images on the way between two images."""
        return await self.generations.create(model, "morph", labels, image=image, to_image=to_image, **options)

    async def run_again(
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
        """Run again what made this PNG or WebP, from the file alone; `n`: more of them, with the seeds that follow.

        What the file's image started from is not in the file: give it again, the same; of another one, or one that was
        fitted to the model by other means than cropping, it makes another picture.
        """
        return await self.generations.create_from_file(
            file, n=n, image=image, to_image=to_image, mask=mask, wait=wait, idempotency_key=idempotency_key
        )
