"""Use cases on generations: ask for images, follow, cancel, list, fetch and delete them.

A generation is on the disk before it is accepted, and stays there until it is deleted. While it is unfinished it also
lives in memory, with its numbered events; a reader that comes late, or comes again, gets the state as it is now (or the
events that it missed) and then what follows. A restarted service takes up what it finds unfinished.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import tempfile
import zipfile
from asyncio import to_thread
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import structlog

from kartina.errors import ConfigError, ConflictError, IntegrityError, KartinaError, NotFoundError, StorageError
from kartina.models import png
from kartina.services.controls import check_controls
from kartina.services.models import ModelInfo, Models
from kartina.services.records import Failure, Generation, Made, Records, now
from kartina.serving.protocol import (
    Canceled,
    Engine,
    Failed,
    Finished,
    Output,
    Preview,
    Progress,
    RequestSpec,
    RowSpec,
    Started,
)
from kartina.serving.protocol import Event as EngineEvent

log = structlog.get_logger("kartina.services.generations")

EVENTS_PER_ATTEMPT = 1_000_000  # event ids of attempt k start at k times this: they rise across restarts


@dataclass(frozen=True)
class Submission:
    """What a caller asks for; None where it leaves the choice to the service."""

    model: str
    task: str = "generate"
    labels: tuple[str, ...] | None = None  # class names; None: every class in turn
    n: int = 1
    seed: int | None = None
    controls: dict[str, Any] | None = None


# -- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StatusChanged:
    """The generation as it is now."""

    generation: Generation
    queue_position: int | None  # 1 is next


@dataclass(frozen=True)
class Progressed:
    value: float  # 0..1
    step: int
    steps: int


@dataclass(frozen=True)
class Previewed:
    images: tuple[tuple[int, bytes], ...]  # (index, PNG)


@dataclass(frozen=True)
class OutputMade:
    generation: Generation
    output: Made


@dataclass(frozen=True)
class Reconnect:
    """The service is stopping: connect again."""


@dataclass(frozen=True)
class Event:
    id: int  # rises within a generation
    data: StatusChanged | Progressed | Previewed | OutputMade | Reconnect


class _Live:
    """An unfinished generation, and what readers of its events have yet to see."""

    def __init__(self, record: Generation):
        self.record = record
        self.first = self.last = record.attempt * EVENTS_PER_ATTEMPT
        self.events: dict[int, StatusChanged | Progressed | Previewed | OutputMade] = {}
        self.changed = asyncio.Event()  # replaced at every change
        self.finished = asyncio.Event()
        self.watchers = 0  # readers that want previews
        self.task: asyncio.Task[None] | None = None
        self.writing = asyncio.Lock()  # the record's writes come one after the other
        self.saved = True  # False: its end could not be written down

    def end(self, record: Generation) -> None:
        """No more events after this one."""
        self.record = record
        self.finished.set()
        self.tell(StatusChanged(record, None))

    def tell(self, data: StatusChanged | Progressed | Previewed | OutputMade) -> None:
        """Number an event. Of progress and previews only the newest is kept; nothing else is ever dropped."""
        if isinstance(data, Progressed | Previewed):
            self.events = {k: v for k, v in self.events.items() if type(v) is not type(data)}
        self.last += 1
        self.events[self.last] = data
        self.wake()

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


# -- the service ----------------------------------------------------------------------------------------------------


class Generations:
    """Generations of one KARTINA_HOME, made by one engine. Belongs to one event loop."""

    def __init__(self, root: Path, models: Models, engine: Engine):
        self.records = Records(root)
        self.models = models
        self.engine = engine
        self._live: dict[str, _Live] = {}
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Take up what an earlier process left unfinished."""
        await to_thread(self.records.sweep)
        for found in await to_thread(lambda: list(self.records.unfinished())):
            if isinstance(found, IntegrityError):
                log.warning("record_unreadable", error=str(found))
            else:
                await self._resume(found)

    async def stop(self) -> None:
        """End every stream of events with Reconnect; what is unfinished stays on the disk for the next start."""
        self.say_goodbye()
        tasks = [live.task for live in self._live.values() if live.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def say_goodbye(self) -> None:
        """End every stream of events with Reconnect, now."""
        self._stopping.set()
        for live in self._live.values():
            live.wake()

    # -- ask ---------------------------------------------------------------------------------------------------------

    async def submit(self, asked: Submission, client: str = "") -> Generation:
        """Accept a request: checked, room found, on the disk. `client` is whose turn it takes.

        Raises NotFoundError (model, class, task), ConfigError (controls, labels), QueueFullError, StorageError; then
        nothing is left of it.
        """
        info = await to_thread(self.models.get, asked.model)
        record = self._accept(asked, info)
        events = self.engine.submit(_spec(record, info, client))
        try:
            await to_thread(self.records.write, record)
        except BaseException:
            self.engine.cancel(record.id)
            await _drain(events)
            raise
        live = self._enter(record)
        live.task = asyncio.create_task(self._run(live, events, record.n))
        return live.record

    def _accept(self, asked: Submission, info: ModelInfo) -> Generation:
        """The request with nothing left open."""
        if asked.task not in info.tasks:
            raise NotFoundError.named("task", asked.task, info.tasks, _what_it_can(info))
        task = info.tasks[asked.task]
        if task.inputs:
            raise ConfigError(
                f"Found the task {asked.task!r}, which needs an {' and a '.join(task.inputs)}; expected one without "
                f"inputs. {_what_it_can(info)}"
            )
        classes = info.spec.classes
        if asked.labels and not classes:
            raise ConfigError(f"Found labels; {info.ref} has no classes. Leave the labels out.")
        wanted = classes if asked.labels is None else asked.labels
        return Generation(
            id=self.records.new_id(),
            model=info.ref,
            model_hash=info.hash,
            task=asked.task,
            labels=tuple(classes[info.spec.label(name)] for name in wanted),
            n=asked.n,
            seed=secrets.randbelow(2**31) if asked.seed is None else asked.seed,
            controls=check_controls(asked.controls or {}, task.schema, task.defaults),
            width=info.spec.width,
            height=info.spec.height,
            created_at=now(),
        )

    # -- follow ------------------------------------------------------------------------------------------------------

    async def get(self, id: str) -> Generation:
        """The generation as it is now. Raises NotFoundError, IntegrityError."""
        live = self._live.get(id)
        return live.record if live else await to_thread(self.records.read, id)

    def queue_position(self, record: Generation) -> int | None:
        """How many queued generations there are up to this one: 1 is next; None when it is not queued."""
        if record.status != "queued":
            return None
        return 1 + sum(1 for id, live in self._live.items() if id < record.id and live.record.status == "queued")

    async def list(self, limit: int, cursor: str | None = None) -> tuple[list[Generation], str | None]:
        """A page, newest first, and the cursor of the next one. Unreadable records are logged and left out."""

        def page() -> tuple[list[Generation], str | None]:
            ids = [id for id in self.records.ids() if cursor is None or id < cursor]
            found: list[Generation] = []
            for at, id in enumerate(ids):
                live = self._live.get(id)
                try:
                    found.append(live.record if live else self.records.read(id))
                except NotFoundError:
                    continue  # deleted meanwhile, or not yet accepted
                except IntegrityError as error:
                    log.warning("record_unreadable", error=str(error))
                    continue
                if len(found) == limit:
                    return found, id if at + 1 < len(ids) else None
            return found, None

        return await to_thread(page)

    async def wait(self, id: str, seconds: float) -> Generation:
        """The generation when it is finished, or as it is after `seconds` or when the service stops."""
        live = self._live.get(id)
        if live:
            either = [asyncio.create_task(event.wait()) for event in (live.finished, self._stopping)]
            await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            for task in either:
                task.cancel()
        return live.record if live else await self.get(id)

    async def events(self, id: str, after: int | None = None, previews: bool = False) -> AsyncIterator[Event]:
        """What happens to the generation, until it is finished or the service stops.

        After an event with the id `after` of the same run come the ones missed; otherwise first its state as it is
        now. Progress and previews are only ever the newest. Raises NotFoundError, IntegrityError.
        """
        live = self._live.get(id)
        if live is None:
            record = await self.get(id)
            yield Event((record.attempt + 1) * EVENTS_PER_ATTEMPT - 1, StatusChanged(record, None))
            return
        if previews:
            live.watchers += 1
            self.engine.watch(id, True)
        try:
            seen = live.last
            news = not live.finished.is_set() or after != live.last  # to come, or missed
            if after is not None and live.first <= after <= live.last and news:
                seen = after
            else:
                yield Event(seen, StatusChanged(live.record, self.queue_position(live.record)))
            while not (live.finished.is_set() and seen == live.last):
                changed = live.changed
                for number, data in list(live.events.items()):
                    if number > seen:
                        seen = number
                        yield Event(number, data)
                if self._stopping.is_set() and not live.finished.is_set():
                    yield Event(seen, Reconnect())
                    return
                if seen == live.last and not live.finished.is_set():
                    await changed.wait()
        finally:
            if previews:
                live.watchers -= 1
                if not live.watchers:
                    self.engine.watch(id, False)

    # -- change ------------------------------------------------------------------------------------------------------

    async def cancel(self, id: str) -> Generation:
        """Stop it at the next step; images made so far stay. A finished generation is left as it is."""
        live = self._live.get(id)
        if live is None:
            return await self.get(id)
        if live.record.status in ("queued", "running"):
            live.record = live.record.model_copy(update={"status": "canceling"})
            live.tell(StatusChanged(live.record, None))
            self.engine.cancel(id)
            async with live.writing:
                if not live.finished.is_set():
                    with contextlib.suppress(StorageError):  # it is canceled all the same
                        await to_thread(self.records.write, live.record)
        return live.record

    async def delete(self, id: str) -> None:
        """Cancel it where needed, then forget it and its images. Raises NotFoundError."""
        live = self._live.get(id)
        if live is not None:
            await self.cancel(id)
            if live.task is not None:
                await asyncio.wait([live.task])  # to its very end: nothing is written after this
            self._live.pop(id, None)
        await to_thread(self.records.delete, id)

    # -- fetch -------------------------------------------------------------------------------------------------------

    def image(self, image_id: str) -> Path:
        """The PNG file of an image. Raises NotFoundError."""
        return self.records.image(image_id)

    async def zip(self, id: str) -> IO[bytes]:
        """A ZIP of its images, rewound. Raises NotFoundError, and ConflictError while it is unfinished."""
        record = await self.get(id)
        if not record.finished:
            raise ConflictError(f"Found the generation {id} {record.status}; its ZIP can be had when it is finished.")

        def build() -> IO[bytes]:
            out = tempfile.SpooledTemporaryFile(max_size=32 * 2**20)  # noqa: SIM115  the caller closes it
            with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
                for made in record.outputs:
                    name = png.file_name(made.index, made.label or "image", made.seed)
                    archive.write(self.records.image(record.image_id(made.index)), name)
            out.seek(0)
            return out

        return await to_thread(build)

    # -- make --------------------------------------------------------------------------------------------------------

    def _enter(self, record: Generation) -> _Live:
        live = self._live[record.id] = _Live(record)
        return live

    async def _resume(self, record: Generation) -> None:
        """Make the images that are still missing of a generation which an earlier process accepted."""
        made = await to_thread(self.records.images, record)
        canceled = record.status == "canceling"
        record = record.model_copy(
            update={"status": "queued", "attempt": record.attempt + 1, "outputs": made, "started_at": None, "step": 0}
        )
        live = self._enter(record)
        if canceled or len(made) == record.n:
            return await self._end(live, "canceled" if canceled else "succeeded")
        try:
            info = await to_thread(self.models.by_hash, record.model_hash, record.model)
        except NotFoundError as error:
            return await self._end(live, "failed", Failure(code=error.code, message=str(error)))
        with contextlib.suppress(StorageError):  # a full disk shows when its images are written
            await to_thread(self.records.write, record)
        missing = record.n - len(made)
        events = self.engine.submit(_spec(record, info, ""), accepted=True)
        live.task = asyncio.create_task(self._run(live, events, missing))

    async def _run(self, live: _Live, events: AsyncIterator[EngineEvent], rows: int) -> None:
        """Follow the engine to the end of the generation."""
        id = live.record.id
        try:
            async for event in events:
                match event:
                    case Started():
                        self._started(live)
                    case Progress():
                        self._progressed(live, event, rows)
                    case Preview():
                        live.tell(Previewed(event.images))
                    case Output():
                        await self._output(live, event)
                    case Finished():
                        return await self._end(live, "succeeded")
                    case Canceled():
                        return await self._end(live, "canceled")
                    case Failed():
                        return await self._end(live, "failed", Failure(code=event.code, message=event.message))
            failure = Failure(code="error", message="The engine ended the request without a result.")
        except KartinaError as error:
            failure = Failure(code=error.code, message=str(error))
        except Exception as error:  # no generation is left without an end, whatever its making met
            log.error("generation_crashed", id=id, exc_info=error)
            failure = Failure(code="error", message=f"Something went wrong ({type(error).__name__}); see the log.")
        self.engine.cancel(id)
        await _drain(events)
        await self._end(live, "failed", failure)

    def _started(self, live: _Live) -> None:
        if live.record.started_at is None:
            status = "running" if live.record.status == "queued" else live.record.status
            live.record = live.record.model_copy(update={"status": status, "started_at": now()})
            live.tell(StatusChanged(live.record, None))

    def _progressed(self, live: _Live, event: Progress, rows: int) -> None:
        """Count the rows that were made before a restart as done; never go back when rows are made again."""
        each = event.steps / rows
        steps = round(each * live.record.n)
        step = max(live.record.step, event.step + round(each * (live.record.n - rows)))
        live.record = live.record.model_copy(update={"step": step, "steps": steps})
        live.tell(Progressed(live.record.progress, step, steps))

    async def _output(self, live: _Live, event: Output) -> None:
        await to_thread(self.records.write_image, live.record.id, event.index, event.png)
        made = live.record.made(event.index)
        if made not in live.record.outputs:
            outputs = tuple(sorted((*live.record.outputs, made), key=lambda out: out.index))
            live.record = live.record.model_copy(update={"outputs": outputs})
            live.tell(OutputMade(live.record, made))

    async def _end(self, live: _Live, status: str, error: Failure | None = None) -> None:
        """Write down how it ended, and tell.

        A success is told first: should the process be killed before it is written down, the next one finds every image
        there. What cannot be written stays in memory until a restart.
        """
        started = live.record.started_at or (now() if status == "succeeded" else None)
        step = live.record.steps if status == "succeeded" else live.record.step
        record = live.record.model_copy(
            update={"status": status, "error": error, "completed_at": now(), "started_at": started, "step": step}
        )

        def write() -> None:
            self.records.sync_images(record)
            self.records.write(record)

        if status == "succeeded":
            live.end(record)
        try:
            async with live.writing:
                await to_thread(write)
        except StorageError as problem:
            log.error("generation_not_saved", id=record.id, error=str(problem))
            live.saved = False
        if not live.finished.is_set():
            live.end(record)
        if live.saved and self._live.get(record.id) is live:
            del self._live[record.id]


def _what_it_can(info: ModelInfo) -> str:
    """Which of a model's tasks can be asked for here, and what to do for the others."""
    given = [name for name, task in info.tasks.items() if task.inputs]
    rest = f" For {given[0]}, which starts from an image, run: kartina {given[0]} {info.ref} IMAGE" if given else ""
    return f"Those are what {info.ref} can do.{rest}"


def _spec(record: Generation, info: ModelInfo, client: str) -> RequestSpec:
    """What the engine is asked for: the images of the record that are not there yet."""
    there = {out.index for out in record.outputs}
    rows = tuple(
        RowSpec(index=i, seed=made.seed, label=None if made.label is None else info.spec.classes.index(made.label))
        for i in range(record.n)
        if i not in there
        for made in (record.made(i),)
    )
    return RequestSpec(
        id=record.id,
        model=str(info.path),
        hash=info.hash,
        task=record.task,
        rows=rows,
        controls=record.controls,
        client=client,
    )


async def _drain(events: AsyncIterator[EngineEvent]) -> None:
    """Let a canceled request end."""
    async for _ in events:
        pass
