"""Alive, ready, measured, logged: what whoever runs the service sees of it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from kartina.services.metrics import Metrics
from kartina.serving.protocol import MODELS
from tests.engine import toy_package
from tests.service import Service


@pytest.fixture(scope="module")
def service(alone: Service) -> Service:
    return alone


def scrape(client: httpx.Client) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Samples of /metrics: (name, labels) -> value."""
    answer = client.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
    families = text_string_to_metric_families(answer.text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def lines(service: Service, **wanted: Any) -> Iterator[dict[str, Any]]:
    """Lines of the log that have these fields, the last first."""
    for text in reversed(service.errors().splitlines()):
        if text.startswith("{"):
            line = json.loads(text)
            if all(line.get(key) == value for key, value in wanted.items()):
                yield line


def line(service: Service, **wanted: Any) -> dict[str, Any]:
    """The last such line, as soon as there is one."""
    for _ in range(100):
        if found := next(lines(service, **wanted), None):
            return found
        time.sleep(0.1)
    raise AssertionError(f"no line with {wanted} in {service.errors()[-2000:]}")


def test_metrics_tell_what_was_done(service: Service) -> None:
    service.wait_ready()
    with service.bearer("metrics") as prometheus, service.bearer("generate") as robot:
        before = scrape(prometheus)
        job = robot.post("/v1/generations", json={"model": "toy", "n": 5, "seed": 77}, headers={"Prefer": "wait=30"})
        assert job.json()["status"] == "succeeded"
        for path in ("/v1/models", "/v1/models/toy", "/v1/models/none", "/v1/nothing/at/all", "/nothing.js"):
            robot.get(path)
        slow = service.generate(wait=None, n=1, seed=1, controls={"steps": 60, "delay": 0.1})
        stream = service.events(slow["id"])
        next(stream)
        after = scrape(prometheus)
        service.client.post(f"/v1/generations/{slow['id']}/cancel")
        list(stream)

        def grown(name: str, **labels: str) -> float:
            key = (name, tuple(sorted(labels.items())))
            return after[key] - before.get(key, 0.0)

        assert grown("kartina_images_total", model="toy@1") == 5
        assert grown("kartina_generations_total", model="toy@1", status="succeeded") == 1
        assert grown("kartina_generation_seconds_count", model="toy@1") == 1
        of = dict(device="cpu", model="toy@1")
        assert grown("kartina_engine_images_total", **of) == 5
        assert grown("kartina_engine_batch_rows_count", **of) >= 4  # steps
        assert grown("kartina_engine_batch_rows_sum", **of) >= 20  # images x steps
        assert grown("kartina_engine_step_seconds_sum", **of) > 0
        models = dict(method="GET", route="/v1/models/{ref}")
        assert grown("kartina_http_requests_total", **models, status="200") == 1
        assert grown("kartina_http_requests_total", **models, status="404") == 1
        assert grown("kartina_http_requests_total", method="POST", route="/v1/generations", status="200") == 1
        assert after["kartina_event_streams", ()] == 1 and after["kartina_queue_images", ()] == 1
        assert after["kartina_worker_up", ()] == 1
        cpu = (("device", "cpu"),)
        assert after["kartina_engine_resident_models", cpu] == 1
        assert after["kartina_engine_resident_bytes", (*cpu, ("model", "toy@1"))] > 0
        assert after["process_resident_memory_bytes", ()] > 10e6
        assert after["kartina_worker_resident_memory_bytes", cpu] > 50e6
        assert after["kartina_jobs", (("status", "queued"),)] == 0
        assert scrape(prometheus)["kartina_event_streams", ()] == 0
        assert grown("kartina_http_request_seconds_count", route="/v1/models") == 1


@pytest.mark.slow
def test_a_worker_for_each_device(toys: None, tmp_path: Path) -> None:
    """Two workers that share this CPU, as two GPUs would have one each: both make images, each is counted apart."""
    toy_package(tmp_path / "home" / "models")
    service = Service(tmp_path / "home", "--no-jobs", "--device", "cpu,cpu")
    try:
        service.wait_ready()
        jobs = [service.generate(wait=None, n=24, seed=100 * i, controls={"steps": 4, "delay": 0.02}) for i in range(4)]
        for job in jobs:
            assert list(service.events(job["id"]))[-1].data["job"]["status"] == "succeeded"
        found = scrape(service.client)
        images = "kartina_engine_images_total"
        made = [found[images, (("device", name), ("model", "toy@1"))] for name in ("cpu", "cpu 2")]
        assert sum(made) == 96 and min(made) >= 24
        assert found["kartina_worker_up", ()] == 2
        workers = {dict(labels)["worker"] for name, labels in found if name == "kartina_worker_restarts_total"}
        assert {"sampling_0", "sampling_1"} <= workers
    finally:
        service.stop()


def test_labels_are_few_whatever_is_asked(service: Service) -> None:
    from kartina.api.openapi import document

    with service.anonymous() as client:
        for i in range(150):
            client.request("GET", f"/v1/models/x{i}?q={i}")
            client.request(f"METHOD{i}", f"/page/{i}")
    found = scrape(service.client)
    labels = [dict(key) for name, key in found if name == "kartina_http_requests_total"]
    assert {one["route"] for one in labels} <= {*document()["paths"], "page", "none"}
    assert {one["method"] for one in labels} <= {"GET", "POST", "PATCH", "DELETE", "PUT", "HEAD", "OPTIONS", "other"}
    metrics = Metrics()
    for i in range(MODELS + 50):
        metrics.made(f"model{i}@1", 1)
    series = [s for family in metrics.registry.collect() for s in family.samples if s.name == "kartina_images_total"]
    assert len(series) == MODELS + 1
    assert next(s.value for s in series if s.labels["model"] == "other") == 50


def test_a_request_is_followed_by_its_id_through_every_process(service: Service) -> None:
    with service.bearer("generate") as robot:
        secret = robot.headers["authorization"].partition(" ")[2]
        told = {"X-Request-ID": "trace-1.A_b", "Prefer": "wait=30"}
        made = robot.post("/v1/generations", json={"model": "toy", "seed": 4711}, headers=told)
        assert made.headers["x-request-id"] == "trace-1.A_b" and made.json()["status"] == "succeeded"
        access = line(service, event="request", request_id="trace-1.A_b")
        assert (access["method"], access["route"], access["status"]) == ("POST", "/v1/generations", 200)
        assert access["ms"] > 0 and access["key"] == secret[:15] and access["level"] == "info"
        worker = line(service, event="request_ended", request_id="trace-1.A_b")
        assert (worker["id"], worker["end"], worker["rows"]) == (made.json()["id"], "finished", 1)
        failed = robot.post("/v1/generations", json={"model": "none"}, headers={"X-Request-ID": "b"})
        assert failed.json()["request_id"] == failed.headers["x-request-id"] == "b"
        broken = {"model": "toy", "controls": {"trouble": "step"}}
        robot.post("/v1/generations", json=broken, headers={"X-Request-ID": "c", "Prefer": "wait=30"})
        assert line(service, event="request_ended", request_id="c")["end"] == "failed"
        for bad in ("a b", "x" * 65, "ключ".encode(), "{}", ""):
            other = robot.get("/v1/models", headers={"X-Request-ID": bad})
            assert other.headers["x-request-id"].startswith("req_")
    log = service.errors()
    assert secret not in log and service.token not in log
    assert next(lines(service, event="request", route="/v1/keys"))["key"] == "local"


def test_not_ready_while_there_is_no_worker(service: Service) -> None:
    with service.anonymous() as client:
        service.wait_ready()
        restarts = ("kartina_worker_restarts_total", (("worker", "sampling"),))
        before = scrape(service.client)[restarts]
        pid = next(pid for pid in service.children() if b"serving.worker" in _command(pid))
        os.kill(pid, signal.SIGKILL)
        answers = []
        for _ in range(200):
            answers.append(client.get("/readyz"))
            if answers[-1].status_code == 503:
                break
            time.sleep(0.01)
        assert answers[-1].status_code == 503, "it was never seen down"
        assert answers[-1].json()["code"] == "unavailable" and "retry-after" in answers[-1].headers
        assert client.get("/healthz").status_code == 200  # alive all the same
        down = scrape(service.client)
        assert down["kartina_worker_up", ()] == 0 or down[restarts] == before + 1
        service.wait_ready()
        assert scrape(service.client)[restarts] == before + 1
    assert service.generate(seed=5)["status"] == "succeeded"


def _command(pid: int) -> bytes:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read()
