"""Models that are ready before anybody asks: those used last, then active ones, as many as fit; requests come first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kartina.models.package import PackageRef, activate, hash_of
from kartina.services.packages import remove
from kartina.services.ready import Ready
from kartina.serving import kept
from kartina.serving.protocol import Finished
from tests.engine import Background, collect, request, toy_package
from tests.services.test_generations import Made, Submission, service


@pytest.fixture
def own(toys: None) -> Iterator[Background]:
    """A worker of this test's own, which keeps three models."""
    background = Background("--models", "3")
    yield background
    background.stop()


@pytest.fixture
def toys_of(toys: None, home: Path) -> dict[str, PackageRef]:
    return {name: toy_package(home / "models", name, seed=i) for i, name in enumerate(("amber", "birch", "cedar"))}


async def until_ready(made: Made, *refs: PackageRef) -> None:
    deadline = time.monotonic() + 30
    while not all(kept.record(hash_of(ref), "cpu").exists() for ref in refs):
        assert time.monotonic() < deadline, "they never were ready"
        await asyncio.sleep(0.02)


def test_the_models_used_last_come_first_then_active_ones(toys_of: dict[str, PackageRef], own: Background) -> None:
    newer = toy_package(toys_of["amber"].path.parents[1], "amber", seed=9)
    activate("amber@1")

    async def use(made: Made) -> None:
        for name in ("amber@2", "cedar", "cedar", "birch"):
            await made.wait((await made.submit(Submission(model=name, controls={"steps": 1}))).id, 30)
        ready = Ready(made.all.models, made.records, made.all.engine, most=4)
        assert [info.ref for info in ready.wanted()] == ["birch@1", "cedar@1", "amber@2", "amber@1"]
        remove("cedar")
        assert [info.ref for info in ready.wanted()][:3] == ["birch@1", "amber@2", "amber@1"]
        few = Ready(made.all.models, made.records, made.all.engine, most=1)
        assert [info.ref for info in few.wanted()] == ["birch@1"]

    async def run() -> None:
        async with service(own) as made:
            await use(made)

    assert newer.version == 2
    asyncio.run(run())


def test_a_start_makes_them_ready_within_what_stays_in_memory(toys_of: dict[str, PackageRef], own: Background) -> None:
    """Bundled models are active, too, and there are more of them than this worker keeps."""

    async def run() -> None:
        async with service(own) as made:
            ready = Ready(made.all.models, made.records, made.all.engine, most=8)
            assert [info.ref for info in ready.wanted()][:3] == ["amber@1", "birch@1", "cedar@1"]
            await ready.start()
            await until_ready(made, *toys_of.values())
            await asyncio.sleep(0.3)
            (now,) = await made.all.engine.workers(60)
            assert set(now.models) == {hash_of(ref) for ref in toys_of.values()} and now.most_models == 3
            await ready.stop()

    asyncio.run(run())


def test_at_the_start_nobody_waits_for_them_and_who_activates_gets_it_at_once(
    toys_of: dict[str, PackageRef], own: Background
) -> None:
    amber, birch, cedar = toys_of.values()

    async def run() -> None:
        async with service(own) as made:
            engine = made.all.engine
            await collect(engine.submit(request(cedar, "warm", 1)))
            await until_ready(made, cedar)
            busy = asyncio.create_task(collect(engine.submit(request(cedar, "busy", 1, steps=1000, delay=0.005))))
            await asyncio.sleep(0.1)
            idle = asyncio.create_task(engine.activate(str(amber.path), hash_of(amber), idle=True))
            Ready(made.all.models, made.records, engine, most=0).soon(made.all.models.get("birch"))
            await until_ready(made, birch)
            assert not busy.done() and not idle.done() and not kept.record(hash_of(amber), "cpu").exists()
            engine.cancel("busy")
            await busy
            assert (await idle).measured
            events = await collect(engine.submit(request(amber, "after", 2)))
            assert isinstance(events[-1], Finished)

    asyncio.run(run())


def test_a_model_that_is_damaged_is_in_nobodys_way(
    toys_of: dict[str, PackageRef], own: Background, caplog: pytest.LogCaptureFixture
) -> None:
    amber, birch, cedar = toys_of.values()
    (amber.path / "generator.safetensors").write_bytes(b"no weights")

    async def run() -> None:
        async with service(own) as made:
            ready = Ready(made.all.models, made.records, made.all.engine, most=3)
            await ready.start()
            await until_ready(made, birch, cedar)
            assert not kept.record(hash_of(amber), "cpu").exists()
            await ready.stop()

    asyncio.run(run())


def test_a_deleted_models_measurements_go_with_it(toys_of: dict[str, PackageRef], own: Background) -> None:
    amber, birch, _ = toys_of.values()
    same = toy_package(amber.path.parents[1], "again", seed=0)
    assert hash_of(same) == hash_of(amber)

    async def run() -> None:
        async with service(own) as made:
            for ref in (amber, birch):
                await made.all.engine.activate(str(ref.path), hash_of(ref))

    asyncio.run(run())
    where, other = kept.record(hash_of(amber), "cpu"), kept.record(hash_of(birch), "cpu")
    remove("amber")
    assert where.exists(), "the same weights are here under another name"
    remove("again")
    assert not where.exists() and other.exists()
