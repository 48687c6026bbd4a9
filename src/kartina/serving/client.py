"""LocalEngine: the Engine whose worker is a process on this machine, reached through a Unix socket. Torch-free.

One connection carries every request, told apart by id. When the worker dies the connection ends; the engine connects
again (a supervisor has started a new worker by then) and sends what is unfinished once more, without the rows whose
images had come. A request that was running in two workers that died fails: it may be what killed them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import structlog

from kartina.errors import IntegrityError, QueueFullError, UnavailableError
from kartina.serving.protocol import (
    TERMINAL,
    AskStats,
    Cancel,
    Canceled,
    Event,
    Failed,
    Message,
    Output,
    Progress,
    RequestSpec,
    Started,
    Stats,
    Submit,
    Watch,
    pack,
    read_message,
)

log = structlog.get_logger("kartina.serving.client")

CAPACITY = 4096  # rows that may be unfinished before new requests are refused
PATIENCE = 60.0  # seconds without a worker before requests fail
ATTEMPTS = 2  # workers that a running request may take down
_PAUSE = 0.05  # seconds between attempts to connect


class _Request:
    """An unfinished request."""

    def __init__(self, spec: RequestSpec):
        self.spec = spec  # its rows become fewer as images come
        self.rows = self.sent = len(spec.rows)  # at first; when it was last sent
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.deaths = 0  # workers that died while it ran
        self.running = False
        self.canceled = False

    def see(self, event: Event) -> Event:
        """Take note of an event; returns it as the caller shall see it: progress is over all the rows there were."""
        match event:
            case Started():
                self.running = True
            case Output():
                rows = tuple(row for row in self.spec.rows if row.index != event.index)
                self.spec = self.spec.model_copy(update={"rows": rows})
            case Progress(step=step, steps=steps) if self.sent < self.rows:
                each = steps / self.sent
                done = round(each * (self.rows - self.sent))
                return event.model_copy(update={"step": step + done, "steps": round(each * self.rows)})
            case _:
                pass
        return event


class LocalEngine:
    """An `Engine` on a worker's socket. Belongs to one event loop; connects when there is something to do."""

    def __init__(self, socket: str | os.PathLike[str], *, capacity: int = CAPACITY, patience: float = PATIENCE):
        self.socket = os.fspath(socket)
        self.capacity = capacity
        self.patience = patience
        self._requests: dict[str, _Request] = {}
        self._asking: list[asyncio.Future[Stats]] = []
        self._writer: asyncio.StreamWriter | None = None
        self._work = asyncio.Event()
        self._link: asyncio.Task[None] | None = None

    # -- Engine ------------------------------------------------------------------------------------------------------

    def submit(self, spec: RequestSpec, *, accepted: bool = False) -> AsyncIterator[Event]:
        """See `Engine.submit`. Raises QueueFullError when more than `capacity` rows would be unfinished."""
        waiting = sum(len(request.spec.rows) for request in self._requests.values())
        if not accepted and waiting + len(spec.rows) > self.capacity:
            raise QueueFullError(
                f"Found {waiting} images waiting to be made, and room for {self.capacity}; {len(spec.rows)} more do "
                "not fit. Try again later."
            )
        if spec.id in self._requests:
            raise ValueError(f"request {spec.id} is already under way")
        request = self._requests[spec.id] = _Request(spec)
        self._send(Submit(spec=spec))
        return self._events(request)

    def cancel(self, id: str) -> None:
        """See `Engine.cancel`."""
        request = self._requests.get(id)
        if request is None:
            return
        request.canceled = True
        if self._writer is None:
            self._deliver(Canceled(id=id))
        else:
            self._send(Cancel(id=id))

    def watch(self, id: str, previews: bool) -> None:
        """See `Engine.watch`."""
        request = self._requests.get(id)
        if request is not None:
            request.spec = request.spec.model_copy(update={"previews": previews})
            self._send(Watch(id=id, previews=previews))

    async def stats(self) -> Stats:
        """See `Engine.stats`. Raises UnavailableError when no worker answers within `patience` seconds."""
        answer: asyncio.Future[Stats] = asyncio.get_running_loop().create_future()
        self._asking.append(answer)
        self._send(AskStats())
        try:
            return await asyncio.wait_for(answer, self.patience)
        except TimeoutError:
            raise UnavailableError(_silent(self.patience)) from None
        finally:
            if answer in self._asking:
                self._asking.remove(answer)

    async def close(self) -> None:
        """Let go of the worker; unfinished requests end as canceled."""
        if self._link is not None:
            self._link.cancel()
            await asyncio.gather(self._link, return_exceptions=True)
        for id in list(self._requests):
            self._deliver(Canceled(id=id))

    # -- the link ----------------------------------------------------------------------------------------------------

    def _send(self, message: Message) -> None:
        """Send now when there is a connection; else make one, which starts by sending all that is unfinished."""
        if self._writer is not None:
            self._writer.write(pack(message))
            return
        if self._link is None:
            self._link = asyncio.get_running_loop().create_task(self._run())
        self._work.set()

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            try:
                reader, self._writer = await self._connect()
            except UnavailableError as error:
                self._fail(error)
                continue
            self._work.clear()
            try:
                for request in self._requests.values():
                    request.sent = len(request.spec.rows)
                    self._writer.write(pack(Submit(spec=request.spec)))
                for _ in self._asking:
                    self._writer.write(pack(AskStats()))
                while (message := await read_message(reader)) is not None:
                    self._take(message)
            except IntegrityError as error:
                log.error("engine_stream_broken", error=str(error))
            finally:
                writer, self._writer = self._writer, None
                writer.close()
            self._lost()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect, waiting up to `patience` seconds for a worker to listen."""
        deadline = asyncio.get_running_loop().time() + self.patience
        while True:
            try:
                return await asyncio.open_unix_connection(self.socket)
            except OSError:
                if asyncio.get_running_loop().time() > deadline:
                    raise UnavailableError(_silent(self.patience)) from None
                await asyncio.sleep(_PAUSE)

    def _take(self, message: Message) -> None:
        match message:
            case Stats():
                for answer in self._asking:
                    if not answer.done():
                        answer.set_result(message)
                self._asking.clear()
            case Submit() | Cancel() | Watch() | AskStats():
                raise IntegrityError(f"Found the message {message.type!r} from the worker; it is for the worker.")
            case _:
                self._deliver(message)

    def _deliver(self, event: Event) -> None:
        """Pass an event on to whoever reads the request's events."""
        request = self._requests.get(event.id)
        if request is None:
            return
        request.events.put_nowait(request.see(event))
        if isinstance(event, TERMINAL):
            del self._requests[event.id]

    def _lost(self) -> None:
        """The worker is gone: what ran in it has one more try, what waited is simply sent again."""
        for id, request in list(self._requests.items()):
            request.deaths += request.running
            request.running = False
            if request.canceled:
                self._deliver(Canceled(id=id))
            elif request.deaths >= ATTEMPTS:
                message = "The engine's worker stopped twice while it made this request, which was given up. Try again."
                self._deliver(Failed(id=id, code="unavailable", message=message))
        if self._requests or self._asking:
            self._work.set()

    def _fail(self, error: UnavailableError) -> None:
        self._work.clear()
        for id in list(self._requests):
            self._deliver(Failed(id=id, code=error.code, message=str(error)))
        for answer in self._asking:
            if not answer.done():
                answer.set_exception(error)
        self._asking.clear()

    @staticmethod
    async def _events(request: _Request) -> AsyncIterator[Event]:
        while True:
            event = await request.events.get()
            yield event
            if isinstance(event, TERMINAL):
                return


def _silent(seconds: float) -> str:
    return f"Found no engine answering for {seconds:.0f} s; the service's log says why. Try again later."
