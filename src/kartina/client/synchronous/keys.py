# Made from asynchronous/keys.py by scripts/unasync.py. Do not edit.

"""API keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from kartina.client import schemas
from kartina.client.protocol import call, several
from kartina.client.synchronous.transport import Transport


class Keys:
    """API keys: `client.keys`. Takes a key (or the start-up token) with the scope `keys`."""

    def __init__(self, http: Transport):
        self._http = http

    def create(
        self,
        name: str,
        scopes: Sequence[str] = ("generate",),
        *,
        quota: Mapping[Literal["steps", "images", "bytes", "jobs"], int | None] | None = None,
        rate: str = "600/minute",
        days: int | None = None,
    ) -> schemas.NewKey:
        """Make a key; its `secret` is in this answer and nowhere else. `days`: it ends after so many.

        `quota`: images x steps a day, stored images, stored bytes (left out: no bound), unfinished jobs (left out: 20).
        """
        body = {"name": name, "scopes": several(scopes), "quota": dict(quota or {}), "rate": rate, "days": days}
        asked = call("POST", "/v1/keys").but(json=body, once=True)
        return self._http.get(asked, schemas.NewKey)

    def revoke(self, id: str) -> None:
        """From now on the key opens nothing. What was made with it stays."""
        self._http.delete(call("DELETE", "/v1/keys/{id}", id=id))

    def list(self) -> list[schemas.Key]:
        """Every key, newest first, with what it has used."""
        found = self._http.get(call("GET", "/v1/keys"), schemas.KeyPage)
        return found.items
