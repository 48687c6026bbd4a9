# Made from asynchronous/datasets.py by scripts/unasync.py. Do not edit.

"""Data sets: inspect and import an archive, look, delete; and many images of a model as one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Unpack

from pydantic import JsonValue

from kartina.client import work_schemas as schemas
from kartina.client.inputs import DatasetOptions, Labels, Reading
from kartina.client.protocol import call, several
from kartina.client.synchronous.jobs import Job, start
from kartina.client.synchronous.transport import Transport
from kartina.client.synchronous.uploads import Told, Uploads

Source = str | os.PathLike[str] | schemas.Upload  # an archive here, or one that was uploaded


class Datasets:
    """Labelled images to learn from: `client.datasets`."""

    def __init__(self, http: Transport, uploads: Uploads):
        self._http = http
        self._uploads = uploads

    def inspect(
        self, source: Source, *, progress: Told | None = None, wait: bool = False, **reading: Unpack[Reading]
    ) -> Job:
        """Look at an archive before its import: the job's result tells classes, sizes, duplicates, problems, advice,
        and what an import would take (`import`)."""
        body = {**reading, "upload": self._id_of(source, progress)}
        return start(self._http, call("POST", "/v1/datasets/inspect"), body, None, wait)

    def create(
        self, name: str, source: Source | Job, *, progress: Told | None = None, wait: bool = False,
        idempotency_key: str | None = None, **options: Unpack[DatasetOptions],
    ) -> Job:  # fmt: skip
        """Import an archive, an upload, or what a bulk generation made. `progress` of an upload: (bytes there, all)."""
        if isinstance(source, Job):
            body = {**options, "name": name, "bulk": source.id}
        else:
            body = {**options, "name": name, "upload": self._id_of(source, progress)}
        return start(self._http, call("POST", "/v1/datasets"), body, idempotency_key, wait)

    def get(self, name: str) -> schemas.Dataset:
        """A data set: its histogram, splits, hash, and what was found in it."""
        return self._http.get(call("GET", "/v1/datasets/{name}", name=name), schemas.Dataset)

    def images(
        self, name: str, *, split: Literal["train", "val", "test"] | None = None, label: str | None = None
    ) -> Iterator[schemas.DatasetImage]:
        """Its images by their place, asked for page by page."""
        asked = call("GET", "/v1/datasets/{name}/images", name=name).asking(split=split, label=label, limit=100)
        return self._http.items(asked, schemas.DatasetImagePage)

    def image(self, name: str, index: int) -> bytes:
        """A PNG of an image as it was packed."""
        asked = call("GET", "/v1/datasets/{name}/images/{index}.png", name=name, index=index)
        return self._http.content(asked)

    def source(self, name: str, index: int) -> bytes:
        """Of pairs: a PNG of what an image is to be made from."""
        asked = call("GET", "/v1/datasets/{name}/sources/{index}.png", name=name, index=index)
        return self._http.content(asked)

    def class_image(self, name: str, index: int) -> bytes:
        """A PNG of the first training image of a class, by its index."""
        asked = call("GET", "/v1/datasets/{name}/classes/{index}.png", name=name, index=index)
        return self._http.content(asked)

    def delete(self, name: str) -> None:
        """Delete it. Runs that learnt from it stay, but can no longer be evaluated on it."""
        self._http.delete(call("DELETE", "/v1/datasets/{name}", name=name))

    def list(self) -> Iterator[schemas.DatasetSummary]:
        """Your data sets and the embedded one, by name."""
        return self._http.items(call("GET", "/v1/datasets").asking(limit=100), schemas.DatasetPage)

    def _id_of(self, source: Source, progress: Told | None) -> str:
        if isinstance(source, schemas.Upload):
            return source.id
        found = self._uploads.send(source, progress=progress)
        return found.id


class Bulk:
    """Many images of one model, as the ZIP of a data set: `client.bulk`."""

    def __init__(self, http: Transport):
        self._http = http

    def create(
        self, model: str, labels: Labels = None, *, n: int | None = None, counts: Mapping[str, int] | None = None,
        seed: int | None = None, controls: Mapping[str, JsonValue] | None = None,
        format: Literal["png", "webp"] = "png", wait: bool = False, idempotency_key: str | None = None,
    ) -> Job:  # fmt: skip
        """Make up to a million images: `n` of the labels in turn, or `counts` of each class.

        The job's file is the ZIP (`job.save("images.zip")`), and `client.datasets.create(name, job)` imports it.
        """
        body = _bulk(model, labels, n, counts, seed, controls, format)
        return start(self._http, call("POST", "/v1/bulk"), body, idempotency_key, wait)

    def estimate(
        self, model: str, labels: Labels = None, *, n: int | None = None, counts: Mapping[str, int] | None = None,
        controls: Mapping[str, JsonValue] | None = None, format: Literal["png", "webp"] = "png",
    ) -> schemas.BulkEstimate:  # fmt: skip
        """How long it would take, and how much room."""
        asked = call("POST", "/v1/bulk/estimate").but(json=_bulk(model, labels, n, counts, None, controls, format))
        return self._http.get(asked, schemas.BulkEstimate)


def _bulk(
    model: str, labels: Labels, n: int | None, counts: Mapping[str, int] | None, seed: int | None,
    controls: Mapping[str, JsonValue] | None, format: str,
) -> dict[str, object]:  # fmt: skip
    named: Sequence[str] | None = None if labels is None else several(labels)
    return {
        "model": model, "labels": named, "n": n, "counts": None if counts is None else dict(counts), "seed": seed,
        "controls": dict(controls or {}), "format": format,
    }  # fmt: skip
