"""What a service keeps of a request when it is over: rows and files, and nothing in memory."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections import Counter
from collections.abc import Sized
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from kartina.api.app import create_app
from kartina.api.security import LocalAccess
from kartina.serving.client import LocalEngine
from kartina.storage.blobs import DELAY, Blobs, open_store
from kartina.storage.database import open_database
from kartina.storage.tables import blobs as table
from tests.engine import Background, toy_package, worker  # noqa: F401  a fixture
from tests.waiting import wait

ROUNDS, CALLERS = 15, 8
FEW = 0.1  # of the requests: what is counted goes up and down by some


class Ask:
    """A caller's requests of every kind."""

    def __init__(self, client: httpx.AsyncClient):
        self.client, self.seed = client, 0

    async def post(self, body: dict[str, object], **headers: str) -> httpx.Response:
        self.seed += 10
        answer = await self.client.post(
            "/v1/generations", json={"model": "toy", "seed": self.seed, **body}, headers=headers
        )
        assert answer.status_code in (200, 202), answer.text
        return answer

    async def round(self) -> None:
        """A single image, a stored one under a key, one that is canceled, its events, a page, a file, a deletion."""
        await self.post({}, Accept="image/png")
        made = (await self.post({"n": 2}, Prefer="wait=30", **{"Idempotency-Key": f"k{self.seed}"})).json()
        left = (await self.post({"n": 4, "controls": {"steps": 50, "delay": 0.05}})).json()
        assert (await self.client.post(left["urls"]["cancel"])).status_code == 200
        assert b"canceled" in (await self.client.get(left["urls"]["events"])).content
        assert (await self.client.get("/v1/images?limit=5")).json()["items"]
        assert (await self.client.get(made["outputs"][0]["url"])).status_code == 200
        assert (await self.client.get(f"/v1/images/none-{self.seed}")).status_code == 404
        assert (await self.client.delete(made["urls"]["self"])).status_code == 204

    async def rounds(self, n: int) -> None:
        for _ in range(n):
            await asyncio.gather(*(self.round() for _ in range(CALLERS)))


def kept() -> Counter[str]:
    """Objects of ours that live, by type, and how much is in what they hold, by attribute."""
    gc.collect()
    found: Counter[str] = Counter()
    for one in gc.get_objects():
        kind = type(one)
        if str(kind.__module__).startswith("kartina.") and not isinstance(one, type):
            found[kind.__qualname__] += 1
            for name, value in list(getattr(one, "__dict__", {}).items()):
                if isinstance(value, Sized) and not isinstance(value, str | bytes | tuple):
                    found[f"{kind.__qualname__}.{name}"] += len(value)
    found["tasks"] = len(asyncio.all_tasks())
    found["threads"] = threading.active_count()
    return found


def test_what_nobody_refers_to_goes_a_day_later(home: Path) -> None:
    """A service looks for it when it starts, and then every hour; it removes nothing sooner, and nothing of others."""
    database = open_database()
    blobs = Blobs(database, open_store())
    held, fresh, due = (blobs.add(name, name.encode()) for name in ("held", "fresh", "due"))
    blobs.add("another", b"held")
    for owner in ("held", "fresh", "due"):
        blobs.release(owner)
    with database.write() as c:
        c.execute(sa.update(table).where(table.c.hash == due).values(unused_since=table.c.unused_since - DELAY))

    def there() -> set[str]:
        return {path.name for path in (home / "blobs").glob("*/*")}

    async def run() -> None:
        engine = LocalEngine(home / "nobody.sock")
        app = create_app(engine, LocalAccess(port=80))
        async with app.router.lifespan_context(app):
            await asyncio.to_thread(wait, lambda: due not in there())
            await asyncio.sleep(0.1)
        await engine.close()

    assert there() == {held, fresh, due}
    asyncio.run(run())
    assert there() == {held, fresh}
    database.close()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_nothing_of_a_request_stays_in_memory(home: Path, worker: Background) -> None:  # noqa: F811
    toy_package(home / "models")
    access = LocalAccess(port=80)
    headers = {"Authorization": f"Bearer {access.token}"}

    async def run() -> tuple[Counter[str], Counter[str]]:
        async with worker.engine(cache=20_000) as engine:
            app = create_app(engine, access)
            transport = httpx.ASGITransport(app)
            async with (
                app.router.lifespan_context(app),
                httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers) as client,
            ):
                ask = Ask(client)
                await ask.rounds(5)  # the cache of images is full, every statement known
                await asyncio.sleep(0.3)
                before = kept()
                await ask.rounds(ROUNDS)
                await asyncio.sleep(0.3)  # what is written soon has been
                return before, kept()

    before, after = asyncio.run(run())
    pool = (os.cpu_count() or 1) + 4  # threads that block for the event loop; each step of a request in it is a wait
    assert after["threads"] <= before["threads"] and after["threads"] < pool + 6, "plain functions among dependencies?"
    more = {name: after[name] - before[name] for name in after}
    assert before["Generations"] >= 1 and before["LocalEngine"] >= 1 and before["ResultCache._kept"] > 10
    assert {name: n for name, n in more.items() if n > FEW * ROUNDS * CALLERS} == {}
