"""Blobs: bytes that are addressed by their SHA-256, kept once however many refer to them.

    hash = blobs.add("job:12", content)     # kept while any owner refers to it
    blobs.read(hash)
    blobs.release("job:12")                 # this owner's references; another's are its own
    blobs.collect()                         # now and then: what nobody has referred to for DELAY goes

The bytes lie in a folder, or wherever KARTINA_BLOBS says (an S3-compatible bucket); who refers to them is in the
database, one row for an owner and a hash, so that adding or releasing twice is the same as once. A reference comes
before its bytes and the collector holds the blob's row while it removes them: no order of events leaves a reference
without its blob.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import obstore
import sqlalchemy as sa
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url
from sqlalchemy.dialects import postgresql, sqlite

from kartina.config import home
from kartina.errors import ConfigError, IntegrityError, NotFoundError, StorageError, disk_errors
from kartina.files import make_folder, sync
from kartina.settings import load
from kartina.storage.database import Database
from kartina.storage.tables import blob_refs, blobs

SETTING = "KARTINA_BLOBS"  # the environment variable that names a bucket by its URL
FOLDER = "blobs"  # in KARTINA_HOME, where there is no such setting
DELAY = 24 * 3600.0  # seconds that a blob outlives its last reference
_PART = 8 * 2**20  # bytes that are hashed at a time


def open_store(url: str | None = None) -> ObjectStore:
    """The store that KARTINA_BLOBS names (s3://bucket/prefix; its keys from the AWS_* variables), else a local folder.

    Raises ConfigError for a URL that cannot be used, StorageError for a folder that cannot be made.
    """
    url = url or load().blobs
    if url is None:
        with disk_errors("make the folder of blobs"):
            make_folder(home() / FOLDER)
        return LocalStore(home() / FOLDER)
    try:
        return from_url(url)
    except (BaseError, ValueError) as error:
        raise ConfigError(f"Found {SETTING}={url!r}, which cannot be used ({error}); expected s3://bucket.") from None


@dataclass(frozen=True)
class Blobs:
    """The blobs of one database. Methods may be called from any thread."""

    database: Database
    store: ObjectStore

    def add(self, owner: str, content: bytes | Path) -> str:
        """Keep bytes, or a file's, for `owner` ("job:12"); returns their SHA-256. Raises StorageError."""
        digest, size = _hash(content)
        with self.database.write() as c:
            self.expect(c, owner, digest, size)
        self.put(digest, content, size)
        with self.database.write() as c:
            self.arrived(c, digest)
        return digest

    # The three steps of `add`, for who has a transaction of its own.

    def expect(self, c: sa.Connection, owner: str, digest: str, size: int) -> None:
        """Refer to a blob whose bytes are about to come."""
        self.expect_all(c, [(owner, digest, size)])

    def expect_all(self, c: sa.Connection, given: Sequence[tuple[str, str, int]]) -> None:
        """`expect` for several of (owner, digest, size)."""
        expected, referred = _expecting(self.database.engine.dialect.name)
        there = [{"hash": digest, "size": size, "stored": False, "unused_since": None} for _, digest, size in given]
        c.execute(expected, there)
        c.execute(referred, [{"hash": digest, "owner": owner} for owner, digest, _ in given])

    def refer(self, c: sa.Connection, owner: str, digest: str) -> None:
        """Refer to a blob that is there. Raises NotFoundError."""
        there = sa.and_(blobs.c.hash == digest, blobs.c.stored.is_(sa.true()))
        if not c.execute(sa.update(blobs).where(there).values(unused_since=None)).rowcount:
            raise NotFoundError(f"Found no blob {digest!r}.")
        insert = (postgresql if self.database.engine.dialect.name == "postgresql" else sqlite).insert
        c.execute(insert(blob_refs).values(hash=digest, owner=owner).on_conflict_do_nothing())

    def put(self, digest: str, content: bytes | Path, size: int) -> None:
        """Bring the bytes of an expected blob to the store, unless they are there."""
        put(self.store, digest, content, size)

    def put_all(self, given: Sequence[tuple[str, bytes | Path, int]]) -> None:
        """`put` for several of (digest, content, size)."""
        put_all(self.store, given)

    def arrived(self, c: sa.Connection, *digests: str) -> None:
        """The bytes of expected blobs are in the store."""
        c.execute(_ARRIVED, [{"of": digest} for digest in digests])

    def read(self, digest: str) -> bytes:
        """A blob's bytes. Raises NotFoundError, and IntegrityError when they are no longer what they were."""
        with self.database.read() as c:
            known = c.execute(sa.select(blobs.c.stored).where(blobs.c.hash == digest)).scalar()
        if not known:
            raise NotFoundError(f"Found no blob {digest!r}.")
        with store_errors("read a blob"):
            try:
                content = bytes(obstore.get(self.store, _path(digest)).bytes())
            except FileNotFoundError:
                raise IntegrityError(f"Found the blob {digest[:12]} missing in its store; restore it there.") from None
        if hashlib.sha256(content).hexdigest() != digest:
            raise IntegrityError(f"Found the blob {digest[:12]} changed in its store; restore it there.")
        return content

    def owners(self, digest: str) -> list[str]:
        """Who refers to it, sorted."""
        with self.database.read() as c:
            found = c.execute(sa.select(blob_refs.c.owner).where(blob_refs.c.hash == digest))
            return sorted(found.scalars())

    def release(self, owner: str, digest: str | None = None) -> None:
        """Drop `owner`'s reference to one blob, or all of its references. Nobody else's is touched."""
        mine = sa.and_(blob_refs.c.owner == owner, sa.true() if digest is None else blob_refs.c.hash == digest)
        with self.database.write() as c:
            self._let_go(c, mine)

    def let_go(self, c: sa.Connection, owners: Sequence[str]) -> None:
        """`release` for several owners, in a transaction of the caller's."""
        self._let_go(c, blob_refs.c.owner.in_(owners))

    def _let_go(self, c: sa.Connection, mine: sa.ColumnElement[bool]) -> None:
        released = list(c.execute(sa.select(blob_refs.c.hash).where(mine)).scalars())
        if not released:
            return
        # The blobs' rows first, in one order: of two owners that let go at once, the second sees the first's.
        locked = sa.select(blobs.c.hash).where(blobs.c.hash.in_(released)).order_by(blobs.c.hash)
        c.execute(locked.with_for_update()).all()
        c.execute(sa.delete(blob_refs).where(mine))
        # Refs are looked for by hash: `hash NOT IN (every ref)` would read all of them.
        referred = sa.exists().where(blob_refs.c.hash == blobs.c.hash)
        unused = sa.and_(blobs.c.hash.in_(released), ~referred)
        c.execute(sa.update(blobs).where(unused).values(unused_since=self.database.clock(c)))

    def collect(self, delay: float = DELAY) -> int:
        """Remove blobs that nobody has referred to for `delay` seconds; says how many went."""
        gone = 0
        while self._collect_one(delay):
            gone += 1
        return gone

    def _collect_one(self, delay: float) -> bool:
        with self.database.write() as c:
            old = blobs.c.unused_since <= self.database.clock(c) - delay
            one = sa.select(blobs.c.hash).where(old).limit(1).with_for_update(skip_locked=True)
            digest = c.execute(one).scalar()
            if digest is None:
                return False
            # While its row is ours: who adds it now waits, and then stores it anew. Not there: a collector was killed.
            with suppress(FileNotFoundError), store_errors("remove a blob"):
                obstore.delete(self.store, _path(digest))
            c.execute(sa.delete(blobs).where(blobs.c.hash == digest))
        return True


def put(store: ObjectStore, digest: str, content: bytes | Path, size: int) -> None:
    """Bring bytes, or a file's, to a store under their hash, unless they are there."""
    put_all(store, [(digest, content, size)])


def put_all(store: ObjectStore, given: Sequence[tuple[str, bytes | Path, int]]) -> None:
    """`put` for several of (digest, content, size). All are written before the first is synced: the file system's
    journal then takes them together, in the time of one."""
    root = _root(store)
    new = [(digest, content) for digest, content, size in given if _size(store, root, digest) != size]
    for digest, content in new:
        with store_errors("store a blob"):
            obstore.put(store, _path(digest), content)
    if root is not None:
        with disk_errors("store a blob"):
            for digest, _ in new:
                sync(f"{root}/{_path(digest)}")


def fetch(store: ObjectStore, digest: str, target: Path) -> tuple[int, str]:
    """Copy a blob into a file: (bytes, their SHA-256). Raises IntegrityError for one that is missing."""
    found, size = hashlib.sha256(), 0
    with store_errors("read a blob"), target.open("xb") as file:
        try:
            for part in obstore.get(store, _path(digest)).stream(min_chunk_size=_PART):
                found.update(part)
                size += file.write(part)
        except FileNotFoundError:
            raise IntegrityError(f"Found the blob {digest[:12]} missing in its store; restore it there.") from None
    return size, found.hexdigest()


def _root(store: ObjectStore) -> str | None:
    """The folder of a local store. Its files' paths are made as text: a Path interns each of its parts, and the table
    of interned strings grows with the hashes that pass through it."""
    return str(store.prefix) if isinstance(store, LocalStore) and store.prefix is not None else None


def _size(store: ObjectStore, root: str | None, digest: str) -> int | None:
    """Bytes that the store (a local one: in `root`) has under this hash; None for none."""
    with store_errors("look for a blob"):
        try:
            if root is not None:
                return os.stat(f"{root}/{_path(digest)}").st_size
            return obstore.head(store, _path(digest))["size"]
        except FileNotFoundError:
            return None


_ARRIVED = sa.update(blobs).where(blobs.c.hash == sa.bindparam("of")).values(stored=True)


@functools.cache
def _expecting(dialect: str) -> tuple[sa.Executable, sa.Executable]:
    """Adds a blob, and a reference to it; built once, for they are in every request."""
    insert = (postgresql if dialect == "postgresql" else sqlite).insert
    expected = insert(blobs).on_conflict_do_update(index_elements=["hash"], set_={"unused_since": None})
    return expected, insert(blob_refs).on_conflict_do_nothing()


def _path(digest: str) -> str:
    return f"{digest[:2]}/{digest}"


def _hash(content: bytes | Path) -> tuple[str, int]:
    """(SHA-256, size)."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest(), len(content)
    found, size = hashlib.sha256(), 0
    with disk_errors("read a file"), content.open("rb") as file:
        while part := file.read(_PART):
            found.update(part)
            size += len(part)
    return found.hexdigest(), size


@contextmanager
def store_errors(what: str) -> Iterator[None]:
    """Turn a store that is away, full or read-only into a StorageError; let a missing object pass."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (BaseError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise StorageError(f"Could not {what}: {reason}. Check {SETTING} or KARTINA_HOME/{FOLDER}.") from error
