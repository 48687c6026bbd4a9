"""Training over HTTP, with real tiny presets: started, followed, paused, extended, killed, evaluated, published."""

from __future__ import annotations

import io
import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image

from kartina import owners
from kartina.config import RunConfig
from kartina.data.imageset import open_set
from kartina.training.folder import RunFolder
from tests.api.test_api import problem
from tests.engine import toy_package, toys  # noqa: F401  a fixture
from tests.service import Service
from tests.study import tiny_study
from tests.waiting import wait

TINY = {"width": 8, "width_max": 8, "threads": 1, "batch": 8, "grids": 2, "precision": "fp32", "checkpoint_every": 0.2}
BODY = {"preset": "vae-32-cpu", "data": "blobs", "images": 400, "settings": TINY, "device": "cpu"}
PATIENCE = 300.0  # seconds for an answer: a busy machine takes long to load torch
LONG = {**BODY, "images": 10**7}
STUDY = {
    "name": "small", "data": ["blobs"], "seeds": [0], "device": "cpu", "threads": 1, "budget": {"images": 128},
    "settings": {"precision": "fp32", "batch": 16, "grids": 1},
    "presets": [{"preset": "vae-32-cpu", "label": "<script>alert(1)</script>",
                 "settings": {"width": 8, "width_max": 8}}],
    "evaluation": {"samples": 60, "generation_seeds": 2, "checkpoints": 1, "metrics": ["class_agreement", "kid",
                   "coverage", "memorisation"]},
    "choose": {"agreement_slack": 1.0, "coverage_share": 0.0, "copies_factor": 1000.0},
}  # fmt: skip


class House:
    """A service that works on jobs; a key that has the data set blobs, and one that has nothing."""

    def __init__(self, home: Path):
        self.home = home
        self.service = Service(home)
        self.secrets: dict[str, str] = {}
        self.client = self.bearer("owner", "train", "models")
        self.other = self.bearer("other", "train", "models")
        key = self.service.client.get("/v1/keys").json()["items"][1]["id"]
        data = tiny_study.store(home)
        owners.write(home / "data" / data.name, key)

    def bearer(self, name: str, *scopes: str) -> httpx.Client:
        made = self.service.bearer(*scopes)
        made.timeout = httpx.Timeout(PATIENCE)
        self.secrets[name] = made.headers["authorization"]
        return made

    def restart(self, number: int) -> None:
        """Stop the service in this way, and start the next one."""
        self.service.stop(number)
        self.client.close()
        self.other.close()
        self.service = Service(self.home)
        self.client, self.other = (
            httpx.Client(
                base_url=self.service.url, headers={"Authorization": secret}, timeout=PATIENCE, trust_env=False
            )
            for secret in self.secrets.values()
        )

    def get(self, url: str) -> Any:
        answer = self.client.get(url)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, url: str, body: Any = None, **headers: str) -> Any:
        answer = self.client.post(url, json=body, headers={k.replace("_", "-"): v for k, v in headers.items()})
        assert answer.status_code in (200, 202), answer.text
        if answer.status_code == 202:
            assert answer.headers["location"] == answer.json()["urls"]["self"]
        return answer.json()

    def end(self, job: Any) -> Any:
        """The job at its end, by its events."""
        last = list(self.service.stream(self.client, job["urls"]["events"]))[-1]
        assert last.event == "status"
        return last.data["job"]

    def run_of(self, job: Any) -> str:
        """The run that a job trains, once it does: its log says so."""
        for event in self.service.stream(self.client, job["urls"]["events"], Last_Event_ID="0"):
            if event.event == "log" and event.data["text"].startswith("run "):
                return str(event.data["text"][4:])
        raise AssertionError("it never began")

    def finished(self) -> str:
        """A run that is done, made once."""
        done = [run for run in self.get("/v1/runs")["items"] if run["status"] == "finished"]
        if not done:
            ended = self.end(self.post("/v1/runs", {**BODY, "name": "small"}))
            assert ended["status"] == "succeeded", ended
            return str(ended["result"]["run"])
        return str(done[-1]["name"])


@pytest.fixture(scope="module")
def house(toys: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:  # noqa: F811
    home = tmp_path_factory.mktemp("training") / "home"
    toy_package(home / "models")
    made = House(home)
    yield made
    made.client.close()
    made.other.close()
    made.service.stop()


@pytest.fixture(autouse=True)
def nothing_is_left(house: House) -> Iterator[None]:
    """Jobs of a test that failed hold up none of those after it."""
    yield
    for job in house.get("/v1/jobs")["items"]:
        if job["completed_at"] is None:
            house.post(f"/v1/jobs/{job['id']}/cancel")
            house.end(job)


def test_presets_say_what_can_be_set(house: House) -> None:
    page = house.get("/v1/presets")
    names = {one["name"]: one for one in page["items"]}
    assert names["vae-32-cpu"]["size"] == 32
    assert names["vae-32-cpu"]["tasks"] == ["generate", "interpolate", "invert", "morph"]
    assert names["vae-32-cpu"]["family"] == "vae" and names["vae-32-cpu"]["parameters"] > 10_000
    assert any(one["pairs"] for one in page["items"]) and set(page["families"]) >= {"vae", "flow", "stylegan2_ada"}
    one = house.get("/v1/presets/vae-32-cpu")
    assert {"width", "z"} <= set(one["settings_schema"]["properties"]) and one["settings"]["width"] > 0
    assert one["training_schema"]["properties"]["lr"]["maximum"] == 1 and one["training"]["batch"] > 0
    problem(house.client.get("/v1/presets/vae-33"), 404, "not_found")


def test_what_is_wrong_is_said_before_anything_starts(house: House) -> None:
    before = len(house.get("/v1/jobs")["items"])
    for change, status, says in (
        ({"preset": "vae-33"}, 404, "no preset"),
        ({"data": "blob"}, 404, "no data set"),
        ({"data": "../data/blobs"}, 404, "no data set"),
        ({"data": "/data/blobs"}, 404, "no data set"),
        ({"preset": "vae-64-cpu"}, 422, "made for"),
        ({"settings": {"widht": 3}}, 422, "widht"),
        ({"settings": {"lr": "fast"}}, 422, "lr"),
        ({"settings": {"lr": -1}}, 422, "lr"),
        ({"budget": 60.0}, 422, "one of budget and images"),
        ({"images": None}, 422, "one of budget and images"),
        ({"images": "400"}, 422, "integer"),
        ({"images": 0}, 422, "images"),
        ({"start": "/etc"}, 404, "no model and no run"),
        ({"start": str(house.home / "models" / "toy" / "1")}, 404, "no model and no run"),
        ({"start": "toy"}, 422, "own family"),
        ({"teacher": "/etc"}, 404, "no model and no run"),
        ({"teacher": "toy"}, 422, "learns from none"),
        ({"name": "../x"}, 422, "name"),
        ({"weights": "/etc/passwd"}, 422, "no such field"),
    ):
        for url in ("/v1/runs", "/v1/runs/estimate") if status == 404 and says == "no data set" else ("/v1/runs",):
            answer = house.client.post(url, json={**BODY, **change})
            assert answer.status_code == status and says in answer.json()["detail"], (change, answer.text)
    assert len(house.get("/v1/jobs")["items"]) == before and house.get("/v1/runs")["items"] == []


@pytest.mark.slow
def test_an_estimate_is_measured_here(house: House) -> None:
    found = house.post("/v1/runs/estimate", {**BODY, "images": None, "budget": 30.0})
    assert found["seconds"] == {"value": 30, "low": 30, "high": 30}
    for key in ("images", "rate", "wall_seconds"):
        assert 0 < found[key]["low"] <= found[key]["value"] <= found[key]["high"]
    assert found["images"]["value"] <= 30 * found["rate"]["value"] and found["wall_seconds"]["low"] > 30
    assert found["memory"] > 50 * 2**20 and found["device"] == "cpu" and found["threads"] == 1
    assert found["disk"]["enough"] and found["disk"]["needed"] > 10_000 and "steps timed here" in found["basis"]
    greedy = {"batch": 65536, "width": 1024, "width_max": 1024}
    answer = house.client.post("/v1/runs/estimate", json={**BODY, "settings": {**TINY, **greedy}})
    assert "too little memory" in problem(answer, 422, "config")["detail"]
    assert house.get("/v1/runs")["items"] == []


def test_a_studys_estimate_is_measured_here(house: House) -> None:
    """Of 60 images a checkpoint, two seeds of 60 on val and on test; of the two splits there are fewer than that."""
    asked = {**STUDY, "seeds": [0, 1], "budget": {"minutes": 2.0}}
    found = house.post("/v1/studies/estimate", asked)
    assert found["runs"] == 2 and found["training_seconds"] == {"value": 240, "low": 240, "high": 240}
    with house.service.environment():
        sizes = {split: stop - start for split, (start, stop) in open_set("blobs").bounds.items()}
    assert found["images"] == 2 * (min(60, sizes["val"]) * 3 + min(60, sizes.get("test", 0)) * 2)
    sampling, wall = found["sampling_seconds"], found["wall_seconds"]
    assert 0 < sampling["low"] <= sampling["value"] <= sampling["high"]
    assert wall["value"] > 240 + sampling["value"] and wall["high"] > 4 * wall["low"] / 1.5
    assert found["disk"]["enough"] and found["disk"]["needed"] > 2 * 10_000 and "on top" in found["basis"]
    many = {**asked, "presets": [{"preset": "vae-32-cpu", "label": f"vae {i}"} for i in range(41)]}
    assert "at most 40" in problem(house.client.post("/v1/studies/estimate", json=many), 422, "config")["detail"]
    problem(house.client.post("/v1/studies/estimate", json={**asked, "data": ["nope"]}), 404, "not_found")
    assert house.get("/v1/studies")["items"] == []


@pytest.mark.slow
def test_what_is_left_of_a_run_is_measured_here(house: House) -> None:
    """Of a finished one nothing but what it is extended by; of one that never began, all of it."""
    small, before = house.finished(), len(house.get("/v1/jobs")["items"])
    run = house.get(f"/v1/runs/{small}")
    found = house.post(f"/v1/runs/{small}/extend/estimate", {"seconds": 3.0})
    more = int(3 * run["images"] / run["seconds"])
    assert found["images"] == {"value": more, "low": more, "high": more}
    for key in ("rate", "seconds", "wall_seconds"):
        assert 0 < found[key]["low"] <= found[key]["value"] <= found[key]["high"]
    assert found["seconds"]["value"] > more / found["rate"]["high"] and found["memory"] > 50 * 2**20
    sizes, grids = [one["size"] for one in run["checkpoints"]], 2 - int(2 * run["total"] / (run["total"] + more))
    assert found["disk"]["needed"] == max(1, 3 - len(sizes)) * max(sizes) + grids * 8 * 10 * 34 * 34
    assert "steps timed here" in found["basis"] and "So far it has seen" in found["basis"]
    problem(house.client.post(f"/v1/runs/{small}/resume/estimate"), 409, "conflict")
    assert house.client.post(f"/v1/runs/{small}/extend/estimate", json={}).status_code == 422

    with house.service.environment():
        config = RunConfig.model_validate(run["config"] | {"images": 320})
        new = RunFolder.create(config, {"owner": owners.read(house.home / "runs" / small).encode()}, "new")
    found = house.post(f"/v1/runs/{new.id}/resume/estimate")
    assert found["images"]["value"] == 320 and "So far" not in found["basis"]
    assert found["disk"]["needed"] >= 3 * min(sizes) * 0.8
    problem(house.client.post(f"/v1/runs/{new.id}/extend/estimate", json={"seconds": 3.0}), 409, "conflict")
    assert len(house.get("/v1/jobs")["items"]) == before and house.get(f"/v1/runs/{small}") == run
    house.post(house.post(f"/v1/runs/{new.id}/resume")["urls"]["cancel"])


@pytest.mark.slow
def test_what_a_publication_takes_is_measured_here(house: House) -> None:
    name, before = house.finished(), len(house.get("/v1/jobs")["items"])
    url, body = f"/v1/runs/{name}/publish/estimate", {"name": "foretold", "samples": 30, "seeds": 2}
    found = house.post(url, body)
    assert found["images"] == 2 * 30 + 3 * 8 and found["jobs_ahead"] == 0
    for key in ("sampling_seconds", "looking_seconds", "wall_seconds"):
        assert 0 < found[key]["low"] <= found[key]["value"] <= found[key]["high"]
    assert found["wall_seconds"]["value"] > found["sampling_seconds"]["value"] + found["looking_seconds"]["value"]
    assert "come on top" in found["basis"] and found["disk"]["enough"]
    bare = house.post(url, {**body, "evaluate": False})
    assert bare["images"] == 24 and bare["looking_seconds"]["value"] == 0 and "on top" not in bare["basis"]
    assert 0 < bare["disk"]["needed"] < found["disk"]["needed"]
    assert "candidates" in house.post(url, {**body, "sweep": True, "samples": 60})["basis"]
    problem(house.client.post(url, json={"name": "../x"}), 422, "input")
    with house.service.bearer("train") as client:
        problem(client.post(url, json=body), 403, "forbidden")
    assert len(house.get("/v1/jobs")["items"]) == before
    problem(house.client.get("/v1/models/foretold"), 404, "not_found")


def test_what_the_disk_has_no_room_for_is_refused(house: House) -> None:
    name, before = house.finished(), len(house.get("/v1/jobs")["items"])
    newest = sorted((house.home / "runs" / name / "checkpoints").iterdir())[-1]
    file = newest / "ema.safetensors"
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.truncate(3 * shutil.disk_usage(house.home).free)
    try:
        for url, body in (("extend", {"images": 8}), ("publish", {"name": "vast"})):
            found = problem(house.client.post(f"/v1/runs/{name}/{url}", json=body), 507, "storage")
            assert "MiB free on the disk" in found["detail"] and "Nothing was started" in found["detail"]
    finally:
        with file.open("r+b") as opened:
            opened.truncate(size)
    record = house.home / "data" / "blobs" / "data.json"
    told = record.read_text()
    about = json.loads(told)
    about["bounds"]["train"] = [0, shutil.disk_usage(house.home).free]
    record.write_text(json.dumps(about))
    try:
        answer = house.client.post("/v1/evaluations", json={"run": name, "metrics": ["copies"]})
        problem(answer, 507, "storage")
    finally:
        record.write_text(told)
    assert len(house.get("/v1/jobs")["items"]) == before


def test_a_run_from_its_start_to_its_model(house: House) -> None:
    job = house.post("/v1/runs", {**BODY, "name": "small"}, Idempotency_Key="one")
    assert house.post("/v1/runs", {**BODY, "name": "small"}, Idempotency_Key="one")["id"] == job["id"]
    events = list(house.service.stream(house.client, job["urls"]["events"], Last_Event_ID="0"))
    ended = events[-1].data["job"]
    assert ended["status"] == "succeeded" and ended["kind"] == "train", ended
    assert [event.id for event in events] == sorted({event.id for event in events})
    name = ended["result"]["run"]
    assert name.endswith("-small") and f"run {name}" in [e.data["text"] for e in events if e.event == "log"]

    run = house.get(f"/v1/runs/{name}")
    assert (run["status"], run["images"], run["total"], run["data"]) == ("finished", 400, 400, "blobs")
    assert run["urls"]["job"] is None and run["config"]["config"]["width"] == 8 and run["config"]["train"]["batch"] == 8
    assert [c["images"] for c in run["checkpoints"]][-1] == 400 and run["checkpoints"][-1]["size"] > 10_000
    stats = house.get(f"/v1/runs/{name}/stats")
    assert stats["items"] and stats["next_after"] is None and all(line["images"] <= 400 for line in stats["items"])
    assert any(len(line) > 2 for line in stats["items"])
    assert house.get(f"/v1/runs/{name}/stats?after=400")["items"] == []
    assert len(house.get(f"/v1/runs/{name}/stats?limit=1")["items"]) == 1
    assert [grid["images"] for grid in run["grids"]] == [200, 400]
    picture = house.client.get(run["grids"][0]["url"])
    assert picture.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(picture.content)).size == (8 * 34 + 2, 3 * 34 + 2)
    problem(house.client.get(f"/v1/runs/{name}/grids/7.png"), 404, "not_found")
    problem(house.client.post(f"/v1/runs/{name}/pause"), 409, "conflict")
    problem(house.client.post(f"/v1/runs/{name}/resume"), 409, "conflict")

    publication = house.post(f"/v1/runs/{name}/publish", {"name": "blobs", "evaluate": False, "licence": "CC0-1.0"})
    made = house.end(publication)
    assert made["status"] == "succeeded" and made["result"]["model"] == "blobs@1", made
    model = house.get("/v1/models/blobs")
    assert model["licence"] == "CC0-1.0" and model["classes"] == ["a", "b", "c"]
    with house.service.bearer("train") as client:
        problem(client.post(f"/v1/runs/{name}/publish", json={"name": "blobs"}), 403, "forbidden")

    further = house.end(house.post("/v1/runs", {**BODY, "start": name, "images": 16}))["result"]["run"]
    mean = {"name": "mean", "evaluate": False, "precision": "fp32", "average": [further]}
    assert house.end(house.post(f"/v1/runs/{name}/publish", mean))["status"] == "succeeded"
    card = json.loads((house.home / "models" / "mean" / "1" / "card.json").read_text())
    assert card["averaged"] == [name, further]
    problem(house.client.post(f"/v1/runs/{name}/publish", json={**mean, "average": [name]}), 422, "config")


@pytest.mark.slow
def test_pause_resume_and_extend(house: House) -> None:
    job = house.post("/v1/runs", LONG)
    name = house.run_of(job)
    run = wait(lambda: house.get(f"/v1/runs/{name}") if house.get(f"/v1/runs/{name}")["images"] else None)
    assert run["status"] == "running" and run["urls"]["job"] == job["urls"]["self"]
    problem(house.client.post(f"/v1/runs/{name}/extend", json={"images": 5}), 409, "conflict")
    problem(house.client.post(f"/v1/runs/{name}/resume"), 409, "conflict")
    problem(house.client.post(f"/v1/runs/{name}/resume/estimate"), 409, "conflict")
    problem(house.client.delete(f"/v1/runs/{name}"), 409, "conflict")
    problem(house.client.delete(f"/v1/jobs/{job['id']}"), 409, "conflict")
    assert house.post(f"/v1/runs/{name}/pause")["status"] == "canceling"
    assert house.end(job)["status"] == "canceled"
    paused = house.get(f"/v1/runs/{name}")
    assert paused["status"] == "paused" and 0 < paused["images"] < 10**7 and paused["urls"]["job"] is None
    again = house.post(f"/v1/runs/{name}/pause")  # a client that heard nothing of the first asks again
    assert (again["id"], again["status"]) == (job["id"], "canceled")

    resumed = house.post(f"/v1/runs/{name}/resume")
    wait(lambda: house.get(f"/v1/runs/{name}")["images"] > paused["images"])
    house.post(f"/v1/jobs/{resumed['id']}/cancel")
    assert house.end(resumed)["status"] == "canceled"
    assert house.client.delete(f"/v1/runs/{name}").status_code == 204
    problem(house.client.get(f"/v1/runs/{name}"), 404, "not_found")
    assert not list((house.home / "runs").glob(f"*{name}*"))

    small = house.finished()
    for wrong in ({}, {"images": 1, "seconds": 1.0}, {"images": -1}, {"images": "9"}):
        assert house.client.post(f"/v1/runs/{small}/extend", json=wrong).status_code == 422
    before = house.get(f"/v1/runs/{small}")
    asked = house.post(f"/v1/runs/{small}/extend", {"images": 80}, Idempotency_Key="more")
    assert house.post(f"/v1/runs/{small}/extend", {"images": 80}, Idempotency_Key="more")["id"] == asked["id"]
    ended = house.end(asked)
    assert ended["result"]["images"] == before["total"] + 80 and ended["result"]["run"] == small
    assert house.post(f"/v1/runs/{small}/extend", {"images": 80}, Idempotency_Key="more")["id"] == asked["id"]
    after = house.get(f"/v1/runs/{small}")
    assert (after["total"], after["config"]["extended"]) == (before["total"] + 80, [before["total"]])
    longer = house.post(f"/v1/runs/{small}/extend", {"seconds": 2.0})
    house.post(longer["urls"]["cancel"])
    assert longer["request"]["images"] == after["total"] + int(2 * after["images"] / after["seconds"])
    house.end(longer)


@pytest.mark.slow
def test_a_killed_service_and_a_killed_job_lose_nothing(house: House) -> None:
    """kill -9 of the service, then of the job's own process: the run goes on where it was, and is one run."""
    body = {**BODY, "images": 6000, "name": "killed"}
    before = len(house.get("/v1/runs")["items"])
    job = house.post("/v1/runs", body)
    name = house.run_of(job)
    wait(lambda: house.get(f"/v1/runs/{name}")["images"])
    house.restart(signal.SIGKILL)
    found = house.get(job["urls"]["self"])
    assert found["status"] in ("running", "queued"), "make the training longer"
    if not (seen := house.get(f"/v1/runs/{name}")["images"]) >= 6000:
        wait(lambda: house.get(f"/v1/runs/{name}")["images"] > seen)
        for process in psutil.Process(house.service.process.pid).children(recursive=True):
            if "kartina.handlers.child" in process.cmdline():
                process.kill()
    assert house.end(job)["status"] == "succeeded"
    run = house.get(f"/v1/runs/{name}")
    assert (run["status"], run["images"]) == ("finished", 6000)
    assert len(house.get("/v1/runs")["items"]) == before + 1
    images = [line["images"] for line in house.get(f"/v1/runs/{name}/stats")["items"]]
    assert images == sorted(images)


@pytest.mark.slow
def test_evaluations_have_a_cards_shape(house: House) -> None:
    name = house.finished()
    for body, status in (
        ({}, 422), ({"run": name, "model": "toy"}, 422), ({"run": "../x"}, 404), ({"model": "/x"}, 404),
        ({"run": name, "extractor": "mobilenet"}, 422), ({"run": name, "weights": "/x"}, 422),
        ({"run": name, "metrics": ["beauty"]}, 422), ({"run": name, "data": "nope"}, 404),
        ({"run": name, "samples": 0}, 422),
    ):  # fmt: skip
        answer = house.client.post("/v1/evaluations", json=body)
        assert answer.status_code == status, (body, answer.text)
    job = house.post("/v1/evaluations", {"run": name, "samples": 30, "seeds": 2, "metrics": ["class_agreement", "fd"]})
    ended = house.end(job)
    assert ended["status"] == "succeeded", ended
    metrics = ended["result"]["metrics"]
    assert set(metrics) == {"class_agreement", "fd"} and ended["result"]["data"] == "blobs"
    assert set(metrics["fd"]) >= {"value", "interval", "floor", "identity"} and metrics["fd"]["value"] > 0
    assert len(ended["result"]["per_class"]) == 3


@pytest.mark.slow
def test_an_evaluations_estimate_is_measured_here(house: House) -> None:
    """More samples take more; a classifier that is to be trained is said, and nothing is made."""
    body = {"run": house.finished(), "samples": 30, "seeds": 2, "metrics": ["class_agreement", "copies"]}
    shutil.rmtree(house.home / "cache" / "classifiers", ignore_errors=True)  # of tests before this one
    found = house.post("/v1/evaluations/estimate", body)
    with house.service.environment():
        held = open_set("blobs").part("val")
    assert found["images"] == 2 * min(30, len(held)) and found["jobs_ahead"] == 0
    for key in ("sampling_seconds", "looking_seconds", "wall_seconds"):
        assert 0 < found[key]["low"] <= found[key]["value"] <= found[key]["high"]
    assert found["wall_seconds"]["value"] > found["sampling_seconds"]["value"] + found["looking_seconds"]["value"]
    assert found["disk"]["enough"] and found["disk"]["needed"] > 100_000 and "Distances come on top" in found["basis"]
    assert "no classifier yet" in found["basis"] and not (house.home / "cache" / "classifiers").exists()
    for change, status, says in (
        ({"run": "0999-x"}, 404, "no run"), ({"data": "nope"}, 404, "no data set"),
        ({"data": "digits"}, 422, "data of"), ({"samples": 3}, 422, "3 reference images"),
        ({"model": "toy"}, 422, "one of model and run"),
    ):  # fmt: skip
        answer = house.client.post("/v1/evaluations/estimate", json={**body, **change})
        assert answer.status_code == status and says in answer.json()["detail"], (change, answer.text)


@pytest.mark.slow
def test_a_study_from_its_plan_to_its_model(house: House) -> None:
    for change in ({"name": "../x"}, {"data": ["nope"]}, {"presets": [{"preset": "vae-33"}]}, {"colour": "red"},
                   {"evaluation": {"extractor": "mobilenet", "weights": "/etc/passwd"}},
                   {"evaluation": {"weights": "/etc/passwd"}}, {"device": "/dev/null"}, {"seeds": ["0"]}):  # fmt: skip
        answer = house.client.post("/v1/studies", json={**STUDY, **change})
        assert answer.status_code in (404, 422), (change, answer.text)
    assert house.get("/v1/studies")["items"] == []
    job = house.post("/v1/studies", STUDY, Idempotency_Key="study")
    assert house.post("/v1/studies", STUDY, Idempotency_Key="study")["id"] == job["id"]
    problem(house.client.post("/v1/studies", json=STUDY), 409, "conflict")
    problem(house.client.get("/v1/studies/small/report.html"), 409, "conflict")
    problem(house.client.post("/v1/studies/small/publish", json={}), 409, "conflict")
    shown = house.get("/v1/studies/small")
    assert shown["spec"]["budget"]["images"] == 128 and len(shown["trials"]) == 1 and not shown["complete"]
    canceled = house.end(house.post("/v1/studies/small/cancel"))
    assert canceled["status"] == "canceled" == house.post("/v1/studies/small/cancel")["status"]
    plan = house.home / "studies" / "small" / "plan.json"
    told = plan.read_text()
    vast = json.loads(told)
    vast["study"] |= {"settings": {"grids": 10_000}, "seeds": list(range(10_000))}
    plan.write_text(json.dumps(vast))
    refused = problem(house.client.post("/v1/studies/small/resume"), 507, "storage")
    assert "MiB free on the disk" in refused["detail"]
    plan.write_text(told)
    left = house.post("/v1/studies/small/resume/estimate")
    assert left["runs"] == 1 and left["images"] > 60 and left["training_seconds"]["value"] > 0
    assert left["disk"]["enough"] and left["wall_seconds"]["value"] > left["sampling_seconds"]["value"]
    problem(house.client.post("/v1/studies/small/publish/estimate", json={}), 409, "conflict")
    ended = house.end(house.post("/v1/studies/small/resume"))
    assert ended["status"] == "succeeded" and ended["result"]["runs"]["finished"] == 1, ended

    (listed,) = house.get("/v1/studies")["items"]
    assert listed["complete"] and listed["runs"]["finished"] == 1 and listed["urls"]["job"] is None
    shown = house.get("/v1/studies/small")
    (entry,) = shown["table"][0]["entries"]
    assert entry["val"]["kid"]["value"] is not None and shown["choice"]["blobs"]["winner"] == entry["key"]
    page = house.client.get("/v1/studies/small/report.html")
    assert page.headers["content-type"].startswith("text/html") and "<script" not in page.text
    policy = page.headers["content-security-policy"]
    assert "sandbox" in policy and "allow-" not in policy and "default-src 'none'" in policy
    assert "script-src" not in policy and "img-src data:;" in policy and 'src="data:image/png' in page.text
    assert "img-src" not in house.client.get("/v1/studies/small/report.json").headers["content-security-policy"]
    assert house.client.get("/v1/studies/small/report.json").json()["complete"]
    assert house.client.get("/v1/studies/small/report.csv").text.startswith("data,split,")
    problem(house.client.get("/v1/studies/small/report.exe"), 422, "input")
    rest = house.post("/v1/studies/small/resume/estimate")
    assert (rest["runs"], rest["images"], rest["disk"]["needed"]) == (0, 0, 0)
    publication = house.post("/v1/studies/small/publish/estimate", {"name": "winner"})
    assert publication["images"] > 60 and publication["disk"]["enough"] and publication["disk"]["needed"] > 10_000
    problem(house.client.post("/v1/studies/small/publish/estimate", json={"data": "nope"}), 404, "not_found")
    problem(house.client.post("/v1/studies/small/publish", json={"data": "nope"}), 404, "not_found")
    made = house.end(house.post("/v1/studies/small/publish", {"name": "winner"}))
    assert made["status"] == "succeeded" and made["result"]["published"][0]["ref"] == "winner@1", made
    assert house.get("/v1/models/winner")["metrics"]
    nothing = house.post("/v1/studies/small/publish/estimate", {"name": "winner"})
    assert nothing["images"] == 0 == nothing["disk"]["needed"] and "published already" in nothing["basis"]


def test_what_is_anothers_is_not_there(house: House) -> None:
    name = house.finished()
    for client in (house.other, house.service.client):
        problem(client.post("/v1/runs", json=BODY), 404, "not_found")  # not its data either
        problem(client.post("/v1/runs/estimate", json=BODY), 404, "not_found")
        for role in ("start", "teacher"):
            problem(client.post("/v1/runs", json={**BODY, "data": "digits", role: name}), 404, "not_found")
        for method, url, body in (
            ("GET", f"/v1/runs/{name}", None), ("GET", f"/v1/runs/{name}/stats", None),
            ("GET", f"/v1/runs/{name}/grids/200.png", None), ("POST", f"/v1/runs/{name}/pause", None),
            ("POST", f"/v1/runs/{name}/resume", None), ("POST", f"/v1/runs/{name}/extend", {"images": 1}),
            ("POST", f"/v1/runs/{name}/resume/estimate", None),
            ("POST", f"/v1/runs/{name}/extend/estimate", {"images": 1}),
            ("POST", f"/v1/runs/{name}/publish/estimate", {"name": "x"}),
            ("DELETE", f"/v1/runs/{name}", None), ("POST", f"/v1/runs/{name}/publish", {"name": "x"}),
            ("POST", "/v1/evaluations", {"run": name}), ("POST", "/v1/evaluations/estimate", {"run": name}),
        ):  # fmt: skip
            there = client.request(method, url, json=body)
            never = client.request(method, url.replace(name, "0999-x"), json={**body, "run": "0999-x"}
                                   if body and "run" in body else body)  # fmt: skip
            assert there.status_code == never.status_code == 404, (method, url, there.text)
            assert there.json()["detail"].replace(name, "0999-x") == never.json()["detail"]
        assert client.get("/v1/runs").json()["items"] == [] == client.get("/v1/studies").json()["items"]
        assert not [job for job in client.get("/v1/jobs").json()["items"] if job["request"].get("run") == name]
    every, page = [], house.get("/v1/runs?limit=1")
    while True:
        assert len(page["items"]) == 1
        every += page["items"]
        if page["next_cursor"] is None:
            break
        page = house.get(f"/v1/runs?limit=1&cursor={page['next_cursor']}")
    assert every == house.get("/v1/runs")["items"] and name in [run["name"] for run in every]
