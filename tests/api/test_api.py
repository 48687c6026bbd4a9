"""The HTTP API over a real socket, on a real worker."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kartina.jobs.table import Jobs
from kartina.models import package, png
from kartina.serving.client import CAPACITY
from tests.service import Service, gone
from tests.waiting import wait

SLOW = {"steps": 100, "delay": 0.01}


@pytest.fixture(scope="module")
def service(working: Service) -> Service:
    return working


def problem(answer: Any, status: int, code: str) -> Any:
    """The problem of an answer, after its shape was checked."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert body["code"] == code
    assert body["type"] == f"urn:kartina:problem:{code}"
    assert body["request_id"] == answer.headers["x-request-id"]
    assert body["title"] and body["detail"]
    return body


def test_a_model_card(service: Service) -> None:
    page = service.client.get("/v1/models").json()
    mine = [model for model in page["items"] if not model["bundled"]]
    assert [model["ref"] for model in mine] == ["toy@1"]
    model = service.client.get("/v1/models/toy").json()
    assert model == mine[0]
    assert model["image"] == {"height": 8, "width": 8, "channels": 1}
    assert model["classes"] == ["cat", "dog", "кот"]
    assert model["tasks"]["generate"]["schema"]["properties"]["steps"]["maximum"] == 1000
    assert model["tasks"]["generate"]["defaults"]["steps"] == 4
    assert model["metrics"]["coverage"] == {"value": 0.5, "interval": [0.4, 0.6], "floor": 0.9, "identity": {"n": 10}}
    dog, cat = model["per_class"]
    assert dog == {"class": "dog", "agreement": 0.1, "coverage": 0.2, "diversity": 0.3, "train": 2, "reason": None}
    assert (cat["coverage"], cat["reason"], "x" in cat) == (None, "too few", False)  # a card may hold more than we tell
    assert model["data"]["counts"] == {"cat": 3, "dog": 2, "кот": 1}
    for url in (model["urls"]["samples"], *model["urls"]["classes"]):
        answer = service.client.get(url)
        assert answer.headers["content-type"] == "image/png"
        Image.open(io.BytesIO(answer.content)).load()
    assert service.client.get(model["urls"]["self"]).json() == model
    problem(service.client.get("/v1/models/toy/classes/3.png"), 404, "not_found")
    problem(service.client.get("/v1/models/nobody"), 404, "not_found")
    for path in ("%2e%2e", "..%2f..%2fetc", "%2fetc"):
        assert service.client.get(f"/v1/models/{path}").status_code == 404


def test_every_bundled_model_is_told(service: Service) -> None:
    told = {model["ref"] for model in service.client.get("/v1/models").json()["items"] if model["bundled"]}
    assert told == {str(found) for found in package.list_packages() if found.bundled}


def test_ask_follow_fetch(service: Service) -> None:
    body = {"model": "toy", "labels": ["dog", "кот"], "n": 3, "seed": 7, "controls": {"steps": 50, "delay": 0.01}}
    answer = service.client.post("/v1/generations", json=body)
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == job["urls"]["self"]
    assert job["status"] in ("queued", "running")
    events = list(service.events(job["id"]))
    ids = [event.id for event in events]
    assert ids == sorted(ids)
    assert events[0].event == "status" and events[0].data["job"]["id"] == job["id"]
    assert {event.event for event in events} == {"status", "progress", "preview", "output"}
    assert all(event.data["type"] == event.event for event in events)
    assert events[-1].data["job"]["status"] == "succeeded"

    done = service.client.get(job["urls"]["self"]).json()
    assert done == events[-1].data["job"]
    assert done["request"]["model"] == "toy@1"
    assert done["request"]["controls"]["steps"] == 50
    assert [(out["index"], out["label"], out["seed"]) for out in done["outputs"]] == [
        (0, "dog", 7), (1, "кот", 8), (2, "dog", 9)
    ]  # fmt: skip
    assert done["progress"] == {"value": 1.0, "step": 150, "steps": 150}
    assert done["metrics"]["queue_ms"] >= 0 and done["metrics"]["execution_ms"] > 0
    image = service.client.get(done["outputs"][1]["url"])
    assert image.headers["content-type"] == "image/png"
    assert "immutable" in image.headers["cache-control"]
    recipe = png.read_recipe(image.content)
    assert recipe is not None and (recipe["label"], recipe["seed"], recipe["model"]) == ("кот", 8, "toy@1")
    archive = service.client.get(done["urls"]["zip"])
    assert archive.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(archive.content)) as found:
        assert len(found.namelist()) == 3
        assert found.read(found.namelist()[1]) == image.content

    # A reader that comes back late gets what it has missed.
    kept = [event.id for event in events if event.event in ("status", "output")]
    again = list(service.events(job["id"], Last_Event_ID=str(kept[1])))
    assert [event.id for event in again if event.event in ("status", "output")] == kept[2:]
    assert again[-1].data["job"] == done
    (last,) = service.events(job["id"], Last_Event_ID=str(ids[-1]))
    assert last.data["job"]["status"] == "succeeded"


def test_last_event_id_goes_on_where_it_broke_off(service: Service) -> None:
    job = service.generate(wait=None, n=2, controls=SLOW)
    first = []
    for event in service.events(job["id"]):
        first.append(event)
        if len(first) == 3:
            break
    rest = list(service.events(job["id"], Last_Event_ID=str(first[-1].id)))
    assert rest[0].id > first[-1].id
    outputs = [event.data["output"]["index"] for event in [*first, *rest] if event.event == "output"]
    assert sorted(outputs) == [0, 1]
    assert [event.data["job"]["status"] for event in [*first, *rest] if event.event == "status"][-1] == "succeeded"


def test_wait_and_png(service: Service) -> None:
    answer = service.client.post("/v1/generations", json={"model": "toy"}, headers={"Prefer": "wait=30"})
    assert answer.status_code == 200
    assert answer.headers["preference-applied"] == "wait=30"
    assert answer.json()["status"] == "succeeded"
    answer = service.client.post("/v1/generations", json={"model": "toy", "seed": 1}, headers={"Accept": "image/png"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == (8, 8)
    late = service.client.post(
        "/v1/generations", json={"model": "toy", "controls": SLOW}, headers={"Prefer": "respond-async, wait=0"}
    )
    assert late.status_code == 202
    many = service.client.post("/v1/generations", json={"model": "toy", "n": 2}, headers={"Accept": "image/png"})
    problem(many, 406, "not_acceptable")
    broken = {"model": "toy", "controls": {"trouble": "step"}}
    problem(service.client.post("/v1/generations", json=broken, headers={"Accept": "image/png"}), 500, "error")
    failed = service.generate(controls={"trouble": "step"})
    assert failed["status"] == "failed"
    assert failed["error"]["code"] == "error" and "a toy that breaks" in failed["error"]["detail"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "model: missing"),
        ({"model": "toy", "steps": 5}, "steps: no such field"),
        ({"model": "toy", "n": 0}, "n: input should be greater than or equal to 1"),
        ({"model": "toy", "n": 257}, "n: input should be less than or equal to 256"),
        ({"model": "toy", "n": "3"}, "n: input should be a valid integer"),
        ({"model": "toy", "n": True}, "n: input should be a valid integer"),
        ({"model": "toy", "seed": -1}, "seed: "),
        ({"model": "toy", "seed": 2**53}, "seed: "),
        ({"model": "toy", "labels": []}, "labels: "),
        ({"model": "toy", "labels": "dog"}, "labels: "),
        ({"model": "toy", "task": ""}, "task: "),
        ({"model": "toy", "format": "jpeg"}, "format: "),
        ({"model": "toy", "image": []}, "image."),
        ({"model": "toy", "controls": {"stepps": 1}}, "controls.stepps: no such control"),
        ({"model": "toy", "controls": {"steps": 0}}, "controls.steps: expected at least 1, found 0"),
        ([], "body: "),
    ],
)
def test_a_request_that_cannot_be_used_names_what_is_wrong(service: Service, body: Any, says: str) -> None:
    answer = service.client.post("/v1/generations", json=body)
    found = problem(answer, 422, answer.json()["code"])
    assert found["code"] in ("input", "config")
    assert any(line.startswith(says) for line in found["errors"]), found["errors"]


def test_other_refusals(service: Service) -> None:
    client = service.client
    found = problem(client.post("/v1/generations", json={"model": "toy", "labels": ["dgo"]}), 404, "not_found")
    assert "Did you mean 'dog'" in found["detail"]
    problem(client.post("/v1/generations", json={"model": "nobody"}), 404, "not_found")
    json_type = {"Content-Type": "application/json"}
    problem(client.post("/v1/generations", content=b"{", headers=json_type), 422, "input")
    problem(client.post("/v1/generations", content=b"\xff", headers=json_type), 400, "bad_request")
    text = {"Content-Type": "text/plain"}
    problem(client.post("/v1/generations", content=b'{"model":"toy"}', headers=text), 422, "input")
    deep = b'{"model":"toy","controls":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}"
    assert client.post("/v1/generations", content=deep, headers=json_type).status_code in (400, 422)
    half = b'{"model":"toy","controls":{"\\ud800":1}}'  # of a surrogate pair: JSON may hold it, UTF-8 may not
    found = problem(client.post("/v1/generations", content=half, headers=json_type), 422, "config")
    assert "\\ud800" in found["detail"]
    problem(client.post("/v1/generations", content=b" " * (2**20 + 1), headers=json_type), 413, "too_large")
    chunks = (b" " * 2**16 for _ in range(20))  # no Content-Length to look at
    problem(client.post("/v1/generations", content=chunks, headers=json_type), 413, "too_large")
    for path in ("/v1/generations/gen_nope", "/v1/images/x", "/v1/images/..%2f..%2fsession.key", "/v1/nothing", "/v1"):
        problem(client.get(path), 404, "not_found")
    problem(client.get("/v1/generations?limit=0"), 422, "input")
    problem(client.get("/v1/generations?limit=101"), 422, "input")
    problem(client.put("/v1/models"), 405, "method_not_allowed")
    problem(client.get(f"/v1/generations/{'x' * 200}"), 422, "input")


def test_a_full_queue_is_a_429_that_says_when_to_come_back(service: Service) -> None:
    """And takes more when there is room again."""
    body = {"model": "toy", "n": 256, "controls": {"steps": 1000, "delay": 0.05}}
    accepted: list[Any] = []
    while (answer := service.client.post("/v1/generations", json=body)).status_code == 202:
        accepted.append(answer.json())
        assert len(accepted) <= CAPACITY // 256
    assert "room for" in problem(answer, 429, "queue_full")["detail"]
    assert 1 <= int(answer.headers["retry-after"]) <= 600
    assert len(accepted) >= CAPACITY // 256 - 1  # another test's may wait, too
    for job in accepted:
        assert service.client.post(job["urls"]["cancel"]).status_code == 200
    for job in accepted:
        assert list(service.events(job["id"]))[-1].data["job"]["status"] == "canceled"
    assert service.generate(n=256)["status"] == "succeeded"


def test_cancel_list_delete(service: Service) -> None:
    running = service.generate(wait=None, n=4, controls=SLOW)
    problem(service.client.get(running["urls"]["zip"]), 409, "conflict")
    assert service.client.post(running["urls"]["cancel"]).json()["status"] == "canceling"
    assert list(service.events(running["id"]))[-1].data["job"]["status"] == "canceled"
    assert service.client.post(running["urls"]["cancel"]).json()["status"] == "canceled"
    for _ in range(3):
        service.generate()
    page = service.client.get("/v1/generations?limit=2").json()
    rest = service.client.get(f"/v1/generations?limit=100&cursor={page['next_cursor']}").json()
    ids = [job["id"] for job in [*page["items"], *rest["items"]]]
    assert ids == sorted(ids, reverse=True)
    assert running["id"] in ids
    assert rest["next_cursor"] is None
    assert service.client.delete(running["urls"]["self"]).status_code == 204
    problem(service.client.get(running["urls"]["self"]), 404, "not_found")
    problem(service.client.delete(running["urls"]["self"]), 404, "not_found")


def test_a_killed_worker_is_replaced_and_the_request_completes(service: Service) -> None:
    job = service.generate(wait=None, n=2, controls=SLOW)
    for event in service.events(job["id"]):
        if event.event == "progress":
            os.kill(service.children()[0], signal.SIGKILL)
            break
    assert list(service.events(job["id"]))[-1].data["job"]["status"] == "succeeded"


def test_the_document_is_the_one_that_the_page_was_made_for(service: Service) -> None:
    document = service.client.get("/openapi.json").json()
    assert document == json.loads((Path(__file__).parents[2] / "web" / "openapi.json").read_text())
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["operationId"], (path, method)
            for status, answer in operation["responses"].items():
                if status[0] in "45":
                    assert list(answer["content"]) == ["application/problem+json"], (path, method, status)
    text = json.dumps(document)
    for name in set(re.findall(r"#/components/schemas/(\w+)", text)):
        assert name in document["components"]["schemas"]
    assert "HTTPValidationError" not in text


def test_queued_jobs_run_beside_the_engine(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of jobs is kept alive too; its child, and no process of the service, does the work."""
    monkeypatch.setenv("KARTINA_HOME", str(service.home))
    jobs = Jobs.open()
    job = jobs.submit("train", {"preset": "none-32", "data": "digits", "images": 8})
    wait(lambda: jobs.get(job.id).finished, 120)
    done = jobs.get(job.id)
    assert done.status == "failed" and done.error is not None and "no preset called 'none-32'" in done.error.message
    workers = [pid for pid in service.children() if b"jobs" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(workers) == 2, "one for the device, one for data sets"
    for worker in workers:
        assert "libtorch" not in Path(f"/proc/{worker}/maps").read_text()


def test_no_torch_in_the_process_of_the_api() -> None:
    script = (
        "import sys, kartina.api, kartina.api.server, kartina.services.generations, kartina.serving.client, "
        "kartina.cli.serve; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0


@pytest.mark.slow
def test_stopping_ends_streams_and_leaves_no_orphan_and_a_restart_goes_on(
    toys: None, tmp_path: Path, service: Service
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "models").symlink_to(service.home / "models")
    running = Service(tmp_path / "home")
    job = running.generate(wait=None, n=1, seed=3, controls={"steps": 1000, "delay": 0.02})
    worker = running.children()[0]
    stream = running.events(job["id"])
    first = next(stream)
    assert first.event == "status"
    running.process.send_signal(signal.SIGTERM)
    start = time.monotonic()
    assert [event.event for event in stream][-1] == "reconnect"
    assert running.process.wait(30) == 0
    running.stop()
    assert time.monotonic() - start < 30
    assert gone(worker)

    # Again, and this time there is no goodbye.
    again = Service(tmp_path / "home")
    found = again.client.get(f"/v1/generations/{job['id']}").json()
    assert found["status"] in ("queued", "running")
    other = again.generate(wait=None, n=1, seed=4, controls={"steps": 3})
    workers = again.children()
    assert len(workers) == 3 and again.stop(signal.SIGKILL) == -signal.SIGKILL
    assert all(gone(worker) for worker in workers)

    last = Service(tmp_path / "home", "--no-jobs")
    assert list(last.events(other["id"]))[-1].data["job"]["status"] == "succeeded"
    assert last.client.delete(f"/v1/generations/{job['id']}").status_code == 204
    assert last.stop(signal.SIGINT) == 0
