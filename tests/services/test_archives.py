"""Uploads in parts: what was acknowledged is on the disk, whatever breaks; what was not is sent again."""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kartina.errors import ConflictError, DataError, NoRoomError, NotFoundError, OffsetError, QuotaError, StorageError
from kartina.jobs.table import Jobs
from kartina.services import archives as module
from kartina.services.access import LOCAL, Caller
from kartina.services.archives import Archives
from kartina.storage.commits import Commits
from kartina.storage.database import open_database
from kartina.storage.uploads import Uploads
from kartina.storage.usage import Quota, used

CONTENT = bytes(range(256)) * 4096 * 20  # 20 MiB: synced twice on its way


async def parts(data: bytes, size: int = 300_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def drive(url: str, use: Callable[[Archives], Awaitable[None]]) -> None:
    async def run() -> None:
        database = open_database(url)
        archives = Archives(Uploads(database), Commits(database))
        try:
            await use(archives)
        finally:
            await archives.commits.close()
            database.close()

    asyncio.run(run())


def bytes_used(archives: Archives, owner: str = "local") -> int:
    with archives.uploads.database.read() as c:
        return used(c, owner).bytes


@contextmanager
def no_file_over(size: int) -> Iterator[None]:
    """The kernel's own refusal, for this process."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_parts_make_the_file(url: str, home: Path) -> None:
    async def use(archives: Archives) -> None:
        digest = hashlib.sha256(CONTENT).hexdigest()
        begun = await archives.begin(LOCAL, "C:\\my photos/été 1.ZIP", len(CONTENT), digest)
        assert (begun.name, begun.received, begun.complete) == ("t-1.zip", 0, False)
        assert bytes_used(archives) == len(CONTENT), "all of it counts from the start"
        half = await archives.append("local", begun.id, 0, parts(CONTENT[:9_000_001]))
        assert (half.received, half.complete) == (9_000_001, False)
        for wrong in (0, 9_000_000, 9_000_002, len(CONTENT)):
            with pytest.raises(OffsetError, match="expected 9,000,001") as refused:
                await archives.append("local", begun.id, wrong, parts(b"x"))
            assert refused.value.offset == 9_000_001
        done = await archives.append("local", begun.id, half.received, parts(CONTENT[half.received :]))
        assert done.complete and done.digest == digest and done.path.read_bytes() == CONTENT
        assert await archives.append("local", begun.id, len(CONTENT), parts(b"")) == done  # its answer was lost
        with pytest.raises(OffsetError):
            await archives.append("local", begun.id, 0, parts(CONTENT))
        await archives.delete("local", begun.id)
        assert not done.path.parent.exists() and bytes_used(archives) == 0
        with pytest.raises(NotFoundError):
            await archives.get("local", begun.id)

    drive(url, use)


def test_a_new_process_goes_on_from_what_was_acknowledged(url: str, home: Path) -> None:
    ids: list[str] = []

    async def first(archives: Archives) -> None:
        begun = await archives.begin(LOCAL, "a.npz", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
        ids.append(begun.id)
        at = (await archives.append("local", begun.id, 0, parts(CONTENT[:1_000_000]))).received
        assert at == 1_000_000
        with begun.path.open("ab") as file:  # written, and killed before it was told
            file.write(b"never acknowledged")

    async def second(archives: Archives) -> None:
        at = (await archives.offset("local", ids[0])).received
        assert at == 1_000_000
        done = await archives.append("local", ids[0], at, parts(CONTENT[at:]))
        assert done.complete and done.path.read_bytes() == CONTENT

    drive(url, first)
    drive(url, second)


def test_a_broken_connection_keeps_what_came(home: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        async for part in parts(CONTENT[:3_000_000]):
            yield part
        raise ConnectionResetError

    async def use(archives: Archives) -> None:
        begun = await archives.begin(LOCAL, "a.zip", len(CONTENT))
        with pytest.raises(ConnectionResetError):
            await archives.append("local", begun.id, 0, broken())
        at = (await archives.offset("local", begun.id)).received
        assert at == 3_000_000
        done = await archives.append("local", begun.id, at, parts(CONTENT[at:]))
        assert done.digest == hashlib.sha256(CONTENT).hexdigest()

    drive(f"sqlite:///{home}/kartina.db", use)


def test_a_newer_request_ends_one_that_hangs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hanging() -> AsyncIterator[bytes]:
        yield CONTENT[:5000]
        await asyncio.sleep(3600)

    async def use(archives: Archives) -> None:
        begun = await archives.begin(LOCAL, "a.zip", 10_000)
        old = asyncio.create_task(archives.append("local", begun.id, 0, hanging()))
        await asyncio.sleep(0.1)
        assert (await archives.offset("local", begun.id)).received == 5000, "what had come is kept"
        with pytest.raises(ConflictError, match="a newer request"):
            await old
        monkeypatch.setattr(module, "PATIENCE", 0.1)
        with pytest.raises(ConflictError, match="nothing came for"):
            await archives.append("local", begun.id, 5000, hanging())
        assert (await archives.offset("local", begun.id)).complete, "that was the other half"

    drive(f"sqlite:///{home}/kartina.db", use)


def test_a_wrong_hash_begins_anew_and_too_much_is_refused(home: Path) -> None:
    async def use(archives: Archives) -> None:
        begun = await archives.begin(LOCAL, "a.zip", 1000, hashlib.sha256(CONTENT[:1000]).hexdigest())
        with pytest.raises(DataError, match="Found the SHA-256"):
            await archives.append("local", begun.id, 0, parts(b"y" * 1000))
        assert (await archives.get("local", begun.id)).received == 0
        with pytest.raises(DataError, match="more than the 1,000 bytes"):
            await archives.append("local", begun.id, 0, parts(CONTENT[:1001], 300))
        at = (await archives.get("local", begun.id)).received
        assert at == 900, "parts up to the one that was too much"
        assert (await archives.append("local", begun.id, at, parts(CONTENT[at:1000]))).complete
        for name in ("a.tar", "a.csv", "zip", "a.zip.exe"):
            with pytest.raises(DataError, match=r"ends in \.zip"):
                await archives.begin(LOCAL, name, 1)

    drive(f"sqlite:///{home}/kartina.db", use)


def test_a_full_disk_is_said_and_what_was_acknowledged_stays(home: Path) -> None:
    async def use(archives: Archives) -> None:
        begun = await archives.begin(LOCAL, "a.zip", len(CONTENT))
        at = (await archives.append("local", begun.id, 0, parts(CONTENT[:1_000_000]))).received
        with no_file_over(3_000_000), pytest.raises(StorageError, match="Could not store the upload"):
            await archives.append("local", begun.id, at, parts(CONTENT[at:]))
        assert begun.path.stat().st_size == 1_000_000
        assert (await archives.get("local", begun.id)).received == at
        done = await archives.append("local", begun.id, at, parts(CONTENT[at:]))
        assert done.path.read_bytes() == CONTENT
        with pytest.raises(NoRoomError, match="of the disk free for uploads"):
            await archives.begin(LOCAL, "a.zip", 2**38)

    drive(f"sqlite:///{home}/kartina.db", use)


def test_quota_ownership_and_expiry(url: str, home: Path) -> None:
    async def use(archives: Archives) -> None:
        key = Caller("key_1", frozenset(("data",)), Quota(bytes=1000))
        with pytest.raises(QuotaError, match="0 of 1,000 stored bytes"):
            await archives.begin(key, "a.zip", 1001)
        mine = await archives.begin(key, "a.zip", 600)
        with pytest.raises(QuotaError):
            await archives.begin(key, "a.zip", 600)
        assert bytes_used(archives, "key_1") == 600
        with pytest.raises(NotFoundError):
            await archives.get("local", mine.id)
        with pytest.raises(NotFoundError):
            await archives.append("local", mine.id, 0, parts(b"x"))
        assert await archives.list("local", 10, None) == ([], None)
        await archives.append("key_1", mine.id, 0, parts(b"x" * 600))

        jobs = Jobs(archives.uploads.database)
        job = jobs.submit("import", {"upload": mine.id}).id
        await archives.commits(lambda c: archives.uploads.use(c, mine.id, job))
        assert await archives.remove_abandoned(0) == 0, "an unfinished job reads it"
        with pytest.raises(ConflictError, match=f"in use by job {job}"):
            await archives.delete("key_1", mine.id)
        jobs.cancel(job)
        stray = mine.path.parent.parent / "upl_stray"
        os.mkdir(stray)
        assert await archives.remove_abandoned(3600) == 0 and mine.path.exists() and not stray.exists()
        assert await archives.remove_abandoned(0) == 1 and not mine.path.exists()
        assert bytes_used(archives, "key_1") == 0

    drive(url, use)
