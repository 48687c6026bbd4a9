"""Promise 9, over HTTP: ten times more is asked for than can be made, for a minute."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import psutil
import pytest
import torch

from kartina.models import package
from kartina.serving import kept, tuning
from kartina.serving.client import CAPACITY
from tests.engine import toy_package
from tests.service import Service

N, STEPS, DELAY, BATCH = 64, 4, 0.2, 32  # images of a request; 32 images in 4 steps of 0.2 s: about 40 a second
RATE = BATCH / (STEPS * DELAY)
SECONDS, LOOK = 60.0, 1.0


@pytest.fixture
def service(toys: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    home = tmp_path_factory.mktemp("service") / "home"
    ref = toy_package(home / "models")
    # What the worker would measure: on a busy machine it may find that a batch pays nothing, and a queue takes an hour.
    found = tuning.Tuning(
        torch=torch.__version__, device=tuning.device_name("cpu"), threads_tried=(1,), batch=BATCH, most=BATCH,
        torch_threads=1, seconds={},
    )  # fmt: skip
    record = home / "cache" / "engine" / kept.record(package.read_manifest(ref.path).hash, "cpu").name
    record.parent.mkdir(parents=True)
    record.write_text(found.model_dump_json())
    running = Service(home, "--no-jobs", "--batch", str(BATCH), "--cache", "0")
    running.wait_ready()
    running.generate(n=1)  # loaded
    yield running
    running.stop()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_minute_of_tenfold_overload(service: Service) -> None:
    """Everything is accepted or refused with 429; 99 of 100 that are accepted end before more is made than a full queue
    holds, and a batch; the API's memory does not grow with what is refused."""
    took: list[tuple[float, float]] = []  # (sent, seen to be at its end)
    codes: Counter[int] = Counter()
    body = {"model": "toy", "n": N, "controls": {"steps": STEPS, "delay": DELAY}}
    api = psutil.Process(service.process.pid)

    async def run() -> tuple[float, float, float]:
        headers = {"Authorization": f"Bearer {service.token}"}
        limits = httpx.Limits(max_connections=1000, keepalive_expiry=2.0)  # before the service closes them
        async with httpx.AsyncClient(base_url=service.url, headers=headers, timeout=600, limits=limits) as client:

            async def ask(i: int) -> None:
                due = begun + i * N / (10 * RATE)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                sent = time.monotonic()
                answer = await client.post("/v1/generations", json={**body, "seed": i * N})
                codes[answer.status_code] += 1
                if answer.status_code == 429:
                    assert 1 <= int(answer.headers["retry-after"]) <= 600
                    return
                url = answer.json()["urls"]["self"]
                while (job := (await client.get(url)).json())["status"] not in ("succeeded", "failed", "canceled"):
                    await asyncio.sleep(LOOK)
                assert job["status"] == "succeeded" and len(job["outputs"]) == N
                took.append((sent, time.monotonic()))

            begun = time.monotonic()
            asking = [asyncio.create_task(ask(i)) for i in range(int(10 * RATE * SECONDS / N))]
            await asyncio.sleep(SECONDS / 2)  # the queue is full
            before = api.memory_info().rss
            await asyncio.sleep(SECONDS / 2)
            grown = api.memory_info().rss - before
            await asyncio.gather(*asking)
            return len(took) * N / (time.monotonic() - begun), grown / 2**20, time.monotonic() - begun

    rate, grown, seconds = asyncio.run(run())
    # In images, so at the throughput that each request met, whatever else the machine did meanwhile. An end is seen a
    # little late, and what is under way when a request comes is counted whole.
    made = sorted(N * sum(sent < end <= ended for _, end in took) for sent, ended in took)
    waited = sorted(ended - sent for sent, ended in took)
    behind, p99 = (found[int(0.99 * len(took))] for found in (made, waited))
    print(
        f"\n{sum(codes.values())} requests for {N} images in {SECONDS:.0f} s: {dict(codes)}; {rate:.0f} images/s over "
        f"{seconds:.0f} s; accepted p99 {p99:.1f} s, in which {behind} images were made; "
        f"memory {grown:+.1f} MiB in the second half"
    )
    assert set(codes) == {202, 429} and codes[429] > 2 * codes[202]  # a full queue is accepted, too
    assert grown < 30
    assert behind <= CAPACITY + BATCH + 2 * N
