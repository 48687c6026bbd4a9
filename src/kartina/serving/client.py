"""LocalEngine: the Engine whose worker is a process on this machine, reached through a Unix socket. Torch-free.

One connection carries every request, told apart by id. When the worker dies the connection ends; the engine connects
again (a supervisor has started a new worker by then) and sends what is unfinished once more, without the rows whose
images had come. What was running in the one that died, or had its model loaded there, is suspected of having killed it,
and is tried again one request at a time; what was with two that died fails.

Images that were made before are found in a cache and never get to the worker.
"""

from __future__ import annotations

import asyncio
import math
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextvars import Context

import structlog

from kartina.errors import ConfigError, IntegrityError, KartinaError, QueueFullError, UnavailableError
from kartina.serving.cache import ResultCache, keys_of
from kartina.serving.protocol import (
    MAX_FRAME,
    TERMINAL,
    Activate,
    Activated,
    AskStats,
    Cancel,
    Canceled,
    Event,
    Failed,
    Finished,
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
INPUTS = 512 * 2**20  # bytes of input images of unfinished requests, likewise
PATIENCE = 60.0  # seconds without a worker before requests fail
ATTEMPTS = 2  # workers that a request may take down
MAX_WAIT = 600  # seconds: the longest that a full queue asks to wait
_PAUSE = 0.05  # seconds between attempts to connect
_MEMORY = 0.99  # how much of an image's weight in the measured throughput is left after the next one


class Throughput:
    """Images a second while there are some to make: a mean over about the last hundred."""

    def __init__(self) -> None:
        self._images = self._seconds = self._last = 0.0

    def resume(self) -> None:
        """There is work again after a pause, which does not count."""
        self._last = time.monotonic()

    def made(self) -> None:
        """One more image."""
        now = time.monotonic()
        self._images = self._images * _MEMORY + 1
        self._seconds = self._seconds * _MEMORY + now - self._last
        self._last = now

    @property
    def rate(self) -> float:
        """Images a second; 0 before the first one."""
        return self._images / self._seconds if self._seconds else 0.0


class Room:
    """Images that were asked for and are not there yet, of all workers of a service: how many there may be, and bytes
    of the images that they are to be made from, which are in memory until then."""

    def __init__(self, capacity: int = CAPACITY, inputs: int = INPUTS):
        self.capacity = capacity
        self.inputs = inputs
        self.waiting = 0
        self.bytes = 0
        self.throughput = Throughput()

    def check(self, n: int, size: int = 0) -> None:
        """Raise ConfigError for more images than there is ever room for, QueueFullError where there is none now, for
        them or for `size` bytes of input images."""
        if n > self.capacity:
            raise ConfigError(
                f"Found a request for {n} images; expected at most {self.capacity}. Ask for fewer at a time."
            )
        if self.waiting + n > self.capacity:
            seconds = self.retry_after(n)
            raise QueueFullError(
                f"Found {self.waiting} images waiting to be made, and room for {self.capacity}; {n} more do not fit. "
                f"Try again in {seconds} s.",
                retry_after=seconds,
            )
        if self.bytes + size > self.inputs:
            seconds = self.retry_after(self.capacity)  # all that waits has gone by then
            raise QueueFullError(
                f"Found {self.bytes / 2**20:.0f} MiB of input images waiting to be used, and room for "
                f"{self.inputs / 2**20:.0f}; {size / 2**20:.1f} more do not fit. Try again in {seconds} s.",
                retry_after=seconds,
            )

    def enter(self, n: int, size: int = 0) -> None:
        """n more images wait, and `size` bytes of input images with them."""
        if not self.waiting:
            self.throughput.resume()
        self.waiting += n
        self.bytes += size

    def leave(self, n: int, size: int = 0) -> None:
        """n images are there, or will never be; with the last of a request go its input images."""
        self.waiting -= n
        self.bytes -= size

    def retry_after(self, n: int) -> int:
        """Whole seconds after which there should be room for n more images, at the throughput measured so far."""
        rate = self.throughput.rate
        over = self.waiting + n - self.capacity
        return min(MAX_WAIT, max(1, math.ceil(over / rate))) if rate else 5


class _Activation:
    """A model that is to be activated."""

    def __init__(self, asked: Activate):
        self.asked = asked
        self.answer: asyncio.Future[Activated] = asyncio.get_running_loop().create_future()
        self.since = time.monotonic()  # it waits for a worker
        self.deaths = 0  # workers that died meanwhile


class Request:
    """An unfinished request."""

    def __init__(self, spec: RequestSpec, keys: Mapping[int, bytes], made: int):
        self.asked = spec
        self.left = {row.index: row for row in spec.rows}  # those whose images are still to come
        self.keys = keys  # of its images in the cache, by index
        self.sent = len(spec.rows)  # rows when it was last sent
        self.rows = self.sent + made  # at first, with those that were made before
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.since = time.monotonic()  # it waits for a worker
        self.deaths = 0  # workers that died while it ran, or its model was loaded
        self.out = False  # the worker has it
        self.running = False
        self.canceled = False

    @property
    def spec(self) -> RequestSpec:
        """What is still to be made."""
        return self.asked.model_copy(update={"rows": tuple(self.left.values())})

    def see(self, event: Event) -> Event:
        """Take note of an event; returns it as the caller shall see it: progress is over all the rows there were."""
        match event:
            case Started():
                self.running = True
            case Output():
                self.left.pop(event.index, None)
            case Progress(step=step, steps=steps) if self.sent < self.rows:
                each = steps / self.sent
                done = round(each * (self.rows - self.sent))
                return event.model_copy(update={"step": step + done, "steps": round(each * self.rows)})
            case _:
                pass
        return event


class LocalEngine:
    """An `Engine` on a worker's socket. Belongs to one event loop; connects when there is something to do first, and
    again whenever the worker is gone."""

    def __init__(
        self,
        socket: str | os.PathLike[str],
        *,
        room: Room | None = None,
        patience: float = PATIENCE,
        cache: ResultCache | None = None,
        deterministic: bool = False,
    ):
        self.socket = os.fspath(socket)
        self.room = room if room is not None else Room()
        self.patience = patience
        self.deterministic = deterministic  # every request, whether it says so or not
        self.cache = cache if cache is not None else ResultCache()
        self.lost = False  # the worker is gone or did not come, and there is none yet in its place
        self.elsewhere: Callable[[Request], bool] | None = None  # takes a request that has waited in vain, if it can
        self._requests: dict[str, Request] = {}
        self._asking: list[asyncio.Future[Stats]] = []
        self._activating: dict[str, _Activation] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._link: asyncio.Task[None] | None = None

    # -- Engine ------------------------------------------------------------------------------------------------------

    def submit(self, spec: RequestSpec, *, accepted: bool = False) -> AsyncIterator[Event]:
        """See `Engine.submit`."""
        if spec.id in self._requests:
            raise ValueError(f"request {spec.id} is already under way")
        if self.deterministic:
            spec = spec.model_copy(update={"deterministic": True})
        keys = keys_of(spec) if self.cache.size else {}
        made = self.cache.find(spec, keys)
        there = {output.index for output in made}
        rest = spec.model_copy(update={"rows": tuple(row for row in spec.rows if row.index not in there)})
        if not accepted:
            _check_inputs(rest)
            self.room.check(len(rest.rows), input_bytes(rest))
        request = Request(rest, keys, len(made))
        if made:
            request.events.put_nowait(Started(id=spec.id))
        for output in made:
            request.events.put_nowait(output)
        if rest.rows:
            self.room.enter(len(rest.rows), input_bytes(rest))
            self._requests[spec.id] = request
            self._hand_over(request)
        else:
            request.events.put_nowait(Finished(id=spec.id))
        return self._events(request)

    def adopt(self, request: Request) -> None:
        """Take over a request of an engine that shares the room, which forgets it."""
        request.since = time.monotonic()
        self._requests[request.asked.id] = request
        if request.deaths and self._writer is not None:
            self._hand_over_suspect()
        else:
            self._hand_over(request)

    @property
    def waiting(self) -> int:
        """Images that were asked for and are not there yet."""
        return sum(len(request.left) for request in self._requests.values())

    def cancel(self, id: str) -> None:
        """See `Engine.cancel`."""
        request = self._requests.get(id)
        if request is None:
            return
        request.canceled = True
        if not request.out:
            self._deliver(Canceled(id=id))
        else:
            self._send(Cancel(id=id))

    def watch(self, id: str, previews: bool) -> None:
        """See `Engine.watch`."""
        request = self._requests.get(id)
        if request is not None:
            request.asked = request.asked.model_copy(update={"previews": previews})
            self._send(Watch(id=id, previews=previews))

    async def ready(self) -> bool:
        """See `Engine.ready`."""
        try:
            _, writer = await asyncio.open_unix_connection(self.socket)
        except OSError:
            return False
        writer.close()
        return True

    async def workers(self, patience: float) -> list[Stats]:
        """See `Engine.workers`."""
        try:
            return [await asyncio.wait_for(self.stats(), patience)]
        except (TimeoutError, UnavailableError):
            return []

    async def stats(self) -> Stats:
        """What the worker does now. Raises UnavailableError when no worker answers within `patience` seconds."""
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

    async def activate(self, model: str, hash: str, *, idle: bool = False) -> Activated:
        """See `Engine.activate`."""
        id = secrets.token_hex(8)
        asked = self._activating[id] = _Activation(Activate(id=id, model=model, hash=hash, idle=idle))
        self._send(asked.asked)
        try:
            return await asked.answer
        finally:
            self._activating.pop(id, None)

    async def close(self) -> None:
        """Let go of the worker; unfinished requests end as canceled."""
        if self._link is not None:
            self._link.cancel()
            await asyncio.gather(self._link, return_exceptions=True)
        for id in list(self._requests):
            self._deliver(Canceled(id=id))
        for asked in self._activating.values():
            asked.answer.cancel()

    # -- the link ----------------------------------------------------------------------------------------------------

    def _send(self, message: Message) -> None:
        """Send now when there is a connection; else one is made, which starts by sending all that is unfinished."""
        if self._writer is not None:
            self._writer.write(pack(message))
        elif self._link is None:
            # In a context of its own: what it logs is not of the request that happens to be the first.
            self._link = asyncio.get_running_loop().create_task(self._run(), context=Context())

    def _hand_over(self, request: Request) -> None:
        """Send a request to the worker, now or when there is one."""
        if self._writer is not None:
            request.sent, request.out = len(request.left), True
        self._send(Submit(spec=request.spec))

    def _hand_over_suspect(self) -> None:
        """Send the next request that is suspected of a worker's death, when no other such is with the worker."""
        suspects = [request for request in self._requests.values() if request.deaths]
        if suspects and self._writer is not None and not any(request.out for request in suspects):
            self._hand_over(suspects[0])

    async def _run(self) -> None:
        while True:
            reader, self._writer = await self._connect()
            self.lost = False
            try:
                for request in self._requests.values():
                    if not request.deaths:
                        self._hand_over(request)
                self._hand_over_suspect()
                for _ in self._asking:
                    self._writer.write(pack(AskStats()))
                for asked in self._activating.values():
                    self._writer.write(pack(asked.asked))
                while (message := await read_message(reader)) is not None:
                    self._take(message)
            except IntegrityError as error:
                log.error("engine_stream_broken", error=str(error))
            finally:
                writer, self._writer = self._writer, None
                writer.close()
            self._lost()
            await asyncio.sleep(_PAUSE)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect as soon as a worker listens. What waits `patience` seconds for one does no longer."""
        while True:
            try:
                return await asyncio.open_unix_connection(self.socket)
            except OSError:
                self.lost = True
                self._give_up()
                await asyncio.sleep(_PAUSE)

    def _take(self, message: Message) -> None:
        match message:
            case Stats():
                for answer in self._asking:
                    if not answer.done():
                        answer.set_result(message)
                self._asking.clear()
            case Activated(id=id):
                if id in self._activating and not self._activating[id].answer.done():
                    self._activating[id].answer.set_result(message)
            case Failed(id=id) if id in self._activating:
                if not self._activating[id].answer.done():
                    self._activating[id].answer.set_exception(_error(message))
            case Submit() | Cancel() | Watch() | AskStats() | Activate():
                raise IntegrityError(f"Found the message {message.type!r} from the worker; it is for the worker.")
            case _:
                self._deliver(message)

    def _deliver(self, event: Event) -> None:
        """Pass an event on to whoever reads the request's events."""
        request = self._requests.get(event.id)
        if request is None:
            return
        left = len(request.left)
        if isinstance(event, Output):
            self.room.throughput.made()
            if event.index in request.keys:
                self.cache.keep(request.keys[event.index], event)
        request.events.put_nowait(request.see(event))
        if isinstance(event, TERMINAL):
            del self._requests[event.id]
            self.room.leave(left, input_bytes(request.asked))
            self._hand_over_suspect()
        else:
            self.room.leave(left - len(request.left))

    def _lost(self) -> None:
        """The worker is gone: what it ran or loaded has one more try, what waited is simply sent again."""
        self.lost = True
        loaded = {request.asked.hash for request in self._requests.values() if request.running}
        for id, request in list(self._requests.items()):
            request.deaths += request.running or (request.out and request.asked.hash not in loaded)
            request.running = request.out = False
            request.since = time.monotonic()
            if not request.left:
                self._deliver(Finished(id=id))
            elif request.canceled:
                self._deliver(Canceled(id=id))
            elif request.deaths >= ATTEMPTS:
                message = "The engine's worker stopped twice while it made this request, which was given up. Try again."
                self._deliver(Failed(id=id, code="unavailable", message=message))
        for asked in self._activating.values():
            asked.deaths += 1
            asked.since = time.monotonic()
            if asked.deaths >= ATTEMPTS and not asked.answer.done():
                asked.answer.set_exception(
                    UnavailableError("The engine's worker stopped twice while it loaded a model.")
                )

    def _give_up(self) -> None:
        """What has waited `patience` seconds for a worker is made elsewhere, or fails."""
        past = time.monotonic() - self.patience
        for id, request in list(self._requests.items()):
            if request.since >= past:
                continue
            if self.elsewhere is not None and self.elsewhere(request):
                del self._requests[id]
            else:
                self._deliver(Failed(id=id, code=UnavailableError.code, message=_silent(self.patience)))
        for asked in self._activating.values():
            if asked.since < past and not asked.answer.done():
                asked.answer.set_exception(UnavailableError(_silent(self.patience)))

    @staticmethod
    async def _events(request: Request) -> AsyncIterator[Event]:
        while True:
            event = await request.events.get()
            yield event
            if isinstance(event, TERMINAL):
                return


def _error(failed: Failed) -> KartinaError:
    """The error of `kartina.errors` that a failure tells of."""
    kinds = [KartinaError]
    for kind in kinds:
        if kind.code == failed.code:
            return kind(failed.message)
        kinds += kind.__subclasses__()
    return KartinaError(failed.message)


def input_bytes(spec: RequestSpec) -> int:
    """Bytes of a request's input images."""
    return sum(len(one) for found in spec.inputs.values() for one in found)


def _check_inputs(spec: RequestSpec) -> None:
    """Raise ConfigError for input images that do not fit into a message."""
    size = input_bytes(spec)
    if size > MAX_FRAME // 2:
        raise ConfigError(
            f"Found input images of {size / 2**20:.0f} MiB together; expected at most {MAX_FRAME // 2**21} MiB. "
            "Send fewer, or smaller ones."
        )


def _silent(seconds: float) -> str:
    return f"Found no engine answering for {seconds:.0f} s; the service's log says why. Try again later."
