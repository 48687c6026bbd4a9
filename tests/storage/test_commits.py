"""Changes that share a commit: all of them stored, each failing for its own reason only."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa

from kartina.errors import ConflictError, InFlightError, KeyReusedError, NotFoundError, QuotaError, StorageError
from kartina.storage import idempotency
from kartina.storage.commits import Commits
from kartina.storage.database import Database, open_database
from kartina.storage.only import only_service
from kartina.storage.tables import idempotency as table
from kartina.storage.tables import usage
from kartina.storage.usage import Quota, Used, charge, used


def test_many_changes_share_few_commits(database: Database) -> None:
    begun: list[None] = []
    sa.event.listen(database.engine, "begin", lambda connection: begun.append(None))

    async def run() -> None:
        commits = Commits(database)
        await asyncio.gather(*(commits(lambda c: charge(c, database, "a", images=1)) for _ in range(300)))
        await commits.close()

    asyncio.run(run())
    with database.read() as c:
        assert used(c, "a").images == 300
    assert len(begun) < 20


def test_one_that_fails_takes_no_other_with_it(database: Database) -> None:
    async def run() -> None:
        commits = Commits(database)

        def fail(c: sa.Connection) -> None:
            charge(c, database, "bad", images=7)
            raise NotFoundError("gone")

        quota = Quota(images=2)
        changes = [lambda c, i=i: charge(c, database, f"good{i}", images=1) or i for i in range(5)]
        found = await asyncio.gather(
            *(commits(change) for change in changes[:3]),
            commits(fail),
            commits(lambda c: charge(c, database, "small", quota, images=3)),
            commits(lambda c: c.execute(sa.insert(usage).values(owner="x"))),  # breaks a rule of the table
            *(commits(change) for change in changes[3:]),
            return_exceptions=True,
        )
        assert [found[i] for i in (0, 1, 2, 6, 7)] == [0, 1, 2, 3, 4]
        assert isinstance(found[3], NotFoundError) and isinstance(found[4], QuotaError)
        assert isinstance(found[5], sa.exc.IntegrityError)

    asyncio.run(run())
    with database.read() as c:
        assert [used(c, owner).images for owner in ("good0", "good4", "bad", "small")] == [1, 1, 0, 0]


def test_a_database_that_is_away_is_said_to_each(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'k.db'}")
    with database.write() as c:
        c.execute(sa.text("DROP TABLE usage"))

    async def run() -> None:
        commits = Commits(database)
        found = await asyncio.gather(*(commits(lambda c: used(c, "a")) for _ in range(3)), return_exceptions=True)
        assert all(isinstance(error, StorageError) for error in found)

    asyncio.run(run())
    database.close()


def test_who_gives_up_waiting_loses_nothing(database: Database) -> None:
    async def run() -> None:
        commits = Commits(database)
        waiting = asyncio.create_task(commits(lambda c: charge(c, database, "a", images=1)))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await commits(lambda c: charge(c, database, "a", images=1))
        await commits.close()

    asyncio.run(run())
    with database.read() as c:
        assert used(c, "a") == Used(images=2)


def test_idempotency_keys(database: Database) -> None:
    def begin(request: str, owner: str = "a") -> str | None:
        with database.write() as c:
            return idempotency.begin(c, database, owner, "k", request)

    assert begin("r") is None
    with pytest.raises(InFlightError):
        begin("r")
    with pytest.raises(KeyReusedError):
        begin("other")
    assert begin("r", "b") is None
    # A process that died while it accepted: a minute later the key is free.
    with database.write() as c:
        c.execute(sa.update(table).values(created_at=table.c.created_at - idempotency.ACCEPTING))
    assert begin("r") is None
    with database.write() as c:
        idempotency.settle(c, "a", "k", "gen_1")
        idempotency.forget(c, "a", "k")  # too late: it was accepted
    assert begin("r") == "gen_1"
    with database.write() as c:
        c.execute(sa.update(table).values(created_at=table.c.created_at - idempotency.KEPT))
        idempotency.sweep(c, database)
        assert c.execute(sa.select(sa.func.count()).select_from(table)).scalar() == 0


def test_one_service_a_home_and_a_database(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KARTINA_DATABASE", url)
    monkeypatch.setenv("KARTINA_HOME", str(tmp_path / "one"))
    refused = pytest.raises(ConflictError, match="another service")
    with only_service():
        with refused, only_service():
            pass
        monkeypatch.setenv("KARTINA_HOME", str(tmp_path / "two"))  # the same database from elsewhere
        with refused, only_service():
            pass
    with only_service():
        pass
