"""The worker through its socket: sharing, promptness, recipes, and death."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kartina.errors import ConfigError, QueueFullError
from kartina.models import png
from kartina.models.package import PackageRef
from kartina.serving.client import LocalEngine
from kartina.serving.protocol import Canceled, Event, Failed, Finished, Preview, Progress, Started
from kartina.serving.worker import TIDY
from tests.engine import Background, collect, outputs, request, solo
from tests.serving.images import assert_equals_solo


def test_rows_with_different_steps_solvers_guidance_one_joining_late_equal_their_solo_runs(
    toy: PackageRef, worker: Background
) -> None:
    asked = [
        request(toy, "euler", 3, seed=1, steps=5, guidance=1.0, delay=0.05),
        request(toy, "heun", 2, seed=50, steps=9, guidance=3.0, solver="heun", delay=0.05),
        request(toy, "late", 4, seed=90, steps=20, guidance=2.0, solver="heun"),
    ]

    async def run() -> tuple[list[list[Event]], Any]:
        async with worker.engine() as local:
            await local.activate(asked[0].model, asked[0].hash)  # measured: the batch has room for all
            streams = [asyncio.create_task(collect(local.submit(spec))) for spec in asked[:2]]
            while (await local.stats()).total.batches < 3:
                await asyncio.sleep(0.005)
            streams.append(asyncio.create_task(collect(local.submit(asked[2]))))
            return list(await asyncio.gather(*streams)), await local.stats()

    found, stats = asyncio.run(run())
    for spec, events in zip(asked, found, strict=True):
        assert isinstance(events[0], Started)
        assert isinstance(events[-1], Finished)
        assert_equals_solo(events, solo(toy, spec))
    # Euler 5, Heun 9 (18 evaluations), and Heun 20 (40) that joins after 3 or 4: shared, not one after the other (63).
    assert 43 <= stats.total.batches <= 55
    assert stats.total.outputs == 9 and set(stats.by_model) == {"toy@1"} and stats.device == "cpu"
    assert stats.total.seconds >= 18 * 0.05, "the steps of Heun's row took that long each"


def test_every_png_carries_its_recipe(toy: PackageRef, worker: Background) -> None:
    async def run() -> list[Event]:
        async with worker.engine() as local:
            return await collect(local.submit(request(toy, "r", 2, seed=7, steps=3)))

    made = outputs(asyncio.run(run()))
    recipe = png.read_recipe(made[1].png)
    assert recipe is not None
    assert {k: recipe[k] for k in ("model", "label", "seed", "task")} == {
        "model": "toy@1", "label": "dog", "seed": 8, "task": "generate"
    }  # fmt: skip
    assert recipe["controls"]["steps"] == 3
    assert Image.open(io.BytesIO(made[1].png)).text["synthetic"] == "true"  # type: ignore[attr-defined]


def test_a_recipe_names_the_package_that_was_asked_for_among_those_of_equal_content(
    toy: PackageRef, worker: Background
) -> None:
    other = toy.model_copy(update={"name": "other", "version": 3, "path": toy.path.parents[1] / "other" / "3"})
    shutil.copytree(toy.path, other.path)
    manifest = json.loads((toy.path / "model.json").read_text())
    (other.path / "model.json").write_text(json.dumps({**manifest, "name": "other", "version": 3}))

    async def run() -> list[Any]:
        async with worker.engine() as local:
            asked = request(toy, "a", 1, steps=2), request(other, "b", 1, steps=2)
            assert asked[0].hash == asked[1].hash
            return [png.read_recipe(outputs(await collect(local.submit(spec)))[0].png) for spec in asked]

    assert [recipe["model"] for recipe in asyncio.run(run())] == ["toy@1", "other@3"]


def test_cancel_takes_effect_within_one_step_and_100_ms_and_touches_nobody_else(
    toy: PackageRef, worker: Background
) -> None:
    """Eight cancels in the first half of a step, beside a request that goes on. By the worker's count each is over
    before another step begins. By the clock it takes no longer than the step that it met, as the worker measured it,
    and 100 ms; one of the eight may take longer, for what else the machine does."""
    step, took, late = 0.2, list[float](), list[float]()
    kept_spec = request(toy, "kept", 2, seed=9, steps=44, delay=step)

    async def run() -> None:
        async with worker.engine() as local:
            kept = asyncio.create_task(collect(local.submit(kept_spec)))
            for i in range(8):
                doomed = local.submit(request(toy, f"doomed{i}", 2, steps=1000, delay=step))
                assert isinstance(await anext(doomed), Started)
                before = (await local.stats()).total  # it answers between two steps
                await asyncio.sleep(step / 16 * (i + 1))
                local.cancel(f"doomed{i}")
                start = time.monotonic()
                assert isinstance([event async for event in doomed][-1], Canceled)
                took.append(time.monotonic() - start)
                after = (await local.stats()).total
                steps = after.batches - before.batches
                assert steps <= 2, "the one under way, and that of the second question"
                late.append(took[-1] - (after.seconds - before.seconds) / steps)
            assert not kept.done(), "it was there beside all of them"
            assert_equals_solo(await kept, solo(toy, request(toy, "alone", 2, seed=9, steps=44)))

    asyncio.run(run())
    took.sort()
    late.sort()
    over, more = (f"p50 {statistics.median(of) * 1e3:+.0f} ms, at most {of[-1] * 1e3:+.0f} ms" for of in (took, late))
    print(f"\n8 cancels in steps of {step * 1e3:.0f} ms: over after {over}; against the steps that they met {more}")
    assert late[6] <= 0.1


def test_progress_and_previews_are_rare(toy: PackageRef, worker: Background) -> None:
    async def run() -> tuple[list[Event], float]:
        async with worker.engine() as local:
            start = time.monotonic()
            events = local.submit(request(toy, "watched", 2, steps=100, delay=0.015))
            local.watch("watched", True)
            return await collect(events), time.monotonic() - start

    watched, took = asyncio.run(run())
    previews = [event for event in watched if isinstance(event, Preview)]
    assert 2 <= len(previews) <= 4 * took + 1
    assert Image.open(io.BytesIO(previews[0].images[0][1])).size == (8, 8)
    progress = [event for event in watched if isinstance(event, Progress)]
    assert 2 <= len(progress) <= 4 * took + 2
    assert [event.step for event in progress] == sorted(event.step for event in progress)
    assert (progress[-1].step, progress[-1].steps) == (200, 200)


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(toy: PackageRef, worker: Background) -> None:
    """Ten images, two at a time: what is told before and after the throughput is known, and that it is about right."""

    async def run() -> None:
        async with worker.engine(capacity=10, cache=0) as local:
            first = asyncio.create_task(collect(local.submit(request(toy, "a", 8, steps=20))))
            with pytest.raises(QueueFullError, match="room for 10") as refused:
                local.submit(request(toy, "b", 3))
            assert refused.value.retry_after == 5, "nothing is known yet"
            again = local.submit(request(toy, "c", 3), accepted=True)
            await first
            assert isinstance((await collect(again))[-1], Finished)
            with pytest.raises(ConfigError, match="11 images; expected at most 10"):
                local.submit(request(toy, "d", 11))

        async with worker.engine(capacity=10, cache=0) as local:
            one = [asyncio.create_task(collect(local.submit(request(toy, f"{i}", 1, delay=0.1)))) for i in range(8)]
            await asyncio.gather(*one)  # in one batch: 8 images in 0.4 s, and then 10 in 2 s
            slow = asyncio.create_task(collect(local.submit(request(toy, "slow", 10, steps=20, delay=0.1))))
            await slow
            rate = local.room.throughput.rate
            assert 18 / 24 < rate < 18 / 2.4 * 1.05, "no more than the delays allow; less on a busy machine"
            slow = asyncio.create_task(collect(local.submit(request(toy, "e", 10, steps=20, delay=0.1, guidance=2))))
            seconds = int(10 / rate) + 1
            with pytest.raises(QueueFullError, match=f"Try again in {seconds} s") as refused:
                local.submit(request(toy, "f", 10))
            assert refused.value.retry_after == seconds
            local.cancel("e")
            await slow

    asyncio.run(run())


def test_without_a_worker_requests_fail_after_a_while(toy: PackageRef, tmp_path: Path) -> None:
    async def run() -> None:
        local = LocalEngine(tmp_path / "nobody.sock", patience=0.2)
        last = (await collect(local.submit(request(toy, "a", 1))))[-1]
        assert isinstance(last, Failed)
        assert last.code == "unavailable"
        await local.close()

    asyncio.run(run())


def test_a_message_that_cannot_be_read_ends_its_connection_only(toy: PackageRef, worker: Background) -> None:
    async def run() -> None:
        async with worker.engine() as local:
            await local.stats()
            for garbage in (b"\0\0\0\5hello", b"\xff\xff\xff\xff", b"\0\0\0\1\x80", b"\0\0\0\x20short"):
                reader, writer = await asyncio.open_unix_connection(worker.supervisor.socket)
                writer.write(garbage)
                writer.write_eof()
                assert await reader.read() == b""
                writer.close()
            assert isinstance((await collect(local.submit(request(toy, "fine", 1))))[-1], Finished)

    asyncio.run(run())


@pytest.mark.slow
def test_a_killed_worker_is_started_again_and_its_requests_complete(toy: PackageRef, worker: Background) -> None:
    short = request(toy, "short", 2, seed=3, steps=5)
    long = request(toy, "long", 4, seed=30, steps=40, delay=0.02)
    starts = worker.supervisor.starts

    async def run() -> tuple[list[Event], list[Event]]:
        async with worker.engine() as local:
            other = asyncio.create_task(collect(local.submit(short)))
            events: list[Event] = []
            killed = False
            async for event in local.submit(long):
                events.append(event)
                if isinstance(event, Progress) and not killed and worker.supervisor.pid is not None:
                    os.kill(worker.supervisor.pid, signal.SIGKILL)
                    killed = True
            return events, await other

    events, other = asyncio.run(run())
    assert worker.supervisor.starts == starts + 1
    assert isinstance(events[-1], Finished)
    assert_equals_solo(events, solo(toy, long))
    assert_equals_solo(other, solo(toy, short))


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_a_request_that_kills_its_worker_fails_and_its_neighbours_do_not(
    toy: PackageRef, worker: Background, solver: str
) -> None:
    """Of an exit, or of an error of the device. The worker dies twice, of one of four requests that it was making; the
    others are tried again without it."""
    asked = [request(toy, f"good-{i}", 2, seed=i, steps=60, delay=0.02) for i in range(3)]

    async def run() -> None:
        async with worker.engine() as local:
            good = [asyncio.create_task(collect(local.submit(spec))) for spec in asked[:2]]
            while not (await local.stats()).running:
                await asyncio.sleep(0.01)
            poison = local.submit(request(toy, "poison", 1, trouble="exit", solver=solver))
            good.append(asyncio.create_task(collect(local.submit(asked[2]))))
            last = (await collect(poison))[-1]
            assert isinstance(last, Failed) and last.code == "unavailable"
            for spec, events in zip(asked, await asyncio.gather(*good), strict=True):
                assert isinstance(events[-1], Finished), events[-1]
                assert_equals_solo(events, solo(toy, spec))

    starts = worker.supervisor.starts
    asyncio.run(run())
    assert worker.supervisor.starts == starts + 2


def test_a_worker_gives_back_the_memory_that_a_step_took(toy: PackageRef, worker: Background) -> None:
    """Pages that are free between others in use, which the C library keeps for itself."""

    async def run() -> None:
        async with worker.engine() as local:
            await collect(local.submit(request(toy, "large", 1, steps=1, scratch=128)))
            most = (await local.stats()).rss
            until = time.monotonic() + 5 * TIDY
            while (now := (await local.stats()).rss) > most - 96 * 2**20 and time.monotonic() < until:
                await asyncio.sleep(0.2)
            assert now <= most - 96 * 2**20, f"{most / 2**20:.0f} MiB, and {now / 2**20:.0f} in a calm"

    asyncio.run(run())


def test_the_worker_ends_with_whoever_started_it() -> None:
    script = (
        "import asyncio, os\n"
        "from kartina.serving.supervisor import Supervisor\n"
        "async def main():\n"
        "    s = Supervisor(['--device', 'cpu']); await s.start()\n"
        "    await asyncio.sleep(0.5); print(s.pid, flush=True); os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    pid = int(found.stdout)
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


def test_the_client_needs_no_torch() -> None:
    script = "import sys, kartina.serving.client, kartina.serving.supervisor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0
