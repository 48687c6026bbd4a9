"""API keys: create, list, revoke."""

from __future__ import annotations

from asyncio import to_thread
from typing import Annotated

from fastapi import APIRouter, Path

from kartina.api.dependencies import Keeper, ServicesDep
from kartina.api.problems import responses
from kartina.api.schemas import TEXT, Key, KeyPage, KeyRequest, NewKey
from kartina.storage.usage import Used

router = APIRouter(prefix="/v1/keys", tags=["keys"])


@router.post("", status_code=201, responses=responses("input", "too_large", "storage"))
async def create_key(body: KeyRequest, of: ServicesDep, who: Keeper) -> NewKey:
    """Create an API key. Its secret is in this answer and nowhere else."""
    for scope in body.scopes:
        who.needs(scope)  # nobody gives what they have not got
    key, secret = await to_thread(of.keys.create, body.name, body.scopes, body.limits(), body.rate, body.days)
    return NewKey(key=Key.of(key, Used()), secret=secret)


@router.get("", responses=responses())
async def list_keys(of: ServicesDep, who: Keeper) -> KeyPage:
    """Every key, newest first, with what it has used."""
    return KeyPage(items=[Key.of(key, used) for key, used in await to_thread(of.keys.list)])


@router.delete("/{id}", status_code=204, responses=responses("not_found", "input", "storage"))
async def revoke_key(id: Annotated[str, Path(max_length=100, pattern=TEXT)], of: ServicesDep, who: Keeper) -> None:
    """From now on the key opens nothing. What was made with it stays."""
    await to_thread(of.keys.revoke, id)
