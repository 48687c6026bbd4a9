"""The gallery of a million images: pages by key, never by offset, on SQLite and PostgreSQL."""

from __future__ import annotations

import hashlib
import random
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kartina.errors import NotFoundError
from kartina.storage.assets import Asset, Assets
from kartina.storage.blobs import Blobs, open_store
from kartina.storage.database import Database
from kartina.storage.ids import first_id, new_id, time_of
from kartina.storage.records import TRASH, Filter, Generation, Made, Records, new_generation_id, now
from kartina.storage.tables import blob_refs, blobs, generations, images
from kartina.storage.usage import NONE, Used, charge, used

START = 1_750_000_000.0  # when the first generation of the large gallery was asked for
EACH = 100  # images a generation
STEP = 60.0  # seconds between two generations
MODELS = ("fashion@1", "cells@1", "rare@1")
LABELS = ("cat", "dog", "cow", "bee", "owl")


@pytest.fixture
def records(database: Database, home: Path) -> Records:
    return Records(database, Blobs(database, open_store()))


def about(i: int) -> dict[str, Any]:
    """Model, label and mark of image i: one image in 1,000 is of the rare model, one in 500 a favourite."""
    model = MODELS[2] if i % 1000 == 7 else MODELS[i % 2]
    return {"model": model, "label": LABELS[i % 5], "favourite": i % 500 == 7}


def image_id(i: int) -> str:
    return f"{first_id('gen', START + i // EACH * STEP)}-{i % EACH:03d}"


def fill(records: Records, n: int, owner: str = "local") -> None:
    """n images of one owner, in generations of EACH, straight into the tables."""
    hash = hashlib.sha256(b"x").hexdigest()
    for start in range(0, n, 50_000):
        part = range(start, min(n, start + 50_000))
        with records.database.write() as c:
            c.execute(
                sa.insert(generations),
                [
                    {
                        "id": first_id("gen", START + i // EACH * STEP), "owner": owner, "model": MODELS[0],
                        "model_hash": hash, "task": "generate", "request": {}, "status": "succeeded", "attempt": 1,
                        "crashes": 0, "history": [], "step": 1, "steps": 1, "created_at": START, "error": None,
                    }
                    for i in part if i % EACH == 0
                ],
            )  # fmt: skip
            c.execute(
                sa.insert(images),
                [
                    {
                        "id": image_id(i), "owner": owner, "generation": image_id(i).partition("-")[0],
                        "number": i % EACH, "seed": i, "width": 32, "height": 32, "format": "png", "hash": hash,
                        "size": 1, "event": 1, **about(i),
                    }
                    for i in part
                ],
            )  # fmt: skip
    if records.database.engine.dialect.name == "postgresql":
        with records.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as c:
            c.execute(sa.text("ANALYZE images"))


def timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def walk(records: Records, n: int, rounds: int) -> None:
    """Random pages of every kind of filter: p95 within 200 ms, and the last page as fast as the first."""
    rng = random.Random(0)
    middle = datetime.fromtimestamp(START + n / EACH / 2 * STEP, UTC)
    filters = [
        Filter(),
        Filter(model="rare@1"),
        Filter(label="owl"),
        Filter(model="rare@1", label="cow"),
        Filter(favourite=True),
        Filter(favourite=True, label="cow"),
        Filter(favourite=True, model="rare@1", label="cow"),
        Filter(favourite=True, model="cells@1", label="cow"),
        Filter(model="nobody@1"),
        Filter(trash=True),
        Filter(since=datetime.fromtimestamp(START, UTC), until=middle),
    ]
    spent = []
    for _ in range(rounds):
        for wanted in filters:
            cursor = None if rng.random() < 0.2 else image_id(rng.randrange(n))
            spent.append(timed(lambda w=wanted, at=cursor: records.gallery("local", w, 100, at)))  # type: ignore[misc]
    first = statistics.median(timed(lambda: records.gallery("local", Filter(), 100)) for _ in range(20))
    end = image_id(100)
    last = statistics.median(timed(lambda: records.gallery("local", Filter(), 100, end)) for _ in range(20))
    p95 = sorted(spent)[int(len(spent) * 0.95)]
    print(f"\n{records.database.engine.dialect.name}: {n:,} images, p95 {p95 * 1e3:.1f} ms, "
          f"first page {first * 1e3:.1f} ms, last page {last * 1e3:.1f} ms")  # fmt: skip
    assert p95 <= 0.2
    assert last <= 3 * first + 0.005


def check_pages(records: Records, n: int) -> None:
    """Every page of some filters, against what the filter says in Python."""
    everything = [(image_id(i), about(i)) for i in range(n)]
    for wanted in (Filter(model="rare@1"), Filter(favourite=True, label="cow"), Filter(favourite=True)):
        expected = [
            id for id, it in reversed(everything)
            if wanted.model in (None, it["model"]) and wanted.label in (None, it["label"])
            and (it["favourite"] or not wanted.favourite)
        ]  # fmt: skip
        found: list[str] = []
        cursor = None
        while True:
            page, cursor = records.gallery("local", wanted, 7, cursor)
            found += [picture.id for picture in page]
            if cursor is None:
                break
        assert found == expected


def plans(records: Records) -> None:
    """No filter sorts or reads more than its page: the index has them in order."""
    if records.database.engine.dialect.name != "sqlite":
        return
    seen: list[str] = []
    sa.event.listen(records.database.engine, "before_cursor_execute", lambda *args: seen.append((args[2], args[3])))
    for wanted in (Filter(), Filter(model="a"), Filter(label="a"), Filter(model="a", label="a"), Filter(favourite=True),
                   Filter(favourite=True, model="a", label="a"), Filter(trash=True)):  # fmt: skip
        seen.clear()
        records.gallery("local", wanted, 10, "gen_x")
        with records.database.engine.connect() as c:
            plan = c.exec_driver_sql(f"EXPLAIN QUERY PLAN {seen[-1][0]}", seen[-1][1]).all()
        text = " ".join(row[3] for row in plan)
        assert "USING INDEX" in text and "TEMP B-TREE" not in text and "id<" in text.replace(" ", ""), (wanted, text)


def test_twenty_thousand_images(records: Records) -> None:
    fill(records, 20_000)
    fill_other = Records(records.database, records.blobs)
    assert fill_other.gallery("somebody", Filter(), 100) == ([], None)
    check_pages(records, 20_000)
    walk(records, 20_000, 5)
    plans(records)


@pytest.mark.slow
def test_a_million_images(records: Records) -> None:
    fill(records, 1_000_000)
    walk(records, 1_000_000, 20)


def test_trash_is_emptied_after_thirty_days(records: Records) -> None:
    record = Generation(
        id=new_generation_id(), owner="a", model="m@1", model_hash="0" * 64, task="generate", labels=(), n=3, seed=0,
        controls={}, width=1, height=1, created_at=now(),
    )  # fmt: skip
    content = b"the same bytes for all three"
    hash = hashlib.sha256(content).hexdigest()
    made = [record.made(i).model_copy(update={"hash": hash, "size": len(content)}) for i in range(3)]
    with records.database.write() as c:
        records.insert(c, record)
        records.expect_images(c, record, made)
    records.blobs.put(hash, content, len(content))
    with records.database.write() as c:
        records.add_images(c, record, made)
        records.trash(c, "a", record.image_id(0))
        records.trash(c, "a", record.image_id(1))
        with pytest.raises(NotFoundError):
            records.trash(c, "b", record.image_id(2))
        assert records.purge(c) == 0
        old = sa.update(images).where(images.c.id == record.image_id(0))
        c.execute(old.values(trashed_at=images.c.trashed_at - TRASH))
        assert records.purge(c) == 1
    with pytest.raises(NotFoundError):
        records.picture("a", record.image_id(0))
    assert records.blobs.read(hash) == content  # the others hold it
    with records.database.write() as c:
        assert used(c, "a") == Used(bytes=2 * len(content), images=-1)  # nobody charged for the three here
        records.delete(c, "a", record.id)
        assert c.execute(sa.select(blobs.c.unused_since)).scalar() is not None
    assert records.blobs.collect(0) == 1


def accept(records: Records, n: int) -> Generation:
    """A running generation, charged for."""
    record = Generation(
        id=new_generation_id(), owner="a", model="m@1", model_hash="0" * 64, task="generate", labels=(), n=n, seed=0,
        controls={}, width=1, height=1, status="running", created_at=now(),
    )  # fmt: skip
    with records.database.write() as c:
        charge(c, records.database, "a", images=n)
        records.insert(c, record)
    return record


def expect(records: Records, record: Generation) -> list[Made]:
    """Its images, each of other bytes, about to be stored."""
    contents = [f"{record.id} {i}".encode() for i in range(record.n)]
    made = [
        record.made(i).model_copy(update={"hash": hashlib.sha256(content).hexdigest(), "size": len(content)})
        for i, content in enumerate(contents)
    ]
    with records.database.write() as c:
        records.expect_images(c, record, made)
    for one, content in zip(made, contents, strict=True):
        records.blobs.put(one.hash, content, one.size)
    return made


def referring(records: Records) -> list[str]:
    with records.database.read() as c:
        return sorted(c.execute(sa.select(blob_refs.c.owner)).scalars())


def test_images_that_were_expected_and_never_came_are_let_go_of(records: Records) -> None:
    """At the end; and at the deletion of what had ended when a service died."""
    other = accept(records, 2)
    expect(records, other)
    record = accept(records, 3)
    made = expect(records, record)
    with records.database.write() as c:
        records.add_images(c, record, made[1:2])
    storing = [f"image:{other.image_id(i)}" for i in range(2)]
    ended = record.model_copy(update={"outputs": tuple(made[1:2]), "status": "failed"})
    with records.database.write() as c:
        records.end(c, ended)
    assert referring(records) == [*storing, f"image:{record.image_id(1)}"]
    assert records.blobs.collect(0) == 2
    expect(records, record)
    with records.database.write() as c:
        records.delete(c, "a", record.id)
        assert used(c, "a") == Used(images=2)
    assert referring(records) == storing
    assert records.blobs.collect(0) == 3


def test_what_is_deleted_before_its_end_is_given_back(records: Records) -> None:
    record = accept(records, 3)
    made = expect(records, record)
    with records.database.write() as c:
        records.add_images(c, record, made[:2])
        assert used(c, "a") == Used(images=3, bytes=made[0].size + made[1].size)
        records.delete(c, "a", record.id)
        assert used(c, "a") == Used()
    assert referring(records) == []


def test_assets_that_were_expected_and_never_came_are_let_go_of(records: Records) -> None:
    assets = Assets(records.database, records.blobs)

    def asset(at: float) -> Asset:
        content = str(at).encode()
        hash = hashlib.sha256(content).hexdigest()
        one = Asset(first_id("ast", at), "a", hash, hash, len(content), 1, 1, 1, "", now())
        with records.database.write() as c:
            assets.expect(c, one)
        records.blobs.put(hash, content, len(content))
        return one

    begun = time.time()
    kept, lost, coming = (asset(at) for at in (begun - 7300, begun - 7200, begun))
    with records.database.write() as c:
        assets.add(c, kept, NONE)
    expect(records, record := accept(records, 1))
    assets.sweep()
    assert referring(records) == sorted([*(f"asset:{one.id}" for one in (kept, coming)), f"image:{record.image_id(0)}"])
    assert records.blobs.owners(lost.blob) == [] and records.blobs.collect(0) == 1
    assert records.blobs.read(kept.blob)


def test_ids_rise_and_tell_their_time() -> None:
    ids = [new_id("gen") for _ in range(1000)]
    assert ids == sorted(set(ids))
    assert abs(time_of(ids[0]) - time.time()) < 5
    assert first_id("gen", time_of(ids[0])) <= ids[0] < first_id("gen", time_of(ids[0]) + 0.001)
    assert time_of(first_id("gen", 1_750_000_000.123)) == pytest.approx(1_750_000_000.123, abs=1e-3)
    assert first_id("gen", -5) < first_id("gen", 0.002) < first_id("gen", 1e12)
