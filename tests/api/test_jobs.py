"""Jobs over HTTP: the shape, pages, streams that outlive their service. The test is the worker: it claims and ends."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from kartina.jobs.table import Job, Jobs, Progress
from kartina.storage.database import open_database
from tests.api.test_api import problem
from tests.engine import toys  # noqa: F401  a fixture
from tests.service import Event, Service


class House:
    """A service without a worker of jobs, its job table, and a key with its id."""

    def __init__(self, home: Path):
        self.home = home
        self.service = Service(home, "--no-jobs")
        self.jobs = Jobs(open_database(f"sqlite:///{home / 'kartina.db'}"))
        self.client, self.key = self.new_key()

    def new_key(self, **more: Any) -> tuple[httpx.Client, str]:
        client = self.service.bearer("train", **more)
        return client, self.service.client.get("/v1/keys").json()["items"][0]["id"]

    def claimed(self, kind: str = "train", spec: dict[str, Any] | None = None) -> Job:
        """A job of the key that this process works on."""
        wanted = self.jobs.submit(kind, spec or {}, caller=self.key)
        while (job := self.jobs.claim("a test", 600)) is not None and job.id != wanted.id:
            pass
        assert job is not None
        return job


@pytest.fixture(scope="module")
def house(toys: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:  # noqa: F811
    made = House(tmp_path_factory.mktemp("jobs") / "home")
    yield made
    made.client.close()
    made.jobs.database.close()
    made.service.stop()


class Reader(threading.Thread):
    """Reads a stream of events in the background."""

    def __init__(self, service: Service, client: httpx.Client, url: str, **headers: str):
        super().__init__(daemon=True)
        self.found: list[Event] = []
        self._read = lambda: service.stream(client, url, **headers)
        self.start()

    def run(self) -> None:
        try:
            for event in self._read():
                self.found.append(event)
        except httpx.TransportError:
            return  # the service was killed

    def wait(self, n: int, seconds: float = 20) -> list[Event]:
        deadline = time.monotonic() + seconds
        while len(self.found) < n:
            assert time.monotonic() < deadline, self.found
            time.sleep(0.01)
        return self.found


def test_a_job_from_its_acceptance_to_its_file(house: House) -> None:
    waiting = house.jobs.submit("train", {"preset": "vae-32-cpu", "images": 9}, caller=house.key)
    found = house.client.get(f"/v1/jobs/{waiting.id}").json()
    assert (found["id"], found["kind"], found["status"]) == (str(waiting.id), "train", "queued")
    assert found["queue_position"] == 1 and found["request"] == {"preset": "vae-32-cpu", "images": 9}
    assert found["progress"] == {"value": 0, "step": None, "steps": None, "text": ""} and found["started_at"] is None
    assert found["urls"]["events"] == f"/v1/jobs/{waiting.id}/events"

    job = house.jobs.claim("a test", 600)
    assert job is not None and job.id == waiting.id
    house.jobs.progress(job.lease, Progress(value=0.5, step=1, steps=2, text="half"))
    shown = house.client.get(f"/v1/jobs/{job.id}").json()
    assert shown["status"] == "running" and shown["queue_position"] is None and shown["progress"]["text"] == "half"
    folder = house.home / "jobs" / str(job.id) / "attempt-1"
    (folder / "a b").mkdir(parents=True)
    (folder / "a b" / "é.txt").write_text("made")
    (folder / "link").symlink_to("/etc/passwd")
    problem(house.client.get(f"/v1/jobs/{job.id}/files/a%20b/%C3%A9.txt"), 404, "not_found")  # not before its end
    assert house.jobs.succeed(job.lease, {"run": "0001-x"}, "attempt-1")

    done = house.client.get(f"/v1/jobs/{job.id}").json()
    assert done["status"] == "succeeded" and done["result"] == {"run": "0001-x"} and done["progress"]["value"] == 1
    assert done["metrics"]["queue_ms"] >= 0 and done["metrics"]["execution_ms"] >= 0
    (file,) = done["outputs"]
    assert (file["name"], file["size"]) == ("a b/é.txt", 4)
    answer = house.client.get(file["url"])
    assert answer.content == b"made" and answer.headers["content-disposition"].startswith("attachment")
    assert (
        answer.headers["x-content-type-options"] == "nosniff" and "sandbox" in answer.headers["content-security-policy"]
    )
    part = house.client.get(file["url"], headers={"Range": "bytes=1-2"})
    assert part.status_code == 206 and part.content == b"ad"
    for wrong in ("link", "%2e%2e%2f%2e%2e%2f%2e%2e%2fkartina.db", "%2fetc%2fpasswd", "a b", "x"):
        problem(house.client.get(f"/v1/jobs/{job.id}/files/{wrong}"), 404, "not_found")
    assert house.client.delete(f"/v1/jobs/{job.id}").status_code == 204
    problem(house.client.get(f"/v1/jobs/{job.id}"), 404, "not_found")
    assert not folder.exists()


def test_pages_and_filters(house: House) -> None:
    with house.service.bearer("train") as client:
        key = house.service.client.get("/v1/keys").json()["items"][0]["id"]
        ids = [house.jobs.submit(kind, {}, caller=key).id for kind in ("train", "study", "train", "evaluate", "train")]
        house.jobs.cancel(ids[0])
        first = client.get("/v1/jobs", params={"limit": 2}).json()
        second = client.get("/v1/jobs", params={"limit": 3, "cursor": first["next_cursor"]}).json()
        assert [int(job["id"]) for job in first["items"] + second["items"]] == ids[::-1]
        assert second["next_cursor"] is None
        kept = client.get("/v1/jobs", params={"kind": "train", "status": "queued"}).json()["items"]
        assert [int(job["id"]) for job in kept] == [ids[4], ids[2]]
        assert [job["queue_position"] for job in kept] == sorted((j["queue_position"] for j in kept), reverse=True)
        assert client.get("/v1/jobs", params={"status": "done"}).status_code == 422
        for id in ids:
            client.post(f"/v1/jobs/{id}/cancel")


def test_cancel_resume_and_the_bound(house: House) -> None:
    client, key = house.new_key(quota={"jobs": 1})
    id = house.jobs.submit("train", {}, caller=key).id
    problem(client.post(f"/v1/jobs/{id}/resume"), 429, "quota")
    assert client.post(f"/v1/jobs/{id}/cancel").json()["status"] == "canceled"
    other = house.jobs.submit("train", {}, caller=key).id
    problem(client.post(f"/v1/jobs/{id}/resume"), 429, "quota")
    problem(client.delete(f"/v1/jobs/{other}"), 409, "conflict")
    client.post(f"/v1/jobs/{other}/cancel")
    assert client.post(f"/v1/jobs/{id}/resume").json()["status"] == "queued"
    assert client.post(f"/v1/jobs/{id}/cancel").json()["status"] == "canceled"
    for wrong in ("x", "0", "-1", "99999999999999999999", "1.0", "٣"):
        problem(client.get(f"/v1/jobs/{wrong}"), 404, "not_found")
    client.close()


def test_a_stream_tells_everything_once_and_in_order(house: House) -> None:
    job = house.claimed()
    url = f"/v1/jobs/{job.id}/events"
    readers = [Reader(house.service, house.client, url) for _ in range(3)]
    for reader in readers:
        assert reader.wait(1)[0].data["job"]["status"] == "running"
    house.jobs.log(job.lease, "run 0001")
    house.jobs.log(job.lease, "Traceback of the operator's", "error")
    for reader in readers:
        reader.wait(2)
    for step in range(20):  # faster than anybody wants to be told
        house.jobs.progress(job.lease, Progress(value=step / 20, step=step, steps=20))
        time.sleep(0.02)
    assert house.jobs.fail(job.lease, "config", "Found nothing to do.")
    for reader in readers:
        reader.join(20)
        kinds = [event.event for event in reader.found]
        assert kinds[:2] == ["status", "log"] and kinds[-1] == "status" and set(kinds[2:-1]) <= {"progress"}
        assert 1 <= kinds.count("progress") <= 6
        ids = [event.id for event in reader.found]
        assert ids == sorted(set(ids))
        assert reader.found[1].data == {"type": "log", "level": "info", "text": "run 0001"}
        last = reader.found[-1].data["job"]
        assert last["status"] == "failed" and last["error"]["detail"] == "Found nothing to do."
    late = list(house.service.stream(house.client, url))
    assert [event.data["job"]["status"] for event in late] == ["failed"], "a late reader gets the end"
    again = list(house.service.stream(house.client, url, Last_Event_ID="1"))
    assert [e.data["job"]["status"] for e in again if e.event == "status"] == ["running", "failed"]
    assert "log" in [e.event for e in again]


def test_a_stream_goes_on_in_the_next_service(house: House) -> None:
    """A service that stops says so; one that is killed does not. In both cases nothing is missed."""
    job = house.claimed()
    url = f"/v1/jobs/{job.id}/events"
    for number, polite in ((signal.SIGTERM, True), (signal.SIGKILL, False)):
        reader = Reader(house.service, house.client, url)
        reader.wait(1)
        house.service.stop(number)
        reader.join(20)
        assert (reader.found[-1].event == "reconnect") == polite
        last = reader.found[-1].id
        house.jobs.log(job.lease, f"meanwhile {number}")
        secret = house.client.headers["authorization"]
        house.client.close()
        house.service = Service(house.home, "--no-jobs")
        house.client = httpx.Client(
            base_url=house.service.url, headers={"Authorization": secret}, timeout=60, trust_env=False
        )
        reader = Reader(house.service, house.client, url, Last_Event_ID=str(last))
        missed = reader.wait(1)[0]
        assert missed.event == "log" and missed.data["text"] == f"meanwhile {number}" and missed.id == last + 1
    assert house.jobs.succeed(job.lease, {}, None)
    reader.join(20)
    assert reader.found[-1].data["job"]["status"] == "succeeded"
