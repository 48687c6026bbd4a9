# Made from asynchronous/accepted.py by scripts/unasync.py. Do not edit.

"""What was accepted and is done meanwhile: followed, waited for, canceled. Generations and jobs are of this kind."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import closing
from typing import Generic, Literal, Self, TypeVar

from kartina.client import blocking, schemas, work_schemas
from kartina.client.errors import CanceledError, WaitError, service_error
from kartina.client.protocol import Call
from kartina.client.synchronous.transport import Transport

FINISHED = ("succeeded", "failed", "canceled", "expired")

J = TypeVar("J", bound=schemas.Job | work_schemas.WorkJob)
E = TypeVar("E")


class Accepted(ABC, Generic[J, E]):
    """`data` is what was last heard of it; following, waiting and `refresh` hear more.

    As a context it is canceled where it is left unfinished.
    """

    def __init__(self, data: J, http: Transport):
        self.data: J = data
        self._http = http

    @property
    def id(self) -> str:
        return self.data.id

    @property
    def status(self) -> schemas.Status:
        """queued, running or canceling; then for good succeeded, failed, canceled or expired."""
        return self.data.status

    @property
    def finished(self) -> bool:
        return self.data.status in FINISHED

    def refresh(self) -> Self:
        """Ask how it is now."""
        self.data = self._http.get(self._call("get"), type(self.data))
        return self

    def wait(self, timeout: float | None = None) -> Self:
        """Come back when it has succeeded. `timeout`: at most so many seconds; it goes on after them.

        Raises the ServiceError that it failed with, CanceledError, WaitError, UnreachableError.
        """
        if timeout is not None:
            self._look(timeout)
        elif not self.finished:
            for _ in self._follow(self._call("quiet"), False):
                pass
        if self.status == "canceled":
            raise CanceledError(f"Found {self.id} canceled; what it had made is there.")
        if self.data.error is not None:
            raise service_error(self.data.error)
        return self

    def cancel(self) -> Self:
        """Stop it at the next step; what it has made stays. A finished one is left as it is."""
        self.data = self._http.get(self._call("cancel"), type(self.data))
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.finished:
            self.cancel()

    @abstractmethod
    def _call(self, what: Literal["get", "cancel", "quiet"]) -> Call:
        """How it is asked for, canceled, and followed without previews."""

    @abstractmethod
    def _heard(self, kind: str, text: str) -> E | None:
        """Take in an event; None for one that a newer service sends."""

    def _follow(self, asked: Call, cancel: bool) -> Generator[E]:
        """Its events to the end. `cancel`: it is canceled where the iterator is closed before."""
        try:
            with closing(self._http.events(asked)) as events:
                for event in events:
                    found = self._heard(event.event, event.data)
                    if found is not None:
                        yield found
                    if self.finished:
                        return
        finally:
            if cancel and not self.finished:
                self.cancel()

    def _look(self, timeout: float) -> None:
        """Look again and again until it is finished. Raises WaitError after `timeout` seconds."""
        until, pause = time.monotonic() + timeout, 0.05
        self.refresh()
        while not self.finished:
            left = until - time.monotonic()
            if left <= 0:
                raise WaitError(f"Found {self.id} {self.status} after {timeout:g} s; it goes on.")
            blocking.sleep(min(pause, left))
            pause = min(1.0, pause * 1.5)
            self.refresh()
