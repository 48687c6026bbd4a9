"""Use cases on generations: ask for images, follow, cancel, list, fetch and delete them.

A generation is in the database before it is accepted, and stays there until it is deleted. While unfinished it also
lives in memory, with its numbered events; a reader that comes late, or comes again, gets the state as it is now (or the
events that it missed) and then what follows. Numbers of status and output events are kept, so that a reader may come
again to another process. A restarted service queues again what it finds unfinished; what was running in two services
that died is given up: it may be what killed them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets
from asyncio import to_thread
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

import structlog

from kartina.errors import ConfigError, ConflictError, KartinaError, NotFoundError, StorageError
from kartina.models import png
from kartina.services.access import Caller
from kartina.services.controls import check_controls
from kartina.services.metrics import Metrics
from kartina.services.models import ModelInfo, Models, TaskInfo
from kartina.services.zips import Entry
from kartina.serving.protocol import (
    TERMINAL,
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
from kartina.storage import idempotency
from kartina.storage.assets import Assets
from kartina.storage.commits import Commits
from kartina.storage.records import (
    Failure,
    Format,
    Generation,
    Input,
    Made,
    Records,
    Status,
    asked_at,
    new_generation_id,
    now,
)
from kartina.storage.usage import charge, check_bytes

log = structlog.get_logger("kartina.services.generations")

EVENTS_PER_ATTEMPT = 1_000_000  # event ids of attempt k start at k times this: they rise across restarts
CRASHES = 2  # services that a running generation may take down
EXPIRY = timedelta(days=1)  # after which what an earlier service left is not made any more
FIRST = 0.001  # seconds in which whoever waits for an image is answered, before it is stored
SMALL = 256 * 2**10  # bytes that are hashed in passing
TOGETHER = 0.05  # seconds that finished images of a generation wait for others, to be stored with them
MAX_INPUT = 32 * 2**20  # bytes of input images in one request: half a frame to the engine


@dataclass(frozen=True)
class Submission:
    """What a caller asks for; None where it leaves the choice to the service."""

    model: str
    task: str = "generate"
    labels: tuple[str, ...] | None = None  # class names; None: every class in turn
    n: int = 1
    seed: int | None = None
    controls: dict[str, Any] | None = None
    inputs: dict[str, tuple[str, ...]] = field(default_factory=dict)  # ids of assets by kind
    format: Format = "png"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what is asked: equal for equal requests."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


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
        self.events = {event.id: event.data for event in replay(record)}
        self.last = max(record.attempt * EVENTS_PER_ATTEMPT, record.last_event)
        self.changed = asyncio.Event()  # replaced at every change
        self.finished = asyncio.Event()
        self.picture: bytes | None = None  # the file of its only image, as soon as it is made
        self.pictured = asyncio.Event()
        self.watchers = 0  # readers that want previews
        self.task: asyncio.Task[None] | None = None
        self.writing = asyncio.Lock()  # what is written down and told comes one after the other
        self.saved = True  # False: its end could not be written down

    def next_status(self, status: Status, **changes: Any) -> Generation:
        """The record with a new status, whose event has the next number."""
        history = (*self.record.history, (self.last + 1, status))
        return self.record.model_copy(update={"status": status, "history": history, **changes})

    def tell_status(self, record: Generation) -> None:
        """Tell of a record that `next_status` made."""
        self.record = record
        if record.finished:
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


def replay(record: Generation, after: int = 0) -> list[Event]:
    """The events of the record that are kept: of its statuses and outputs, those after `after`."""
    found = [Event(out.event, OutputMade(record, out)) for out in record.outputs]
    for number, status in record.history:
        last = number == record.history[-1][0]
        then = tuple(out for out in record.outputs if out.event < number)
        as_it_was = record if last else record.model_copy(update={"status": status, "outputs": then, "error": None})
        found.append(Event(number, StatusChanged(as_it_was, None)))
    return sorted((event for event in found if event.id > after), key=lambda event: event.id)


# -- the service ----------------------------------------------------------------------------------------------------


class Generations:
    """The generations of one database, made by one engine. Belongs to one event loop."""

    def __init__(
        self,
        records: Records,
        assets: Assets,
        commits: Commits,
        models: Models,
        engine: Engine,
        metrics: Metrics | None = None,
    ):
        self.metrics = metrics or Metrics()
        self.records = records
        self.assets = assets
        self.commits = commits
        self.models = models
        self.engine = engine
        self._live: dict[str, _Live] = {}
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Take up what an earlier process left unfinished."""
        for found in await to_thread(self.records.unfinished):
            await self._resume(found)

    async def stop(self) -> None:
        """End every stream of events with Reconnect; what is unfinished waits in the database for the next start."""
        self.say_goodbye()
        tasks = [live.task for live in self._live.values() if live.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Stopped on purpose: that is no crash.
        ids = list(self._live)
        with contextlib.suppress(StorageError):
            await self.commits(lambda c: self.records.give_back(c, ids))

    def say_goodbye(self) -> None:
        """End every stream of events with Reconnect, now."""
        self._stopping.set()
        for live in self._live.values():
            live.wake()

    # -- ask ---------------------------------------------------------------------------------------------------------

    async def submit(self, caller: Caller, asked: Submission, key: str | None = None) -> Generation:
        """Accept a request: checked, room found, in the database. With an idempotency `key` once only: again, it is the
        generation that the first one made.

        Raises NotFoundError (model, class, task, asset), ConfigError (controls, labels, inputs), QueueFullError,
        QuotaError, StorageError, InFlightError, KeyReusedError; then nothing is left of it.
        """
        owner, database = caller.owner, self.records.database
        if key is not None:
            request = asked.fingerprint
            first = await self.commits(lambda c: idempotency.begin(c, database, owner, key, request))
            if first is not None:
                return await self.get(owner, first)
        try:
            return await self._submit(caller, asked, key)
        except BaseException:
            if key is not None:
                with contextlib.suppress(StorageError):  # it is forgotten a minute later
                    await self.commits(lambda c: idempotency.forget(c, owner, key))
            raise

    async def _submit(self, caller: Caller, asked: Submission, key: str | None) -> Generation:
        info, record, given = await to_thread(self._checked, caller, asked)
        steps = record.controls.get("steps", 1)
        work = record.n * (steps if isinstance(steps, int) else 1)

        def insert(c: Any) -> None:
            charge(c, self.records.database, caller.owner, caller.quota, steps=work, images=record.n)
            check_bytes(c, caller.owner, caller.quota)
            self.records.insert(c, record)
            if key is not None:
                idempotency.settle(c, caller.owner, key, record.id)

        events = self.engine.submit(_spec(record, info, given))
        try:
            await self.commits(insert)
        except BaseException:
            self.engine.cancel(record.id)
            await _drain(events)
            raise
        live = self._live[record.id] = _Live(record)
        live.task = asyncio.create_task(self._run(live, events, record.n))
        return live.record

    def _checked(self, caller: Caller, asked: Submission) -> tuple[ModelInfo, Generation, dict[str, tuple[bytes, ...]]]:
        """The model, the request with nothing left open, and its input images."""
        info = self.models.get(asked.model)
        record = self._accept(caller, asked, info)
        return info, record, self._read_inputs(record)

    def _accept(self, caller: Caller, asked: Submission, info: ModelInfo) -> Generation:
        """The request with nothing left open."""
        if asked.task not in info.tasks:
            raise NotFoundError.named("task", asked.task, info.tasks, f"Those are what {info.ref} can do.")
        task = info.tasks[asked.task]
        inputs = self._inputs(caller, asked, task)
        id = new_generation_id()
        status: Status = "queued"
        return Generation(
            id=id,
            owner=caller.owner,
            model=info.ref,
            model_hash=info.hash,
            task=asked.task,
            labels=_labels(asked, info),
            n=asked.n,
            seed=secrets.randbelow(2**31) if asked.seed is None else asked.seed,
            controls=check_controls(asked.controls or {}, task.schema, task.defaults),
            inputs=inputs,
            format=asked.format,
            width=info.spec.width,
            height=info.spec.height,
            status=status,
            created_at=asked_at(id),
            history=((EVENTS_PER_ATTEMPT, status),),
        )

    def _inputs(self, caller: Caller, asked: Submission, task: TaskInfo) -> dict[str, tuple[Input, ...]]:
        """The assets that were named, as the task wants them. Raises ConfigError, NotFoundError."""
        if set(asked.inputs) != set(task.inputs):
            wanted, given = (" and ".join(sorted(found)) or "none" for found in (task.inputs, asked.inputs))
            raise ConfigError(
                f"Found input images of the kinds: {given}; the task {asked.task!r} takes: {wanted}. Upload each with "
                "POST /v1/assets and name its id."
            )
        found = {kind: [self.assets.get(caller.owner, id) for id in ids] for kind, ids in asked.inputs.items()}
        size = sum(asset.size for assets in found.values() for asset in assets)
        if size > MAX_INPUT:
            raise ConfigError(f"Found {size:,} bytes of input images; expected at most {MAX_INPUT:,}. Give fewer.")
        return {kind: tuple(Input(asset=a.id, blob=a.blob) for a in assets) for kind, assets in found.items()}

    def _read_inputs(self, record: Generation) -> dict[str, tuple[bytes, ...]]:
        return {
            kind: tuple(self.records.blobs.read(one.blob) for one in found) for kind, found in record.inputs.items()
        }

    # -- follow ------------------------------------------------------------------------------------------------------

    def _of(self, owner: str, id: str) -> _Live | None:
        """The unfinished generation, when it is this owner's."""
        live = self._live.get(id)
        return live if live is not None and live.record.owner == owner else None

    async def get(self, owner: str, id: str) -> Generation:
        """The generation as it is now. Raises NotFoundError, also for somebody else's."""
        live = self._of(owner, id)
        return live.record if live else await to_thread(self.records.get, owner, id)

    def queue_position(self, record: Generation) -> int | None:
        """How many queued generations there are up to this one: 1 is next; None when it is not queued."""
        if record.status != "queued":
            return None
        return 1 + sum(1 for id, live in self._live.items() if id < record.id and live.record.status == "queued")

    async def list(self, owner: str, limit: int, cursor: str | None = None) -> tuple[list[Generation], str | None]:
        """A page of the owner's generations, newest first, and the cursor of the next one."""
        found, after = await to_thread(self.records.page, owner, limit, cursor)
        return [self._live[r.id].record if r.id in self._live else r for r in found], after

    async def wait(self, owner: str, id: str, seconds: float) -> Generation:
        """The generation when it is finished, or as it is after `seconds` or when the service stops."""
        live = self._of(owner, id)
        if live:
            await _any_of(seconds, live.finished, self._stopping)
        return live.record if live else await self.get(owner, id)

    async def picture(self, owner: str, id: str, seconds: float) -> tuple[Generation, bytes | None]:
        """The generation of one image as `wait` has it, and the image's file, as soon as it is made: while it is being
        stored. A service that dies meanwhile makes it again when it starts, for its request is on the disk.
        """
        live = self._of(owner, id)
        if live:
            await _any_of(seconds, live.pictured, live.finished, self._stopping)
        record = live.record if live else await self.get(owner, id)
        content = live.picture if live else None
        if content is None and record.status == "succeeded" and record.outputs:
            content = await to_thread(self.records.blobs.read, record.outputs[0].hash)
        return record, content

    async def events(
        self, owner: str, id: str, after: int | None = None, previews: bool = False
    ) -> AsyncIterator[Event]:
        """What happens to the generation, until it is finished or the service stops.

        After an event with the id `after` come the ones missed, of whatever process; otherwise first its state as it is
        now. Progress and previews are only ever the newest. Raises NotFoundError.
        """
        live = self._of(owner, id)
        if live is None:
            record = await self.get(owner, id)
            missed = [] if after is None else replay(record, after)
            for event in missed or [Event(record.last_event, StatusChanged(record, None))]:
                yield event
            return
        if previews:
            live.watchers += 1
            self.engine.watch(id, True)
        try:
            seen = live.last
            news = not live.finished.is_set() or after != live.last  # to come, or missed
            if after is not None and after <= live.last and news:
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

    async def cancel(self, owner: str, id: str) -> Generation:
        """Stop it at the next step; images made so far stay. A finished generation is left as it is."""
        live = self._of(owner, id)
        if live is None:
            return await self.get(owner, id)
        if live.record.status in ("queued", "running"):
            self.engine.cancel(id)
            async with live.writing:
                if live.record.status in ("queued", "running"):
                    await self._turn(live, "canceling")
        return live.record

    async def delete(self, owner: str, id: str) -> None:
        """Cancel it where needed, then forget it and its images. Raises NotFoundError."""
        live = self._of(owner, id)
        if live is not None:
            await self.cancel(owner, id)
            if live.task is not None:
                await asyncio.wait([live.task])  # to its very end: nothing is written after this
        await self.commits(lambda c: self.records.delete(c, owner, id))
        self._live.pop(id, None)

    # -- fetch -------------------------------------------------------------------------------------------------------

    async def zip(self, owner: str, id: str) -> tuple[Entry, ...]:
        """The files of its ZIP. Raises NotFoundError, and ConflictError while it is unfinished."""
        record = await self.get(owner, id)
        if not record.finished:
            raise ConflictError(f"Found the generation {id} {record.status}; its ZIP can be had when it is finished.")
        at = record.completed_at or record.created_at
        return tuple(Entry(file_name(made), made.hash, at) for made in record.outputs)

    # -- make --------------------------------------------------------------------------------------------------------

    async def _resume(self, record: Generation) -> None:
        """Make the images that are still missing of a generation which an earlier process accepted."""
        crashes = record.crashes + (record.status == "running")
        canceled, made = record.status == "canceling", len(record.outputs)
        record = record.model_copy(
            update={"attempt": record.attempt + 1, "crashes": crashes, "started_at": None, "step": 0}
        )
        live = self._live[record.id] = _Live(record)
        if canceled or made == record.n:
            return await self._end(live, "canceled" if canceled else "succeeded")
        if now() - record.created_at > EXPIRY:
            message = (
                f"Found {made} of {record.n} images made when the service came back, a day late. Ask for them again."
            )
            return await self._end(live, "expired", Failure(code="expired", message=message))
        if crashes >= CRASHES:
            message = "The service died twice while it made this request, which was given up. Try again."
            return await self._end(live, "failed", Failure(code="unavailable", message=message))
        try:
            info = await to_thread(self.models.by_hash, record.model_hash, record.model)
            given = await to_thread(self._read_inputs, record)
        except KartinaError as error:
            return await self._end(live, "failed", Failure(code=error.code, message=str(error)))
        await self._turn(live, "queued")
        events = self.engine.submit(_spec(live.record, info, given), accepted=True)
        live.task = asyncio.create_task(self._run(live, events, record.n - made))

    async def _turn(self, live: _Live, status: Status, **changes: Any) -> None:
        """Write down a new status and tell of it; one that cannot be written is told all the same."""
        record = live.next_status(status, **changes)
        with contextlib.suppress(StorageError):  # a full disk shows when its images are written
            await self.commits(lambda c: self.records.update(c, record))
        live.tell_status(record)

    def _turn_soon(self, live: _Live, status: Status, **changes: Any) -> None:
        """`_turn`, told at once: nothing that follows is written down before it, and nothing waits for it."""
        record = live.next_status(status, **changes)
        self.commits.soon(lambda c: self.records.update(c, record))
        live.tell_status(record)

    async def _run(self, live: _Live, events: AsyncIterator[EngineEvent], rows: int) -> None:
        """Follow the engine to the end of the generation."""
        id = live.record.id
        waiting: asyncio.Queue[EngineEvent | None] = asyncio.Queue()
        pump = asyncio.create_task(_pump(events, waiting))
        try:
            while not live.finished.is_set():
                await self._take(live, await _heard(live, waiting), rows)
            return
        except asyncio.CancelledError:
            pump.cancel()
            raise
        except KartinaError as error:
            failure = Failure(code=error.code, message=str(error))
        except Exception as error:  # no generation is left without an end, whatever its making met
            log.error("generation_crashed", id=id, exc_info=error)
            failure = Failure(code="error", message=f"Something went wrong ({type(error).__name__}); see the log.")
        self.engine.cancel(id)
        await pump
        await self._end(live, "failed", failure)

    async def _take(self, live: _Live, batch: Sequence[EngineEvent | None], rows: int) -> None:
        """Deal with events of the engine: images last but for the end, which is written down with them."""
        outputs = [event for event in batch if isinstance(event, Output)]
        for event in batch:
            match event:
                case Started() if live.record.started_at is None:
                    async with live.writing:
                        if live.record.status == "queued":
                            self._turn_soon(live, "running", started_at=now())
                case Progress():
                    async with live.writing:  # a status that is being written has the next number
                        self._progressed(live, event, rows)
                case Preview():
                    async with live.writing:
                        live.tell(Previewed(event.images))
                case _:
                    pass
        match batch[-1]:
            case Finished():
                await self._store(live, outputs, ended=True)
            case Canceled():
                await self._store(live, outputs)
                await self._end(live, "canceled")
            case Failed(code=code, message=message):
                await self._store(live, outputs)
                await self._end(live, "failed", Failure(code=code, message=message))
            case None:
                await self._store(live, outputs)
                failure = Failure(code="error", message="The engine ended the request without a result.")
                await self._end(live, "failed", failure)
            case _:
                await self._store(live, outputs)

    def _progressed(self, live: _Live, event: Progress, rows: int) -> None:
        """Count the rows that were made before a restart as done; never go back when rows are made again."""
        each = event.steps / rows
        steps = round(each * live.record.n)
        step = max(live.record.step, event.step + round(each * (live.record.n - rows)))
        live.record = live.record.model_copy(update={"step": step, "steps": steps})
        live.tell(Progressed(live.record.progress, step, steps))

    async def _store(self, live: _Live, outputs: Sequence[Output], ended: bool = False) -> None:
        """Keep finished images: references first, then their bytes, then their rows, and with these the generation's
        end, when they are the last ones; and tell of them."""
        there = {out.index for out in live.record.outputs}
        new = {event.index: event for event in outputs if event.index not in there}
        made = await _files(live, tuple(new.values()))
        if not made:
            if ended:
                await self._end(live, "succeeded")
            return
        files = [one for one, _ in made]
        await self.commits(lambda c: self.records.expect_images(c, live.record, files))
        await to_thread(self.records.blobs.put_all, [(one.hash, content, one.size) for one, content in made])
        async with live.writing:
            first = live.last + 1
            stored = [one.model_copy(update={"event": first + i}) for i, one in enumerate(files)]
            outs = tuple(sorted((*live.record.outputs, *stored), key=lambda out: out.index))
            record = live.record.model_copy(update={"outputs": outs})
            end = _at_its_end(record, first + len(stored), "succeeded") if ended else None

            def add(c: Any) -> None:
                self.records.add_images(c, record, stored)
                if end is not None:
                    self.records.end(c, end)

            await self.commits(add)
            live.record = record
            for one in stored:
                live.tell(OutputMade(record, one))
            self.metrics.made(record.model, len(stored))
            if end is not None:
                self._tell_end(live, end)

    async def _end(self, live: _Live, status: Status, error: Failure | None = None) -> None:
        """Write down how it ended, then tell: who was told of an end hears of no other, whatever is killed.

        What cannot be written stays in memory until a restart.
        """
        async with live.writing:
            if live.finished.is_set():
                return
            record = _at_its_end(live.record, live.last + 1, status, error)
            try:
                await self.commits(lambda c: self.records.end(c, record))
            except StorageError as problem:
                log.error("generation_not_saved", id=record.id, error=str(problem))
                live.saved = False
            self._tell_end(live, record)

    def _tell_end(self, live: _Live, record: Generation) -> None:
        live.tell_status(record)
        self.metrics.ended(record)
        if live.saved and self._live.get(record.id) is live:
            del self._live[record.id]


def _at_its_end(record: Generation, number: int, status: Status, error: Failure | None = None) -> Generation:
    """The record as it is when it has ended, which the event `number` tells."""
    return record.model_copy(
        update={
            "status": status,
            "history": (*record.history, (number, status)),
            "error": error,
            "completed_at": now(),
            "started_at": record.started_at or (now() if status == "succeeded" else None),
            "step": record.steps if status == "succeeded" else record.step,
        }
    )


def _labels(asked: Submission, info: ModelInfo) -> tuple[str, ...]:
    """The classes asked for, in the model's spelling."""
    classes = info.spec.classes
    if asked.labels and not classes:
        raise ConfigError(f"Found labels; {info.ref} has no classes. Leave the labels out.")
    if asked.labels is None and classes and asked.inputs:
        raise ConfigError(
            f"Found no labels for the task {asked.task!r}; expected one, or one for each image, of: "
            f"{', '.join(classes)}."
        )
    wanted = classes if asked.labels is None else asked.labels
    return tuple(classes[info.spec.label(name)] for name in wanted)


def file_name(made: Made) -> str:
    """What an image is called in a ZIP."""
    name = png.file_name(made.index, made.label or "image", made.seed)
    return name if made.format == "png" else f"{name.removesuffix('.png')}.{made.format}"


async def _heard(live: _Live, waiting: asyncio.Queue[EngineEvent | None]) -> list[EngineEvent | None]:
    """What the engine has told, one event at least. Images come one by one: those that follow soon are waited for, to
    be stored together. A request's only image is shown at once."""
    found = [await waiting.get(), *_at_hand(waiting)]
    first = next((event for event in found if isinstance(event, Output)), None)
    if first is None:
        return found
    if live.record.n == 1:
        live.picture = (await _contents(live.record, [first]))[0]
        live.pictured.set()
        await asyncio.sleep(FIRST)
    else:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TOGETHER):
                while found[-1] is not None and not isinstance(found[-1], TERMINAL):
                    found.append(await waiting.get())
    return [*found, *_at_hand(waiting)]


def _at_hand(waiting: asyncio.Queue[EngineEvent | None]) -> list[EngineEvent | None]:
    return [waiting.get_nowait() for _ in range(waiting.qsize())]


async def _files(live: _Live, events: Sequence[Output]) -> list[tuple[Made, bytes]]:
    """Finished images, and their files in the format that was asked for."""
    record = live.record
    contents = [live.picture] * len(events) if live.picture is not None else await _contents(record, events)

    def described() -> list[tuple[Made, bytes]]:
        return [(_made(record, event, content), content) for event, content in zip(events, contents, strict=True)]

    return described() if sum(map(len, contents)) < SMALL else await to_thread(described)


def _made(record: Generation, event: Output, content: bytes) -> Made:
    """A finished image, given its file."""
    digest = hashlib.sha256(content).hexdigest()
    return record.made(event.index, hash=digest, size=len(content), width=event.width, height=event.height)


async def _contents(record: Generation, events: Sequence[Output]) -> list[bytes]:
    """Images' files in the format that was asked for; those that take a while are made in a thread."""
    if record.format == "png":
        return [event.png for event in events]
    return await to_thread(lambda: [png.as_webp(event.png) for event in events])


def _spec(record: Generation, info: ModelInfo, inputs: dict[str, tuple[bytes, ...]]) -> RequestSpec:
    """What the engine is asked for: the images of the record that are not there yet."""
    there = {out.index for out in record.outputs}
    number: dict[str | None, int | None] = {None: None, **{label: i for i, label in enumerate(info.spec.classes)}}
    rows = tuple(
        RowSpec(index=i, seed=record.seed + i, label=number[record.label_of(i)])
        for i in range(record.n)
        if i not in there
    )
    return RequestSpec(
        id=record.id,
        model=str(info.path),
        hash=info.hash,
        task=record.task,
        rows=rows,
        controls=record.controls,
        inputs=inputs,
        client=record.owner,
        request_id=structlog.contextvars.get_contextvars().get("request_id", ""),
    )


async def _any_of(seconds: float, *events: asyncio.Event) -> None:
    """Wait until one of the events is set, at most so long."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()


async def _pump(events: AsyncIterator[EngineEvent], into: asyncio.Queue[EngineEvent | None]) -> None:
    """Pass events on; None where they break off before the end."""
    event: EngineEvent | None = None
    try:
        async for event in events:
            into.put_nowait(event)
    finally:
        if not isinstance(event, TERMINAL):
            into.put_nowait(None)


async def _drain(events: AsyncIterator[EngineEvent]) -> None:
    """Let a canceled request end."""
    async for _ in events:
        pass
