"""What an engine is, and what is said between it and its clients: torch-free, so that the API process may import it.

    spec = RequestSpec(id=..., model=folder, hash=..., rows=(Row(index=0, label=3, seed=7),))
    async for event in engine.submit(spec):
        ...                          # Started, Progress*, Preview*, Output*, then Finished | Failed | Canceled

On the wire a message is 4 bytes of length (big endian) and a msgpack map whose "type" names one of the classes below.
Everything is validated on arrival; nothing is ever unpickled.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal, Protocol

import msgpack  # type: ignore[import-untyped]
from pydantic import Field, TypeAdapter, ValidationError

from kartina.config import Frozen, lines
from kartina.errors import IntegrityError

MAX_FRAME = 64 * 2**20  # bytes; a longer frame is a broken stream
MODELS = 100  # that measurements tell apart; the others are "other"
_LENGTH = struct.Struct(">I")


# -- requests -------------------------------------------------------------------------------------------------------


Inputs = Annotated[tuple[bytes, ...], Field(min_length=1, max_length=256)]


class RowSpec(Frozen):
    """One image to be made."""

    index: int = Field(ge=0)  # its place in the request
    label: int | None = None  # index of its class; None for an unconditional model
    seed: int = Field(ge=0, lt=2**63)


class RequestSpec(Frozen):
    """Images asked for together: one model, one task, one set of controls and input images."""

    id: str = Field(min_length=1, max_length=100)
    model: str  # folder of the model package
    hash: str  # of the package, as it was when the request was accepted
    task: str = "generate"
    rows: tuple[RowSpec, ...] = Field(min_length=1)
    controls: dict[str, Any] = Field(default={})  # over the task's defaults
    inputs: dict[str, Inputs] = Field(default={})  # encoded images by kind: row i gets the one at i mod M
    request_id: str = ""  # of the HTTP request that asked, for the log
    client: str = ""  # whose turn it takes: turns go round the clients, then round each one's requests
    previews: bool = False  # send previews (see also Engine.watch)
    deterministic: bool = False  # byte for byte the same whatever else is made: its rows are evaluated one by one


# -- events ---------------------------------------------------------------------------------------------------------


class Started(Frozen):
    """The first row takes its first step."""

    type: Literal["started"] = "started"
    id: str


class Progress(Frozen):
    """Steps done and to be done, over all rows of the request; at most 4 a second."""

    type: Literal["progress"] = "progress"
    id: str
    step: int
    steps: int


class Preview(Frozen):
    """PNG bytes of unfinished rows as (index, png), small; at most 4 times a second, only where they were asked for."""

    type: Literal["preview"] = "preview"
    id: str
    images: tuple[tuple[int, bytes], ...]


class Output(Frozen):
    """A finished image: PNG bytes that carry their recipe."""

    type: Literal["output"] = "output"
    id: str
    index: int
    png: bytes
    width: int
    height: int


class Finished(Frozen):
    """Every row's Output was sent."""

    type: Literal["finished"] = "finished"
    id: str


class Failed(Frozen):
    """The request cannot be done; `code` is that of an error of `kartina.errors`."""

    type: Literal["failed"] = "failed"
    id: str
    code: str
    message: str


class Canceled(Frozen):
    """The request was canceled; outputs sent before stay good."""

    type: Literal["canceled"] = "canceled"
    id: str


Event = Started | Progress | Preview | Output | Finished | Failed | Canceled
TERMINAL = (Finished, Failed, Canceled)


class Steps(Frozen):
    """Steps taken: rows / batches is the mean batch size, seconds / batches the mean time of a step."""

    batches: int = 0
    rows: int = 0  # over those batches
    seconds: float = 0.0  # in those batches
    outputs: int = 0  # images finished


class Stats(Frozen):
    """What a worker does now, and what it has done since it started."""

    type: Literal["stats"] = "stats"
    device: str = ""
    requests: int = 0  # unfinished
    waiting: int = 0  # rows not started
    running: int = 0  # rows between their first step and their last
    models: tuple[str, ...] = ()  # hashes of those in memory, least recently used first
    resident: dict[str, int] = Field(default={})  # bytes of those models' weights, by name@version
    most_models: int = 0  # that stay in memory without requests
    most_bytes: int = 0  # of their weights
    by_model: dict[str, Steps] = Field(default={})  # name@version; beyond MODELS "other"
    rss: int = 0  # bytes of memory that the worker has

    @property
    def bytes(self) -> int:
        """Of the weights of all models in memory."""
        return sum(self.resident.values())

    @property
    def total(self) -> Steps:
        """Of all models."""
        found = self.by_model.values()
        return Steps(
            batches=sum(one.batches for one in found),
            rows=sum(one.rows for one in found),
            seconds=sum(one.seconds for one in found),
            outputs=sum(one.outputs for one in found),
        )


class Activated(Frozen):
    """A model is in memory, warm, and measured: what the worker will do with it."""

    type: Literal["activated"] = "activated"
    id: str
    bytes: int  # of its weights and buffers
    batch: int  # rows of one evaluation, at most
    threads: int  # CPU threads of one evaluation
    rate: float  # rows a second at that batch size, one evaluation each; 0 where it was not measured
    measured: bool  # now; False: an earlier activation's record was found


# -- messages to the worker -----------------------------------------------------------------------------------------


class Submit(Frozen):
    type: Literal["submit"] = "submit"
    spec: RequestSpec


class Cancel(Frozen):
    type: Literal["cancel"] = "cancel"
    id: str


class Watch(Frozen):
    type: Literal["watch"] = "watch"
    id: str
    previews: bool


class AskStats(Frozen):
    type: Literal["ask_stats"] = "ask_stats"


class Activate(Frozen):
    """Load a model, warm it up and measure it; answered by Activated or Failed with the same id."""

    type: Literal["activate"] = "activate"
    id: str
    model: str  # folder of the model package
    hash: str
    idle: bool = False  # only while nobody waits for images


Message = Event | Stats | Activated | Submit | Cancel | Watch | AskStats | Activate
_adapter: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="type")])


class Engine(Protocol):
    """Makes images. Implementations: one worker process here (LocalEngine), one for each of several devices (Fleet)."""

    def submit(self, spec: RequestSpec, *, accepted: bool = False) -> AsyncIterator[Event]:
        """Take a request now and tell of it until it is Finished, Failed or Canceled.

        Raises QueueFullError at once when too many rows wait, with the seconds after which to try again, and
        ConfigError for more rows than there is ever room for. `accepted` requests were let in before (by a process
        that has since restarted) and are never refused.
        """
        ...

    def cancel(self, id: str) -> None:
        """Stop a request at the next step; its events end with Canceled. Unknown and finished ids are ignored."""
        ...

    def watch(self, id: str, previews: bool) -> None:
        """Turn a request's previews on or off."""
        ...

    @property
    def waiting(self) -> int:
        """Images that were asked for and are not there yet."""
        ...

    async def ready(self) -> bool:
        """Whether a worker answers now."""
        ...

    async def workers(self, patience: float) -> list[Stats]:
        """What each worker does now; without those that do not answer within `patience` seconds."""
        ...

    async def activate(self, model: str, hash: str, *, idle: bool = False) -> Activated:
        """Have the model in the folder `model` in memory, warm and measured, before anybody asks for its images.

        Measuring goes on between the steps of requests, or, where `idle`, only while there are none. Raises the error
        that loading it met, UnavailableError when the worker does not answer.
        """
        ...


# -- framing --------------------------------------------------------------------------------------------------------


def pack(message: Message) -> bytes:
    """The message as one frame."""
    body: bytes = msgpack.packb(message.model_dump(), use_bin_type=True)
    return _LENGTH.pack(len(body)) + body


def unpack(body: bytes) -> Message:
    """The message of a frame's body. Raises IntegrityError for anything that is not one."""
    try:
        return _adapter.validate_python(msgpack.unpackb(body, raw=False, max_ext_len=0))
    except ValidationError as error:
        raise IntegrityError(f"Found an engine message that cannot be read: {lines(error)[0]}") from None
    except (ValueError, msgpack.UnpackException) as error:
        raise IntegrityError(f"Found an engine message that is not msgpack: {error}") from None


async def read_message(reader: asyncio.StreamReader) -> Message | None:
    """The next message; None at the end of the stream, also when it ends within a frame."""
    try:
        (size,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if size > MAX_FRAME:
            raise IntegrityError(f"Found an engine message of {size} bytes; expected at most {MAX_FRAME}.")
        return unpack(await reader.readexactly(size))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
