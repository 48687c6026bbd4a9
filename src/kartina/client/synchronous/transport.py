# Made from asynchronous/transport.py by scripts/unasync.py. Do not edit.

"""Calls over httpx2: sent, sent again, streamed, paged, saved."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from kartina.client import blocking
from kartina.client.errors import NotFoundError
from kartina.client.inputs import partial
from kartina.client.protocol import MAX_EVENT, SILENCE, Call, D, Place, Tries, read
from kartina.client.schemas import Page


class Transport:
    """A service. `patience`: seconds that a call is tried again for."""

    def __init__(self, place: Place, timeout: float, patience: float, transport: httpx2.BaseTransport | None):
        self.http = httpx2.Client(**place.settings(timeout), transport=transport)
        self.patience = patience

    def send(self, of: Call, tries: Tries | None = None) -> httpx2.Response:
        """The answer, whole. Raises UnreachableError, ServiceError."""
        tries = tries or Tries(of, self.patience)
        while True:
            try:
                with self.stream(of, tries) as response:
                    response.read()
                    return response
            except httpx2.RequestError as error:
                blocking.sleep(tries.after_break(error))

    @contextmanager
    def stream(self, of: Call, tries: Tries) -> Iterator[httpx2.Response]:
        """An answer whose body is not yet read. What breaks after that is the caller's to try again.

        Raises UnreachableError, ServiceError.
        """
        while True:
            try:
                with of.arguments() as arguments:
                    response = self.http.send(self.http.build_request(**arguments), stream=True)
                    content = b"" if response.is_success else response.read()
            except httpx2.RequestError as error:
                pause = tries.after_break(error)
            else:
                try:
                    if response.is_success:
                        yield response
                        return
                    pause = tries.after_answer(response, content)
                finally:
                    response.close()
            blocking.sleep(pause)

    def get(self, of: Call, model: type[D]) -> D:
        """The answer as data. Raises UnreachableError, ServiceError, AnswerError."""
        return read(model, self.content(of))

    def content(self, of: Call) -> bytes:
        """The answer's bytes. Raises UnreachableError, ServiceError."""
        answer = self.send(of)
        return answer.content

    def delete(self, of: Call) -> None:
        """Delete something. Where an answer was lost and it is gone, that is what was asked for."""
        tries = Tries(of, self.patience)
        try:
            self.send(of, tries)
        except NotFoundError:
            if not tries.broken:
                raise

    def items(self, of: Call, page: type[Page[D]]) -> Iterator[D]:
        """The items of a list, page by page as they are asked for."""
        cursor: str | None = ""
        while cursor is not None:
            found = self.get(of.asking(cursor=cursor or None), page)
            yield from found.items
            cursor = found.next_cursor

    def events(self, of: Call) -> Generator[httpx2.ServerSentEvent]:
        """Server-sent events, on and on: over a broken connection it goes on after the last one that came.

        The caller leaves when it has what it waits for. Raises UnreachableError, ServiceError.
        """
        of, last, tries = of.but(timeout=SILENCE), None, Tries(of, self.patience)
        while True:
            try:
                with self.stream(of.saying(last_event_id=last), tries) as response:
                    for event in httpx2.EventSource(response, MAX_EVENT):
                        last = event.id or last
                        if event.event != "reconnect":  # which says that the service stops
                            tries = Tries(of, self.patience)
                            yield event
            except httpx2.RequestError as error:
                pause = tries.after_break(error)
            else:
                pause = tries.after_end()
            blocking.sleep(pause)

    def download(self, of: Call, path: Path) -> Path:
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
                    with self.stream(of.saying(**rest), tries) as response:
                        size = size if response.status_code == 206 else 0
                        tag = response.headers.get("etag") if "accept-ranges" in response.headers else None
                        with part.open("ab" if size else "wb") as file:
                            for chunk in response.iter_bytes():
                                size += blocking.to_thread(file.write, chunk)
                                tries = Tries(of, self.patience) if tag else tries
                    blocking.to_thread(part.replace, path)
                    return path
                except httpx2.RequestError as error:
                    blocking.sleep(tries.after_break(error))
        finally:
            part.unlink(missing_ok=True)

    def close(self) -> None:
        self.http.close()
