"""Calls over httpx2: sent, sent again, streamed, paged, saved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2

from kartina.client.errors import NotFoundError
from kartina.client.inputs import partial
from kartina.client.protocol import MAX_EVENT, SILENCE, Call, D, Place, Tries, read
from kartina.client.schemas import Page


class AsyncTransport:
    """A service. `patience`: seconds that a call is tried again for."""

    def __init__(self, place: Place, timeout: float, patience: float, transport: httpx2.AsyncBaseTransport | None):
        self.http = httpx2.AsyncClient(**place.settings(timeout), transport=transport)
        self.patience = patience

    async def send(self, of: Call, tries: Tries | None = None) -> httpx2.Response:
        """The answer, whole. Raises UnreachableError, ServiceError."""
        tries = tries or Tries(of, self.patience)
        while True:
            try:
                async with self.stream(of, tries) as response:
                    await response.aread()
                    return response
            except httpx2.RequestError as error:
                await asyncio.sleep(tries.after_break(error))

    @asynccontextmanager
    async def stream(self, of: Call, tries: Tries) -> AsyncIterator[httpx2.Response]:
        """An answer whose body is not yet read. What breaks after that is the caller's to try again.

        Raises UnreachableError, ServiceError.
        """
        while True:
            try:
                with of.arguments() as arguments:
                    response = await self.http.send(self.http.build_request(**arguments), stream=True)
                    content = b"" if response.is_success else await response.aread()
            except httpx2.RequestError as error:
                pause = tries.after_break(error)
            else:
                try:
                    if response.is_success:
                        yield response
                        return
                    pause = tries.after_answer(response, content)
                finally:
                    await response.aclose()
            await asyncio.sleep(pause)

    async def get(self, of: Call, model: type[D]) -> D:
        """The answer as data. Raises UnreachableError, ServiceError, AnswerError."""
        return read(model, await self.content(of))

    async def content(self, of: Call) -> bytes:
        """The answer's bytes. Raises UnreachableError, ServiceError."""
        answer = await self.send(of)
        return answer.content

    async def delete(self, of: Call) -> None:
        """Delete something. Where an answer was lost and it is gone, that is what was asked for."""
        tries = Tries(of, self.patience)
        try:
            await self.send(of, tries)
        except NotFoundError:
            if not tries.broken:
                raise

    async def items(self, of: Call, page: type[Page[D]]) -> AsyncIterator[D]:
        """The items of a list, page by page as they are asked for."""
        cursor: str | None = ""
        while cursor is not None:
            found = await self.get(of.asking(cursor=cursor or None), page)
            for item in found.items:
                yield item
            cursor = found.next_cursor

    async def events(self, of: Call) -> AsyncGenerator[httpx2.ServerSentEvent]:
        """Server-sent events, on and on: over a broken connection it goes on after the last one that came.

        The caller leaves when it has what it waits for. Raises UnreachableError, ServiceError.
        """
        of, last, tries = of.but(timeout=SILENCE), None, Tries(of, self.patience)
        while True:
            try:
                async with self.stream(of.saying(last_event_id=last), tries) as response:
                    async for event in httpx2.EventSource(response, MAX_EVENT):
                        last = event.id or last
                        if event.event != "reconnect":  # which says that the service stops
                            tries = Tries(of, self.patience)
                            yield event
            except httpx2.RequestError as error:
                pause = tries.after_break(error)
            else:
                pause = tries.after_end()
            await asyncio.sleep(pause)

    async def download(self, of: Call, path: Path) -> Path:
        """Write the answer to a file while it comes, whole or not at all.

        After a broken connection it goes on where it broke off, where the service can, else from the beginning.
        Raises UnreachableError, ServiceError, OSError.
        """
        part, tries = partial(path), Tries(of, self.patience)
        of, size, tag = of.saying(Accept_Encoding="identity"), 0, None
        try:
            while True:
                rest: dict[str, str] = {"Range": f"bytes={size}-", "If_Range": tag} if size and tag else {}
                try:
                    async with self.stream(of.saying(**rest), tries) as response:
                        size = size if response.status_code == 206 else 0
                        tag = response.headers.get("etag") if "accept-ranges" in response.headers else None
                        with part.open("ab" if size else "wb") as file:
                            async for chunk in response.aiter_bytes():
                                size += await asyncio.to_thread(file.write, chunk)
                                tries = Tries(of, self.patience) if tag else tries
                    await asyncio.to_thread(part.replace, path)
                    return path
                except httpx2.RequestError as error:
                    await asyncio.sleep(tries.after_break(error))
        finally:
            part.unlink(missing_ok=True)

    async def close(self) -> None:
        await self.http.aclose()
