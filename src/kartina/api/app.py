"""The app: services, routes, guard and page put together. It owns no engine and loads no torch."""

from __future__ import annotations

import json
from asyncio import to_thread
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fastapi import FastAPI, Response
from fastapi.openapi.utils import get_openapi

from kartina.api import problems
from kartina.api.dependencies import Services
from kartina.api.page import STATIC, Page
from kartina.api.routes import (
    assets,
    bulk,
    datasets,
    gallery,
    generations,
    jobs,
    keys,
    models,
    openai,
    operations,
    runs,
    session,
    studies,
    uploads,
)
from kartina.api.schemas import Problem
from kartina.api.security import Guard, LocalAccess
from kartina.services.health import Kept
from kartina.services.metrics import Metrics
from kartina.serving.protocol import Engine

ABOUT = """
Conditional image generators as a service: pick a model, ask for images of its classes, follow the job, fetch PNGs
that carry their recipes.

Sign in with the start-up token or an API key: as a cookie (`POST /v1/session`) or as `Authorization: Bearer ...`. What
a key makes is its own: nobody else sees it. Errors are
`application/problem+json` (RFC 9457) with a stable `code`.
"""


def create_app(
    engine: Engine,
    access: LocalAccess,
    *,
    static: Path = STATIC,
    workers: Mapping[str, Kept] = MappingProxyType({}),
    ready: int = 0,
) -> FastAPI:
    """The HTTP API and the page on an engine.

    `static` is the built UI, `workers` the processes whose restarts are counted. When it starts, the app opens the
    database, takes up unfinished generations, and has up to `ready` models made ready.
    """
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        opened = await to_thread(Services.open, engine, access, metrics, workers, ready)
        app.state.services = opened
        await opened.start()
        try:
            yield
        finally:
            await opened.stop()

    app = FastAPI(
        title="Kartina",
        version=version("kartina"),
        description=ABOUT,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
    )
    work = (jobs, runs, studies, uploads, datasets, bulk)
    for routes in (generations, operations, session, keys, models, assets, openai, gallery, *work):  # asked most, first
        app.include_router(routes.router)

    @app.get("/openapi.json", include_in_schema=False)
    async def document() -> Response:
        """This API's description. The first one takes a second to make: in a thread, while others are answered."""
        return Response(await to_thread(described, app), media_type="application/json")

    problems.install(app)
    app.add_middleware(Guard, access=access, metrics=metrics)
    app.router.default = Page(static)
    app.openapi = lambda: openapi(app)  # type: ignore[method-assign]
    return app


def described(app: FastAPI) -> bytes:
    """The app's OpenAPI document as JSON."""
    return json.dumps(app.openapi(), ensure_ascii=False, separators=(",", ":")).encode()


def openapi(app: FastAPI) -> dict[str, Any]:
    """The app's OpenAPI document, with the problems and the two ways to sign in."""
    if app.openapi_schema is None:
        found = get_openapi(title=app.title, version=app.version, description=ABOUT.strip(), routes=app.routes)
        parts = found.setdefault("components", {})
        parts["schemas"]["Problem"] = Problem.model_json_schema(mode="serialization")
        parts["securitySchemes"] = {
            "cookie": {"type": "apiKey", "in": "cookie", "name": "kartina_session_PORT"},
            "bearer": {"type": "http", "scheme": "bearer"},
        }
        found["security"] = [{"cookie": []}, {"bearer": []}]
        app.openapi_schema = found
    return app.openapi_schema
