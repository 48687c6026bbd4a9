"""What was accepted ends, whatever is killed; and a reader of events goes on with the next process."""

from __future__ import annotations

import io
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops

from kartina.services.generations import EVENTS_PER_ATTEMPT
from tests.databases import postgres, sqlite_first, url  # noqa: F401  fixtures
from tests.engine import toy_package, toys  # noqa: F401  fixture
from tests.service import Event, Service


def ended(service: Service, id: str) -> Any:
    """The job when it has ended."""
    for event in service.events(id):
        last = event
    assert last.event == "status" and last.data["job"]["status"] in ("succeeded", "failed", "canceled")
    return service.client.get(f"/v1/generations/{id}").json()


@dataclass
class Accepted:
    """A request that was answered with 202."""

    body: dict[str, Any]
    key: str
    kill: int  # of the service that accepted it


def kill_at_random_points(home: Path, database: str, kills: int) -> None:
    """kill -9 of the API, many times while it works; right after a 202, too. Nothing accepted is lost or made twice."""
    rng = random.Random(kills)
    accepted: dict[str, Accepted] = {}
    toy_package(home / "models")
    for kill in range(kills):
        running = Service(home, "--no-jobs", database=database)
        for _ in range(rng.randrange(1, 4)):
            controls = {"steps": rng.randrange(1, 30), "delay": 0.005}
            asked = Accepted({"model": "toy", "n": rng.randrange(1, 4), "controls": controls}, f"{rng.random()}", kill)
            answer = running.client.post("/v1/generations", json=asked.body, headers={"Idempotency-Key": asked.key})
            assert answer.status_code == 202
            accepted[answer.json()["id"]] = asked
        time.sleep(rng.choice((0.0, 0.0, 0.1, 0.5, 1.5)))
        running.stop(signal.SIGKILL)
    last = Service(home, "--no-jobs", database=database)
    given_up = 0
    for id, asked in accepted.items():
        job = ended(last, id)
        if job["status"] == "failed":
            assert job["error"]["code"] == "unavailable" and "died twice" in job["error"]["detail"]
            # Only what ran in two services that died, as what is kept of it says: so not what the last of them took.
            ran = [event.id // EVENTS_PER_ATTEMPT for event in last.events(id, Last_Event_ID="0") if runs(event)]
            assert len(set(ran)) == len(ran) == 2 and asked.kill + 2 <= kills
            given_up += 1
        else:
            assert job["status"] == "succeeded"
            assert [out["index"] for out in job["outputs"]] == list(range(asked.body["n"]))
            for out in job["outputs"]:
                assert last.client.get(out["url"]).status_code == 200
        again = last.client.post("/v1/generations", json=asked.body, headers={"Idempotency-Key": asked.key})
        assert again.json()["id"] == id, "who asks again for want of an answer gets what was made"
    listed, after = set[str](), ""
    while after is not None:
        page = last.client.get("/v1/generations", params={"limit": 100, **({"cursor": after} if after else {})}).json()
        listed |= {job["id"] for job in page["items"]}
        after = page["next_cursor"]
    assert listed == set(accepted)
    print(
        f"\n{kills} kills, {len(accepted)} accepted requests: {len(accepted) - given_up} made, each image once, "
        f"{given_up} given up after two deaths"
    )
    assert last.stop() == 0


def runs(event: Event) -> bool:
    return event.event == "status" and event.data["job"]["status"] == "running"


@sqlite_first
def test_killed_at_three_points(toys: None, tmp_path: Path, url: str) -> None:  # noqa: F811
    kill_at_random_points(tmp_path / "home", url, 3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_fifty_points(toys: None, tmp_path: Path, url: str) -> None:  # noqa: F811
    """A hundred kills over both databases."""
    kill_at_random_points(tmp_path / "home", url, 50)


@pytest.mark.slow
def test_a_reader_misses_nothing_across_a_kill(toys: None, tmp_path: Path) -> None:  # noqa: F811
    home = tmp_path / "home"
    toy_package(home / "models")
    first = Service(home, "--no-jobs")
    job = first.generate(wait=None, n=6, controls={"steps": 20, "delay": 0.02})
    # So many rows share a batch that all end together: a second request delays nothing, a third is read to its end.
    seen: list[Event] = []
    for event in first.events(job["id"]):
        seen.append(event)
        if event.event == "progress":
            break
    first.stop(signal.SIGKILL)
    second = Service(home, "--no-jobs")
    rest = list(second.events(job["id"], Last_Event_ID=str(seen[-1].id)))
    assert all(event.id > seen[-1].id for event in rest)
    everything = [*seen, *rest]
    assert [event.id for event in everything] == sorted({event.id for event in everything})
    outputs = [event.data["output"]["index"] for event in everything if event.event == "output"]
    assert sorted(outputs) == list(range(6))
    statuses = [event.data["job"]["status"] for event in everything if event.event == "status"]
    assert statuses[-3:] == ["queued", "running", "succeeded"]  # taken up again
    # After its end, and in yet another process, the kept events are the same.
    kept = [event for event in rest if event.event in ("status", "output")]
    second.stop(signal.SIGKILL)
    third = Service(home, "--no-jobs")
    again = list(third.events(job["id"], Last_Event_ID=str(seen[-1].id)))
    assert [(event.id, event.event) for event in again] == [(event.id, event.event) for event in kept]
    assert third.stop() == 0


@pytest.mark.slow
def test_an_image_that_was_answered_is_there_after_a_kill(toys: None, tmp_path: Path) -> None:  # noqa: F811
    """It is answered while it is being stored: whichever of the two the kill meets, the generation has it."""
    home = tmp_path / "home"
    toy_package(home / "models")
    answered: dict[str, bytes] = {}
    running = Service(home, "--no-jobs")
    for seed in range(4):
        body = {"model": "toy", "seed": seed, "labels": ["cat"]}
        answer = running.client.post("/v1/generations", json=body, headers={"Accept": "image/png"})
        assert answer.status_code == 200 and answer.headers["content-type"] == "image/png"
        answered[answer.headers["location"]] = answer.content
    running.stop(signal.SIGKILL)
    last = Service(home, "--no-jobs")
    for location, content in answered.items():
        assert ended(last, location.rpartition("/")[2])["status"] == "succeeded"
        (made,) = last.client.get(location).json()["outputs"]
        kept = Image.open(io.BytesIO(last.client.get(made["url"]).content))
        assert not ImageChops.difference(kept, Image.open(io.BytesIO(content))).point(lambda v: max(0, v - 1)).getbbox()
    assert last.stop() == 0
