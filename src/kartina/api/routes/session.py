"""Signing in with the start-up token, or a key."""

from __future__ import annotations

from asyncio import to_thread
from importlib.metadata import version

from fastapi import APIRouter, Request, Response

from kartina.api.dependencies import Anyone, ServicesDep
from kartina.api.problems import HttpProblem, responses
from kartina.api.schemas import Session, SessionRequest
from kartina.api.security import COOKIE_AGE
from kartina.services.keys import GUESSES

router = APIRouter(tags=["session"])


@router.get("/v1/session", responses=responses())
async def get_session(who: Anyone) -> Session:
    """Whether this caller is signed in, to what, and what it may do."""
    return Session.of(who, version("kartina"))


@router.post("/v1/session", status_code=204, responses=responses("input", "too_large"), openapi_extra={"security": []})
async def open_session(body: SessionRequest, of: ServicesDep, request: Request, response: Response) -> None:
    """Exchange the start-up token, or an API key, for a session cookie."""
    value = of.access.sign_in(body.token)
    if value is None:
        found = await to_thread(of.keys.caller, body.token)
        value = None if found is None else of.access.cookie_for(found.owner)
    if value is None:
        of.rates.check(GUESSES, f"guess:{request.client.host if request.client else ''}")
        raise HttpProblem("unauthenticated", "Found a wrong token; open the URL that `kartina serve` printed last.")
    # A proxy says so where it speaks TLS; local mode knows no proxy.
    secure = request.headers.get("x-forwarded-proto", "").lower() == "https"
    response.set_cookie(
        of.access.cookie, value, max_age=COOKIE_AGE, httponly=True, samesite="strict", secure=secure, path="/"
    )
