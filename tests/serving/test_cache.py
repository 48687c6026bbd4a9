"""Images that were made already come from the cache: the same bytes, without the worker, within its size."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from kartina.models.package import PackageRef
from kartina.serving.cache import ResultCache, keys_of
from kartina.serving.client import LocalEngine
from kartina.serving.protocol import Event, Finished, Output, Progress, RequestSpec, Started
from tests.engine import Background, collect, outputs, request, solo
from tests.serving.images import assert_equals_solo


def test_a_hit_is_answered_without_a_worker(toy: PackageRef, worker: Background) -> None:
    """The second engine's socket leads nowhere: what it answers it has from the first one's cache."""

    async def run() -> None:
        async with worker.engine() as local:
            first = await collect(local.submit(request(toy, "a", 4, seed=5, steps=3)))
            dead = LocalEngine("/nowhere", patience=0.1)
            dead.cache = local.cache
            second = await collect(dead.submit(request(toy, "b", 4, seed=5, steps=3)))
            assert isinstance(second[0], Started) and isinstance(second[-1], Finished)
            assert {i: o.png for i, o in outputs(second).items()} == {i: o.png for i, o in outputs(first).items()}
            assert {event.id for event in second} == {"b"} and dead.waiting == 0
            (missed,) = await collect(dead.submit(request(toy, "c", 4, seed=50, steps=3)))
            assert missed.type == "failed"
            await dead.close()

    asyncio.run(run())


def test_what_is_missing_is_made_and_progress_counts_all(toy: PackageRef, worker: Background) -> None:
    spec = request(toy, "b", 6, seed=2, label=1, steps=4)

    async def run() -> tuple[list[Event], int]:
        async with worker.engine() as local:
            await collect(local.submit(request(toy, "a", 3, seed=4, label=1, steps=4)))
            before = (await local.stats()).total.outputs
            events = await collect(local.submit(spec))
            return events, (await local.stats()).total.outputs - before

    events, made = asyncio.run(run())
    assert made == 3  # seeds 2, 3 and 7; 4, 5 and 6 were there
    assert [e.index for e in events if isinstance(e, Output)][:3] == [2, 3, 4]
    assert [(e.step, e.steps) for e in events if isinstance(e, Progress)][-1] == (24, 24)
    assert_equals_solo(events, solo(toy, spec))


def test_the_switch_and_failures_keep_nothing(toy: PackageRef, worker: Background) -> None:
    async def run() -> None:
        async with worker.engine(cache=0) as local:
            before = (await local.stats()).total.outputs
            for id in "ab":
                await collect(local.submit(request(toy, id, 2, steps=1)))
            assert (await local.stats()).total.outputs - before == 4
            assert len(local.cache) == local.cache.bytes == 0
        async with worker.engine() as local:
            await collect(local.submit(request(toy, "a", 2, trouble="step")))
            assert len(local.cache) == 0

    asyncio.run(run())


def image(i: int, size: int) -> Output:
    return Output(id="x", index=0, png=bytes(size), width=i, height=1)


def test_it_stays_within_its_size_and_lets_go_of_the_least_recently_used() -> None:
    cache = ResultCache(10_000)
    spec = RequestSpec.model_validate({"id": "r", "model": "m", "hash": "h", "rows": [{"index": 0, "seed": 1}]})
    for i in range(9):
        cache.keep(bytes([i]), image(i, 700))  # a thousand bytes with what is beside them
    assert cache.find(spec, {0: bytes([0])})[0].width == 0  # used again
    for i in range(9, 14):
        cache.keep(bytes([i]), image(i, 700))
        assert cache.bytes <= 10_000
    there = [i for i in range(14) if cache.find(spec, {0: bytes([i])})]
    assert there == [0, 5, 6, 7, 8, 9, 10, 11, 12, 13] and cache.bytes == 10_000
    cache.keep(b"huge", image(0, 10_000))
    assert len(cache) == 10


@pytest.mark.parametrize(
    "other",
    [
        {"hash": "0" * 64},
        {"model": "/elsewhere/toy/1"},
        {"task": "translate"},
        {"controls": {"steps": 5}},
        {"deterministic": True},
        {"inputs": {"image": (b"one",)}},
        {"rows": ({"index": 0, "label": 1, "seed": 7},)},
        {"rows": ({"index": 0, "label": None, "seed": 7},)},
        {"rows": ({"index": 0, "label": 0, "seed": 8},)},
    ],
)
def test_whatever_changes_the_image_changes_its_key(toy: PackageRef, other: dict[str, object]) -> None:
    spec = request(toy, "a", 1, seed=7, label=0, steps=4)
    changed = RequestSpec.model_validate({**spec.model_dump(), **other})
    assert keys_of(spec)[0] != keys_of(changed)[0]
    same = spec.model_copy(update={"id": "b", "client": "somebody", "previews": True})
    assert keys_of(spec) == keys_of(same)


def test_inputs_count_by_image_and_row() -> None:
    def spec(*images: bytes) -> RequestSpec:
        rows = [{"index": i, "seed": 3} for i in range(4)]
        return RequestSpec.model_validate(
            {"id": "r", "model": "m", "hash": "h", "rows": rows, "inputs": {"image": images}}
        )

    found = keys_of(spec(b"a", b"b"))
    assert found[0] == found[2] != found[1] == found[3] == keys_of(spec(b"b"))[0]


def test_a_killed_worker_loses_no_kept_image(toy: PackageRef, worker: Background, tmp_path: Path) -> None:
    async def run() -> None:
        async with worker.engine() as local:
            await collect(local.submit(request(toy, "a", 2, steps=2)))
            assert worker.supervisor.pid is not None
            os.kill(worker.supervisor.pid, signal.SIGKILL)
            assert isinstance((await collect(local.submit(request(toy, "b", 2, steps=2))))[-1], Finished)

    asyncio.run(run())
