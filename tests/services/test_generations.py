"""Generations on a real worker: durable, resumable, followed by numbered events."""

from __future__ import annotations

import asyncio
import hashlib
import io
import resource
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from kartina.errors import (
    ConfigError,
    ConflictError,
    InFlightError,
    KeyReusedError,
    NotFoundError,
    QueueFullError,
    QuotaError,
    StorageError,
)
from kartina.models import png
from kartina.models.package import PackageRef, remove
from kartina.services import zips
from kartina.services.access import LOCAL, Caller
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
from kartina.serving.client import LocalEngine
from kartina.serving.protocol import Event as EngineEvent
from kartina.serving.protocol import Finished, Output, RequestSpec, Started
from kartina.storage.assets import Assets
from kartina.storage.blobs import Blobs, open_store
from kartina.storage.commits import Commits
from kartina.storage.database import open_database
from kartina.storage.records import Generation, Records
from kartina.storage.tables import blob_refs, generations, idempotency
from kartina.storage.usage import Quota, Used, used
from tests.databases import sqlite_first
from tests.engine import Background

pytestmark = sqlite_first
SLOW = {"steps": 100, "delay": 0.01}


class Made:
    """Generations of the local caller."""

    def __init__(self, all: Generations, who: Caller = LOCAL):
        self.all = all
        self.who = who
        self.records = all.records

    async def submit(self, asked: Submission, key: str | None = None) -> Generation:
        return await self.all.submit(self.who, asked, key)

    async def get(self, id: str) -> Generation:
        return await self.all.get(self.who.owner, id)

    async def list(self, limit: int, cursor: str | None = None) -> tuple[Sequence[Generation], str | None]:
        return await self.all.list(self.who.owner, limit, cursor)

    async def wait(self, id: str, seconds: float) -> Generation:
        return await self.all.wait(self.who.owner, id, seconds)

    def events(self, id: str, after: int | None = None, previews: bool = False) -> AsyncIterator[Event]:
        return self.all.events(self.who.owner, id, after, previews)

    async def cancel(self, id: str) -> Generation:
        return await self.all.cancel(self.who.owner, id)

    async def delete(self, id: str) -> None:
        await self.all.delete(self.who.owner, id)

    async def zip(self, id: str) -> bytes:
        return b"".join(zips.stream(await self.all.zip(self.who.owner, id), self.records.blobs.read))

    def image(self, made: Generation, index: int) -> bytes:
        return self.records.blobs.read(self.records.picture(self.who.owner, made.image_id(index)).made.hash)


def open_records() -> Records:
    database = open_database()
    return Records(database, Blobs(database, open_store()))


@asynccontextmanager
async def service(worker: Background, **settings: int) -> AsyncIterator[Made]:
    async with worker.engine(**settings) as engine:
        records = open_records()
        assets = Assets(records.database, records.blobs)
        made = Generations(records, assets, Commits(records.database), Models(), engine)
        await made.start()
        try:
            yield Made(made)
        finally:
            await made.stop()
            await made.commits.close()
            records.database.close()


@pytest.fixture(autouse=True)
def _database(url: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test here runs on SQLite and on PostgreSQL."""
    monkeypatch.setenv("KARTINA_DATABASE", url)


def drive(worker: Background, home: Path, use: Callable[[Made], Awaitable[None]], **settings: int) -> None:
    async def run() -> None:
        async with service(worker, **settings) as made:
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
    async def use(made: Made) -> None:
        asked = Submission(model="toy", labels=("DOG", "cat"), n=3, seed=7, controls={"steps": 3})
        accepted = await made.submit(asked)
        stored = made.records.get("local", accepted.id)
        assert stored.status in ("queued", "running") or stored.finished
        assert (accepted.model, accepted.labels, accepted.seed) == ("toy@1", ("dog", "cat"), 7)
        usual = {"guidance": 1.0, "solver": "euler", "delay": 0.0, "trouble": "none", "scratch": 0}
        assert accepted.controls == {"steps": 3, **usual}
        done = await made.wait(accepted.id, 30)
        assert done.status == "succeeded"
        assert [(out.label, out.seed, out.width) for out in done.outputs] == [
            ("dog", 7, 8),
            ("cat", 8, 8),
            ("dog", 9, 8),
        ]
        assert done == await made.get(accepted.id)
        await until(lambda: made.records.get("local", accepted.id) == done)
        assert (done.progress, done.step, done.steps) == (1.0, 9, 9)
        assert done.queue_ms is not None and done.execution_ms is not None
        recipe = png.read_recipe(made.image(done, 1))
        assert recipe is not None and (recipe["label"], recipe["seed"]) == ("cat", 8)
        with zipfile.ZipFile(io.BytesIO(await made.zip(done.id))) as archive:
            assert archive.namelist() == ["000-dog-seed7.png", "001-cat-seed8.png", "002-dog-seed9.png"]
        # Sent again with nothing left open, it makes the same bytes.
        again = await made.submit(Submission(done.model, done.task, done.labels, done.n, done.seed, done.controls))
        again = await made.wait(again.id, 30)
        for i in range(3):
            assert made.image(again, i) == made.image(done, i)
        # One blob for both; each of them holds it.
        assert again.outputs[0].hash == done.outputs[0].hash
        await made.delete(done.id)
        assert made.image(again, 0)
        await made.delete(again.id)
        with made.records.database.read() as c:
            assert used(c, "local") == Used(steps=18, images=0, bytes=0)

    drive(worker, home, use)


def test_what_is_left_open_is_filled_in(toy: PackageRef, home: Path, worker: Background) -> None:
    async def use(made: Made) -> None:
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
    async def use(made: Made) -> None:
        with pytest.raises(error, match=says):
            await made.submit(asked)
        assert await made.list(10) == ([], None)

    drive(worker, home, use)


def test_a_full_queue_and_a_full_disk_refuse_and_leave_nothing(toy: PackageRef, home: Path, worker: Background) -> None:
    async def use(made: Made) -> None:
        running = await made.submit(Submission("toy", n=8, controls=SLOW))
        with pytest.raises(QueueFullError):
            await made.submit(Submission("toy", n=5))
        if made.records.database.engine.dialect.name == "sqlite":  # a server's disk is not this process's
            with full_disk(), pytest.raises(StorageError):
                await made.submit(Submission("toy", n=1))
        assert [found.id for found in (await made.list(10))[0]] == [running.id]
        await made.cancel(running.id)
        assert (await made.wait(running.id, 10)).status == "canceled"
        assert (await made.wait((await made.submit(Submission("toy", n=8))).id, 10)).status == "succeeded"

    drive(worker, home, use, capacity=10)


def test_a_disk_that_fills_up_fails_the_generation_and_the_service_goes_on(
    toy: PackageRef, home: Path, worker: Background
) -> None:
    async def use(made: Made) -> None:
        doomed = await made.submit(Submission("toy", n=2, controls={"steps": 50, "delay": 0.01}))
        with full_disk():
            failed = await made.wait(doomed.id, 10)
        assert failed.status == "failed"
        assert failed.error is not None and failed.error.code == "storage"
        assert (await made.get(doomed.id)).status == "failed"
        last = await made.wait((await made.submit(Submission("toy"))).id, 10)
        assert last.status == "succeeded"
        with made.records.database.read() as c:
            assert list(c.execute(sa.select(blob_refs.c.owner)).scalars()) == [f"image:{last.image_id(0)}"]
        if made.records.database.engine.dialect.name == "sqlite":  # a server's disk is not this process's
            with full_disk(), pytest.raises(StorageError):
                await made.delete(doomed.id)
            assert (await made.get(doomed.id)).status == "failed"
        await made.delete(doomed.id)  # its end, too, could not be written where the database is on that disk
        with made.records.database.read() as c:
            assert used(c, "local").images == 1

    drive(worker, home, use)


async def follow(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]


def test_events_rise_start_with_a_snapshot_and_end(toy: PackageRef, home: Path, worker: Background) -> None:
    async def use(made: Made) -> None:
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

        # Later: the end as a snapshot; what was missed first, for who says where it broke off.
        for after in (None, ids[-1]):
            last = await follow(made.events(accepted.id, after))
            assert len(last) == 1
            assert isinstance(last[0].data, StatusChanged) and last[0].data.generation.status == "succeeded"
            assert last[0].id == ids[-1]
        kept = [event.id for event in found if isinstance(event.data, StatusChanged | OutputMade)]
        again = await follow(made.events(accepted.id, kept[0]))
        assert [event.id for event in again if isinstance(event.data, StatusChanged | OutputMade)] == kept[1:]
        with pytest.raises(NotFoundError):
            await follow(made.events("gen_" + "0" * 26))

    drive(worker, home, use)


def test_a_reader_that_comes_back_misses_no_status_and_no_output(
    toy: PackageRef, home: Path, worker: Background
) -> None:
    async def use(made: Made) -> None:
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

    async def first(made: Made) -> None:
        accepted = await made.submit(Submission("toy", n=3, seed=5, controls=SLOW))
        canceled = await made.submit(Submission("toy", n=1, controls=SLOW))
        ids.extend([accepted.id, canceled.id])
        stream = made.events(accepted.id)
        assert isinstance((await anext(stream)).data, StatusChanged)
        made.all.say_goodbye()
        assert isinstance((await follow(stream))[-1].data, Reconnect)

    drive(worker, home, first)
    records = open_records()
    assert records.get("local", ids[0]).status == "queued"  # stopped on purpose: no crash
    # One image was made; the other generation was being canceled.
    whole = png.encode(np.full((1, 8, 8), 77, np.uint8))
    record = records.get("local", ids[0])
    out = record.made(1).model_copy(
        update={"hash": hashlib.sha256(whole).hexdigest(), "size": len(whole), "event": record.last_event + 5}
    )
    with records.database.write() as c:
        records.expect_images(c, record, [out])
    records.blobs.put(out.hash, whole, out.size)
    with records.database.write() as c:
        records.add_images(c, record, [out])
        records.update(c, records.get("local", ids[1]).model_copy(update={"status": "canceling"}))
        records.trash(c, "local", record.image_id(1))  # is made all the same, and is not made again
    records.database.close()

    async def second(made: Made) -> None:
        resumed = await made.get(ids[0])
        assert resumed.attempt == 2
        events = await follow(made.events(ids[0], after=record.last_event))
        assert events[0].id == out.event  # told by the process before this one, and missed
        assert isinstance(events[0].data, OutputMade) and events[0].data.output.index == 1
        assert all(event.id > 2_000_000 for event in events[1:])
        outputs = [event.data.output.index for event in events if isinstance(event.data, OutputMade)]
        assert sorted(outputs) == [0, 1, 2]
        done = await made.wait(ids[0], 30)
        assert done.status == "succeeded"
        assert [made.index for made in done.outputs] == [0, 2]  # and one that is in the trash
        assert made.records.blobs.read(out.hash) == whole
        for i in (0, 2):
            recipe = png.read_recipe(made.image(done, i))
            assert recipe is not None and recipe["model"] == "toy@1"
        assert (await made.get(ids[1])).status == "canceled"

    drive(worker, home, second)


def test_what_was_running_when_two_services_died_is_given_up(toy: PackageRef, home: Path, worker: Background) -> None:
    ids: list[str] = []

    async def first(made: Made) -> None:
        for _ in range(2):
            ids.append((await made.submit(Submission("toy", n=2, controls=SLOW))).id)

    def die(running: str) -> None:
        records = open_records()
        with records.database.write() as c:
            for id in ids:
                status = "running" if id == running else "queued"
                records.update(c, records.get("local", id).model_copy(update={"status": status}))
        records.database.close()

    async def second(made: Made) -> None:
        assert [(await made.get(id)).crashes for id in ids] == [1, 0]

    async def third(made: Made) -> None:
        given_up = await made.get(ids[0])
        assert given_up.status == "failed" and given_up.error is not None
        assert given_up.error.code == "unavailable" and "died twice" in given_up.error.message
        assert (await made.wait(ids[1], 30)).status == "succeeded"

    drive(worker, home, first)
    die(ids[0])
    drive(worker, home, second)
    die(ids[0])
    drive(worker, home, third)


def test_what_is_taken_up_a_day_late_has_expired_and_keeps_its_images(
    toy: PackageRef, home: Path, worker: Background
) -> None:
    ids: list[str] = []

    async def first(made: Made) -> None:
        for _ in range(2):
            ids.append((await made.submit(Submission("toy", n=2, controls=SLOW))).id)

    def wait(hours: float, id: str) -> None:
        records = open_records()
        asked = records.get("local", id).created_at.timestamp() - 3600 * hours
        with records.database.write() as c:
            c.execute(generations.update().where(generations.c.id == id).values(created_at=asked))
        records.database.close()

    async def second(made: Made) -> None:
        late = await made.get(ids[0])
        assert late.status == "expired" and late.finished and late.completed_at is not None
        assert late.error is not None and late.error.code == "expired" and "0 of 2" in late.error.message
        assert (await made.wait(ids[1], 30)).status == "succeeded"

    async def third(made: Made) -> None:
        assert (await made.get(ids[0])).status == "expired", "for good"
        await made.all.delete("local", ids[0])

    drive(worker, home, first)
    wait(25, ids[0])
    wait(23, ids[1])
    drive(worker, home, second)
    drive(worker, home, third)


def test_a_generation_whose_model_is_gone_fails_when_it_is_taken_up(
    toy: PackageRef, home: Path, worker: Background
) -> None:
    ids: list[str] = []

    async def first(made: Made) -> None:
        ids.append((await made.submit(Submission("toy", controls=SLOW))).id)

    async def second(made: Made) -> None:
        found = await made.get(ids[0])
        assert found.status == "failed"
        assert found.error is not None and found.error.code == "not_found"

    drive(worker, home, first)
    remove("toy@1")
    drive(worker, home, second)


def test_lists_are_newest_first_and_pages_end(toy: PackageRef, home: Path, worker: Background) -> None:
    async def use(made: Made) -> None:
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
    async def use(made: Made) -> None:
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
        assert [found.id for found in (await made.list(10))[0]] == [running.id]

    drive(worker, home, use)


def test_numbers_told_are_those_kept(toy: PackageRef, home: Path, worker: Background) -> None:
    """A cancel takes long to be written, and progress comes meanwhile: nobody else gets the number of its status."""

    async def use(made: Made) -> None:
        running = await made.submit(Submission("toy", controls={"steps": 400, "delay": 0.01}))
        seen: list[Event] = []

        async def read() -> None:
            async for event in made.events(running.id):
                seen.append(event)

        reader = asyncio.create_task(read())
        await until(lambda: any(isinstance(event.data, Progressed) for event in seen))
        engine, made.all.engine = made.all.engine, _Deaf()  # type: ignore[assignment]
        with made.records.database.write():  # the commit has to wait
            canceling = asyncio.create_task(made.cancel(running.id))
            await asyncio.sleep(1.0)
        await canceling
        made.all.engine = engine
        engine.cancel(running.id)
        await reader
        told = [(event.id, event.data.generation.status) for event in seen if isinstance(event.data, StatusChanged)]
        assert [status for _, status in told[-2:]] == ["canceling", "canceled"]
        assert set(told[1:]) <= {(number, status) for number, status in (await made.get(running.id)).history}
        assert len({event.id for event in seen[1:]}) == len(seen) - 1

    drive(worker, home, use)


class _Deaf:
    """An engine that does not hear of a cancel."""

    def cancel(self, id: str) -> None:
        pass


class _Dripping:
    """An engine that makes an image every millisecond."""

    async def submit(self, spec: RequestSpec, *, accepted: bool = False) -> AsyncIterator[EngineEvent]:
        yield Started(id=spec.id)
        for row in spec.rows:
            await asyncio.sleep(0.001)
            image = png.encode(np.full((1, 8, 8), row.index, np.uint8))
            yield Output(id=spec.id, index=row.index, png=image, width=8, height=8)
        yield Finished(id=spec.id)


@pytest.mark.parametrize("n", [1, 16])
def test_images_that_follow_each_other_are_stored_together_with_the_end(toy: PackageRef, home: Path, n: int) -> None:
    async def run() -> None:
        records = open_records()
        assets = Assets(records.database, records.blobs)
        commits: list[sa.Connection] = []
        sa.event.listen(records.database.engine, "commit", commits.append)
        made = Made(Generations(records, assets, Commits(records.database), Models(), _Dripping()))  # type: ignore[arg-type]
        asked = await made.submit(Submission("toy", n=n))
        done = await made.wait(asked.id, 30)
        assert done.status == "succeeded" and len(done.outputs) == n
        # Accepted, their bytes expected, their rows with the end; a busy machine may cut 16 images' time into pieces.
        assert len(commits) <= (4 if n == 1 else 9), f"{len(commits)} commits"
        kept = records.get("local", asked.id)
        assert kept == done
        told = [*(number for number, _ in kept.history), *(out.event for out in kept.outputs)]
        assert len(set(told)) == len(told) and max(told) == kept.history[-1][0]
        assert [made.image(done, i) for i in range(n)] == [
            png.encode(np.full((1, 8, 8), i, np.uint8)) for i in range(n)
        ]
        records.database.close()

    asyncio.run(run())


def test_without_a_worker_a_generation_fails_with_a_reason(toy: PackageRef, home: Path, tmp_path: Path) -> None:
    async def run() -> None:
        engine = LocalEngine(tmp_path / "nobody.sock", patience=0.2)
        records = open_records()
        assets = Assets(records.database, records.blobs)
        made = Made(Generations(records, assets, Commits(records.database), Models(), engine))
        failed = await made.wait((await made.submit(Submission("toy"))).id, 10)
        assert failed.error is not None and failed.error.code == "unavailable"
        await engine.close()
        records.database.close()

    asyncio.run(run())


def test_an_idempotency_key_is_one_generation(toy: PackageRef, home: Path, worker: Background) -> None:
    async def use(made: Made) -> None:
        asked = Submission("toy", n=2, controls={"steps": 2})
        first = await made.submit(asked, "k")
        assert (await made.wait(first.id, 30)).status == "succeeded"
        assert (await made.submit(asked, "k")).id == first.id
        with pytest.raises(KeyReusedError, match="asked for something else"):
            await made.submit(replace(asked, n=3), "k")
        other = Made(made.all, Caller("key_other", frozenset({"generate"})))
        assert (await other.submit(asked, "k")).id != first.id  # another's keys are another's
        # While the first is being accepted, the second is refused; both at once make one.
        results = await asyncio.gather(*(made.submit(asked, "both") for _ in range(8)), return_exceptions=True)
        accepted = {found.id for found in results if isinstance(found, Generation)}
        assert len(accepted) == 1
        assert all(isinstance(found, Generation | InFlightError) for found in results)
        # A refused request leaves its key free.
        with pytest.raises(NotFoundError):
            await made.submit(Submission("nobody"), "free")
        assert (await made.submit(asked, "free")).n == 2
        # After 24 hours it is a new one.
        with made.records.database.write() as c:
            c.execute(sa.update(idempotency).values(created_at=idempotency.c.created_at - 24 * 3600))
        assert (await made.submit(replace(asked, n=3), "k")).id != first.id

    drive(worker, home, use)


def test_quotas_are_kept_and_given_back(toy: PackageRef, home: Path, worker: Background) -> None:
    async def use(all: Made) -> None:
        made = Made(all.all, Caller("key_small", frozenset({"generate"}), Quota(steps=100, images=4)))
        kept = await made.wait((await made.submit(Submission("toy", n=3, controls={"steps": 10}))).id, 30)
        with pytest.raises(QuotaError, match="3 of 4 stored images used, and 2 more"):
            await made.submit(Submission("toy", n=2, controls={"steps": 1}))
        with pytest.raises(QuotaError, match="30 of 100 steps of work a day used, and 71 more"):
            await made.submit(Submission("toy", n=1, controls={"steps": 71}))
        canceled = await made.submit(Submission("toy", n=1, controls={"steps": 60, "delay": 0.1}))
        await made.cancel(canceled.id)
        await made.wait(canceled.id, 10)
        await made.delete(canceled.id)
        await made.delete(kept.id)
        with made.records.database.read() as c:
            assert used(c, "key_small") == Used(steps=90, images=0, bytes=0)

    drive(worker, home, use)


def test_who_has_used_up_the_bytes_gets_no_more_images(toy: PackageRef, home: Path, worker: Background) -> None:
    async def use(all: Made) -> None:
        made = Made(all.all, Caller("key_small", frozenset({"generate"}), Quota(bytes=1)))
        first = await made.wait((await made.submit(Submission("toy", n=2))).id, 30)
        size = sum(out.size for out in first.outputs)
        assert first.status == "succeeded" and size > 1, "one may end above it"
        with pytest.raises(QuotaError, match=f"Found {size:,} of 1 stored bytes used"):
            await made.submit(Submission("toy"))
        exact = Made(all.all, replace(made.who, quota=Quota(bytes=size)))
        with pytest.raises(QuotaError, match=f"Found {size:,} of {size:,} stored bytes used"):
            await exact.submit(Submission("toy"))
        with made.records.database.read() as c:
            now = used(c, "key_small")
        assert (now.images, now.bytes) == (2, size), "nothing is left of what was refused"
        await made.delete(first.id)
        assert (await made.wait((await made.submit(Submission("toy"))).id, 30)).status == "succeeded"

    drive(worker, home, use)


def test_a_caller_who_queues_much_holds_up_no_other(toy: PackageRef, home: Path, worker: Background) -> None:
    """Each caller has its share of every batch, though the engine hears of all of them on one connection."""

    async def use(greedy: Made) -> None:
        modest = Made(greedy.all, Caller("key_modest", frozenset({"generate"})))
        long = Submission("toy", n=64, controls={"steps": 1000, "delay": 0.01})
        queued = [await greedy.submit(long) for _ in range(3)]
        done = await modest.wait((await modest.submit(Submission("toy", n=2))).id, 30)
        assert done.status == "succeeded"
        assert [(await greedy.get(one.id)).outputs for one in queued] == [()] * 3, "it was not the last to be served"
        for one in queued:
            await greedy.delete(one.id)

    drive(worker, home, use)


def test_two_owners_never_meet(toy: PackageRef, home: Path, worker: Background) -> None:
    async def use(mine: Made) -> None:
        yours = Made(mine.all, Caller("key_yours", frozenset({"generate"})))
        running = await mine.submit(Submission("toy", controls=SLOW))
        done = await mine.wait((await mine.submit(Submission("toy"))).id, 30)
        for id in (running.id, done.id):
            for call in (yours.get, yours.cancel, yours.delete, yours.zip):
                with pytest.raises(NotFoundError):
                    await call(id)
            with pytest.raises(NotFoundError):
                await follow(yours.events(id))
            with pytest.raises(NotFoundError):
                await yours.wait(id, 1)
        with pytest.raises(NotFoundError):
            yours.image(done, 0)
        assert await yours.list(10) == ([], None)
        assert len((await mine.list(10))[0]) == 2
        # The same image of two owners is one blob: what one deletes, the other keeps.
        again = Submission(done.model, done.task, done.labels, done.n, done.seed, done.controls)
        same = await yours.wait((await yours.submit(again)).id, 30)
        assert same.outputs[0].hash == done.outputs[0].hash
        await mine.delete(done.id)
        mine.records.blobs.collect(0)
        assert yours.image(same, 0)
        await yours.delete(same.id)
        mine.records.blobs.collect(0)
        with pytest.raises(NotFoundError):
            mine.records.blobs.read(same.outputs[0].hash)

    drive(worker, home, use)


def test_webp_has_the_same_pixels_and_the_recipe(toy: PackageRef, home: Path, worker: Background) -> None:
    async def use(made: Made) -> None:
        asked = Submission("toy", labels=("кот",), seed=3)
        one = await made.wait((await made.submit(asked)).id, 30)
        two = await made.wait((await made.submit(replace(asked, format="webp"))).id, 30)
        files = made.image(one, 0), made.image(two, 0)
        assert png.read_recipe(files[0]) == png.read_recipe(files[1])
        assert png.is_synthetic(files[0]) and png.is_synthetic(files[1])
        pixels = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
        assert (pixels[0] == pixels[1]).all()
        assert files[1][8:12] == b"WEBP"

    drive(worker, home, use)
