"""API keys as they lie in the database: found by their prefix, known by a digest, never kept themselves."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from kartina.errors import NotFoundError
from kartina.storage.database import Database
from kartina.storage.tables import api_keys
from kartina.storage.usage import Quota, Used, used

USED_EVERY = 60.0  # seconds between two notes of when a key was last used


@dataclass(frozen=True)
class Key:
    """What is kept of an API key. Its id is the owner of all that is made with it."""

    id: str
    prefix: str
    digest: str
    name: str
    scopes: tuple[str, ...]
    quota: Quota
    rate: str  # as `limits` writes it; "" for none
    created_at: datetime
    expires_at: datetime | None = None
    used_at: datetime | None = None
    revoked_at: datetime | None = None

    def works(self, now: datetime) -> bool:
        """Whether it opens anything at this time."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True)
class Keys:
    """The API keys of one database. Methods block."""

    database: Database

    def add(self, key: Key) -> None:
        """Keep a new key."""
        quota = key.quota
        limits = {"rate": key.rate, **asdict(quota)}
        with self.database.write() as c:
            c.execute(
                sa.insert(api_keys).values(
                    id=key.id, prefix=key.prefix, digest=key.digest, name=key.name, scopes=list(key.scopes),
                    limits=limits, created_at=key.created_at.timestamp(),
                    expires_at=None if key.expires_at is None else key.expires_at.timestamp(),
                )
            )  # fmt: skip

    def by_prefix(self, prefix: str) -> Key | None:
        return self._one(api_keys.c.prefix == prefix)

    def by_id(self, id: str) -> Key | None:
        return self._one(api_keys.c.id == id)

    def _one(self, which: sa.ColumnElement[bool]) -> Key | None:
        with self.database.read() as c:
            row = c.execute(sa.select(api_keys).where(which)).one_or_none()
        return None if row is None else _key(row)

    def list(self) -> list[tuple[Key, Used]]:
        """Every key, newest first, with what its owner has used."""
        with self.database.read() as c:
            found = [_key(row) for row in c.execute(sa.select(api_keys).order_by(api_keys.c.id.desc()))]
            return [(key, used(c, key.id)) for key in found]

    def revoke(self, id: str) -> Key:
        """From now on it opens nothing; what was made with it stays. Raises NotFoundError."""
        with self.database.write() as c:
            at = sa.func.coalesce(api_keys.c.revoked_at, self.database.clock(c))
            if not c.execute(sa.update(api_keys).where(api_keys.c.id == id).values(revoked_at=at)).rowcount:
                raise NotFoundError(f"Found no API key {id!r}; see `kartina keys list`.")
        found = self.by_id(id)
        assert found is not None
        return found

    def note_use(self, key: Key, now: datetime) -> None:
        """Note, about once a minute, that the key was used."""
        if key.used_at is None or (now - key.used_at).total_seconds() > USED_EVERY:
            with self.database.write() as c:
                c.execute(sa.update(api_keys).where(api_keys.c.id == key.id).values(used_at=now.timestamp()))


def _key(row: Any) -> Key:
    limits = row.limits
    return Key(
        id=row.id, prefix=row.prefix, digest=row.digest, name=row.name, scopes=tuple(row.scopes),
        quota=Quota(**{name: limits.get(name) for name in ("steps", "images", "bytes", "jobs")}),
        rate=limits.get("rate") or "",
        created_at=_time(row.created_at) or datetime.fromtimestamp(0, UTC), expires_at=_time(row.expires_at),
        used_at=_time(row.used_at), revoked_at=_time(row.revoked_at),
    )  # fmt: skip


def _time(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)
