# Made from asynchronous/client.py by scripts/unasync.py. Do not edit.

"""The client: one verb for each task, and what else there is by its name."""

from __future__ import annotations

import os
from typing import Self, Unpack

import httpx2

from kartina.client import schemas
from kartina.client.inputs import Labels, Options, Picture, Pictures
from kartina.client.protocol import Place, call
from kartina.client.synchronous.assets import Assets
from kartina.client.synchronous.datasets import Bulk, Datasets
from kartina.client.synchronous.generations import Generation, Generations
from kartina.client.synchronous.images import Images
from kartina.client.synchronous.jobs import Jobs
from kartina.client.synchronous.keys import Keys
from kartina.client.synchronous.models import Models
from kartina.client.synchronous.runs import Presets, Runs, Studies
from kartina.client.synchronous.transport import Transport
from kartina.client.synchronous.uploads import Uploads


class Client:
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
        transport: httpx2.BaseTransport | None = None,
    ):
        place = Place.of(url, key)
        self.url = place.url
        self._http = Transport(place, timeout, patience, transport)
        self.assets = Assets(self._http)
        self.bulk = Bulk(self._http)
        self.uploads = Uploads(self._http)
        self.datasets = Datasets(self._http, self.uploads)
        self.generations = Generations(self._http, self.assets)
        self.images = Images(self._http)
        self.jobs = Jobs(self._http)
        self.keys = Keys(self._http)
        self.models = Models(self._http)
        self.presets = Presets(self._http)
        self.runs = Runs(self._http)
        self.studies = Studies(self._http)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def health(self) -> schemas.Health:
        """Whether the service answers."""
        return self._http.get(call("GET", "/healthz"), schemas.Health)

    def session(self) -> schemas.Session:
        """Who this client is to the service, and what it may do."""
        return self._http.get(call("GET", "/v1/session"), schemas.Session)

    # -- tasks -------------------------------------------------------------------------------------------------------

    def generate(self, model: str, labels: Labels = None, **options: Unpack[Options]) -> Generation:
        """Make images of classes."""
        return self.generations.create(model, "generate", labels, **options)

    def translate(self, model: str, image: Pictures, labels: Labels = None, **options: Unpack[Options]) -> Generation:
        """Turn images into what the model was trained to turn them into."""
        return self.generations.create(model, "translate", labels, image=image, **options)

    def transform(self, model: str, image: Pictures, labels: Labels = None, **options: Unpack[Options]) -> Generation:
        """Make variants of images, as far from them as the control `strength` says."""
        return self.generations.create(model, "transform", labels, image=image, **options)

    def inpaint(
        self, model: str, image: Pictures, mask: Pictures, labels: Labels = None, **options: Unpack[Options]
    ) -> Generation:
        """Make the masked part of images anew: the mask's white is made, its black stays."""
        return self.generations.create(model, "inpaint", labels, image=image, mask=mask, **options)

    def upscale(self, model: str, image: Pictures, labels: Labels = None, **options: Unpack[Options]) -> Generation:
        """Make images larger."""
        return self.generations.create(model, "upscale", labels, image=image, **options)

    def colorize(self, model: str, image: Pictures, labels: Labels = None, **options: Unpack[Options]) -> Generation:
        """Give grey images colours."""
        return self.generations.create(model, "colorize", labels, image=image, **options)

    def invert(self, model: str, image: Pictures, labels: Labels = None, **options: Unpack[Options]) -> Generation:
        """Find what the model makes images from, and make them of it."""
        return self.generations.create(model, "invert", labels, image=image, **options)

    def interpolate(self, model: str, labels: Labels = None, **options: Unpack[Options]) -> Generation:
        """Make images on the way between seeds, and between classes."""
        return self.generations.create(model, "interpolate", labels, **options)

    def morph(
        self, model: str, image: Pictures, to_image: Pictures, labels: Labels = None, **options: Unpack[Options]
    ) -> Generation:
        """Make images on the way between two images."""
        return self.generations.create(model, "morph", labels, image=image, to_image=to_image, **options)

    def run_again(
        self,
        file: str | os.PathLike[str] | bytes,
        *,
        n: int = 1,
        image: Picture | None = None,
        to_image: Picture | None = None,
        mask: Picture | None = None,
        wait: bool = False,
        idempotency_key: str | None = None,
    ) -> Generation:
        """Run again what made this PNG or WebP, from the file alone; `n`: more of them, with the seeds that follow.

        What the file's image started from is not in the file: give it again, the same; of another one, or one that was
        fitted to the model by other means than cropping, it makes another picture.
        """
        return self.generations.create_from_file(
            file, n=n, image=image, to_image=to_image, mask=mask, wait=wait, idempotency_key=idempotency_key
        )
