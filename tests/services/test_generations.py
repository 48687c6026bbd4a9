"""Generations on a real worker: durable, resumable, followed by numbered events."""

from __future__ import annotations

import asyncio
import json
import resource
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import numpy as np
import pytest

from kartina.errors import ConfigError, ConflictError, IntegrityError, NotFoundError, QueueFullError, StorageError
from kartina.models import png
from kartina.models.package import PackageRef, remove
from kartina.services.generations import (
    Event,
    Generations,
    OutputMade,
    Previewed,
    Progressed,
    Reconnect,
    StatusChanged,
    Submission,
)
from kartina.services.models import Models
from kartina.services.records import Generation, Records, only_process
from kartina.serving.client import LocalEngine
from tests.engine import Background

SLOW = {"steps": 100, "delay": 0.01}


@asynccontextmanager
async def service(worker: Background, home: Path, **settings: int) -> AsyncIterator[Generations]:
    async with worker.engine(**settings) as engine:
        made = Generations(home / "generations", Models(), engine)
        await made.start()
        try:
            yield made
        finally:
            await made.stop()


def drive(worker: Background, home: Path, use: Callable[[Generations], Awaitable[None]], **settings: int) -> None:
    async def run() -> None:
        async with service(worker, home, **settings) as made:
            await use(made)

    asyncio.run(run())


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds, at most 10 s."""
    for _ in range(1000):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never held")


@contextmanager
def full_disk() -> Iterator[None]:
    """No file can grow: the kernel's own refusal, for this process."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_generation_is_accepted_made_and_kept(toy: PackageRef, home: Path, worker: Background) -> None:
    async def use(made: Generations) -> None:
        asked = Submission(model="toy", labels=("DOG", "cat"), n=3, seed=7, controls={"steps": 3})
        accepted = await made.submit(asked)
        on_disk = Records(home / "generations").read(accepted.id)
        assert on_disk.status == "queued" or on_disk.finished
        assert (accepted.model, accepted.labels, accepted.seed) == ("toy@1", ("dog", "cat"), 7)
        assert accepted.controls == {"steps": 3, "guidance": 1.0, "solver": "euler", "delay": 0.0, "trouble": "none"}
        done = await made.wait(accepted.id, 30)
        assert done.status == "succeeded"
        assert [(out.label, out.seed, out.width) for out in done.outputs] == [
            ("dog", 7, 8),
            ("cat", 8, 8),
            ("dog", 9, 8),
        ]
        assert done == await made.get(accepted.id)
        await until(lambda: Records(home / "generations").read(accepted.id) == done)
        assert (done.progress, done.step, done.steps) == (1.0, 9, 9)
        assert done.queue_ms is not None and done.execution_ms is not None
        recipe = png.read_recipe(made.image(done.image_id(1)).read_bytes())
        assert recipe is not None and (recipe["label"], recipe["seed"]) == ("cat", 8)
        with await made.zip(done.id) as file, zipfile.ZipFile(file) as archive:
            assert archive.namelist() == ["000-dog-seed7.png", "001-cat-seed8.png", "002-dog-seed9.png"]
        # Sent again with nothing left open, it makes the same bytes.
        again = await made.submit(Submission(done.model, done.task, done.labels, done.n, done.seed, done.controls))
        again = await made.wait(again.id, 30)
        for i in range(3):
            assert made.image(again.image_id(i)).read_bytes() == made.image(done.image_id(i)).read_bytes()

    drive(worker, home, use)


def test_what_is_left_open_is_filled_in(toy: PackageRef, home: Path, worker: Background) -> None:
    async def use(made: Generations) -> None:
        first = await made.submit(Submission("toy", n=4))
        second = await made.submit(Submission("toy"))
        assert first.labels == ("cat", "dog", "кот")
        assert [first.made(i).label for i in range(4)] == ["cat", "dog", "кот", "cat"]
        assert first.seed != second.seed
        assert first.id < second.id

    drive(worker, home, use)


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        (Submission("toyy"), NotFoundError, "Did you mean 'toy'"),
        (Submission("toy", labels=("dgo",)), NotFoundError, "class called 'dgo'.*Did you mean 'dog'"),
        (Submission("toy", task="invert"), NotFoundError, "task called 'invert'; there are: generate"),
        (Submission("toy", controls={"steps": 0}), ConfigError, "steps: expected at least 1, found 0"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_nothing(
    toy: PackageRef, home: Path, worker: Background, asked: Submission, error: type[Exception], says: str
) -> None:
    async def use(made: Generations) -> None:
        with pytest.raises(error, match=says):
            await made.submit(asked)
        assert await made.list(10) == ([], None)

    drive(worker, home, use)


def test_a_full_queue_and_a_full_disk_refuse_and_leave_nothing(toy: PackageRef, home: Path, worker: Background) -> None:
    async def use(made: Generations) -> None:
        running = await made.submit(Submission("toy", n=8, controls=SLOW))
        with pytest.raises(QueueFullError):
            await made.submit(Submission("toy", n=5))
        with full_disk(), pytest.raises(StorageError):
            await made.submit(Submission("toy", n=1))
        assert [found.id for found in (await made.list(10))[0]] == [running.id]
        assert len(Records(home / "generations").ids()) == 1
        await made.cancel(running.id)
        assert (await made.wait(running.id, 10)).status == "canceled"
        assert (await made.wait((await made.submit(Submission("toy", n=8))).id, 10)).status == "succeeded"

    drive(worker, home, use, capacity=10)


def test_a_disk_that_fills_up_fails_the_generation_and_the_service_goes_on(
    toy: PackageRef, home: Path, worker: Background
) -> None:
    async def use(made: Generations) -> None:
        doomed = await made.submit(Submission("toy", n=2, controls={"steps": 50, "delay": 0.01}))
        with full_disk():
            failed = await made.wait(doomed.id, 10)
        assert failed.status == "failed"
        assert failed.error is not None and failed.error.code == "storage"
        assert (await made.get(doomed.id)).status == "failed"
        assert (await made.wait((await made.submit(Submission("toy"))).id, 10)).status == "succeeded"

    drive(worker, home, use)


async def follow(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]


def test_events_rise_start_with_a_snapshot_and_end(toy: PackageRef, home: Path, worker: Background) -> None:
    async def use(made: Generations) -> None:
        accepted = await made.submit(Submission("toy", n=2, controls=SLOW))
        found = await follow(made.events(accepted.id, previews=True))
        ids = [event.id for event in found]
        assert ids == sorted(ids)
        assert isinstance(found[0].data, StatusChanged)
        assert found[0].data.queue_position == 1
        kinds = [type(event.data) for event in found]
        assert {StatusChanged, Progressed, Previewed, OutputMade} == set(kinds)
        statuses = [event.data.generation.status for event in found if isinstance(event.data, StatusChanged)]
        assert statuses == ["queued", "running", "succeeded"]
        assert isinstance(found[-1].data, StatusChanged)

        # Later: the end as a snapshot, whatever was seen before.
        for after in (None, 5, ids[-1]):
            last = await follow(made.events(accepted.id, after))
            assert len(last) == 1
            assert isinstance(last[0].data, StatusChanged) and last[0].data.generation.status == "succeeded"
            assert last[0].id >= ids[-1]
        with pytest.raises(NotFoundError):
            await follow(made.events("gen_" + "0" * 26))

    drive(worker, home, use)


def test_a_reader_that_comes_back_misses_no_status_and_no_output(
    toy: PackageRef, home: Path, worker: Background
) -> None:
    async def use(made: Generations) -> None:
        accepted = await made.submit(Submission("toy", n=3, controls=SLOW))
        whole = asyncio.create_task(follow(made.events(accepted.id)))
        seen: list[Event] = []
        while not seen or not (isinstance(seen[-1].data, StatusChanged) and seen[-1].data.generation.finished):
            after = seen[-1].id if seen else None
            stream = made.events(accepted.id, after)
            for _ in range(2):  # and the connection drops
                async for event in stream:
                    seen.append(event)
                    break
            await stream.aclose()  # type: ignore[attr-defined]

        def kept(events: list[Event]) -> list[int]:
            return [event.id for event in events if isinstance(event.data, StatusChanged | OutputMade)][1:-1]

        assert set(kept(await whole)) <= set(kept(seen))

    drive(worker, home, use)


def test_a_generation_outlives_its_service_and_keeps_what_was_made(
    toy: PackageRef, home: Path, worker: Background
) -> None:
    ids: list[str] = []

    async def first(made: Generations) -> None:
        accepted = await made.submit(Submission("toy", n=3, seed=5, controls=SLOW))
        canceled = await made.submit(Submission("toy", n=1, controls=SLOW))
        ids.extend([accepted.id, canceled.id])
        stream = made.events(accepted.id)
        assert isinstance((await anext(stream)).data, StatusChanged)
        made.say_goodbye()
        assert isinstance((await follow(stream))[-1].data, Reconnect)

    drive(worker, home, first)
    records = Records(home / "generations")
    assert records.read(ids[0]).status == "queued"
    whole = png.encode(np.full((1, 8, 8), 77, np.uint8))
    records.write_image(ids[0], 1, whole)
    records.write_image(ids[0], 0, whole[:-5])  # as a power cut may leave it
    records.write(records.read(ids[1]).model_copy(update={"status": "canceling"}))
    (home / "generations" / ids[0] / ".tmp-002.png").write_bytes(b"half")

    async def second(made: Generations) -> None:
        resumed = await made.get(ids[0])
        assert resumed.attempt == 2
        events = await follow(made.events(ids[0], after=1_000_005))
        assert events[0].id >= 2_000_000
        done = await made.wait(ids[0], 30)
        assert done.status == "succeeded"
        assert [out.index for out in done.outputs] == [0, 1, 2]
        assert made.image(f"{ids[0]}-001").read_bytes() == whole
        for id in (f"{ids[0]}-000", f"{ids[0]}-002"):
            recipe = png.read_recipe(made.image(id).read_bytes())
            assert recipe is not None and recipe["model"] == "toy@1"
        assert (await made.get(ids[1])).status == "canceled"
        assert not list((home / "generations").glob("*/.tmp-0*"))

    drive(worker, home, second)


def test_a_generation_whose_model_is_gone_fails_when_it_is_taken_up(
    toy: PackageRef, home: Path, worker: Background
) -> None:
    ids: list[str] = []

    async def first(made: Generations) -> None:
        ids.append((await made.submit(Submission("toy", controls=SLOW))).id)

    async def second(made: Generations) -> None:
        found = await made.get(ids[0])
        assert found.status == "failed"
        assert found.error is not None and found.error.code == "not_found"

    drive(worker, home, first)
    remove("toy@1")
    drive(worker, home, second)


def test_unreadable_records_are_named_and_stop_nothing(toy: PackageRef, home: Path, worker: Background) -> None:
    ids: list[str] = []

    async def first(made: Generations) -> None:
        for _ in range(3):
            ids.append((await made.submit(Submission("toy"))).id)
            await made.wait(ids[-1], 10)

    drive(worker, home, first)
    root = home / "generations"
    (root / ids[0] / "record.json").write_text('{"id": ')
    newer = json.loads((root / ids[1] / "record.json").read_text())
    (root / ids[1] / "record.json").write_text(json.dumps({**newer, "format": 99}))
    (root / "gen_notanid").mkdir()
    (root / "gen_00000000000000000000000000").mkdir()

    async def second(made: Generations) -> None:
        assert [found.id for found in (await made.list(10))[0]] == [ids[2]]
        for id in ids[:2]:
            with pytest.raises(IntegrityError, match=id):
                await made.get(id)
            await made.delete(id)
            with pytest.raises(NotFoundError):
                await made.get(id)

    drive(worker, home, second)


def test_lists_are_newest_first_and_pages_end(toy: PackageRef, home: Path, worker: Background) -> None:
    async def use(made: Generations) -> None:
        ids = [(await made.submit(Submission("toy", controls={"steps": 1}))).id for _ in range(5)]
        seen: list[Generation] = []
        cursor = None
        for _ in range(9):
            page, cursor = await made.list(2, cursor)
            seen += page
            if cursor is None:
                break
        assert [found.id for found in seen] == ids[::-1]

    drive(worker, home, use)


def test_cancel_and_delete(toy: PackageRef, home: Path, worker: Background) -> None:
    async def use(made: Generations) -> None:
        running = await made.submit(Submission("toy", controls=SLOW))
        with pytest.raises(ConflictError, match="when it is finished"):
            await made.zip(running.id)
        assert (await made.cancel(running.id)).status == "canceling"
        done = await made.wait(running.id, 10)
        assert done.status == "canceled"
        assert await made.cancel(running.id) == done
        other = await made.submit(Submission("toy", controls=SLOW))
        await made.delete(other.id)
        for id in (other.id, "../generations", "gen_" + "z" * 26, running.id + "/.."):
            for call in (made.get, made.cancel, made.delete):
                with pytest.raises(NotFoundError):
                    await call(id)
        assert Records(home / "generations").ids() == [running.id]

    drive(worker, home, use)


def test_without_a_worker_a_generation_fails_with_a_reason(toy: PackageRef, home: Path, tmp_path: Path) -> None:
    async def run() -> None:
        engine = LocalEngine(tmp_path / "nobody.sock", patience=0.2)
        made = Generations(home / "generations", Models(), engine)
        failed = await made.wait((await made.submit(Submission("toy"))).id, 10)
        assert failed.error is not None and failed.error.code == "unavailable"
        await engine.close()

    asyncio.run(run())


def test_one_process_at_a_time(home: Path) -> None:
    refused = pytest.raises(ConflictError, match="another service")
    with only_process(home / "generations"), refused, only_process(home / "generations"):
        pass
    with only_process(home / "generations"):
        pass


def test_ids_rise_even_within_a_millisecond(home: Path) -> None:
    records = Records(home)
    ids = [records.new_id() for _ in range(1000)]
    assert ids == sorted(set(ids))
    with pytest.raises(NotFoundError):
        records.image("gen_" + "0" * 26 + "-../../etc/passwd")
