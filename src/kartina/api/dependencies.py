"""What routes are given: the services of the app that they belong to, and who asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from kartina.api.security import LocalAccess
from kartina.data.sandbox import Sandbox
from kartina.jobs.table import Jobs
from kartina.services.access import Caller, Scope
from kartina.services.archives import Archives
from kartina.services.assets import Decoder, Uploads
from kartina.services.bulk import Bulk
from kartina.services.datasets import Datasets
from kartina.services.desk import Desk
from kartina.services.gallery import Gallery
from kartina.services.generations import Generations
from kartina.services.jobs import Work
from kartina.services.keys import Access, Rates, pepper
from kartina.services.models import Models
from kartina.services.packages import Packages
from kartina.services.runs import Runs
from kartina.services.studies import Studies
from kartina.serving.protocol import Engine
from kartina.storage.assets import Assets
from kartina.storage.blobs import Blobs, open_store
from kartina.storage.commits import Commits
from kartina.storage.database import Database, open_database
from kartina.storage.keys import Keys
from kartina.storage.records import Records
from kartina.storage.uploads import Uploads as StoredUploads


@dataclass(frozen=True)
class Services:
    database: Database
    sandbox: Sandbox
    models: Models
    packages: Packages
    importing: asyncio.Lock  # an import takes a thread, a process and memory: one at a time
    generations: Generations
    gallery: Gallery
    uploads: Uploads
    work: Work
    archives: Archives
    datasets: Datasets
    bulk: Bulk
    desk: Desk
    runs: Runs
    studies: Studies
    keys: Access
    rates: Rates
    access: LocalAccess

    @classmethod
    def open(cls, engine: Engine, access: LocalAccess) -> Services:
        """The services of KARTINA_HOME (or of the database and bucket that the environment names). Blocks."""
        database = open_database()
        blobs = Blobs(database, open_store())
        records, assets = Records(database, blobs), Assets(database, blobs)
        commits, models, sandbox = Commits(database), Models(), Sandbox()
        jobs, archives = Jobs(database), StoredUploads(database)
        decoder = Decoder(sandbox)
        work, desk = Work(jobs), Desk()
        return cls(
            database=database,
            sandbox=sandbox,
            models=models,
            packages=Packages(models, sandbox),
            importing=asyncio.Lock(),
            generations=Generations(records, assets, commits, models, engine),
            gallery=Gallery(records, commits, models, decoder),
            uploads=Uploads(assets, commits, decoder),
            work=work,
            archives=Archives(archives, commits),
            datasets=Datasets(archives, jobs),
            bulk=Bulk(models, jobs, engine),
            desk=desk,
            runs=Runs(desk, work, models),
            studies=Studies(desk, work),
            keys=Access(Keys(database), pepper()),
            rates=Rates(),
            access=access,
        )

    async def start(self) -> None:
        await self.generations.start()
        await self.gallery.start()
        await self.archives.start()
        await asyncio.to_thread(self.datasets.recount)

    async def stop(self) -> None:
        await self.generations.stop()
        await self.work.stop()
        await self.gallery.stop()
        await self.archives.stop()
        await self.generations.commits.close()
        self.sandbox.close()
        self.desk.close()
        self.database.close()


def services(request: Request) -> Services:
    found: Services = request.app.state.services
    return found


def caller(request: Request) -> Caller:
    """Who asks; the guard has found out."""
    found: Caller = request.state.caller
    return found


def _needing(*scopes: Scope) -> Callable[[Request], Caller]:
    def needed(request: Request) -> Caller:
        found = caller(request)
        for scope in scopes:
            found.needs(scope)
        return found

    return needed


ServicesDep = Annotated[Services, Depends(services)]
Anyone = Annotated[Caller, Depends(caller)]
Maker = Annotated[Caller, Depends(_needing("generate"))]
Curator = Annotated[Caller, Depends(_needing("models"))]
Keeper = Annotated[Caller, Depends(_needing("keys"))]
DataKeeper = Annotated[Caller, Depends(_needing("data"))]
Trainer = Annotated[Caller, Depends(_needing("train"))]
Publisher = Annotated[Caller, Depends(_needing("train", "models"))]  # what is published is everybody's
