"""Data sets: inspect and import an archive, look, delete; and many images of a model as one."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Literal, Unpack

from pydantic import JsonValue

from kartina.client import work_schemas as schemas
from kartina.client.asynchronous.jobs import AsyncJob, start
from kartina.client.asynchronous.transport import AsyncTransport
from kartina.client.asynchronous.uploads import AsyncUploads, Told
from kartina.client.inputs import DatasetOptions, Labels, Reading
from kartina.client.protocol import call, several

Source = str | os.PathLike[str] | schemas.Upload  # an archive here, or one that was uploaded


class AsyncDatasets:
    """Labelled images to learn from: `client.datasets`."""

    def __init__(self, http: AsyncTransport, uploads: AsyncUploads):
        self._http = http
        self._uploads = uploads

    async def inspect(
        self, source: Source, *, progress: Told | None = None, wait: bool = False, **reading: Unpack[Reading]
    ) -> AsyncJob:
        """Look at an archive before its import: the job's result tells classes, sizes, duplicates, problems, advice,
        and what an import would take (`import`)."""
        body = {**reading, "upload": await self._id_of(source, progress)}
        return await start(self._http, call("POST", "/v1/datasets/inspect"), body, None, wait)

    async def create(
        self, name: str, source: Source | AsyncJob, *, progress: Told | None = None, wait: bool = False,
        idempotency_key: str | None = None, **options: Unpack[DatasetOptions],
    ) -> AsyncJob:  # fmt: skip
        """Import an archive, an upload, or what a bulk generation made. `progress` of an upload: (bytes there, all)."""
        if isinstance(source, AsyncJob):
            body = {**options, "name": name, "bulk": source.id}
        else:
            body = {**options, "name": name, "upload": await self._id_of(source, progress)}
        return await start(self._http, call("POST", "/v1/datasets"), body, idempotency_key, wait)

    async def get(self, name: str) -> schemas.Dataset:
        """A data set: its histogram, splits, hash, and what was found in it."""
        return await self._http.get(call("GET", "/v1/datasets/{name}", name=name), schemas.Dataset)

    def images(
        self, name: str, *, split: Literal["train", "val", "test"] | None = None, label: str | None = None
    ) -> AsyncIterator[schemas.DatasetImage]:
        """Its images by their place, asked for page by page."""
        asked = call("GET", "/v1/datasets/{name}/images", name=name).asking(split=split, label=label, limit=100)
        return self._http.items(asked, schemas.DatasetImagePage)

    async def image(self, name: str, index: int) -> bytes:
        """A PNG of an image as it was packed."""
        asked = call("GET", "/v1/datasets/{name}/images/{index}.png", name=name, index=index)
        return await self._http.content(asked)

    async def source(self, name: str, index: int) -> bytes:
        """Of pairs: a PNG of what an image is to be made from."""
        asked = call("GET", "/v1/datasets/{name}/sources/{index}.png", name=name, index=index)
        return await self._http.content(asked)

    async def class_image(self, name: str, index: int) -> bytes:
        """A PNG of the first training image of a class, by its index."""
        asked = call("GET", "/v1/datasets/{name}/classes/{index}.png", name=name, index=index)
        return await self._http.content(asked)

    async def delete(self, name: str) -> None:
        """Delete it. Runs that learnt from it stay, but can no longer be evaluated on it."""
        await self._http.delete(call("DELETE", "/v1/datasets/{name}", name=name))

    def list(self) -> AsyncIterator[schemas.DatasetSummary]:
        """Your data sets and the embedded one, by name."""
        return self._http.items(call("GET", "/v1/datasets").asking(limit=100), schemas.DatasetPage)

    async def _id_of(self, source: Source, progress: Told | None) -> str:
        if isinstance(source, schemas.Upload):
            return source.id
        found = await self._uploads.send(source, progress=progress)
        return found.id


class AsyncBulk:
    """Many images of one model, as the ZIP of a data set: `client.bulk`."""

    def __init__(self, http: AsyncTransport):
        self._http = http

    async def create(
        self, model: str, labels: Labels = None, *, n: int | None = None, counts: Mapping[str, int] | None = None,
        seed: int | None = None, controls: Mapping[str, JsonValue] | None = None,
        format: Literal["png", "webp"] = "png", wait: bool = False, idempotency_key: str | None = None,
    ) -> AsyncJob:  # fmt: skip
        """Make up to a million images: `n` of the labels in turn, or `counts` of each class.

        The job's file is the ZIP (`job.save("images.zip")`), and `client.datasets.create(name, job)` imports it.
        """
        body = _bulk(model, labels, n, counts, seed, controls, format)
        return await start(self._http, call("POST", "/v1/bulk"), body, idempotency_key, wait)

    async def estimate(
        self, model: str, labels: Labels = None, *, n: int | None = None, counts: Mapping[str, int] | None = None,
        controls: Mapping[str, JsonValue] | None = None, format: Literal["png", "webp"] = "png",
    ) -> schemas.BulkEstimate:  # fmt: skip
        """How long it would take, and how much room."""
        asked = call("POST", "/v1/bulk/estimate").but(json=_bulk(model, labels, n, counts, None, controls, format))
        return await self._http.get(asked, schemas.BulkEstimate)


def _bulk(
    model: str, labels: Labels, n: int | None, counts: Mapping[str, int] | None, seed: int | None,
    controls: Mapping[str, JsonValue] | None, format: str,
) -> dict[str, object]:  # fmt: skip
    named: Sequence[str] | None = None if labels is None else several(labels)
    return {
        "model": model, "labels": named, "n": n, "counts": None if counts is None else dict(counts), "seed": seed,
        "controls": dict(controls or {}), "format": format,
    }  # fmt: skip
