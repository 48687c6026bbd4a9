"""What routes are given: the services of the app that they belong to, and who asks."""

from __future__ import annotations

import asyncio
from asyncio import to_thread
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
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
from kartina.services.evaluations import Evaluations
from kartina.services.gallery import Gallery
from kartina.services.generations import Generations
from kartina.services.health import Health, Kept
from kartina.services.jobs import Work
from kartina.services.keys import Access, Rates, pepper
from kartina.services.metrics import Metrics
from kartina.services.models import Models
from kartina.services.packages import Packages
from kartina.services.publications import Publications
from kartina.services.ready import Ready
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
    ready: Ready
    uploads: Uploads
    work: Work
    archives: Archives
    datasets: Datasets
    bulk: Bulk
    desk: Desk
    runs: Runs
    evaluations: Evaluations
    publications: Publications
    studies: Studies
    keys: Access
    rates: Rates
    access: LocalAccess
    health: Health
    metrics: Metrics

    @classmethod
    def open(
        cls,
        engine: Engine,
        access: LocalAccess,
        metrics: Metrics,
        workers: Mapping[str, Kept] = MappingProxyType({}),
        ready: int = 0,
    ) -> Services:
        """The services of KARTINA_HOME (or of the database and bucket that the environment names). Blocks.

        `ready`: models that are made ready at the start.
        """
        database = open_database()
        blobs = Blobs(database, open_store())
        records, assets = Records(database, blobs), Assets(database, blobs)
        commits, models, sandbox = Commits(database), Models(), Sandbox()
        jobs, archives = Jobs(database), StoredUploads(database)
        decoder = Decoder(sandbox)
        work, desk = Work(jobs), Desk()
        runs = Runs(desk, work, models)
        return cls(
            database=database,
            sandbox=sandbox,
            models=models,
            packages=Packages(models, sandbox),
            importing=asyncio.Lock(),
            generations=Generations(records, assets, commits, models, engine, metrics),
            gallery=Gallery(records, assets, commits, models, decoder),
            ready=Ready(models, records, engine, ready),
            uploads=Uploads(assets, commits, decoder),
            work=work,
            archives=Archives(archives, commits),
            datasets=Datasets(archives, jobs),
            bulk=Bulk(models, work, engine),
            desk=desk,
            runs=runs,
            evaluations=Evaluations(runs),
            publications=Publications(runs),
            studies=Studies(desk, work),
            keys=Access(Keys(database), pepper()),
            rates=Rates(),
            access=access,
            health=Health(Jobs(database), engine, workers),
            metrics=metrics,
        )

    def drain(self) -> None:
        """The service is about to stop: it is not ready, and streams of events end."""
        self.health.draining = True
        self.generations.say_goodbye()
        self.work.say_goodbye()

    async def start(self) -> None:
        await self.generations.start()
        self.gallery.sweeping.start()
        self.archives.sweeping.start()
        await to_thread(self.datasets.recount)
        await self.ready.start()

    async def stop(self) -> None:
        await self.ready.stop()
        await self.generations.stop()
        await self.work.stop()
        await self.gallery.sweeping.stop()
        await self.archives.sweeping.stop()
        await self.generations.commits.close()
        self.sandbox.close()
        self.desk.close()
        self.database.close()


async def services(request: Request) -> Services:  # async: plain functions would go through a thread
    found: Services = request.app.state.services
    return found


async def caller(request: Request) -> Caller:
    """Who asks; the guard has found out."""
    found: Caller = request.state.caller
    return found


def _needing(*scopes: Scope) -> Callable[[Request], Awaitable[Caller]]:
    async def needed(request: Request) -> Caller:
        found = await caller(request)
        for scope in scopes:
            found.needs(scope)
        return found

    return needed


ServicesDep = Annotated[Services, Depends(services)]
Anyone = Annotated[Caller, Depends(caller)]
Maker = Annotated[Caller, Depends(_needing("generate"))]
Curator = Annotated[Caller, Depends(_needing("models"))]
Keeper = Annotated[Caller, Depends(_needing("keys"))]
Operator = Annotated[Caller, Depends(_needing("metrics"))]
DataKeeper = Annotated[Caller, Depends(_needing("data"))]
Trainer = Annotated[Caller, Depends(_needing("train"))]
Publisher = Annotated[Caller, Depends(_needing("train", "models"))]  # what is published is everybody's
