"""Jobs: long work that was accepted. Follow, wait, cancel, resume; save the files that one made."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import JsonValue

from kartina.client import work_schemas as schemas
from kartina.client.asynchronous.accepted import AsyncAccepted
from kartina.client.asynchronous.transport import AsyncTransport
from kartina.client.inputs import new_key
from kartina.client.protocol import Call, call, read
from kartina.errors import ConfigError

WorkEvent = schemas.WorkStatusEvent | schemas.WorkProgressEvent | schemas.WorkLogEvent


class AsyncJob(AsyncAccepted[schemas.WorkJob, WorkEvent]):
    """Long work: a training, an import, a study, many images. It goes on, whether it is followed or not."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.kind} {self.status}>"

    @property
    def kind(self) -> str:
        return self.data.kind

    @property
    def progress(self) -> schemas.WorkProgress:
        return self.data.progress

    @property
    def result(self) -> dict[str, JsonValue]:
        """What came of it; empty before it has succeeded."""
        return self.data.result or {}

    @property
    def files(self) -> list[schemas.WorkFile]:
        """The files that it made, when it has succeeded."""
        return self.data.outputs

    def events(self, *, cancel: bool = False) -> AsyncGenerator[WorkEvent]:
        """What happens to it, live, until it is finished: first its status, then progress and what it says.

        `cancel`: cancel it where the iterator is left (closed) before the end.
        """
        return self._follow(self._call("quiet"), cancel)

    async def resume(self) -> Self:
        """Queue it again after it failed or was canceled: it goes on from what it has saved."""
        asked = call("POST", "/v1/jobs/{id}/resume", id=self.id).but(once=True)
        self.data = await self._http.get(asked, schemas.WorkJob)
        return self

    async def save(self, path: str | os.PathLike[str], name: str | None = None) -> Path:
        """Save a file that it made (left out: its only one), over broken connections.

        Raises ConfigError where there is none of that name.
        """
        names = [file.name for file in self.files]
        wanted = names[0] if name is None and len(names) == 1 else name
        if wanted is None or wanted not in names:
            raise ConfigError(
                f"Found no file {name!r} of job {self.id}; expected one of: {', '.join(names) or 'none'}."
            )
        return await self._http.download(call("GET", "/v1/jobs/{id}/files/{name}", id=self.id, name=wanted), Path(path))

    async def delete(self) -> None:
        """Forget it and its files, when it is finished. What it made elsewhere (a run, a model) stays."""
        await self._http.delete(call("DELETE", "/v1/jobs/{id}", id=self.id))

    def _call(self, what: Literal["get", "cancel", "quiet"]) -> Call:
        if what == "cancel":
            return call("POST", "/v1/jobs/{id}/cancel", id=self.id)
        if what == "get":
            return call("GET", "/v1/jobs/{id}", id=self.id)
        return call("GET", "/v1/jobs/{id}/events", id=self.id)

    def _heard(self, kind: str, text: str) -> WorkEvent | None:
        match kind:
            case "status":
                event = read(schemas.WorkStatusEvent, text)
                self.data = event.job
                return event
            case "progress":
                progress = read(schemas.WorkProgressEvent, text)
                self.data = self.data.model_copy(update={"progress": progress.progress})
                return progress
            case "log":
                return read(schemas.WorkLogEvent, text)
        return None


class AsyncJobs:
    """Long work: `client.jobs`."""

    def __init__(self, http: AsyncTransport):
        self._http = http

    async def get(self, id: str) -> AsyncJob:
        return AsyncJob(await self._http.get(call("GET", "/v1/jobs/{id}", id=id), schemas.WorkJob), self._http)

    async def list(self, *, kind: str | None = None, status: str | None = None) -> AsyncIterator[AsyncJob]:
        """Every job, newest first, asked for page by page. `kind`: train, evaluate, study, import, bulk, ..."""
        asked = call("GET", "/v1/jobs").asking(kind=kind, status=status, limit=100)
        async for found in self._http.items(asked, schemas.WorkPage):
            yield AsyncJob(found, self._http)


async def start(http: AsyncTransport, asked: Call, body: Any, key: str | None, wait: bool) -> AsyncJob:
    """The job that a call makes: once, by an idempotency key."""
    asked = asked.but(json=body).saying(Idempotency_Key=key or new_key())
    job = AsyncJob(await http.get(asked, schemas.WorkJob), http)
    if wait:
        async with job:
            await job.wait()
    return job
