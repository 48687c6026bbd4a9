"""Assets: images that a caller uploaded, kept as clean PNGs. One row an upload; the same bytes twice are one asset."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from kartina.errors import NotFoundError
from kartina.storage.blobs import Blobs
from kartina.storage.database import Database
from kartina.storage.ids import first_id, new_id
from kartina.storage.tables import assets, blob_refs
from kartina.storage.usage import Quota, charge

PREFIX = "ast"
LATE = 3600.0  # seconds after which the bytes of an asset do not come any more


def new_asset_id() -> str:
    return new_id(PREFIX)


@dataclass(frozen=True)
class Asset:
    """An uploaded image."""

    id: str
    owner: str
    hash: str  # SHA-256 of the bytes as they came
    blob: str  # of the clean PNG that was made of them
    size: int  # bytes of that PNG
    width: int
    height: int
    channels: int  # 1 grey, 3 colour
    note: str
    created_at: datetime


@dataclass(frozen=True)
class Assets:
    """The assets of one database. Methods block; those that take a connection are parts of a transaction."""

    database: Database
    blobs: Blobs

    def known(self, c: sa.Connection, owner: str, hash: str) -> Asset | None:
        """The owner's asset with these bytes."""
        row = c.execute(sa.select(assets).where(assets.c.owner == owner, assets.c.hash == hash)).one_or_none()
        return None if row is None else _asset(row)

    def expect(self, c: sa.Connection, asset: Asset) -> None:
        """The bytes of an asset are about to be put among the blobs."""
        self.blobs.expect(c, _owner(asset.id), asset.blob, asset.size)

    def add(self, c: sa.Connection, asset: Asset, quota: Quota) -> Asset:
        """An asset whose bytes are there; where the owner has one of these bytes by now, that one."""
        known = self.known(c, asset.owner, asset.hash)
        if known is not None:
            self.blobs.let_go(c, [_owner(asset.id)])
            return known
        self.blobs.arrived(c, asset.blob)
        c.execute(sa.insert(assets).values(**{**vars(asset), "created_at": asset.created_at.timestamp()}))
        charge(c, self.database, asset.owner, quota, bytes=asset.size)
        return asset

    def get(self, owner: str, id: str) -> Asset:
        """Raises NotFoundError, for somebody else's as for none."""
        with self.database.read() as c:
            row = c.execute(sa.select(assets).where(assets.c.id == id, assets.c.owner == owner)).one_or_none()
        if row is None:
            raise NotFoundError(f"Found no asset {id!r}; upload the image with POST /v1/assets.")
        return _asset(row)

    def page(self, owner: str, limit: int, cursor: str | None = None) -> tuple[list[Asset], str | None]:
        """A page of the owner's assets, newest first, and the cursor of the next one."""
        mine = sa.select(assets).where(assets.c.owner == owner)
        if cursor is not None:
            mine = mine.where(assets.c.id < cursor)
        with self.database.read() as c:
            rows = c.execute(mine.order_by(assets.c.id.desc()).limit(limit + 1)).all()
        return [_asset(row) for row in rows[:limit]], rows[limit - 1].id if len(rows) > limit else None

    def delete(self, c: sa.Connection, owner: str, id: str) -> None:
        """Forget an asset; generations that were asked for with it keep their own reference. Raises NotFoundError."""
        mine = sa.and_(assets.c.id == id, assets.c.owner == owner)
        size = c.execute(sa.select(assets.c.size).where(mine)).scalar()
        if size is None:
            raise NotFoundError(f"Found no asset {id!r}.")
        c.execute(sa.delete(assets).where(mine))
        self.blobs.let_go(c, [_owner(id)])
        charge(c, self.database, owner, bytes=-size)

    def sweep(self) -> None:
        """Let go of the blobs of assets that were expected and never came: a service was killed meanwhile."""
        of = sa.func.substr(blob_refs.c.owner, len(_owner("")) + 1)
        lost = sa.select(blob_refs.c.owner).where(
            blob_refs.c.owner.startswith(_owner("")), ~sa.exists().where(assets.c.id == of)
        )
        with self.database.read() as c:  # through all references: nobody waits for that
            late = _owner(first_id(PREFIX, self.database.clock(c) - LATE))
            found = [owner for owner in c.execute(lost).scalars() if owner < late]
        if found:
            with self.database.write() as c:
                self.blobs.let_go(c, found)


def _owner(id: str) -> str:
    return f"asset:{id}"


def _asset(row: Any) -> Asset:
    found = dict(row._mapping)
    return Asset(**{**found, "created_at": datetime.fromtimestamp(found["created_at"], UTC)})
