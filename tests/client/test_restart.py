"""The service is restarted while a client follows: no status and no output is lost, and nothing is made twice."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from kartina.client import AsyncClient, AsyncOutputEvent, Client, StatusEvent
from tests.engine import toy_package, toys  # noqa: F401  a fixture
from tests.service import Service

ASKED = {"steps": 40, "delay": 0.05}


@pytest.mark.parametrize("number", [15, 9], ids=["SIGTERM", "SIGKILL"])
@pytest.mark.slow
def test_events_go_on_with_the_next_process(toys: None, tmp_path: Path, number: int) -> None:  # noqa: F811
    home = tmp_path / "home"
    toy_package(home / "models")
    first = Service(home, "--no-jobs")
    running = [first]
    with Client(f"{first.url}/?token={first.token}") as local:
        key = local.keys.create("mine").secret

    def restart() -> None:
        first.stop(number)
        running.append(Service(home, "--no-jobs", "--port", str(first.port)))

    async def follow() -> tuple[list[str], list[int], int]:
        statuses, outputs, restarts = [], [], []
        async with AsyncClient(first.url, key) as client:
            job = await client.generate("toy", n=2, controls=ASKED)
            async for event in job.events():
                statuses += [event.job.status] if isinstance(event, StatusEvent) else []
                outputs += [event.output.index] if isinstance(event, AsyncOutputEvent) else []
                if event.type == "progress" and not restarts:
                    restarts.append(asyncio.create_task(asyncio.to_thread(restart)))
            return statuses, outputs, len([one async for one in client.generations.list()])

    try:
        statuses, outputs, jobs = asyncio.run(follow())
        assert len(running) == 2 and jobs == 1
        assert statuses[-1] == "succeeded" and "queued" in statuses[1:]  # the next process queued it again
        assert outputs == [0, 1]
        # A caller that comes while there is no service waits for it.
        second = running[-1]
        second.stop()
        later = threading.Timer(1.0, lambda: running.append(Service(home, "--no-jobs", "--port", str(first.port))))
        later.start()
        with Client(first.url, key) as client:
            assert client.session().name == "mine"
        later.join()
    finally:
        running[-1].stop()
