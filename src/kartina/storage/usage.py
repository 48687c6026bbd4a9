"""What each owner has used: images and bytes stored, steps of work today. One row an owner, kept with every change.

Things with a life of their own (uploads, data sets, bulk generations) are held: a row says what each counts for, so
that saying it twice, as a job does that was killed and goes on, is the same as saying it once.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from kartina import owners
from kartina.errors import QuotaError
from kartina.storage.database import Database
from kartina.storage.tables import holdings, usage


@dataclass(frozen=True)
class Quota:
    """The most that an owner may use; None for no bound."""

    steps: int | None = None  # n x steps a day (UTC)
    images: int | None = None  # stored, and promised by unfinished generations
    bytes: int | None = None  # of stored images, assets, uploads, data sets and bulk generations; see `check_bytes`
    jobs: int | None = None  # that are not at their end


@dataclass(frozen=True)
class Used:
    steps: int = 0
    images: int = 0
    bytes: int = 0


NONE = Quota()
_DELETE = "Delete images, assets, uploads or data sets first."


def used(c: sa.Connection, owner: str) -> Used:
    """What the owner has used, steps of today."""
    row = c.execute(sa.select(usage).where(usage.c.owner == owner)).one_or_none()
    return Used() if row is None else Used(row.steps if row.day == _today() else 0, row.images, row.bytes)


def charge(
    c: sa.Connection,
    database: Database,
    owner: str,
    quota: Quota = NONE,
    *,
    steps: int = 0,
    images: int = 0,
    bytes: int = 0,
) -> None:
    """Add to (or, below zero, take from) what the owner has used. Raises QuotaError where that is more than allowed."""
    row = {"owner": owner, "images": images, "bytes": bytes, "day": _today(), "steps": steps}
    c.execute(_adding(database.engine.dialect.name), row)
    if quota == NONE:
        return
    after = used(c, owner)
    for name, asked, bound, have, advice in (
        ("steps of work a day", steps, quota.steps, after.steps, "Ask for fewer images or steps, or go on tomorrow."),
        ("stored images", images, quota.images, after.images, "Delete some first."),
        ("stored bytes", bytes, quota.bytes, after.bytes, _DELETE),
    ):
        if bound is not None and asked > 0 and have > bound:
            raise QuotaError(f"Found {have - asked:,} of {bound:,} {name} used, and {asked:,} more asked for. {advice}")


def check_bytes(c: sa.Connection, owner: str, quota: Quota) -> None:
    """Refuse work whose bytes are charged as they come, without a bound: what was accepted before may end above it.
    Raises QuotaError where the owner's bytes are used up."""
    if quota.bytes is not None and (have := used(c, owner).bytes) >= quota.bytes:
        raise QuotaError(f"Found {have:,} of {quota.bytes:,} stored bytes used, and more asked for. {_DELETE}")


def hold(
    c: sa.Connection,
    database: Database,
    owner: str,
    thing: str,
    quota: Quota = NONE,
    *,
    images: int = 0,
    bytes: int = 0,
) -> None:
    """From now on `thing` ("upload:ID") counts for so much, whatever it counted for. Raises QuotaError as `charge`."""
    insert = (postgresql if database.engine.dialect.name == "postgresql" else sqlite).insert
    there = c.execute(sa.select(holdings).where(holdings.c.thing == thing).with_for_update()).one_or_none()
    if there is not None and there.owner != owner:
        let_go(c, database, thing)
        there = None
    row = insert(holdings).values(thing=thing, owner=owner, images=images, bytes=bytes)
    c.execute(row.on_conflict_do_update(index_elements=["thing"], set_={"images": images, "bytes": bytes}))
    before = (0, 0) if there is None else (there.images, there.bytes)
    charge(c, database, owner, quota, images=images - before[0], bytes=bytes - before[1])


def hold_folder(c: sa.Connection, database: Database, thing: str, folder: Path) -> None:
    """From now on `thing` counts for what its folder takes on the disk, for the folder's owner; for nothing where there
    is none. What cannot be looked at counts as before."""
    owner = owners.read(folder)
    try:
        size = sum(path.stat().st_size for path in folder.iterdir())
    except OSError:
        if not folder.exists():  # else it is perhaps being replaced, by who counts it then
            let_go(c, database, thing)
        return
    if owner:
        hold(c, database, owner, thing, bytes=size)


def things(c: sa.Connection, prefix: str) -> list[str]:
    """What is held whose name begins so."""
    return list(c.execute(sa.select(holdings.c.thing).where(holdings.c.thing.startswith(prefix))).scalars())


def let_go(c: sa.Connection, database: Database, thing: str) -> None:
    """`thing` is no more."""
    there = c.execute(sa.select(holdings).where(holdings.c.thing == thing).with_for_update()).one_or_none()
    if there is not None:
        c.execute(sa.delete(holdings).where(holdings.c.thing == thing))
        charge(c, database, there.owner, images=-there.images, bytes=-there.bytes)


@functools.cache
def _adding(dialect: str) -> sa.Executable:
    """Adds a row to the one there is, steps to those of the same day; built once, for it is in every request."""
    row = (postgresql if dialect == "postgresql" else sqlite).insert(usage)
    new = row.excluded
    added = {
        "images": usage.c.images + new.images,
        "bytes": usage.c.bytes + new.bytes,
        "steps": sa.case((usage.c.day == new.day, usage.c.steps), else_=0) + new.steps,
        "day": new.day,
    }
    adding: sa.Executable = row.on_conflict_do_update(index_elements=["owner"], set_=added)
    return adding


def _today() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())
