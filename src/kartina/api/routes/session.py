"""Signing in with the start-up token, and health."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter, Response

from kartina.api.dependencies import ServicesDep
from kartina.api.problems import HttpProblem, responses
from kartina.api.schemas import Health, Session, SessionRequest
from kartina.api.security import COOKIE_AGE

router = APIRouter(tags=["session"])


@router.get("/healthz", openapi_extra={"security": []})
async def health() -> Health:
    """The process answers. Open to all."""
    return Health()


@router.get("/v1/session", responses=responses())
async def get_session() -> Session:
    """Whether this caller is signed in, and to what."""
    return Session(mode="local", version=version("kartina"))


@router.post("/v1/session", status_code=204, responses=responses("input", "too_large"), openapi_extra={"security": []})
async def open_session(body: SessionRequest, of: ServicesDep, response: Response) -> None:
    """Exchange the start-up token for a session cookie."""
    value = of.access.sign_in(body.token)
    if value is None:
        raise HttpProblem("unauthenticated", "Found a wrong token; open the URL that `kartina serve` printed last.")
    response.set_cookie(of.access.cookie, value, max_age=COOKIE_AGE, httponly=True, samesite="strict", path="/")
