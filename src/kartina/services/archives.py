"""Use cases on uploads: begin one, send its parts, ask how far it is, delete it; what is abandoned is removed.

An archive of a data set may have gigabytes, and connections break. So it comes in parts, each written to the disk as
it arrives: the offset that is told has been synced, and what was sent beyond it when a process or a connection died is
sent again. A part that begins elsewhere is refused with the right offset. A newer request for an upload ends an older
one, whose connection may have died without anybody having noticed.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
from asyncio import to_thread
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kartina.errors import ConflictError, DataError, NoRoomError, OffsetError, StorageError, disk_errors
from kartina.files import make_folder, sync
from kartina.services.access import Caller
from kartina.services.periodic import Periodic
from kartina.storage.commits import Commits
from kartina.storage.ids import new_id
from kartina.storage.records import now
from kartina.storage.uploads import Upload, Uploads, folder, remove_files

MAX_BYTES = 256 * 2**30  # of one upload
MAX_PART = 64 * 2**20  # bytes of one request
KINDS = (".zip", ".npz")  # what can be imported from one file
LIFE = 24 * 3600.0  # seconds after which an upload that nobody does anything with is removed
SWEEP = 3600.0  # seconds between two looks for such
SPARE = 2**28  # bytes of the disk that uploads leave free
PATIENCE = 60.0  # seconds without a byte after which a part ends where it is
_SYNC = 8 * 2**20  # bytes after which what came is synced, and told
_BLOCK = 2**20  # bytes written at a time
_READ = 4 * 2**20


@dataclass
class _Turn:
    """Whose turn it is to write to an upload."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    newer: asyncio.Event = field(default_factory=asyncio.Event)  # another request wants it
    users: int = 0


class Archives:
    """Uploads of one database. Belongs to one event loop."""

    def __init__(self, uploads: Uploads, commits: Commits):
        self.uploads = uploads
        self.commits = commits
        self._turns: dict[str, _Turn] = {}
        self._hashes: OrderedDict[str, tuple[int, Any]] = OrderedDict()  # of the bytes so far: (how many, sha256)
        self.sweeping = Periodic("sweep_of_uploads", self.remove_abandoned, SWEEP)

    async def remove_abandoned(self, life: float = LIFE) -> int:
        """Remove uploads that nothing was done with for `life` seconds, and files that belong to none; says how many
        uploads went."""

        def forget(c: Any) -> list[str]:
            found = [id for id in self.uploads.expired(c, life) if id not in self._turns]
            for id in found:
                self.uploads.delete(c, id)
            return found

        gone = await self.commits(forget)
        await to_thread(self._remove_strays)
        return len(gone)

    def _remove_strays(self) -> None:
        """An upload's row comes before its files, and goes before them."""
        there = [path.name for path in folder().glob("*")]
        for id in set(there) - self.uploads.known() if there else ():
            remove_files(id)

    # -- one upload --------------------------------------------------------------------------------------------------

    async def begin(self, caller: Caller, name: str, size: int, sha256: str | None = None) -> Upload:
        """Make room for an archive of `size` bytes.

        Raises DataError for what could not be imported, QuotaError, NoRoomError, StorageError.
        """
        id, at = new_id("upl"), now()
        upload = Upload(
            id=id,
            owner=caller.owner,
            name=_file_name(name),
            bytes=size,
            received=0,
            sha256=sha256,
            digest=None,
            job=None,
            created_at=at,
            used_at=at,
        )
        if size > MAX_BYTES:
            raise DataError(f"Found an upload of {size:,} bytes; expected at most {MAX_BYTES:,}. Split the data.")
        await to_thread(self._check_room, size)
        await self.commits(lambda c: self.uploads.add(c, upload, caller.quota))
        return upload

    def _check_room(self, size: int) -> None:
        with disk_errors("make room for the upload"):
            make_folder(folder())
            free = shutil.disk_usage(folder()).free
        taken = self.uploads.expected() + SPARE
        if size > free - taken:
            raise NoRoomError(
                f"Found {max(0, free - taken) / 1e9:.1f} GB of the disk free for uploads; expected {size / 1e9:.1f} "
                "GB. Delete uploads, data sets or runs, or free some space."
            )

    async def get(self, owner: str, id: str) -> Upload:
        """Raises NotFoundError."""
        return await to_thread(self.uploads.get, owner, id)

    async def offset(self, owner: str, id: str) -> Upload:
        """`get` for one who wants to go on: a part that is still being received ends first, and what came counts."""
        await self.get(owner, id)
        async with self._turn(id):
            return await self.get(owner, id)

    async def list(self, owner: str, limit: int, cursor: str | None) -> tuple[list[Upload], str | None]:
        return await to_thread(self.uploads.page, owner, limit, cursor)

    async def delete(self, owner: str, id: str) -> None:
        """Raises NotFoundError, ConflictError while an unfinished job reads it."""
        await self.get(owner, id)

        def forget(c: Any) -> None:
            self.uploads.read(c, owner, id)
            if (job := self.uploads.busy(c, id)) is not None:
                raise ConflictError(f"Found the upload {id} in use by job {job}; wait for it, or cancel it.")
            self.uploads.delete(c, id)

        async with self._turn(id):
            await self.commits(forget)
            self._hashes.pop(id, None)
            await to_thread(remove_files, id)

    async def append(self, owner: str, id: str, offset: int, parts: AsyncIterator[bytes]) -> Upload:
        """Write the bytes that come to the upload's end, which is where `offset` has to be.

        Whatever ends it, what had come by then and was synced stays. Raises OffsetError, DataError (more bytes than
        were announced; or not those: then it begins anew), NotFoundError, ConflictError (a newer request took over),
        StorageError.
        """
        await self.get(owner, id)
        async with self._turn(id) as turn:
            upload = await self.get(owner, id)
            if upload.complete and offset == upload.bytes:
                return upload
            if offset != upload.received or upload.complete:
                raise OffsetError(
                    f"Found a part that begins at {offset:,}; expected {upload.received:,}, which is where the last "
                    f"one ended.",
                    offset=upload.received,
                )
            writing = await to_thread(_Writing.at, upload, self._hashes.pop(id, None))
            try:
                await self._receive(upload, writing, turn.newer, parts)
            finally:
                await asyncio.shield(self._settle(upload, writing))
            return await self.get(owner, id)

    async def _receive(
        self, upload: Upload, writing: _Writing, newer: asyncio.Event, parts: AsyncIterator[bytes]
    ) -> None:
        """Write parts until there are no more."""
        while (part := await _next(parts, newer)) is not None:
            if writing.written + len(writing.waiting) + len(part) > upload.bytes:
                raise DataError(
                    f"Found more than the {upload.bytes:,} bytes that were announced; expected no more. Begin another "
                    "upload with the right number."
                )
            writing.waiting += part
            if len(writing.waiting) >= _BLOCK:
                await to_thread(writing.write)
            if writing.written - writing.synced >= _SYNC:
                await self._tell(upload, writing)

    async def _tell(self, upload: Upload, writing: _Writing) -> None:
        """Sync what was written, and only then say that it is there."""
        at = await to_thread(writing.sync)
        whole = at == upload.bytes
        digest = writing.hash.hexdigest() if whole else None
        if whole and upload.sha256 not in (None, digest):
            await self.commits(lambda c: self.uploads.advance(c, upload.id, 0))
            await to_thread(writing.discard)
            raise DataError(
                f"Found the SHA-256 {digest}; expected {upload.sha256}, as was announced. Send the file again from 0; "
                "if that does not help, it has changed since its hash was taken."
            )
        await self.commits(lambda c: self.uploads.advance(c, upload.id, at, digest))

    async def _settle(self, upload: Upload, writing: _Writing) -> None:
        """Keep what came, however its coming ended."""
        try:
            if writing.sound and writing.written + len(writing.waiting) > writing.synced:
                await to_thread(writing.write)
                await self._tell(upload, writing)
            if writing.synced < upload.bytes:
                self._hashes[upload.id] = (writing.written, writing.hash)
                while len(self._hashes) > 64:
                    self._hashes.popitem(last=False)
        finally:
            await to_thread(writing.close)

    def _turn(self, id: str) -> _Taking:
        return _Taking(self._turns, id)


class _Taking:
    """Wait for one's turn at an upload; whoever has it is told to end."""

    def __init__(self, turns: dict[str, _Turn], id: str):
        self.turns, self.id = turns, id

    async def __aenter__(self) -> _Turn:
        turn = self.turns.setdefault(self.id, _Turn())
        turn.users += 1
        turn.newer.set()
        try:
            await turn.lock.acquire()
        except BaseException:
            self._leave(turn)
            raise
        turn.newer = asyncio.Event()
        return turn

    async def __aexit__(self, *_: object) -> None:
        turn = self.turns[self.id]
        turn.lock.release()
        self._leave(turn)

    def _leave(self, turn: _Turn) -> None:
        turn.users -= 1
        if not turn.users:
            del self.turns[self.id]


class _Writing:
    """The end of an upload's file. Methods block."""

    def __init__(self, path: Path, file: int, at: int, hash: Any):
        self.path, self.file, self.hash = path, file, hash
        self.waiting = bytearray()  # to be written
        self.written = self.synced = at
        self.sound = True  # nothing has gone wrong with it

    @classmethod
    def at(cls, upload: Upload, known: tuple[int, Any] | None) -> _Writing:
        """Open it where its acknowledged bytes end; what lies beyond goes."""
        with disk_errors("store the upload"):
            make_folder(upload.path.parent)
            new = not upload.path.exists()
            file = os.open(upload.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                size = os.fstat(file).st_size
                if size < upload.received:
                    raise StorageError(
                        f"Found {size:,} bytes of the upload {upload.id} on the disk; expected {upload.received:,}. "
                        "Delete it, and upload the file anew."
                    )
                os.ftruncate(file, upload.received)
                os.lseek(file, upload.received, os.SEEK_SET)
                if new:
                    for place in (upload.path.parent, folder()):
                        sync(place)
                hash = known[1] if known is not None and known[0] == upload.received else _hash(file, upload.received)
            except BaseException:
                os.close(file)
                raise
        return cls(upload.path, file, upload.received, hash)

    def write(self) -> None:
        """Write what waits."""
        data, self.waiting = bytes(self.waiting), bytearray()
        view = memoryview(data)
        with self._guarded():
            while view:
                view = view[os.write(self.file, view) :]
        self.hash.update(data)
        self.written += len(data)

    def sync(self) -> int:
        """Bring what was written to the disk; says how many bytes that is."""
        with self._guarded():
            os.fsync(self.file)
        self.synced = self.written
        return self.synced

    def discard(self) -> None:
        os.ftruncate(self.file, 0)
        self.written = self.synced = 0
        self.hash = hashlib.sha256()

    def close(self) -> None:
        if not self.sound:  # what a full disk let through is nobody's
            with suppress(OSError):
                os.ftruncate(self.file, self.synced)
        os.close(self.file)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            with disk_errors("store the upload"):
                yield
        except BaseException:
            self.sound = False
            raise


def _hash(file: int, size: int) -> Any:
    """The SHA-256 of a file's first bytes; its place is left where it was."""
    found, at = hashlib.sha256(), 0
    while at < size:
        part = os.pread(file, min(_READ, size - at), at)
        found.update(part)
        at += len(part)
    return found


async def _next(parts: AsyncIterator[bytes], newer: asyncio.Event) -> bytes | None:
    """The next part; None after the last. Raises ConflictError where a newer request wants the upload, or no byte has
    come for PATIENCE seconds."""
    coming = asyncio.ensure_future(_one(parts))
    other = asyncio.ensure_future(newer.wait())
    try:
        await asyncio.wait((coming, other), timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        if coming.done():
            return coming.result()
        why = "a newer request for it came" if other.done() else f"nothing came for {PATIENCE:.0f} s"
        raise ConflictError(f"Found the part cut short: {why}; expected its rest. Ask where to go on (HEAD).")
    finally:
        for task in (coming, other):
            task.cancel()
        await asyncio.gather(coming, other, return_exceptions=True)


async def _one(parts: AsyncIterator[bytes]) -> bytes | None:
    return await anext(parts, None)


def _file_name(name: str) -> str:
    """What the file is called here: of the name that was given, what is harmless. Raises DataError for another kind."""
    kind = Path(name).suffix.casefold()
    if kind not in KINDS:
        raise DataError(
            f"Found the file name {name[:100]!r}; expected one that ends in .zip (class folders, pairs, idx files, or "
            "images with a manifest) or .npz."
        )
    plain = re.sub(r"[^\w.-]+", "-", name.replace("\\", "/").rpartition("/")[2][: -len(kind)], flags=re.ASCII)
    return f"{plain.strip('-.')[:80] or 'upload'}{kind}"
