"""What becomes of requests when workers die or never come, by a worker whose deaths are planned."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kartina.errors import IntegrityError, UnavailableError
from kartina.serving.client import LocalEngine, Room
from kartina.serving.fleet import FOREIGN, KNOWN, Fleet
from kartina.serving.protocol import (
    Activate,
    Activated,
    AskStats,
    Canceled,
    Event,
    Failed,
    Finished,
    Message,
    Output,
    RequestSpec,
    RowSpec,
    Started,
    Stats,
    Submit,
    pack,
    read_message,
)

Act = Callable[[Message], Iterator[Message]]  # a worker's answers to a message


class Death(Exception):
    """The worker dies now."""


@asynccontextmanager
async def worker(socket: Path, act: Act) -> AsyncIterator[list[Message]]:
    """A worker of the real protocol that starts again whenever it dies; yields all that it is told."""
    told: list[Message] = []
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            while (message := await read_message(reader)) is not None:
                told.append(message)
                for answer in act(message):
                    writer.write(pack(answer))
                    await writer.drain()
        except (Death, IntegrityError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, socket)
    try:
        yield told
    finally:
        server.close()
        socket.unlink()
        for writer in writers:
            writer.close()
        await asyncio.sleep(0.01)


def asked(id: str, n: int = 1, model: str = "a") -> RequestSpec:
    rows = tuple(RowSpec(index=i, seed=i) for i in range(n))
    return RequestSpec(id=id, model=f"/models/{model}/1", hash=model * 64, rows=rows)


def images(spec: RequestSpec) -> Iterator[Message]:
    yield Started(id=spec.id)
    for row in spec.rows:
        yield Output(id=spec.id, index=row.index, png=b"png", width=1, height=1)


def make(message: Message) -> Iterator[Message]:
    """A worker that is well."""
    if isinstance(message, Submit):
        yield from images(message.spec)
        yield Finished(id=message.spec.id)
    if isinstance(message, Activate):
        yield Activated(id=message.id, bytes=1, batch=1, threads=1, rate=5, measured=True)


async def all_of(events: AsyncIterator[Event]) -> list[Event]:
    async with asyncio.timeout(10):
        return [event async for event in events]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)


def submits(told: list[Message]) -> list[str]:
    return [message.spec.id for message in told if isinstance(message, Submit)]


def test_a_worker_that_dies_after_the_last_image_leaves_a_finished_request(tmp_path: Path) -> None:
    def act(message: Message) -> Iterator[Message]:
        if isinstance(message, Submit) and message.spec.id == "first":
            yield from images(message.spec)
            raise Death
        yield from make(message)

    async def run() -> None:
        async with worker(tmp_path / "w.sock", act) as told:
            local = LocalEngine(tmp_path / "w.sock")
            events = await all_of(local.submit(asked("first", 2)))
            assert [event.type for event in events] == ["started", "output", "output", "finished"]
            assert isinstance((await all_of(local.submit(asked("next", model="b"))))[-1], Finished)
            assert submits(told) == ["first", "next"] and not local.waiting and not local.room.waiting
            await local.close()

    asyncio.run(run())


def test_a_request_whose_model_kills_the_worker_while_it_is_loaded_fails_at_the_second_try(tmp_path: Path) -> None:
    """Alone, and beside requests that run or wait: those are finished, and the worker lives on."""
    told: list[Message] = []

    def act(message: Message) -> Iterator[Message]:
        if isinstance(message, Submit) and message.spec.hash[0] == "f":
            raise Death
        spec = message.spec if isinstance(message, Submit) else None
        if spec is not None and spec.id == "long" and submits(told).count("long") == 1:
            yield Started(id=spec.id)
        elif spec is None or spec.id != "waits" or submits(told).count("waits") > 1:
            yield from make(message)

    async def run() -> None:
        nonlocal told
        async with worker(tmp_path / "w.sock", act) as told:
            local = LocalEngine(tmp_path / "w.sock")
            (end,) = await all_of(local.submit(asked("alone", model="f")))
            assert isinstance(end, Failed) and end.code == "unavailable" and "stopped twice" in end.message
            assert submits(told) == ["alone", "alone"]
            long = local.submit(asked("long", 3))
            assert isinstance(await anext(long), Started)
            others = [local.submit(spec) for spec in (asked("waits", 2), asked("fatal", model="f"))]
            ends = [(await all_of(events))[-1] for events in (long, *others)]
            assert [end.type for end in ends] == ["finished", "finished", "failed"]
            assert submits(told)[2:] == ["long", "waits", "fatal", "waits", "long", "fatal"]
            assert isinstance((await all_of(local.submit(asked("next"))))[-1], Finished) and not local.room.waiting
            await local.close()

    asyncio.run(run())


def test_a_worker_that_died_without_work_is_used_again_as_soon_as_it_is_back(tmp_path: Path) -> None:
    def idle(message: Message) -> Iterator[Message]:
        if isinstance(message, AskStats):
            yield Stats(device="cpu")

    async def run() -> None:
        paths = tmp_path / "a.sock", tmp_path / "b.sock"
        engines, room = Fleet(()), Room()
        async with worker(paths[1], idle):
            async with worker(paths[0], idle):
                engines = Fleet([LocalEngine(path, room=room) for path in paths])
                assert len(await engines.workers(5)) == 2
            await until(lambda: engines.engines[0].lost)
            async with worker(paths[0], idle):
                await until(lambda: not engines.engines[0].lost)
                streams = [engines.submit(asked(id, model=id)) for id in "abcd"]
                assert [engine.waiting for engine in engines.engines] == [2, 2]
                await engines.close()
                assert all([isinstance((await all_of(events))[-1], Canceled) for events in streams])

    asyncio.run(run())


def test_without_a_worker_every_request_has_its_own_time_to_wait_for_one(tmp_path: Path) -> None:
    async def run() -> None:
        local = LocalEngine(tmp_path / "w.sock", patience=0.6)
        early = asyncio.create_task(all_of(local.submit(asked("early"))))
        await asyncio.sleep(0.4)
        late = local.submit(asked("late"))
        (end,) = await early
        assert isinstance(end, Failed) and end.code == "unavailable" and "no engine answering for 1 s" in end.message
        async with worker(tmp_path / "w.sock", make):
            assert isinstance((await all_of(late))[-1], Finished)
            await local.close()

    asyncio.run(run())


def test_a_worker_that_never_came_keeps_no_request_while_another_is_there(tmp_path: Path) -> None:
    """Those that waited for it in vain are made by the other, new ones go there, a model is activated there; and as
    soon as it comes it is used."""

    async def run() -> None:
        paths, room = (tmp_path / "never.sock", tmp_path / "b.sock"), Room()
        engines = Fleet([LocalEngine(path, room=room, patience=0.5) for path in paths])
        async with worker(paths[1], make) as told:
            first = engines.submit(asked("first", 3))
            assert [engine.waiting for engine in engines.engines] == [3, 0]
            await until(lambda: engines.engines[0].lost)
            assert isinstance((await all_of(engines.submit(asked("next"))))[-1], Finished)
            assert [event.type for event in await all_of(first)] == ["started", *3 * ["output"], "finished"]
            assert submits(told) == ["next", "first"] and not engines.waiting and not room.waiting
            async with asyncio.timeout(5):
                assert (await engines.activate("/models/a/1", "a" * 64)).rate == 5
            async with worker(paths[0], make) as late:
                await until(lambda: not engines.engines[0].lost)
                assert isinstance((await all_of(engines.submit(asked("c", model="c"))))[-1], Finished)
                assert submits(late) == ["c"]
        await engines.close()

    asyncio.run(run())


def test_with_no_worker_at_all_requests_and_activations_fail_and_say_so(tmp_path: Path) -> None:
    async def run() -> None:
        room = Room()
        engines = Fleet([LocalEngine(tmp_path / name, room=room, patience=0.3) for name in ("a", "b")])
        activation = asyncio.create_task(engines.activate("/models/a/1", "a" * 64))
        (end,) = await all_of(engines.submit(asked("r")))
        assert isinstance(end, Failed) and end.code == "unavailable" and not room.waiting
        with pytest.raises(UnavailableError, match="no engine answering"):
            await activation
        await engines.close()

    asyncio.run(run())


def test_the_models_that_a_worker_was_asked_for_last_are_remembered(tmp_path: Path) -> None:
    async def run() -> None:
        engines = Fleet([LocalEngine(tmp_path / "w.sock")])
        for i in (*range(KNOWN), 0, KNOWN):
            engines.submit(asked("r").model_copy(update={"hash": f"{i:064}"}))
            engines.cancel("r")
        prices = [engines._price(0, f"{i:064}")[1] for i in (0, 1, 2, KNOWN)]
        assert prices == [0, FOREIGN, 0, 0]
        await engines.close()

    asyncio.run(run())
