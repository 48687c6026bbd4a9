"""Jobs as their callers follow, list and delete them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kartina.errors import ConflictError
from kartina.jobs.table import Jobs
from kartina.services.access import LOCAL
from kartina.services.jobs import Snapshot, Work, digest


def test_readers_of_a_job_that_is_deleted_come_to_an_end(home: Path) -> None:
    jobs = Jobs.open()
    work = Work(jobs)
    id = jobs.submit("toy", {}).id

    async def run() -> list[str]:
        told = []
        async for event in work.events("local", str(id)):
            assert isinstance(event, Snapshot)
            told.append(event.job.status)
            if len(told) == 1:  # between two looks of the service
                jobs.cancel(id)
                jobs.delete(id)
        return told

    assert asyncio.run(asyncio.wait_for(run(), 10)) == ["queued"]


def test_a_cursor_that_is_no_id_is_the_first_page(home: Path) -> None:
    jobs = Jobs.open()
    job = jobs.submit("toy", {})
    for cursor in ("9" * 19, "9" * 100, "-1", "x", "\u0663"):
        assert asyncio.run(Work(jobs).list("local", 10, cursor)) == ([job], None)


def test_what_a_bulk_generation_made_stays_while_an_import_is_to_read_it(home: Path) -> None:
    jobs = Jobs.open()
    bulk = jobs.submit("bulk", {})
    jobs.cancel(bulk.id)
    reads = jobs.submit("import", {"name": "more", "bulk": bulk.id})
    with pytest.raises(ConflictError, match=f"Found job {bulk.id} in use by job {reads.id}"):
        asyncio.run(Work(jobs).delete("local", str(bulk.id)))
    jobs.cancel(reads.id)
    asyncio.run(Work(jobs).delete("local", str(bulk.id)))
    assert [job.id for job in jobs.recent()] == [reads.id]


def test_a_key_stands_for_a_request_as_it_came(home: Path) -> None:
    """Names in it may be looked up to something else by the time that it comes again."""
    work = Work(Jobs.open())
    asked = digest("train", start="toy")
    first = asyncio.run(work.submit(LOCAL, "train", {"start": "toy@1"}, "k", asked))
    assert asyncio.run(work.submit(LOCAL, "train", {"start": "toy@2"}, "k", asked)).id == first.id
    assert asyncio.run(work.again(LOCAL, asked, "k")) == asyncio.run(work.get("local", str(first.id)))
    assert asyncio.run(work.again(LOCAL, asked, "other")) is None is asyncio.run(work.again(LOCAL, asked, None))
    assert "asked" not in asyncio.run(work.submit(LOCAL, "train", {"start": "toy@2"}, None, asked)).spec
