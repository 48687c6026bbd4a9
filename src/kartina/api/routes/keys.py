"""API keys: create, list, revoke."""

from __future__ import annotations

from asyncio import to_thread
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Path

from kartina.api.dependencies import Keeper, ServicesDep
from kartina.api.problems import responses
from kartina.api.schemas import TEXT, Key, KeyPage, KeyRequest, NewKey
from kartina.errors import ForbiddenError
from kartina.storage.usage import NONE, Used

router = APIRouter(prefix="/v1/keys", tags=["keys"])


@router.post("", status_code=201, responses=responses("input", "too_large", "storage"))
async def create_key(body: KeyRequest, of: ServicesDep, who: Keeper) -> NewKey:
    """Create an API key. Its secret is in this answer and nowhere else.

    A key makes keys with no scope that it has not got, that end no later than it does, and only if it has no quota of
    steps, images or bytes, for each of them would have one of its own.
    """
    for scope in body.scopes:
        who.needs(scope)
    if replace(who.quota, jobs=None) != NONE:
        raise ForbiddenError(
            "Found a key with a quota, which keys that it makes would not share; expected one without. Use another key."
        )
    key, secret = await to_thread(
        of.keys.create, body.name, body.scopes, body.limits(), body.rate, body.days, who.expires_at
    )
    return NewKey(key=Key.of(key, Used()), secret=secret)


@router.get("", responses=responses())
async def list_keys(of: ServicesDep, who: Keeper) -> KeyPage:
    """Every key, newest first, with what it has used."""
    return KeyPage(items=[Key.of(key, used) for key, used in await to_thread(of.keys.list)])


@router.delete("/{id}", status_code=204, responses=responses("not_found", "input", "storage"))
async def revoke_key(id: Annotated[str, Path(max_length=100, pattern=TEXT)], of: ServicesDep, who: Keeper) -> None:
    """From now on the key opens nothing. What was made with it stays."""
    await to_thread(of.keys.revoke, id)
