"""Input images, decoded beside the sampling: a large file takes as long as many steps, and a request may have hundreds.

A few threads take the requests of the clients in turn, so that nobody's wait for all of another's.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

from torch import Tensor

from kartina.models.model import Model, as_tensors
from kartina.serving.protocol import RequestSpec

THREADS = 2  # each may need 100 MB for a large file

Decoded = tuple[dict[str, list[Tensor]], dict[str, list[str]]]  # by kind: images as a family takes them, their sha256


class Decoding:
    """The input images of a request, decoded or on the way there."""

    def __init__(self, model: Model, spec: RequestSpec):
        self.found: Future[Decoded] = Future()  # raises what `Model.inputs` does
        self._work: tuple[Model, RequestSpec] | None = (model, spec)
        self._stopped = False

    def run(self) -> None:
        """Decode what the rows use; nothing when it was stopped."""
        work, self._work = self._work, None
        if work is None or not self.found.set_running_or_notify_cancel():
            return
        model, spec = work
        try:
            given = model.inputs(spec.task, spec.inputs, rows=[row.index for row in spec.rows], before=self._check)
            hashes = {kind: [one.sha256 for one in found] for kind, found in given.items()}
            self.found.set_result((as_tensors(given), hashes))
        except BaseException as error:  # its request fails, whatever it is
            self.found.set_exception(error)

    def stop(self) -> None:
        """Nobody waits for them any more: it ends after the image under way."""
        self._stopped, self._work = True, None
        self.found.cancel()

    def _check(self) -> None:
        if self._stopped:
            raise CancelledError


class Decoder:
    """Threads that decode; `wake` is called from them whenever a request's images are there, or cannot be had."""

    def __init__(self, wake: Callable[[], None]):
        self.wake = wake
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="decode")
        self._lock = threading.Lock()
        self._waiting: dict[Any, deque[Decoding]] = {}  # by client: the one whose turn it is comes first
        self._busy: set[Any] = set()  # clients that have a thread: nobody has two

    def submit(self, client: Any, model: Model, spec: RequestSpec) -> Decoding:
        """Have a request's input images decoded when it is the client's turn; at once where it has none."""
        decoding = Decoding(model, spec)
        if not spec.inputs:
            decoding.run()
            return decoding
        decoding.found.add_done_callback(lambda _: self.wake())
        with self._lock:
            self._waiting.setdefault(client, deque()).append(decoding)
        self._pool.submit(self._work)
        return decoding

    def _work(self) -> None:
        """Take turns until nobody waits who has no thread."""
        while (turn := self._next()) is not None:
            client, decoding = turn
            decoding.run()
            with self._lock:
                self._busy.remove(client)
            del turn, decoding

    def _next(self) -> tuple[Any, Decoding] | None:
        with self._lock:
            free = [client for client in self._waiting if client not in self._busy]
            if not free:
                return None
            client = free[0]
            self._busy.add(client)
            waiting = self._waiting.pop(client)
            decoding = waiting.popleft()
            if waiting:
                self._waiting[client] = waiting
            return client, decoding
