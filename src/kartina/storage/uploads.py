"""Uploads of archives: a row each, and a file that grows with every chunk. What the row says has come is on the disk.

KARTINA_HOME/uploads/ID/NAME        at least `received` bytes; what lies beyond them was never acknowledged
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from kartina.config import home
from kartina.errors import NotFoundError
from kartina.storage.database import Database
from kartina.storage.tables import jobs, uploads
from kartina.storage.usage import Quota, hold, let_go

UNFINISHED = ("queued", "running", "canceling")  # jobs that may yet read their upload
READERS = ("inspect", "import")  # jobs that read one


@dataclass(frozen=True)
class Upload:
    """An archive, whole or on its way."""

    id: str
    owner: str
    name: str  # of its file
    bytes: int  # that were announced
    received: int
    sha256: str | None  # as announced
    digest: str | None  # as found; None until it is whole
    job: int | None  # that was last asked to read it
    created_at: datetime
    used_at: datetime

    @property
    def complete(self) -> bool:
        return self.digest is not None

    @property
    def path(self) -> Path:
        return folder() / self.id / self.name


def folder() -> Path:
    return home() / "uploads"


@dataclass(frozen=True)
class Uploads:
    """The uploads of one database. Methods block; those that take a connection are parts of a transaction."""

    database: Database

    def add(self, c: sa.Connection, upload: Upload, quota: Quota) -> None:
        """Begin one. All of its bytes are charged now. Raises QuotaError."""
        times = {at: getattr(upload, at).timestamp() for at in ("created_at", "used_at")}
        c.execute(sa.insert(uploads).values(**{**vars(upload), **times}))
        hold(c, self.database, upload.owner, _thing(upload.id), quota, bytes=upload.bytes)

    def get(self, owner: str, id: str) -> Upload:
        """Raises NotFoundError, for somebody else's as for none."""
        with self.database.read() as c:
            return self.read(c, owner, id)

    def read(self, c: sa.Connection, owner: str, id: str) -> Upload:
        """`get`, in a transaction."""
        row = c.execute(sa.select(uploads).where(uploads.c.id == id, uploads.c.owner == owner)).one_or_none()
        if row is None:
            raise NotFoundError(f"Found no upload {id!r}; begin one with POST /v1/uploads.")
        return _upload(row)

    def page(self, owner: str, limit: int, cursor: str | None = None) -> tuple[list[Upload], str | None]:
        """A page of the owner's uploads, newest first, and the cursor of the next one."""
        mine = sa.select(uploads).where(uploads.c.owner == owner)
        if cursor is not None:
            mine = mine.where(uploads.c.id < cursor)
        with self.database.read() as c:
            rows = c.execute(mine.order_by(uploads.c.id.desc()).limit(limit + 1)).all()
        return [_upload(row) for row in rows[:limit]], rows[limit - 1].id if len(rows) > limit else None

    def expected(self) -> int:
        """Bytes that are still to come, over all uploads."""
        with self.database.read() as c:
            missing = sa.func.sum(uploads.c.bytes - uploads.c.received)
            return int(c.execute(sa.select(sa.func.coalesce(missing, 0))).scalar_one())

    def advance(self, c: sa.Connection, id: str, received: int, digest: str | None = None) -> None:
        """So many bytes are on the disk; with `digest` it is whole. Raises NotFoundError: it was deleted meanwhile."""
        now = self.database.clock(c)
        change = sa.update(uploads).where(uploads.c.id == id).values(received=received, digest=digest, used_at=now)
        if not c.execute(change).rowcount:
            raise NotFoundError(f"Found no upload {id!r}; it was deleted meanwhile.")

    def use(self, c: sa.Connection, id: str, job: int) -> None:
        """A job is going to read it: it stays until that job is at its end."""
        c.execute(sa.update(uploads).where(uploads.c.id == id).values(job=job, used_at=self.database.clock(c)))

    def busy(self, c: sa.Connection, id: str, but: int | None = None) -> int | None:
        """The unfinished job that reads it, other than `but`."""
        reads = sa.select(jobs.c.id, jobs.c.spec).where(jobs.c.kind.in_(READERS), jobs.c.status.in_(UNFINISHED))
        return next((row.id for row in c.execute(reads) if row.spec.get("upload") == id and row.id != but), None)

    def delete(self, c: sa.Connection, id: str) -> None:
        """Forget one; its file is the caller's to remove (`remove_files`), when this is committed."""
        c.execute(sa.delete(uploads).where(uploads.c.id == id))
        let_go(c, self.database, _thing(id))

    def expired(self, c: sa.Connection, life: float) -> list[str]:
        """Those that nothing was done with for `life` seconds, and that no unfinished job reads."""
        old = sa.select(uploads.c.id).where(uploads.c.used_at <= self.database.clock(c) - life)
        return [id for id in c.execute(old).scalars() if self.busy(c, id) is None]

    def known(self) -> set[str]:
        """The ids of all."""
        with self.database.read() as c:
            return set(c.execute(sa.select(uploads.c.id)).scalars())


def remove_files(id: str) -> None:
    shutil.rmtree(folder() / id, ignore_errors=True)


def _thing(id: str) -> str:
    return f"upload:{id}"


def _upload(row: Any) -> Upload:
    found = dict(row._mapping)
    return Upload(**{**found, **{at: datetime.fromtimestamp(found[at], UTC) for at in ("created_at", "used_at")}})
