# Made from asynchronous/models.py by scripts/unasync.py. Do not edit.

"""Models: cards, pictures, packages, versions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from kartina.client import blocking, schemas
from kartina.client.inputs import file_of
from kartina.client.protocol import call
from kartina.client.synchronous.transport import Transport

IMPORT = 600.0  # seconds: a package is unpacked, checked and loaded before the answer


class Models:
    """The models there are: `client.models`. `ref` is name, name@version, or the start of a hash."""

    def __init__(self, http: Transport):
        self._http = http

    def get(self, ref: str) -> schemas.Model:
        """A model's card: what it makes, how well, its tasks and their controls."""
        return self._http.get(call("GET", "/v1/models/{ref}", ref=ref), schemas.Model)

    def samples(self, ref: str) -> bytes:
        """A PNG of uncurated images, one row a class. Raises NotFoundError where the package has none."""
        return self._http.content(call("GET", "/v1/models/{ref}/samples.png", ref=ref))

    def class_image(self, ref: str, index: int) -> bytes:
        """A PNG of one example of a class, by its index."""
        return self._http.content(call("GET", "/v1/models/{ref}/classes/{index}.png", ref=ref, index=index))

    def import_package(self, file: str | os.PathLike[str] | bytes, name: str | None = None) -> schemas.Model:
        """Import a package's ZIP, under another `name` if one is given. The same weights again are the same model."""
        upload = blocking.to_thread(file_of, file)
        asked = call("POST", "/v1/models").but(form={"name": name}, files={"file": upload}, timeout=IMPORT)
        return self._http.get(asked, schemas.Model)

    def export(self, ref: str, path: str | os.PathLike[str]) -> Path:
        """Save the whole package as a ZIP, written while it comes: import it elsewhere."""
        return self._http.download(call("GET", "/v1/models/{ref}/package.zip", ref=ref), Path(path))

    def activate(self, ref: str) -> schemas.Model:
        """From now on the name alone means this version."""
        return self._http.get(call("POST", "/v1/models/{ref}/activate", ref=ref), schemas.Model)

    def roll_back(self, name: str) -> schemas.Model:
        """Make the version active again that was before the active one."""
        asked = call("POST", "/v1/models/{ref}/rollback", ref=name).but(once=True)
        return self._http.get(asked, schemas.Model)

    def delete(self, ref: str) -> None:
        """Delete one version."""
        self._http.delete(call("DELETE", "/v1/models/{ref}", ref=ref))

    def list(self) -> Iterator[schemas.Model]:
        """Every model, your own first, asked for page by page."""
        return self._http.items(call("GET", "/v1/models").asking(limit=100), schemas.ModelPage)
