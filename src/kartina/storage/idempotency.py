"""Idempotency keys: a request that is sent twice is accepted once.

    answer = begin(c, owner, key, fingerprint)     # None: go ahead, then `settle` or `forget`

For 24 hours the same key with the same request gives the first one's answer; while that is being accepted, a conflict;
with another request, an error.
"""

from __future__ import annotations

import sqlalchemy as sa

from kartina.errors import InFlightError, KeyReusedError
from kartina.storage.database import Database
from kartina.storage.tables import idempotency

KEPT = 24 * 3600.0  # seconds
ACCEPTING = 60.0  # seconds after which a request that is still being accepted counts as lost with its process


def begin(c: sa.Connection, database: Database, owner: str, key: str, request: str) -> str | None:
    """Take the key for `request` (a hash), or find whose it is. Raises InFlightError, KeyReusedError."""
    now = database.clock(c)
    late = sa.or_(
        idempotency.c.created_at <= now - KEPT,
        sa.and_(idempotency.c.answer.is_(None), idempotency.c.created_at <= now - ACCEPTING),
    )
    mine = _mine(owner, key)
    c.execute(sa.delete(idempotency).where(mine, late))
    found = c.execute(sa.select(idempotency.c.request, idempotency.c.answer).where(mine)).one_or_none()
    if found is None:
        c.execute(sa.insert(idempotency).values(owner=owner, key=key, request=request, answer=None, created_at=now))
        return None
    if found.request != request:
        raise KeyReusedError(
            f"Found the Idempotency-Key {key!r} of an earlier request that asked for something else; expected a new "
            "key for a new request."
        )
    if found.answer is None:
        raise InFlightError(
            f"Found the first request with the Idempotency-Key {key!r} still being accepted; send it again in a second."
        )
    answer: str = found.answer
    return answer


def settle(c: sa.Connection, owner: str, key: str, answer: str) -> None:
    """The request was accepted: this is what it made."""
    c.execute(sa.update(idempotency).where(_mine(owner, key)).values(answer=answer))


def forget(c: sa.Connection, owner: str, key: str) -> None:
    """The request was refused: the key may be used again."""
    c.execute(sa.delete(idempotency).where(_mine(owner, key), idempotency.c.answer.is_(None)))


def sweep(c: sa.Connection, database: Database) -> None:
    """Remove keys that nobody can use any more."""
    c.execute(sa.delete(idempotency).where(idempotency.c.created_at <= database.clock(c) - KEPT))


def _mine(owner: str, key: str) -> sa.ColumnElement[bool]:
    return sa.and_(idempotency.c.owner == owner, idempotency.c.key == key)
