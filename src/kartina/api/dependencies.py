"""What routes are given: the services of the app that they belong to, and who asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from kartina.api.security import LocalAccess
from kartina.data.sandbox import Sandbox
from kartina.services.access import Caller, Scope
from kartina.services.assets import Decoder, Uploads
from kartina.services.gallery import Gallery
from kartina.services.generations import Generations
from kartina.services.keys import Access, Rates, pepper
from kartina.services.models import Models
from kartina.services.packages import Packages
from kartina.services.ready import MOST, Ready
from kartina.serving.protocol import Engine
from kartina.storage.assets import Assets
from kartina.storage.blobs import Blobs, open_store
from kartina.storage.commits import Commits
from kartina.storage.database import Database, open_database
from kartina.storage.keys import Keys
from kartina.storage.records import Records


@dataclass(frozen=True)
class Services:
    database: Database
    sandbox: Sandbox
    models: Models
    packages: Packages
    importing: asyncio.Lock  # an import takes a thread, a process and memory: one at a time
    generations: Generations
    gallery: Gallery
    ready: Ready
    uploads: Uploads
    keys: Access
    rates: Rates
    access: LocalAccess

    @classmethod
    def open(cls, engine: Engine, access: LocalAccess, ready: int = MOST) -> Services:
        """The services of KARTINA_HOME (or of the database and bucket that the environment names). Blocks.

        `ready`: models that are made ready at the start.
        """
        database = open_database()
        blobs = Blobs(database, open_store())
        records, assets = Records(database, blobs), Assets(database, blobs)
        commits, models, sandbox = Commits(database), Models(), Sandbox()
        decoder = Decoder(sandbox)
        return cls(
            database=database,
            sandbox=sandbox,
            models=models,
            packages=Packages(models, sandbox),
            importing=asyncio.Lock(),
            generations=Generations(records, assets, commits, models, engine),
            gallery=Gallery(records, commits, models, decoder),
            ready=Ready(models, records, engine, ready),
            uploads=Uploads(assets, commits, decoder),
            keys=Access(Keys(database), pepper()),
            rates=Rates(),
            access=access,
        )

    async def start(self) -> None:
        await self.generations.start()
        await self.gallery.start()
        await self.ready.start()

    async def stop(self) -> None:
        await self.ready.stop()
        await self.generations.stop()
        await self.gallery.stop()
        await self.generations.commits.close()
        self.sandbox.close()
        self.database.close()


def services(request: Request) -> Services:
    found: Services = request.app.state.services
    return found


def caller(request: Request) -> Caller:
    """Who asks; the guard has found out."""
    found: Caller = request.state.caller
    return found


def _needing(scope: Scope) -> Callable[[Request], Caller]:
    def needed(request: Request) -> Caller:
        found = caller(request)
        found.needs(scope)
        return found

    return needed


ServicesDep = Annotated[Services, Depends(services)]
Anyone = Annotated[Caller, Depends(caller)]
Maker = Annotated[Caller, Depends(_needing("generate"))]
Curator = Annotated[Caller, Depends(_needing("models"))]
Keeper = Annotated[Caller, Depends(_needing("keys"))]
